"""What differs between two runs. Pure: from records alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from repros.run.results import Record
from repros.verdict import show, show_pair

#: A judged figure that moved by less than this says nothing: heaps and rounding differ from run to run.
SAME = 0.05

Key = tuple[str, str, str]
NOT_TRIED = "not tried"


@dataclass(frozen=True)
class Change:
    """One trial that is not what it was; ``what`` names the parts that differ, each as (name, before, after)."""

    key: Key
    what: tuple[tuple[str, str, str], ...]

    @property
    def settles(self) -> bool:
        """Return whether the verdict of a trial of both runs changed, and not a figure only."""
        return any(name == "verdict" for name, _, _ in self.what)

    @property
    def lone(self) -> str:
        """Return which run alone has the trial: ``before``, ``after``, or neither."""
        for name, was, _ in self.what:
            if name == "trial":
                return "after" if was == NOT_TRIED else "before"
        return ""


def between(before: Sequence[Record], after: Sequence[Record]) -> dict[Key, Change]:
    """Return the trials that changed, came or went; trials of both runs that say the same are left out."""
    old, new = ({record.key: record for record in records} for records in (before, after))
    found = {}
    for key in [*new, *(key for key in old if key not in new)]:
        what = compare(old.get(key), new.get(key))
        if what:
            found[key] = Change(key, tuple(what))
    return found


def compare(old: Record | None, new: Record | None) -> list[tuple[str, str, str]]:
    """Return what differs between two records of one trial."""
    if old is None or new is None:
        return [("trial", verdict(old), verdict(new))]
    parts = [("verdict", old.verdict.value, new.verdict.value), ("outcome", old.outcome.value, new.outcome.value)]
    parts.append(("proposed fix", effect(old), effect(new)))
    if old.budget.get("figure") == new.budget.get("figure"):
        unit = str(new.budget.get("unit", ""))
        parts += [
            (f"{arm}: {new.budget['figure']}", show(was, unit), show(now, unit))
            for arm in ("subject", "reference", "planted")
            if moved(was := old.figure(arm), now := new.figure(arm))
        ]
        was, now = (float(record.budget["limit"]) for record in (old, new))
        parts.append(("budget", *show_pair(was, now, unit)))
    else:
        parts.append(("judged figure", str(old.budget.get("figure")), str(new.budget.get("figure"))))
    mine, theirs = (dict(record.environment.get("packages", {})) for record in (old, new))
    parts += [(name, str(mine.get(name, "-")), str(theirs.get(name, "-"))) for name in {**mine, **theirs}]
    return [part for part in parts if part[1] != part[2]]


def moved(was: float | None, now: float | None) -> bool:
    """Return whether a figure differs by more than `SAME`."""
    if was is None or now is None or not math.isfinite(was) or not math.isfinite(now):
        return was != now
    return abs(now - was) > SAME * max(abs(was), abs(now))


def verdict(record: Record | None) -> str:
    """Return a trial's verdict, or that it was not tried."""
    return record.verdict.value if record else NOT_TRIED


def effect(record: Record) -> str:
    """Return what the proposed fix does, or that it was not tried."""
    return record.proposed["effect"] if record.proposed else NOT_TRIED
