"""One plot as SVG by hand: a figure over a row of revisions, its budget, and the edges that were found.

A few dozen marks do not need a plotting library among the parent's dependencies, and the file diffs as text. Values
are on a logarithmic scale where they span more than a factor of 30; what raised in place of a figure, or is not finite,
stands on the upper rim.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from repros.report.escape import xml
from repros.verdict import apart, show

WIDTH, HEIGHT = 960, 360
LEFT, RIGHT, TOP, BOTTOM = 96, 24, 56, 84
#: Room that a slanted label takes along the axis.
LABEL = 13
COLOURS = {"good": "#1a7f37", "bad": "#cf222e", "skip": "#8c959f"}


@dataclass(frozen=True)
class Point:
    """One measured revision: its place in the row, the figure (None: it raised), and its vote."""

    index: int
    value: float | None
    vote: str


class Scale:
    """Maps figures to heights."""

    def __init__(self, values: Sequence[float]) -> None:
        finite = [value for value in values if math.isfinite(value)]
        top = max(finite, default=1.0) or 1.0
        positive = [value for value in finite if value > 0]
        self.log = bool(positive) and top / min(positive) > 30
        self.low = min(positive) / 1.5 if self.log else 0.0
        self.high = top * (1.5 if self.log else 1.12)

    def y(self, value: float) -> float:
        """Return the height in pixels from the top; beyond the scale, its rim."""
        if not math.isfinite(value):
            return TOP
        if self.log:
            share = math.log(max(value, self.low) / self.low) / math.log(self.high / self.low)
        else:
            share = value / self.high
        return TOP + (1 - min(max(share, 0.0), 1.0)) * (HEIGHT - TOP - BOTTOM)

    def ticks(self) -> list[float]:
        """Return about four figures for the axis."""
        if self.log:
            return [self.low * (self.high / self.low) ** (i / 4) for i in range(5)]
        return [self.high * i / 4 for i in range(5)]


def labelled(wanted: Sequence[int], step: float) -> list[int]:
    """Return those of the indices, the most wanted first, whose labels have room beside each other."""
    found: list[int] = []
    for index in wanted:
        if all(abs(index - other) * step >= LABEL for other in found):
            found.append(index)
    return sorted(found)


def plot(
    title: str,
    names: Sequence[str],
    points: Sequence[Point],
    limit: float,
    unit: str,
    edges: Sequence[tuple[int, int, str]],
) -> str:
    """Return the SVG; `edges` are (low, high, text), drawn as a band between the two revisions."""
    values = [point.value for point in points]
    more = apart(values, limit, unit)
    scale = Scale([limit, *(value for value in values if value is not None)])
    step = (WIDTH - LEFT - RIGHT) / max(1, len(names))

    def x(index: float) -> float:
        return LEFT + (index + 0.5) * step

    floor = HEIGHT - BOTTOM
    rows = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
        f'font-size="11" role="img"><title>{xml(title)}</title>',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
        f'<text x="{LEFT}" y="20" font-size="14" fill="#1f2328">{xml(title)}</text>',
    ]
    for low, high, text in edges:
        rows.append(
            f'<rect x="{x(low):.1f}" y="{TOP}" width="{x(high) - x(low):.1f}" height="{floor - TOP}" fill="#fff1c2"/>'
        )
        middle = (x(low) + x(high)) / 2
        rows.append(f'<text x="{middle:.1f}" y="{TOP - 8}" text-anchor="middle" fill="#1f2328">{xml(text)}</text>')
    for value in scale.ticks():
        y, text = scale.y(value), xml(show(value, unit))
        rows.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="#d8dee4"/>')
        rows.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end" fill="#59636e">{text}</text>')
    rows.append(
        f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{scale.y(limit):.1f}" y2="{scale.y(limit):.1f}" stroke="#0969da" '
        f'stroke-dasharray="6 4"/><text x="{WIDTH - RIGHT}" y="{scale.y(limit) - 5:.1f}" text-anchor="end" '
        f'fill="#0969da">budget {xml(show(limit, unit, more))}</text>'
    )
    known = {point.index for point in points}
    rims = [i for low, high, _ in edges for i in (high, low)]
    for index in labelled([*rims, *sorted(known), *range(len(names))], step):
        colour = "#1f2328" if index in known else "#a0a8b0"
        rows.append(
            f'<text transform="translate({x(index) + 4:.1f},{floor + 10}) rotate(-60)" text-anchor="end" '
            f'fill="{colour}">{xml(names[index])}</text>'
        )
    for point in points:
        raised = point.value is None or not math.isfinite(point.value)
        height = TOP if point.value is None else scale.y(point.value)
        colour = COLOURS.get(point.vote, COLOURS["skip"])
        what = "raised" if point.value is None else show(point.value, unit, more)
        tip = f"<title>{xml(names[point.index])}: {xml(what)}, {xml(point.vote)}</title>"
        if raised:
            cross = f"M{x(point.index) - 5:.1f},{height - 5:.1f}l10,10m0,-10l-10,10"
            rows.append(f'<path d="{cross}" stroke="{colour}" stroke-width="2" fill="none">{tip}</path>')
        else:
            rows.append(f'<circle cx="{x(point.index):.1f}" cy="{height:.1f}" r="5" fill="{colour}">{tip}</circle>')
    legend = [*((vote, colour) for vote, colour in COLOURS.items() if any(p.vote == vote for p in points))]
    for number, (vote, colour) in enumerate(legend):
        rows.append(
            f'<circle cx="{LEFT + 6 + 70 * number}" cy="34" r="5" fill="{colour}"/>'
            f'<text x="{LEFT + 16 + 70 * number}" y="38" fill="#59636e">{xml(vote)}</text>'
        )
    return "\n".join([*rows, "</svg>"]) + "\n"
