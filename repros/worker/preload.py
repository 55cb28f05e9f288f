"""Imported once by a cell's fork server, before any arm: what each arm would otherwise pay for again.

Modules are imported, and tables filled that transformers and torch's compiler keep. No tensor is left and no thread
started, so a fork inherits nothing else; the collector's view is frozen, so that an arm's scan of live objects sees its
own.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import os
import re
import sys
from pathlib import Path

from repros.meters import heap
from repros.worker import ahead, alone
from repros.worker.arm import end_with_parent

#: Modules that could not be imported, with the reason: arms that need them fail with the same words.
FAILURES: dict[str, str] = {}


def _preload() -> None:
    alone.refuse()
    gc.disable()  # what imports leave behind is collected once, at the end, not over and over as they go on
    for name in _named("REPROS_PRELOAD"):
        try:
            importlib.import_module(name)
        except Exception as error:  # noqa: BLE001 - a broken package is the arm's finding, not the server's end
            FAILURES[name] = f"{type(error).__name__}: {error}"
    for name in _named(ahead.VARIABLE):
        with contextlib.suppress(Exception):  # the arm of that case meets it again
            importlib.import_module(name)
            ahead.note(name)
    threads = os.environ.get("OMP_NUM_THREADS")
    if threads:  # a build of torch need not ask this variable
        with contextlib.suppress(ImportError):
            import torch

            torch.set_num_threads(int(threads))
    _compile_patterns()
    if os.environ.get("CUDA_VISIBLE_DEVICES") == "" and "torch" in sys.modules:  # and one thread
        _enter_operators()
        _compute_once()
        _compile_a_graph()
    alone.ASKED.clear()  # from here on it is an arm's
    gc.collect()
    gc.enable()
    gc.freeze()
    heap.fill_holes()
    collapse()


def _named(variable: str) -> list[str]:
    return [name for name in os.environ.get(variable, "").split(",") if name]


def _compile_patterns() -> None:
    """Have transformers, from 5 on, compile the patterns by which it renames weights: 0.1 s of each arm that loads."""
    mapping = sys.modules.get("transformers.conversion_mapping")
    if mapping is not None:
        with contextlib.suppress(Exception):  # it is the library's own affair; an arm meets it again
            mapping.get_checkpoint_conversion_mapping("")


def _enter_operators() -> None:
    """Have torch enter its operators where it asks for them at a first call under a mode: 40 µs each, in any arm."""
    with contextlib.suppress(Exception):  # the registry is torch's own affair
        import torch
        from torch._library.simple_registry import singleton

        for key in ("CPU", "CompositeExplicitAutograd"):
            for name in torch._C._dispatch_get_registrations_for_dispatch_key(key):
                singleton.find(name)


def _compute_once() -> None:
    """Have torch make ready what its first product of each dtype and its first loss ask for: 20 ms of an arm with all.

    No gradient is asked for: autograd's threads could not be forked.
    """
    with contextlib.suppress(Exception):  # an arm meets it again
        import torch

        ones = torch.ones(32, 32)
        with torch.no_grad():
            for dtype in (torch.float64, torch.float16, torch.bfloat16, torch.float32):
                square = ones.to(dtype)
                torch.nn.functional.linear(square, square, square[0])
            integers = ones.to(torch.int8)
            torch._int_mm(integers, integers)
            torch.nn.functional.cross_entropy(ones, integers[0].long())
            ones.cumsum(0)


#: Files in which torch's compiler looks up each function's lines, and reads them whole for that: 0.05 s of such an arm.
TRACED = ("bitsandbytes.nn.modules", "bitsandbytes.autograd._functions", "bitsandbytes.functional")


def _compile_a_graph() -> None:
    """Have torch's compiler fill its tables of patterns, by a graph of one product: 0.7 s of each arm that compiles.

    No gradient is asked for: autograd's threads could not be forked.
    """
    if "torch._inductor.compile_fx" not in sys.modules:
        return
    with contextlib.suppress(Exception):  # whatever is wrong with it, an arm that compiles meets it again
        import torch
        from torch.hub import tqdm  # type: ignore[attr-defined]

        square, interval = torch.ones(2, 2), tqdm.monitor_interval
        tqdm.monitor_interval = 0  # its progress bar would start a thread
        try:
            with torch.no_grad():
                torch.compile(torch.matmul)(square, square)
        finally:
            tqdm.monitor_interval = interval
            torch._dynamo.reset()
        from torch._dynamo.funcname_cache import get_funcname

        for name in TRACED:
            if name in sys.modules:
                get_funcname(str(sys.modules[name].__file__), 1)


#: Linux's advice to gather a range into huge pages at once (kernel 6.1), and the size of one.
MADV_COLLAPSE, HUGE_PAGE = 25, 2 << 20


def collapse() -> None:
    """Gather this process's anonymous memory into huge pages, where the kernel can.

    A fork copies an entry for each page and its end drops them again: 37 ms for 300 MB of small pages, 10 ms for
    huge ones. What an arm writes to is split into small pages again, in the arm.
    """
    with contextlib.suppress(OSError, AttributeError):
        advise = ctypes.CDLL(None).madvise
        for line in Path("/proc/self/maps").read_text(encoding="utf-8").splitlines():
            found = re.match(r"(\w+)-(\w+) rw-p 0+ 00:00 0 +(\[heap\])?$", line)
            if found:
                start = -(-int(found[1], 16) // HUGE_PAGE) * HUGE_PAGE
                size = int(found[2], 16) // HUGE_PAGE * HUGE_PAGE - start
                if size > 0:
                    advise(ctypes.c_void_p(start), ctypes.c_size_t(size), MADV_COLLAPSE)


# Else a fork server whose supervisor is killed would import to the end before it noticed.
end_with_parent()
if os.environ.pop("REPROS_SUPERVISOR", str(os.getppid())) != str(os.getppid()):
    os._exit(0)  # it was killed before that
_preload()
