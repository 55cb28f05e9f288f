"""``python -m repros``: the suite in pieces.

Exit codes: 0 as expected, 1 a regression or a stale record, 2 usage or environment, 3 a fault of the harness,
130 interrupted (143 by SIGTERM).
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from repros import __version__, cases, ending, files, interrupts, results
from repros.arguments import (
    MOST_AT_ONCE,
    Parser,
    a_file,
    a_folder,
    a_run,
    check_words,
    number,
    python_version,
    whole,
)
from repros.cases import Entry
from repros.errors import UserError
from repros.host import probe_host
from repros.matrix import Cell, chosen_cells, load_matrix
from repros.report import escape, evidence, standing, terminal
from repros.results import ROOT, Record, Run
from repros.trial import Trial
from repros.verdict import show

MATRIX = ROOT / "matrix.yaml"
EXIT_AS_EXPECTED, EXIT_USAGE, EXIT_FAULT, EXIT_INTERRUPTED = 0, 2, 3, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] != ["probe"]:
        return _main(words)
    from repros.cli_bisect import as_probe

    return as_probe(_main(words))


def _main(argv: Sequence[str]) -> int:
    console = terminal.console()
    try:
        check_words(argv)
        arguments = parser().parse_args(argv)
        command: Callable[[argparse.Namespace, Console], int] = arguments.command
        return command(arguments, console)
    except UserError as error:
        print(error, file=sys.stderr)
        return EXIT_USAGE
    except KeyboardInterrupt:
        interrupts.heard()
        print(interrupts.WORDS, file=sys.stderr)
        return interrupts.exit_code(EXIT_INTERRUPTED)
    except BrokenPipeError:
        return EXIT_AS_EXPECTED
    except OSError as error:
        if error.filename is None:
            return _fault(error)
        says = f"{os.fsdecode(error.filename)}: {error.strerror}"
        print(UserError(says, "check that path, its permissions, and the free space"), file=sys.stderr)
        return EXIT_USAGE
    except Exception as error:  # noqa: BLE001 - a fault of ours is told apart from a finding
        return _fault(error)


def _fault(error: Exception) -> int:
    import traceback

    traceback.print_exception(error)
    print(f"repros: a fault of the harness: {type(error).__name__}: {error}\nhint: report it with the lines above",
          file=sys.stderr)  # fmt: skip
    return EXIT_FAULT


def parser() -> Parser:
    """Return the command line."""
    top = Parser(prog="python -m repros", description=__doc__.partition("\n")[0] if __doc__ else None)
    top.add_argument("--version", action="version", version=f"repros {__version__}")
    commands = top.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, command: Callable[[argparse.Namespace, Console], int], text: str) -> Parser:
        sub = commands.add_parser(name, help=text, description=text)
        sub.set_defaults(command=command)
        return sub

    run = add("run", cmd_run, "try a case: verdict, arms' figures, budget and margins")
    run.add_argument("case", nargs="+", help="a case's name, the number of its report (gh1927), or a case file")
    _cell_options(run)
    run.add_argument(
        "--condition", default="*", help="names of conditions, or globs, separated by blanks (default: all)"
    )
    run.add_argument("--jobs", type=whole(1, MOST_AT_ONCE), help="arms at a time (default: cores and one)")
    run.add_argument("--reports", type=a_folder, help="folder in place of reports/")
    run.add_argument("--resume", action="store_true", help="go on with the newest run")
    run.add_argument("--snapshots", action="store_true",
                     help="on a GPU: keep each arm's snapshot of the allocator beside its log")  # fmt: skip

    add("list", cmd_list, "list the cases")
    shown = add("show", cmd_show, "show a case: claim, mechanism, budget, conditions, record")
    shown.add_argument("case")
    cells = add("cells", cmd_cells, "list cells, tiers and excludes with their reasons")
    cells.add_argument("--tier")
    doctor = add("doctor", cmd_doctor, "say what can run on this machine, and why the rest cannot")
    doctor.add_argument("--tier", help="only the cells of this tier")
    report = add("report", cmd_report, "print a run: verdicts, standings; or write its page")
    report.add_argument("run", nargs="*", type=a_run, help="folders of runs, read as one (default: the newest)")
    report.add_argument("--html", type=a_file, metavar="FILE", help="write one page that opens from disk")
    report.add_argument("--against", type=a_run, metavar="RUN", help="with --html or --markdown: show what changed")
    report.add_argument("--summary", type=a_file, metavar="FILE", help="write what a CI job shows of itself")
    report.add_argument("--junit", type=a_file, metavar="FILE", help="write JUnit XML there")
    report.add_argument("--markdown", type=a_file, metavar="FILE", help="write the page there (`-`: print it)")
    report.add_argument(
        "--commit-to", type=a_folder, metavar="DIR", help="keep results and page as evidence, e.g. reports/NAME"
    )
    proxies = add("proxies", cmd_proxies, "hold verdicts on a GPU beside those of their proxies on a CPU")
    proxies.add_argument("gpu", type=a_run, help="folder of a run on a GPU")
    proxies.add_argument("cpu", type=a_run, nargs="+", help="folders of runs on a CPU")
    proxies.add_argument("--markdown", type=a_file, metavar="FILE", help="write the page there")

    fits = add("fits", cmd_fits, "say what trains on which card, and what a mixture of experts comes to")
    fits.add_argument("run", type=a_run, nargs="+", help="folders of runs")
    fits.add_argument("--markdown", type=a_file, metavar="FILE", help="write the page there")
    bundle = add("bundle", cmd_bundle, "write a trial as an attachment: one-file script, comment, evidence")
    bundle.add_argument("case", help="a case's name, or the number of its report (gh1927)")
    bundle.add_argument("--cell", help="a cell of the run (default: one in which it is reproduced)")
    bundle.add_argument("--condition", help="a condition of the case (default: one that is reproduced)")
    bundle.add_argument("--run", type=a_run, help="folder of a run (default: the newest, or the committed evidence)")
    bundle.add_argument(
        "--out", type=a_folder, metavar="DIR", help="folder of the bundle (default: below reports/bundles)"
    )
    stories = add("stories", cmd_stories, "write the story of each report from committed evidence")
    stories.add_argument("run", nargs="+", type=a_run, help="folders of results, read as one")
    stories.add_argument("--to", type=a_folder, metavar="DIR", help="folder of the stories (default: reports/stories)")
    readme = add("readme", cmd_readme, "make the README's figures anew from committed evidence")
    readme.add_argument(
        "--evidence",
        type=a_folder,
        nargs="+",
        required=True,
        metavar="DIR",
        help="without a GPU; the first one's cost is told",
    )
    readme.add_argument(
        "--card",
        type=a_folder,
        nargs="+",
        required=True,
        metavar="DIR",
        help="evidence of runs on cards; the first one's cost is told",
    )
    readme.add_argument(
        "--benchmarks", type=a_file, metavar="FILE", help="keep these figures of `nox -s bench` there first"
    )
    env = add("env", cmd_env, "build the environments of cells and print their interpreters")
    _cell_options(env)
    env.add_argument("--quiet", action="store_true", help="print the interpreters and nothing else")
    house = add("wheelhouse", cmd_wheelhouse, "gather the wheels of a tier for a machine without a network")
    house.add_argument("--tier", default="gpu")
    house.add_argument("--out", type=a_folder, required=True, metavar="DIR")
    house.add_argument(
        "--python", type=python_version, default=f"{sys.version_info[0]}.{sys.version_info[1]}", help="of that machine"
    )
    house.add_argument(
        "--slim", default="", metavar="CUDA", help="keep one CUDA's library of bitsandbytes, e.g. cuda130"
    )
    locks = add("lock", cmd_lock, "make the committed locks of a tier anew")
    locks.add_argument("--tier", default="cpu")
    hunted = add("hunt", cmd_hunt, "hunt for departures of the installed package from the reference")
    hunted.add_argument("--cell", action="append", required=True, help="the cell to hunt in")
    hunted.add_argument("--minutes", type=number(0, 60 * 24 * 7), default=10.0)
    hunted.add_argument("--seed", type=whole(0, 2**63 - 1), default=0, help="of the lives that are made")
    hunted.add_argument("--hide-known", action="store_true", help="put the list of known departures away")
    hunted.add_argument("--tier", default="cpu", help="the cells of the table (default: cpu)")
    hunted.add_argument("--out", type=a_folder, help="folder of page and findings (default: below reports/runs/)")
    found = add("findings", cmd_findings, "make cases, a script or the page from what a hunt found")
    found.add_argument("hunt", type=a_folder, metavar="HUNT", help="folder of a hunt, e.g. reports/hunt/NAME")
    found.add_argument("finding", nargs="*", metavar="FINDING", help="names of findings (default: all)")
    made = found.add_mutually_exclusive_group()
    made.add_argument("--script", action="store_true", help="print one finding's script, which needs no repros")
    made.add_argument("--page", action="store_true", help="write the hunt's README.md anew")
    made.add_argument("--out", type=a_folder, metavar="DIR",
                      help="folder of the cases, below this project (default: below reports/runs/)")  # fmt: skip
    from repros import cli_bisect

    cli_bisect.register(add)
    new = add("new", cmd_new, "start a case file: new PACKAGE NUMBER SLUG")
    new.add_argument("package", choices=["bitsandbytes", "transformers"])
    new.add_argument("number", type=whole(0, 10**9))
    new.add_argument("slug")
    for sub in (report, proxies, fits, bundle, stories, readme, house, hunted, found):
        sub.add_argument("--force", action="store_true", help=files.FORCED)
    return top


def _cell_options(sub: Parser) -> None:
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
        cases.refuse(entries, condition)
    found = [(Trial(e, c, cell.label), cell) for cell in cells for e, c in matching if c.device == cell.device]
    if not found:
        have, given = (", ".join(sorted({one.device for one in ones})) for ones in ([c for _, c in matching], cells))
        what = f"{' '.join(names)} --condition {condition}: {len(matching)} condition(s) for {have}, cells for {given}"
        raise UserError(what, f"name a cell for {have} with `--cell`, see `python -m repros cells`")
    return found


def cmd_run(arguments: argparse.Namespace, console: Console) -> int:
    """Try cases and print what came of it."""
    from repros.session import Session

    cells = _cells(arguments)
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
        run, jobs=arguments.jobs, say=lambda text: progress.console.print(text, markup=False),
        snapshots=arguments.snapshots,
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
    records, _ = ending.judged([folder], {e.name: e for e in cases.find()} | {t.entry.name: t.entry for t, _ in wanted})
    if len(records) > 1:
        terminal.matrix(records, console)
    terminal.summary(records, console)
    terminal.times(session.clock.summary(), console)
    console.print(f"results: {results.shown(run.path)}", markup=False)
    return ending.code(records)


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
        console.print(Text(e.name, "bold"), f" {case.package}#{case.number} ({case.kind}, {case.status})")
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


@results.collector_paused()
def cmd_report(arguments: argparse.Namespace, console: Console) -> int:
    """Print a run, or write its page."""
    folders = arguments.run or [results.latest_run()]
    known = {e.name: e for e in cases.find()}
    records, notices = ending.judged(folders, known)
    for notice in notices:
        print(notice, file=sys.stderr)
    if arguments.commit_to:
        kept = evidence.commit(folders, records, known, arguments.commit_to, force=arguments.force)
        console.print(f"kept {len(records)} trials in {results.shown(kept)}", markup=False)
        return EXIT_AS_EXPECTED
    wanted = (arguments.html, arguments.markdown, arguments.summary, arguments.junit)
    if any(wanted):
        for path in filter(None, wanted):
            evidence.check(path, force=arguments.force)
        outputs = evidence.Outputs(records, known, folders, arguments.against, notices)
        for path, make in zip(wanted, (outputs.html, outputs.markdown, outputs.summary, outputs.junit), strict=True):
            if path:
                evidence.write(path, make(), force=arguments.force)
                print(f"wrote {path}; {outputs.redactor.says()}", file=sys.stderr)
        return EXIT_AS_EXPECTED
    terminal.matrix(records, console)
    _standings(records, known, console)
    terminal.summary(records, console)
    return ending.code(records)


def cmd_proxies(arguments: argparse.Namespace, console: Console) -> int:
    """Count how often a proxy says what the card says."""
    from repros.report import proxies

    known = {e.name: e for e in cases.find()}
    on_cpu = [record for folder in arguments.cpu for record in results.load(folder)[0]]
    text = proxies.page(results.load(arguments.gpu)[0], on_cpu, known, [arguments.gpu, *arguments.cpu])
    _page(text, arguments, console)
    return EXIT_AS_EXPECTED


def cmd_fits(arguments: argparse.Namespace, console: Console) -> int:
    """Say what fits on which card."""
    from repros.report import fits

    _page(fits.page(results.load_all(arguments.run)[0], arguments.run), arguments, console)
    return EXIT_AS_EXPECTED


def _page(text: str, arguments: argparse.Namespace, console: Console) -> None:
    if arguments.markdown is None:
        console.print(text, markup=False)
    else:
        evidence.write(arguments.markdown, text, force=arguments.force)


def _standings(records: Sequence[Record], known: dict[str, Entry], console: Console) -> None:
    for name in dict.fromkeys(record.case for record in records):
        if name not in known:
            continue
        mine = [record for record in records if record.case == name]
        case = known[name].case
        console.print(Text(name, "bold"), f"({case.package}#{case.number})")
        for claim in case.claims:
            found = standing.of_claim(claim, mine)
            console.print(f"  claim: {claim.text}\n    {found.word}: {found.because}", markup=False)
        fix = standing.of_fix(mine)
        if case.proposes and fix:
            console.print(f"  proposed fix ({case.proposes}): {fix}", markup=False)


def cmd_bundle(arguments: argparse.Namespace, console: Console) -> int:
    """Write a trial as an attachment."""
    from repros import bundle
    from repros.redact import Redactor
    from repros.uv import pip_settings

    places = [[arguments.run]] if arguments.run else results.newest_or_committed()
    entries = cases.having(cases.select(arguments.case, cases.find()), arguments.condition)
    record, records, e, folders, notices = bundle.look(places, entries, arguments.cell, arguments.condition)
    for notice in notices:
        print(notice, file=sys.stderr)
    name = re.sub(r"[^\w.=+-]+", "_", f"{e.name}-{record.condition}-{record.cell}")
    redactor = Redactor.here(settings=pip_settings())
    folder = arguments.out or results.REPORTS / "bundles" / name
    made = bundle.make(record, records, e, folder, redactor, folders[0], force=arguments.force)
    size = made.zip.stat().st_size / (1 << 20)
    console.print(f"{results.shown(made.folder)}: {record.condition} in {record.cell}: {record.verdict.value}",
                  markup=False)  # fmt: skip
    console.print(f"{results.shown(made.zip)}: {size:.2f} MiB", markup=False)
    for left in made.left_out:
        console.print(f"left out of the zip, which may have 25 MiB: {left}", markup=False)
    console.print(redactor.says(), markup=False)
    return EXIT_AS_EXPECTED


def cmd_stories(arguments: argparse.Namespace, console: Console) -> int:
    """Write the story of each report."""
    from repros.redact import Redactor
    from repros.report import story
    from repros.report.clean import redacted

    target = arguments.to or story.STORIES
    kept = files.Folder(target, "stories", force=arguments.force)
    redactor = Redactor.here()
    records = [redacted(record, redactor) for record in results.load_all(arguments.run)[0]]
    made = story.stories(records, {e.name: e for e in cases.find()}, [results.shown(run) for run in arguments.run])
    with kept:
        for name, text in made.items():
            kept.write(name, text)
    for name in made:
        console.print(results.shown(target / name), markup=False)
    return EXIT_AS_EXPECTED


def cmd_readme(arguments: argparse.Namespace, console: Console) -> int:
    """Refresh the README."""
    import json

    from repros.report import oracle, readme

    if arguments.benchmarks:
        figures = readme.trimmed(arguments.benchmarks)
        with files.Folder(arguments.evidence[0], "evidence", force=arguments.force) as out:
            out.write(readme.BENCHMARKS, json.dumps(figures, indent=1) + "\n")
    path = ROOT / "README.md"
    made = readme.blocks(arguments.evidence, {e.name: e for e in cases.find()}, arguments.card)
    made["oracle"] = oracle.block(ROOT / "reports")
    files.write(path, readme.refreshed(path.read_text(encoding="utf-8"), made))
    console.print(
        f"{results.shown(path)}: figures from {', '.join(map(results.shown, arguments.evidence))}", markup=False
    )
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


def cmd_wheelhouse(arguments: argparse.Namespace, console: Console) -> int:
    """Gather wheels."""
    from repros.wheelhouse import gather

    cells = load_matrix(MATRIX).tier(arguments.tier)
    wheels = gather(cells, arguments.out, python=arguments.python, slim=arguments.slim, force=arguments.force,
                    say=lambda text: console.print(text, markup=False))  # fmt: skip
    size = sum(wheel.stat().st_size for wheel in wheels)
    console.print(f"{len(wheels)} wheels, {size / 2**20:.1f} MiB, in {results.shown(arguments.out)}", markup=False)
    return EXIT_AS_EXPECTED


def cmd_lock(arguments: argparse.Namespace, console: Console) -> int:
    """Make locks anew."""
    from repros.locks import write_locks

    matrix = load_matrix(MATRIX)
    for path, changed in write_locks(matrix, root=ROOT, cells=matrix.tier(arguments.tier)).items():
        console.print(f"{results.shown(path)}{' (changed)' if changed else ''}", markup=False)
    return EXIT_AS_EXPECTED


def cmd_hunt(arguments: argparse.Namespace, console: Console) -> int:
    """Hunt, and write down what was found."""
    from repros.hunt.command import hunt

    matrix = load_matrix(MATRIX)
    (cell,) = chosen_cells(matrix, None, arguments.cell[-1:], [])
    stem = re.sub(r"\W", "_", f"hunt_{cell.label}")
    out = arguments.out or ROOT / "reports" / "runs" / stem
    options = {"seed": arguments.seed, "hide_known": arguments.hide_known, "force": arguments.force}
    others = matrix.tier(arguments.tier)
    found, faults = hunt(cell, others, arguments.minutes, out, say=lambda t: console.print(t, markup=False), **options)
    console.print(f"{len(found)} departures: {results.shown(out / 'README.md')}", markup=False)
    for life, text in faults.items():
        print(f"hunt: {life}: {text}\nhint: mend repros/reference, or the hunt's oracle", file=sys.stderr)
    return EXIT_FAULT if faults else EXIT_AS_EXPECTED


def cmd_findings(arguments: argparse.Namespace, console: Console) -> int:
    """Write cases or a page, or print a script, of what was found."""
    from repros.hunt import findings

    kept = findings.load(arguments.hunt)
    if arguments.page and arguments.finding:
        raise UserError("--page: it is of all findings of a hunt", "leave their names out")
    if arguments.script:
        chosen = kept.named(arguments.finding)
        if len(chosen) != 1:
            what = f"--script: it prints the script of one finding, not of {len(chosen)}"
            raise UserError(what, f"name one, e.g. {chosen[0].slug}")
        print(kept.script(chosen[0]), end="")
    elif arguments.page:
        with files.Folder(arguments.hunt, "hunt", force=arguments.force) as out:
            out.write("README.md", kept.page())
        print(f"wrote {results.shown(arguments.hunt / 'README.md')}")
    else:
        place = arguments.out or findings.place_of_cases(arguments.hunt)
        made = findings.write_cases(kept, arguments.finding, place, force=arguments.force)
        print(f"{len(made)} cases in {results.shown(place)}; next:")
        print(f"python -m repros run {results.shown(made[0])} --cell {kept.about['cell']}")
    return EXIT_AS_EXPECTED


def cmd_new(arguments: argparse.Namespace, console: Console) -> int:
    """Write a case file to start from."""
    from repros.scaffold import write_case

    path = write_case(arguments.package, arguments.number, arguments.slug)
    console.print(
        f"wrote {results.shown(path)}; next: fill in the claim, then `python -m repros run {path.stem}`", markup=False
    )
    return EXIT_AS_EXPECTED
