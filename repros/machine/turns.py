"""Whose turn it is on a graphics card.

Arms share a card where what each takes shows in nobody else's figures: where numbers alone are judged, and where the
driver tells the bytes of one process from another's. They do, eight at most, as long as what they declare fits there
together. Any other arm whose bytes are judged has its cards to itself; with several cards such arms run side by side,
one a card. A second process of this suite on the same host waits its turn by the same locks; what its arms declare on a
card that both share is not known here.
"""

from __future__ import annotations

import contextlib
import fcntl
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

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

#: Cards that one arm has to itself; what others have of cards that they share; who waits for cards of its own, and who
#: for a share.
_taken: set[int] = set()
_shares: list[Share] = []
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


@dataclass(frozen=True, eq=False)
class Share:
    """What an arm has of a card; ``kept`` where that is of the room that is kept there."""

    card: int
    promised: int
    kept: bool = False


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

    Who wants a card alone goes first; of those who share one, who takes most of it, and the others leave it what it
    waits for: it would be left for the end, and have the card to itself. CardLostError where too few are left.
    """
    with contextlib.ExitStack() as stack:
        yield _shared_card(want, stack) if want.shared else _own_cards(want, stack)


def _own_cards(want: Want, stack: contextlib.ExitStack) -> tuple[Card, ...]:
    with _standing(want, _wanted):
        while True:
            with changed:
                changed.wait_for(lambda: len(_free(want)) >= want.count)
                mine = tuple(_free(want)[: want.count])
                indices = {card.index for card in mine}
                _taken.update(indices)
            if _hold(mine, fcntl.LOCK_EX, stack, partial(_taken.difference_update, indices)):
                return mine
            time.sleep(PATIENCE_S)


def _shared_card(want: Want, stack: contextlib.ExitStack) -> tuple[Card, ...]:
    while True:
        with changed, _standing(want, _queued):
            changed.wait_for(lambda: not _wanted and _open_to(want))
            card = min(_open_to(want), key=lambda card: (len(_on(card)), card.index))
            share = Share(card.index, want.promised, kept=_fits_in_kept(want, card))
            _shares.append(share)
        if _hold((card,), fcntl.LOCK_SH, stack, partial(_shares.remove, share)):
            return (card,)
        time.sleep(PATIENCE_S)


def _hold(mine: tuple[Card, ...], how: int, stack: contextlib.ExitStack, give_back: Callable[[], None]) -> bool:
    """Lock cards that were just marked as held against other processes; where that fails the mark goes, else with it.

    The locks go before the mark does: whoever is woken tries them at once.
    """

    def freed() -> None:
        with changed:
            give_back()
            changed.notify_all()

    with contextlib.ExitStack() as held:
        held.callback(freed)
        locks = _locked([f"{card.index}.lock" for card in mine], how)
        if locks is None:
            return False
        held.push(locks)
        stack.push(held.pop_all())
        return True


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


def _on(card: Card) -> list[Share]:
    return [share for share in _shares if share.card == card.index]


def _outside(card: Card) -> list[int]:
    """Return what is promised of a card, beside the room that is kept there."""
    return [share.promised for share in _on(card) if not share.kept]


def _with_room(want: Want) -> list[Card]:
    """Return the cards that nobody has alone, and where those who share it leave this one's room."""
    return [card for card in _untaken(want) if not _on(card) or _leave_room(want, card)]


def _leave_room(want: Want, card: Card) -> bool:
    if len(_on(card)) >= MOST_SHARING or not card.shareable:
        return False
    return _fits_in_kept(want, card) or _fits_beside(want, card, _outside(card))


def _fits_beside(want: Want, card: Card, promised: list[int]) -> bool:
    return sum(promised) + want.promised + ROOM_BYTES <= card.free_bytes


def _fits_in_kept(want: Want, card: Card) -> bool:
    """Return whether it is small and fits in what is kept of a card that is shared, with the small ones there."""
    used = sum(share.promised for share in _on(card) if share.kept)
    is_kept = bool(_on(card)) and sum(_outside(card)) + ROOM_BYTES <= card.free_bytes
    return want.small and is_kept and used + want.promised <= ROOM_BYTES


def _open_to(want: Want) -> list[Card]:
    """Return the cards where it may begin: with room for it that nobody who takes more waits for.

    What is kept for small ones is theirs, but where somebody waits who needs a whole card.
    """
    if not (found := _with_room(want)):
        return []
    sizes = {other.promised: other for other in _queued if other.promised > want.promised}  # many ask for the same
    larger = [other for other in sizes.values() if other.fitting]
    most = max(larger, key=lambda other: other.promised, default=want)
    kept = [
        card for card in found if _fits_in_kept(want, card) and all(_fits_beside(other, card, []) for other in larger)
    ]
    if any(_leaving_room_for(most, other) for other in larger):
        return kept
    leaving_room = _leaving_room_for(most, want)
    return [card for card in found if card in kept or card in leaving_room]


def _leaving_room_for(most: Want, want: Want) -> list[Card]:
    """Return the cards with room for one, where the one that takes most will have its room, here or on another."""
    return [card for card in _with_room(want) if any(_comes_free(most, on, want, card) for on in most.fitting)]


def _comes_free(most: Want, on: Card, want: Want, card: Card) -> bool:
    """Return whether the one that takes most will fit on a card when the largest there ends, though one more began."""
    rest = sorted([*_outside(on), *([want.promised] if on == card else [])])[:-1]
    return not rest or _fits_beside(most, on, rest)


def _free(want: Want) -> list[Card]:
    return [card for card in _untaken(want) if not _on(card)]


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
