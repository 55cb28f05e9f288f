"""The storage ledger: which tensor storages are alive, by dtype and by phase, in every thread.

A dispatch mode sees the outputs of every operator. It is entered in each thread that starts while the ledger is
open, because modes are thread-local and a loader that works in threads would go unseen. A storage is entered once,
under a serial number of its own (addresses are reused), and leaves through a weak reference: `torch.UntypedStorage`
keeps its Python object for as long as C++ holds it.

Not seen here: buffers that compiled code takes without the dispatcher (the heap meter sees those) and temporaries
inside one kernel.
"""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import TorchDispatchMode

from repros.meters.timeline import thinned

PRIOR = 0
SIXTEEN_BIT = (torch.float16, torch.bfloat16)
GATE_QUIET_S = 0.2
GATE_LIMIT_S = 3.0


@dataclass(frozen=True)
class Storage:
    """One storage: bytes, dtype and shape of the tensor it was first seen through, and the phase it was born in."""

    serial: int
    nbytes: int
    dtype: torch.dtype
    shape: tuple[int, ...]
    phase: int
    file_backed: bool
    maker: str


class Ledger:
    """Live and peak bytes of storages born after `start`; open it with ``with ledger.open():``.

    ``heap`` is read beside each entry for its own peak. ``gate`` names operators; at the first call of one of them
    the calling thread waits until no storage was born for GATE_QUIET_S (at most GATE_LIMIT_S), so that threads which
    run ahead have done so and the peak does not depend on who won the race.
    """

    def __init__(self, heap: Callable[[], int] | None = None, gate: tuple[str, ...] = ()) -> None:
        self.phases = ["prepare"]
        self.live_bytes = self.peak_live_bytes = 0
        self.live_16bit_bytes = self.peak_live_16bit_bytes = self.peak_live_16bit_heap_bytes = 0
        self.peak_heap_bytes = 0
        self.threads: set[int] = set()
        self.peak_alive: list[dict[str, Any]] = []
        self._heap = heap
        self._heap_base = 0
        self._gate = frozenset(gate)
        self._gate_lock = threading.Lock()
        self._gate_open = not gate
        self.gate_waited_s: float | None = None
        self._lock = threading.RLock()
        self._entries: dict[int, tuple[Storage, weakref.ref[Any]]] = {}
        self._raw: set[int] = set()
        self._births = 0
        self._live_16bit_heap = 0
        self._at_peak = False
        self._timeline: list[tuple[float, int, int]] = []
        self._marks: list[tuple[float, str]] = []
        self._measuring = False

    # -- life

    @contextmanager
    def open(self) -> Iterator[Ledger]:
        """Watch this thread and every thread started inside the block."""
        bootstrap = threading.Thread._bootstrap_inner  # type: ignore[attr-defined]
        ledger = self

        def watched(thread: threading.Thread) -> None:
            with _Mode(ledger):
                bootstrap(thread)

        threading.Thread._bootstrap_inner = watched  # type: ignore[attr-defined]
        try:
            with _Mode(self):
                yield self
        finally:
            threading.Thread._bootstrap_inner = bootstrap  # type: ignore[attr-defined]

    def start(self) -> None:
        """Take the baseline: whatever is alive now is prior and counts no more."""
        gc.collect()
        for thing in gc.get_objects():
            if issubclass(type(thing), torch.Tensor):  # not isinstance: proxies answer that with code of their own
                self.see(thing, "prior")
        self._heap_base = self._heap() if self._heap else 0
        self._measuring = True

    def enter(self, phase: str) -> None:
        """End the present phase and start one of this name."""
        self.phases.append(phase)
        self._marks.append((time.monotonic(), phase))

    # -- what the mode calls

    def see(self, tensor: torch.Tensor, maker: str) -> None:
        """Enter the tensor's storage if it is new; tensors without bytes of their own are passed over."""
        if isinstance(tensor, FakeTensor) or tensor.device.type == "meta":
            return
        try:
            storage = tensor.untyped_storage()
            nbytes = storage.nbytes()
        except (NotImplementedError, RuntimeError):  # wrapper subclasses and sparse layouts have no storage
            return
        key = storage._cdata
        if key in self._raw and tensor.dtype != torch.uint8:
            self._retype(key, tensor)
        if key in self._entries or not nbytes:
            return
        with self._lock:
            if key in self._entries:
                return
            self._births += 1
            phase = len(self.phases) - 1 if self._measuring else PRIOR
            file_backed = phase != PRIOR and maker in _VIEWS and is_file_backed(storage.data_ptr())
            entry = Storage(self._births, nbytes, tensor.dtype, tuple(tensor.shape), phase, file_backed, maker)
            self._entries[key] = (entry, weakref.ref(storage, self._leaver(key)))
            if maker in _VIEWS and tensor.dtype == torch.uint8:
                self._raw.add(key)
            if phase != PRIOR:
                self._count(entry, +1)

    def _retype(self, key: int, tensor: torch.Tensor) -> None:
        """Enter foreign memory that came as bytes, as safetensors hands it over, under the dtype it is viewed with."""
        with self._lock:
            if key not in self._raw:
                return
            self._raw.remove(key)
            entry, reference = self._entries[key]
            viewed = replace(entry, dtype=tensor.dtype, shape=tuple(tensor.shape))
            self._entries[key] = (viewed, reference)
            if entry.phase != PRIOR:
                self._count(entry, -1)
                self._count(viewed, +1)

    def _leaver(self, key: int) -> Callable[[object], None]:
        return lambda _: self._leave(key)

    def _leave(self, key: int) -> None:
        with self._lock:
            entry, _ = self._entries[key]
            self._raw.discard(key)
            if entry.phase != PRIOR:
                if self._at_peak:
                    self._keep_peak()
                self._count(entry, -1)
            del self._entries[key]

    def _count(self, entry: Storage, sign: int) -> None:
        self.live_bytes += sign * entry.nbytes
        if entry.dtype in SIXTEEN_BIT:
            self.live_16bit_bytes += sign * entry.nbytes
            self._live_16bit_heap += 0 if entry.file_backed else sign * entry.nbytes
        if sign > 0:
            if self.live_bytes > self.peak_live_bytes:
                self.peak_live_bytes = self.live_bytes
                self._at_peak = True
            self.peak_live_16bit_bytes = max(self.peak_live_16bit_bytes, self.live_16bit_bytes)
            self.peak_live_16bit_heap_bytes = max(self.peak_live_16bit_heap_bytes, self._live_16bit_heap)
        self._timeline.append((time.monotonic(), self.live_bytes, self.live_16bit_bytes))

    def read_heap(self) -> int | None:
        """Return heap bytes taken since `start`, and keep their peak; None where it cannot be read."""
        if self._heap is None or not self._measuring:
            return None
        taken = self._heap() - self._heap_base
        self.peak_heap_bytes = max(self.peak_heap_bytes, taken)
        return taken

    def pass_gate(self, operator: str) -> None:
        """Hold the caller at the first call of a gated operator until the other threads are idle."""
        if self._gate_open or not self._measuring or operator not in self._gate:
            return
        with self._gate_lock:
            if self._gate_open:
                return
            if threading.active_count() == 1:
                self._gate_open = True  # nobody could run ahead
                return
            began = time.monotonic()
            births, quiet_since = self._births, began
            while (now := time.monotonic()) - quiet_since < GATE_QUIET_S and now - began < GATE_LIMIT_S:
                time.sleep(0.01)
                if births != self._births:
                    births, quiet_since = self._births, time.monotonic()
            self._gate_open = True
            self.gate_waited_s = time.monotonic() - began

    # -- what the worker reads

    def entry_of(self, tensor: torch.Tensor) -> Storage | None:
        """Return the entry of a tensor's storage, if it was seen."""
        try:
            found = self._entries.get(tensor.untyped_storage()._cdata)
        except (NotImplementedError, RuntimeError):  # as in `see`
            return None
        return found[0] if found else None

    def alive(self) -> list[Storage]:
        """Return the entries born since `start` that are alive now."""
        with self._lock:
            return [entry for entry, _ in self._entries.values() if entry.phase != PRIOR]

    def _keep_peak(self) -> None:
        self.peak_alive = tally(self.alive())
        self._at_peak = False

    def close(self) -> None:
        """Take the last picture of the peak, where nothing was freed after it."""
        if self._at_peak:
            self._keep_peak()

    def timeline(self) -> list[tuple[float, int, int]]:
        """Return (seconds, live bytes, live 16-bit bytes), thinned."""
        points = self._timeline
        return [(round(t - points[0][0], 4), total, half) for t, total, half in thinned(points)]

    def marks(self) -> list[tuple[float, str]]:
        """Return (seconds, phase) of each phase's start, on the clock of `timeline`."""
        began = self._timeline[0][0] if self._timeline else (self._marks[0][0] if self._marks else 0.0)
        return [(round(t - began, 4), phase) for t, phase in self._marks]


