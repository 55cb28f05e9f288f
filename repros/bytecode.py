"""Bytecode that a new environment need not compile: it is lent by one that holds the very same files.

uv links the files of a package from its cache, so two environments with one version of torch share inodes. What Python
compiled for such a file in one environment is valid in the other (a `.pyc` names the time and size of its source), and
compiling some thousand modules is most of what a further environment costs.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


def lend(environments: Path, to: Path) -> int:
    """Link into `to` the bytecode of every source file that it shares with another environment; return how many.

    `environments` is the folder that environments lie in. Nothing is lent where none is there or links do not work.
    """
    lender = _latest(environments, to)
    if lender is None:
        return 0
    lent = 0
    with contextlib.suppress(OSError):
        for compiled in _compiled(lender):
            source = compiled.parent.parent / (compiled.name.split(".")[0] + ".py")
            mine = to / source.relative_to(lender)
            try:
                same = source.samefile(mine)
            except OSError:
                continue
            if same:
                place = to / compiled.relative_to(lender)
                place.parent.mkdir(exist_ok=True)
                with contextlib.suppress(FileExistsError):
                    os.link(compiled, place)
                    lent += 1
    return lent


def _latest(environments: Path, to: Path) -> Path | None:
    """Return the environment of the same cell, else of any; the latest."""
    name = to.name.rpartition("~")[0].rpartition("-")[0]
    whole = [p for p in environments.glob("*") if (p / "env.json").is_file()]
    return max(whole, key=lambda p: (p.name.rpartition("-")[0] == name, p.stat().st_mtime), default=None)


def _compiled(environment: Path) -> Iterator[Path]:
    for folder, _, names in os.walk(environment / "lib"):
        if folder.endswith("__pycache__"):
            yield from (Path(folder, name) for name in names if name.endswith(".pyc"))
