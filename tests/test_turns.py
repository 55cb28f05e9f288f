"""Arms take turns on a card; the next ones sit there, warmed up; a card that is lost keeps nobody waiting."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from repros.machine import cards, turns
from repros.machine.turns import Want
from repros.run.server import CellServer, Clock
from repros.verdict import Observation
from tests.conftest import CARDS, METERS
from tests.processes import working_below
from tests.waiting import eventually

pytestmark = pytest.mark.usefixtures("two_cards")

#: All that the larger card has free.
WHOLE = 143000 << 20


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
            with turns.turn(Want(shared=True, at=0)) as (small,):
                assert small.index == 0
        assert began.wait(10)
    waiting.join(10)
    assert not any(turns._promised.values())


def test_who_wants_all_that_is_free_may_have_it_while_nobody_shares_it() -> None:
    """What seats need is kept only from those who come to a card that is shared already."""
    began = threading.Event()

    def all_of_it() -> None:
        with turns.turn(Want(card_bytes=WHOLE, shared=True)):
            began.set()

    thread = threading.Thread(target=all_of_it, daemon=True)
    thread.start()
    assert began.wait(10)
    thread.join(10)  # what it holds is in the way of the next test


def test_who_declares_nothing_takes_a_context_of_a_shared_card_and_leaves_the_seats_theirs() -> None:
    """Of what card 1 has free some stays for those who sit there; as many contexts are let on as the rest holds."""
    want = Want(shared=True, at=1)
    room = (cards.known()[1].free_bytes - turns.ROOM_BYTES) // want.promised
    with contextlib.ExitStack() as stack:
        for _ in range(room):
            stack.enter_context(turns.turn(want))
        assert not turns._with_room(want)
    assert turns._with_room(want)


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
        with pytest.raises(OSError, match="no locks"), turns.seat(Want()):
            pass
    with turns.turn(Want(2)) as mine:
        assert len(mine) == 2
    assert not any(turns._seated.values())


@pytest.mark.parametrize(
    ("name", "how"), [("0.lock", fcntl.LOCK_EX), ("0.lock", fcntl.LOCK_SH), ("1.seat", fcntl.LOCK_SH)]
)
def test_another_process_is_waited_for(name: str, how: int) -> None:
    """An arm of another run of this suite has a card, shares one or sits at one: who wants both cards waits."""
    taken = threading.Event()

    def arm() -> None:
        with turns.turn(Want(2)):
            taken.set()

    other = turns._locked([name], how)
    assert other is not None
    with other:
        thread = threading.Thread(target=arm, daemon=True)
        thread.start()
        assert not taken.wait(0.5)
    assert taken.wait(5)
    thread.join(10)  # nobody sits while it wants both


def test_nobody_sits_where_another_process_wants_a_card_whole() -> None:
    other = turns._locked(["0.seat", "1.seat"], fcntl.LOCK_EX)
    assert other is not None
    with other, turns.seat(Want()) as refused:
        assert refused is None
    with turns.seat(Want()) as seat:
        assert seat is not None
        assert turns._locked([f"{seat.card.index}.seat"], fcntl.LOCK_EX) is None


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
    with pytest.raises(turns.CardLostError, match="the arm needs 1 with 102400 MiB free"), turns.seat(large):
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

    def arm(self: CellServer, request: Mapping[str, Any], log: Path, fresh: bool, at: object) -> Observation:
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


# -- arms that wait at a card


def test_few_sit_at_a_card_and_each_card_has_its_own() -> None:
    with contextlib.ExitStack() as stack:
        seats = [stack.enter_context(turns.seat(Want())) for _ in range(2 * turns.SEATS)]
        assert sorted(seat.card.index for seat in seats if seat) == [0] * turns.SEATS + [1] * turns.SEATS
        got = threading.Event()

        def sit() -> None:
            with turns.seat(Want()) as late:
                assert late is not None
                assert late.card.index == 1
                got.set()

        thread = threading.Thread(target=sit, daemon=True)
        thread.start()
        assert not got.wait(0.2)
        first = next(seat for seat in seats if seat and seat.card.index == 1)
        first.leave()
        assert got.wait(5)
        thread.join(10)
        first.leave()  # once more, and nothing is counted twice
    assert not any(turns._seated.values())


def test_a_seat_leads_to_a_turn_at_its_own_card() -> None:
    with turns.turn(Want()) as (busy,), turns.seat(Want()) as seat:
        assert seat is not None
        assert (busy.index, seat.card.index) == (0, 1)
        with turns.turn(Want(at=seat.card.index)) as mine:
            assert mine == (seat.card,)
    with turns.turn(Want(at=1)) as (card,):
        assert card.index == 1


def test_who_needs_a_whole_card_waits_for_empty_seats_and_then_nobody_sits() -> None:
    order: list[str] = []
    assert Want(card_bytes=WHOLE).whole

    def alone() -> None:
        with turns.turn(Want(card_bytes=WHOLE)):
            order.append("alone")
            with turns.seat(Want()) as refused:
                order.append("seated" if refused else "refused")

    with turns.seat(Want()) as one, turns.seat(Want()) as other:
        assert one is not None
        assert other is not None
        assert (one.card.index, other.card.index) == (0, 1)
        waiting = threading.Thread(target=alone)
        waiting.start()
        waiting.join(0.2)
        assert order == []
        one.leave()
        waiting.join(5)
        assert order == ["alone", "refused"]
    with turns.seat(Want()) as again:
        assert again is not None


def test_a_card_has_room_for_others_or_not(tmp_path: Path) -> None:
    free = 20000 << 20  # of the smaller of the two
    assert not Want(card_bytes=free - turns.ROOM_BYTES).whole
    assert Want(card_bytes=free - turns.ROOM_BYTES + 1).whole
    assert not Want(card_bytes=free + 1).whole  # only the larger one will do, and has room
    assert Want(2).whole
    (tmp_path / "cards").write_text("\n".join(CARDS).replace("Default", "Exclusive_Process"))
    cards.known.cache_clear()
    assert Want().whole


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[CellServer]:
    """Yield a cell of this interpreter whose arms take turns on card 0, and whose driver tells processes apart."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    made = CellServer(Path(sys.executable), Clock(), "turns", "cuda", ("torch", "repros.worker.arm", *METERS))
    made._apart = True
    made._late = ()  # what arms import is not at stake, and takes seconds
    yield made
    made.close()


