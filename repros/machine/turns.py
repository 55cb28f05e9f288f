"""Whose turn it is on a graphics card.

An arm whose bytes are judged has its cards to itself: with several cards such arms run side by side, one a card. Arms
judged by numbers alone share a card, as long as what they declare fits there together. A second process of
this suite on the same host waits its turn by the same locks; what its arms declare on a card that both share is not
known here.

To start a process, a CUDA context and the matrix library takes longer than many an arm. So the next arms may do that
while another works: they sit at a card that has room for them, warmed up, and begin when it is their turn.
"""

from __future__ import annotations

import contextlib
import fcntl
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from repros.case import CONTEXT_BYTES
from repros.machine.cache import cache_root
from repros.machine.cards import Card, changed, known, left

#: How long to sleep before the locks of cards that another process holds are tried again.
PATIENCE_S = 0.2
#: Arms of one process that may sit at one card.
SEATS = 2
#: What must be free on a card beyond what a condition declares for others to sit there: contexts, libraries, kernels.
ROOM_BYTES = 4 << 30

#: Cards that one arm has to itself, how many arms share each and what they declared, how many sit there; how many arms
#: wait for cards of their own, and how many of those wait for a card that nobody else is on.
_taken: set[int] = set()
_shared: Counter[int] = Counter()
_promised: Counter[int] = Counter()
_seated: Counter[int] = Counter()
_wanted: list[Want] = []
_whole: list[Want] = []


class CardLostError(Exception):
    """Fewer cards are left than an arm waits for."""


@dataclass(frozen=True, eq=False)
class Want:
    """What an arm asks for: so many cards with so much free, one that others may be on, or the one that it sits at."""

    count: int = 1
    card_bytes: int = 0
    shared: bool = False
    at: int | None = None

    @property
    def fitting(self) -> list[Card]:
        """Return the cards that would do, even if busy or too few."""
        return [card for card in left() if self.at in (None, card.index) and card.free_bytes >= self.card_bytes]

    @property
    def cards(self) -> list[Card]:
        """Return the cards that would do, whoever is on them; CardLostError where they are too few by now."""
        found = self.fitting
        if len(found) < self.count:
            room = f" with {self.card_bytes >> 20} MiB free" if self.card_bytes else ""
            raise CardLostError(f"of {len(known())} cards {len(left())} are left, the arm needs {self.count}{room}")
        return found

    @property
    def promised(self) -> int:
        """Return the bytes that it takes of a shared card: what is declared, a context at the least."""
        return max(self.card_bytes, CONTEXT_BYTES)

    @property
    def whole(self) -> bool:
        """Return whether nobody may sit at its cards: they have no room beside it, or it has several."""
        roomy = all(card.shareable and card.free_bytes - self.card_bytes >= ROOM_BYTES for card in self.cards)
        return self.count > 1 or not roomy


@dataclass
class Seat:
    """A place to wait at a card; ``began`` is when its arm's turn came (monotonic clock)."""

    card: Card
    _locks: contextlib.ExitStack | None
    began: float = 0.0

    def leave(self) -> None:
        """Make the seat free for another arm; no harm if it was left before."""
        with changed:
            if self._locks is not None:
                self._locks.close()
                self._locks = None
                _seated[self.card.index] -= 1
                changed.notify_all()


@contextmanager
def seat(want: Want) -> Iterator[Seat | None]:
    """Wait for a seat at a card that will do, and hold it until it is left.

    None while somebody wants a card with nobody else there. CardLostError where no such card is left.
    """
    with changed:
        changed.wait_for(lambda: _whole or _with_seats(want))
        mine = None
        if not _whole:
            best = min(_with_seats(want), key=lambda card: (card.index in _taken, _seated[card.index], card.index))
            locks = _locked([f"{best.index}.seat"], fcntl.LOCK_SH)
            if locks is not None:
                mine = Seat(best, locks)
                _seated[best.index] += 1
    try:
        yield mine
    finally:
        if mine is not None:
            mine.leave()


