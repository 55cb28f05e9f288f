"""A machine in words, as every page says it. Pure: from what a record kept of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from repros.results import Record
from repros.verdict import show


def described(machine: Mapping[str, Any]) -> str:
    """Return processor, cores, memory, system, C library, Python and cards in one line."""
    memory = show(float(machine.get("memory_bytes", 0)), "bytes")
    gpus = ", ".join(machine.get("gpus") or []) or "no GPU"
    return (
        f"{machine.get('cpu_model')}, {machine.get('cores')} cores, {memory}, {machine.get('system')}, "
        f"{machine.get('libc')}, Python {machine.get('python')}, {gpus}"
    )


def machines(records: Sequence[Record]) -> list[str]:
    """Return each machine of the records in a line."""
    return list(dict.fromkeys(described(record.machine) for record in records if record.machine))
