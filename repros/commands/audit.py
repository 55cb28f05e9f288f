"""``audit``: which reports hit the versions that somebody has, and what to do. Reads advisories; builds nothing."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from repros.advisory import decide, formats, ignore, installed, model, prove
from repros.advisory.decide import Answer, Finding
from repros.advisory.result import Result, feet, todo, trigger
from repros.commands.arguments import EXIT_AS_EXPECTED, Add, a_file
from repros.errors import UserError

EXIT_HIT = 1
FORMATS = {"json": formats.as_json, "markdown": formats.as_markdown, "sarif": formats.as_sarif}
STYLES = {"wrong numbers": "red", "memory": "yellow", "raises": "magenta"}


def register(add: Add) -> None:
    """Add the command to the command line."""
    sub = add("audit", cmd_audit, "say which reports hit your versions, what triggers them and what to do")
    sub.add_argument("versions", nargs="*", metavar="PACKAGE==VERSION", help="versions, in place of what is found")
    where = sub.add_mutually_exclusive_group()
    where.add_argument("--python", type=Path, metavar="PATH", help="an interpreter, or an environment's folder")
    where.add_argument(
        "--requirement", "-r", type=a_file, metavar="FILE",
        help="requirements, a lock such as uv.lock, or what `pip freeze` printed (`-`: stdin)",
    )  # fmt: skip
    sub.add_argument("--device", choices=("cpu", "cuda", "any"), default="",
                     help="where it runs (default: what this machine has; any for versions of elsewhere)")  # fmt: skip
    sub.add_argument("--ignore", type=a_file, metavar="FILE", help="lines of a report (or a case) and a reason")
    sub.add_argument("--format", choices=("table", *FORMATS), default="table", help="how it is printed")
    sub.add_argument("--strict", action="store_true", help="exit 1 too where something is unknown")
    sub.add_argument("--prove", action="store_true", help="run the witnesses of what is listed in that interpreter")


def cmd_audit(arguments: argparse.Namespace, console: Console) -> int:
    """Print what hits, and exit 1 where something does."""
    found = found_by(arguments)
    installed.check(found)
    if arguments.prove and (found.python is None or arguments.versions):
        raise UserError("--prove: witnesses run in an interpreter", "name one: `repros audit --prove --python PATH`")
    given = installed.given(found, arguments.device)
    known = decide.findings(model.load(), given)
    ignored = ignore.read(arguments.ignore) if arguments.ignore else []
    left, out, unused = ignore.split(known, ignored)
    result = Result(found, given.devices, left, out, unused)
    if arguments.prove:
        result = replace(result, proofs=proved(result, quiet=arguments.format != "table", console=console))
    if arguments.format == "table":
        table(result, console)
    else:
        print(FORMATS[arguments.format](result))
    hit = result.of(Answer.HIT) or (arguments.strict and result.of(Answer.UNKNOWN))
    return EXIT_HIT if hit else EXIT_AS_EXPECTED


def found_by(arguments: argparse.Namespace) -> installed.Found:
    """Return the versions that the options name: words, over those of a file or an interpreter."""
    if arguments.requirement:
        return installed.with_words(installed.of_file(arguments.requirement), arguments.versions)
    if arguments.python or not arguments.versions:
        return installed.with_words(installed.of_interpreter(arguments.python), arguments.versions)
    return installed.with_words(None, arguments.versions)


def table(result: Result, console: Console) -> None:
    """Print a row a finding, the worst first, and what else is to be said."""
    _say(console, f"{result.found.source}: {formats.versions(result)}")
    for title, rows in (("", result.claimed), ("found beside these reports", result.beside)):
        if rows and title:
            _say(console, f"\n{title}")
        if rows:
            console.print(_table(rows, result))
    hits = len(result.of(Answer.HIT))
    reports = len({one.advisory.about.report for one in result.of(Answer.HIT)})
    _say(console, f"{hits} hit, of {reports} reports" if hits else "no report hits")
    for line in feet(result):
        _say(console, line)


def _table(rows: Iterable[Finding], result: Result) -> Table:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True, overflow="fold")
    grid.add_column(no_wrap=True, overflow="fold")
    grid.add_column(overflow="fold")
    for one in rows:
        text = Text(trigger(one, result.devices))
        for line in todo(one):
            text.append(f"\n→ {line}", style="green" if "no release" not in line else "dim")
        for script, (vote, says) in result.proofs.items():
            if script in {each.condition.witness for each in one.of_answer}:
                text.append(f"\n{vote} here: {says}", style="bold")
        severity = one.mechanism.severity
        grid.add_row(Text(severity, style=STYLES[severity]), Text(one.advisory.about.report), text)
    return grid


def proved(result: Result, *, quiet: bool, console: Console) -> dict[str, tuple[str, str]]:
    """Run the witnesses of what hits or is unknown, and say each vote as it comes."""
    assert result.found.python is not None

    def say(script: str, vote: str, says: str, seconds: float) -> None:
        if not quiet:
            _say(console, f"{vote:<5}{seconds:5.1f} s  {'/'.join(Path(script).parts[-2:])}: {says}")

    scripts = prove.witnesses(result.findings, result.devices)
    found = prove.prove(scripts, result.found.python, say)
    votes = [vote for vote, _ in found.values()]
    if not quiet:
        words = ", ".join(
            f"{votes.count(vote)} {word}"
            for vote, word in (("bad", "bad"), ("good", "good"), ("skip", "could not tell"))
        )
        _say(console, f"{len(found)} witnesses: {words}\n")
    return found


def _say(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)
