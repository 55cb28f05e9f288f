"""``python -m repros``: the suite in pieces.

Exit codes: 0 as expected, 1 a regression or a stale record, 2 usage or environment, 3 a fault of the harness,
130 interrupted.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from repros import __version__, cases, results
from repros.cases import Entry
from repros.errors import UserError
from repros.host import probe_host
from repros.matrix import Cell, chosen_cells, load_matrix
from repros.report import markdown, standing, terminal
from repros.results import ROOT, Record, Run
from repros.trial import Trial
from repros.verdict import show

MATRIX = ROOT / "matrix.yaml"
EXIT_AS_EXPECTED, EXIT_FAILED, EXIT_USAGE, EXIT_FAULT, EXIT_INTERRUPTED = 0, 1, 2, 3, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    arguments = parser().parse_args(argv)
    console = terminal.console()
    command: Callable[[argparse.Namespace, Console], int] = arguments.command
    try:
        return command(arguments, console)
    except UserError as error:
        print(error, file=sys.stderr)
        return EXIT_USAGE
    except KeyboardInterrupt:
        print("interrupted; finished trials are kept, go on with `--resume`", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        return EXIT_AS_EXPECTED
    except Exception as error:  # noqa: BLE001 - a fault of ours is told apart from a finding
        import traceback

        traceback.print_exc()
        print(f"repros: a fault of the harness: {type(error).__name__}: {error}\nhint: report it with the lines above",
              file=sys.stderr)  # fmt: skip
        return EXIT_FAULT


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    top = argparse.ArgumentParser(prog="python -m repros", description=__doc__.partition("\n")[0] if __doc__ else None)
    top.add_argument("--version", action="version", version=f"repros {__version__}")
    commands = top.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, command: Callable[[argparse.Namespace, Console], int], text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text)
        sub.set_defaults(command=command)
        return sub

    run = add("run", cmd_run, "try a case: verdict, arms' figures, budget and margins")
    run.add_argument("case", nargs="+", help="a case's name, or the number of its report (gh1927)")
    _cell_options(run)
    run.add_argument(
        "--condition", default="*", help="names of conditions, or globs, separated by blanks (default: all)"
    )
    run.add_argument("--jobs", type=int, help="arms at a time (default: cores and one)")
    run.add_argument("--reports", type=Path, help="folder in place of reports/")
    run.add_argument("--resume", action="store_true", help="go on with the newest run")

    add("list", cmd_list, "list the cases")
    shown = add("show", cmd_show, "show a case: claim, mechanism, budget, conditions, record")
    shown.add_argument("case")
    cells = add("cells", cmd_cells, "list cells, tiers and excludes with their reasons")
    cells.add_argument("--tier")
    doctor = add("doctor", cmd_doctor, "say what can run on this machine, and why the rest cannot")
    doctor.add_argument("--tier", help="only the cells of this tier")
    report = add("report", cmd_report, "print a run: verdicts, standings; or write its page")
    report.add_argument("run", nargs="?", type=Path, help="folder of a run (default: the newest)")
    report.add_argument("--markdown", type=Path, metavar="FILE", help="write the page there (`-`: print it)")
    report.add_argument(
        "--commit-to", type=Path, metavar="DIR", help="keep results and page as evidence, e.g. reports/NAME"
    )
    readme = add("readme", cmd_readme, "make the README's figures anew from committed evidence")
    readme.add_argument("--evidence", type=Path, required=True, metavar="DIR", help="e.g. reports/NAME")
    readme.add_argument(
        "--benchmarks", type=Path, metavar="FILE", help="keep these figures of `nox -s bench` there first"
    )
    env = add("env", cmd_env, "build the environments of cells and print their interpreters")
    _cell_options(env)
    env.add_argument("--quiet", action="store_true", help="print the interpreters and nothing else")
    locks = add("lock", cmd_lock, "make the committed locks of a tier anew")
    locks.add_argument("--tier", default="cpu")
    new = add("new", cmd_new, "start a case file: new PACKAGE NUMBER SLUG")
    new.add_argument("package", choices=["bitsandbytes", "transformers"])
    new.add_argument("number", type=int)
    new.add_argument("slug")
    return top


def _cell_options(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--cell", action="append", default=[], help="a cell of matrix.yaml (may be given again)")
    sub.add_argument("--tier", help="all cells of a tier")
    sub.add_argument("--with", action="append", default=[], dest="overrides", metavar="PACKAGE=SPEC",
                     help="a version, wheel or checkout in place of a cell's pin")  # fmt: skip


def _cells(arguments: argparse.Namespace) -> tuple[Cell, ...]:
    return chosen_cells(load_matrix(MATRIX), arguments.tier, arguments.cell, arguments.overrides)


def chosen_trials(names: Sequence[str], condition: str, cells: Sequence[Cell]) -> list[tuple[Trial, Cell]]:
    """Return the trials that the options name, cell by cell."""
    everything = cases.find()
    entries = list({e.name: e for name in names for e in cases.select(name, everything)}.values())
    globs = condition.split()
    pairs = [(e, c) for e in entries for c in e.case.conditions]
    matching = [(e, c) for e, c in pairs if any(fnmatchcase(c.name, glob) for glob in globs)]
    if not matching:
        for e in entries:
            e.condition(condition)
    return [(Trial(e, c, cell.label), cell) for cell in cells for e, c in matching]


def cmd_run(arguments: argparse.Namespace, console: Console) -> int:
    """Try cases and print what came of it."""
    from repros.session import Session

    cells = _cells(arguments)
    wanted = chosen_trials(arguments.case, arguments.condition, cells)
    folder = results.latest_run(arguments.reports) if arguments.resume else results.new_run("run", arguments.reports)
    run = Run(folder)
    done = results.settled(folder) if arguments.resume else set()
    wanted = [(trial, cell) for trial, cell in wanted if trial.key not in done]
    progress = Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
        console=console, transient=True,
    )  # fmt: skip
    session = Session(run, jobs=arguments.jobs, say=lambda text: progress.console.print(text, markup=False))
    records: list[Record] = []
    try:
        with progress:
            task = progress.add_task("trials", total=len(wanted))
            for at, (trial, _) in enumerate(wanted):
                progress.update(task, description=f"{trial.entry.name} [{trial.condition.name}]")
                records.append(session.take(wanted, at))
                progress.advance(task)
    finally:
        session.close()
        run.note("time", seconds=session.clock.summary())
    for record in records if len(records) <= 12 else []:
        terminal.detail(record, console)
    if len(records) > 1:
        terminal.matrix(records, console)
    terminal.summary(records, console)
    terminal.times(session.clock.summary(), console)
    console.print(f"results: {results.shown(run.path)}", markup=False)
    return EXIT_FAILED if any(record.failed for record in records) else EXIT_AS_EXPECTED


def cmd_list(arguments: argparse.Namespace, console: Console) -> int:
    """List the cases."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("case", "report", "conditions", "title"):
        table.add_column(name)
    for e in cases.find():
        table.add_row(e.name, f"{e.case.package}#{e.case.number}", str(len(e.case.conditions)), e.case.title)
    console.print(table)
    return EXIT_AS_EXPECTED


