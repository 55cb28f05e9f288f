"""Verdicts on a terminal: the matrix of a run, what failed, and where the time went."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from repros.results import Record
from repros.trial import two_lines
from repros.verdict import Verdict, show, to_number

STYLES: Mapping[Verdict, str] = {
    Verdict.REPRODUCED: "bold red",
    Verdict.ABSENT: "green",
    Verdict.INCONCLUSIVE: "bold yellow",
    Verdict.UNSUPPORTED: "dim",
    Verdict.ERROR: "bold yellow",
    Verdict.TIMEOUT: "bold yellow",
}


def matrix(records: Sequence[Record], console: Console) -> None:
    """Print cases and conditions against cells; a mark in a cell says that the verdict is not the recorded one."""
    cells = list(dict.fromkeys(record.cell for record in records))
    by_key = {record.key: record for record in records}
    table = Table(box=box.SIMPLE_HEAD, title="verdicts", title_justify="left", pad_edge=False)
    table.add_column("case")
    table.add_column("condition")
    for number in range(len(cells)):
        table.add_column(f"[{number + 1}]")
    last = ""
    for case, condition in dict.fromkeys((record.case, record.condition) for record in records):
        row = [by_key.get((case, condition, cell)) for cell in cells]
        table.add_row(case if case != last else "", condition, *(_cell(record) for record in row))
        last = case
    console.print(table)
    for number, cell in enumerate(cells, 1):
        packages = next(r.environment.get("packages", {}) for r in records if r.cell == cell)
        pins = ", ".join(f"{name} {packages[name]}" for name in ("torch", "transformers", "bitsandbytes") if name in packages)
        console.print(f"[{number}] {cell}" + (f"  ({pins})" if pins else ""), highlight=False, markup=False)


def _cell(record: Record | None) -> Text:
    if record is None:
        return Text("")
    mark = f" ({record.outcome.value}!)" if record.failed and record.verdict in (Verdict.REPRODUCED, Verdict.ABSENT) else ""
    return Text(record.verdict.value + mark, STYLES[record.verdict])


def detail(record: Record, console: Console) -> None:
    """Print one trial: its arms' figures against the budget, both margins, and the reason."""
    unit, figure = record.budget["unit"], record.budget["figure"]
    limit = float(record.budget["limit"])
    console.print(
        Text.assemble(
            f"{record.case} [{record.condition}] in {record.cell}: ",
            (record.verdict.value, STYLES[record.verdict]),
            f" ({record.outcome.value})",
        )
    )
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("arm", "reading", figure, record.budget["second"] or "", "error", "seconds"):
        if name:
            table.add_column(name)
    for arm in record.arms:
        row = [arm.arm, record.readings.get(arm.arm, ""), show(arm.figures.get(figure), unit)]
        if record.budget["second"]:
            row.append(show(arm.figures.get(record.budget["second"]), unit))
        row += [show(arm.figures.get("error"), "ratio"), f"{arm.seconds.get('total', 0):.2f}"]
        table.add_row(*row)
    table.add_row("budget", "", show(limit, unit))
    console.print(table)
    console.print(f"margins: {margins(record)}", highlight=False)
    console.print(f"reason: {record.reason}", highlight=False, markup=False)
    if record.proposed:
        console.print(f"proposed fix: {record.proposed['effect']}: {record.proposed['reason']}", markup=False)


def margins(record: Record) -> str:
    """Return both margins in words."""

    def times(value: float | None) -> str:
        number = to_number(value)
        return "-" if number is None else (f"{value:.2f}×" if not isinstance(number, str) else "∞")

    got = record.margins
    return f"planted/budget {times(got.get('planted_over_budget'))}, budget/reference {times(got.get('budget_over_reference'))}"


def summary(records: Sequence[Record], console: Console) -> None:
    """Print the counts, and the two lines of each failure."""
    counts = Counter(record.verdict.value for record in records)
    console.print(
        f"{len(records)} trials: " + ", ".join(f"{count} {name}" for name, count in counts.most_common()), highlight=False
    )
    reasons = Counter(record.reason for record in records if record.verdict is Verdict.UNSUPPORTED)
    for reason, count in reasons.most_common():
        console.print(f"unsupported in {count}: {reason}", highlight=False, markup=False)
    failed = [record for record in records if record.failed]
    for record in failed:
        console.print(Text(two_lines(record), "yellow"))
    if not failed:
        console.print("every verdict is as recorded")


def times(seconds: Mapping[str, float], console: Console) -> None:
    """Print where the time went."""
    total = seconds["total"] or 1.0
    parts = [f"{name} {value:.1f} s ({value / total:.0%})" for name, value in seconds.items() if name != "total"]
    console.print(f"time: {total:.1f} s = {' + '.join(parts)}", highlight=False)
