"""The two-line error that a user meets: what was observed and where, then what to do."""

from __future__ import annotations

from typing import Literal


class UserError(Exception):
    """Something the user can mend: bad input, or a machine that lacks what was asked for.

    ``str()`` gives the two lines of the house style; the command line prints them as they are and
    exits with 2.
    """

    def __init__(self, what: str, hint: str) -> None:
        super().__init__(what, hint)
        self.what = _one_line(what)
        self.hint = _one_line(hint)

    def __str__(self) -> str:
        return f"{self.what}\nhint: {self.hint}"


class EnvError(UserError):
    """An environment that cannot be had.

    ``kind`` is ``unsupported`` where the packages themselves do not allow it (no such version, no
    wheel for this platform, pins that contradict each other) and ``error`` where something failed
    that may go well another time (network, disk, an import that raises). ``words`` are the last
    lines of the tool that failed, without credentials.
    """

    def __init__(self, kind: Literal["unsupported", "error"], what: str, hint: str, words: str = "") -> None:
        super().__init__(what, hint)
        self.kind: Literal["unsupported", "error"] = kind
        self.words = words


def _one_line(text: str) -> str:
    """Escape what a terminal would not show in place, so that an error stays at two lines."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def shortened(text: str, most: int = 80) -> str:
    """Return what of a text fits into a line that quotes it."""
    return text if len(text) <= most else f"{text[:most]}…"
