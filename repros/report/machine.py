"""A machine in words, as every page says it. Pure: from what a record kept of it."""

from __future__ import annotations

import calendar
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any

from packaging.version import InvalidVersion, Version

from repros.run.results import Record
from repros.verdict import show

#: How the moment is written at which a record or a try was kept, in UTC.
DATE = "%Y-%m-%dT%H:%M:%SZ"


def described(machine: Mapping[str, Any]) -> str:
    """Return processor, cores, memory, system, C library, Python and cards in one line."""
    memory = show(float(machine.get("memory_bytes", 0)), "bytes")
    gpus = ", ".join(machine.get("gpus") or []) or "no GPU"
    return (
        f"{machine.get('cpu_model')}, {machine.get('cores')} cores, {memory}, {machine.get('system')}, "
        f"{machine.get('libc')}, Python {machine.get('python')}, {gpus}"
    )


def machines(records: Sequence[Record], days: bool = True) -> list[str]:
    """Return each machine of the records in a line, with the torch that was tried there and, if asked, when."""
    tried: dict[str, list[Record]] = {}
    for record in records:
        if record.machine:
            tried.setdefault(described(record.machine), []).append(record)
    return [
        f"{machine}, torch {torch(found)}" + (f", {when(found)}" if days else "") for machine, found in tried.items()
    ]


def torch(records: Sequence[Record]) -> str:
    """Return the releases of torch of the records, the oldest first; a host's own with its build."""
    found = {
        record.environment["packages"]["torch"]: str(record.environment.get("build", ""))
        for record in records
        if "torch" in record.environment.get("packages", {})
    }
    host = re.compile(r"host \((.*)\)")
    ordered = sorted(found.items(), key=lambda item: rank(item[0]))
    return ", ".join(match[1] if (match := host.fullmatch(build)) else release for release, build in ordered)


def rank(version: str) -> Version:
    """Return what a version sorts by; what is none sorts last."""
    try:
        return Version(version)
    except InvalidVersion:
        return Version("999999")


def moment(date: str) -> int:
    """Return the second, since 1970, that a record's or a try's date names; ValueError for what is no date."""
    return calendar.timegm(time.strptime(date, DATE))


def when(records: Sequence[Record]) -> str:
    """Return the days on which records were made."""
    days = sorted({record.date[:10] for record in records})
    return days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"
