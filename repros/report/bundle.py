"""The attachment of a trial: a script of one file, a comment ready to paste, and the evidence; a folder and a zip."""

from __future__ import annotations

import json
import os
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from packaging.version import InvalidVersion, Version

from repros import files
from repros.cases import Entry, sources
from repros.errors import UserError
from repros.redaction.redact import Redactor
from repros.report import escape, onefile, plot, snapshots, standing
from repros.run import results
from repros.run.results import Record
from repros.verdict import Verdict, apart, multiple, show

#: What GitHub takes: characters of a comment, bytes of an attached zip.
COMMENT_CHARACTERS = 65_536
ZIP_BYTES = 25 << 20
#: Rows of a comment's list of tensors.
TENSORS = 8
WHAT = {
    "subject": "the installed packages, untouched",
    "reference": "a fixed implementation, plain torch",
    "planted": "the reference with the reported bug put in on purpose",
    "proposed": "the subject with the proposed fix",
}


@dataclass(frozen=True)
class Bundle:
    """What was made: its folder and zip, and what was left out of the zip because of its size."""

    folder: Path
    zip: Path
    left_out: Sequence[str]


#: Which trial of several is shown, by its verdict.
ORDER = (Verdict.REPRODUCED, Verdict.ABSENT)


def choose(records: Sequence[Record], entry: Entry, cell: str | None, condition: str | None, where: str) -> Record:
    """Return the trial that is meant; UserError if there is none.

    Of several: reproduced before absent, in the newest release of the case's package, then of the other packages.
    """
    if condition:
        entry.condition(condition)
    mine = [record for record in records if record.case == entry.name]
    fit = [r for r in mine if cell in (None, r.cell) and condition in (None, r.condition) and r.arms]
    for wanted in (*ORDER, None):
        if found := [record for record in fit if wanted in (None, record.verdict)]:
            return max(found, key=lambda record: release(record, entry.case.package))
    asked = "".join([f" [{condition}]" if condition else "", f" in {cell}" if cell else ""])
    cells = ", ".join(dict.fromkeys(record.cell for record in mine))
    raise UserError(
        f"{where}: no trial of {entry.name}{asked} with arms to show",
        f"it has {entry.name} in {cells}"
        if cells
        else "name a run with `--run`, or make one with `python -m repros run`",
    )


def choose_of(
    records: Sequence[Record], entries: Sequence[Entry], cell: str | None, condition: str | None, where: str
) -> tuple[Record, Entry]:
    """Return the trial that is meant of several cases, and its case: of one in which it is reproduced, if there is."""
    tried = {record.case for record in records}
    found, refused = [], []
    for entry in [e for e in entries if e.name in tried] or entries[:1]:
        try:
            found.append((choose(records, entry, cell, condition, where), entry))
        except UserError as error:
            refused.append(error)
    if not found:
        raise refused[0]
    return min(found, key=lambda one: ORDER.index(one[0].verdict) if one[0].verdict in ORDER else len(ORDER))


def release(record: Record, package: str) -> list[Version]:
    """Return what orders trials by release: the versions of this package and of the other axes."""
    found = []
    for name in dict.fromkeys((package, *standing.AXES)):
        try:
            found.append(Version(record.versions.get(name, "0")))
        except InvalidVersion:
            found.append(Version("0"))
    return found


