"""Lists of texts that hold something private and of texts that only look so; `rows` reads one."""

from __future__ import annotations

import re
from pathlib import Path

SIGNS = {"n": "\n", "t": "\t", "e": "\x1b", "\\": "\\"}


def rows(name: str) -> list[str]:
    """Return the texts of a list, put together: no whole token stands in a file."""
    text = (Path(__file__).parent / f"{name}.txt").read_text(encoding="utf-8")
    lines = [line.replace("¦", "") for line in text.splitlines() if line and not line.startswith("# ")]
    return [re.sub(r"\\([nte\\])", lambda m: SIGNS[m[1]], line) for line in lines]


def secrets(name: str) -> list[tuple[str, list[str]]]:
    """Return texts with the parts of each that must go."""
    return [(re.sub("[«»]", "", row), re.findall("«([^»]*)»", row)) for row in rows(name)]
