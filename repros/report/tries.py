"""What a script did in each cell or release: a table for a terminal and for an issue, JUnit, JSON.

The table shows what differs: votes, how it ended, outputs in groups of equal ones, and the figures that are not the
same everywhere.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from xml.etree import ElementTree as Xml

from rich.console import Console

from repros.redaction.redact import Redactor
from repros.report import layout
from repros.report.escape import Safe, code, fence, head, line, markdown, row
from repros.report.layout import Column
from repros.run.vote import BAD, FIGURES, GOOD, METERED, NO_CONTROLS, SKIP, Seen
from repros.verdict import show

STYLES = {BAD: "bold red", GOOD: "green", SKIP: "dim"}
#: Lines of a difference between two outputs that are shown.
MOST_LINES = 16
#: Characters of a reason beyond which it is rather broken than a figure left out.
LEAST_REASON = 24
#: Of these a figure that two runs would not share differs only beyond so much: a share, and bytes.
NOISE, NOISE_BYTES = 0.1, 4 << 20
_NOISY = ("peak_rss_bytes", "peak_heap_bytes")


@dataclass(frozen=True)
class Row:
    """A script in one cell or release."""

    name: str
    vote: str
    reason: str
    seen: Seen = field(default_factory=Seen)
    packages: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Tries:
    """A script over cells, or over the releases of a package."""

    script: str
    rule: str
    over: str
    """``cell``, or the package whose releases are the rows."""
    rows: Sequence[Row]
    rest: str = ""
    """What the rest is as in, for releases."""

    @property
    def places(self) -> str:
        """Return in words what the rows are: ``cells``, or the releases of a package."""
        return "cells" if self.over == "cell" else f"releases of {self.over}"


def redacted(tries: Tries, clean: Redactor) -> Tries:
    """Return it with nothing private in any word; pages escape afterwards, which may hide a secret's form."""
    rows = []
    for one in tries.rows:
        seen = replace(
            one.seen,
            ending=clean.text(one.seen.ending),
            exception=tuple(map(clean.text, one.seen.exception)),
            text=clean.text(one.seen.text),
            output=clean.text(one.seen.output),
        )
        packages = clean.value(dict(one.packages))
        rows.append(Row(clean.text(one.name), one.vote, clean.text(one.reason), seen, packages))
    words = {name: clean.text(getattr(tries, name)) for name in ("script", "rule", "over", "rest")}
    return Tries(**words, rows=rows)


def code_of(rows: Sequence[Row]) -> int:
    """Return the exit code: 0 all good, 1 some bad, 125 where nothing was good or bad; what skips decides nothing."""
    votes = {one.vote for one in rows}
    return 1 if BAD in votes else 0 if GOOD in votes else 125


