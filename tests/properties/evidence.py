"""Count examples, and what was counted of upstream in them: the figures of a deep run come from here."""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Callable
from typing import Any

#: By property: examples that passed, outcome, seconds, and under ``counted`` what the property counted.
TALLY: dict[str, dict[str, Any]] = defaultdict(dict)


def proven(test: Callable[..., None]) -> Callable[..., None]:
    """Count the examples that a property passed (below ``@given``)."""

    @functools.wraps(test)
    def counting(*args: Any, **kwargs: Any) -> None:
        test(*args, **kwargs)
        found = TALLY[test.__name__]
        found["examples"] = found.get("examples", 0) + 1

    return counting


def count(test: str, what: str, number: int = 1) -> None:
    """Count something of a property: examples in which upstream departs, and why."""
    if number:
        counted = TALLY[test].setdefault("counted", {})
        counted[what] = counted.get(what, 0) + number
