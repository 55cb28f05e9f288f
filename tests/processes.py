"""Processes that tests start or look for."""

from __future__ import annotations

import signal
from pathlib import Path


def takes_signals() -> None:
    """Have a child take Ctrl-C, also where these tests run in the background of a shell, which has it ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def working_below(folder: Path) -> list[str]:
    """Return the processes whose working folder is an arm's."""
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                if (process / "cwd").readlink().is_relative_to(folder) and (process / "cwd").readlink() != folder:
                    found.append(process.name)
            except OSError:
                continue
    return found
