"""Load a checkpoint tensor by tensor, with a bound on the bytes of source alive at once.

Readers run ahead of the conversion, but only as far as an allowance in bytes lets them: a source
counts against it from before it is allocated until after it is dropped.  So the sources alive
never exceed ``max(prefetch_bytes, largest tensor)``, however slow the conversion is.  (A loader
that counts tasks, or nothing, materializes the model ahead of quantization: transformers#44387.)
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from dataclasses import dataclass
from io import FileIO
from math import prod
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

import torch
from torch import Tensor

from repros.reference.checkpoint import CheckpointError, Entry, list_entries
from repros.reference.chunks import chunk
from repros.reference.converter import Converter, lay_out
from repros.reference.prefetch import Prefetcher

STAGE_BYTES = 32 << 20


class StreamingLoader:
    """Read each tensor of a checkpoint into fresh memory, convert it and drop the source.

    That memory is on ``device``; where this is not the host's, each reader goes through a buffer of ``STAGE_BYTES``,
    page-locked for CUDA.

    ``convert(name, tensor)`` returns what is kept; it must not hold on to ``tensor``.
    ``prefetch_bytes`` bounds the sources alive, the one being converted included; a tensor larger
    than that is let through alone; 0 means one tensor at a time and None no bound at all.
    ``threads`` readers run ahead.  ``convert`` runs in the thread that calls ``load``.

    Peak of ``load``: what is kept, plus ``max(prefetch_bytes, largest tensor)``, plus whatever
    ``convert`` allocates for itself.  Override ``read``, ``convert_one`` or ``release`` to observe
    or change one step, ``device_of`` to spread the tensors over devices.  Raises CheckpointError,
    on construction where the headers show it.
    """

    def __init__(
        self,
        checkpoint_dir: Path | str,
        convert: Callable[[str, Tensor], Any],
        *,
        prefetch_bytes: int | None,
        threads: int = 1,
        device: torch.device | str = "cpu",
    ) -> None:
        if threads < 1 or (prefetch_bytes is not None and prefetch_bytes < 0):
            raise ValueError(f"threads={threads}, prefetch_bytes={prefetch_bytes}")
        self.entries = list_entries(checkpoint_dir)
        self.convert = convert
        self.threads = threads
        self.prefetch_bytes = prefetch_bytes
        self.device = torch.device(device)
        self._staging = threading.local()

    def load(self) -> dict[str, Any]:
        """Return what ``convert`` made of every tensor, in the order of the checkpoint."""
        kept: dict[str, Any] = dict.fromkeys(entry.name for entry in self.entries)
        with Prefetcher(self.entries, self.read, self.prefetch_bytes, self.threads) as ahead:
            for _ in self.entries:
                entry, tensor = ahead.take()
                kept[entry.name] = self.convert_one(entry.name, tensor)
                self.release(entry.name, tensor)
                del tensor  # before its bytes are given back
                ahead.give_back(entry)
        return kept

    def read(self, entry: Entry) -> Tensor:
        """Read one tensor into memory of its own; runs in a reader thread.

        No view of a mapped file: its pages would count as nobody's, and would live as long as any
        tensor of the shard.
        """
        tensor = torch.empty(entry.shape, dtype=entry.dtype, device=self.device_of(entry))
        with entry.path.open("rb", buffering=0) as file:
            file.seek(entry.offset)
            if tensor.device.type == "cpu":
                self._fill(file, entry, tensor, 0)
            else:
                self._stage(file, entry, tensor)
        return tensor

    def device_of(self, entry: Entry) -> torch.device:
        """Return where a tensor is to lie; asked in a reader thread."""
        return self.device

    def _stage(self, file: FileIO, entry: Entry, tensor: Tensor) -> None:
        if not hasattr(self._staging, "buffer"):
            locked = tensor.device.type == "cuda"
            self._staging.buffer = torch.empty(STAGE_BYTES, dtype=torch.uint8, pin_memory=locked)
        target = tensor.view(-1).view(torch.uint8)
        for start in range(0, entry.nbytes, STAGE_BYTES):
            part = self._staging.buffer[: min(STAGE_BYTES, entry.nbytes - start)]
            self._fill(file, entry, part, start)
            target[start : start + part.numel()].copy_(part)  # waits: the buffer is used again

    @staticmethod
    def _fill(file: FileIO, entry: Entry, tensor: Tensor, start: int) -> None:
        """Fill a tensor of the host from the file; it is what lies ``start`` bytes into the entry."""
        buffer = memoryview((ctypes.c_char * tensor.nbytes).from_address(tensor.data_ptr()))
        done = 0
        while done < tensor.nbytes:
            count = file.readinto(buffer[done:])
            if not count:
                raise CheckpointError(
                    f"{entry.path}: ended {start + done} bytes into `{entry.name}`, which has {entry.nbytes}",
                    "leave the shard alone while it is read, or fetch it again",
                )
            done += count

    def convert_one(self, name: str, tensor: Tensor) -> Any:
        """Turn one source into what is kept."""
        return self.convert(name, tensor)

    def release(self, name: str, tensor: Tensor) -> None:
        """Be told that a source has served; its last reference goes when this returns."""


@dataclass(frozen=True)
class Part:
    """Elements ``start`` to ``stop`` of an entry; ``nbytes`` are those of the buffer that it is read into."""

    entry: Entry
    start: int
    stop: int
    nbytes: int

    def of(self, buffer: Tensor) -> Tensor:
        """Return the elements, ``[stop - start]`` in the entry's dtype, as a view of a buffer (uint8 ``[nbytes]``)."""
        dtype = self.entry.dtype
        return buffer[: (self.stop - self.start) * dtype.itemsize].view(dtype)


