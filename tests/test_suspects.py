"""Delta debugging over pins: the smallest set that carries a change, with combinations that cannot be installed."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from repros.bisect.search import BAD, GOOD, SKIP
from repros.bisect.suspects import mixed, smallest
from repros.cells.matrix import Cell

SEVEN = ("torch", "transformers", "bitsandbytes", "accelerate", "peft", "huggingface_hub", "tokenizers")


def needing(*culprits: str, together: tuple[str, str] | None = None) -> Callable[[frozenset[str]], str]:
    """Return a test that says bad where all culprits are taken; `together` cannot be installed apart."""

    def test(taken: frozenset[str]) -> str:
        if together and len(taken & set(together)) == 1:
            return SKIP
        return BAD if set(culprits) <= taken else GOOD

    return test


@pytest.mark.parametrize("culprit", SEVEN)
def test_one_package(culprit: str) -> None:
    assert smallest(SEVEN, needing(culprit)) == (culprit,)


@pytest.mark.parametrize("pair", [("torch", "tokenizers"), ("torch", "transformers"), ("peft", "accelerate")])
def test_an_interaction_of_two(pair: tuple[str, str]) -> None:
    assert set(smallest(SEVEN, needing(*pair))) == set(pair)


def test_packages_that_must_go_together_stay_together() -> None:
    found = smallest(SEVEN, needing("transformers", together=("transformers", "tokenizers")))
    assert set(found) == {"transformers", "tokenizers"}


def test_a_single_change_is_the_answer_without_a_test() -> None:
    assert smallest(["torch"], lambda taken: GOOD) == ("torch",)


@given(st.sets(st.sampled_from(SEVEN), min_size=1), st.sets(st.frozensets(st.sampled_from(SEVEN))))
def test_what_comes_out_is_minimal(culprits: set[str], uninstallable: set[frozenset[str]]) -> None:
    """It is bad, and no smaller by one change is; no subset is asked twice."""
    asked: list[frozenset[str]] = []

    def answer(taken: frozenset[str]) -> str:
        if taken in uninstallable and taken != frozenset(SEVEN):
            return SKIP
        return BAD if culprits <= taken else GOOD

    def test(taken: frozenset[str]) -> str:
        asked.append(taken)
        return answer(taken)

    found = frozenset(smallest(SEVEN, test))
    assert answer(found) == BAD
    assert all(answer(found - {one}) != BAD for one in found if len(found) > 1)
    assert len(asked) == len(set(asked))


def test_cells_are_mixed_with_followers_left_to_the_resolver() -> None:
    good = Cell("good", "cpu", {"torch": "1.0.0", "transformers": "4.0.0", "tokenizers": "0.1.0"})
    bad = Cell("bad", "cpu", {"torch": "2.0.0", "transformers": "5.0.0", "tokenizers": "0.2.0"})
    assert dict(mixed(good, bad, frozenset({"transformers"})).cell.pins) == {
        "torch": "1.0.0", "transformers": "5.0.0", "tokenizers": ">=0",
    }  # fmt: skip
    assert dict(mixed(good, bad, frozenset({"tokenizers"})).cell.pins)["tokenizers"] == "0.2.0"
    assert mixed(good, bad, frozenset()).cell == good
