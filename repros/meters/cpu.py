"""What an arm is read with on a CPU: the ledger, the heap, and the hooks on saved tensors."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from repros.meters.heap import open_heap
from repros.meters.ledger import Ledger, tally
from repros.meters.saved import SavedTensors


class CpuMeters:
    """Storages alive, heap in use and bytes packed for backward, from the first phase of the arm on."""

    def __init__(self, gate: tuple[str, ...]) -> None:
        self._ledger = Ledger(open_heap(), gate)
        self._saved = SavedTensors(self._ledger)
        self._figures: dict[str, float] = {}
        self._evidence: dict[str, Any] = {}

    @contextmanager
    def open(self) -> Iterator[None]:
        """Watch this thread and those started in it: from the preparation to the end of the arm."""
        with self._ledger.open():
            yield
        self._ledger.close()

    @contextmanager
    def watch(self) -> Iterator[None]:
        """Watch what autograd saves."""
        with self._saved.open():
            yield

    def enter(self, name: str) -> None:
        """End a phase; the first one is the preparation, and its end is the baseline."""
        if len(self._ledger.phases) == 1:
            self._ledger.start()
        if name == "backward":
            self._held()
        self._ledger.enter(name)

    def _held(self) -> None:
        """Read what is held from forward to backward, after a collection: what a cycle keeps is kept by nobody."""
        ledger, saved = self._ledger, self._saved
        self._evidence["held_before_gc_bytes"] = ledger.live_bytes
        gc.collect()
        self._figures["held_bytes"] = ledger.live_bytes
        heap = ledger.read_heap()
        if heap is not None:
            self._figures["heap_held_bytes"] = heap
        self._figures["saved_bytes"] = saved.saved_bytes
        self._evidence["held"] = tally(ledger.alive())
        self._evidence["saved"] = saved.rows()

    def end(self) -> None:
        """Read what is alive after the last phase."""
        gc.collect()
        self._figures["live_end_bytes"] = self._ledger.live_bytes
        self._figures["live_end_16bit_bytes"] = self._ledger.live_16bit_bytes
        self._evidence["alive_at_end"] = tally(self._ledger.alive())

    def short_of(self, card_bytes: int) -> str:
        """Return nothing: there is no card to fall short."""
        return ""

    def results(self) -> tuple[dict[str, float], dict[str, Any]]:
        """Return figures and evidence read so far, also of an arm that did not reach its end."""
        ledger = self._ledger
        if len(ledger.phases) > 1:
            self._figures.update(
                peak_live_bytes=ledger.peak_live_bytes,
                peak_live_16bit_bytes=ledger.peak_live_16bit_bytes,
                peak_live_16bit_heap_bytes=ledger.peak_live_16bit_heap_bytes,
                peak_heap_bytes=ledger.peak_heap_bytes,
            )
            self._evidence.update(
                alive_at_peak=ledger.peak_alive,
                phases=ledger.phases,
                threads=len(ledger.threads),
                timeline=ledger.timeline(),
                marks=ledger.marks(),
            )
            if ledger.gate_waited_s is not None:
                self._evidence["gate_waited_s"] = round(ledger.gate_waited_s, 3)
        return self._figures, self._evidence
