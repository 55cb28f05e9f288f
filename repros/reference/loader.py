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
from io import FileIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from repros.reference.checkpoint import CheckpointError, Entry, list_entries
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
