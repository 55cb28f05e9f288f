"""``python -m repros bisect`` and ``probe``: options in, searches run, answers out."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase

from rich.console import Console

from repros import cases
from repros.bisect import commits
from repros.bisect.bisection import Bisection, Walk
from repros.bisect.probe import Kept, Workshop
from repros.bisect.releases import Release, chosen, releases, version_of
from repros.bisect.revisions import Revision, of_releases, package_named, ruled_out
from repros.bisect.search import BAD, GOOD, SCAN, Search, Votes
from repros.cells.matrix import Cell, Matrix, load_matrix, overridden
from repros.commands.arguments import MATRIX, MOST_AT_ONCE, Add, a_folder, number, whole
from repros.errors import EnvError, UserError
from repros.files import FORCED, check_root
from repros.run import results
from repros.run.trial import Trial

#: git's convention for `git bisect run`: anything from 128 up ends the bisection in place of casting a vote.
EXIT_GOOD, EXIT_BAD, EXIT_SKIP, EXIT_ABORT, EXIT_FAULT, EXIT_INTERRUPTED = 0, 1, 125, 128, 129, 130


def register(add: Add) -> None:
    """Add the two commands to the command line."""
    bisect = add("bisect", cmd_bisect, "find the releases or commits between which a bug came and went")
    bisect.add_argument("case", nargs="+", help="a case's name, or the number of its report (gh1927)")
    bisect.add_argument("--package", required=True, help="the package to walk; `auto`: find it between two cells")
    bisect.add_argument("--condition", default="*", help="names of conditions, or globs, separated by blanks")
    bisect.add_argument("--base", metavar="CELL", help="the cell whose other pins are kept (default: one recorded bad)")
    bisect.add_argument("--from", dest="first", metavar="V", help="oldest release (default: the matrix's oldest)")
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
    bisect.add_argument(
        "--at-once", type=whole(1, MOST_AT_ONCE), default=1, metavar="K", help="revisions probed side by side"
    )
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
    probe.add_argument("case")
    probe.add_argument("--condition", required=True, help="the name of one condition")
    probe.add_argument("--base", required=True, metavar="CELL", help="the cell to try it in")
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
    from repros.bisect import page as pages

    if arguments.reports:
        check_root(arguments.reports)
    matrix = load_matrix(MATRIX)
    named = arguments.base or (arguments.good if arguments.package == "auto" else None)
    targets = chosen_targets(arguments.case, arguments.condition, matrix.cell(named).device if named else "cpu")
    say: Callable[[str], None] = lambda text: console.print(text, markup=False, soft_wrap=True)  # noqa: E731
    package, base = arguments.package, None
    if package == "auto":
        package, base, first, last = _descend(arguments, matrix, targets, say)
        arguments.first, arguments.last = first, last
    package = package_named(package)
    base = base or (matrix.cell(arguments.base) if arguments.base else _default_base(matrix, targets))
    votes = _votes(arguments.racy)
    names = "-".join(dict.fromkeys(entry.name.partition("_")[0] for entry, _ in targets))
    name = f"bisect-{names}-{package}-{'commits-' if arguments.repo else ''}{base.name}"
    home = ((arguments.reports or results.REPORTS) / "runs" / name).absolute()
    target = (arguments.commit_to or home).absolute()
    where = {"own": target == home, "force": arguments.force}
    pages.place(target, **where)  # it is refused before the work, not after it
    if arguments.repo:
        hunts = _commit_hunts(arguments, package, base, targets, votes)
    else:
        hunts = _release_hunts(arguments, matrix, package, base, targets, votes)
    kept = Kept(home)
    workshop = Workshop(package, kept.folder / "logs", say=say)
    work = Bisection(
        hunts,
        kept,
        workshop,
        k=arguments.at_once,
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
    finally:
        workshop.close()
    text = pages.summary(hunts, package, base)
    console.print(text, markup=False, soft_wrap=True)
    console.print(f"probes run: {work.ran}; kept in {results.shown(kept.path)}", markup=False)
    pages.write(hunts, package, base, target, " ".join(["python -m repros", *_asked()]), **where)
    console.print(f"page: {results.shown(target / 'README.md')}", markup=False)
    return 0


def _asked() -> list[str]:
    """Return the words of the command, without where its results go, and without a path of this machine."""
    found = [word for word in sys.argv[1:] if word != "--force"]
    for option, shown in (("--commit-to", []), ("--reports", []), ("--repo", ["--repo", "PATH"])):
        if option in found:
            at = found.index(option)
            found[at : at + 2] = shown
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
    for name in ("good", "bad"):
        if not getattr(arguments, name):
            raise UserError(f"--repo without --{name}", "name both ends: `--good REV --bad REV`")
    rows = commits.commits(arguments.repo, package, arguments.good, arguments.bad, base)
    hunts = [_hunt(entry, condition, rows, package, arguments, votes) for entry, condition in targets]
    for hunt in hunts:
        given: dict[int, str] = {}
        for word in (GOOD, BAD):
            sha = commits.git(arguments.repo, "rev-parse", f"{getattr(arguments, word)}^{{commit}}").strip()[:10]
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

    entry = only(arguments.case, arguments.condition)
    condition = entry.condition(arguments.condition)
    cell = overridden(load_matrix(MATRIX).cell(arguments.base), arguments.overrides)
    package = package_named(arguments.package or entry.case.package)
    if arguments.source:
        revision = commits.worktree(arguments.source, package, cell)
    else:
        revision = Revision(cell.pins[package], cell)
    quiet = Workshop(
        package, results.REPORTS / "runs" / "probe" / "logs", say=lambda text: print(text, file=sys.stderr)
    )
    (results.REPORTS / "runs" / "probe" / "logs").mkdir(parents=True, exist_ok=True)
    why = ruled_out(revision, condition)
    try:
        if why:
            facts: dict[str, object] = {"verdict": "unsupported", "votes": ["skip"], "reason": why}
            vote = "skip"
        else:
            probe = quiet.try_here(entry, condition.name, revision, quiet.prepare(revision), False)
            vote = probe.votes[0] if len(set(probe.votes)) == 1 else "skip"
            facts = json.loads(probe.to_line())
    finally:
        quiet.close()
    if is_bad(vote) and arguments.signature and vote != f"{BAD}: {arguments.signature}":
        vote = "skip"
    code = EXIT_SKIP if vote == "skip" else EXIT_BAD if is_bad(vote) else EXIT_GOOD
    word = {EXIT_GOOD: "good", EXIT_BAD: "bad", EXIT_SKIP: "skip"}[code]
    name = {"case": entry.name, "condition": condition.name, "revision": revision.name}
    shown = {"probe": word, **name, "signature": vote.partition(": ")[2] if code == EXIT_BAD else "", **facts}
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
