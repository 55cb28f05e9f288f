"""Bytecode: lent to a new environment by one that holds the very same files, and compared with its source.

uv links the files of a package from its cache, so two environments with one version of torch share inodes. What Python
compiled for such a file in one environment is valid in the other (a `.pyc` names the time and size of its source), and
compiling some thousand modules is most of what a further environment costs.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

#: Reads lines of a `.pyc`, a tab and its source, and prints the number of each line whose `.pyc` is as it should be.
#: Code objects are compared, for the bytes of equal ones differ; they are equal whatever folder they were compiled in.
_COMPARE = """
import importlib.util, marshal, sys
for number, line in enumerate(sys.stdin):
    compiled, source = line.rstrip("\\n").split("\\t")
    try:
        with open(compiled, "rb") as file:
            data = file.read()
        with open(source, "rb") as file:
            code = compile(file.read(), source, "exec", dont_inherit=True)
        if data[:4] == importlib.util.MAGIC_NUMBER and marshal.loads(data[16:]) == code:
            print(number, flush=True)
    except Exception:
        pass
"""
#: What starting an interpreter costs is spread over at least this many files.
_AT_ONCE = 100


def lend(environments: Path, to: Path, vouched: Callable[[Path], Collection[str]], mark: str) -> int:
    """Link into `to` the bytecode of every source file that it shares with another environment; return how many.

    `environments` is the folder that environments lie in; one that is whole holds a file called `mark`. `vouched` says
    which bytecode of an environment is known to be right. Nothing is lent where none is there or links do not work.
    """
    lender = _latest(environments, to, mark)
    if lender is None:
        return 0
    lent = 0
    with contextlib.suppress(OSError):
        for path in vouched(lender):
            try:
                same = (lender / source_of(path)).samefile(to / source_of(path))
            except OSError:
                continue
            if same:
                place = to / path
                place.parent.mkdir(exist_ok=True)
                with contextlib.suppress(FileExistsError):
                    os.link(lender / path, place)
                    lent += 1
    return lent


def source_of(compiled: str) -> str:
    """Return the path of the source that ``FOLDER/__pycache__/NAME.TAG.pyc`` is compiled from."""
    folder, _, name = compiled.rpartition("/__pycache__/")
    return f"{folder}/{name.partition('.')[0]}.py"


def false_bytecode(folder: Path, python: Path, compiled: Sequence[str]) -> list[str]:
    """Return which of these files `python` must not run: they are not what it compiles of their sources.

    Bytecode of another Python, without a source, or that cannot be read is among them. It runs in a process of its own,
    as reading bytecode that is damaged can end one.
    """
    if not compiled:
        return []
    workers = min(8, os.cpu_count() or 1, 1 + len(compiled) // _AT_ONCE)
    parts = [compiled[n::workers] for n in range(workers)]
    with ThreadPoolExecutor(workers) as pool:
        return [path for part in pool.map(lambda part: _false(folder, python, part), parts) for path in part]


def _false(folder: Path, python: Path, compiled: Sequence[str]) -> list[str]:
    lines = "".join(f"{folder / path}\t{folder / source_of(path)}\n" for path in compiled)
    command = [str(python), "-I", "-S", "-W", "ignore", "-c", _COMPARE]
    done = subprocess.run(command, input=lines, capture_output=True, text=True, check=False)
    good = {int(number) for number in done.stdout.split()}
    return [path for number, path in enumerate(compiled) if number not in good]


def _latest(environments: Path, to: Path, mark: str) -> Path | None:
    """Return the environment of the same cell, else of any; the latest."""
    name = to.name.rpartition("~")[0].rpartition("-")[0]
    whole = [p for p in environments.glob("*") if (p / mark).is_file()]
    return max(whole, key=lambda p: (p.name.rpartition("-")[0] == name, p.stat().st_mtime), default=None)