def cmd_show(arguments: argparse.Namespace, console: Console) -> int:
    """Show what a case declares."""
    for e in cases.select(arguments.case, cases.find()):
        case = e.case
        console.print(f"[bold]{e.name}[/bold]  {case.package}#{case.number} ({case.kind}, {case.status})")
        console.print(f"{case.title}\n\n{e.doc}\n", markup=False)
        for claim in case.claims:
            numbers = "; ".join(f"{name}: {value}" for name, value in claim.reported.items())
            console.print(f"claim: {claim.text}" + (f" ({numbers})" if numbers else ""), markup=False)
        if case.proposes:
            console.print(f"proposed fix: {case.proposes}", markup=False)
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for name in ("condition", "figure", "budget", "arms", "note"):
            table.add_column(name, no_wrap=name == "condition")
        for condition in case.conditions:
            budget = case.budget_of(condition)
            limit = show(budget.limit(condition.params), budget.unit)
            arms = ", ".join(e.arms_of(condition))
            table.add_row(condition.name, budget.figure, limit, arms, condition.note)
        console.print(table)
        for window in case.affected:
            versions = ", ".join(f"{name} {spec}" for name, spec in window.versions.items()) or "every version"
            console.print(f"affected: {window.conditions}: {versions} ({window.source})", markup=False)
        if not case.affected:
            console.print("affected: no version in the matrix")
    return EXIT_AS_EXPECTED


def cmd_cells(arguments: argparse.Namespace, console: Console) -> int:
    """List cells and excludes."""
    matrix = load_matrix(MATRIX)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("cell", "tiers", "device", "torch", "transformers", "bitsandbytes", "note"):
        table.add_column(name)
    for cell in matrix.tier(arguments.tier) if arguments.tier else matrix.cells:
        pins = (cell.pins[name] for name in ("torch", "transformers", "bitsandbytes"))
        table.add_row(cell.name, " ".join(cell.tiers), cell.device, *pins, cell.note)
    console.print(table)
    for exclude in matrix.excludes:
        console.print(f"excluded: {exclude}: {exclude.reason}", markup=False)
    return EXIT_AS_EXPECTED


