"""Budgets are tight enough: one weight that stays breaks them, not only all."""

from __future__ import annotations

from itertools import pairwise

import pytest

from repros.case import ITEMSIZE, Condition
from repros.cases.bitsandbytes.gh1935 import adapters, compiled, int8, saved_weight

ON_CARD = [
    condition
    for module in (saved_weight, compiled, int8, adapters)
    for condition in module.CASE.conditions
    if condition.device == "cuda"
]


def of_figure(figure: str) -> list[Condition]:
    """Return the conditions on a card that are judged by a figure."""
    return [condition for condition in ON_CARD if condition.budget.figure == figure]


def weights(c: Condition) -> list[int]:
    """Return the bytes of each dequantized weight of a condition."""
    return [n * k * ITEMSIZE["bfloat16"] for k, n in pairwise(c.widths)]


def test_every_condition_on_a_card_is_judged_by_what_it_holds_or_by_its_peak() -> None:
    assert {condition.budget.figure for condition in ON_CARD} == {"cuda_held_bytes", "cuda_peak_allocated_bytes"}
    assert all(condition.budget.second_slack for condition in of_figure("cuda_held_bytes"))


@pytest.mark.parametrize("condition", of_figure("cuda_held_bytes"), ids=lambda c: c.name)
def test_one_weight_held_to_the_backward_breaks_the_budget_of_both_instruments(condition: Condition) -> None:
    assert min(weights(condition)) > condition.budget.limit + condition.budget.second_slack


@pytest.mark.parametrize("condition", of_figure("cuda_peak_allocated_bytes"), ids=lambda c: c.name)
def test_of_the_recomputed_weights_two_at_a_time_break_the_budget(condition: Condition) -> None:
    assert 2 * max(weights(condition)) > condition.budget.limit
