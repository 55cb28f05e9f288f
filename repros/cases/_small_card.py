"""A large card made as small as a report's: the allocator is given what a card of that size would leave it."""

from __future__ import annotations

#: What a context, its kernels and a desktop take of a card before the allocator has anything.
CONTEXT = 768 << 20


def allowed(card_gb: int) -> int:
    """Return the bytes that the allocator may take of a card of this size."""
    return (card_gb << 30) - CONTEXT


def shrink(card_gb: int, card: int = 0) -> None:
    """Give this process's allocator no more of a card."""
    import torch

    total = torch.cuda.get_device_properties(card).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, allowed(card_gb) / total), card)