class CardLoader(StreamingLoader):
    """Load onto a card, or several, and have little reserved there beside what is kept.

    What the caching allocator has once taken stays reserved, so the most that was ever on the card beside the result
    counts. Here that is one part of a source and what its quantization takes. What is kept lies in one buffer
    (`lay_out`); sources are read ahead into memory of the host, page-locked for CUDA, and go over in parts of
    ``part_elements``, each to be quantized or copied into its place.

    ``prefetch_bytes`` bounds that memory of the host, but for one buffer, which there always is: 0 means that one, None
    no bound. A buffer holds one part, and has the size of the largest.

    Where a step that sees a whole source is overridden (``read``, ``convert_one`` or ``release``) it is shown one that
    is whole and on the card: then it is StreamingLoader that loads.
    """

    convert: Converter

    def __init__(self, checkpoint_dir: Path | str, convert: Converter, **options: Any) -> None:
        super().__init__(checkpoint_dir, convert, **options)
        self.part_elements = 2 * chunk(self.device)  # for each part a table is made and sorted
        self._buffers: SimpleQueue[tuple[Tensor, torch.cuda.Event | None]] = SimpleQueue()

    def load(self) -> dict[str, Any]:
        """Return what ``convert`` would make of every tensor, in the order of the checkpoint."""
        if self._sources_are_seen():
            return super().load()
        convert, parts = self.convert, self._parts()
        kept = lay_out({e.name: (self.device_of(e), convert.forms(e.name, e.shape)) for e in self.entries})
        with Prefetcher(parts, self._read_part, self.prefetch_bytes, self.threads) as ahead:
            for _ in parts:
                part, buffer = ahead.take()
                entry, tensors = part.entry, kept[part.entry.name]
                convert.write(entry.name, entry.shape, part.start, part.of(buffer), tensors)
                card = tensors[0].device
                copied = torch.cuda.current_stream(card).record_event() if card.type == "cuda" else None
                self._buffers.put((buffer, copied))  # before its allowance: there are never more than that lets out
                ahead.give_back(part)
        return {
            entry.name: tensors[0] if len(tensors) == 1 else (*tensors, entry.shape)
            for entry, tensors in zip(self.entries, kept.values(), strict=True)
        }

    def _sources_are_seen(self) -> bool:
        steps = ("read", "convert_one", "release")
        return any(getattr(getattr(self, s), "__func__", None) is not getattr(StreamingLoader, s) for s in steps)

    def _parts(self) -> list[Part]:
        """Cut the entries, in their order; one without elements has no parts."""
        cuts = []
        for entry in filter(lambda entry: entry.nbytes, self.entries):
            unit, end = self.convert.unit(entry.name, entry.shape), prod(entry.shape)
            step = max(1, self.part_elements // unit) * unit
            cuts += [(entry, start, min(start + step, end)) for start in range(0, end, step)]
        largest = max((entry.dtype.itemsize * (stop - start) for entry, start, stop in cuts), default=0)
        return [Part(*cut, largest) for cut in cuts]

    def _read_part(self, part: Part) -> Tensor:
        """Read a part into a buffer of the host; runs in a reader thread."""
        try:
            buffer, copied = self._buffers.get_nowait()
        except Empty:
            buffer = torch.empty(part.nbytes, dtype=torch.uint8, pin_memory=self.device.type == "cuda")
        else:
            if copied is not None:
                copied.synchronize()  # the card may still be reading what was in it
        skipped = part.start * part.entry.dtype.itemsize
        with part.entry.path.open("rb", buffering=0) as file:
            file.seek(part.entry.offset + skipped)
            self._fill(file, part.entry, part.of(buffer), skipped)
        return buffer
