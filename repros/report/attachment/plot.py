"""The memory of a trial's arms over time, as SVG and PNG: for an attachment, where no script draws it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from repros.errors import UserError
from repros.redaction.redact import Redactor
from repros.report.escape import drawn
from repros.report.page.pack import COLUMNS, is_timeline
from repros.run.results import Record
from repros.verdict import Observation, show

STYLES = {
    "subject": ("#b3261e", "-", 2.2), "reference": ("#1d7a3f", "--", 1.6), "planted": ("#6b4ba1", ":", 1.8),
    "proposed": ("#0b57b0", "-.", 1.6), "remedy": ("#8a5a00", (0, (5, 1)), 1.6),
}  # fmt: skip
#: A phase is at least this part of the plot's width.
NARROWEST = 0.08


def draw(record: Record, folder: Path, redactor: Redactor) -> list[Path]:
    """Write ``timeline.svg`` and ``timeline.png`` where an arm has a timeline; UserError without matplotlib."""
    found = series(record)
    lines = [line for arm in record.arms if found and (line := Line.of(arm, *found[:2]))]
    if not lines or found is None:
        return []
    try:
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot
    except ImportError as error:
        raise UserError(f"the timeline cannot be drawn: {error}", "python3 -m pip install matplotlib") from error
    names = max((line.names for line in lines), key=len)
    starts, widths = layout(lines, len(names))
    # `$` is no mathematics here, and a label that begins with `_` would be left out.
    with matplotlib.rc_context({"svg.hashsalt": "repros", "font.size": 10, "text.parse_math": False}):
        figure, axes = pyplot.subplots(figsize=(9, 4), constrained_layout=True)
        unit, scale = scale_of(max(max(line.values) for line in lines))
        for line in lines:
            color, style, width = STYLES.get(line.arm, ("#555555", "-", 1.2))
            x = [line.place(t, starts, widths) for t in (*line.times, line.end)]
            y = [value / scale for value in (*line.values, line.values[-1])]
            label = drawn(redactor.text(line.arm), 20).lstrip("_")
            axes.step(x, y, where="post", color=color, linestyle=style, linewidth=width, label=label)
        for number, (start, width) in enumerate(zip(starts, widths, strict=True)):
            if number % 2:
                axes.axvspan(start, start + width, color="#eef1f4", zorder=0)
        if record.budget["unit"] == "bytes":
            limit = float(record.budget["limit"])
            said = drawn(redactor.text(f"budget {show(limit, 'bytes')} on {record.budget['figure']}"), 60)
            axes.axhline(limit / scale, color="#1b1f24", linewidth=1, linestyle=(0, (8, 3, 2, 3)), label=said)
        middles = [start + width / 2 for start, width in zip(starts, widths, strict=True)]
        axes.set_xticks(middles, [drawn(redactor.text(name), 20) for name in names])
        axes.set(xlim=(0, 1), ylim=(0, None), ylabel=drawn(redactor.text(f"{found[2]}, {unit}"), 40))
        title = redactor.text(f"{record.case} [{record.condition}] in {record.cell}: {record.verdict.value}")
        axes.set_title(drawn(title))
        axes.legend(frameon=False, ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.08))
        paths = [folder / "timeline.svg", folder / "timeline.png"]
        figure.savefig(paths[0], metadata={"Date": None, "Creator": "repros"})
        figure.savefig(paths[1], dpi=120, metadata={"Software": "repros"})
        pyplot.close(figure)
    return paths


class Line:
    """One arm's timeline and where its phases begin, in seconds."""

    def __init__(self, arm: str, times: Sequence[float], values: Sequence[float], phases: Sequence[tuple[float, str]]):
        self.arm, self.times, self.values = arm, times, values
        self.begins = [at for at, _ in phases]
        self.names = [name for _, name in phases]
        self.end = max(times[-1], self.begins[-1] + 1e-6)

    @classmethod
    def of(cls, arm: Observation, name: str, column: int) -> Line | None:
        """Return the line of an arm; None where it has no such timeline."""
        points = arm.evidence.get(name)
        if not points or not is_timeline(name, points):
            return None
        return cls(arm.arm, [point[0] for point in points], [point[column] for point in points], phases(arm))

    def length(self, number: int) -> float:
        """Return how long a phase took; 0 for one that was not reached."""
        if number >= len(self.begins):
            return 0.0
        return (self.begins[number + 1] if number + 1 < len(self.begins) else self.end) - self.begins[number]

    def place(self, t: float, starts: Sequence[float], widths: Sequence[float]) -> float:
        """Return where a moment is drawn, from 0 to 1."""
        number = max((i for i, at in enumerate(self.begins) if t >= at), default=0)
        length = self.length(number)
        part = (t - self.begins[number]) / length if length > 0 else 0.0
        return starts[number] + widths[number] * min(1.0, max(0.0, part))


def phases(arm: Observation) -> list[tuple[float, str]]:
    """Return when each phase began: as marked, or as it follows from the phases' lengths."""
    marks: Any = arm.evidence.get("marks")
    if marks:
        return [(float(at), str(name)) for at, name in marks]
    found, at = [], 0.0
    for name in list(arm.evidence.get("phases", []))[1:]:
        found.append((at, str(name)))
        at += arm.seconds.get(name, 0.0)
    return found or [(0.0, "")]


def layout(lines: Sequence[Line], count: int) -> tuple[list[float], list[float]]:
    """Return start and width of each phase: the same for all arms, by the longest of them."""
    lengths = [max(max(line.length(i) for line in lines), 1e-6) for i in range(count)]
    parts = [max(length / sum(lengths), NARROWEST) for length in lengths]
    widths = [part / sum(parts) for part in parts]
    return [sum(widths[:i]) for i in range(count)], widths


def series(record: Record) -> tuple[str, int, str] | None:
    """Return the timeline, its column and its label that fit the judged figure best."""
    words = str(record.budget.get("figure", "")).split("_")
    found = [
        (name, number, label)
        for arm in record.arms
        for name, value in arm.evidence.items()
        if is_timeline(name, value)
        for number, label in enumerate(columns(arm, name, value), 1)
    ]

    def score(one: tuple[str, int, str]) -> int:
        return sum(word in f"{one[0]} {one[2]}".replace("-", "") for word in words)

    return max(found, key=score, default=None)


def columns(arm: Observation, name: str, value: Sequence[Any]) -> list[str]:
    """Return what a timeline's columns after the time are."""
    return list(arm.evidence.get(f"{name}_columns") or COLUMNS.get(name) or map(str, range(1, len(value[0]))))


def scale_of(most: float) -> tuple[str, int]:
    """Return the unit that a plot's axis is printed in, and its bytes."""
    for shift, name in ((30, "GiB"), (20, "MiB"), (10, "KiB")):
        if most >= 1 << shift:
            return name, 1 << shift
    return "B", 1
