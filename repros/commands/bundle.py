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
from repros.run import results
from repros.run.record import Record

if TYPE_CHECKING:
    from repros.cases import Entry
    from repros.report.attachment.tried import Evidence


def register(add: Add) -> None:
    """Add the command to the command line."""
    bundle = add("bundle", cmd_bundle, "write a trial as an attachment: witness, comment, one-file script, evidence")
    bundle.add_argument("case", help="a case's name, or the number of its report (gh1927)")
    bundle.add_argument("--cell", help="a cell of the run (default: one in which it is reproduced)")
    bundle.add_argument("--condition", help="a condition of the case (default: one that is reproduced)")
    bundle.add_argument(
        "--run",
        type=a_run,
        help="folder of a run (default: the newest that has the trial, else the committed evidence)",
    )
    bundle.add_argument(
        "--out", type=a_folder, metavar="DIR", help="folder of the bundle (default: below reports/bundles)"
    )
    add_force(bundle)


def cmd_bundle(arguments: argparse.Namespace, console: Console) -> int:
    """Write a trial as an attachment."""
    from repros.cells.uv import pip_settings
    from repros.redaction.redact import Redactor
    from repros.report.attachment import bundle

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
    size = made.zip.stat().st_size / (1 << 20)
    console.print(f"{results.shown(made.folder)}: {record.condition} in {record.cell}: {record.verdict.value}",
                  markup=False)  # fmt: skip
    console.print(f"{results.shown(made.zip)}: {size:.2f} MiB", markup=False)
    for left in made.left_out:
        console.print(f"left out of the zip, which may have 25 MiB: {left}", markup=False)
    console.print(redactor.says(), markup=False)
    return EXIT_AS_EXPECTED


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
