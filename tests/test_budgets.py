"""Budgets are tight enough: one weight that stays breaks them, not only all."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest

from repros.case import ITEMSIZE, Condition
from repros.cases.bitsandbytes import gh1935_saved_weight as saved

ON_CARD = [condition for condition in saved.CASE.conditions if condition.name.endswith("-cuda")]


def weights(p: Any) -> list[int]:
    """Return the bytes of each dequantized weight of a condition."""
    return [n * k * ITEMSIZE[p["dtype"]] for k, n in pairwise(p["widths"])]


@pytest.mark.parametrize("condition", [c for c in ON_CARD if c.budget is saved.CARD_HELD], ids=lambda c: c.name)
def test_one_weight_held_to_the_backward_breaks_the_budget_of_both_instruments(condition: Condition) -> None:
    assert min(weights(condition.params)) > saved.CARD_HELD.limit(condition.params) + saved.CARD_HELD.second_slack


@pytest.mark.parametrize("condition", [c for c in ON_CARD if c.budget is saved.CARD_PEAK], ids=lambda c: c.name)
def test_of_the_recomputed_weights_two_at_a_time_break_the_budget(condition: Condition) -> None:
    largest, *_ = sorted(weights(condition.params), reverse=True)
    assert 2 * largest > saved.CARD_PEAK.limit(condition.params)
