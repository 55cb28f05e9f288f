"""Cards are listed as the driver's tool lists them, and are held by one arm at a time."""

from __future__ import annotations

import contextlib
import fcntl
import sys
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from repros import cards, cases
from repros.arms import CellServer, Clock
from repros.case import Requires
from repros.meters.cuda import CudaMeters
from repros.trial import Running, Trial, unmet_cards
from repros.verdict import Observation

LISTED = "0, NVIDIA H200, 143771, 143000, 580.95, GPU-aaaa\n1, NVIDIA H200, 143771, 20000, 580.95, GPU-bbbb\n"


@pytest.fixture(autouse=True)
def two_cards(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Put a driver's tool on the path that lists two cards, and says of one named by a file `lost0` that it is not."""
    tool = tmp_path / "bin" / "nvidia-smi"
    tool.parent.mkdir()
    tool.write_text(
        f"#!/bin/sh\n[ -e {tmp_path}/lost${{1#--id=}} ] && echo 'GPU is lost.' >&2 && exit 15\nprintf '{LISTED}'\n"
    )
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tool.parent}:/usr/bin:/bin")
    monkeypatch.setenv("REPROS_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(cards, "_gone", set())
    cards.known.cache_clear()
    yield
    cards.known.cache_clear()


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


def test_arms_take_turns_and_use_both_cards() -> None:
    """Six arms over two cards: never two on one card, and both cards worked at once."""
    busy: set[int] = set()
    most, clashes = [0], [0]
    lock, together = threading.Lock(), threading.Barrier(2, timeout=10)

    def arm(first: bool) -> None:
        with cards.turn(1) as (card,):
            with lock:
                clashes[0] += card in busy
                busy.add(card)
                most[0] = max(most[0], len(busy))
            if first:
                together.wait()  # both are on a card now, or this breaks
            with lock:
                busy.discard(card)

    for first in (True, False):
        threads = [threading.Thread(target=arm, args=(first,)) for _ in range(2 if first else 4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
    assert (clashes[0], most[0]) == (0, 2)


def test_arms_that_share_a_card_keep_others_off_it() -> None:
    """Two share a card at once, spread over both cards first; who wants one alone waits for them, and goes next."""
    order: list[str] = []
    with cards.turn(1, shared=True) as first, cards.turn(1, shared=True) as second:
        assert {first, second} == {(0,), (1,)}
        with cards.turn(1, shared=True) as third:
            assert third == (0,)

        def alone() -> None:
            with cards.turn(1):
                order.append("alone")

        def shares() -> None:
            with cards.turn(1, shared=True):
                order.append("shares")

        threads = [threading.Thread(target=alone)]
        threads[0].start()
        while not cards._wanted:
            pass
        threads.append(threading.Thread(target=shares))
        threads[1].start()
        threads[1].join(0.3)
        assert order == []
    for thread in threads:
        thread.join(10)
    assert order == ["alone", "shares"]


def test_an_arm_may_hold_both() -> None:
    with cards.turn(2) as mine:
        assert mine == (0, 1)


def test_another_process_is_waited_for(tmp_path: Path) -> None:
    """A lock on card 0, as another run of this suite would hold it, sends the arm to wait."""
    taken = threading.Event()

    def arm() -> None:
        with cards.turn(2):
            taken.set()

    with contextlib.ExitStack() as other:
        assert cards._lock(0, other, fcntl.LOCK_EX)
        thread = threading.Thread(target=arm, daemon=True)
        thread.start()
        assert not taken.wait(0.5)
    assert taken.wait(5)


def test_a_lost_card_is_told_of_and_not_handed_out_again(tmp_path: Path) -> None:
    assert cards.lost((0, 1)) == ""
    (tmp_path / "lost0").touch()
    assert cards.lost((0, 1)) == "card 0 is lost, `nvidia-smi` says: GPU is lost."
    assert [card.index for card in cards.left()] == [1]
    with cards.turn(1) as mine:
        assert mine == (1,)
    with cards.turn(1, shared=True) as mine:
        assert mine == (1,)
    with pytest.raises(cards.CardLostError, match="of 2 cards 1 are left, the arm needs 2"), cards.turn(2):
        pass


@pytest.mark.parametrize("shared", [True, False])
def test_who_waits_for_a_card_that_is_lost_waits_no_longer(tmp_path: Path, shared: bool) -> None:
    (tmp_path / "lost0").touch()
    (tmp_path / "lost1").touch()
    refused: list[str] = []

    def wait() -> None:
        with contextlib.suppress(cards.CardLostError), cards.turn(1, shared):
            return
        refused.append("lost")

    with cards.turn(2):
        waiting = threading.Thread(target=wait, daemon=True)
        waiting.start()
        waiting.join(0.2)
        assert waiting.is_alive()
        cards.lost((0,))
        cards.lost((1,))
        waiting.join(5)
    assert refused == ["lost"]


def test_an_arm_on_a_lost_card_is_disturbed_and_those_after_it_do_not_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    began: list[str] = []

    def arm(self: CellServer, request: Mapping[str, Any], log: Path, fresh: bool) -> Observation:
        began.append(request["env"]["CUDA_VISIBLE_DEVICES"])
        (tmp_path / f"lost{began[-1]}").touch()
        text = "CUDA error: unspecified launch failure"
        return Observation(request["arm"], "raised", exception={"types": ["RuntimeError"], "text": text}, reason=text)

    monkeypatch.setattr(CellServer, "_observe", arm)
    server = CellServer(Path(sys.executable), Clock(), "x", "cuda")
    try:
        seen = [server.observe({"arm": "subject", "env": {}}, tmp_path / "log") for _ in range(3)]
    finally:
        server.close()
    assert [(one.state, one.reason) for one in seen] == [
        ("disturbed", f"card {n} is lost, `nvidia-smi` says: GPU is lost.; CUDA error: unspecified launch failure")
        for n in (0, 1)
    ] + [("disturbed", "of 2 cards 0 are left, the arm needs 1")]
    assert began == ["0", "1"]


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


def test_where_running_out_of_memory_is_the_symptom_the_card_is_declared() -> None:
    for entry in cases.find():
        if any(symptom.type == "OutOfMemoryError" for symptom in entry.case.symptoms):
            for condition in entry.case.on("cuda"):
                assert condition.requires.card_bytes, f"{entry.name} {condition.name}"


@pytest.mark.parametrize(
    ("requires", "reason"),
    [
        (Requires(), ""),
        (Requires(card_bytes=100 << 30), ""),
        (Requires(card_bytes=140 << 30), "needs 143360 MiB free on a card, the best of this machine has 143000 MiB"),
        (Requires(cards=2, card_bytes=30 << 30), "needs 30720 MiB free on 2 cards, here 1 of 2 have that"),
        (Requires(cards=3), "needs 3 of the cards that `nvidia-smi` lists, here 2"),
    ],
)
def test_what_cards_lack_is_said(requires: Requires, reason: str) -> None:
    assert unmet_cards(requires, [card.free_bytes for card in cards.cards()]) == reason


@pytest.mark.parametrize(
    ("case", "condition", "shared"),
    [
        ("gh1927_int8_recompute", "tied-weight-cuda", True),  # judged by numbers
        ("gh1935_saved_weight", "nf4-eager-layer-cuda", False),  # by bytes
        ("gh1849_fused_experts", "nf4-experts-fused-35b-two-cards-cuda", False),
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
    smaller = replace(declared, requires=Requires(cards=declared.requires.cards))  # the cards here are 20 GB
    trial = Trial(entry, smaller, "gpu")
    with ThreadPoolExecutor(1) as arms:
        Running(trial, Place(), arms, tmp_path, {}).record()
    assert set(asked) == {(shared, declared.requires.cards)}
