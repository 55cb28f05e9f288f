"""The heap as glibc counts it: an instrument that knows nothing of torch.

`mallinfo2` tells the bytes in use over all arenas and threads: ``uordblks`` in the arenas, and ``hblkhd`` in chunks
with pages of their own. Buffers inside compiled code are in it, and so are small objects of Python and torch: a reading
is above the tensors' bytes by some tens of KiB. File mappings and thread stacks are not in it.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable


class _Mallinfo2(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
            *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
        )
    ]


def open_heap() -> Callable[[], int] | None:
    """Return a function that reads the bytes in use; None where libc has no `mallinfo2`."""
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallinfo2"):
        return None
    mallinfo2 = libc.mallinfo2
    mallinfo2.restype = _Mallinfo2

    def read() -> int:
        found = mallinfo2()
        return int(found.hblkhd + found.uordblks)

    return read
