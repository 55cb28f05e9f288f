"""A wait that other tests rely on ends."""

from __future__ import annotations

import pytest

from tests.waiting import eventually


def test_it_returns_what_came() -> None:
    answers = iter([None, 0, 7, 8])
    assert eventually(lambda: next(answers), 5, "an answer") == 7


def test_what_does_not_come_is_named() -> None:
    with pytest.raises(AssertionError, match=r"^not in 0.05 s: a bus$"):
        eventually(lambda: False, 0.05, "a bus")
