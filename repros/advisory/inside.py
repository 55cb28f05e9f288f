"""Which of some packages are installed where this runs: printed as JSON by whatever Python it is given to.

Standard library alone, and any Python from 3.8 on: another interpreter runs this file's text.
"""

from __future__ import annotations

import json
import platform
import sys
from importlib import metadata
from typing import Iterable  # noqa: UP035 - an older Python reads this too


def installed(names: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Return name -> version and the folder of its metadata, of those that are installed."""
    found: dict[str, tuple[str, str]] = {}
    for name in names:
        try:
            one = metadata.distribution(name)
            found[name] = (one.version, str(getattr(one, "_path", "")))
        except metadata.PackageNotFoundError:
            pass
    return found


if __name__ == "__main__":
    print(json.dumps({"packages": installed(sys.argv[1:]), "python": platform.python_version()}))
