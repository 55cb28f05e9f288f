"""Where built things are kept between runs, and how two processes keep from building one twice.

Standard library alone: it is imported in the cells' interpreters too.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from repros.errors import UserError


def cache_root(environ: Mapping[str, str] = os.environ) -> Path:
    """Return ``$REPROS_CACHE``, or ``repros`` in ``$XDG_CACHE_HOME`` or in ``~/.cache``.

    A relative ``$XDG_CACHE_HOME`` is passed over, as the XDG base directory specification asks.
    """
    if own := environ.get("REPROS_CACHE"):
        try:
            return Path(own).expanduser().absolute()
        except RuntimeError as error:
            raise UserError(f"REPROS_CACHE: `{own}`: {error}", "name a folder by its path") from None
    xdg = Path(environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    return (xdg if xdg.is_absolute() else Path("~/.cache").expanduser()) / "repros"


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on the file; the kernel gives it back however the process ends."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:  # by hand: a cell's interpreter has no `filelock`
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
