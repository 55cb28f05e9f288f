"""Graphics cards: which there are, what is free on them, and which are lost."""

from __future__ import annotations

import csv
import os
import subprocess
import threading
import time
from dataclasses import dataclass
from functools import cache

#: How long the driver's tool may take; on a card that fell off its bus it can hang, and then nothing ends it.
ANSWER_S = 20
#: How long to wait before a card that seems lost is asked for once more.
AGAIN_S = 1.0
FIELDS = ("index", "name", "memory.total", "memory.free", "driver_version", "uuid", "compute_mode")

#: Told of whenever a card is lost, taken or given back.
changed = threading.Condition()
_gone: set[int] = set()


@dataclass(frozen=True)
class Card:
    """One GPU, as its driver names it; memory in bytes; ``shareable`` by several processes at once."""

    index: int
    name: str
    total_bytes: int
    free_bytes: int
    driver: str
    uuid: str
    shareable: bool


def cards() -> tuple[Card, ...]:
    """Return the cards that this process may use (``CUDA_VISIBLE_DEVICES`` counts), with what is free now.

    A card whose memory the driver does not tell is left out: nothing can be judged on it.
    """
    code, says = _ask(f"--query-gpu={','.join(FIELDS)}", "--format=csv,noheader,nounits")
    if code:
        return ()
    allowed = os.environ.get("CUDA_VISIBLE_DEVICES")
    wanted = None if allowed is None else {part.strip() for part in allowed.split(",")}
    rows = ([cell.strip() for cell in row] for row in csv.reader(says.splitlines()))
    return tuple(
        Card(int(index), name, int(total) << 20, int(free) << 20, driver, uuid, mode == "Default")
        for index, name, total, free, driver, uuid, mode in (row for row in rows if len(row) == len(FIELDS))
        if index.isdigit() and total.isdigit() and free.isdigit()
        if wanted is None or index in wanted or uuid in wanted
    )


@cache
def known() -> tuple[Card, ...]:
    """Return the cards as they were when first asked, before any arm was on them."""
    return cards()


def left() -> tuple[Card, ...]:
    """Return the `known` cards that were not found `lost` since."""
    return tuple(card for card in known() if card.index not in _gone)


def lost(mine: tuple[Card, ...]) -> str:
    """Return what the driver's tool says of the first of these cards that it has no more; empty if it has all.

    It is asked twice: one slow answer is no loss. A lost card is not handed out again by this process, and nobody
    waits for it.
    """
    for card in mine:
        says = _missing(card)
        if says:
            time.sleep(AGAIN_S)
            says = _missing(card)
        if says:
            with changed:
                _gone.add(card.index)
                changed.notify_all()
            return f"card {card.index} is lost, `nvidia-smi` says: {says}"
    return ""


def _missing(card: Card) -> str:
    """Return the first line that the driver's tool says in place of a card's free memory; empty if it says that."""
    code, says = _ask(f"--id={card.uuid}", "--query-gpu=memory.free", "--format=csv,noheader,nounits")
    if not code and says.strip().isdigit():
        return ""
    return says.strip().splitlines()[0] if says.strip() else f"nothing, with exit code {code}"


def _ask(*arguments: str) -> tuple[int, str]:
    """Return exit code and words of the driver's tool; one that does not answer is killed and left to itself."""
    try:
        tool = subprocess.Popen(
            ["nvidia-smi", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,  # Ctrl-C is for this process, not for what it asks
        )
    except OSError as error:
        return -1, f"{type(error).__name__}: {error}"
    try:
        says, _ = tool.communicate(timeout=ANSWER_S)
        return tool.returncode, says
    except subprocess.TimeoutExpired:
        tool.kill()  # and not waited for: it may hang in the driver
        return -1, f"no answer after {ANSWER_S} s"
