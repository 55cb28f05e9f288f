"""Timelines of memory, thinned: rows of seconds and bytes, of which the second is the height."""

from __future__ import annotations

from collections.abc import Sequence
from operator import itemgetter
from typing import TypeVar

#: Points that a meter keeps of one arm.
POINTS = 400

P = TypeVar("P", bound=Sequence[float])
_HEIGHT = itemgetter(1)


def thinned(points: Sequence[P], most: int = POINTS) -> list[P]:
    """Return at most so many points: the highest of each stretch of time, and the last."""
    if len(points) <= most:
        return list(points)
    step = -(-len(points) // (most - 1))
    kept = [max(points[i : i + step], key=_HEIGHT) for i in range(0, len(points), step)]
    return kept if kept[-1] is points[-1] else [*kept, points[-1]]
