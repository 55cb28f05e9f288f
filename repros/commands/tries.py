"""``try``: any Python script, unchanged, in cells or over the releases of a package."""

from __future__ import annotations

import argparse
import os
import platform
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from rich.console import Console

from repros import ROOT, files
from repros.bisect.releases import chosen, releases, version_of
from repros.bisect.revisions import Revision, any_package, of_script
from repros.cells import overlay
from repros.cells.envs import ensure
from repros.cells.matrix import Cell, load_matrix, overridden
from repros.cells.uv import of_machine, pip_settings
from repros.commands.arguments import (
    MATRIX,
    MOST_AT_ONCE,
    Add,
    Parser,
    a_file,
    a_folder,
    add_cell_options,
    add_force,
    cells_of,
    number,
    whole,
    with_rest,
)
from repros.errors import EnvError, UserError
from repros.evidence import committed
from repros.machine import sandbox
from repros.redaction.redact import Redactor
from repros.report import terminal, tries
from repros.report.kept import FILE, KeptTry, keep, redacted_try, sources_of
from repros.report.page import tries as page
from repros.report.tries import Row, Tries
from repros.run import results, script, vote
from repros.run.script import Runner, Script
from repros.run.session import machine_facts
from repros.run.vote import BAD, SKIP, Seen

#: What may be written of a try: the options' names, and what they write.
OUTPUTS = {
    "json": "all that was seen", "junit": "JUnit XML", "markdown": "the table, for an issue",
    "html": "a page: table, outputs, script",
}  # fmt: skip


def register(add: Add) -> None:
    """Add the command to the command line."""
    sub = add("try", cmd_try, "run any Python script in cells, or over releases: good, bad or skip in each")
    sub.add_argument("script", type=a_file, help="a Python script; its own arguments follow `--`")
    add_cell_options(sub)
    sub.add_argument("--package", help="try it over the releases of this package")
    sub.add_argument("--from", dest="first", metavar="V", help="oldest release (default: the oldest for this machine)")
    sub.add_argument("--to", dest="last", metavar="V", help="newest release (default: the newest)")
    sub.add_argument("--releases", metavar="V,V", help="these releases, in place of a range")
    sub.add_argument("--pre", action="store_true", help="take pre-releases too")
    sub.add_argument("--base", metavar="CELL", help="the cell whose other pins are kept (default: the newest of smoke)")
    add_script_options(sub)
    sub.add_argument("--no-meters", action="store_true", help="do not run it a second time, under the memory meters")
    sub.add_argument("--jobs", type=whole(1, MOST_AT_ONCE), help="scripts at a time (default: cores, 4 at most)")
    sub.add_argument("--reports", type=a_folder, help="folder in place of reports/")
    for name, what in OUTPUTS.items():
        sub.add_argument(f"--{name}", type=a_file, metavar="FILE", help=f"write {what} (`-`: print it)")
    add_force(sub)


def add_script_options(sub: Parser) -> None:
    """Add the options of a script's runs and vote."""
    sub.add_argument("--bad-if", metavar="RULE", help=f"what is bad: {vote.FORMS} (default: exit)")
    sub.add_argument("--timeout", type=number(0, 86400), metavar="S", default=60.0, help="seconds for a run (60)")
    sub.add_argument("--memory", type=number(0, 4096), metavar="GIB", help="address space of a run (12 GiB)")
    sub.add_argument("--sandbox", choices=("auto", "off"), default="auto",
                     help="off: the script runs with your rights, also where bubblewrap is installed")  # fmt: skip


def script_of(arguments: argparse.Namespace, path: Path, say: Callable[[str], None]) -> Script:
    """Return the script that the options name; say in a line where nothing holds it."""
    why = "" if arguments.sandbox == "off" else sandbox.missing()
    if why or arguments.sandbox == "off":
        say(f"{why or '--sandbox off'}: {path.name} runs with your rights, network and files included")
    how = {"memory_bytes": int(arguments.memory * 2**30)} if arguments.memory else {}
    sandboxed = arguments.sandbox != "off" and not why
    return script.read(path, arguments.rest, timeout_s=arguments.timeout, sandboxed=sandboxed, **how)


