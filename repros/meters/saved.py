"""What autograd packs for backward, through saved-tensor hooks.

The hooks see what goes through `save_for_backward` (compiled graphs included) and what operators save themselves.
They do not see tensors kept as attributes of `ctx`; those show in the ledger's held bytes.

Where hooks are installed torch no longer asks whether a saved tensor was changed in place, so they ask in its place:
an instrument that took this check away would hide what a dense layer notices.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from repros.meters.ledger import PRIOR, Ledger, tally


class SavedTensors:
    """Storages packed since the ledger's start, each counted once; storages that are prior are left out."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._packed: dict[int, dict[str, Any]] = {}

    @contextmanager
    def open(self) -> Iterator[SavedTensors]:
        """Install the hooks in this thread."""
        with torch.autograd.graph.saved_tensors_hooks(self._pack, unchanged):
            yield self

    def _pack(self, tensor: torch.Tensor) -> tuple[torch.Tensor, int]:
        ledger = self._ledger
        if len(ledger.phases) > 1:
            ledger.see(tensor, "saved")
            entry = ledger.entry_of(tensor)
            if entry is not None and entry.phase != PRIOR:
                self._packed[entry.serial] = tally([entry])[0]
        return tensor, version_of(tensor)

    @property
    def saved_bytes(self) -> int:
        """Return the bytes packed so far."""
        return sum(row["bytes"] for row in self._packed.values())

    def rows(self) -> list[dict[str, Any]]:
        """Return dtype, shape and bytes of each packed storage, largest first."""
        return sorted(self._packed.values(), key=lambda row: -int(row["bytes"]))[:12]


def version_of(tensor: torch.Tensor) -> int:
    """Return how often a tensor was changed in place; 0 for one made in inference mode, which does not count."""
    return 0 if tensor.is_inference() else tensor._version


def unchanged(packed: tuple[torch.Tensor, int]) -> torch.Tensor:
    """Return what was packed; raise RuntimeError in torch's words if it was changed in place since."""
    tensor, expected = packed
    found = version_of(tensor)
    if found != expected:
        raise RuntimeError(
            "one of the variables needed for gradient computation has been modified by an inplace operation: "
            f"[{tensor.type()} {list(tensor.shape)}] is at version {found}; expected version {expected} instead"
        )
    return tensor
