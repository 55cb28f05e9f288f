"""A large card made as small as a report's: the allocator is given what a card of that size would leave it."""

from __future__ import annotations

from repros.case import CONTEXT_BYTES


def allowed(card_gb: int) -> int:
    """Return the bytes that the allocator may take of a card of this size."""
    return (card_gb << 30) - CONTEXT_BYTES


def shrink(card_gb: int, card: int = 0) -> None:
    """Give this process's allocator no more of a card."""
    import torch

    total = torch.cuda.get_device_properties(card).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, allowed(card_gb) / total), card)
