"""What changes with a newer release: each trial held against the same trial with the newest known one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from packaging.version import Version

from repros.cells.matrix import Cell
from repros.run.record import Record
from repros.verdict import SETTLED, Outcome, Verdict


class Kind(StrEnum):
    """How a trial differs from the one with the newest known release."""

    BAD = "newly bad"
    GOOD = "newly good"
    UNTOLD = "no longer told"


@dataclass(frozen=True)
class Change:
    """A trial with a newer release that came out otherwise, and what it came out as before, if it was tried."""

    kind: Kind
    package: str
    now: Record
    before: Record | None


def before(evidence: Sequence[Record], base: Cell, package: str) -> dict[tuple[str, str], Record]:
    """Return case and condition -> the trial in the base cell, with the newest release of a package that it has.

    A trial that was told counts before one that was not.
    """
    found: dict[tuple[str, str], Record] = {}
    for record in evidence:
        if record.cell != base.label and not record.cell.startswith(f"{base.label} with {package}="):
            continue
        other = found.get((record.case, record.condition))
        if other is None or _rank(record, package) > _rank(other, package):
            found[record.case, record.condition] = record
    return found


def _rank(record: Record, package: str) -> tuple[bool, Version]:
    return record.verdict in SETTLED, Version(record.versions.get(package) or "0")


def changes(now: Sequence[Record], known: dict[tuple[str, str], Record], package: str) -> list[Change]:
    """Return what came out otherwise than before; without a trial before, what its case does not expect."""
    found = []
    for record in now:
        old = known.get((record.case, record.condition))
        kind = _kind(record, old)
        if kind is not None:
            found.append(Change(kind, package, record, old))
    return found


def _kind(now: Record, old: Record | None) -> Kind | None:
    if now.verdict not in SETTLED:
        was_told = old is not None and old.verdict in SETTLED
        return Kind.UNTOLD if was_told or now.verdict is not Verdict.UNSUPPORTED else None
    if old is None or old.verdict not in SETTLED:
        return {Outcome.REGRESSION: Kind.BAD, Outcome.FIXED: Kind.GOOD}.get(now.outcome)
    if now.verdict is old.verdict:
        return None
    return Kind.BAD if now.verdict is Verdict.REPRODUCED else Kind.GOOD
