"""``run``: try cases and print what came of it."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from repros import cases
from repros.cells.matrix import Cell
from repros.commands.arguments import (
    MOST_AT_ONCE,
    MOST_GB,
    Add,
    a_folder,
    add_cell_options,
    add_executor,
    cells_of,
    check_executor,
    whole,
)
from repros.errors import UserError, nearest, shortened
from repros.evidence import advice
from repros.machine import interrupts
from repros.report import escape, terminal
from repros.run import controls, ending, results, shards
from repros.run.controls import EVERY_CELL
from repros.run.results import Record, Run
from repros.run.server import Clock
from repros.run.trial import Trial


def register(add: Add) -> None:
    """Add the command to the command line."""
    run = add("run", cmd_run, "try a case: verdict, arms' figures, budget and margins")
    run.add_argument(
        "case", nargs="*", help="a case's name, the number of its report (gh1927), or a case file (default: every case)"
    )
    run.add_argument("--package", metavar="NAME", help="the reports of one package, e.g. bitsandbytes")
    add_cell_options(run)
    run.add_argument(
        "--condition", default="*", help="names of conditions, or globs, separated by blanks (default: all)"
    )
    run.add_argument("--jobs", type=whole(1, MOST_AT_ONCE), help="arms at a time (default: cores and one)")
    run.add_argument("--controls", choices=controls.WAYS, help=controls.WAYS_HELP)
    add_executor(run)
    run.add_argument("--reports", type=a_folder, help="folder in place of reports/")
    run.add_argument("--resume", action="store_true", help="go on with the newest run")
    run.add_argument("--shard", type=a_shard, metavar="K/N", help="the K-th of N parts that take equally long")
    run.add_argument("--one-a-report", type=whole(1, MOST_GB), metavar="GB",
                     help="one trial a report at its own size, such as fits a card of so many GB")  # fmt: skip
    run.add_argument("--snapshots", action="store_true",
                     help="on a GPU: keep each arm's snapshot of the allocator beside its log")  # fmt: skip


def chosen_trials(
    names: Sequence[str], condition: str, cells: Sequence[Cell], package: str | None = None
) -> list[tuple[Trial, Cell]]:
    """Return the trials that the options name, cell by cell; those of every case where no name is given."""
    everything = cases.find()
    packages = sorted({entry.case.package for entry in everything})
    if package is not None and package not in packages:
        raise UserError(f"--package {package}: no report is of it", nearest(package, packages))
    named = {e.name: e for name in names for e in cases.select(name, everything)}
    entries = [e for e in (named.values() if names else everything) if package in (None, e.case.package)]
    if not entries:
        others = sorted({entry.case.package for entry in named.values()})
        raise UserError(f"{' '.join(names)}: not of {package}", f"of {', '.join(others)}: leave `--package` out")
    globs = condition.split()
    pairs = [(e, c) for e in entries for c in e.case.conditions]
    matching = [(e, c) for e, c in pairs if any(fnmatchcase(c.name, glob) for glob in globs)]
    if not matching:
        cases.refuse(entries, condition)
    found = [(Trial(e, c, cell.label), cell) for cell in cells for e, c in matching if c.device == cell.device]
    if not found:
        have, given = (", ".join(sorted({one.device for one in ones})) for ones in ([c for _, c in matching], cells))
        which = f"{' '.join(names) or 'every case'} --condition {condition}"
        what = f"{which}: {len(matching)} condition(s) for {have}, cells for {given}"
        raise UserError(what, f"name a cell for {have} with `--cell`, see `python -m repros cells`")
    return found


def every_trial(cells: Sequence[Cell]) -> list[tuple[Trial, Cell]]:
    """Return all trials of these cells, in the order in which a run takes them."""
    return chosen_trials((), "*", cells)


def recorded() -> dict[tuple[str, str, str], float]:
    """Return what each trial took in committed evidence; nothing where none is there, as beside a wheel."""
    folders = results.committed()
    return shards.recorded(results.load_all(folders)[0]) if folders else {}


def a_shard(text: str) -> tuple[int, int]:
    """Read a part such as ``2/4``."""
    found = re.fullmatch(r"([0-9]{1,4})/([0-9]{1,4})", text)
    number, of = (int(found[1]), int(found[2])) if found else (0, 0)
    if not 1 <= number <= of <= MOST_AT_ONCE:
        raise argparse.ArgumentTypeError(f"`{shortened(text)}` is not a part, such as `2/4`")
    return number, of


def cmd_run(arguments: argparse.Namespace, console: Console) -> int:
    """Try cases and print what came of it."""
    if not (arguments.case or arguments.package or arguments.tier or arguments.cell):
        raise UserError("run: no case", "name one, or a tier for every case: `--tier smoke`")
    check_executor(arguments, without=())
    if arguments.executor == "dask" and arguments.controls == controls.SHARED:
        what = "--executor dask: workers share no controls"
        raise UserError(what, "leave `--controls shared` out: each cell's are tried in it")
    cells = cells_of(arguments)
    if arguments.snapshots and all(cell.device != "cuda" for cell in cells):
        raise UserError(
            f"--snapshots: none of these cells is for a GPU: {', '.join(cell.label for cell in cells)}",
            "name one with `--cell`, see `python -m repros cells --tier gpu`; the CPU has no caching allocator",
        )
    wanted = chosen_trials(arguments.case, arguments.condition, cells, arguments.package)
    if arguments.one_a_report:
        wanted = briefly(wanted, arguments.one_a_report)
    part = ""
    if arguments.shard:
        number, of = arguments.shard
        shard = shards.shards(wanted, recorded(), of)[number - 1]
        wanted, part = list(shard.trials), shard.name
    folder = results.latest_run(arguments.reports) if arguments.resume else results.new_run("run", arguments.reports)
    run = Run(folder)
    narrowed = arguments.case or arguments.package or arguments.one_a_report or arguments.cell or arguments.overrides
    whole_tier = arguments.tier and not narrowed
    tier = arguments.tier if whole_tier and arguments.condition == "*" else ""
    run.note("plan", tier=tier, shard=part, trials=len(wanted))
    done = results.settled(folder) if arguments.resume else set()
    wanted = [(trial, cell) for trial, cell in wanted if trial.key not in done]
    how: dict[str, Any] = {"jobs": arguments.jobs, "snapshots": arguments.snapshots}
    if arguments.executor == "dask":
        records, clock = on_workers(wanted, run, console, scheduler=arguments.scheduler, **how)
    else:
        how["controls"] = controls.way(arguments.controls, len({cell.label for _, cell in wanted}))
        records, clock = take(wanted, run, console, **how)
    for record in records if len(records) <= 12 else []:
        terminal.detail(record, console)
    known = {e.name: e for e in cases.find()} | {t.entry.name: t.entry for t, _ in wanted}
    records, _ = ending.judged([folder], known)
    if len(records) > 1:
        terminal.matrix(records, console)
    terminal.summary(records, console)
    terminal.times(clock, console)
    console.print(f"results: {results.shown(run.path)}", markup=False, soft_wrap=True)
    advice.after(records, known, folder, console)
    return ending.code(records)


def briefly(trials: Sequence[tuple[Trial, Cell]], card_gb: int) -> list[tuple[Trial, Cell]]:
    """Return one trial a report that a card of this size has room for; UserError where there is none."""
    found = shards.one_a_report(trials, card_gb << 30)
    if not found:
        what = f"--one-a-report {card_gb}: none of these trials runs on a card of {card_gb} GB"
        raise UserError(what, "name cells for a GPU, `--tier gpu_smoke`, or a larger card")
    return found


def take(
    wanted: Sequence[tuple[Trial, Cell]],
    run: Run,
    console: Console,
    *,
    jobs: int | None = None,
    snapshots: bool = False,
    controls: str = EVERY_CELL,
) -> tuple[list[Record], Mapping[str, float]]:
    """Try these trials in this order; return their records, and where the time went."""
    from repros.run.session import Session

    progress = _progress(console)
    modules = {trial.entry.module for trial, _ in wanted}
    cells = {cell.label: cell for _, cell in wanted}.values()
    session = Session(
        run, jobs=jobs, say=_saying(progress), snapshots=snapshots, cases=modules, controls=controls, cells=cells
    )
    try:
        records = _shown((session.take(wanted, at) for at in range(len(wanted))), len(wanted), progress)
    finally:
        with interrupts.held():
            session.close()
            run.note("time", seconds=session.clock.summary())
    return records, session.clock.summary()


def on_workers(
    wanted: Sequence[tuple[Trial, Cell]],
    run: Run,
    console: Console,
    *,
    scheduler: str | None,
    jobs: int | None = None,
    snapshots: bool = False,
) -> tuple[list[Record], Mapping[str, float]]:
    """Have these trials made by the workers of a cluster; return their records, and how long it took."""
    from repros.cluster import crew, trials

    progress, clock, seconds = _progress(console), Clock(), {"total": 0.0}
    try:
        with crew.crew(scheduler, jobs or os.cpu_count() or 1, _saying(progress)) as hands:
            records = _shown(trials.stream(wanted, run, hands, snapshots), len(wanted), progress)
    finally:
        with interrupts.held():
            took = clock.summary()["total"]
            seconds = {"total": took, "on workers": took}
            run.note("time", seconds=seconds)
    return records, seconds


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
        TextColumn("{task.fields[found]}", markup=False),
        console=console, transient=True, disable=not console.is_terminal,
    )  # fmt: skip


def _saying(progress: Progress) -> Callable[[str], None]:
    return lambda text: progress.console.print(text, markup=False, soft_wrap=True)


def _shown(found: Iterable[Record], total: int, progress: Progress) -> list[Record]:
    """Return the records, each shown as it comes."""
    records: list[Record] = []
    with progress:
        task = progress.add_task("trials", total=total, found="")
        for record in found:
            records.append(record)
            last = escape.line(f"{record.case} [{record.condition}]")
            progress.update(task, advance=1, description=last, found=terminal.counts(records))
    return records
