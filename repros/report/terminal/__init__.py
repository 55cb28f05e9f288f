"""Verdicts on a terminal: the matrix of a run, what failed, and where the time went."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.text import Text

from repros.cells.matrix import AXES
from repros.report.escape import line, visible
from repros.report.standing import by_case
from repros.report.terminal import layout
from repros.report.terminal.layout import Column
from repros.run.controls import tried_as, tried_elsewhere
from repros.run.results import Record
from repros.run.trial import two_lines
from repros.verdict import Outcome, Verdict, apart, multiple, show

#: Width of tables where no terminal says its own.
PIPE_WIDTH = 140
STYLES: Mapping[Verdict, str] = {
    Verdict.REPRODUCED: "bold red",
    Verdict.ABSENT: "green",
    Verdict.INCONCLUSIVE: "bold yellow",
    Verdict.UNSUPPORTED: "dim",
    Verdict.ERROR: "bold yellow",
    Verdict.TIMEOUT: "bold yellow",
}


class Plain(Console):
    """A console to which a string is text: no markup, no emoji, nothing in it that a terminal would follow."""

    def render_str(self, text: str, **options: Any) -> Text:
        """Make visible what is in a string, also in one of a table."""
        return super().render_str(visible(text), **options)


def console(**options: Any) -> Console:
    """Return a console that breaks no line of a log or a pipe at 80 columns, unless ``COLUMNS`` is set."""
    found = Plain(highlight=False, markup=False, emoji=False, **options)
    if not found.is_terminal and ("file" in options or not os.environ.get("COLUMNS", "").isdigit()):
        found.width = PIPE_WIDTH
    return found


def matrix(records: Sequence[Record], console: Console) -> None:
    """Print, for each condition, in which cells it was found how; cells go by number, an exclamation mark fails."""
    cells = list(dict.fromkeys(record.cell for record in records))
    for case, mine in by_case(records).items():
        console.print(Text(line(case), "bold"), soft_wrap=True)  # the title of a narrow table would be broken
        shown = [v for v in Verdict if any(r.verdict is v for r in mine)]
        columns = [Column("condition"), *(Column(v.value, text=True, least=1, style=STYLES[v]) for v in shown)]
        rows = []
        for condition in dict.fromkeys(record.condition for record in mine):
            row = [r for r in mine if r.condition == condition]
            rows.append([condition, *(_numbers([r for r in row if r.verdict is v], cells) for v in shown)])
        layout.table(console, columns, rows)
    for number, cell in enumerate(cells, 1):
        known = [r.environment.get("packages", {}) for r in records if r.cell == cell and r.environment]
        packages: Mapping[str, str] = known[0] if known else {}
        pins = ", ".join(f"{name} {packages[name]}" for name in AXES if name in packages)
        layout.paragraph(console, line(f"[{number}] {cell}" + (f"  ({pins})" if pins else "")), hanging=4)


def _numbers(records: Sequence[Record], cells: Sequence[str]) -> str:
    return " ".join(f"{cells.index(record.cell) + 1}{'!' * record.failed}" for record in records)


def detail(record: Record, console: Console) -> None:
    """Print one trial: its arms' figures against the budget, both margins, and the reason."""
    unit, figure = record.budget["unit"], record.budget["figure"]
    limit = float(record.budget["limit"])
    console.print(
        Text.assemble(
            line(f"{record.case} [{record.condition}] in {record.cell}: "),
            (record.verdict.value, STYLES[record.verdict]),
            f" ({record.outcome.value})",
        )
    )
    beside = ["error"] if figure != "error" else []
    judged = [name for name in (figure, record.budget["second"]) if name]
    rows = []
    more = apart((arm.reached(name) for arm in record.arms for name in judged), limit, unit)
    for arm in record.arms:
        row = [arm.arm, record.readings.get(arm.arm, "")]
        row += [show(arm.reached(name), unit, more) for name in judged]
        row += [show(arm.figures.get(name), "ratio") for name in beside] + [f"{arm.seconds.get('total', 0):.2f}"]
        rows.append(row)
    rows.append(["budget", "", show(limit, unit, more)])
    layout.table(console, [Column(name) for name in ("arm", "reading", *judged, *beside, "seconds")], rows)
    console.print(f"margins: {margins(record)}")
    elsewhere = tried_elsewhere(record)
    for cell, lent in dict.fromkeys(elsewhere.values()):
        arms = ", ".join(arm for arm in elsewhere if elsewhere[arm] == (cell, lent))
        says = f"{arms}: tried once for all cells, in {line(cell)}, where no package under test can be imported"
        if lent:
            says = f"{arms}: tried once, in {line(cell)}, with {' and '.join(lent)} alone of the packages under test"
        layout.paragraph(console, says, hanging=2, most=console.width)
    under = tried_as(record)
    for condition in dict.fromkeys(under.values()):
        arms = ", ".join(arm for arm in under if under[arm] == condition)
        says = f"{arms}: tried once, under {line(condition)}, which gives it all that it asks for alike"
        layout.paragraph(console, says, hanging=2, most=console.width)
    layout.paragraph(console, f"reason: {line(record.reason)}", hanging=2, most=console.width)
    if heard := record.witness:
        says = line(f"witness: {heard['file']} votes {heard['vote']} in {heard['seconds']:.1f} s: {heard['says']}")
        layout.paragraph(console, says, hanging=2, most=console.width)
    if record.proposed:
        says = line(f"proposed fix: {record.proposed['effect']}: {record.proposed['reason']}")
        layout.paragraph(console, says, hanging=2, most=console.width)
    for name, tried in record.remedies.items():
        says = line(f"{name}: {tried['text']}: {tried['effect']}: {tried['reason']}")
        layout.paragraph(console, says, hanging=2, most=console.width)


