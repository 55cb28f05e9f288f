"""Arms take turns on a card; the next ones sit there, warmed up; a card that is lost keeps nobody waiting."""

from __future__ import annotations

import contextlib
import fcntl
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from repros.case import CONTEXT_BYTES
from repros.machine import cards, turns
from repros.machine.turns import Want
from repros.run.server import CellServer, Clock
from repros.verdict import Observation
from tests.conftest import CARDS
from tests.waiting import eventually

pytestmark = pytest.mark.usefixtures("two_cards")

#: All that the larger card has free.
WHOLE = 143000 << 20


def see_only(monkeypatch: pytest.MonkeyPatch, index: int) -> None:
    """Have one of the two cards: 0 with 139 GiB free, or 1 with 20 GB."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", str(index))
    cards.known.cache_clear()


def asks(size: int, order: list[int]) -> threading.Thread:
    """Return a thread that shares a card, with so many bytes of it, and enters them once it has."""

    def share() -> None:
        with turns.turn(Want(card_bytes=size, shared=True)):
            order.append(size)

    return threading.Thread(target=share, daemon=True)


def wait_one_after_another(threads: Sequence[threading.Thread]) -> None:
    """Start them, each once those before it wait for room."""
    for waiting, thread in enumerate(threads, 1):
        thread.start()
        eventually(lambda waiting=waiting: len(turns._queued) == waiting, 10, "an arm that waits for room")  # type: ignore[misc]


def test_arms_take_turns_and_use_both_cards() -> None:
    """Six arms over two cards: never two on one card, and both cards worked at once."""
    busy: set[cards.Card] = set()
    most, clashes = [0], [0]
    lock, together = threading.Lock(), threading.Barrier(2, timeout=10)

    def arm(first: bool) -> None:
        with turns.turn(Want()) as (card,):
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
    shared = Want(shared=True)
    with turns.turn(shared) as (first,), turns.turn(shared) as (second,):
        assert {first.index, second.index} == {0, 1}
        with turns.turn(shared) as (third,):
            assert third.index == 0

        def alone() -> None:
            with turns.turn(Want()):
                order.append("alone")

        def shares() -> None:
            with turns.turn(shared):
                order.append("shares")

        threads = [threading.Thread(target=alone)]
        threads[0].start()
        eventually(lambda: turns._wanted, 10, "an arm that waits for a card of its own")
        threads.append(threading.Thread(target=shares))
        threads[1].start()
        threads[1].join(0.3)
        assert order == []
    for thread in threads:
        thread.join(10)
    assert order == ["alone", "shares"]


def test_arms_that_share_a_card_fit_there_together() -> None:
    """Of 139 GiB two have 128; a third that needs 48 waits for one of them, and one that declares nothing does not."""
    began = threading.Event()

    def third() -> None:
        with turns.turn(Want(card_bytes=48 << 30, shared=True)):
            began.set()

    waiting = threading.Thread(target=third)
    with turns.turn(Want(card_bytes=80 << 30, shared=True)) as (first,):
        with turns.turn(Want(card_bytes=48 << 30, shared=True)) as (second,):
            assert (first.index, second.index) == (0, 0)
            waiting.start()
            assert not began.wait(0.3)
            with turns.turn(Want(shared=True)) as (small,):  # card 1 has 20 GB
                assert small.index == 1
        assert began.wait(10)
    waiting.join(10)
    assert not turns._shares


def test_who_wants_all_that_is_free_may_have_it_while_nobody_shares_it() -> None:
    """Room is kept only from those who come to a card that is shared already."""
    began: list[int] = []
    thread = asks(WHOLE, began)
    thread.start()
    thread.join(10)  # what it holds is in the way of the next test
    assert began == [WHOLE]


def test_of_those_who_wait_the_one_that_takes_most_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asked first: at the end it would have the card to itself. No two of these fit its 20 GB."""
    see_only(monkeypatch, 1)
    order: list[int] = []
    threads = [asks(size << 30, order) for size in (12, 15, 13)]
    with turns.turn(Want(card_bytes=16 << 30, shared=True)):
        wait_one_after_another(threads)
    for thread in threads:
        thread.join(10)
    assert order == [15 << 30, 13 << 30, 12 << 30]
    assert not turns._queued


