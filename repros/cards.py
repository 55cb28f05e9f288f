"""Graphics cards: which there are, what is free on them, and whose turn it is.

An arm whose bytes are judged has its cards to itself: with several cards such arms run side by side, one a card. Arms
of which only numbers are judged may share one. A second process of this suite on the same host waits its turn by the
same locks.
"""

from __future__ import annotations

import contextlib
import csv
import fcntl
import os
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache

from repros.cache import cache_root

#: How long to sleep before the locks of cards that another process holds are tried again.
PATIENCE_S = 0.2
#: How long the driver's tool may take; on a card that fell off its bus it can hang.
ANSWER_S = 20


class CardLostError(Exception):
    """Fewer cards are left than an arm waits for."""


@dataclass(frozen=True)
class Card:
    """One GPU, as its driver names it; memory in bytes."""

    index: int
    name: str
    total_bytes: int
    free_bytes: int
    driver: str


def cards() -> tuple[Card, ...]:
    """Return the cards that this process may use (``CUDA_VISIBLE_DEVICES`` counts), with what is free now."""
    fields = "index,name,memory.total,memory.free,driver_version,uuid"
    command = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=ANSWER_S, check=True)
    except (OSError, subprocess.SubprocessError):
        return ()
    rows = [[cell.strip() for cell in row] for row in csv.reader(done.stdout.splitlines()) if len(row) == 6]
    allowed = os.environ.get("CUDA_VISIBLE_DEVICES")
    wanted = None if allowed is None else {part.strip() for part in allowed.split(",")}
    return tuple(
        Card(int(index), name, int(total) << 20, int(free) << 20, driver)
        for index, name, total, free, driver, uuid in rows
        if wanted is None or index in wanted or uuid in wanted
    )


@cache
def known() -> tuple[Card, ...]:
    """Return the cards as they were when first asked, before any arm was on them."""
    return cards()


def left() -> tuple[Card, ...]:
    """Return the `known` cards that were not found `lost` since."""
    return tuple(card for card in known() if card.index not in _gone)


def lost(mine: tuple[int, ...]) -> str:
    """Return what the driver's tool says of the first of these cards that it has no more; empty if it has all.

    A lost card is not handed out again by this process, and nobody waits for it.
    """
    for index in mine:
        command = ["nvidia-smi", f"--id={index}", "--query-gpu=memory.free", "--format=csv,noheader"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=ANSWER_S, check=False)
            if not done.returncode:
                continue
            says = (done.stdout + done.stderr).strip() or f"exit code {done.returncode}"
        except (OSError, subprocess.SubprocessError) as error:
            says = f"{type(error).__name__}: {error}"
        with _changed:
            _gone.add(index)
            _changed.notify_all()
        return f"card {index} is lost, `nvidia-smi` says: {says.splitlines()[0]}"
    return ""


#: Cards that were lost, that one arm has to itself, how many arms share each, and how many wait for cards of their own.
_gone: set[int] = set()
_taken: set[int] = set()
_shared: Counter[int] = Counter()
_wanted: list[int] = []
_changed = threading.Condition()


@contextmanager
def turn(count: int, shared: bool = False) -> Iterator[tuple[int, ...]]:
    """Hold ``count`` cards; yields their indices once nobody else of this suite is on them.

    With ``shared`` one card is held beside others who share it. Who wants a card alone goes first. CardLostError where
    no such number is left.
    """
    with contextlib.ExitStack() as stack:
        mine = _shared_card(stack) if shared else _own_cards(count, stack)
        try:
            yield mine
        finally:
            stack.close()  # the locks first: whoever is woken tries them at once
            with _changed:
                if shared:
                    _shared.subtract(mine)
                else:
                    _taken.difference_update(mine)
                _changed.notify_all()


def _own_cards(count: int, stack: contextlib.ExitStack) -> tuple[int, ...]:
    with _changed:
        _wanted.append(count)
    try:
        while True:
            with _changed:
                _changed.wait_for(lambda: len(_free()) >= count or len(left()) < count)
                mine = tuple(_free())[: _some(count)]
                _taken.update(mine)
            locks = contextlib.ExitStack()
            if all(_lock(index, locks, fcntl.LOCK_EX) for index in mine):
                stack.push(locks.pop_all())
                return mine
            locks.close()
            with _changed:
                _taken.difference_update(mine)
                _changed.notify_all()
            time.sleep(PATIENCE_S)
    finally:
        with _changed:
            _wanted.remove(count)
            _changed.notify_all()


def _shared_card(stack: contextlib.ExitStack) -> tuple[int, ...]:
    while True:
        with _changed:
            _changed.wait_for(lambda: (not _wanted and _untaken()) or not left())
            _some(1)
            card = min(_untaken(), key=lambda index: (_shared[index], index))
            _shared[card] += 1
        locks = contextlib.ExitStack()
        if _lock(card, locks, fcntl.LOCK_SH):
            stack.push(locks.pop_all())
            return (card,)
        locks.close()
        with _changed:
            _shared[card] -= 1
            _changed.notify_all()
        time.sleep(PATIENCE_S)


def _untaken() -> list[int]:
    return [card.index for card in left() if card.index not in _taken]


def _free() -> list[int]:
    return [index for index in _untaken() if not _shared[index]]


def _some(count: int) -> int:
    if len(left()) < count:
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
