"""A tier in parts: its trials, in the order in which a run takes them, cut where the parts take equally long.

Neighbours stay together, so that as few parts as can be make a cell ready. What a trial takes is read from committed
evidence, so that each clone of one commit cuts alike.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from repros.cells.matrix import HOST, Cell
from repros.errors import UserError
from repros.requirements import holds
from repros.run.record import Record
from repros.run.trial import Trial
from repros.verdict import Verdict

#: What a cell costs a shard before its first trial, in seconds of arms: two to three of them run at a time meanwhile.
READY_S = 15.0

Key = tuple[str, str, str]


@dataclass(frozen=True)
class Shard:
    """One part of a tier. ``seconds``: of arms, several of which run at a time."""

    number: int
    of: int
    trials: Sequence[tuple[Trial, Cell]]
    seconds: float

    @property
    def name(self) -> str:
        """Return what ``--shard`` takes."""
        return f"{self.number}/{self.of}"

    @property
    def cells(self) -> list[str]:
        """Return the labels of its cells."""
        return list(dict.fromkeys(cell.label for _, cell in self.trials))


def one_a_report(trials: Sequence[tuple[Trial, Cell]], card_bytes: int) -> list[tuple[Trial, Cell]]:
    """Return of each report one trial a cell, on a card of so many bytes: what its witness runs, where that has room.

    Else the first by name that a card of this size and the cell's packages allow; a report without one is left out.
    """
    chosen: dict[tuple[str, str], tuple[Trial, Cell]] = {}
    for trial, cell in sorted(trials, key=lambda pair: (not pair[0].condition.witness, pair[0].key)):
        needs = trial.condition.needs
        fits = cell.device == "cuda" and needs.cards == 1 and needs.card_bytes <= card_bytes
        pins = {package: version for package, version in cell.pins.items() if version != HOST}
        allowed = all(holds(asked, pins[package]) for package, asked in needs.packages.items() if package in pins)
        if fits and allowed and not trial.condition.control:
            chosen.setdefault((trial.entry.case.report, cell.label), (trial, cell))
    keys = {trial.key for trial, _ in chosen.values()}
    return [(trial, cell) for trial, cell in trials if trial.key in keys]


def shards(trials: Sequence[tuple[Trial, Cell]], recorded: Mapping[Key, float], number: int) -> list[Shard]:
    """Cut trials into this many parts, the longest as short as the order allows; UserError for more than trials."""
    if number > len(trials):
        raise UserError(f"{number} shards of {len(trials)} trials: some would be empty", f"at most {len(trials)}")
    taken = seconds(trials, recorded)
    items = [(cell.label, taken[trial.key]) for trial, cell in trials]
    low, high = 0.0, sum(took for _, took in items) + READY_S * len(items)
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if len(_cut(items, middle)) <= number else (middle, high)
    ends = _cut(items, high)
    for at in range(len(items) - 1, 0, -1):  # a shard more than was needed takes one trial
        if len(ends) == number:
            break
        ends = sorted({*ends, at})
    starts = [0, *ends[:-1]]
    return [
        Shard(number_, number, trials[start:end], _seconds(items[start:end]))
        for number_, (start, end) in enumerate(zip(starts, ends, strict=True), 1)
    ]


def _cut(items: Sequence[tuple[str, float]], bound: float) -> list[int]:
    """Return where each part ends that takes no longer than a bound, or is one trial."""
    ends = []
    total, last = 0.0, ""
    for at, (cell, took) in enumerate(items):
        ready = READY_S if cell != last else 0.0
        if at and total + ready + took > bound:
            ends.append(at)
            total, ready = 0.0, READY_S
        total, last = total + ready + took, cell
    return [*ends, len(items)]


def _seconds(items: Sequence[tuple[str, float]]) -> float:
    return sum(took for _, took in items) + READY_S * len({cell for cell, _ in items})


def seconds(
    trials: Sequence[tuple[Trial, Cell]], recorded: Mapping[Key, float], unknown: float | None = None
) -> dict[Key, float]:
    """Return what each trial takes: as recorded, else as under its condition elsewhere, else as the middle of all.

    ``unknown`` stands in place of the last.
    """
    elsewhere: dict[tuple[str, str], list[float]] = {}
    for (case, condition, _), took in recorded.items():
        elsewhere.setdefault((case, condition), []).append(took)
    if unknown is None:
        unknown = statistics.median(recorded.values()) if recorded else 1.0
    return {
        trial.key: recorded.get(trial.key, statistics.fmean(elsewhere.get(trial.key[:2], [unknown])))
        for trial, _ in trials
    }


def recorded(records: Sequence[Record]) -> dict[Key, float]:
    """Return trial -> seconds of its arms and its witness together; none where its needs are not met."""
    return {
        record.key: sum(parts(record)) for record in records if record.arms or record.verdict is Verdict.UNSUPPORTED
    }


def longest(records: Sequence[Record]) -> dict[Key, float]:
    """Return trial -> seconds of the longest of its arms and its witness."""
    return {record.key: max(parts(record)) for record in records if record.arms}


def parts(record: Record) -> list[float]:
    """Return what each arm of a trial took, and its witness, in seconds."""
    return [*(arm.seconds.get("total", 0.0) for arm in record.arms), record.witness.get("seconds", 0.0)]
