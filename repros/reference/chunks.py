"""How many elements are worked on at a time: temporaries do not grow with the weight."""

from __future__ import annotations

import torch

_CHUNK = 1 << 20


def chunk(device: torch.device) -> int:
    """Return the elements of a chunk on this device; a card, where each step costs a launch, has larger ones."""
    return _CHUNK if device.type == "cpu" else 4 * _CHUNK
