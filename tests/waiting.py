"""Waiting: for no longer than is said, and with words for what did not come."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def eventually(condition: Callable[[], T | None], within_s: float, what: str) -> T:
    """Wait until a condition holds and return what it gave; AssertionError with ``what`` after ``within_s`` seconds."""
    deadline = time.monotonic() + within_s
    while not (found := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not in {within_s:g} s: {what}")
        time.sleep(0.02)
    return found
