"""What a condition needs, held against packages, cards and host: met, or why not in words."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from typing import Any

from packaging.specifiers import SpecifierSet
from packaging.version import InvalidVersion, Version

from repros.case import Requires


def holds(specifier: str, version: str) -> bool:
    """Return whether a version satisfies a PEP 440 specifier; a development version counts by its number."""
    try:
        return SpecifierSet(specifier).contains(Version(version), prereleases=True)
    except InvalidVersion:
        return False


def unmet(requires: Requires, versions: Mapping[str, str], memory_bytes: int) -> str:
    """Return the first requirement that these packages or this machine do not meet, in words; empty if none."""
    for package, specifier in requires.packages.items():
        if not holds(specifier, versions.get(package, "")):
            why = f" ({requires.reason})" if requires.reason else ""
            return f"needs {package} {specifier}, the cell has {versions.get(package) or 'none'}{why}"
    if requires.compiler and not (shutil.which("g++") or shutil.which("clang++")):
        return "needs a C++ compiler (g++ or clang++) on the host: inductor builds CPU kernels with it"
    if requires.memory_bytes > memory_bytes:
        return f"needs {requires.memory_bytes >> 20} MiB of memory, this machine has {memory_bytes >> 20} MiB"
    return ""


def unmet_cards(requires: Requires, free_bytes: Sequence[int]) -> str:
    """Return what the cards, with these bytes free on each, lack for a condition; empty if they will do."""
    if len(free_bytes) < requires.cards:
        return f"needs {requires.cards} of the cards that `nvidia-smi` lists, here {len(free_bytes)}"
    enough = [free for free in free_bytes if free >= requires.card_bytes]
    if len(enough) < requires.cards and requires.cards > 1:
        least = requires.card_bytes >> 20
        return f"needs {least} MiB free on {requires.cards} cards, here {len(enough)} of {len(free_bytes)} have that"
    if len(enough) < requires.cards:
        largest = max(free_bytes) >> 20
        return f"needs {requires.card_bytes >> 20} MiB free on a card, the best of this machine has {largest} MiB"
    return ""


def memory_of(machine: Mapping[str, Any]) -> int:
    """Return the bytes of memory of a machine, as its facts say it; no limit where they do not."""
    return int(machine.get("memory_bytes", 1 << 62))