def cmd_try(arguments: argparse.Namespace, console: Console) -> int:
    """Try a script in each place, print the table, write what was asked for."""
    outputs = {name: getattr(arguments, name) for name in OUTPUTS}
    for path in filter(None, outputs.values()):
        committed.check(path, force=arguments.force)
    rule = vote.parse(arguments.bad_if) if arguments.bad_if else vote.EXIT
    where, rest = _places(arguments)
    where = _with_good(where, rule)
    err = terminal.console(stderr=True)
    say = partial(err.print, markup=False, soft_wrap=True)
    mine = script_of(arguments, arguments.script, say)
    needs = overlay.declared(mine.name, mine.text, platform.python_version())
    results.written_to(arguments.reports)
    home = home_of(arguments.script, arguments.reports)
    files.claim(home, "tries")
    (home / "logs").mkdir(exist_ok=True)
    (home / FILE).unlink(missing_ok=True)  # it is of the logs that are now written over
    date = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    runner = Runner(mine, home / "logs")
    place = _Place(runner, needs, not arguments.no_meters or rule.metered, say)
    jobs = 1 if rule.name == "seconds" else arguments.jobs or min(4, os.cpu_count() or 1)
    with ThreadPoolExecutor(jobs, thread_name_prefix="script") as pool:
        try:
            seen = list(pool.map(place.run, where))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            runner.stop()
            raise
    if all(one.ending.startswith(overlay.CONTRADICTS) for one, _ in seen):
        raise UserError(f"{mine.name} in {where[0].name}: {seen[0][0].ending}", "change its `dependencies`")
    found = Tries(mine.name, rule.text, any_package(arguments.package) if arguments.package else "cell",
                  _voted(rule, where, seen), rest)  # fmt: skip
    machine = machine_facts()
    where_from = str(arguments.script.absolute())
    kept = KeptTry(found, sources_of(mine), mine.args, where_from, _asked(arguments.script), date, machine)
    keep(kept, home)
    tries.show_all(found, console)
    console.print(f"what it printed: {results.shown(home / 'logs')}", markup=False, soft_wrap=True)
    _hint(found, console)
    clean = Redactor.here(settings=pip_settings())
    shown = redacted_try(kept, clean)
    makes: dict[str, Callable[[], str]] = {
        "junit": lambda: tries.junit(shown.tries),
        "markdown": lambda: tries.page(shown.tries, shown.command),
        "html": lambda: page.page(shown, clean.says()),
    }
    for name, make in makes.items():
        if outputs[name]:
            committed.write(outputs[name], make(), force=arguments.force)
    if arguments.json and str(arguments.json) != "-":
        files.write(arguments.json, tries.as_json(shown.tries))  # unsigned: JSON has no comments
    elif arguments.json:
        print(tries.as_json(shown.tries), end="")
    return tries.code_of(found.rows)


def home_of(script: Path, reports: Path | None = None) -> Path:
    """Return the folder in which the newest try of a script is kept."""
    return (reports or results.REPORTS) / "runs" / f"try-{script.stem}"


def _asked(path: Path) -> list[str]:
    """Return the words of the command, the script by its name alone, without where its results go."""
    words, rest = with_rest(sys.argv[1:])
    found = [path.name if word == str(path) else word for word in words if word != "--force"]
    for option in (*(f"--{name}" for name in OUTPUTS), "--reports"):
        found = [word for word in found if not word.startswith(f"{option}=")]
        if option in found:
            at = found.index(option)
            del found[at : at + 2]
    return [*found, *(["--", *rest] if rest else [])]


