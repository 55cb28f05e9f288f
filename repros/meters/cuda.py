"""What an arm is read with on a GPU: torch's caching allocator, and the driver beside it.

Four meters that are never judged by one another. *Allocated*: bytes in blocks that tensors hold, as the allocator
rounds them (512 bytes). *Reserved*: bytes in segments taken from the driver; they stay until somebody empties the
cache. *Driver*: what the driver says that this process has, or, where it does not say (in most containers), what is
gone from the card's free memory: an instrument that knows nothing of torch. The CUDA context, kernels and libraries are
in it, so it is read against a moment before. *History*: every allocation with the Python frame that asked for it, from
which the timeline is made and the owners of the peak are named.

Context, matrix library and its workspace are warmed before the baseline is taken. Where bytes are judged, other arms
work on the card only where the driver tells processes apart and what all declare fits there together: the parent sees
to that (`repros.machine.turns`). Where numbers alone are judged, on a card that others share, the driver is not asked.
"""

from __future__ import annotations

import gc
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from repros.case import CONTEXT_BYTES
from repros.meters import nvml
from repros.meters.snapshot import keep, shortened
from repros.meters.timeline import thinned

#: Events of the allocator's history that are kept; a model of 7B loads with some thousands.
HISTORY = 400_000
OWNERS = 12


class CudaMeters:
    """Allocator and driver on the cards that this process sees, from the first phase of the arm on.

    The history is read from the allocator's snapshot; ``snapshot`` names a file to keep that in.
    """

    def __init__(self, shared: bool = False, snapshot: Path | None = None) -> None:
        self._file = snapshot
        self.phases = ["prepare"]
        self._shared = shared
        self._driver = () if shared else ("driver",)
        self._apart = False
        self._base: dict[str, int] = {}
        self._figures: dict[str, float] = {}
        self._evidence: dict[str, Any] = {}
        self._marks: list[dict[str, Any]] = []
        self._began = 0.0

    @contextmanager
    def open(self) -> Iterator[None]:
        """Warm the card: a context, and a product with its backward in the dtypes that layers compute in."""
        before = nvml.own_bytes()
        for card in range(torch.cuda.device_count()):
            for dtype in (torch.float16, torch.bfloat16, torch.float32):
                x = torch.ones(64, 64, device=f"cuda:{card}", dtype=dtype, requires_grad=True)
                (x @ x).sum().backward()
        # A number of another process's that is ours by chance was there before we had a context.
        self._apart = before is None and nvml.own_bytes() is not None
        yield

    @contextmanager
    def watch(self) -> Iterator[None]:
        """Watch nothing more: the allocator counts in every thread."""
        yield

    def _read(self) -> dict[str, int]:
        """Return bytes over all cards."""
        cards = range(torch.cuda.device_count())
        torch.cuda.synchronize()
        stats = [torch.cuda.memory_stats(card) for card in cards]
        return {
            "allocated": sum(s.get("allocated_bytes.all.current", 0) for s in stats),
            "reserved": sum(s.get("reserved_bytes.all.current", 0) for s in stats),
            "inactive_split": sum(s.get("inactive_split_bytes.all.current", 0) for s in stats),
            "peak_allocated": sum(s.get("allocated_bytes.all.peak", 0) for s in stats),
            "peak_reserved": sum(s.get("reserved_bytes.all.peak", 0) for s in stats),
            "peak_inactive_split": sum(s.get("inactive_split_bytes.all.peak", 0) for s in stats),
            "driver": self._driver_bytes(),
            "retries": sum(s.get("num_alloc_retries", 0) for s in stats),
            "ooms": sum(s.get("num_ooms", 0) for s in stats),
        }

    def enter(self, name: str) -> None:
        """End a phase; the first one is the preparation, and its end is the baseline."""
        if not self._base:
            gc.collect()
            torch.cuda.empty_cache()
            for card in range(torch.cuda.device_count()):
                torch.cuda.reset_peak_memory_stats(card)
            self._base, self._began = self._read(), time.monotonic()
            torch.cuda.memory._record_memory_history("all", context="alloc", stacks="python", max_entries=HISTORY)
        elif name == "backward":
            self._held()
        self._mark(name)
        self.phases.append(name)

    def _driver_bytes(self) -> int:
        if self._shared:
            return 0
        if self._apart:
            own = nvml.own_bytes()
            if own is None:
                raise RuntimeError("the driver lists this process no more")
            return own
        free_total = [torch.cuda.mem_get_info(card) for card in range(torch.cuda.device_count())]
        return sum(total - free for free, total in free_total)

    def _mark(self, name: str) -> None:
        now = self._read()
        names = ("allocated", "reserved", "peak_allocated", *self._driver)
        taken = {f"{name}_bytes": now[name] - self._base[name] for name in names}
        self._marks.append({"phase": name, "at": round(time.monotonic() - self._began, 4), **taken})

    def _held(self) -> None:
        """Read what is held from forward to backward.

        The cache is emptied before the driver is asked, so that it too tells what is held, in whole segments.
        """
        gc.collect()
        self._figures["cuda_held_bytes"] = self._read()["allocated"] - self._base["allocated"]
        if not self._shared:
            torch.cuda.empty_cache()
            self._figures["cuda_held_driver_bytes"] = self._read()["driver"] - self._base["driver"]

    def end(self) -> None:
        """Read what is left after the last phase; what follows (a comparison) counts no more."""
        gc.collect()
        self._close()

    def _close(self) -> None:
        now, base, figures = self._read(), self._base, self._figures
        for name in ("allocated", "reserved", *self._driver):
            figures[f"cuda_end_{name}_bytes"] = now[name] - base[name]
        for name in ("allocated", "reserved"):
            figures[f"cuda_peak_{name}_bytes"] = now[f"peak_{name}"] - base[name]
        figures["cuda_end_inactive_split_bytes"] = now["inactive_split"]
        figures["cuda_peak_inactive_split_bytes"] = now["peak_inactive_split"]
        self._mark("end")
        card = torch.cuda.get_device_properties(0)
        self._evidence = {
            "phases": self.phases,
            "cuda_phases": self._marks,
            "cuda_baseline": base,
            "cuda_retries": now["retries"] - base["retries"],
            "cuda_ooms": now["ooms"],
            **({} if self._shared else {"driver_tells_of": "process" if self._apart else "card"}),
            "card": {
                "name": card.name,
                "total_bytes": card.total_memory,
                "count": torch.cuda.device_count(),
                "cuda": torch.version.cuda,
            },
            **self._history(),
        }

    def short_of(self, card_bytes: int) -> str:
        """Return in words that somebody else has what a card was to have for this process; empty if it had as much.

        What a process can have is what it holds, what its context took and what the driver has free.
        """
        for card in range(torch.cuda.device_count()) if card_bytes else ():
            try:
                free, _ = torch.cuda.mem_get_info(card)
                had = free + torch.cuda.memory_reserved(card) + CONTEXT_BYTES
            except RuntimeError as error:
                return f"the card does not say what is free on it ({str(error).splitlines()[0]})"
            if had < card_bytes:
                return f"the card had {had >> 20} MiB for the arm, not the {card_bytes >> 20} MiB that it needs"
        return ""

    def results(self) -> tuple[dict[str, float], dict[str, Any]]:
        """Return figures and evidence, of an arm that ran out of memory too."""
        if self._base and not self._evidence:
            self._close()
        return self._figures, self._evidence

    def _history(self) -> dict[str, Any]:
        try:
            snapshot = torch.cuda.memory._snapshot()
            traces = snapshot.get("device_traces", [])
            read = replay(sorted((e for trace in traces for e in trace), key=lambda e: e.get("time_us", 0)))
            return {**read, "snapshot": keep(snapshot, self._file)} if self._file else read
        finally:
            torch.cuda.memory._record_memory_history(None)