def look(
    places: Sequence[Sequence[Path]], entries: Sequence[Entry], cell: str | None, condition: str | None
) -> tuple[Record, list[Record], Entry, Sequence[Path], list[str]]:
    """Find the trial that is meant in the first of these groups of runs that has one; UserError of the first, if none.

    Return it with the records that it stands among, its case, its group, and what to know of them.
    """
    refused: list[UserError] = []
    for folders in places:
        try:
            records, notices = results.load_all(folders)
            where = ", ".join(results.shown(folder) for folder in folders)
            found, entry = choose_of(records, entries, cell, condition, where)
            return found, records, entry, folders, [*(error.what for error in refused), *notices]
        except UserError as error:
            refused.append(error)
    raise refused[0]


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
    *, force: bool = False,
) -> Bundle:  # fmt: skip
    """Write the bundle of one trial; ``run`` are the records that it is shown among, ``logs`` its run's folder."""
    compare(record, entry)
    out = files.Folder(folder, "bundle", force=force, prune=True)
    target = out.path.with_name(out.path.name + ".zip")
    files.check(target, force=force)
    mine = [other for other in run if other.case == record.case]
    writer = onefile.Writer(redactor)
    text, pins = writer.of(record, entry).text(), writer.pins_of(record.environment)
    with out:
        out.write("repro.py", text)
        out.write("requirements.txt", "\n".join(pins.requirements) + "\n")
        lines = [json.dumps(redactor.value(json.loads(one.to_line()))) + "\n" for one in mine]
        out.write(results.RESULTS, "".join(lines))
        drawn = plot.draw(record, out.staging, redactor)
        histories = further(record, logs, out.staging, redactor)
        out.write("comment.md", comment(record, mine, entry, redactor, bool(drawn), histories))
        data, left = pack(out.staging, out.path.name)
    files.put(target, data, force=force)
    return Bundle(folder, folder.with_name(target.name) if folder.name else target, left)


def pack(folder: Path, name: str) -> tuple[bytes, list[str]]:
    """Zip a bundle; where it is too large for an attachment, the largest files that explain least stay outside."""
    kept = sorted(path for path in folder.rglob("*") if path.is_file())
    needed = {"repro.py", "comment.md", "requirements.txt", "timeline.png", "timeline.svg"}
    left: list[str] = []
    while True:
        with tempfile.TemporaryFile() as target:
            with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as file:
                file.comment = files.UNSIGNED.encode()
                for path in kept:
                    file.write(path, Path(name) / path.relative_to(folder))
            others = [path for path in kept if path.name not in needed]
            if target.seek(0, os.SEEK_END) <= ZIP_BYTES or not others:
                target.seek(0)
                return target.read(), left
        largest = max(others, key=lambda path: path.stat().st_size)
        kept.remove(largest)
        left.append(largest.relative_to(folder).as_posix())


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
            with files.open_plain(path) as file:
                text = file.read().decode(errors="replace")
            target.write_text(redactor.text(text), encoding="utf-8")
    return found


def comment(
    record: Record,
    mine: Sequence[Record],
    entry: Entry,
    redactor: Redactor,
    plotted: bool,
    histories: Sequence[str] = (),
) -> str:
    """Return the comment: at most so many characters as GitHub takes."""
    text = ""
    for tensors, elsewhere, doc in ((TENSORS, 60, entry.doc), (TENSORS, 20, entry.doc), (0, 10, entry.doc[:4000])):
        attached = {"plot": plotted, "histories": list(histories)}
        text = _comment(record, mine, replace(entry, doc=doc), redactor, attached, tensors, elsewhere)
        if len(text) < COMMENT_CHARACTERS:
            return text
    return escape.cut(text, COMMENT_CHARACTERS - 1, "(cut)\n")


