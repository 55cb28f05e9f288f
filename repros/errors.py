"""The two-line error that a user meets: what was observed and where, then what to do."""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Iterable
from typing import Literal

#: Characters that are printed of one text at most, where a text is printed among others.
MOST = 2000
#: Names that are offered in place of one that there is not.
_NEAREST = 3
#: What Unicode calls printable and no reader sees.
_UNSEEN = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)
#: Marks that one letter has at most, in print.
_MOST_MARKS = 3
#: What a CI system takes for an order where it stands in a log (GitHub Actions, Azure Pipelines, TeamCity).
_ORDER = re.compile(
    r":(?=:(?:add-(?:mask|matcher|path)|debug|echo|end-?group|error|group|internal-set-repo-path|notice|remove-matcher|"
    r"save-state|set-(?:env|output)|stop-commands|warning)\b)|##(?=\w*\[)",
    re.IGNORECASE,
)


class UserError(Exception):
    """Something the user can fix: bad input, or a machine that lacks what was asked for.

    ``str()`` gives the two lines of the house style; the command line prints them as they are and
    exits with 2.
    """

    def __init__(self, what: str, hint: str) -> None:
        super().__init__(what, hint)
        self.what = printable(what)
        self.hint = printable(hint)

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


def shortened(text: str, most: int = 80) -> str:
    """Return what of a text fits into a line that quotes it."""
    return text if len(text) <= most else f"{text[:most]}…"


def nearest(wrong: str, known: Iterable[str]) -> str:
    """Return the hint for a name that there is not: the nearest that there are, then the first where few are near."""
    names = {name.casefold(): name for name in known}
    near = difflib.get_close_matches(wrong.casefold(), names, n=_NEAREST, cutoff=0.1)
    return f"one of: {', '.join([names[name] for name in dict.fromkeys([*near, *names])][:_NEAREST])}"


def printable(text: str, keep: str = "", most: int | None = None) -> str:
    r"""Return a text in which everything can be seen, and nothing moves a cursor, hides, reorders or orders.

    Controls, bidirectional and zero-width characters, surrogates and the like become ``\x1b`` or ``\u202e``; those in
    ``keep`` stay. Of a text beyond ``most`` characters the middle is left out, and its length is told.
    """
    if most is not None and len(text) > most:
        return _ends(_seen(text[:most], keep), _seen(text[-most:], keep), len(text) - most, most)
    shown = _seen(text, keep)
    return shown if most is None or len(shown) <= most else _ends(shown, shown, len(shown) - most, most)


def _ends(head: str, tail: str, left: int, most: int) -> str:
    return f"{head[: most - most // 4]} … ({left:,} characters left out) … {tail[-(most // 4) :]}"


def _seen(text: str, keep: str) -> str:
    if not text.isprintable():
        text = "".join(c if c.isprintable() or c in keep else _escaped(c) for c in text)
    if not text.isascii():
        text = _few_marks(_UNSEEN.sub(lambda found: _escaped(found[0]), text))
    return _ORDER.sub(lambda found: "".join(f"\\x{ord(c):x}" for c in found[0]), text)


def _few_marks(text: str) -> str:
    """Escape the marks that pile up on one letter."""
    found, marks = [], 0
    for c in text:
        marks = marks + 1 if unicodedata.category(c).startswith("M") else 0
        found.append(c if marks <= _MOST_MARKS else _escaped(c))
    return "".join(found)


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode()