def request(what: str, timeout_s: float = 20.0) -> dict[str, Any]:
    """Return what is asked of an arm of the harness's own case."""
    request = {"module": "tests.selftest.st_harness", "condition": "passes", "arm": "subject", "checkpoint": None}
    return {**request, "params": {"does": {"subject": what}}, "env": {}, "timeout_s": timeout_s}


def test_arms_warm_up_beside_each_other_and_work_one_after_another(server: CellServer, tmp_path: Path) -> None:
    waiting = [0]
    with ThreadPoolExecutor(6) as arms:
        begun = [arms.submit(server.observe, request("work"), tmp_path / f"{n}.log") for n in range(6)]

        def over() -> bool:
            waiting.append(len(server._waiting))
            return all(one.done() for one in begun)

        eventually(over, 120, "the end of six arms")
    seen = [one.result() for one in begun]
    assert {one.state for one in seen} == {"done"}, [one.reason for one in seen]
    assert max(waiting) == 1 + turns.SEATS
    work = sorted((one.started + one.seconds["import"], one.ended) for one in seen)
    assert all(end <= start for (_, end), (start, _) in itertools.pairwise(work))
    for one in seen:
        assert one.ended - one.started == pytest.approx(one.seconds["total"], abs=0.05)


@pytest.mark.parametrize("tells", ["process", "card"])
def test_arms_warm_up_ahead_as_soon_as_one_has_found_that_it_does_not_show(
    server: CellServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tells: str
) -> None:
    """Six are asked for at once: the first is alone, and where it finds that it may, the others sit."""
    server._apart = None
    observe, begun_by_now, apart = server._observe, [], {"driver_tells_of": tells}

    def with_a_driver(*arguments: Any) -> Observation:
        begun_by_now.append(len(server._waiting))
        return replace(observe(*arguments), evidence=apart)

    monkeypatch.setattr(server, "_observe", with_a_driver)
    with ThreadPoolExecutor(6) as arms:
        seen = list(arms.map(lambda n: server.observe(request("work"), tmp_path / f"{n}.log"), range(6)))
    assert [one.evidence for one in seen] == [apart] * 6
    assert server._apart is (tells == "process")
    assert begun_by_now[0] == 0
    assert max(begun_by_now) == (turns.SEATS if tells == "process" else 0)