def test_who_waits_for_most_of_a_card_is_left_what_it_waits_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 139 GiB 60 and 30 are taken, one waits for 104: another of 20 has room and waits too, a small one does not."""
    see_only(monkeypatch, 0)
    order: list[int] = []
    threads = [asks(size << 30, order) for size in (104, 20)]
    with turns.turn(Want(card_bytes=30 << 30, shared=True)):
        with turns.turn(Want(card_bytes=60 << 30, shared=True)):
            wait_one_after_another(threads[:1])
            assert turns._open_to(Want(shared=True))
            threads[1].start()
            eventually(lambda: len(turns._queued) == 2, 10, "an arm that waits for room")
            assert turns._open_to(Want(shared=True))
            assert turns._with_room(Want(card_bytes=20 << 30, shared=True))
            threads[1].join(0.3)
            assert order == []
        for thread in threads:
            thread.join(10)
    assert order == [104 << 30, 20 << 30]


def test_who_has_room_but_leaves_none_for_the_largest_keeps_nobody_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 139 GiB 60 and 30 are taken; 80 is waited for, which 25 would be in the way of and 10 is not."""
    see_only(monkeypatch, 0)
    waiting = [Want(card_bytes=size << 30, shared=True) for size in (80, 25)]
    held = [Want(card_bytes=size << 30, shared=True) for size in (60, 30)]
    with contextlib.ExitStack() as stack:
        for want in held:
            stack.enter_context(turns.turn(want))
        for want in waiting:
            stack.enter_context(turns._standing(want, turns._queued))
        assert turns._with_room(waiting[1]) and not turns._open_to(waiting[1])
        assert turns._open_to(Want(card_bytes=10 << 30, shared=True))


def test_a_whole_card_is_not_waited_for_behind_small_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small ones could be in what is kept one after the other, and the card would never be empty."""
    see_only(monkeypatch, 0)
    small, began = Want(shared=True), list[int]()
    thread = asks(WHOLE, began)
    with turns.turn(small):
        wait_one_after_another([thread])
        assert turns._with_room(small) and not turns._open_to(small)
    thread.join(10)
    assert began == [WHOLE]


def test_who_waits_for_a_whole_card_keeps_nobody_off_another() -> None:
    """One of 30 GiB is on the larger card, which all of is waited for; another of 10 goes to the smaller one."""
    began: list[int] = []
    thread = asks(WHOLE, began)
    with turns.turn(Want(card_bytes=30 << 30, shared=True)):
        wait_one_after_another([thread])
        assert [card.index for card in turns._open_to(Want(card_bytes=10 << 30, shared=True))] == [1]
    thread.join(10)
    assert began == [WHOLE]


def test_who_declares_nothing_takes_a_context_and_as_much_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many are let on a card of 20 GB as leave some of it free, and two in what is kept."""
    see_only(monkeypatch, 1)
    monkeypatch.setattr(turns, "MOST_SHARING", 100)
    want = Want(shared=True)
    room = (cards.known()[0].free_bytes - turns.ROOM_BYTES) // (2 * CONTEXT_BYTES)
    with contextlib.ExitStack() as stack:
        for _ in range(room + 2):
            stack.enter_context(turns.turn(want))
        assert not turns._with_room(want)
    assert turns._with_room(want)


def test_two_small_arms_are_in_the_room_that_is_kept() -> None:
    """Large arms take all but 4 GiB of one card and most of the other, and another waits: two small ones do not."""
    took: list[int] = []
    small, waiting = Want(shared=True), asks(60 << 30, took)
    with contextlib.ExitStack() as stack:
        for size in (80, 54):
            stack.enter_context(turns.turn(Want(card_bytes=size << 30, shared=True)))
        stack.enter_context(turns.turn(Want(card_bytes=16 << 30, shared=True)))  # on the other card, of 20 GB
        wait_one_after_another([waiting])
        assert [card.index for card in turns._with_room(small)] == [0]
        assert [stack.enter_context(turns.turn(small))[0].index for _ in range(2)] == [0, 0]
        assert not turns._with_room(small)
    waiting.join(10)
    assert took == [60 << 30]
    assert not turns._shares


def test_eight_share_a_card_though_more_would_fit() -> None:
    """Two cards take 16; who comes then waits for a place, not for room."""
    want = Want(shared=True)
    with contextlib.ExitStack() as stack:
        mine = [stack.enter_context(turns.turn(want))[0].index for _ in range(2 * turns.MOST_SHARING - 1)]
        assert [card.index for card in turns._with_room(want)] == [1]
        with turns.turn(want):
            assert not turns._with_room(want)
        assert (mine.count(0), mine.count(1)) == (8, 7)


