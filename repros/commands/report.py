"""``report``: print a run, or write its page."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from rich.console import Console

from repros import cases
from repros.cases import Entry
from repros.commands.arguments import (
    EXIT_AS_EXPECTED,
    Add,
    a_file,
    a_folder,
    a_run,
    add_force,
)
from repros.errors import UserError, shortened
from repros.evidence import advice, committed
from repros.report import standing, terminal
from repros.report.terminal.layout import paragraph
from repros.run import ending, results
from repros.run.results import Record


def register(add: Add) -> None:
    """Add the command to the command line."""
    report = add("report", cmd_report, "print a run: verdicts, standings; or write its page")
    report.add_argument("run", nargs="*", type=a_run, help="folders of runs, read as one (default: the newest)")
    report.add_argument("--cell", metavar="CELL", help="print, and judge, what was tried in this cell alone")
    report.add_argument("--html", type=a_file, metavar="FILE", help="write one page that opens from disk")
    report.add_argument("--against", type=a_run, metavar="RUN", help="with --html or --markdown: show what changed")
    report.add_argument("--summary", type=a_file, metavar="FILE", help="write what a CI job shows of itself")
    report.add_argument("--junit", type=a_file, metavar="FILE", help="write JUnit XML there")
    shown = report.add_mutually_exclusive_group()
    shown.add_argument("--sarif", action="store_true", help="print what failed as SARIF")
    shown.add_argument("--annotations", action="store_true", help="print what failed as a job on GitHub annotates it")
    report.add_argument("--markdown", type=a_file, metavar="FILE", help="write the page there (`-`: print it)")
    report.add_argument(
        "--commit-to", type=a_folder, metavar="DIR", help="keep results and page as evidence, e.g. reports/NAME"
    )
    add_force(report)


@results.collector_paused()
def cmd_report(arguments: argparse.Namespace, console: Console) -> int:
    """Print a run, or write its page."""
    folders = arguments.run or [results.latest_run()]
    known = {e.name: e for e in cases.find()}
    records, notices = ending.judged(folders, known)
    for notice in notices:
        print(notice, file=sys.stderr)
    if arguments.cell:
        records = _of_cell(records, arguments)
    if arguments.commit_to:
        kept = committed.commit(folders, records, known, arguments.commit_to, force=arguments.force)
        console.print(f"kept {len(records)} trials in {results.shown(kept)}", markup=False)
        return EXIT_AS_EXPECTED
    wanted = (arguments.html, arguments.markdown, arguments.summary, arguments.junit)
    if any(wanted) or arguments.annotations or arguments.sarif:
        for path in filter(None, wanted):
            committed.check(path, force=arguments.force)
        place = arguments.html.parent if arguments.html else None
        outputs = committed.Outputs(records, known, folders, arguments.against, notices, place)
        texts = (outputs.html, outputs.markdown, outputs.summary, outputs.junit)
        for path, make in zip(wanted, texts, strict=True):
            if path:
                committed.write(path, make(), force=arguments.force)
                print(f"wrote {path}; {outputs.redactor.says()}", file=sys.stderr)
        if arguments.annotations:
            print(outputs.annotations(), end="")
        if arguments.sarif:
            print(outputs.sarif())
        return EXIT_AS_EXPECTED
    advice.reports(records, known, console)
    terminal.matrix(records, console)
    _standings(records, known, console)
    terminal.summary(records, console)
    return ending.code(records)


def _of_cell(records: list[Record], arguments: argparse.Namespace) -> list[Record]:
    written = ("html", "against", "summary", "junit", "sarif", "annotations", "markdown", "commit_to")
    if others := [name for name in written if getattr(arguments, name)]:
        what = f"--{others[0].replace('_', '-')} is of a whole run"
        raise UserError(f"report --cell {shortened(arguments.cell)}: {what}", "leave one of the two out")
    by_name: dict[str, list[Record]] = {}
    for record in records:  # a cell with other packages in place of its pins is found under both names
        for name in {record.cell, record.cell.partition(" with ")[0]}:
            by_name.setdefault(name, []).append(record)
    return cases.choose(arguments.cell, by_name, "cell of this run")


def _standings(records: Sequence[Record], known: dict[str, Entry], console: Console) -> None:
    for name, mine in standing.by_case(records).items():
        if name not in known:
            continue
        case = known[name].case
        console.print(f"{name} ({case.report})", style="bold", soft_wrap=True)
        for claim in case.claims:
            found = standing.of_claim(case, claim, mine)
            paragraph(console, f"claim: {claim.text}", 2, hanging=2, most=console.width)
            paragraph(console, f"{found.word}: {found.because}", 4, hanging=2, most=console.width)
        fix = standing.of_fix(mine)
        if case.proposes and fix:
            paragraph(console, f"proposed fix ({case.proposes}): {fix}", 2, hanging=2, most=console.width)
