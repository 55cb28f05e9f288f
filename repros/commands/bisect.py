"""``python -m repros bisect`` and ``probe``: options in, searches run, answers out."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path

from rich.console import Console

from repros import ROOT, cases
from repros.bisect import commits
from repros.bisect.bisection import Bisection, Probing, Walk
from repros.bisect.probe import Kept, Workshop
from repros.bisect.releases import Release, chosen, releases, version_of
from repros.bisect.revisions import Revision, any_package, of_releases, of_script, package_named, ruled_out
from repros.bisect.scripts import ScriptEntry
from repros.bisect.search import BAD, GOOD, SCAN, Result, Search, Votes
from repros.cells import overlay
from repros.cells.envs import ensure
from repros.cells.matrix import Cell, Matrix, load_matrix, overridden, with_followers
from repros.cells.overrides import is_version
from repros.commands.arguments import (
    MATRIX,
    MOST_AT_ONCE,
    Add,
    a_file,
    a_folder,
    add_executor,
    check_executor,
    number,
    whole,
)
from repros.commands.tries import add_script_options, base_of, script_of
from repros.errors import EnvError, UserError
from repros.files import FORCED
from repros.machine.git import git
from repros.run import results, vote
from repros.run.trial import Trial

#: git's convention for `git bisect run`: anything from 128 up ends the bisection in place of casting a vote.
EXIT_GOOD, EXIT_BAD, EXIT_SKIP, EXIT_ABORT, EXIT_FAULT, EXIT_INTERRUPTED = 0, 1, 125, 128, 129, 130


def register(add: Add) -> None:
    """Add the two commands to the command line."""
    bisect = add("bisect", cmd_bisect, "find the releases or commits between which a bug came and went")
    bisect.add_argument("case", nargs="*", help="a case's name, or the number of its report (gh1927)")
    bisect.add_argument("--script", type=a_file, help="a Python script in place of a case; its arguments follow `--`")
    add_script_options(bisect)
    bisect.add_argument("--package", required=True, help="the package to walk; `auto`: find it between two cells")
    bisect.add_argument("--condition", default="*", help="names of conditions, or globs, separated by blanks")
    bisect.add_argument("--base", metavar="CELL", help="the cell whose other pins are kept (default: one recorded bad)")
    bisect.add_argument(
        "--from",
        dest="first",
        metavar="V",
        help="oldest release (default: the matrix's oldest, for a script the index's)",
    )
    bisect.add_argument("--to", dest="last", metavar="V", help="newest release (default: the newest)")
    bisect.add_argument("--known-bad", action="append", default=[], metavar="V", help="a release that has the bug")
    bisect.add_argument("--pre", action="store_true", help="take pre-releases too")
    bisect.add_argument("--repo", type=a_folder, metavar="PATH", help="walk the commits of this clone")
    bisect.add_argument("--good", metavar="REV", help="with --repo: a good commit; with `auto`: a good cell")
    bisect.add_argument("--bad", metavar="REV", help="with --repo: a bad commit; with `auto`: a bad cell")
    bisect.add_argument("--any-signature", action="store_true", help="take any reproduction for the same bug")
    bisect.add_argument(
        "--racy", type=number(0, 1), metavar="SHARE", help="share of tries in which a bad revision shows it"
    )
    bisect.add_argument(
        "--scan", type=whole(0, 1000), default=SCAN, help=f"tries where both ends agree (default: {SCAN})"
    )
    bisect.add_argument("--at-once", type=whole(1, MOST_AT_ONCE), metavar="K",
                        help="revisions probed side by side (default: 1; on a cluster one a worker)")  # fmt: skip
    add_executor(bisect)
    bisect.add_argument(
        "--ahead",
        type=whole(0, MOST_AT_ONCE),
        default=2,
        metavar="N",
        help="environments made ahead (default: 2; busy: 0)",
    )
    bisect.add_argument("--no-confirm", action="store_true", help="do not try the neighbours of an edge again")
    bisect.add_argument("--retry", action="store_true", help="probe again what ended in an error or a timeout")
    bisect.add_argument("--reports", type=a_folder, help="folder in place of reports/")
    bisect.add_argument("--commit-to", type=a_folder, metavar="DIR", help="keep probes and page as evidence there")
    bisect.add_argument("--force", action="store_true", help=FORCED)
    probe = add("probe", cmd_probe, "say good (0), bad (1) or skip (125) of one state, for `git bisect run`")
    probe.add_argument("case", nargs="?")
    probe.add_argument("--script", type=a_file, help="a Python script in place of a case; its arguments follow `--`")
    add_script_options(probe)
    probe.add_argument("--condition", help="the name of one condition")
    probe.add_argument("--base", metavar="CELL", help="the cell to try it in (for a script: the newest of smoke)")
    probe.add_argument("--package", help="the package that --source holds")
    probe.add_argument(
        "--source", type=a_folder, metavar="PATH", help="a clone: its worktree stands in for the package"
    )
    probe.add_argument("--with", action="append", default=[], dest="overrides", metavar="PACKAGE=SPEC",
                       help="a version, wheel or checkout in place of a cell's pin")  # fmt: skip
    probe.add_argument(
        "--find-fix", action="store_true", help="swap the codes of good and bad, for git to find where a bug went"
    )
    probe.add_argument("--signature", help="take only a bug of this signature for bad; another one is a skip")


# --- bisect --------------------------------------------------------------------------------------


def cmd_bisect(arguments: argparse.Namespace, console: Console) -> int:
    """Find edges, print and keep the answer."""
    results.written_to(arguments.reports)
    check_executor(arguments, without=("script",))
    say: Callable[[str], None] = lambda text: console.print(text, markup=False, soft_wrap=True)  # noqa: E731
    if arguments.script:
        return _bisect_script(arguments, say)
    if not arguments.case:
        raise UserError("bisect: neither a case nor a script", "name a case, or a script with `--script`")
    matrix = load_matrix(MATRIX)
    named = arguments.base or (arguments.good if arguments.package == "auto" else None)
    targets = chosen_targets(arguments.case, arguments.condition, matrix.cell(named).device if named else "cpu")
    package, base = arguments.package, None
    if package == "auto":
        package, base, first, last = _descend(arguments, matrix, targets, say)
        arguments.first, arguments.last = first, last
    package = package_named(package)
    base = base or (matrix.cell(arguments.base) if arguments.base else _default_base(matrix, targets))
    votes = _votes(arguments.racy)
    names = "-".join(dict.fromkeys(entry.name.partition("_")[0] for entry, _ in targets))

    def walks() -> list[Walk]:
        if arguments.repo:
            return _commit_hunts(arguments, package, base, targets, votes)
        return _release_hunts(arguments, matrix, package, base, targets, votes)

    return _search(arguments, names, package, base, walks, say)


def modules(entries: Iterable[cases.Entry | ScriptEntry]) -> frozenset[str]:
    """Return the modules of cases; a script has none."""
    return frozenset(entry.module for entry in entries if isinstance(entry, cases.Entry))


def _bisect_script(arguments: argparse.Namespace, say: Callable[[str], None]) -> int:
    """Find edges of a script over the releases of any package, or over the commits of a clone."""
    if arguments.case or arguments.condition != "*":
        raise UserError("--script with a case or a condition", "leave them out: a script has neither")
    if arguments.package == "auto":
        raise UserError("--script with --package auto", "name the package")
    package, base = any_package(arguments.package), base_of(arguments.base, ())
    entry = entry_of(arguments, package, base, say)

    def walks() -> list[Walk]:
        if arguments.repo:
            rows = _commit_rows(arguments, package, base)
        else:
            known = releases(package)
            for bad in arguments.known_bad:
                version_of(package, known, bad)
            walk = chosen(package, known, arguments.first, arguments.last, pre=arguments.pre, yanked=True)
            rows = of_script(package, walk, base)
        able = tuple(revision for revision in rows if not revision.problem)
        out = tuple((revision, revision.problem) for revision in rows if revision.problem)
        if len(able) < 2:
            why = out[0][1] if out else "no revision"
            raise UserError(f"{entry.name}: {len(able)} revision(s) can be tried: {why}", "widen the range")
        hints = [i for i, revision in enumerate(able) if revision.name in arguments.known_bad]
        search = Search(len(able), hints=hints, scan=arguments.scan, votes=_votes(arguments.racy))
        hunt = Walk(entry, entry.rule.text, able, search, out, signatures=not arguments.any_signature)
        return _given(arguments, [hunt]) if arguments.repo else [hunt]

    return _search(arguments, arguments.script.stem, package, base, walks, say)


def entry_of(arguments: argparse.Namespace, package: str, base: Cell, say: Callable[[str], None]) -> ScriptEntry:
    """Return the script that the options name, with what is seen of it in the good cell of its rule."""
    script = script_of(arguments, arguments.script, say)
    rule = vote.parse(arguments.bad_if) if arguments.bad_if else vote.EXIT
    entry = ScriptEntry(script, rule, overlay.declared(script.name, script.text, platform.python_version()))
    if not rule.cell:
        return entry
    names = [cell.name for cell in load_matrix(MATRIX).cells]
    if rule.cell in names or not is_version(rule.cell):
        cell = load_matrix(MATRIX).cell(rule.cell)
    else:
        version_of(package, releases(package), rule.cell)
        cell = with_followers(base.with_pin(package, rule.cell), package)
    logs = results.REPORTS / "runs" / "probe" / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    return replace(entry, against=entry.see(ensure(cell, root=ROOT, progress=say), rule.cell, logs))


def _search(
    arguments: argparse.Namespace,
    names: str,
    package: str,
    base: Cell,
    walks: Callable[[], list[Walk]],
    say: Callable[[str], None],
) -> int:
    """Run searches to their end; print and keep the answer."""
    from repros.bisect import page as pages

    name = f"bisect-{names}-{package}-{'commits-' if arguments.repo else ''}{base.name}"
    home = ((arguments.reports or results.REPORTS) / "runs" / name).absolute()
    target = (arguments.commit_to or home).absolute()
    where = {"own": target == home, "force": arguments.force}
    pages.place(target, **where)  # it is refused before the work, not after it
    hunts = walks()
    kept = Kept(home)
    tried = modules([hunt.entry for hunt in hunts])
    with _probing(arguments, package, kept, tried, say) as (workshop, at_once):
        work = Bisection(
            hunts,
            kept,
            workshop,
            k=arguments.at_once or at_once,
            ahead=arguments.ahead,
            confirm=not arguments.no_confirm,
            retry=arguments.retry,
            say=say,
        )
        try:
            work.run()
        except EnvError as error:
            hint = f"{error.hint}; {work.ran} probe(s) of this call are kept, the same command goes on from there"
            raise UserError(error.what, hint) from None
    say(pages.summary(hunts, package, base))
    say(f"probes run: {work.ran}; kept in {results.shown(kept.path)}")
    pages.write(hunts, package, base, target, " ".join(["python -m repros", *_asked()]), **where)
    say(f"page: {results.shown(target / 'README.md')}")
    if arguments.script and not arguments.repo and hunts[0].answer().result is Result.NOT_REPRODUCED:
        ends = ["--from", hunts[0].revisions[0].name, "--to", hunts[0].revisions[-1].name, "--base", base.name]
        words = ["try", str(arguments.script), "--package", package, *ends]
        rest = ["--", *arguments.rest] if arguments.rest else []
        say(f"hint: where its output differs: {shlex.join(['python', '-m', 'repros', *words, *rest])}")
    return 0


@contextlib.contextmanager
def _probing(
    arguments: argparse.Namespace, package: str, kept: Kept, tried: frozenset[str], say: Callable[[str], None]
) -> Iterator[tuple[Probing, int]]:
    """Have what makes probes, here or on the workers of a cluster, and how many it makes at once if nobody says."""
    if arguments.executor == "dask":
        from repros.cluster.crew import crew
        from repros.cluster.probes import Elsewhere

        with crew(arguments.scheduler, arguments.at_once or os.cpu_count() or 1, say) as hands:
            yield Elsewhere(package, hands, tried), hands.workers
        return
    workshop = Workshop(package, kept.folder / "logs", say=say, cases=tried)
    try:
        yield workshop, 1
    finally:
        workshop.close()


def _asked() -> list[str]:
    """Return the words of the command, without where its results go, and without a path of this machine."""
    found = [word for word in sys.argv[1:] if word != "--force"]
    for option, shown in (("--commit-to", []), ("--reports", []), ("--repo", ["--repo", "PATH"])):
        if option in found:
            at = found.index(option)
            found[at : at + 2] = shown
    if "--script" in found[:-1]:
        at = found.index("--script") + 1
        found[at] = Path(found[at]).name
    return [shlex.quote(word) for word in found]


def chosen_targets(names: Sequence[str], condition: str, device: str) -> list[tuple[cases.Entry, str]]:
    """Return the cases and conditions for a device that the options name; UserError where there are none."""
    everything = cases.find()
    entries = list({e.name: e for name in names for e in cases.select(name, everything)}.values())
    globs = condition.split()
    pairs = [(e, c) for e in entries for c in e.case.conditions if any(fnmatchcase(c.name, glob) for glob in globs)]
    found = [(e, c.name) for e, c in pairs if c.device == device]
    if pairs and not found:
        raise UserError(f"{condition}: no condition of that name is for {device}", "name a base cell of its device")
    if not found:
        cases.refuse(entries, condition)
    return found


def _default_base(matrix: Matrix, targets: Sequence[tuple[cases.Entry, str]]) -> Cell:
    """Return the newest cell without a GPU in which the first condition is recorded as reproduced, else the newest."""
    entry, condition = targets[0]
    among = [cell for cell in matrix.cells if cell.device == "cpu" and "cpu" in cell.tiers]
    recorded = [cell for cell in among if _expected(entry, condition, cell.pins, cell.device)]
    return (recorded or among)[-1]


def _expected(entry: cases.Entry, name: str, pins: Mapping[str, str], device: str) -> bool:
    condition = entry.condition(name)
    return condition.device == device and Trial(entry, condition, "").expected(pins) is True


def _votes(racy: float | None) -> Votes:
    if racy is None:
        return Votes()
    return Votes(hit=min(racy, 0.999), false=0.001, sure=0.99, most=64)


def _release_hunts(
    arguments: argparse.Namespace,
    matrix: Matrix,
    package: str,
    base: Cell,
    targets: Sequence[tuple[cases.Entry, str]],
    votes: Votes,
) -> list[Walk]:
    known = releases(package)
    first = arguments.first or _default_first(matrix, package, known)
    walk = chosen(package, known, first, arguments.last, pre=arguments.pre)
    for bad in arguments.known_bad:
        version_of(package, known, bad)
    rows = of_releases(package, walk, base, matrix)
    return [_hunt(entry, condition, rows, package, arguments, votes) for entry, condition in targets]


def _default_first(matrix: Matrix, package: str, known: Sequence[Release]) -> str:
    """Return the oldest release on the package's axis, else the first of the two years before the newest."""
    if package in matrix.axes:
        return matrix.axes[package][0]
    newest = known[-1].uploaded[:4]
    since = str(int(newest) - 2) if newest.isdigit() else ""
    return str(next((r for r in known if r.uploaded[:4] >= since and not (r.pre or r.yanked)), known[0]))


