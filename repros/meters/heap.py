"""The heap as glibc counts it: an instrument that knows nothing of torch.

Allocations of 128 KiB and more are given pages of their own (`M_MMAP_THRESHOLD` is pinned), and ``hblkhd`` of
`mallinfo2` is their exact sum over all threads, buffers inside compiled code included. Smaller allocations, file
mappings and thread stacks are not in it.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable

THRESHOLD_BYTES = 128 * 1024
_M_MMAP_THRESHOLD = -3


class _Mallinfo2(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
            *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
        )
    ]


def open_heap() -> Callable[[], int] | None:
    """Pin the threshold and return a function that reads the live bytes; None where libc has no `mallinfo2`."""
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallinfo2"):
        return None
    libc.mallopt(_M_MMAP_THRESHOLD, THRESHOLD_BYTES)
    mallinfo2 = libc.mallinfo2
    mallinfo2.restype = _Mallinfo2
    return lambda: int(mallinfo2().hblkhd)