def margins(record: Record) -> str:
    """Return both margins in words, of a control condition the one that it has."""
    planted, reference = (multiple(record.margins.get(n)) for n in ("planted_over_budget", "budget_over_reference"))
    return f"{'no planted arm' if record.control else f'planted/budget {planted}'}, budget/reference {reference}"


def summary(records: Sequence[Record], console: Console, failures: bool = True) -> None:
    """Print the counts, what was unsupported and why, and the two lines of each failure."""
    console.print(f"{len(records)} trial{'s' * (len(records) != 1)}: {counts(records)}")
    reasons = Counter(record.reason for record in records if record.verdict is Verdict.UNSUPPORTED)
    for reason, count in reasons.most_common():
        layout.paragraph(console, f"unsupported in {count}: {line(reason)}", hanging=2, most=console.width)
    failed = [record for record in records if record.failed]
    for record in failed if failures else ():
        console.print(Text(two_lines(record), "yellow"), soft_wrap=True)
    if not failed:
        console.print(as_recorded(records))


def as_recorded(records: Sequence[Record]) -> str:
    """Say of trials of which none fails that they are as recorded, and of how many nothing is recorded yet."""
    new = sum(record.outcome is Outcome.NEW for record in records)
    if not new:
        return "every verdict is as recorded"
    others = "; every other verdict is as recorded" if new < len(records) else ""
    return f"nothing is recorded yet of {new} trial{'s' * (new > 1)}: write what it is into `affected`{others}"


def counts(records: Sequence[Record]) -> str:
    """Return how often each verdict was found, and how many trials are not as recorded."""
    found = Counter(record.verdict.value for record in records)
    failed = sum(record.failed for record in records)
    parts = [f"{count} {name}" for name, count in found.most_common()] + (
        [f"{failed} not as recorded"] if failed else []
    )
    return ", ".join(parts)


def times(seconds: Mapping[str, float], console: Console) -> None:
    """Print where the time went."""
    total = seconds["total"] or 1.0
    parts = [f"{name} {value:.1f} s ({value / total:.0%})" for name, value in seconds.items() if name != "total"]
    console.print(f"time: {total:.1f} s = {' + '.join(parts)}")
