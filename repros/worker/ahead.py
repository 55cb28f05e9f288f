"""What of this project a fork server imported ahead of its arms: cases, their helpers, the reference.

A file that is edited during a run is seen by the arms that begin after that, as if nothing had been imported ahead.
Standard library alone: it runs in a cell's interpreter.
"""

from __future__ import annotations

import contextlib
import os
import sys

#: Names the modules, separated by commas.
VARIABLE = "REPROS_AHEAD"
#: Module -> its file and when that was changed (mtime, in ns), as it was imported.
_IMPORTED: dict[str, tuple[str, int]] = {}


def note(name: str) -> None:
    """Keep of an imported module which text of its file it is."""
    file = getattr(sys.modules.get(name), "__file__", None)
    if file:
        _IMPORTED[name] = file, _changed(file)


def forget_edited() -> None:
    """Have all of them imported again where one was edited: what took names from it has the old ones."""
    if all(_changed(file) == changed for file, changed in _IMPORTED.values()):
        return
    for name in _IMPORTED:
        sys.modules.pop(name, None)
        parent, _, last = name.rpartition(".")
        with contextlib.suppress(KeyError, AttributeError):
            delattr(sys.modules[parent], last)
    _IMPORTED.clear()


def _changed(file: str) -> int:
    try:
        return os.stat(file).st_mtime_ns  # noqa: PTH116 - each arm asks for a dozen; `pathlib` takes ten times as long
    except OSError:
        return 0
