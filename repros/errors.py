"""The two-line error that a user meets: what was observed and where, then what to do."""

from __future__ import annotations


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


def _one_line(text: str) -> str:
    """Escape what a terminal would not show in place, so that an error stays at two lines."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