@contextmanager
def turn(want: Want) -> Iterator[tuple[Card, ...]]:
    """Hold cards; yields them once nobody else of this suite works there, or, shared, nobody who wants one alone.

    Who wants a card alone goes first. CardLostError where too few are left.
    """
    with contextlib.ExitStack() as stack:
        mine = _shared_card(want, stack) if want.shared else _own_cards(want, stack)
        try:
            yield mine
        finally:
            stack.close()  # the locks first: whoever is woken tries them at once
            _give_back(want, mine)


def _own_cards(want: Want, stack: contextlib.ExitStack) -> tuple[Card, ...]:
    whole = want.whole and want.at is None
    if whole:
        _stand(_whole, want, stack)
    with contextlib.ExitStack() as waiting:
        _stand(_wanted, want, waiting)
        while True:
            with changed:
                changed.wait_for(lambda: len(_free(want, whole)) >= want.count)
                mine = tuple(_free(want, whole)[: want.count])
                _taken.update(card.index for card in mine)
            names = [f"{card.index}.{kind}" for card in mine for kind in (("lock", "seat") if whole else ("lock",))]
            if _hold(want, mine, names, fcntl.LOCK_EX, stack):
                return mine
            time.sleep(PATIENCE_S)


def _shared_card(want: Want, stack: contextlib.ExitStack) -> tuple[Card, ...]:
    while True:
        with changed:
            changed.wait_for(lambda: _with_room(want) and not _wanted)
            card = min(_with_room(want), key=lambda card: (_shared[card.index], card.index))
            _shared[card.index] += 1
            _promised[card.index] += want.promised
        if _hold(want, (card,), [f"{card.index}.lock"], fcntl.LOCK_SH, stack):
            return (card,)
        time.sleep(PATIENCE_S)


def _hold(want: Want, mine: tuple[Card, ...], names: Iterable[str], how: int, stack: contextlib.ExitStack) -> bool:
    """Lock cards that were just marked as held against other processes; the mark goes where that fails."""
    locks = None
    try:
        locks = _locked(names, how)
    finally:
        if locks is None:
            _give_back(want, mine)
    if locks is None:
        return False
    stack.push(locks)
    return True


def _give_back(want: Want, mine: tuple[Card, ...]) -> None:
    with changed:
        if want.shared:
            _shared.subtract(card.index for card in mine)
            _promised.subtract({card.index: want.promised for card in mine})
        else:
            _taken.difference_update(card.index for card in mine)
        changed.notify_all()


def _stand(those: list[Want], want: Want, stack: contextlib.ExitStack) -> None:
    """Have it stand in a list for as long as the stack does."""

    def out() -> None:
        with changed:
            those.remove(want)
            changed.notify_all()

    with changed:
        those.append(want)
        changed.notify_all()
    stack.callback(out)


def _untaken(want: Want) -> list[Card]:
    return [card for card in want.cards if card.index not in _taken]


def _with_room(want: Want) -> list[Card]:
    """Return the cards that nobody has alone, and where those who share it leave this one's room, and that of seats."""
    beside = want.promised + ROOM_BYTES
    return [c for c in _untaken(want) if not _shared[c.index] or c.free_bytes - _promised[c.index] >= beside]


def _free(want: Want, whole: bool) -> list[Card]:
    return [card for card in _untaken(want) if not _shared[card.index] and not (whole and _seated[card.index])]


def _with_seats(want: Want) -> list[Card]:
    return [card for card in want.cards if _seated[card.index] < SEATS]


def _locked(names: Iterable[str], how: int) -> contextlib.ExitStack | None:
    """Return what holds the locks of these names; None where another process has one of them.

    They are the kernel's own: `filelock` has no shared ones but in a database.
    """
    with contextlib.ExitStack() as stack:
        for name in names:
            path = cache_root() / "cards" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            file = stack.enter_context(path.open("ab"))
            try:
                fcntl.flock(file, how | fcntl.LOCK_NB)
            except BlockingIOError:
                return None
        return stack.pop_all()
