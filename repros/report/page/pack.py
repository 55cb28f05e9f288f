"""Records -> the evidence blocks of a page: small, each opened alone, nothing about which figures there are.

A block is the JSON of some trials, deflated and in base64. Rows of tensor lists and whole environments occur again
and again, so a block keeps each once and names it by number; timelines are kept as steps between their points.
"""

from __future__ import annotations

import base64
import multiprocessing
import os
import sys
import threading
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import sub
from typing import Any

from repros.meters.timeline import thinned
from repros.redaction.redact import Redactor
from repros.report.page.scripts import Pieces, dumps
from repros.run.results import Record
from repros.verdict import Observation, to_number

#: Trials of a block: opening one trial inflates its block.
BLOCK = 40
#: Trials from which on packing is shared out over the cores.
MANY = 1000
#: Points that the timelines of a page may have in all; each keeps the highest of every stretch.
ALL_POINTS = 2_000_000
MOST_POINTS, LEAST_POINTS = 400, 40
#: What a timeline's columns after the time are, where the evidence does not say.
COLUMNS = {"timeline": ["all live bytes", "live 16-bit bytes"]}


def blocks(records: Sequence[Record], redactor: Redactor, scripts: Sequence[Pieces] = ()) -> list[str]:
    """Return the blocks of these records in order, `BLOCK` trials each; ``scripts`` are theirs, one a record."""
    arms = sum(len(record.arms) for record in records) or 1
    job = Job(records, scripts, redactor, max(LEAST_POINTS, min(MOST_POINTS, ALL_POINTS // arms)))
    workers = min(8, os.cpu_count() or 1)
    if len(records) < MANY or workers < 2 or sys.platform != "linux" or threading.active_count() > 1:
        return job.blocks(range(0, len(records), BLOCK))[0]
    # Forks have the records already; sending them would take longer than packing them.
    starts = [range(n * BLOCK, len(records), workers * BLOCK) for n in range(workers)]
    context = multiprocessing.get_context("fork")
    global _job
    _job = job
    try:
        with context.Pool(workers) as pool:
            parts = pool.map(_packed, starts)
    finally:
        _job = None
    for _, removed in parts:
        redactor.removed.update(removed)
    several = [part for part, _ in parts]
    return [several[n % workers][n // workers] for n in range(sum(map(len, several)))]


@dataclass(frozen=True)
class Job:
    """Records to be packed."""

    records: Sequence[Record]
    scripts: Sequence[Pieces]
    redactor: Redactor
    points: int

    def blocks(self, starts: Iterable[int]) -> tuple[list[str], Counter[str]]:
        """Return the blocks that begin at these trials, and what was removed from them."""
        before = Counter(self.redactor.removed)
        clean: dict[bytes, Any] = {}
        found = []
        for start in starts:
            mine = self.records[start : start + BLOCK]
            self.redactor.look_ahead(said(mine))
            packer = Packer(self.redactor, self.points, clean)
            trials = [packer.trial(record) for record in mine]
            for trial, pieces in zip(trials, self.scripts[start : start + BLOCK], strict=False):
                trial["script"] = pieces
            data = dumps({"kept": packer.kept, "trials": trials})
            found.append(base64.b64encode(zlib.compress(data, 6)).decode())
        return found, self.redactor.removed - before


_job: Job | None = None


def _packed(starts: range) -> tuple[list[str], Counter[str]]:
    assert _job is not None
    return _job.blocks(starts)


def usual_repeat(record: Record) -> str:
    """Return the command that tries a trial of the suite's own cells again."""
    return f"python -m repros run {record.case} --cell {record.cell} --condition {record.condition}"


def said(records: Sequence[Record]) -> list[str]:
    """Return the texts that differ from trial to trial."""
    return [*{record.reason for record in records}, *{arm.reason for record in records for arm in record.arms}]


class Packer:
    """Packs the trials of one block."""

    def __init__(self, redactor: Redactor, points: int, clean: dict[bytes, Any]) -> None:
        self.kept: list[Any] = []
        self._clean = clean  # what was redacted for an earlier block
        self._numbers: dict[bytes, int] = {}
        self._redactor = redactor
        self._points = points

    def keep(self, value: Any) -> int:
        """Return the number of a value, entered at its first mention."""
        key = dumps(value)
        number = self._numbers.get(key)
        if number is None:
            number = self._numbers[key] = len(self.kept)
            clean = self._clean.get(key)
            if clean is None:
                clean = self._clean[key] = self._redactor.value(value)
            self.kept.append(clean)
        return number

    def trial(self, record: Record) -> dict[str, Any]:
        """Return what opening the trial shows, beyond what the page's table knows."""
        return {
            "reason": self._redactor.text(record.reason),
            "budget": self.keep(record.budget),
            "margins": {self._redactor.text(name): to_number(value) for name, value in record.margins.items()},
            "proposed": self.keep(record.proposed),
            "remedies": self.keep(record.remedies),
            "readings": self.keep(record.readings),
            "arms": [self.arm(one) for one in record.arms],
            "environment": self.keep(record.environment),
            "machine": self.keep(record.machine),
            "date": self._redactor.text(record.date),
            "expected": self._redactor.value(record.expected),
            # As a run writes it; the page puts the usual command together from names that it has.
            "repeat": None if record.repeat == usual_repeat(record) else self._redactor.text(record.repeat),
        }

    def arm(self, one: Observation) -> dict[str, Any]:
        """Return an arm: figures and evidence under the names that they have."""
        evidence = one.evidence
        timelines: dict[str, Any] = {}
        lists: dict[str, list[int]] = {}
        rest: dict[str, Any] = {}
        for given, value in evidence.items():
            name = self._redactor.text(given)
            if given in ("phases", "marks"):
                rest[name] = self.keep(value)
            elif is_timeline(given, value):
                timelines[name] = self.timeline(name, value, evidence.get(f"{given}_columns"))
            elif is_rows(value):
                lists[name] = [self.keep(row) for row in value]
            elif not given.endswith("_columns"):
                rest[name] = value if isinstance(value, (int, float)) else self._redactor.value(value)
        clean = self._redactor.text  # names of figures are a case's own, and a figure may be of any name
        figures = {clean(name): to_number(value) for name, value in one.figures.items()}
        packed: dict[str, Any] = {
            "arm": clean(one.arm), "state": clean(one.state), "figures": figures, "timelines": timelines,
            "lists": lists, "rest": rest,
            "seconds": {clean(name): round(value, 4) for name, value in one.seconds.items()},
        }  # fmt: skip
        if one.exception:
            packed["exception"] = self.keep(one.exception)
        if one.reason:
            packed |= {"reason": self._redactor.text(one.reason), "log": self._redactor.text(one.log)}
        return packed

    def timeline(self, name: str, points: Sequence[Sequence[float]], columns: Any) -> dict[str, Any]:
        """Return a timeline as steps: time in tenths of a millisecond, values in bytes."""
        kept = thinned(points, self._points)
        seconds, *series = zip(*kept, strict=True)
        series.insert(0, tuple(round(value * 1e4) for value in seconds))
        named = columns or COLUMNS.get(name) or [f"column {i}" for i in range(1, len(series))]
        return {"columns": self.keep(list(named)), "steps": [steps(one) for one in series]}


def is_rows(value: Any) -> bool:
    """Return whether a piece of evidence is a list of tensors: mappings that have bytes."""
    if not isinstance(value, (list, tuple)):
        return False
    return all(isinstance(row, Mapping) and "bytes" in row for row in (*value[:1], *value[-1:]))


def is_timeline(name: str, value: Any) -> bool:
    """Return whether a piece of evidence is a timeline: rows of seconds and bytes."""
    if not name.endswith("timeline") or not isinstance(value, (list, tuple)) or not value:
        return False
    return all(
        isinstance(point, (list, tuple)) and len(point) > 1 and all(isinstance(x, (int, float)) for x in point)
        for point in (value[0], value[-1])
    )


def steps(values: Sequence[int]) -> list[int]:
    """Return the first value, then the differences."""
    return [values[0], *map(sub, values[1:], values)]
