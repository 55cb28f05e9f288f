"""Imported once by a cell's fork server, before any arm: what each arm would otherwise pay for again.

Importing is all it does. No tensor is made and no thread started, so a fork inherits modules and nothing else; the
collector's view is frozen, so that an arm's scan of live objects sees its own.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import time

#: Modules that could not be imported, with the reason: arms that need them fail with the same words.
FAILURES: dict[str, str] = {}


def _preload() -> float:
    began = time.monotonic()
    for name in os.environ.get("REPROS_PRELOAD", "").split(","):
        if name:
            try:
                importlib.import_module(name)
            except Exception as error:  # noqa: BLE001 - a broken package is the arm's finding, not the server's end
                FAILURES[name] = f"{type(error).__name__}: {error}"
    with contextlib.suppress(ImportError):
        import torch

        torch.set_num_threads(1)
    gc.collect()
    gc.freeze()
    return time.monotonic() - began


SECONDS = _preload()
