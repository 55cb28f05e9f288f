"""What was tried, for the figures that `nox -s attack` keeps: damaged inputs by the door they came to."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from hypothesis import settings

from repros.errors import UserError

#: No input may take longer.
LIMIT_S = 10.0
#: (door, ``refused`` or ``taken``) -> how many inputs.
TALLY: Counter[tuple[str, str]] = Counter()
#: What else was counted: name of the attack -> name of the count -> how many.
COUNTS: dict[str, dict[str, int]] = {}


@contextmanager
def at_the_door(door: str) -> Iterator[None]:
    """Count one input: refused in two lines, or taken; any other exception, and a long wait, fails the test."""
    began = time.monotonic()
    try:
        yield
    except UserError as error:
        lines = str(error).split("\n")
        assert len(lines) == 2 and lines[1].startswith("hint: "), str(error)
        assert lines[0].strip() and lines[1].removeprefix("hint: ").strip(), str(error)
        TALLY[door, "refused"] += 1
    else:
        TALLY[door, "taken"] += 1
    spent = time.monotonic() - began
    assert spent < LIMIT_S, f"{door}: {spent:.1f} s for one input"


def part(share: float) -> settings:
    """Return settings for a share of the profile's examples: the tests of a door have them together."""
    return settings(max_examples=max(15, int(settings().max_examples / share)))
