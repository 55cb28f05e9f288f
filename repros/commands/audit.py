"""``audit``: which reports hit the versions that somebody has, and what to do. Reads advisories; builds nothing."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.text import Text

from repros.advisory import decide, formats, ignore, installed, model, prove
from repros.advisory.decide import Answer, Finding
from repros.advisory.result import Result, feet, todo, trigger, useless
from repros.commands.arguments import EXIT_AS_EXPECTED, Add, a_file, number
from repros.errors import UserError
from repros.report.terminal import layout

EXIT_HIT = 1
FORMATS = {"json": formats.as_json, "markdown": formats.as_markdown, "sarif": formats.as_sarif}
#: Columns of a terminal in which what is said of a finding has room beside its severity and report.
SIDE_BY_SIDE = 100
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
    sub.add_argument("--timeout", type=number(0, 86400), metavar="S", default=prove.ALL_S,
                     help=f"seconds for all witnesses together ({prove.ALL_S:g})")  # fmt: skip


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
        proofs = proved(result, arguments.timeout, quiet=arguments.format != "table", console=console)
        result = replace(result, proofs=proofs)
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
    width = max((len(one.advisory.about.report) for one in result.findings), default=0)
    for title, found in (("", result.claimed), ("found beside these reports", result.beside)):
        if found and title:
            _say(console, f"\n{title}")
        for one in found:
            console.print(_row(one, result, width, console.width), soft_wrap=True)
    hits = [*result.claimed, *result.beside]
    reports = len({one.advisory.about.report for one in hits})
    _say(console, f"\n{len(hits)} hit, of {reports} report{'s' * (reports > 1)}" if hits else "no report hits")
    for line in feet(result):
        indent = len(line) - len(line.lstrip())
        first, *more = layout.wrapped(line.strip(), max(console.width - indent - 2, layout.LEAST)) or [""]
        _say(console, "\n".join([f"{' ' * indent}{first}", *(f"{' ' * indent}  {rest}" for rest in more)]))


def _row(one: Finding, result: Result, width: int, columns: int) -> Text:
    """Return the lines of a finding: severity and report, never cut, and beside them what is to be said of it."""
    severity = one.mechanism.severity
    row = Text(f"{severity:<{max(map(len, STYLES))}}", style=STYLES[severity])
    row.append(f"  {one.advisory.about.report:<{width}}", style="bold")
    row.append("  ")
    indent = len(row.plain)
    said = [(trigger(one, result.devices), "none"), *((f"→ {line}", "green") for line in todo(one))]
    said += [(f"does not help: {line}", "dim") for line in useless(one)]
    said += [(f"{vote} here: {says}", "bold") for vote, says in result.proofs_of(one).values()]
    if below := columns < SIDE_BY_SIDE:
        row.rstrip()
        indent = 4
    lines = [
        (line, style) for text, style in said for line in layout.wrapped(text, max(columns - indent, layout.LEAST))
    ]
    for at, (line, style) in enumerate(lines):
        row.append(f"\n{' ' * indent}" if at or below else "")
        row.append(line, style=style)
    return row


def proved(result: Result, timeout_s: float, *, quiet: bool, console: Console) -> dict[str, tuple[str, str]]:
    """Run the witnesses of what hits or is unknown, and say each vote as it comes."""
    assert result.found.python is not None

    def say(script: str, vote: str, says: str, seconds: float) -> None:
        if not quiet:
            _say(console, f"{vote:<5}{seconds:5.1f} s  {'/'.join(Path(script).parts[-2:])}: {says}")

    scripts = prove.witnesses(result.findings, result.devices)
    found = prove.prove(scripts, result.found.python, result.devices, say, timeout_s)
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
