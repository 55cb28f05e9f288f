"""What the driver says that this process has on the cards, read by NVML.

The free memory of a card tells of everybody on it; this tells of one process, also while another warms up beside it.
NVML is asked by ctypes: an arm's environment holds the pins and nothing of ours. Source: the NVML API reference,
``nvmlDeviceGetComputeRunningProcesses_v3`` and ``nvmlProcessInfo_t``.
"""

from __future__ import annotations

import ctypes
import os
from functools import cache

#: Processes of one card that are read; NVML wants room for all of them.
ROOM = 256
NOT_AVAILABLE = (1 << 64) - 1


class _Process(ctypes.Structure):
    """NVML's ``nvmlProcessInfo_t``."""

    _fields_ = (
        ("pid", ctypes.c_uint),
        ("used", ctypes.c_ulonglong),
        ("gpu_instance", ctypes.c_uint),
        ("compute_instance", ctypes.c_uint),
    )


def own_bytes() -> int | None:
    """Return the bytes that this process has on all cards, its contexts included.

    None where NVML is not to be had, does not tell of a card or does not list this process: it has no context yet, or
    it runs in a container whose process numbers are not the host's.
    """
    lib = _library()
    if lib is None:
        return None
    count, used, listed = ctypes.c_uint(), 0, False
    if lib.nvmlDeviceGetCount_v2(ctypes.byref(count)):
        return None
    for index in range(count.value):
        card, room = ctypes.c_void_p(), ctypes.c_uint(ROOM)
        processes = (_Process * (2 * ROOM))()  # some drivers of the 535 series write longer records
        if lib.nvmlDeviceGetHandleByIndex_v2(index, ctypes.byref(card)):
            return None
        if lib.nvmlDeviceGetComputeRunningProcesses_v3(card, ctypes.byref(room), processes):
            return None
        for process in processes[: room.value]:
            if process.pid == os.getpid() and process.used != NOT_AVAILABLE:
                used, listed = used + process.used, True
    return used if listed else None


@cache
def _library() -> ctypes.CDLL | None:
    try:
        lib = ctypes.CDLL("libnvidia-ml.so.1")
        lib.nvmlDeviceGetComputeRunningProcesses_v3  # noqa: B018 - drivers before R510 have it not: AttributeError
        return None if lib.nvmlInit_v2() else lib
    except (OSError, AttributeError):
        return None
