"""Processes told by where they work, and how they ended. Standard library alone: a cell's supervisor needs it."""

from __future__ import annotations

import contextlib
import os
import signal
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


def runs(pid: int) -> bool:
    """Return whether a child runs; it is not reaped, so its number stays its own until its group is killed."""
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None


def kill_group(pid: int) -> None:
    """Kill a process group; its leader may be gone already."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def ending(code: int) -> str:
    """Return in words how a process ended, by its return code: minus a signal's number where one killed it."""
    if code >= 0:
        return f"exit {code}"
    with contextlib.suppress(ValueError):
        return f"killed by {signal.Signals(-code).name}"
    return f"killed by signal {-code}"
