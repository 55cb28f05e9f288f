"""Cards are listed as the driver's tool lists them; what an arm needs of them, and what is no fault of its own."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from repros import cases
from repros.case import Needs
from repros.machine import cards
from repros.meters.cuda import CudaMeters
from repros.requirements import unmet_cards
from repros.run.trial import Running, Trial
from repros.verdict import Observation
from repros.worker.arm import Driver, short_of

pytestmark = pytest.mark.usefixtures("two_cards")


def test_cards_are_listed_in_bytes() -> None:
    first, second = cards.cards()
    assert (first.index, first.name, first.driver) == (0, "NVIDIA H200", "580.95")
    assert first.total_bytes == 143771 << 20
    assert second.free_bytes == 20000 << 20


@pytest.mark.parametrize(("visible", "indices"), [("1", [1]), ("GPU-aaaa", [0]), ("0,1", [0, 1]), ("", [])])
def test_only_visible_cards_count(monkeypatch: pytest.MonkeyPatch, visible: str, indices: list[int]) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert [card.index for card in cards.cards()] == indices


def test_a_host_without_the_tool_has_no_cards(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert cards.cards() == ()


@pytest.mark.parametrize(
    ("free", "reserved", "says"),
    [
        (20 << 30, 0, ""),
        (1 << 30, 11 << 30, ""),  # what it ran out of is its own
        (2 << 30, 1 << 30, "the card had 3840 MiB for the arm, not the 13056 MiB that it needs"),
    ],
)
def test_memory_that_somebody_else_took_is_no_symptom(
    free: int, reserved: int, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda card: (free, 139 << 30))
    monkeypatch.setattr("torch.cuda.memory_reserved", lambda card: reserved)
    assert CudaMeters().short_of(13056 << 20) == says
    assert CudaMeters().short_of(0) == ""


def test_an_arm_that_declares_nothing_is_not_judged_by_what_it_ran_out_of_beside_others() -> None:
    probe = Driver()
    assert short_of(probe, {"beside": True}) == "others were on the card"
    assert short_of(probe, {"beside": False}) == ""
    assert short_of(probe, {"beside": True, "card_bytes": 1}) == ""  # it is asked what the card had


def test_where_running_out_of_memory_is_the_symptom_the_card_is_declared() -> None:
    conditions = [
        (entry.name, condition)
        for entry in cases.find()
        if any(symptom.type == "OutOfMemoryError" for symptom in entry.case.symptoms)
        for condition in entry.case.conditions
        if condition.device == "cuda"
    ]
    assert {"gh1935_card_table", "gh1849_two_cards"} <= {name for name, _ in conditions}
    assert not [f"{name} {condition.name}" for name, condition in conditions if not condition.needs.card_bytes]


@pytest.mark.parametrize(
    ("needs", "reason"),
    [
        (Needs(), ""),
        (Needs(card_bytes=100 << 30), ""),
        (Needs(card_bytes=140 << 30), "needs 143360 MiB free on a card, the best of this machine has 143000 MiB"),
        (Needs(cards=2, card_bytes=30 << 30), "needs 30720 MiB free on 2 cards, here 1 of 2 have that"),
        (Needs(cards=3), "needs 3 of the cards that `nvidia-smi` lists, here 2"),
    ],
)
def test_what_cards_lack_is_said(needs: Needs, reason: str) -> None:
    assert unmet_cards(needs, [card.free_bytes for card in cards.cards()]) == reason


@pytest.mark.parametrize(
    ("case", "condition", "shared"),
    [
        ("gh1927_moved_weight", "tied-weight-cuda", True),  # judged by numbers
        ("gh1935_saved_weight", "nf4-eager-layer-cuda", False),  # by bytes
        ("gh1849_two_cards", "nf4-experts-fused-35b-two-cards-cuda", False),
    ],
)
def test_only_arms_whose_numbers_are_judged_share_a_card(
    case: str, condition: str, shared: bool, tmp_path: Path
) -> None:
    asked: list[tuple[bool, int]] = []

    class Place:
        cell, device = "gpu", "cuda"
        facts: Mapping[str, Any] = {"packages": {}}
        versions: Mapping[str, str] = {"torch": "2.11.0", "transformers": "5.23.0", "bitsandbytes": "0.49.2"}

        def observe(self, request: Mapping[str, Any], log: Path, fresh: bool = False, cards: int = 1) -> Observation:
            asked.append((request["shared"], cards))
            return Observation(request["arm"], "done")

        def checkpoint(self, recipe: str) -> str:
            return recipe

    (entry,) = cases.select(case, cases.find())
    declared = entry.condition(condition)
    smaller = replace(declared, needs=Needs(cards=declared.needs.cards))  # the cards here are 20 GB
    trial = Trial(entry, smaller, "gpu")
    with ThreadPoolExecutor(1) as arms:
        Running(trial, Place(), arms, tmp_path, {}).record()
    assert set(asked) == {(shared, declared.needs.cards)}
