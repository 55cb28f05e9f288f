r"""Text of unknown origin at the border of an output: a reader sees what is there, and it does nothing.

Reasons, exceptions, versions, names of machines and cells come from elsewhere. `repros.errors.printable` makes visible
what would hide, reorder or order (``\x1b``); here is what each format takes for its own. Text of ours in a format's own
syntax is `Safe` and goes through unchanged.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache

from markdown_it import MarkdownIt

from repros.errors import MOST, printable

#: A run of backticks beyond this is no border of a code span to every renderer.
MOST_BACKTICKS = 8
#: Characters of a text on a picture.
MOST_DRAWN = 160

#: What CommonMark or GitHub takes for more than text, alone or with what may stand before or after it.
_ACTIVE = re.compile(
    r"[\\`*~$|]|(?<!\w)_|_(?!\w)|<(?=[a-z/!?]|$)|\](?=[(\[:])|\[\^|^\[[ x]\]|^[\s:=-]+$"  # CommonMark, tables, math
    r"|@(?=[a-z0-9])|#\d|\bgh-\d|\bwww\.|\b(?:https?|ftp|mailto|xmpp):"  # mentions, references, links
    r"|:(?=[\w+-]*[a-z+])[\w+-]+:|:(?:-1|100|1234):",  # emoji
    re.IGNORECASE,
)
# Without `text_join` an entity and an escaped character stay apart from text.
_PARSER = MarkdownIt("commonmark").enable(["table", "strikethrough"]).disable("text_join")


class Safe(str):
    """Markdown of our own making."""

    __slots__ = ()


def markdown(text: str) -> Safe:
    """Return Markdown that shows a text in a line: as it is where nothing in it is active, else as code."""
    return text if isinstance(text, Safe) else _markdown(text)


@lru_cache(maxsize=1 << 15)
def _markdown(text: str) -> Safe:
    shown = printable(text, most=MOST)
    return Safe(shown) if _is_plain(shown) else _span(shown)


def _is_plain(text: str) -> bool:
    tokens = _PARSER.parse(text)
    if [token.type for token in tokens] != ["paragraph_open", "inline", "paragraph_close"]:
        return not text
    return all(
        (part.type == "code_inline" and len(part.markup) <= MOST_BACKTICKS)
        or (part.type == "text" and not _ACTIVE.search(part.content))
        for part in tokens[1].children or ()
    )


def code(text: str) -> Safe:
    """Return a code span, in which Markdown and GitHub leave every character alone."""
    return text if isinstance(text, Safe) else _span(printable(text, most=MOST))


def _span(text: str) -> Safe:
    shown = _short_runs(text)
    fence = "`" * (_longest_run(shown) + 1)
    pad = " " if shown.startswith("`") or shown.endswith("`") or shown[:1] == shown[-1:] == " " else ""
    return Safe(f"{fence}{pad}{shown}{pad}{fence}" if shown else "")


def fence(text: str) -> Safe:
    """Return a block of code of several lines, whatever fences are in them."""
    shown = _short_runs(printable(text, keep="\n\t", most=4 * MOST))
    border = "`" * max(3, _longest_run(shown) + 1)
    return Safe(f"{border}\n{shown}\n{border}")


def python(text: str) -> Safe:
    """Return a block of a script of ours, to the letter."""
    border = "`" * max(3, _longest_run(text) + 1)
    return Safe(f"{border}python\n{text.rstrip()}\n{border}")


def _short_runs(text: str) -> str:
    return re.sub(f"`{{{MOST_BACKTICKS + 1},}}", lambda run: r"\x60" * len(run[0]), text)


def _longest_run(text: str) -> int:
    return max(map(len, re.findall("`+", text)), default=0)


def bold(text: str) -> Safe:
    """Return a text in bold."""
    return Safe(f"**{markdown(text)}**" if text else "")


def cell(text: str) -> Safe:
    """Return what shows a text inside one cell of a table."""
    if text == "-":  # a list's item anywhere else
        return Safe(text)
    # Renderers differ in what a backslash before an escaped bar is.
    return Safe(re.sub(r"(\\*)\|", lambda bar: rf"{bar[1]}\x7c" if bar[1] else r"\|", markdown(text)))


def row(*texts: str) -> str:
    """Return a row of a table."""
    return f"| {' | '.join(map(cell, texts))} |"


def table(names: Sequence[str], rows: Iterable[Sequence[str]]) -> Safe:
    """Return a table."""
    return Safe("\n".join([*head(*names), *(row(*texts) for texts in rows)]))


def head(*texts: str) -> list[str]:
    """Return a table's head and the line below it."""
    return [row(*texts), "|" + "---|" * len(texts)]


def cut(text: str, most: int, says: str) -> str:
    """Return at most so many characters of Markdown in whole lines, an open block of code closed, and what is said."""
    lines: list[str] = []
    border, left = "", most - len(says) - 2
    for one in text.split("\n"):
        left -= len(one) + 1
        opens = re.match("`{3,}", one)
        if left < len(border) + 1 + (len(opens[0]) + 1 if opens and not border else 0):
            break
        lines.append(one)
        if opens:
            border = "" if border == one else border or opens[0]
    return "\n".join([*lines, *([border] if border else []), "", says])


def line(text: str) -> str:
    """Return a text for one line of a terminal."""
    return printable(text, most=MOST)


def visible(text: str) -> str:
    """Return a text of several lines in which everything is seen; for what escapes its own syntax itself."""
    return printable(text, keep="\n\t")


def drawn(text: str, most: int = MOST_DRAWN) -> str:
    """Return a text for a picture, which has room for so much of it."""
    shown = printable(text, most=4 * most)
    return shown if len(shown) <= most else f"{shown[: most - 1]}…"
