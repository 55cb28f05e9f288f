"""Whose turn it is on a graphics card.

An arm whose bytes are judged has its cards to itself: with several cards such arms run side by side, one a card. Arms
of which only numbers are judged may share one. A second process of this suite on the same host waits its turn by the
same locks.

To start a process, a CUDA context and the matrix library takes longer than many an arm. So the next arms may do that
while another works: they sit at a card that has room for them, warmed up, and begin when it is their turn.
"""

from __future__ import annotations

import contextlib
import fcntl
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from repros.cache import cache_root
from repros.cards import changed, known, left

#: How long to sleep before the locks of cards that another process holds are tried again.
PATIENCE_S = 0.2
#: Arms that may sit at one card.
SEATS = 2
#: What must be free on a card beyond what a condition declares for others to sit there: contexts, libraries, kernels.
ROOM_BYTES = 4 << 30

#: Cards that one arm has to itself, how many arms share each, how many sit there; how many arms wait for cards of their
#: own, and how many of those want nobody to sit there, or have that.
_taken: set[int] = set()
_shared: Counter[int] = Counter()
_seated: Counter[int] = Counter()
_wanted: list[int] = []
_whole: list[int] = []


class CardLostError(Exception):
    """Fewer cards are left than an arm waits for."""


@dataclass
class Seat:
    """A place to wait at a card; ``began`` is when its arm's turn came (monotonic clock)."""

    card: int
    began: float = 0.0
    _left: bool = False

    def leave(self) -> None:
        """Make the seat free for another arm; no harm if it was left before."""
        with changed:
            if not self._left:
                self._left = True
                _seated[self.card] -= 1
                changed.notify_all()


def roomy(card_bytes: int) -> bool:
    """Return whether every card has room for others to sit beside an arm that needs so much."""
    return all(card.free_bytes - card_bytes >= ROOM_BYTES for card in left())


@contextmanager
def seat() -> Iterator[Seat | None]:
    """Wait for a seat at a card and hold it until it is left; None while somebody wants a card with nobody else there.

    CardLostError where no card is left.
    """
    with changed:
        changed.wait_for(lambda: _whole or _seats() or not left())
        _some(1)
        mine = None if _whole else Seat(min(_seats(), key=lambda index: (index in _taken, _seated[index], index)))
        if mine:
            _seated[mine.card] += 1
    try:
        yield mine
    finally:
        if mine:
            mine.leave()


@contextmanager
def turn(count: int, *, shared: bool = False, whole: bool = False, at: int | None = None) -> Iterator[tuple[int, ...]]:
    """Hold ``count`` cards; yields their indices once nobody else of this suite works on them.

    With ``shared`` one card is held beside others who share it; who wants a card alone goes first. With ``whole``
    nobody sits there either. ``at`` names the card. CardLostError where no such number is left.
    """
    with contextlib.ExitStack() as stack:
        mine = _shared_card(stack) if shared else _own_cards(count, whole, at, stack)
        try:
            yield mine
        finally:
            stack.close()  # the locks first: whoever is woken tries them at once
            with changed:
                if shared:
                    _shared.subtract(mine)
                else:
                    _taken.difference_update(mine)
                changed.notify_all()


def _own_cards(count: int, whole: bool, at: int | None, stack: contextlib.ExitStack) -> tuple[int, ...]:
    if whole:
        _count(_whole, count, stack)
    with contextlib.ExitStack() as waiting:
        _count(_wanted, count, waiting)
        while True:
            with changed:
                changed.wait_for(lambda: len(_free(whole, at)) >= count or len(_at(at)) < count)
                mine = tuple(_free(whole, at))[: _some(count, at)]
                _taken.update(mine)
            locks = contextlib.ExitStack()
            if all(_lock(index, locks, fcntl.LOCK_EX) for index in mine):
                stack.push(locks.pop_all())
                return mine
            locks.close()
            with changed:
                _taken.difference_update(mine)
                changed.notify_all()
            time.sleep(PATIENCE_S)


def _shared_card(stack: contextlib.ExitStack) -> tuple[int, ...]:
    while True:
        with changed:
            changed.wait_for(lambda: (not _wanted and _untaken()) or not left())
            _some(1)
            card = min(_untaken(), key=lambda index: (_shared[index], index))
            _shared[card] += 1
        locks = contextlib.ExitStack()
        if _lock(card, locks, fcntl.LOCK_SH):
            stack.push(locks.pop_all())
            return (card,)
        locks.close()
        with changed:
            _shared[card] -= 1
            changed.notify_all()
        time.sleep(PATIENCE_S)


def _count(those: list[int], count: int, stack: contextlib.ExitStack) -> None:
    """Have it stand in a list for as long as the stack does."""

    def out() -> None:
        with changed:
            those.remove(count)
            changed.notify_all()

    with changed:
        those.append(count)
    stack.callback(out)


def _at(at: int | None) -> list[int]:
    return [card.index for card in left() if at in (None, card.index)]


def _untaken(at: int | None = None) -> list[int]:
    return [index for index in _at(at) if index not in _taken]


def _free(whole: bool, at: int | None) -> list[int]:
    return [index for index in _untaken(at) if not _shared[index] and not (whole and _seated[index])]


def _seats() -> list[int]:
    return [index for index in _at(None) if _seated[index] < SEATS]


def _some(count: int, at: int | None = None) -> int:
    if len(_at(at)) < count:
        raise CardLostError(f"of {len(known())} cards {len(left())} are left, the arm needs {count}")
    return count


def _lock(index: int, stack: contextlib.ExitStack, how: int) -> bool:
    path = cache_root() / "cards" / f"{index}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    file = stack.enter_context(path.open("ab"))
    try:
        fcntl.flock(file, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
