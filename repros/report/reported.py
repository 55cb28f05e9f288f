"""Numbers of a report beside the numbers that were measured. Pure: from declarations and records alone."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from repros.case import Claim, Reading
from repros.results import Record
from repros.trial import holds


@dataclass(frozen=True)
class Row:
    """One reported number in one cell; ``ratio`` is measured over reported."""

    name: str
    reported: str
    measured_bytes: float
    unit_bytes: int
    unit: str
    ratio: float
    condition: str
    arm: str
    cell: str


def rows(claim: Claim, records: Iterable[Record]) -> list[Row]:
    """Return a row for each reported number of the claim and each record in which it was measured."""
    kept = list(records)
    found = []
    for name, reading in ((name, one) for name, several in claim.readings.items() for one in several):
        number, unit = quantity(claim.reported[name])
        for record in kept:
            measured = _measured(reading, record)
            if measured is not None:
                ratio = measured / (number * reading.unit_bytes)
                found.append(
                    Row(
                        *(name, claim.reported[name], measured, reading.unit_bytes, unit, ratio),
                        *(record.condition, reading.arm, record.cell),
                    )
                )
    return found


def quantity(text: str) -> tuple[float, str]:
    """Return number and unit of a text such as ``about 889 MB``; ValueError where there is none."""
    found = re.search(r"(\d[\d,.]*)\s*([A-Za-z]+)", text)
    if not found:
        raise ValueError(f"no number with a unit in `{text}`")
    return float(found[1].replace(",", "")), found[2]


def _measured(reading: Reading, record: Record) -> float | None:
    versions = record.versions
    if record.condition != reading.condition or not all(
        holds(wanted, versions.get(package, "")) for package, wanted in reading.versions.items()
    ):
        return None
    if reading.arm == "budget":
        return float(record.budget["limit"])
    arm = record.arm(reading.arm)
    return arm.figures.get(reading.figure) if arm else None
