"""Graphics cards: which there are, what is free on them, and which are lost."""

from __future__ import annotations

import csv
import os
import subprocess
import threading
from dataclasses import dataclass
from functools import cache

#: How long the driver's tool may take; on a card that fell off its bus it can hang.
ANSWER_S = 20
#: Told of whenever a card is lost, taken or given back.
changed = threading.Condition()
_gone: set[int] = set()


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
        with changed:
            _gone.add(index)
            changed.notify_all()
        return f"card {index} is lost, `nvidia-smi` says: {says.splitlines()[0]}"
    return ""