def replay(events: list[Mapping[str, Any]]) -> dict[str, Any]:
    """Return timeline and owners of the peak from the allocator's events, which begin at the baseline.

    ``timeline`` is a list of (seconds, allocated bytes, reserved bytes), thinned;
    ``alive_at_peak`` has one row an owner, largest first. Blocks freed that were there before count for nothing, and so
    do events that move no bytes (an ``oom`` has no address).
    """
    alive: dict[int, Mapping[str, Any]] = {}
    live = reserved = peak = 0
    at_peak: list[Mapping[str, Any]] = []
    rising = False
    points: list[tuple[float, int, int]] = []
    began = events[0].get("time_us", 0) if events else 0
    for event in events:
        action, size, address = event["action"], event["size"], event.get("addr", 0)  # `oom` has no address
        if action == "alloc":
            alive[address] = event
            live += size
            if live > peak:
                peak, rising = live, True
        elif action == "free_completed":
            if address in alive:
                if rising:
                    at_peak, rising = list(alive.values()), False
                live -= alive.pop(address)["size"]
        elif action == "segment_alloc":
            reserved += size
        elif action == "segment_free":
            reserved -= size
        else:
            continue
        points.append(((event.get("time_us", 0) - began) / 1e6, live, reserved))
    if rising:
        at_peak = list(alive.values())
    owners: Counter[str] = Counter()
    counts: Counter[str] = Counter()
    for event in at_peak:
        name = owner(event.get("frames", []))
        owners[name] += event["size"]
        counts[name] += 1
    return {
        "timeline": [(round(t, 4), a, r) for t, a, r in thinned(points)],
        "timeline_columns": ["allocated", "reserved"],
        "alive_at_peak": [
            {"made_by": name, "count": counts[name], "bytes": size} for name, size in owners.most_common(OWNERS)
        ],
        "events": len(events),
    }


def owner(frames: list[Mapping[str, Any]]) -> str:
    """Return the innermost frame that is not torch's own, as ``file:line function``; else the innermost."""
    named = [f for f in frames if f.get("filename", "").endswith(".py")]
    theirs = [f for f in named if "/torch/" not in f["filename"]]
    found = (theirs or named or [{"filename": "?", "line": 0, "name": "?"}])[0]
    return f"{shortened(found['filename'])}:{found['line']} {found['name']}"
