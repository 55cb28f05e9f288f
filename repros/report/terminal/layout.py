"""Lines for a terminal of any width, in which nothing that a reader copies is cut or broken.

A column holds names, which stay on one line, or text, which goes on below at its blanks. Where a table has no room for
that, each row becomes lines of its own.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, replace

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from repros.report.escape import line as shown
from repros.report.escape import visible

#: Characters between two columns, and at the edges of a table.
_GAP, _EDGES = 3, 2
#: Characters of a column of text, below which a row is rather told in lines.
LEAST = 24
#: Characters of a line of prose: beyond that it is hard to read.
PROSE = 100


@dataclass(frozen=True)
class Column:
    """One column: names, each on one line, or text."""

    name: str
    text: bool = False
    least: int = LEAST
    """Of a text."""
    style: str = ""


def table(
    console: Console,
    columns: Sequence[Column],
    rows: Sequence[Sequence[str]],
    styles: Sequence[str] = (),
    apart: bool = False,
) -> None:
    """Print rows as a table, or one below the other where it would be too wide; columns without content are left out.

    With ``apart`` an empty line lies between two rows of a table.
    """
    full = [[shown(cell) for cell in (*row, *[""] * (len(columns) - len(row)))] for row in rows]
    kept = [at for at in range(len(columns)) if any(row[at] for row in full)]
    columns, full = (
        [replace(columns[at], name=shown(columns[at].name)) for at in kept],
        [[row[at] for at in kept] for row in full],
    )
    styles = styles or [""] * len(full)
    widths = _widths(console.width, columns, full)
    if widths is None:
        for row, style in zip(full, styles, strict=True):
            _lines(console, columns, row, style)
        return
    made = Table(box=box.SIMPLE_HEAD, pad_edge=False, leading=int(apart))
    for column, width in zip(columns, widths, strict=True):
        made.add_column(column.name, width=width, no_wrap=not column.text, style=column.style)
    for row, style in zip(full, styles, strict=True):
        made.add_row(*row, style=style)
    console.print(made)


def paragraph(console: Console, text: str, indent: int = 0, hanging: int = 0, most: int = PROSE) -> None:
    """Print a text in lines, the first indented, the others by ``hanging`` more."""
    width = max(min(console.width, most), indent + hanging + LEAST)
    for line in wrapped(visible(text), width, " " * indent, " " * (indent + hanging)):
        console.print(line, markup=False, soft_wrap=True)


def wrapped(text: str, width: int, first: str = "", others: str = "") -> list[str]:
    """Return a text in lines that break at blanks, and code that is longer than one behind ``(``, ``{`` or ``=``."""
    room = width - len(others)
    words = [_in_two(word, room) if len(word) > room else word for word in text.split(" ")]
    return textwrap.wrap(
        " ".join(words), width, initial_indent=first, subsequent_indent=others,
        break_long_words=False, break_on_hyphens=False,
    )  # fmt: skip


def _in_two(word: str, room: int) -> str:
    ends = [found.end() for found in re.finditer(r"[({=]", word) if found.end() <= room]
    return f"{word[: ends[-1]]} {word[ends[-1] :]}" if ends else word


def prose(console: Console, text: str) -> None:
    """Print a docstring: its paragraphs and the items of its lists in lines of this terminal."""
    for at, part in enumerate(text.split("\n\n")):
        if at:
            console.print()
        for item in re.split(r"\n(?=[-*] )", part):
            paragraph(console, " ".join(item.split()), hanging=2 if item[:2] in ("- ", "* ") else 0)


def names(console: Console, head: str, found: Sequence[str], indent: int = 0) -> None:
    """Print names behind a word, as many on a line as fit."""
    paragraph(console, f"{head}{', '.join(found)}", indent, hanging=2, most=console.width)


def _widths(room: int, columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> list[int] | None:
    """Return how wide each column is; None where they do not fit side by side."""
    cells = [[column.name, *(row[at] for row in rows)] for at, column in enumerate(columns)]
    wanted = [max(map(cell_len, several)) for several in cells]
    words = [max(cell_len(word) for cell in several for word in cell.split() or [""]) for several in cells]
    least = [
        max(word, min(column.least, whole)) if column.text else whole
        for column, word, whole in zip(columns, words, wanted, strict=True)
    ]
    left = room - _EDGES - _GAP * (len(columns) - 1) - sum(least)
    if left < 0:
        return None
    order = sorted(range(len(columns)), key=lambda at: wanted[at] - least[at])
    for count, at in enumerate(order):  # what needs little more gets that, the rest share
        more = min(wanted[at] - least[at], left // (len(order) - count))
        least[at] += more
        left -= more
    return least


def _lines(console: Console, columns: Sequence[Column], row: Sequence[str], style: str) -> None:
    """Print a row in lines: its first name, with the other names behind or below it, then each text."""
    fields = [f"{c.name} {cell}" for c, cell in zip(columns[1:], row[1:], strict=True) if cell and not c.text]
    behind = f"  {', '.join(fields)}" if fields and cell_len(f"{row[0]}  {', '.join(fields)}") <= console.width else ""
    console.print(Text.assemble((row[0], style or "bold"), behind), soft_wrap=True)
    line = ""
    for field in fields if not behind else ():
        if line and cell_len(f"  {line}, {field}") > console.width:
            console.print(f"  {line},", markup=False, soft_wrap=True)
            line = ""
        line = f"{line}, {field}" if line else field
    if line:
        console.print(f"  {line}", markup=False, soft_wrap=True)
    texts = [(column, cell) for column, cell in zip(columns[1:], row[1:], strict=True) if cell and column.text]
    for column, cell in texts:
        label = f"{column.name}: " if len(texts) > 1 else ""
        paragraph(console, f"{label}{cell}", 2, hanging=2, most=console.width)
