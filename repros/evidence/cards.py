"""One kind of GPU beside another, trial by trial: whether a verdict is the card's. Pure."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from pathlib import Path

from repros.report.escape import bold, code, head, markdown, row
from repros.report.machine import machines, torch
from repros.run.results import Record, shown
from repros.verdict import SETTLED, show

#: A figure of bytes that is as near as this is called the same: what a driver rounds up differs from card to card.
NEAR = 1.01


def pairs(one: Sequence[Record], other: Sequence[Record]) -> list[tuple[Record, Record]]:
    """Return each trial that came to a verdict on both."""
    by_key = {record.key: record for record in other if record.verdict in SETTLED}
    return [(record, by_key[record.key]) for record in one if record.verdict in SETTLED and record.key in by_key]


def section(one: Sequence[Record], other: Sequence[Record], sources: Sequence[Path]) -> str:
    """Return a section of a page as Markdown; sources are the two runs."""
    found = pairs(one, other)
    agree = sum(a.verdict is b.verdict for a, b in found)
    settled = [sum(record.verdict in SETTLED for record in mine) for mine in (one, other)]
    sizes = [ratio for a, b in found if a.budget["unit"] == "bytes" and (ratio := _ratio(a, b)) is not None]
    near = sum(max(ratio, 1 / ratio) <= NEAR for ratio in sizes if ratio)
    names = [code(shown(source)) for source in sources]
    builds = [markdown(torch(list(mine))) for mine in zip(*found, strict=True)] or [markdown("none")] * 2
    edited = sum(a.source != b.source for a, b in found)
    middle = f", the middle ratio is {statistics.median(sizes):.3f}" if sizes else ""
    rows = [
        "# One kind of card beside another",
        "",
        f"{agree} of {len(found)} verdicts are the same in {names[0]} (torch {builds[0]}) and {names[1]} (torch "
        f"{builds[1]}). {settled[0] - len(found)} more were settled in the first alone, {settled[1] - len(found)} in "
        f"the second alone. Of {len(sizes)} figures in bytes of the installed packages {near} are within "
        f"{NEAR - 1:.0%}{middle}. {edited} of the pairs are of a case that was edited between the two.",
        "",
        *(f"- {markdown(line)}" for line in machines([record for pair in found for record in pair])),
        "",
    ]
    for name in dict.fromkeys(a.case for a, _ in found):
        mine = [(a, b) for a, b in found if a.case == name]
        same = sum(a.verdict is b.verdict for a, b in mine)
        rows += [
            f"## {markdown(name)}: {same} of {len(mine)} on both cards",
            "",
            *head("condition", "cell", "first", "second", "figure", "first", "second", "ratio", ""),
        ]
        for a, b in mine:
            ratio = _ratio(a, b)
            rows.append(
                row(
                    a.condition, a.cell, a.verdict.value, b.verdict.value, a.budget["figure"], _figure(a), _figure(b),
                    "-" if ratio is None else f"{ratio:.3f}", "agree" if a.verdict is b.verdict else bold("differ"),
                )
            )  # fmt: skip
        rows.append("")
    return "\n".join(rows) + "\n"


def _figure(record: Record) -> str:
    value = record.figure("subject")
    return "raised" if value is None else show(value, record.budget["unit"])


def _ratio(a: Record, b: Record) -> float | None:
    one, other = a.figure("subject"), b.figure("subject")
    if one is None or other is None or not one or not math.isfinite(one) or not math.isfinite(other):
        return None
    return other / one
