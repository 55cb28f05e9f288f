"""Numbers of a report beside the numbers that were measured. Pure: from declarations and records alone."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from repros.case import Claim, Reading, unit_of
from repros.requirements import holds
from repros.run.results import Record
from repros.verdict import Observation

#: How many bytes -> the unit in which they are printed, whatever the report calls them.
BINARY: Mapping[float, str] = {1 << 20: " MiB", 1 << 30: " GiB"}


@dataclass(frozen=True)
class Row:
    """One reported number in one cell; ``ratio`` is measured over reported, ``unit`` is as the report spells it.

    ``ended`` says how an arm ended that did not get to its end; its number is what it had come to. What is ``counted``
    may be whole.
    """

    name: str
    reported: str
    measured: float
    per_unit: float
    unit: str
    ratio: float
    condition: str
    arm: str
    cell: str
    ended: str = ""
    note: str = ""
    counted: bool = False


@dataclass(frozen=True)
class Span:
    """One reported number under one condition by one arm, over the cells in which it was measured, in print.

    ``takes`` says which bytes a report's unit is taken for where that is not what the unit stands for.
    """

    name: str
    reported: str
    measured: str
    ratio: str
    condition: str
    arm: str
    cells: tuple[str, ...]
    note: str = ""
    takes: str = ""

    @property
    def where(self) -> str:
        """Return the cell, or how many there are."""
        return self.cells[0] if len(self.cells) == 1 else f"{len(self.cells)} cells"


def rows(claim: Claim, records: Iterable[Record], case: str) -> list[Row]:
    """Return a row for each number of a case's claim and each record in which it was measured."""
    kept = list(records)
    found = []
    for name, reading in ((name, one) for name, several in claim.readings.items() for one in several):
        number, unit = quantity(claim.reported[name])
        for record in kept:
            measured = _measured(reading, record, case)
            if measured is not None:
                ratio = measured / (number * reading.per_unit)
                found.append(
                    Row(
                        *(name, claim.reported[name], measured, reading.per_unit, unit, ratio),
                        *(record.condition, reading.arm, record.cell, ended(record.arm(reading.arm)), reading.note),
                        counted=unit_of(reading.figure) == "parameters",
                    )
                )
    return found


def spans(found: Sequence[Row]) -> list[Span]:
    """Return rows that differ by their cell alone as one, from the least to the most that was measured."""
    made = []
    for (name, condition, arm), several in groupby(found, lambda row: (row.name, row.condition, row.arm)):
        all_cells = list(several)
        for how in sorted({row.ended for row in all_cells if row.ended}):
            where = tuple(row.cell for row in all_cells if row.ended == how)
            made.append(Span(name, all_cells[0].reported, how, "-", condition, arm, where, all_cells[0].note))
        group = sorted((row for row in all_cells if not row.ended), key=lambda row: row.measured)
        if not group:
            continue
        low, high = group[0], group[-1]
        amounts = [row.measured / row.per_unit for row in (low, high)]
        # A model's parameters have no decimals where they are whole; bytes have them even at 0.
        digits = 0 if low.counted and all(amount.is_integer() for amount in amounts) else 2
        measured = _range(f"{amount:.{digits}f}" for amount in amounts)
        ratio = _range(f"{row.ratio:.3f}" for row in (low, high))
        cells = tuple(row.cell for row in group)
        unit = BINARY.get(low.per_unit, low.unit)
        takes = f"the report's {low.unit.strip()} is taken for {unit.strip()}" if unit != low.unit else ""
        made.append(Span(name, low.reported, f"{measured}{unit}", ratio, condition, arm, cells, low.note, takes))
    return made


def notes(found: Sequence[Span]) -> list[str]:
    """Return why numbers may come out otherwise than a report's, each reason once with the numbers that it is about."""
    about: dict[str, dict[str, None]] = {}
    for span in found:
        for note in filter(None, (span.takes, span.note)):
            about.setdefault(note, {})[span.name] = None
    every = len({span.name for span in found})
    return [f"{'; '.join(names) if len(names) < every else 'all'}: {note}." for note, names in about.items()]


def ended(arm: Observation | None) -> str:
    """Return how an arm ended that did not get to its end; empty for one that did, or for none."""
    if arm is None or arm.state == "done":
        return ""
    return "out of memory" if arm.state == "raised" and "out of memory" in arm.reason.lower() else arm.state


def _range(ends: Iterable[str]) -> str:
    return " to ".join(dict.fromkeys(ends))


def quantity(text: str) -> tuple[float, str]:
    """Return number and unit of a text such as ``about 889 MB``, the unit with the space before it.

    Raises:
        ValueError: Where there is none.

    """
    found = re.search(r"(\d[\d,.]*)(\s*(?:[A-Za-z]+|%))", text)
    if not found:
        raise ValueError(f"no number with a unit in `{text}`")
    return float(found[1].replace(",", "")), found[2]


def _measured(reading: Reading, record: Record, case: str) -> float | None:
    versions = record.versions
    if (
        not record.arms
        or record.case != (reading.case or case)
        or record.condition != reading.condition
        or not all(holds(wanted, versions.get(package, "")) for package, wanted in reading.versions.items())
    ):
        return None
    if reading.arm == "budget":
        return float(record.budget["limit"])
    if reading.arm == "arithmetic":
        return reading.value()
    arm = record.arm(reading.arm)
    return arm.figures.get(reading.figure) if arm and arm.state != "disturbed" else None
