"""``bundle``: write a trial as an attachment."""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from repros import cases
from repros.commands.arguments import (
    EXIT_AS_EXPECTED,
    Add,
    a_folder,
    a_run,
    add_force,
)
from repros.errors import UserError
from repros.run import results
from repros.run.record import Record

if TYPE_CHECKING:
    from repros.cases import Entry
    from repros.redaction.redact import Redactor
    from repros.report.attachment.packing import Bundle
    from repros.report.attachment.tried import Evidence


def register(add: Add) -> None:
    """Add the command to the command line."""
    bundle = add("bundle", cmd_bundle, "write a trial, or the newest try of a script, as an attachment")
    bundle.add_argument("case", help="a case's name, the number of its report (gh1927), or a script that was tried")
    bundle.add_argument("--cell", help="a cell of the run (default: one in which it is reproduced)")
    bundle.add_argument("--condition", help="a condition of the case (default: one that is reproduced)")
    bundle.add_argument(
        "--run",
        type=a_run,
        help="folder of a run (default: the newest that has the trial, else the committed evidence), or of a try",
    )
    bundle.add_argument(
        "--out", type=a_folder, metavar="DIR", help="folder of the bundle (default: below reports/bundles)"
    )
    add_force(bundle)


def cmd_bundle(arguments: argparse.Namespace, console: Console) -> int:
    """Write a trial, or the newest try of a script, as an attachment."""
    from repros.cells.uv import pip_settings
    from repros.redaction.redact import Redactor
    from repros.report.attachment import bundle

    if is_script(arguments.case):
        return _of_script(arguments, console)
    places = [[arguments.run]] if arguments.run else results.runs_and_committed()
    entries = cases.having(cases.select(arguments.case, cases.find()), arguments.condition)
    record, records, e, folders, notices = bundle.look(places, entries, arguments.cell, arguments.condition)
    for notice in notices:
        print(notice, file=sys.stderr)
    name = re.sub(r"[^\w.=+-]+", "_", f"{e.name}-{record.condition}-{record.cell}")
    redactor = Redactor.here(settings=pip_settings())
    folder = arguments.out or results.REPORTS / "bundles" / name
    made = bundle.make(record, records, e, folder, redactor, folders[0],
                       force=arguments.force, evidence=gathered(record, e))  # fmt: skip
    _say(made, f"{record.condition} in {record.cell}: {record.verdict.value}", redactor, console)
    return EXIT_AS_EXPECTED


def is_script(word: str) -> bool:
    """Return whether a word names a script and no case file."""
    path = Path(word)
    return path.suffix == ".py" and not (path.is_file() and cases.assigns_case(path))


def _of_script(arguments: argparse.Namespace, console: Console) -> int:
    """Write the newest try of a script as an attachment."""
    from repros.bisect import committed
    from repros.cells.uv import pip_settings
    from repros.commands.tries import home_of
    from repros.redaction.redact import Redactor
    from repros.report.attachment import script as attachment
    from repros.report.attachment.script_comment import top
    from repros.report.kept import as_bytes
    from repros.run import script

    for option in ("cell", "condition"):
        if getattr(arguments, option):
            raise UserError(f"--{option} with a script", "leave it out: the newest try is taken whole")
    path = Path(arguments.case)
    home = arguments.run or home_of(path)
    kept = attachment.newest(home, script.read(path), path)
    places = [*committed.folders(results.REPORTS), *committed.runs(home.parent.parent)]
    sources = {name: as_bytes(text) for name, text in kept.files.items()}
    digest = script.digest(sources, kept.args)
    bisected = committed.of_script(places, kept.tries.script, kept.tries.rule, digest)
    redactor = Redactor.here(settings=pip_settings())
    folder = arguments.out or results.REPORTS / "bundles" / re.sub(r"[^\w.=+-]+", "_", home.name)
    made = attachment.make(kept, home, folder, redactor, bisected, force=arguments.force)
    _say(made, f"{kept.tries.script}: {top(kept.tries)['headline']}", redactor, console)
    return EXIT_AS_EXPECTED


def _say(made: Bundle, what: str, redactor: Redactor, console: Console) -> None:
    """Print where the attachment is, of what, and what was left out of it or taken out."""
    size = made.zip.stat().st_size / (1 << 20)
    said = [f"{results.shown(made.folder)}: {what}", f"{results.shown(made.zip)}: {size:.2f} MiB"]
    said += [f"left out of the zip, which may have 25 MiB: {left}" for left in made.left_out]
    for one in (*said, redactor.says()):
        console.print(one, markup=False, soft_wrap=True)


def gathered(record: Record, entry: Entry, reports: Path = results.REPORTS) -> Evidence:
    """Return what is committed on a trial's condition: trials, probes of bisections, the fixing commit, the remedy."""
    from repros.bisect import committed
    from repros.evidence import story
    from repros.report.attachment import tried

    of = (record.case, record.condition)
    found: dict[Path, list[Record]] = {}
    for folder in results.committed(reports):
        found[folder] = tried.alike(record, results.load(folder)[0])
    for folder in committed.folders(reports):
        found[folder] = committed.records(folder, *of)
    fixes = (committed.fixed_by(folder, *of) for folder in committed.folders(reports))
    return tried.Evidence(
        [one for several in found.values() for one in several],
        [results.shown(folder) for folder, several in found.items() if several],
        next(filter(None, fixes), None),
        story.today(reports / "stories", entry.case.report),
    )
