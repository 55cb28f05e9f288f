"""What a condition needs, held against packages, cards and host: met, or why not in words."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

from packaging.specifiers import SpecifierSet
from packaging.version import InvalidVersion, Version

from repros.case import Needs

#: What differs from cell to cell in the sentence of `unmet`.
_HAS = ", the cell has "


def holds(specifier: str, version: str) -> bool:
    """Return whether a version satisfies a PEP 440 specifier; a development version counts by its number."""
    try:
        return SpecifierSet(specifier).contains(Version(version), prereleases=True)
    except InvalidVersion:
        return False


@lru_cache
def cpu_features() -> frozenset[str]:
    """Return the features of this machine's CPU as Linux names them; none where it does not say."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return frozenset()
    lines = (line.partition(":") for line in text.splitlines())
    return frozenset(
        word for name, _, value in lines if name.strip() in ("flags", "Features") for word in value.split()
    )


def unmet(needs: Needs, versions: Mapping[str, str]) -> str:
    """Return the first requirement that these packages or this machine do not meet, in words; empty if none."""
    for package, specifier in needs.packages.items():
        if not holds(specifier, versions.get(package, "")):
            why = f" ({needs.reason})" if needs.reason else ""
            return f"needs {package} {specifier}{_HAS}{versions.get(package) or 'none'}{why}"
    if lacking := [feature for feature in needs.cpu if feature not in cpu_features()]:
        why = f" ({needs.reason})" if needs.reason else ""
        return f"needs a CPU with {', '.join(lacking)}{why}"
    if needs.compiler and not (shutil.which("g++") or shutil.which("clang++")):
        return "needs a C++ compiler (g++ or clang++) on the host: inductor builds CPU kernels with it"
    return ""


def demand(told: str) -> str:
    """Return what `unmet` said without what the one cell has, so that it is the same of every cell."""
    return re.sub(rf"{_HAS}\S+", "", told)


def unmet_cards(needs: Needs, free_bytes: Sequence[int]) -> str:
    """Return what the cards, with these bytes free on each, lack for a condition; empty if they will do."""
    if len(free_bytes) < needs.cards:
        return f"needs {needs.cards} of the cards that `nvidia-smi` lists, here {len(free_bytes)}"
    enough = [free for free in free_bytes if free >= needs.card_bytes]
    if len(enough) < needs.cards and needs.cards > 1:
        least = needs.card_bytes >> 20
        return f"needs {least} MiB free on {needs.cards} cards, here {len(enough)} of {len(free_bytes)} have that"
    if len(enough) < needs.cards:
        largest = max(free_bytes) >> 20
        return f"needs {needs.card_bytes >> 20} MiB free on a card, the best of this machine has {largest} MiB"
    return ""
