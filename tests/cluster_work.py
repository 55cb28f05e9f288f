"""What the workers of a tested cluster do: they import it by name."""

from __future__ import annotations

import time
from dataclasses import dataclass

from repros.cluster.worker import Answer


@dataclass(frozen=True)
class Number:
    """A number to double, after so many seconds."""

    number: int
    seconds: float = 0.0
    unfit: frozenset[str] = frozenset()
    where: str = "a cell"


def double(order: Number) -> Answer:
    """Double it; a worker that is named unfit cannot."""
    from distributed import get_worker

    time.sleep(order.seconds)
    if (address := get_worker().address) in order.unfit:
        return Answer(cannot="no Python 3.99 here", kind="error", worker=address)
    return Answer(2 * order.number, worker=address)


def fail(order: Number) -> Answer:
    """Fail, as a fault of the suite does."""
    raise ZeroDivisionError(f"{order.number}")