def tally(entries: list[Storage], most: int = 12) -> list[dict[str, Any]]:
    """Group entries by shape and dtype, largest first."""
    groups: Counter[tuple[str, tuple[int, ...], str, bool]] = Counter()
    counts: Counter[tuple[str, tuple[int, ...], str, bool]] = Counter()
    for entry in entries:
        key = (str(entry.dtype).removeprefix("torch."), entry.shape, entry.maker, entry.file_backed)
        groups[key] += entry.nbytes
        counts[key] += 1
    return [
        {"dtype": k[0], "shape": list(k[1]), "made_by": k[2], "file_backed": k[3], "count": counts[k], "bytes": n}
        for k, n in groups.most_common(most)
    ]


#: Operators through which a storage can be first seen that lies in a file mapping.
_VIEWS = frozenset(
    f"aten::{name}"
    for name in (
        *("from_file", "set_", "view", "view_as", "_unsafe_view", "as_strided", "slice"),
        *("detach", "alias", "t", "transpose", "unsqueeze"),
    )
) | {"saved"}


def is_file_backed(address: int) -> bool:
    """Return whether the address lies in a file mapping (Linux; False elsewhere)."""
    try:
        with open("/proc/self/maps", encoding="utf-8") as maps:
            for line in maps:
                low, high = (int(part, 16) for part in line.split(" ", 1)[0].split("-"))
                if low <= address < high:
                    return int(line.split()[4]) != 0  # the inode; 0 for anonymous memory
    except OSError:
        pass
    return False


class _Mode(TorchDispatchMode):
    """The ledger's eye in one thread."""

    @classmethod
    def is_infra_mode(cls) -> bool:
        # Else Dynamo leaves every frame under this mode to eager mode, and a compiled condition would not be one.
        return True

    def __init__(self, ledger: Ledger) -> None:
        super().__init__()
        self._ledger = ledger

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        ledger = self._ledger
        name = func.name().partition(".")[0]
        ledger.pass_gate(name)
        out = func(*args, **(kwargs or {}))
        ledger.threads.add(threading.get_ident())
        if isinstance(out, torch.Tensor):
            ledger.see(out, name)
        elif isinstance(out, (tuple, list)):
            for item in out:
                if isinstance(item, torch.Tensor):
                    ledger.see(item, name)
        ledger.read_heap()
        return out