def test_a_card_that_takes_one_process_at_a_time_is_not_shared(tmp_path: Path) -> None:
    (tmp_path / "cards").write_text("\n".join(CARDS).replace("Default", "Exclusive_Process"))
    cards.known.cache_clear()
    want = Want(shared=True)
    with turns.turn(want) as (first,), turns.turn(want) as (second,):
        assert {first.index, second.index} == {0, 1}
        assert not turns._with_room(want)


def test_an_arm_may_hold_both() -> None:
    with turns.turn(Want(2)) as mine:
        assert [card.index for card in mine] == [0, 1]


@pytest.mark.parametrize("want", [Want(card_bytes=100 << 30), Want(card_bytes=100 << 30, shared=True)])
def test_an_arm_is_put_where_it_has_room(want: Want) -> None:
    """Card 1 has 20 GB free."""
    with turns.turn(Want(shared=want.shared)) as (first,):
        assert first.index == 0
        got = threading.Event()

        def large() -> None:
            with turns.turn(want) as (card,):
                assert card.index == 0
                got.set()

        thread = threading.Thread(target=large, daemon=True)
        thread.start()
        assert got.wait(0.3) == want.shared  # it may share card 0, or waits for it
    assert got.wait(5)
    thread.join(10)


def test_a_card_that_cannot_be_locked_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise OSError("no locks available")

    with monkeypatch.context() as broken:
        broken.setattr(fcntl, "flock", refused)
        for want in (Want(), Want(shared=True)):
            with pytest.raises(OSError, match="no locks"), turns.turn(want):
                pass
    with turns.turn(Want(2)) as mine:
        assert len(mine) == 2


@pytest.mark.parametrize("how", [fcntl.LOCK_EX, fcntl.LOCK_SH])
def test_another_process_is_waited_for(how: int) -> None:
    """An arm of another run of this suite has a card or shares one: who wants both cards waits."""
    taken = threading.Event()

    def arm() -> None:
        with turns.turn(Want(2)):
            taken.set()

    other = turns._locked(["0.lock"], how)
    assert other is not None
    with other:
        thread = threading.Thread(target=arm, daemon=True)
        thread.start()
        assert not taken.wait(0.5)
    assert taken.wait(5)
    thread.join(10)


def test_a_lost_card_is_told_of_and_not_handed_out_again(tmp_path: Path) -> None:
    assert cards.lost(cards.known()) == ""
    (tmp_path / "lostGPU-aaaa").touch()
    assert cards.lost(cards.known()) == "card 0 is lost, `nvidia-smi` says: GPU is lost."
    assert [card.index for card in cards.left()] == [1]
    for want in (Want(), Want(shared=True)):
        with turns.turn(want) as (card,):
            assert card.index == 1
    with pytest.raises(turns.CardLostError, match="of 2 cards 1 are left, the arm needs 2"), turns.turn(Want(2)):
        pass
    large = Want(card_bytes=100 << 30)
    with pytest.raises(turns.CardLostError, match="the arm needs 1 with 102400 MiB free"), turns.turn(large):
        pass


def test_one_slow_answer_is_no_loss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter(["no answer after 20 s", "", "Unknown Error", "Unknown Error"])
    monkeypatch.setattr(cards, "_missing", lambda card: next(answers))
    one = cards.known()[:1]
    assert cards.lost(one) == ""
    assert cards.left() == cards.known()
    assert "Unknown Error" in cards.lost(one)


@pytest.mark.parametrize("shared", [True, False])
def test_who_waits_for_a_card_that_is_lost_waits_no_longer(tmp_path: Path, shared: bool) -> None:
    (tmp_path / "lostGPU-aaaa").touch()
    (tmp_path / "lostGPU-bbbb").touch()
    refused: list[str] = []

    def wait() -> None:
        with contextlib.suppress(turns.CardLostError), turns.turn(Want(shared=shared)):
            return
        refused.append("lost")

    with turns.turn(Want(2)) as both:
        waiting = threading.Thread(target=wait, daemon=True)
        waiting.start()
        waiting.join(0.2)
        assert waiting.is_alive()
        for card in both:
            cards.lost((card,))
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
    assert began == ["GPU-aaaa", "GPU-bbbb"]


# -- arms beside each other, where the driver tells one process from another


