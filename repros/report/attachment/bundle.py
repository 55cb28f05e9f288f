"""The attachment of a trial: a script of one file, a comment ready to paste, and the evidence; a folder and a zip."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from packaging.version import InvalidVersion, Version

from repros import cases, files
from repros.case import Condition
from repros.cases import Entry, sources
from repros.errors import UserError, nearest
from repros.redaction.redact import Redactor
from repros.report import onefile, standing
from repros.report.attachment import packing, plot, snapshots, tried
from repros.report.attachment.comment import NOTHING, comment
from repros.report.attachment.packing import Bundle
from repros.report.attachment.tried import Evidence
from repros.run import results
from repros.run.results import Record
from repros.verdict import Verdict

#: The script of one trial, and the witness.
FULL, WITNESS = "full.py", "minimal.py"


#: Of these files of a bundle none is left out of its zip.
NEEDED = (WITNESS, FULL, "comment.md", "requirements.txt", "timeline.png", "timeline.svg")
#: A trial, the records that it stands among, its case, their runs, and what to know of these.
_Found = tuple[Record, list[Record], Entry, Sequence[Path], list[str]]
#: Which trial of several is shown, by its verdict.
ORDER = (Verdict.REPRODUCED, Verdict.ABSENT)


def choose(records: Sequence[Record], entry: Entry, cell: str | None, condition: str | None, where: str) -> Record:
    """Return the trial that is meant; UserError if there is none.

    Of several: reproduced before absent; under a condition that has a witness of its own, which leads the attachment;
    in the newest release of the package that its windows name (the report's, where they name it), then of the others.
    """
    if condition:
        entry.condition(condition)
    mine = [record for record in records if record.case == entry.name]
    fit = [r for r in mine if cell in (None, r.cell) and condition in (None, r.condition) and r.arms]
    for wanted in (*ORDER, None):
        if found := [record for record in fit if wanted in (None, record.verdict)]:
            return max(found, key=lambda record: (led(record, entry) > 0, release(record, entry)))
    asked = "".join([f" [{condition}]" if condition else "", f" in {cell}" if cell else ""])
    cells = list(dict.fromkeys(record.cell for record in mine))
    raise UserError(
        f"{where}: no trial of {entry.name}{asked} with arms to show",
        nearest(cell, cells)
        if cell and cells and cell not in cells
        else f"it has {entry.name} in {', '.join(cells)}"
        if cells
        else "name a run with `--run`, or make one with `python -m repros run`",
    )


def choose_of(
    records: Sequence[Record], entries: Sequence[Entry], cell: str | None, condition: str | None, where: str
) -> tuple[Record, Entry]:
    """Return the trial that is meant of several cases, and its case: reproduced if one is, and led by a witness."""
    seen = {record.case for record in records}
    found, refused = [], []
    for entry in [e for e in entries if e.name in seen] or entries[:1]:
        try:
            found.append((choose(records, entry, cell, condition, where), entry))
        except UserError as error:
            refused.append(error)
    if not found:
        raise refused[0]
    order = [*ORDER, *(verdict for verdict in Verdict if verdict not in ORDER)]
    return min(found, key=lambda one: (order.index(one[0].verdict), -led(*one)))


def release(record: Record, entry: Entry) -> list[Version]:
    """Return what orders trials by release: of the package that decides, then of each axis."""
    condition, package = declared(record, entry), entry.case.package
    first = tried.deciding(condition.affected if condition else (), package)[:1]
    found = []
    for name in (*(first or [package]), *standing.AXES):
        try:
            found.append(Version(record.versions.get(name, "0")))
        except InvalidVersion:
            found.append(Version("0"))
    return found


def led(record: Record, entry: Entry) -> int:
    """Return 2 if the report's first witness is that of a trial's condition, 1 if another is, 0 if none is."""
    condition = declared(record, entry)
    witness = condition and cases.witness_of(entry.path, condition)
    if not (condition and witness and cases.is_own(witness, entry.path, condition)):
        return 0
    return 2 if witness.name == WITNESS else 1


def declared(record: Record, entry: Entry) -> Condition | None:
    """Return a trial's condition as its case declares it now; None if it does no more."""
    return next((one for one in entry.case.conditions if one.name == record.condition), None)


def look(places: Iterable[Sequence[Path]], entries: Sequence[Entry], cell: str | None, condition: str | None) -> _Found:
    """Find the trial that is meant in the first of these groups of runs that has one; UserError of the last, if none.

    A trial of a case that was edited since counts only where no run has a newer one (see `compare`).

    Return it with the records that it stands among, its case, its group, and what to know of them: which runs could
    not be read, and how many have no such trial.
    """
    unread, lacking, stale = list[UserError](), list[UserError](), list[_Found]()
    digests = {entry.name: sources.digest(entry.module) for entry in entries}
    for folders in places:
        try:
            records, notices = results.load_all(folders)
        except UserError as error:
            unread.append(error)
            continue
        where = ", ".join(results.shown(folder) for folder in folders)
        now = [one for one in records if one.source in ("", digests.get(one.case, one.source))]
        try:
            found, entry = choose_of(now, entries, cell, condition, where)
        except UserError as error:
            lacking.append(error)
            with contextlib.suppress(UserError):
                found, entry = choose_of(records, entries, cell, condition, where)
                stale.append((found, records, entry, folders, notices))
            continue
        said = [*(error.what for error in unread), *(error.what for error in lacking[:1])]
        said += [f"nor in {len(lacking) - 1} older runs"] if len(lacking) > 1 else []
        return found, records, entry, folders, [*said, *notices]
    if stale:
        return stale[0]
    raise (lacking or unread)[-1]


def compare(record: Record, entry: Entry) -> None:
    """Raise UserError where the case was edited since the trial; without a note of its source, that cannot be told."""
    if record.source and record.source != sources.digest(entry.module):
        path, edited = sources.last_edited(entry.module)
        raise UserError(
            f"{entry.name} [{record.condition}] in {record.cell}: tried {record.date}, "
            f"and its source was edited since: {path} is of {edited}",
            f"try it again with `{record.repeat}`, or check out the source that it was tried with",
        )


def make(
    record: Record, run: Sequence[Record], entry: Entry, folder: Path, redactor: Redactor, logs: Path,
    *, force: bool = False, evidence: Evidence = NOTHING,
) -> Bundle:  # fmt: skip
    """Write the bundle of one trial; ``run`` are the records that it is shown among, ``logs`` its run's folder.

    The witness is the first file, where the report has one.
    """
    compare(record, entry)
    mine = [other for other in run if other.case == record.case]

    def fill(out: files.Folder) -> None:
        writer = onefile.Writer(redactor)
        text, pins = writer.of(record, entry).text(), writer.pins_of(record.environment)
        witness = cases.witness_of(entry.path, entry.condition(record.condition))
        script = witness_text(witness, writer) if witness else ""
        if script:
            out.write(WITNESS, script)
        out.write(FULL, text)
        out.write("requirements.txt", "\n".join(pins.requirements) + "\n")
        lines = [json.dumps(redactor.value(json.loads(one.to_line()))) + "\n" for one in mine]
        out.write(results.RESULTS, "".join(lines))
        drawn = plot.draw(record, out.staging, redactor)
        histories = further(record, logs, out.staging, redactor)
        text = comment(
            record, mine, entry, redactor,
            plotted=bool(drawn), histories=histories, evidence=evidence, witness=witness, script=script,
        )  # fmt: skip
        out.write("comment.md", text)

    return packing.write(folder, fill, NEEDED, force=force)


def witness_text(witness: Path, writer: onefile.Writer) -> str:
    """Return a witness as it is attached, under one name for all; UserError where it would tell a secret."""
    text = witness.read_text(encoding="utf-8").replace(witness.name, WITNESS)
    writer.look(results.shown(witness), text)
    return text


def further(record: Record, run: Path, folder: Path, redactor: Redactor) -> list[str]:
    """Take along what a run's folder has of this trial: logs, and snapshots of the allocator; return these' names.

    A link in it is not followed, neither as a file nor as a folder: it may lead to anything of this machine.
    """
    prefix = f"{record.cell}.{record.case}.{record.condition}."
    found = []
    for path in sorted(run.glob("*/*") if run.is_dir() else ()):
        if path.is_symlink() or path.parent.is_symlink() or not path.is_file() or not path.name.startswith(prefix):
            continue
        target = folder / path.parent.name / redactor.text(path.name)
        target.parent.mkdir(exist_ok=True)
        if path.suffix == ".pickle":
            target.write_bytes(snapshots.redacted(path, redactor))
            found.append(target.relative_to(folder).as_posix())
        else:
            packing.take_log(path, target, redactor)
    return found