def test_the_time_in_which_others_work_is_not_an_arms_own(server: CellServer, tmp_path: Path) -> None:
    """Three hang for two seconds each; the last has waited for four by then and is given its two."""
    with ThreadPoolExecutor(3) as arms:
        seen = list(arms.map(lambda n: server.observe(request("hang", 2.0), tmp_path / f"{n}.log"), range(3)))
    assert [one.reason for one in seen] == ["no end after 2 s"] * 3
    assert all(2 <= one.seconds["total"] < 3.5 for one in seen), [one.seconds for one in seen]


def test_an_arm_that_sits_at_a_card_which_is_lost_is_disturbed(server: CellServer, tmp_path: Path) -> None:
    with ThreadPoolExecutor(1) as arms, turns.turn(Want(at=0)) as mine:
        waiting = arms.submit(server.observe, request("inside"), tmp_path / "log")
        eventually(lambda: server._waiting, 20, "an arm that sits at the card")
        (tmp_path / "lostGPU-aaaa").touch()
        cards.lost(mine)
        seen = waiting.result(20)
    assert (seen.state, seen.reason) == ("disturbed", "of 1 cards 0 are left, the arm needs 1")
    assert seen.figures == {}  # it warmed up and left


def test_an_arm_that_sits_at_a_card_which_is_lost_may_do_with_another(
    server: CellServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    cards.known.cache_clear()
    with ThreadPoolExecutor(1) as arms:
        with turns.turn(Want(at=0)) as first, turns.turn(Want(at=1)):
            waiting = arms.submit(server.observe, request("inside"), tmp_path / "log")
            eventually(lambda: server._waiting, 20, "an arm that sits at the card")
            (tmp_path / "lostGPU-aaaa").touch()
            cards.lost(first)
            time.sleep(0.2)
            assert not waiting.done()
        assert waiting.result(20).state == "done"


def test_an_arm_whose_supervisor_is_lost_does_not_wait_for_ever(server: CellServer, tmp_path: Path) -> None:
    with ThreadPoolExecutor(1) as arms:
        with turns.turn(Want(at=0)):
            waiting = arms.submit(server.observe, request("inside"), tmp_path / "log")
            eventually(lambda: working_below(server.work), 20, "an arm that warms up")
            assert server._process is not None
            os.kill(server._process.pid, signal.SIGKILL)
            eventually(lambda: not working_below(server.work), 20, "the end of an arm without its supervisor")
        assert waiting.result(20).reason == "the cell's supervisor ended"


def test_an_arm_that_waits_in_a_folder_that_is_gone_ends(tmp_path: Path) -> None:
    """Without its supervisor there may be nobody left to tell it so."""
    gate = tmp_path / "work" / "gate"
    gate.parent.mkdir()
    waits = "import sys; from repros.worker.arm import wait; wait(sys.argv[1]); sys.exit(3)"
    arm = subprocess.Popen([sys.executable, "-c", waits, str(gate)])
    with pytest.raises(subprocess.TimeoutExpired):
        arm.wait(1.5)
    gate.parent.rmdir()
    assert arm.wait(20) == 0