def _comment(
    record: Record,
    mine: Sequence[Record],
    entry: Entry,
    redactor: Redactor,
    attached: Mapping[str, Any],
    tensors: int,
    most: int,
) -> str:
    case, budget = entry.case, record.budget
    unit, figure, second = str(budget["unit"]), str(budget["figure"]), budget.get("second")
    subject = record.arm("subject")
    same = [other for other in mine if other.condition == record.condition]
    lists = dict(subject.evidence) if subject else {}
    shown = "held" if figure.startswith("held") and lists.get("held") else "alive_at_peak"
    judged = [name for name in (figure, second) if name]
    figures = [arm.reached(name) for arm in record.arms for name in judged]
    more = apart((*figures, *(other.figure("subject") for other in same)), float(budget["limit"]), unit)
    limit = show(float(budget["limit"]), unit, more)
    packages = dict(record.environment.get("packages", {}))
    values = {
        "report": case.report,
        "case": entry.name,
        "condition": record.condition,
        "cell": record.cell,
        "verdict": record.verdict.value,
        "versions": ", ".join(f"{name} {packages[name]}" for name in standing.AXES if name in packages),
        "reason": record.reason,
        "note": entry.condition(record.condition).note,
        "claims": [
            {
                "text": claim.text,
                "reported": "; ".join(f"{name}: {value}" for name, value in claim.reported.items()),
                "standing": standing.of_claim(case, claim, mine).word,
            }
            for claim in case.claims
            if record.condition in case.speaking_to(claim)
        ],
        "system": "\n".join(f"- {escape.line(name)}: {escape.line(value)}" for name, value in system(record)),
        "figure": figure,
        "head": ["arm", "what runs", "reading", *judged, "error"],
        "arms": [
            [
                *(arm.arm, WHAT.get(arm.arm, ""), record.readings.get(arm.arm, arm.state)),
                show(reached, unit, more) if (reached := arm.reached(figure)) is not None else arm.state,
                *([show(arm.reached(second), unit, more)] if second else []),
                show(arm.figures.get("error"), "ratio"),
            ]
            for arm in record.arms
        ]
        + [["budget", "", "", *[limit] * len(judged), ""]],
        "control": record.control,
        "margins": [multiple(record.margins.get(name)) for name in ("planted_over_budget", "budget_over_reference")],
        **attached,
        "tensors_of": shown.replace("_", " "),
        "tensors": [
            [
                *(str(row.get(name) or "-") for name in ("shape", "dtype")),  # on a card, owners alone
                *(str(row.get("count", 1)), show(row["bytes"], "bytes"), str(row.get("made_by") or "-")),
            ]
            for row in list(lists.get(shown) or [])[:tensors]
        ],
        "phase": str(subject.exception.get("phase", "")) if subject and subject.exception else "",
        "exception": told(subject.exception) if subject and subject.exception else "",
        "expected": f"{figure} stays within {limit}: the budget is a formula over shapes and dtypes, derived below, "
        "and the reference keeps to it.",
        "elsewhere": [
            [
                *(other.cell, other.verdict.value, show(other.figure("subject"), unit, more)),
                other.proposed["effect"] if other.proposed else "",
            ]
            for other in same[:most]
        ],
        "proposes": case.proposes,
        "effect": f"{record.proposed['effect']} here ({record.proposed['reason']}); {standing.of_fix(mine, False)}"
        if record.proposed
        else "not tried under this condition",
        "mechanism": entry.doc,
        "date": record.date,
        "command": f"python -m repros bundle {entry.name} --cell {record.cell} --condition {record.condition}",
        "lock": str(record.environment.get("lock", ""))[:16] or "none",
        "source": f"source {record.source[:16]}"
        if record.source
        else "source not noted: it could not be compared with that of `repro.py`",
    }
    clean = redactor.value(values)
    return onefile.template("comment.md.j2").render(**clean, redacted=redactor.says().capitalize())


def told(exception: Mapping[str, Any]) -> str:
    """Return an exception as Python prints it, without its sources."""
    return "\n".join(
        [f"{exception['types'][0]}: {exception['text']}", *(f"  at {frame}" for frame in exception.get("frames", ()))]
    )


def system(record: Record) -> list[tuple[str, str]]:
    """Return the lines that upstream's issue form asks for (``transformers env``), and the packages beside them."""
    packages: Mapping[str, str] = record.environment.get("packages", {})
    machine = record.machine
    gpus = ", ".join(machine.get("gpus") or [])
    rows = [
        ("`transformers` version", packages.get("transformers", "none")),
        ("Platform", f"{machine.get('system', '?')}, {machine.get('libc', '?')}"),
        ("Python version", str(machine.get("python", "?"))),
        ("Huggingface_hub version", packages.get("huggingface_hub", "none")),
        ("Tokenizers version", packages.get("tokenizers", "none")),
        ("Accelerate version", packages.get("accelerate", "none")),
        ("PEFT version", packages.get("peft", "none")),
        ("PyTorch version (accelerator?)", f"{packages.get('torch', 'none')} ({record.device if gpus else 'NA'})"),
        ("bitsandbytes version", packages.get("bitsandbytes", "none")),
        ("GPU type", gpus or "none"),
        ("CPU", f"{machine.get('cpu_model', '?')}, {machine.get('cores', '?')} cores"),
        ("CPU flags", " ".join(machine.get("cpu_flags") or []) or "none of AVX-512 and AMX"),
        ("Using distributed or parallel set-up in script?", "no"),
    ]
    return [*rows, *(("in place of a pin", f"{k}={v}") for k, v in record.environment.get("overrides", {}).items())]
