"""The caching allocator's snapshot as a file: what PyTorch's memory viewer opens (pytorch.org/memory_viz).

Standard library alone: a worker writes it (`repros.meters.cuda`), the parent reads it (`repros.report.attachment`).
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

#: The viewer reads the opcodes of protocols 2 to 4 (pytorch/pytorch, torch/utils/viz/MemoryViz.js).
PROTOCOL = 4
#: A snapshot has some KB an event before it is deflated; the viewer plots 15,000 events at first.
MOST_BYTES = 64 << 20


def keep(snapshot: Mapping[str, Any], path: Path, most_bytes: int = MOST_BYTES) -> dict[str, Any]:
    """Write a snapshot, without its oldest events where it would be larger than allowed; return what was kept.

    The viewer goes backwards from the segments at the end, so events can be missing at the beginning and nowhere else.
    """
    traces = snapshot.get("device_traces", [])
    events = max(map(len, traces), default=0)
    data = dumped(snapshot, events)
    while events and len(data) > most_bytes:
        events //= 2
        data = dumped(snapshot, events)
    left_out = sum(max(0, len(trace) - events) for trace in traces)
    if len(data) > most_bytes:
        return {"file": "", "bytes": len(data), "left_out_events": left_out}
    path.write_bytes(data)
    return {"file": path.name, "bytes": len(data), "left_out_events": left_out}


def dumped(snapshot: Mapping[str, Any], events: int) -> bytes:
    """Return the pickle of a snapshot with the newest events of each card, at most so many."""
    traces = [list(trace[max(0, len(trace) - events) :]) for trace in snapshot.get("device_traces", [])]
    return pickle.dumps({**snapshot, "device_traces": traces}, protocol=PROTOCOL)


def shortened(filename: str) -> str:
    """Return a frame's file without what lies before the package: that is this machine's."""
    for folder in ("site-packages/", "/repros/cases/", "/repros/reference/", "/"):
        if folder in filename:
            return filename.rpartition(folder)[2]
    return filename
