"""``run``: try cases and print what came of it."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from fnmatch import fnmatchcase

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from repros import cases
from repros.cells.matrix import Cell
from repros.commands.arguments import (
    MOST_AT_ONCE,
    Add,
    a_folder,
    add_cell_options,
    cells_of,
    whole,
)
from repros.errors import UserError
from repros.machine import interrupts
from repros.report import advice, escape, terminal
from repros.run import ending, results
from repros.run.results import Record, Run
from repros.run.trial import Trial


def register(add: Add) -> None:
    """Add the command to the command line."""
    run = add("run", cmd_run, "try a case: verdict, arms' figures, budget and margins")
    run.add_argument("case", nargs="+", help="a case's name, the number of its report (gh1927), or a case file")
    add_cell_options(run)
    run.add_argument(
        "--condition", default="*", help="names of conditions, or globs, separated by blanks (default: all)"
    )
    run.add_argument("--jobs", type=whole(1, MOST_AT_ONCE), help="arms at a time (default: cores and one)")
    run.add_argument("--reports", type=a_folder, help="folder in place of reports/")
    run.add_argument("--resume", action="store_true", help="go on with the newest run")
    run.add_argument("--snapshots", action="store_true",
                     help="on a GPU: keep each arm's snapshot of the allocator beside its log")  # fmt: skip


def chosen_trials(names: Sequence[str], condition: str, cells: Sequence[Cell]) -> list[tuple[Trial, Cell]]:
    """Return the trials that the options name, cell by cell."""
    everything = cases.find()
    entries = list({e.name: e for name in names for e in cases.select(name, everything)}.values())
    globs = condition.split()
    pairs = [(e, c) for e in entries for c in e.case.conditions]
    matching = [(e, c) for e, c in pairs if any(fnmatchcase(c.name, glob) for glob in globs)]
    if not matching:
        cases.refuse(entries, condition)
    found = [(Trial(e, c, cell.label), cell) for cell in cells for e, c in matching if c.device == cell.device]
    if not found:
        have, given = (", ".join(sorted({one.device for one in ones})) for ones in ([c for _, c in matching], cells))
        what = f"{' '.join(names)} --condition {condition}: {len(matching)} condition(s) for {have}, cells for {given}"
        raise UserError(what, f"name a cell for {have} with `--cell`, see `python -m repros cells`")
    return found


def cmd_run(arguments: argparse.Namespace, console: Console) -> int:
    """Try cases and print what came of it."""
    from repros.run.session import Session

    cells = cells_of(arguments)
    if arguments.snapshots and all(cell.device != "cuda" for cell in cells):
        raise UserError(
            f"--snapshots: none of these cells is for a GPU: {', '.join(cell.label for cell in cells)}",
            "name one with `--cell`, see `python -m repros cells --tier gpu`; the CPU has no caching allocator",
        )
    wanted = chosen_trials(arguments.case, arguments.condition, cells)
    folder = results.latest_run(arguments.reports) if arguments.resume else results.new_run("run", arguments.reports)
    run = Run(folder)
    done = results.settled(folder) if arguments.resume else set()
    wanted = [(trial, cell) for trial, cell in wanted if trial.key not in done]
    progress = Progress(
        TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
        TextColumn("{task.fields[found]}", markup=False),
        console=console, transient=True, disable=not console.is_terminal,
    )  # fmt: skip
    session = Session(
        run, jobs=arguments.jobs, say=lambda text: progress.console.print(text, markup=False, soft_wrap=True),
        snapshots=arguments.snapshots, cases={trial.entry.module for trial, _ in wanted},
    )  # fmt: skip
    records: list[Record] = []
    try:
        with progress:
            task = progress.add_task("trials", total=len(wanted), found="")
            for at, (trial, _) in enumerate(wanted):
                progress.update(task, description=escape.line(f"{trial.entry.name} [{trial.condition.name}]"))
                records.append(session.take(wanted, at))
                progress.update(task, advance=1, found=terminal.counts(records))
    finally:
        with interrupts.held():
            session.close()
            run.note("time", seconds=session.clock.summary())
    for record in records if len(records) <= 12 else []:
        terminal.detail(record, console)
    known = {e.name: e for e in cases.find()} | {t.entry.name: t.entry for t, _ in wanted}
    records, _ = ending.judged([folder], known)
    if len(records) > 1:
        terminal.matrix(records, console)
    terminal.summary(records, console)
    terminal.times(session.clock.summary(), console)
    console.print(f"results: {results.shown(run.path)}", markup=False, soft_wrap=True)
    advice.after(records, known, folder, console)
    return ending.code(records)
