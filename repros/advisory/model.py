"""An advisory as it is kept: one JSON file a report, in OSV form (https://ossf.github.io/osv-schema/).

OSV says of a package which of its releases are affected. What more is known, and what `decide` answers from, stands
in ``database_specific``: each mechanism of the report, with each condition under which it was tried.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import msgspec

from repros import ROOT
from repros.errors import UserError

#: The version of OSV that is written.
OSV = "1.7.5"
#: ``x_`` is OSV's prefix of a database of one's own.
PREFIX = "x_repros-"


def folder() -> Path:
    """Return where the advisories lie."""
    return ROOT / "reports" / "advisories"


class Needs(msgspec.Struct, omit_defaults=True):
    """What a condition needs beside its packages; where it is missing, the condition cannot be met."""

    packages: dict[str, str] = {}
    """Package -> PEP 440 specifier, of packages that a window of the condition names; others were the trial's alone."""
    compiler: bool = False
    cpu: list[str] = []
    cards: int = 1
    card_bytes: int = 0
    reason: str = ""


class Condition(msgspec.Struct, omit_defaults=True):
    """One way in which a mechanism was tried; control conditions are left out."""

    name: str
    device: Literal["cpu", "cuda"]
    own: bool
    """Whether it speaks to what the report claims itself, and not to what was found beside it."""
    windows: list[dict[str, str]]
    """In which releases it is affected: package -> specifier which must all hold, in any of the windows."""
    tried: dict[str, list[str]]
    """Package that has a part -> its releases in trials and probes that came to a verdict, the oldest first."""
    reproduced: int
    absent: int
    """Trials and probes that came to the one and to the other verdict."""
    needs: Needs = msgspec.field(default_factory=Needs)
    witness: str = ""
    """Script, from the folder that holds the package `repros`, whose vote must be this condition's verdict."""


class Remedy(msgspec.Struct):
    """What a user can do today, with its standing and the trials that show it."""

    text: str
    standing: str
    trials: str


class Mechanism(msgspec.Struct, omit_defaults=True):
    """One mechanism of a report: a case."""

    case: str
    severity: Literal["wrong numbers", "memory", "raises"]
    trigger: str
    packages: list[str]
    """Those that have a part in it: its arms import them, or a window names them."""
    conditions: list[Condition]
    upgrade: dict[str, str] = {}
    """Package -> release that was tried, from which on what the report claims hits nobody; empty where none was."""
    upgrade_beside: dict[str, str] = {}
    """The same of what was found beside the report."""
    remedies: list[Remedy] = []
    useless: list[Remedy] = []
    """What is recommended and does nothing."""

    @property
    def own(self) -> bool:
        """Return whether the report claims it itself; else it was found beside the report."""
        return any(condition.own for condition in self.conditions)


class Line(msgspec.Struct):
    """A line of a report's row, as `repros.report.rows` has it."""

    case: str
    hit: str
    bad: str
    good: str
    upgrade: dict[str, str]
    newest: str


class Specific(msgspec.Struct):
    """What OSV has no field for."""

    report: str
    url: str
    kind: str
    status: str
    story: str
    """From the project's folder."""
    claims: int
    refuted: int
    lines: list[Line]
    """The standing over all committed evidence, a line a mechanism."""
    mechanisms: list[Mechanism]


class Reference(msgspec.Struct):
    """A link; OSV lists the types."""

    type: str
    url: str


class Package(msgspec.Struct):
    """A package of an ecosystem."""

    ecosystem: str
    name: str


class Range(msgspec.Struct):
    """One run of affected releases: ``introduced``, then ``fixed`` or ``last_affected``."""

    type: str
    events: list[dict[str, str]]


class Affected(msgspec.Struct):
    """The affected releases of a package; ``versions`` are those that were tried and have it."""

    package: Package
    ranges: list[Range]
    versions: list[str]


class Advisory(msgspec.Struct):
    """What is known of one report."""

    schema_version: str
    id: str
    modified: str
    published: str
    summary: str
    details: str
    aliases: list[str]
    related: list[str]
    affected: list[Affected]
    references: list[Reference]
    database_specific: Specific

    @property
    def about(self) -> Specific:
        """Return what OSV has no field for."""
        return self.database_specific


def file_name(report: str) -> str:
    """Return the file of a report's advisory, such as ``bitsandbytes-1995.json``."""
    return report.replace("#", "-") + ".json"


def text(advisory: Advisory) -> str:
    """Return the file of an advisory."""
    return msgspec.json.format(msgspec.json.encode(advisory), indent=1).decode() + "\n"


def load(where: Path | None = None) -> list[Advisory]:
    """Return all advisories, by package and number; UserError where there are none, or a file is no advisory."""
    where = where or folder()
    found = [_read(path) for path in where.glob("*.json")]
    if not found:
        raise UserError(f"{where}: no advisory", "make them: python -m repros advisories")
    return sorted(found, key=lambda one: _order(one.about.report))


def _read(path: Path) -> Advisory:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Advisory)
    except (OSError, msgspec.DecodeError) as error:
        says: Any = getattr(error, "strerror", None) or error
        raise UserError(f"{path}: not an advisory: {says}", "make it anew: python -m repros advisories") from error


def _order(report: str) -> tuple[str, int]:
    package, _, number = report.partition("#")
    return package, int(number)
