"""What a line of a results file may be: the one model that every reader stands behind.

A line that does not fit is refused with its place, such as ``arms[0].state``. Fields that are not named here are kept
as they are: a later version may write more. What a line's parts say of each other is `repros.run.consistency`'s.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired, TypedDict, TypeVar

import msgspec
import orjson

from repros.case import AXES
from repros.cells.overrides import is_version
from repros.errors import UserError
from repros.run.folders import shown
from repros.verdict import SCHEMA, ArmReading, Effect, Outcome, Verdict

T = TypeVar("T")
Number = int | float
#: As strict JSON holds it: what is not finite is a word.
Figure = int | float | Literal["inf", "-inf", "nan"]


class Raised(TypedDict):
    """An exception, or the signal that ended an arm."""

    types: Annotated[list[str], msgspec.Meta(min_length=1)]
    text: str
    phase: str
    frames: list[str]


class Tensors(TypedDict):
    """A row of a list of tensors, or of who asked for memory on a card."""

    bytes: int
    count: int
    made_by: str
    shape: NotRequired[Any]
    dtype: NotRequired[str]
    file_backed: NotRequired[Any]


class CardPhase(TypedDict):
    """What the allocator of a card said at the end of a phase."""

    phase: str
    at: Number
    allocated_bytes: int
    reserved_bytes: int
    peak_allocated_bytes: int
    driver_bytes: NotRequired[int]


class CardKept(TypedDict):
    """The card that an arm had."""

    name: str
    total_bytes: int
    cuda: NotRequired[str | None]
    count: NotRequired[int]


class Evidence(TypedDict):
    """The parts of an arm's evidence that a page draws; a ``*timeline`` is looked at by its name's ending."""

    phases: NotRequired[list[str]]
    marks: NotRequired[list[tuple[Number, str]]]
    held: NotRequired[list[Tensors]]
    saved: NotRequired[list[Tensors]]
    alive_at_peak: NotRequired[list[Tensors]]
    alive_at_end: NotRequired[list[Tensors]]
    errors: NotRequired[dict[str, Figure]]
    timeline_columns: NotRequired[list[str]]
    card: NotRequired[CardKept]
    cuda_phases: NotRequired[list[CardPhase]]
    cuda_ooms: NotRequired[int]
    driver_tells_of: NotRequired[str]
    tried_in: NotRequired[str]
    tried_with: NotRequired[list[str]]
    asked_for: NotRequired[list[str]]
    tried_as: NotRequired[str]
    reads: NotRequired[list[str]]


class Arm(TypedDict):
    """One observation."""

    arm: str
    state: Literal["done", "raised", "crashed", "disturbed", "timeout", "unsupported"]
    figures: dict[str, Figure]
    exception: NotRequired[Raised | None]
    evidence: NotRequired[Evidence]
    reason: NotRequired[str]
    seconds: NotRequired[dict[str, Number]]
    started: NotRequired[Number]
    ended: NotRequired[Number]
    log: NotRequired[str]


class BudgetKept(TypedDict):
    """A budget as it was when the trial was tried."""

    figure: str
    second: str | None
    limit: Figure
    unit: Literal["bytes", "parameters", "ratio", "count"]
    second_slack: NotRequired[int]


class Proposed(TypedDict):
    """What the proposed fix does."""

    effect: Effect
    reason: str


class RemedyKept(TypedDict):
    """What a user can do, who recommends it, and what it does."""

    text: str
    recommended: str
    effect: Effect
    reason: str


class WitnessKept(TypedDict):
    """What a witness said."""

    file: str
    vote: Literal["good", "bad", "skip"]
    says: str
    seconds: Number
    log: str


class Packages(TypedDict):
    """The environment that a trial ran in."""

    packages: NotRequired[dict[str, str]]
    build: NotRequired[str]
    lock: NotRequired[str]
    lock_committed: NotRequired[bool]
    overrides: NotRequired[dict[str, str]]


class Machine(TypedDict):
    """The machine that a trial ran on."""

    system: NotRequired[str]
    libc: NotRequired[str]
    cpu_model: NotRequired[str]
    cores: NotRequired[int]
    memory_bytes: NotRequired[int]
    cxx: NotRequired[str]
    gpus: NotRequired[list[str]]
    cpu_flags: NotRequired[list[str]]
    python: NotRequired[str]


class TrialLine(TypedDict):
    """A finished trial."""

    case: str
    condition: str
    cell: str
    device: Literal["cpu", "cuda"]
    verdict: Verdict
    outcome: Outcome
    failed: bool
    expected: bool | None
    reason: str
    budget: BudgetKept
    arms: list[Arm]
    margins: dict[str, Figure | None]
    proposed: NotRequired[Proposed | None]
    readings: NotRequired[dict[str, ArmReading]]
    environment: NotRequired[Packages]
    machine: NotRequired[Machine]
    date: NotRequired[str]
    repeat: NotRequired[str]
    source: NotRequired[str]
    control: NotRequired[bool]
    witness: NotRequired[WitnessKept]
    remedies: NotRequired[dict[str, RemedyKept]]
    rivals: NotRequired[list[Rival]]


class Rival(TypedDict):
    """One of several results of a trial that disagree, and the run that it is from."""

    run: str
    record: TrialLine


class PlanLine(TypedDict):
    """What a call of a run set out to try: a tier, and which part of it."""

    tier: str
    shard: str
    trials: int


class TimeLine(TypedDict):
    """A run's note of where its time went; `total` is among the seconds."""

    seconds: dict[str, Number]


