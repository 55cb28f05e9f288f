"""Which releases an index has that are newer than the newest in the evidence."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from packaging.version import InvalidVersion, Version

from repros.bisect.releases import Release
from repros.cells.matrix import Cell, overridden
from repros.errors import UserError
from repros.run.record import Record
from repros.verdict import SETTLED

#: Packages whose releases are looked for.
WATCHED = ("torch", "transformers", "bitsandbytes", "accelerate", "peft")


@dataclass(frozen=True)
class Newer:
    """A package that has newer releases than the evidence.

    ``known`` is the newest that a trial ran with; ``releases`` are what came after it and can be tried, oldest first;
    ``left_out`` are what cannot, each with the reason.
    """

    package: str
    known: Version
    releases: tuple[Release, ...]
    left_out: tuple[tuple[Release, str], ...] = ()

    @property
    def newest(self) -> str:
        """Return the version that is tried."""
        return str(self.releases[-1])

    def cell(self, base: Cell) -> Cell:
        """Return a cell with just this package newer; what must follow it follows."""
        return overridden(base, [f"{self.package}={self.newest}"])


def newest(records: Iterable[Record], package: str) -> Version:
    """Return the newest release of a package that a trial came to a verdict with; UserError where there is none."""
    found = []
    for record in records:
        if record.verdict in SETTLED:
            try:
                found.append(Version(record.versions.get(package, "")))
            except InvalidVersion:
                continue
    if not found:
        raise UserError(f"{package}: no trial in the evidence came to a verdict with it",
                        "name evidence with `--evidence DIR`, such as reports/cpu")  # fmt: skip
    return max(found)


def newer(
    packages: Sequence[str],
    records: Sequence[Record],
    listed: Callable[[str], Sequence[Release]],
    *,
    pre: bool = False,
) -> list[Newer]:
    """Return the packages that have newer releases than the evidence, those alone that cannot be tried included."""
    found = []
    for package in packages:
        known = newest(records, package)
        after = [release for release in listed(package) if release.version > known]
        refused = {release: _refused(release, pre) for release in after}
        able = tuple(release for release in after if not refused[release])
        out = tuple((release, why) for release, why in refused.items() if why)
        if able or out:
            found.append(Newer(package, known, able, out))
    return found


def _refused(release: Release, pre: bool) -> str:
    """Return why a release is not tried; empty if it is."""
    if release.yanked:
        return "yanked"
    if release.pre and not pre:
        return "a pre-release: `--pre` tries it"
    return release.problem