def _hunt(
    entry: cases.Entry,
    condition: str,
    rows: Sequence[Revision],
    package: str,
    arguments: argparse.Namespace,
    votes: Votes,
) -> Walk:
    """Return one search over the revisions that its condition can be tried at."""
    reasons = [(revision, ruled_out(revision, entry.condition(condition))) for revision in rows]
    able = tuple(revision for revision, why in reasons if not why)
    out = tuple((revision, why) for revision, why in reasons if why)
    if len(able) < 2:
        why = out[0][1] if out else "no revision"
        raise UserError(f"{entry.name} [{condition}]: {len(able)} revision(s) can be tried: {why}", "widen the range")
    hints = [i for i, revision in enumerate(able) if revision.name in arguments.known_bad]
    if not able[0].source:
        hints += _recorded(entry, condition, able, package)
    search = Search(len(able), hints=hints, scan=arguments.scan, votes=votes)
    return Walk(entry, condition, able, search, out, signatures=not arguments.any_signature)


def _recorded(entry: cases.Entry, condition: str, able: Sequence[Revision], package: str) -> list[int]:
    """Return a point in each phase that the case's record speaks of, if there are two edges or more.

    A release that a cell pins is taken where there is one: the record was read from trials in it. The record only says
    where to look: each point is tried like any other.
    """
    cells = {cell.pins[package] for cell in load_matrix(MATRIX).cells}
    phases: list[list[int]] = []
    before = None
    for i, revision in enumerate(able):
        pins = {**revision.cell.pins, package: revision.name}
        now = _expected(entry, condition, pins, revision.cell.device)
        if now != before:
            phases.append([])
        phases[-1].append(i)
        before = now
    if len(phases) < 3:
        return []
    pinned = [[i for i in phase if able[i].name in cells] or phase for phase in phases]
    return [phase[len(phase) // 2] for phase in pinned]


def _commit_hunts(
    arguments: argparse.Namespace,
    package: str,
    base: Cell,
    targets: Sequence[tuple[cases.Entry, str]],
    votes: Votes,
) -> list[Walk]:
    rows = _commit_rows(arguments, package, base)
    return _given(arguments, [_hunt(entry, name, rows, package, arguments, votes) for entry, name in targets])


def _commit_rows(arguments: argparse.Namespace, package: str, base: Cell) -> tuple[Revision, ...]:
    for name in ("good", "bad"):
        if not getattr(arguments, name):
            raise UserError(f"--repo without --{name}", "name both ends: `--good REV --bad REV`")
    return commits.commits(arguments.repo, package, arguments.good, arguments.bad, base)


def _given(arguments: argparse.Namespace, hunts: list[Walk]) -> list[Walk]:
    """Tell each search what the user said of its ends."""
    for hunt in hunts:
        given: dict[int, str] = {}
        for word in (GOOD, BAD):
            sha = git(arguments.repo, "rev-parse", f"{getattr(arguments, word)}^{{commit}}").strip()[:10]
            given |= {i: word for i, revision in enumerate(hunt.revisions) if revision.name == sha}
        hunt.given = given
    return hunts


def _descend(
    arguments: argparse.Namespace,
    matrix: Matrix,
    targets: Sequence[tuple[cases.Entry, str]],
    say: Callable[[str], None],
) -> tuple[str, Cell, str, str]:
    """Find the package that carries the change between two cells; return it, the base, and its ends in order."""
    from repros.bisect.suspects import between_cells

    if not (arguments.good and arguments.bad):
        raise UserError("--package auto without --good and --bad", "name two cells: `--good CELL --bad CELL`")
    if len(targets) > 1:
        raise UserError(f"--package auto with {len(targets)} conditions", "name one with `--condition`")
    good, bad = matrix.cell(arguments.good), matrix.cell(arguments.bad)
    kept = Kept((arguments.reports or results.REPORTS) / "runs" / f"suspects-{targets[0][0].name}")
    return between_cells(targets[0][0], targets[0][1], good, bad, matrix, kept, say)


# --- probe ---------------------------------------------------------------------------------------


def cmd_probe(arguments: argparse.Namespace, console: Console) -> int:
    """Try one state; print one JSON line; return git's exit code."""
    from repros.bisect.search import is_bad

    say: Callable[[str], None] = lambda text: print(text, file=sys.stderr)  # noqa: E731
    entry: cases.Entry | ScriptEntry
    if arguments.script:
        cell = base_of(arguments.base, arguments.overrides)
        package = any_package(arguments.package or "transformers")
        entry = entry_of(arguments, package, cell, say)
        condition = entry.rule.text
    else:
        if not (arguments.case and arguments.condition and arguments.base):
            raise UserError("probe: a case, --condition and --base are needed", "or name a script with `--script`")
        entry, condition = only(arguments.case, arguments.condition), arguments.condition
        cell = overridden(load_matrix(MATRIX).cell(arguments.base), arguments.overrides)
        package = package_named(arguments.package or entry.case.package)
    if arguments.source:
        revision = commits.worktree(arguments.source, package, cell)
    else:
        revision = Revision(cell.pins.get(package, cell.name), cell)
    logs = results.REPORTS / "runs" / "probe" / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    quiet = Workshop(package, logs, say=say, cases=modules([entry]))
    why = "" if isinstance(entry, ScriptEntry) else ruled_out(revision, entry.condition(condition))
    try:
        if why:
            facts: dict[str, object] = {"verdict": "unsupported", "votes": ["skip"], "reason": why}
            said = "skip"
        else:
            probe = quiet.try_here(entry, condition, revision, quiet.prepare(revision), False)
            said = probe.votes[0] if len(set(probe.votes)) == 1 else "skip"
            facts = json.loads(probe.to_line())
    finally:
        quiet.close()
    if is_bad(said) and arguments.signature and said != f"{BAD}: {arguments.signature}":
        said = "skip"
    code = EXIT_SKIP if said == "skip" else EXIT_BAD if is_bad(said) else EXIT_GOOD
    word = {EXIT_GOOD: "good", EXIT_BAD: "bad", EXIT_SKIP: "skip"}[code]
    name = {"case": entry.name, "condition": condition, "revision": revision.name}
    shown = {"probe": word, **name, "signature": said.partition(": ")[2] if code == EXIT_BAD else "", **facts}
    shown = {key: value for key, value in shown.items() if key not in ("schema", "kind", "identity", "fresh")}
    print(json.dumps(shown, separators=(",", ":")))
    return EXIT_GOOD + EXIT_BAD - code if arguments.find_fix and code != EXIT_SKIP else code


def only(name: str, condition: str) -> cases.Entry:
    """Return the one case of that name that has the condition; UserError where a number stands for several."""
    found = cases.having(cases.select(name, cases.find()), condition)
    if all(condition != one.name for e in found for one in e.case.conditions):
        cases.refuse(found, condition)
    if len(found) > 1:
        raise UserError(f"`{name}` is {len(found)} cases", f"name one: {', '.join(e.name for e in found)}")
    return found[0]


def as_probe(code: int) -> int:
    """Return the exit code that `git bisect run` must see for one of the other commands' codes."""
    return (
        code
        if code in (EXIT_GOOD, EXIT_BAD, EXIT_SKIP)
        else {130: EXIT_INTERRUPTED, 3: EXIT_FAULT}.get(code, EXIT_ABORT)
    )
