"""The sources of this project that a case uses, and a digest of those that are its own.

They are found from its imports. A fixture that a module reads is a source too: the module names it by its path from the
project's folder, such as ``"fixtures/qlora_models.json"``.
"""

from __future__ import annotations

import ast
import contextlib
import hashlib
import itertools
import os
import re
import time
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import TypeGuard

from repros import ROOT

#: What is no part of any case's own source: every arm needs it, whatever the case.
HARNESS = (
    *("repros.worker.arm", "repros.worker.preload", "repros.case", "repros.verdict"),
    *("repros.errors", "repros.machine.cache", "repros.worker.checkpoints", "repros.cases"),
)


def sources(modules: Iterable[str], without: Iterable[str] = ()) -> Iterator[tuple[str, str]]:
    """Yield path and text of these modules and all of this project that they import, packages and fixtures included.

    Those ``without`` which they do are left out, and what only those import.
    """
    waiting, done = list(modules), set(without)
    while waiting:
        name = waiting.pop(0)
        if name in done:
            continue
        done.add(name)
        file, changed = _file_of(name)
        if not changed:
            continue
        text = _read(ROOT / file, changed)
        yield file, text
        named = [(fixture, ROOT / fixture) for fixture in fixtures(text)]
        yield from ((fixture, _read(path, path.stat().st_mtime_ns)) for fixture, path in named)
        waiting += sorted({*imported(text, name), name.rpartition(".")[0] or name})


def _file_of(name: str) -> tuple[str, int]:
    """Return the path of a module from the project's folder, and when it was changed (mtime, in ns); 0 for no module.

    It is asked some hundred times a trial, mostly of names that are no module's; `pathlib` takes ten times as long.
    """
    stem = name.replace(".", "/")
    for file in (f"{stem}/__init__.py", f"{stem}.py"):
        with contextlib.suppress(OSError):
            return file, os.stat(f"{ROOT}/{file}").st_mtime_ns  # noqa: PTH116 - as said above
    return stem, 0


@lru_cache(maxsize=1024)
def _read(path: Path, changed: int) -> str:
    """Return a file's text; it is read anew once it was ``changed`` (mtime, in ns)."""
    return path.read_text(encoding="utf-8")


@lru_cache(maxsize=1024)
def imported(text: str, module: str) -> tuple[str, ...]:
    """Return the modules of this project that a module imports anywhere; a name that is no module does no harm."""
    tops = ("repros", module.partition(".")[0])
    found: list[str] = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found += (one.name for one in node.names if one.name.partition(".")[0] in tops)
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.partition(".")[0] in tops:
            found += (node.module, *(f"{node.module}.{one.name}" for one in node.names))
    return tuple(found)


@lru_cache(maxsize=1024)
def fixtures(text: str) -> tuple[str, ...]:
    """Return the fixtures that a module names by their whole path."""
    if '"fixtures/' not in text:
        return ()
    constants = [node.value for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Constant)]
    named = [one for one in constants if isinstance(one, str) and re.fullmatch(r"fixtures/[\w/-]+\.json", one)]
    return tuple(one for one in named if (ROOT / one).is_file())


def own(module: str) -> dict[str, str]:
    """Return path -> text of a case's file and of what it uses beside the harness: helpers, fixtures, the reference."""
    found = sources([module])
    return {path: text for path, text in found if path not in _harness() and not path.endswith("__init__.py")}


@lru_cache
def _harness() -> frozenset[str]:
    return frozenset(path for path, _ in sources(HARNESS))


def digest(module: str) -> str:
    """Return the SHA-256 of a case's own source, by which a record knows what it was made from.

    The windows that a case records as affected are left out: they are read from trials and decide none of their
    figures.
    """
    total = hashlib.sha256()
    for _, text in sorted(own(module).items()):
        total.update(hashlib.sha256(without_record(text).encode()).digest())
    return total.hexdigest()


@lru_cache(maxsize=256)
def without_record(text: str) -> str:
    """Return a module's text without what records affected versions: ``affected=…``, ``Affected(…)``."""
    if "ffected" not in text:
        return text
    data = text.encode()
    starts = [0, *itertools.accumulate(map(len, data.splitlines(keepends=True)))]
    nodes = [_recording(node) for node in ast.walk(ast.parse(text))]
    spans = [
        (starts[n.lineno - 1] + n.col_offset, starts[(n.end_lineno or 0) - 1] + (n.end_col_offset or 0))
        for n in nodes
        if n is not None
    ]
    outer = [one for one in spans if not any(a <= one[0] and one[1] <= b and (a, b) != one for a, b in spans)]
    for first, last in sorted(set(outer), reverse=True):
        data = data[:first] + data[last:]
    return data.decode()


def _recording(node: ast.AST) -> ast.expr | ast.stmt | None:
    """Return what of a node records affected versions: a keyword's value, a window, a name that is given to windows."""
    if isinstance(node, ast.keyword) and node.arg == "affected":
        return node.value
    if is_record(node):
        return node
    return node if isinstance(node, ast.Call) and _is_window(node) else None


def is_record(node: ast.AST) -> TypeGuard[ast.Assign]:
    """Return whether a statement does no more than name windows."""
    return isinstance(node, ast.Assign) and _is_window(node.value)


def _is_window(value: ast.expr) -> bool:
    if isinstance(value, ast.Tuple) and value.elts:
        return all(map(_is_window, value.elts))
    return isinstance(value, ast.Call) and isinstance(value.func, ast.Name) and value.func.id == "Affected"


def last_edited(module: str) -> tuple[str, str]:
    """Return which file of a case's own source was edited last, and when, in UTC."""
    path = max(own(module), key=lambda path: (ROOT / path).stat().st_mtime)
    return path, time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime((ROOT / path).stat().st_mtime))