def _places(arguments: argparse.Namespace) -> tuple[list[Revision], str]:
    """Return where to try it: cells, or releases in place of a cell's pin; for these also what the rest is as in."""
    ranged = [f"--{name}" for name, value in (("from", arguments.first), ("to", arguments.last),
              ("releases", arguments.releases), ("base", arguments.base)) if value]  # fmt: skip
    if not arguments.package:
        if ranged:
            raise UserError(f"{ranged[0]} without --package", "name one, such as `--package transformers`")
        return [Revision(cell.label, cell) for cell in cells_of(arguments)], ""
    if arguments.cell or arguments.tier:
        raise UserError("--package with --cell or --tier", "name the cell whose other pins are kept with `--base`")
    package = any_package(arguments.package)
    base = base_of(arguments.base, arguments.overrides)
    known = releases(package)
    if arguments.releases:
        wanted = [version_of(package, known, word.strip()) for word in arguments.releases.split(",")]
        walk = tuple(r for r in known if r.version in wanted)
    else:
        walk = chosen(package, known, arguments.first, arguments.last, pre=arguments.pre, yanked=True)
    return list(of_script(package, walk, base)), base.label


def base_of(name: str | None, overrides: Sequence[str]) -> Cell:
    """Return the cell whose other pins are kept: the one named, else the newest of tier `smoke`."""
    matrix = load_matrix(MATRIX)
    return overridden(matrix.cell(name) if name else matrix.tier("smoke")[-1], overrides)


def _with_good(where: list[Revision], rule: vote.Rule) -> list[Revision]:
    """Return the places with the good cell that the rule names, first where it is none of them."""
    names = [place.name for place in where]
    if not rule.cell or rule.cell in names:
        return where
    return [Revision(rule.cell, load_matrix(MATRIX).cell(rule.cell)), *where]


class _Place:
    """Makes an environment ready and runs the script in it."""

    def __init__(self, runner: Runner, needs: Sequence[str], meters: bool, say: Callable[[str], None]) -> None:
        self._runner, self._needs, self._meters, self._say = runner, needs, meters, say

    def run(self, place: Revision) -> tuple[Seen, dict[str, str]]:
        """Return what was seen there, and the installed packages; UserError for trouble of the machine."""
        if place.problem:
            return Seen(None, place.problem), {}
        try:
            environment = ensure(place.cell, root=ROOT, progress=self._say)
            laid = overlay.lay(environment, self._needs, self._runner.script.name)
        except EnvError as error:
            if of_machine(error):
                raise
            return Seen(None, error.what.partition(": ")[2] or error.what), {}
        seen = self._runner.run(environment, place.name, paths=[laid] if laid else [], meters=self._meters)
        self._say(f"{place.name}: {seen.reason}")
        return seen, dict(environment.resolved)


def _voted(rule: vote.Rule, where: Sequence[Revision], seen: Sequence[tuple[Seen, dict[str, str]]]) -> list[Row]:
    against = next((one for place, (one, _) in zip(where, seen, strict=True) if place.name == rule.cell), None)
    votes = vote.settled(vote.cast(rule, one, against) for one, _ in seen)
    found = []
    for place, (one, packages), (word, reason) in zip(where, seen, votes, strict=True):
        yanked = " (a yanked release)" if place.date.endswith("yanked") else ""
        found.append(Row(place.name, word, f"{reason}{yanked}", one, packages))
    return found


def _hint(found: Tries, console: Console) -> None:
    """Say how to take one failure for the bad one, where there are several, in a command that runs as it is printed."""
    first = next((one.seen.exception for one in found.rows if one.vote == BAD), ())
    if first and any(one.vote == SKIP and one.reason.startswith("another failure") for one in found.rows):
        words, rest = with_rest(sys.argv[1:])
        more = ["--bad-if", f"raises {first[0]}", *(["--", *rest] if rest else [])]
        command = shlex.join(["python", "-m", "repros", *words, *more])
        console.print(f"hint: one failure alone: {command}", markup=False, soft_wrap=True)