class Card:
    """Stands where arms run: it counts them, and answers as a driver does."""

    def __init__(self, told: Callable[[Mapping[str, Any]], str] = lambda request: "process") -> None:
        self.told, self.lock, self.now, self.most = told, threading.Lock(), 0, 0
        self.asked: list[bool] = []
        self.alone_at_once = 0

    def observe(self, request: Mapping[str, Any], log: Path, fresh: bool) -> Observation:
        with self.lock:
            self.now += 1
            self.most = max(self.most, self.now)
            self.asked.append(request["beside"])
            self.alone_at_once += not request["beside"] and self.now > 1
        time.sleep(0.1)
        with self.lock:
            self.now -= 1
        state = "disturbed" if request["arm"] == "crowded" and request["beside"] else "done"
        return Observation(request["arm"], state, evidence={"driver_tells_of": self.told(request)})


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[CellServer]:
    """Yield a cell whose arms go to card 0."""
    see_only(monkeypatch, 0)
    made = CellServer(Path(sys.executable), Clock(), "turns", "cuda", ())
    yield made
    made.close()


def tried(
    server: CellServer, card: Card, arms: Sequence[str], tmp_path: Path, card_bytes: int = 0
) -> list[Observation]:
    """Ask for these arms at once."""
    server._observe = card.observe  # type: ignore[method-assign]
    with ThreadPoolExecutor(len(arms)) as pool:
        asked = [{"arm": arm, "env": {}, "card_bytes": card_bytes} for arm in arms]
        return list(pool.map(lambda request: server.observe(request, tmp_path / "log"), asked))


@pytest.mark.parametrize("tells", ["process", "card"])
def test_arms_share_a_card_as_soon_as_one_has_found_that_it_does_not_show(
    server: CellServer, tmp_path: Path, tells: str
) -> None:
    """Six are asked for at once: the first is alone, and where it finds that it may, the others work together."""
    card = Card(lambda request: tells)
    seen = tried(server, card, ["subject"] * 6, tmp_path)
    assert [one.state for one in seen] == ["done"] * 6
    assert sorted(card.asked) == ([False] + [True] * 5 if tells == "process" else [False] * 6)
    assert card.most == (5 if tells == "process" else 1)
    assert card.alone_at_once == 0


def test_a_small_arm_finds_it_though_a_large_one_asked_first(server: CellServer, tmp_path: Path) -> None:
    """The large one would have the card alone for longer; where no small one comes it finds it itself."""
    order: list[int] = []

    def tell(request: Mapping[str, Any]) -> str:
        order.append(request["card_bytes"] >> 30)
        return "process"

    card = Card(tell)
    server._observe = card.observe  # type: ignore[method-assign]
    with ThreadPoolExecutor(2) as pool:
        for size in (60, 0):
            pool.submit(server.observe, {"arm": "subject", "env": {}, "card_bytes": size << 30}, tmp_path / "log")
            time.sleep(0.2)
    assert (order, card.asked) == ([0, 60], [False, True])

    server._apart.known = None
    tried(server, card, ["subject"], tmp_path, card_bytes=60 << 30)
    assert card.asked[2:] == [False]


def test_what_one_server_of_a_run_has_found_the_others_know(server: CellServer, tmp_path: Path) -> None:
    card = Card()
    other = CellServer(Path(sys.executable), Clock(), "turns", "cuda", (), apart=server._apart)
    try:
        for place in (server, other):
            tried(place, card, ["subject"] * 2, tmp_path)
    finally:
        other.close()
    assert sorted(card.asked) == [False, True, True, True]


def test_as_many_share_a_card_as_fit_there(server: CellServer, tmp_path: Path) -> None:
    """Of 139 GiB two have 60 each, and the room beside them is none for a third."""
    card = Card()
    tried(server, card, ["subject"] * 6, tmp_path, card_bytes=60 << 30)
    assert (card.most, len(card.asked)) == (2, 6)


def test_an_arm_that_ran_short_beside_others_is_run_again_alone(server: CellServer, tmp_path: Path) -> None:
    card = Card()
    seen = tried(server, card, ["subject", *["crowded"] * 2, *["subject"] * 3], tmp_path)
    assert [one.state for one in seen] == ["done"] * 6
    assert len(card.asked) == 8 or card.asked[0] is False  # one of the crowded may have been the first, which is alone
    assert card.alone_at_once == 0


def test_what_a_driver_told_of_a_card_that_others_were_on_is_not_taken(server: CellServer, tmp_path: Path) -> None:
    """It tells processes apart, and then no more: those that were beside others are run again."""
    card = Card(lambda request: "card" if request["beside"] else "process")
    seen = tried(server, card, ["subject"] * 4, tmp_path)
    assert [one.evidence["driver_tells_of"] for one in seen] == ["process"] * 4
    assert card.alone_at_once == 0