def groups(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Return letter -> rows of equal output, of those that ran."""
    by_output: dict[str, list[Row]] = {}
    for one in rows:
        if one.seen.exit is not None:
            by_output.setdefault(one.seen.output, []).append(one)
    return {_letter(i): several for i, several in enumerate(by_output.values())}


def _letter(number: int) -> str:
    return chr(65 + number) if number < 26 else f"{chr(64 + number // 26)}{chr(65 + number % 26)}"


def differing(rows: Sequence[Row]) -> list[str]:
    """Return the figures that are not the same in all rows that ran, and the time; those of a dtype only there."""
    ran = [one.seen.figures for one in rows if one.seen.exit == 0]
    names = sorted({name for figures in ran for name in figures if name != "seconds"}, key=_place)
    return [name for name in names if _differs([figures.get(name) for figures in ran], name)]


def _place(name: str) -> tuple[int, str]:
    return [*METERED, *FIGURES].index(name.partition(".")[0]), name


def _differs(values: Sequence[float | None], name: str) -> bool:
    found = [value for value in values if value is not None]
    if len(found) < len(values) or not found:
        return bool(found)
    low, high = min(found), max(found)
    return high - low > max(NOISE * high, NOISE_BYTES) if name in _NOISY else low != high


def spans(rows: Sequence[Row], everything: Sequence[Row]) -> str:
    """Return the names of rows, neighbours of the table as one range."""
    order = [one.name for one in everything]
    return ranges(order, (order.index(one.name) for one in rows))


def ranges(order: Sequence[str], wanted: Iterable[int]) -> str:
    """Return the names at these places of an order, neighbours as one range."""
    found: list[list[int]] = []
    for at in sorted(wanted):
        if found and found[-1][-1] == at - 1:
            found[-1].append(at)
        else:
            found.append([at])
    return ", ".join(" to ".join(dict.fromkeys((order[one[0]], order[one[-1]]))) for one in found)


def cells(tries: Tries, most: int | None = None) -> tuple[list[str], list[list[str]], list[str]]:
    """Return the head and the rows of a table of so many characters, and the figures that it has no room for."""
    named = {id(one): letter for letter, several in groups(tries.rows).items() for one in several}
    left: list[str] = []
    figures = [name for name in differing(tries.rows) if "." not in name]
    while True:
        columns = [tries.over, "vote", "output", *(name.removesuffix("_bytes") for name in figures), "time", "reason"]
        table = []
        for one in tries.rows:
            taken = one.seen.figures
            shown = [show(taken[name], "bytes") if name in taken else "" for name in figures]
            seconds = f"{taken['seconds']:.1f} s" if "seconds" in taken else ""
            table.append([one.name, one.vote, named.get(id(one), ""), *shown, seconds, one.reason])
        widths = [max(map(len, column)) + 3 for column in zip(columns, *table, strict=True)]
        if most is None or not figures or sum(widths[:-1]) + min(widths[-1], LEAST_REASON) <= most:
            return columns, table, left
        left.insert(0, figures.pop())


def show_all(tries: Tries, console: Console) -> None:
    """Print the table, and what differs between outputs."""
    columns, rows, left = cells(tries, console.width)
    shown = [Column(line(name), text=name == "reason", least=LEAST_REASON) for name in columns]
    layout.table(console, shown, rows, ["" if one[1] == GOOD else STYLES[one[1]] for one in rows])
    if left:
        layout.names(console, "these differ too, see --markdown or --json: ", left)
    layout.paragraph(console, summary(tries), hanging=2, most=console.width)
    for text, lines in differences(tries.rows):
        layout.paragraph(console, text, hanging=2, most=console.width)
        for changed in lines:
            console.print(f"  {line(changed)}", markup=False, soft_wrap=True)


def summary(tries: Tries) -> str:
    """Return the counts in words, by which rule, and what the rest is as in."""
    counts = [f"{sum(one.vote == vote for one in tries.rows)} {vote}" for vote in (GOOD, BAD, SKIP)]
    rest = f"; the rest as in {tries.rest}" if tries.rest else ""
    return line(f"{tries.script}, bad if {tries.rule}: {', '.join(counts)}{rest}. {NO_CONTROLS.capitalize()}.")


def differences(rows: Sequence[Row]) -> list[tuple[str, list[str]]]:
    """Return, for each group of equal outputs, a sentence and the lines that differ from the group before it."""
    found = list(groups(rows).items())
    if len(found) < 2:
        return [(f"output: the same in {spans(several, rows)}", []) for _, several in found]
    told: list[tuple[str, list[str]]] = [(f"output {found[0][0]}: {spans(found[0][1], rows)}", [])]
    for (letter, several), (before, earlier) in zip(found[1:], found, strict=False):
        was, now = (one[0].seen.output.splitlines() for one in (earlier, several))
        lines = [one for one in difflib.unified_diff(was, now, n=0, lineterm="") if not one.startswith("@@")][2:]
        more = [f"… {len(lines) - MOST_LINES} lines more"] if len(lines) > MOST_LINES else []
        told.append((f"output {letter}: {spans(several, rows)}; against {before}:", [*lines[:MOST_LINES], *more]))
    return told


def packages(rows: Sequence[Row]) -> tuple[dict[str, str], list[str]]:
    """Return the packages that are the same in all rows that have any, and the names of the others."""
    known = [one.packages for one in rows if one.packages]
    names = sorted({name for one in known for name in one})
    same = {name: known[0].get(name, "") for name in names if len({one.get(name) for one in known}) == 1}
    return same, [name for name in names if name not in same]


def page(tries: Tries, command: str) -> str:
    """Return the table as Markdown, to paste into an issue."""
    columns, rows, _ = cells(tries)
    text = [f"# {markdown(tries.script)}: {markdown(f'over {tries.places}')}", "", code(command), ""]
    text += [markdown(summary(tries)), "", *head(*columns), *(row(*one) for one in rows), ""]
    for says, lines in differences(tries.rows):
        text += [f"- {markdown(says)}", *(["", Safe(fence("\n".join(lines))), ""] if lines else [])]
    return "\n".join(text).rstrip("\n") + "\n"


def junit(tries: Tries) -> str:
    """Return JUnit XML: one suite, a test a row; bad is a failure, skip is skipped."""
    counts = {vote: str(sum(one.vote == vote for one in tries.rows)) for vote in (BAD, SKIP)}
    seconds = sum(one.seen.figures.get("seconds", 0.0) for one in tries.rows)
    top = Xml.Element("testsuites", name="repros")
    suite = Xml.SubElement(
        top, "testsuite", name=line(tries.script), tests=str(len(tries.rows)), failures=counts[BAD], errors="0",
        skipped=counts[SKIP], time=f"{seconds:.3f}",
    )  # fmt: skip
    for one in tries.rows:
        took = one.seen.figures.get("seconds", 0.0)
        test = Xml.SubElement(
            suite, "testcase", classname=line(tries.script), name=line(f"{tries.over} {one.name}"), time=f"{took:.3f}"
        )
        if one.vote != GOOD:
            Xml.SubElement(test, "failure" if one.vote == BAD else "skipped", message=line(one.reason))
    Xml.indent(top)
    return Xml.tostring(top, encoding="unicode", xml_declaration=True) + "\n"


def as_json(tries: Tries) -> str:
    """Return everything that was seen, and the group of each output."""
    named = {id(one): letter for letter, several in groups(tries.rows).items() for one in several}
    rows = [{**asdict(one), "output_group": named.get(id(one), "")} for one in tries.rows]
    found = {"script": tries.script, "bad_if": tries.rule, "over": tries.over, "rest": tries.rest, "rows": rows}
    return json.dumps(found, indent=1) + "\n"
