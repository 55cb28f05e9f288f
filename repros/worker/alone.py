"""An interpreter without the packages under test: what a control may be tried in once, for several cells.

That a control does not need them is not believed but enforced here: they cannot be imported, nor their versions be
read, and what asked for one all the same is noted. Standard library alone: it runs in a cell's interpreter.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from importlib import metadata
from importlib.abc import MetaPathFinder
from typing import Any

#: Names the packages that cannot be imported, separated by commas.
VARIABLE = "REPROS_WITHOUT"
#: What was asked for and refused in this process.
ASKED: list[str] = []


class Refusing(MetaPathFinder):
    """Finds nothing, and says so at once for some packages."""

    def __init__(self, packages: Sequence[str]) -> None:
        self._packages = frozenset(packages)

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> None:
        """Refuse these packages; leave all others to the finders after this."""
        package = fullname.partition(".")[0]
        if package in self._packages:
            ASKED.append(package)
            raise ModuleNotFoundError(f"a control is tried without {package}", name=fullname)


def refuse() -> None:
    """Hide the packages that the environment variable names, if any; what is imported already stays."""
    packages = [name for name in os.environ.get(VARIABLE, "").split(",") if name]
    if not packages:
        return
    sys.meta_path.insert(0, Refusing(packages))
    found = metadata.Distribution.from_name

    def from_name(name: str) -> metadata.Distribution:
        package = re.sub(r"[-_.]+", "_", name).lower()
        if package in packages:
            ASKED.append(package)
            raise metadata.PackageNotFoundError(name)
        return found(name)

    metadata.Distribution.from_name = staticmethod(from_name)  # type: ignore[method-assign]
