"""Whose turn it is on a graphics card.

Arms share a card where what each takes shows in nobody else's figures: where numbers alone are judged, and where the
driver tells the bytes of one process from another's. They do as long as what they declare fits there together. Any
other arm whose bytes are judged has its cards to itself; with several cards such arms run side by side, one a card. A
second process of this suite on the same host waits its turn by the same locks; what its arms declare on a card that
both share is not known here.
"""

from __future__ import annotations

import contextlib
import fcntl
import threading
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
#: How long a larger arm lets small ones be the first on a card.
LET_OTHERS_S = 1.0
#: What stays free on a card that is shared, beyond what is declared: libraries, kernels, a desktop. A few small arms
#: are let in: they take a third of what they are promised, and would wait for minutes while large ones fill the rest.
ROOM_BYTES = 4 << 30
#: How many arms share a card at most. A driver makes contexts one after the other, so with more each takes longer and
#: no more of them end in a minute: 5, 8, 12 and 17 at a time took 22.0, 20.9, 19.1 and 19.9 s for 62 arms on an H100.
MOST_SHARING = 8

#: Cards that one arm has to itself; how many arms share each, and what they declared, within the room that is kept and
#: outside it; who waits for cards of its own, and who for room on a shared one.
_taken: set[int] = set()
_shared: Counter[int] = Counter()
_promised: Counter[int] = Counter()
_in_room: Counter[int] = Counter()
_wanted: list[Want] = []
_queued: list[Want] = []


class CardLostError(Exception):
    """Fewer cards are left than an arm waits for."""


@dataclass(frozen=True, eq=False)
class Want:
    """What an arm asks for: so many cards with so much free, or one that others may be on."""

    count: int = 1
    card_bytes: int = 0
    shared: bool = False

    @property
    def fitting(self) -> list[Card]:
        """Return the cards that would do, even if busy or too few."""
        return [card for card in left() if card.free_bytes >= self.card_bytes]

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
        """Return the bytes that it takes of a shared card: a context, and what it declares, or a second one if less."""
        return CONTEXT_BYTES + max(self.card_bytes, CONTEXT_BYTES)

    @property
    def small(self) -> bool:
        """Return whether it may be in the room that is kept on a shared card."""
        return self.card_bytes <= CONTEXT_BYTES


class Apart:
    """Whether the driver tells the bytes of one process on a card from another's; ``known`` is None until it is found.

    It is a fact of a host, and found by an arm that has its card alone.
    """

    def __init__(self, known: bool | None = None) -> None:
        self.known = known
        self._finding = threading.Condition()
        self._finders = 0

    @contextmanager
    def ask(self, want: Want) -> Iterator[bool]:
        """Yield whether it does; while that is not known, False to as many as there are cards, and the others wait.

        Whoever is not small lets others go first: it would have its card alone for longer.
        """
        with self._finding:
            self._finding.wait_for(lambda: self.known is not None or want.small, LET_OTHERS_S)
            self._finding.wait_for(lambda: self.known is not None or self._finders < max(1, len(left())))
            finder = self.known is None
            self._finders += finder
        try:
            yield bool(self.known)
        finally:
            with self._finding:
                self._finders -= finder
                self._finding.notify_all()


@contextmanager
def turn(want: Want) -> Iterator[tuple[Card, ...]]:
    """Hold cards; yields them once nobody else of this suite works there, or, shared, nobody who wants one alone.

    Who wants a card alone goes first; of those who share one and have room there, who takes most of it: it would be
    left for the end, and have the card to itself. CardLostError where too few are left.
    """
    with contextlib.ExitStack() as stack:
        mine, ledger = _shared_card(want, stack) if want.shared else _own_cards(want, stack)
        try:
            yield mine
        finally:
            stack.close()  # the locks first: whoever is woken tries them at once
            _give_back(want, mine, ledger)


def _own_cards(want: Want, stack: contextlib.ExitStack) -> tuple[tuple[Card, ...], Counter[int]]:
    with _standing(want, _wanted):
        while True:
            with changed:
                changed.wait_for(lambda: len(_free(want)) >= want.count)
                mine = tuple(_free(want)[: want.count])
                _taken.update(card.index for card in mine)
            if _hold(want, mine, _promised, fcntl.LOCK_EX, stack):
                return mine, _promised
            time.sleep(PATIENCE_S)


def _shared_card(want: Want, stack: contextlib.ExitStack) -> tuple[tuple[Card, ...], Counter[int]]:
    """Return the card, and in which of `_promised` and `_in_room` its part of it is entered."""
    while True:
        with changed, _standing(want, _queued):
            changed.wait_for(lambda: not _wanted and _with_room(want) and not _with_more(want))
            card = min(_with_room(want), key=lambda card: (_shared[card.index], card.index))
            ledger = _in_room if _room_for_small(card, want) else _promised
            _shared[card.index] += 1
            ledger[card.index] += want.promised
        if _hold(want, (card,), ledger, fcntl.LOCK_SH, stack):
            return (card,), ledger
        time.sleep(PATIENCE_S)


def _hold(want: Want, mine: tuple[Card, ...], ledger: Counter[int], how: int, stack: contextlib.ExitStack) -> bool:
    """Lock cards that were just marked as held against other processes; the mark goes where that fails."""
    locks = None
    try:
        locks = _locked([f"{card.index}.lock" for card in mine], how)
    finally:
        if locks is None:
            _give_back(want, mine, ledger)
    if locks is None:
        return False
    stack.push(locks)
    return True


def _give_back(want: Want, mine: tuple[Card, ...], ledger: Counter[int]) -> None:
    with changed:
        if want.shared:
            _shared.subtract(card.index for card in mine)
            ledger.subtract({card.index: want.promised for card in mine})
        else:
            _taken.difference_update(card.index for card in mine)
        changed.notify_all()


@contextmanager
def _standing(want: Want, among: list[Want]) -> Iterator[None]:
    """Have it stand among those that wait."""
    with changed:
        among.append(want)
    try:
        yield
    finally:
        with changed:
            among.remove(want)
            changed.notify_all()


def _untaken(want: Want) -> list[Card]:
    return [card for card in want.cards if card.index not in _taken]


def _with_room(want: Want) -> list[Card]:
    """Return the cards that nobody has alone, and where those who share it leave this one's room."""
    return [card for card in _untaken(want) if not _shared[card.index] or _leave_room(card, want)]


def _leave_room(card: Card, want: Want) -> bool:
    if _shared[card.index] >= MOST_SHARING or not card.shareable:
        return False
    return _room_for_small(card, want) or card.free_bytes - _promised[card.index] >= want.promised + ROOM_BYTES


def _room_for_small(card: Card, want: Want) -> bool:
    """Return whether it is small and fits in what is kept, beside the small ones that are there."""
    is_kept = card.free_bytes - _promised[card.index] >= ROOM_BYTES
    return want.small and is_kept and _in_room[card.index] + want.promised <= ROOM_BYTES


def _with_more(want: Want) -> bool:
    """Return whether somebody waits who takes more of a card that has room for it, and would miss this one's part."""
    if any(_room_for_small(card, want) for card in _with_room(want)):
        return False
    return any(other.promised > want.promised and other.fitting and _with_room(other) for other in _queued)


def _free(want: Want) -> list[Card]:
    return [card for card in _untaken(want) if not _shared[card.index]]


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
