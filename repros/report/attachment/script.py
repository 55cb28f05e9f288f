"""The attachment of a script that `try` ran: the script under its own name, a comment, what was seen, logs."""

from __future__ import annotations

import shlex
import time
from collections.abc import Sequence
from pathlib import Path

from repros import files
from repros.errors import UserError, shortened
from repros.redaction.redact import Redactor
from repros.report import onefile, tries
from repros.report.attachment import packing
from repros.report.attachment.packing import Bundle
from repros.report.attachment.script_comment import comment
from repros.report.attachment.tried import Bisected
from repros.report.kept import KeptTry, as_bytes, load, redacted_try, sources_of
from repros.report.machine import DATE, moment
from repros.run.folders import shown
from repros.run.script import Script, log_name

COMMENT, RESULTS = "comment.md", "results.json"


def newest(home: Path, script: Script, path: Path) -> KeptTry:
    """Return the newest try of a script as it is now, kept in ``home``; UserError where there is none."""
    try:
        kept = load(home)
    except FileNotFoundError:
        raise _untried(path, f"nothing of it in {shown(home)}") from None
    now = sources_of(script)
    if now == kept.files:
        return kept
    if kept.path != str(path.absolute()):
        raise _untried(path, f"{shown(home)} is of another script of that name")
    edited = [name for name in now if now[name] != kept.files.get(name)]
    if not edited:
        gone = next(name for name in kept.files if name not in now)
        says = f"it no longer imports {gone}"
    else:
        name = max(edited, key=lambda one: (path.parent / one).stat().st_mtime)
        at = time.gmtime((path.parent / name).stat().st_mtime)
        says = f"it was edited since: {name} is of {time.strftime(DATE, at)}"
    words = [str(path) if word == kept.tries.script else word for word in kept.words]
    again = shlex.join(["python", "-m", "repros", *words])
    hint = f"try it again with `{again}`, or take back what was edited"
    raise UserError(f"{kept.tries.script}: tried {kept.date}, and {says}", hint)


def _untried(path: Path, why: str) -> UserError:
    return UserError(f"{path}: never tried: {why}", f"try it: python -m repros try {shlex.quote(str(path))}")


def make(
    kept: KeptTry, home: Path, folder: Path, redactor: Redactor, bisected: Sequence[Bisected] = (), *,
    force: bool = False,
) -> Bundle:  # fmt: skip
    """Write the bundle of a try whose logs are in ``home``; UserError where a source would tell a secret."""
    name = redactor.text(kept.tries.script)
    if name in (COMMENT, RESULTS):
        raise UserError(f"{name}: a file of the attachment is called so", "rename the script, and try it again")

    def fill(out: files.Folder) -> None:
        writer = onefile.Writer(redactor)
        for one, source in kept.files.items():
            writer.look(one, source)
            out.write(name if one == kept.tries.script else one, as_bytes(source))
        clean = redacted_try(kept, redactor)
        out.write(RESULTS, tries.as_json(clean.tries))
        take_logs(kept, home / "logs", out.staging, redactor)
        out.write(COMMENT, comment(clean, kept.text, redactor.value(list(map(as_row, bisected))), redactor.says()))

    return packing.write(folder, fill, (name, *kept.files, COMMENT), force=force)


def as_row(one: Bisected) -> dict[str, str]:
    """Return what the comment says of a change that a bisection found."""
    at = {"package": one.at.package, "name": one.at.name, "subject": one.at.subject, "after": one.after}
    said = {name: shortened(text, 60 if name == "subject" else 40) for name, text in at.items()}  # commits are 40
    return {**said, "url": one.at.url, "kind": one.kind, "exact": "exact" if one.exact else ""}


def take_logs(kept: KeptTry, logs: Path, folder: Path, redactor: Redactor) -> None:
    """Take along what each row printed; a log that an earlier try left there is none of this one's."""
    began = moment(kept.date)
    for one in kept.tries.rows:
        for ending in ("out", "err", "metered.out", "metered.err"):
            path = logs / f"{log_name(one.name)}.{ending}"
            if path.is_file() and not path.is_symlink() and path.stat().st_mtime >= began and path.stat().st_size:
                packing.take_log(path, folder / "logs" / redactor.text(path.name), redactor)