def cmd_doctor(arguments: argparse.Namespace, console: Console) -> int:
    """Say what this machine can run."""
    facts = probe_host()
    for name, value in facts.as_json().items():
        text = (
            f"{value / (1 << 30):.1f} GiB"
            if name.endswith("_bytes")
            else (", ".join(value) if isinstance(value, list) else value)
        )
        console.print(
            f"{name.removesuffix('_bytes').replace('_', ' '):>15}: {text if text != '' else 'none'}", markup=False
        )
    matrix = load_matrix(MATRIX)
    trials = [(e, c) for e in cases.find() for c in e.case.conditions]
    for cell in matrix.tier(arguments.tier) if arguments.tier else matrix.cells:
        if cell.device == "cuda" and not facts.gpu_kind:
            console.print(f"{cell.name}: cannot run: it needs a GPU and this machine has none", markup=False)
            continue
        missing: dict[str, int] = {}
        for e, c in trials:
            why = Trial(e, c, cell.name).missing(dict(cell.pins), facts.memory_bytes)
            if why:
                missing[why] = missing.get(why, 0) + 1
        able = len(trials) - sum(missing.values())
        console.print(f"{cell.name}: {able} of {len(trials)} trials can run", markup=False)
        for why, count in missing.items():
            console.print(f"    {count} cannot: {why}", markup=False)
    return EXIT_AS_EXPECTED


def cmd_report(arguments: argparse.Namespace, console: Console) -> int:
    """Print a run, or write its page."""
    folder = arguments.run or results.latest_run()
    records, notice = results.load(folder)
    if notice:
        print(notice, file=sys.stderr)
    if not records:
        raise UserError(f"{results.shown(folder)}: no finished trial", "make a run: `nox -s cpu`")
    known = {e.name: e for e in cases.find()}
    if arguments.commit_to:
        arguments.commit_to.mkdir(parents=True, exist_ok=True)
        kept = arguments.commit_to / results.RESULTS
        results.keep(folder, kept)
        (arguments.commit_to / "README.md").write_text(markdown.page(records, known, kept), encoding="utf-8")
        console.print(f"kept {len(records)} trials in {results.shown(kept)}", markup=False)
        return EXIT_AS_EXPECTED
    if arguments.markdown:
        text = markdown.page(records, known, folder)
        if str(arguments.markdown) == "-":
            print(text)
        else:
            arguments.markdown.write_text(text, encoding="utf-8")
        return EXIT_AS_EXPECTED
    terminal.matrix(records, console)
    _standings(records, known, console)
    terminal.summary(records, console)
    return EXIT_FAILED if any(record.failed for record in records) else EXIT_AS_EXPECTED


def _standings(records: Sequence[Record], known: dict[str, Entry], console: Console) -> None:
    for name in dict.fromkeys(record.case for record in records):
        if name not in known:
            continue
        mine = [record for record in records if record.case == name]
        case = known[name].case
        console.print(f"[bold]{name}[/bold] ({case.package}#{case.number})")
        for claim in case.claims:
            found = standing.of_claim(claim, mine)
            console.print(f"  claim: {claim.text}\n    {found.word}: {found.because}", markup=False)
        fix = standing.of_fix(mine)
        if case.proposes and fix:
            console.print(f"  proposed fix ({case.proposes}): {fix}", markup=False)


def cmd_readme(arguments: argparse.Namespace, console: Console) -> int:
    """Refresh the README."""
    import json

    from repros.report import readme

    if arguments.benchmarks:
        figures = readme.trimmed(json.loads(arguments.benchmarks.read_text(encoding="utf-8")))
        (arguments.evidence / readme.BENCHMARKS).write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    path = ROOT / "README.md"
    made = readme.blocks(arguments.evidence, {e.name: e for e in cases.find()})
    path.write_text(readme.refreshed(path.read_text(encoding="utf-8"), made), encoding="utf-8")
    console.print(f"{results.shown(path)}: figures from {results.shown(arguments.evidence)}", markup=False)
    return EXIT_AS_EXPECTED


def cmd_env(arguments: argparse.Namespace, console: Console) -> int:
    """Build environments."""
    from repros.envs import ensure

    say = terminal.console(stderr=True).print
    for cell in _cells(arguments):
        found = ensure(cell, root=ROOT, progress=lambda text: say(text, markup=False))
        how = f"{'warm' if found.warm else 'built'}, {found.seconds:.1f} s, torch build: {found.build}"
        console.print(str(found.python) if arguments.quiet else f"{cell.label}: {found.python} ({how})", markup=False)
    return EXIT_AS_EXPECTED


def cmd_lock(arguments: argparse.Namespace, console: Console) -> int:
    """Make locks anew."""
    from repros.locks import write_locks

    matrix = load_matrix(MATRIX)
    for path, changed in write_locks(matrix, root=ROOT, cells=matrix.tier(arguments.tier)).items():
        console.print(f"{results.shown(path)}{' (changed)' if changed else ''}", markup=False)
    return EXIT_AS_EXPECTED


def cmd_new(arguments: argparse.Namespace, console: Console) -> int:
    """Write a case file to start from."""
    from repros.scaffold import write_case

    path = write_case(arguments.package, arguments.number, arguments.slug)
    console.print(
        f"wrote {results.shown(path)}; next: fill in the claim, then `python -m repros run {path.stem}`", markup=False
    )
    return EXIT_AS_EXPECTED
