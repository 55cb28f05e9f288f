"""Processes told by where they work. Standard library alone: a cell's supervisor needs it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

PROC = Path("/proc")


def working_below(folder: Path) -> Iterator[Path]:
    """Yield the folder in ``/proc`` of each process that works below a folder (Linux; elsewhere there is none).

    It looks again until no process has come since: a daemon may be on its way between two forks.
    """
    seen: set[str] = set()
    while new := {process.name for process in PROC.glob("[0-9]*")} - seen:
        seen |= new
        for process in map(PROC.joinpath, new):
            with contextlib.suppress(OSError):  # it ended, or is another user's
                here = process.joinpath("cwd").readlink()
                if here.is_relative_to(folder):
                    yield process