class ProbeLine(TypedDict):
    """A probe of a bisection."""

    case: str
    condition: str
    package: str
    revision: str
    identity: str
    fresh: bool
    verdict: Verdict
    votes: list[str]
    reason: str
    figure: NotRequired[str]
    unit: NotRequired[str]
    limit: NotRequired[Figure | None]
    values: NotRequired[dict[str, Figure | None]]
    margins: NotRequired[dict[str, Figure | None]]
    seconds: NotRequired[dict[str, Number]]
    packages: NotRequired[dict[str, str]]
    build: NotRequired[str]
    content: NotRequired[str]
    native: NotRequired[str]
    machine: NotRequired[Machine]
    date: NotRequired[str]


class Property(TypedDict):
    """What came of one property."""

    outcome: NotRequired[str]
    examples: NotRequired[int]
    counted: NotRequired[dict[str, int]]


class Proof(TypedDict):
    """What `nox -s prove` found in a cell."""

    date: str
    packages: dict[str, str]
    properties: dict[str, Property]


class Mutant(TypedDict):
    """A bug that was put in, and whether it was noticed."""

    file: str
    bug: str
    caught: bool
    reason: NotRequired[str]


class Mutants(TypedDict):
    """What `nox -s mutants` found."""

    date: str
    mutants: list[Mutant]


class Attack(TypedDict):
    """What `nox -s attack` tried."""

    date: str
    tests: dict[str, int]
    inputs: int
    doors: dict[str, dict[str, int]]
    counts: dict[str, dict[str, int]]


class Difference(TypedDict):
    """A test that ends otherwise over the reference than over the installed kernels."""

    test: str
    installed: str
    reference: str


class Peer(TypedDict):
    """What `nox -s peer` found: bitsandbytes' own tests over its kernels and over the reference."""

    date: str
    release: str
    commit: str
    cell: str
    device: str
    packages: dict[str, str]
    files: list[str]
    left_out: str
    seconds: Number
    outcomes: dict[str, int]
    differ: list[Difference]
    calls: dict[str, int]
    spoiled: dict[str, int]


class LifeOfALayer(TypedDict):
    """How a layer is made, and its steps with their parameters."""

    spec: dict[str, Any]
    steps: list[tuple[str, dict[str, Any]]]


class DepartureKept(TypedDict):
    """What a hunt found of one life."""

    life: LifeOfALayer
    what: str
    at: int
    detail: str
    number: int
    lives: int
    seconds: Number
    confirmed: bool
    cells: dict[str, str]
    slug: str


class Hunted(TypedDict):
    """What a hunt found. ``pins``: cell -> package -> version; ``met``: known departure -> lives."""

    cell: str
    pins: dict[str, dict[str, str]]
    date: str
    seed: int
    hidden: bool
    lives: int
    seconds: Number
    met: dict[str, int]
    cores: int
    cpu_model: str
    command: str
    findings: list[DepartureKept]


class Benchmarks(TypedDict):
    """What is kept of `nox -s bench`."""

    date: str
    cpu: str
    cores: int
    python: str
    figures: dict[str, dict[str, Number | str]]


KINDS: Mapping[str, Any] = {"trial": TrialLine, "time": TimeLine, "plan": PlanLine, "probe": ProbeLine}


class MisfitError(Exception):
    """A line that does not fit its model; its text says where and why."""


def fit(line: object, kind: Any) -> None:
    """Raise MisfitError where a value is not of this kind."""
    converted(line, kind)


def converted(line: object, kind: type[T]) -> T:
    """Return a value as one of this kind, such as a dataclass; MisfitError where it is none."""
    try:
        return msgspec.convert(line, kind)
    except msgspec.ValidationError as error:
        raise MisfitError(_in_words(str(error))) from None


def version_of(line: object) -> int:
    """Return a line's schema version; MisfitError where it has none."""
    if not isinstance(line, dict):
        raise MisfitError("not an object")
    version = line.get("schema")
    if isinstance(version, bool) or not isinstance(version, int):
        raise MisfitError(f"`schema` is {_shown(version)}, not a version such as {SCHEMA}")
    return version


def check(line: Mapping[str, Any]) -> None:
    """Raise MisfitError unless a line of this schema version is one that this version reads."""
    kind = line.get("kind")
    if not isinstance(kind, str) or kind not in KINDS:
        raise MisfitError(f"`kind` is {_shown(kind)}, not one of {', '.join(KINDS)}")
    fit(line, KINDS[kind])
    if kind == "time" and "total" not in line["seconds"]:
        raise MisfitError("`seconds`: no `total`")
    if kind != "trial":
        return
    for name, version in line.get("environment", {}).get("packages", {}).items():
        if name in AXES and version and not _is_release(version):
            raise MisfitError(f"`environment.packages.{name}`: {_shown(version)} is not a release")
    for number, arm in enumerate(line["arms"]):
        for name, value in arm.get("evidence", {}).items():
            if name.endswith("timeline"):
                _check_timeline(f"arms[{number}].evidence.{name}", value)


def document(path: Path, kind: Any, hint: str) -> dict[str, Any]:
    """Return a file that holds one JSON value of a kind; UserError where it does not."""
    try:
        found: dict[str, Any] = orjson.loads(path.read_bytes())
        fit(found, kind)
    except (OSError, ValueError, MisfitError) as error:
        says = f"not JSON: {error}" if isinstance(error, ValueError) else getattr(error, "strerror", None) or error
        raise UserError(f"{shown(path)}: {says}", hint) from error
    return found


@lru_cache
def _is_release(version: str) -> bool:
    return is_version(version)


def _check_timeline(place: str, value: object) -> None:
    """Refuse what cannot be drawn: rows of seconds and bytes, each of one length, of numbers alone."""
    try:
        rows = msgspec.convert(value, list[list[Number]])
    except msgspec.ValidationError:
        raise MisfitError(f"`{place}`: not rows of numbers") from None
    if rows and (min(map(len, rows)) < 2 or len(set(map(len, rows))) > 1):
        raise MisfitError(f"`{place}`: rows of unlike length, or of one number")


def _in_words(text: str) -> str:
    """Return msgspec's message with the place first."""
    says, _, path = text.partition(" - at `$")
    place = re.sub(r"^\.", "", path.rstrip("`"))
    return f"`{place}`: {says}" if place else says


def _shown(value: object) -> str:
    return "missing" if value is None else f"`{str(value)[:40]}`"
