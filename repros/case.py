"""How a case is declared.

A case file holds one declaration, ``CASE``, and short functions for its arms. Nothing here or at the top of a case
file imports torch: the parent process reads declarations with the standard library alone, and so does every Python
of the matrix.

An arm is a generator. Each ``yield "name"`` ends the present phase and starts the phase of that name; what it
returns is a mapping from names to tensors, compared with the float64 tensors that ``oracle`` returned for the same
inputs before the arm ran::

    def prepare(p, checkpoint):      # p: the condition's parameters; checkpoint: a folder, or None
        import torch
        ...
        return SimpleNamespace(x=x, weight=weight)

    def oracle(i):
        return {"output": (i.x.double() @ i.weight.double().t()).detach()}

    def subject(i):
        layer = i.layer
        yield "forward"
        out = layer(i.x)
        yield "backward"
        out.sum().backward()
        return {"output": out, "grad_input": i.x.grad}

Before the first ``yield`` an arm sets up what is its own (it counts as the phase ``prepare``). Meters count what was
born after that: ``held_bytes`` is what was born since and is still alive when ``backward`` starts.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase

ARMS = ("subject", "reference", "planted", "proposed")

#: Bytes of one element, by the name torch prints for the dtype.
ITEMSIZE: Mapping[str, int] = {
    "float64": 8, "float32": 4, "float16": 2, "bfloat16": 2, "int8": 1, "uint8": 1, "int32": 4, "int64": 8,
}  # fmt: skip

Params = Mapping[str, object]


@dataclass(frozen=True)
class Reading:
    """Where the suite measures a number that a report gives.

    ``figure`` of ``arm`` under ``condition``, in cells whose packages satisfy ``versions``; the arm ``budget`` means
    the limit itself, the arm ``arithmetic`` what ``value`` returns from shapes and dtypes alone. ``per_unit`` is how
    much of the figure the report's unit is: some write GB for 2**30 bytes, others for 10**9. ``case`` names the case
    that measures it, where that is another one; ``note`` says why it may come out otherwise.
    """

    figure: str
    condition: str
    per_unit: float
    arm: str = "subject"
    versions: Mapping[str, str] = field(default_factory=dict)
    case: str = ""
    note: str = ""
    value: Callable[[], float] = float


@dataclass(frozen=True)
class Claim:
    """What the report says in numbers, quoted in its own units; never used as a budget."""

    text: str
    #: Name of a number -> how the report gives it, such as ``13.83 GB``.
    reported: Mapping[str, str] = field(default_factory=dict)
    #: Globs, separated by blanks, over the names of the conditions that speak to this claim; empty if none can yet.
    conditions: str = "*"
    #: Name of a reported number -> where it is measured, in one place or several.
    readings: Mapping[str, tuple[Reading, ...]] = field(default_factory=dict)

    def covers(self, condition: str) -> bool:
        """Return whether a condition speaks to this claim."""
        return any(fnmatchcase(condition, glob) for glob in self.conditions.split())


@dataclass(frozen=True)
class Budget:
    """A limit on one figure of an observation.

    ``limit`` maps a condition's parameters to the largest allowed value, from shapes and dtypes alone (bytes for a
    figure named ``*_bytes``). ``second`` names the figure of an independent instrument held to the same limit, and to
    ``second_slack`` more where it counts coarser: where both were read and they disagree, the trial is inconclusive.
    """

    figure: str
    limit: Callable[[Params], float]
    second: str | None = None
    second_slack: int = 0

    def __post_init__(self) -> None:
        if re.search(r"_[kmg]i?b$", self.figure, re.IGNORECASE):
            raise ValueError(f"budget on `{self.figure}`: memory is counted in bytes\nhint: name a `*_bytes` figure")

    @property
    def unit(self) -> str:
        """Return the unit of the judged figure."""
        return unit_of(self.figure)


def unit_of(figure: str) -> str:
    """Return a figure's unit by its name: ``bytes``, ``parameters``, ``ratio`` for an error, otherwise ``count``."""
    for ending in ("bytes", "parameters"):
        if figure.endswith(f"_{ending}"):
            return ending
    return "ratio" if figure.endswith("error") else "count"


#: What a context, its kernels and a desktop take of a card before torch's allocator has anything.
CONTEXT_BYTES = 768 << 20


@dataclass(frozen=True)
class Requires:
    """What a condition needs; where it is missing, the trial is `unsupported` with that reason."""

    packages: Mapping[str, str] = field(default_factory=dict)
    #: A C++ compiler on the host (inductor's CPU backend builds its kernels with one).
    compiler: bool = False
    memory_bytes: int = 0
    #: How many cards the arms see, and the free memory that each of them must have.
    cards: int = 1
    card_bytes: int = 0
    reason: str = ""


@dataclass(frozen=True)
class Condition:
    """One way to run a case; ``params`` go to ``prepare`` and to the budget."""

    name: str
    params: Params = field(default_factory=dict)
    requires: Requires = Requires()
    #: Fewer arms than the case defines, where one does not apply here (``proposed``, mostly).
    without: tuple[str, ...] = ()
    note: str = ""
    #: Judges this condition in place of the case's budget.
    budget: Budget | None = None
    #: Environment variables of the arms' processes, set before anything of theirs runs.
    env: Mapping[str, str] = field(default_factory=dict)
    #: Start a new interpreter for each arm: needed where import time is the point, which a fork server has behind it.
    fresh: bool = False
    #: The condition on a CPU that stands for this one on a GPU; empty if none does.
    proxy: str = ""

    def on_cuda(self, **changes: object) -> Condition:
        """Return the same condition on a GPU, with these parameters changed; this one is its proxy on a CPU."""
        params = {**self.params, "device": "cuda", **changes}
        return replace(self, name=f"{self.name}-cuda", params=params, proxy=self.name)

    @property
    def device(self) -> str:
        """Return ``cpu`` or ``cuda``: only cells of that device try this condition."""
        return str(self.params.get("device", "cpu"))


@dataclass(frozen=True)
class Affected:
    """A window of versions in which the suite's own trials reproduced the report.

    ``versions`` maps packages to PEP 440 specifiers which must all hold; ``conditions`` is a glob; ``source`` names
    the report of this suite that the window was read from.
    """

    versions: Mapping[str, str]
    conditions: str = "*"
    device: str = "cpu"
    source: str = ""

    def covers(self, condition: str) -> bool:
        """Return whether this window speaks of the condition."""
        return fnmatchcase(condition, self.conditions)


def on_cards(source: str, **windows: tuple[str, ...]) -> tuple[Affected, ...]:
    """Return windows on a GPU: specifiers of a package -> the conditions that they hold for.

    ``on_cards("reports/NAME", transformers=(">=5,<5.4", "nf4-*", "int8-*"))`` gives one window a condition.
    """
    return tuple(
        Affected({package: specifier}, condition, "cuda", source)
        for package, (specifier, *conditions) in windows.items()
        for condition in conditions
    )


@dataclass(frozen=True)
class Symptom:
    """An exception that *is* the reported symptom: it counts as breaking the budget; any other is an `error`."""

    type: str
    text: str = ""

    def matches(self, types: tuple[str, ...], text: str) -> bool:
        """Match a class name of the exception's MRO and a regular expression searched in its text."""
        return self.type in types and re.search(self.text, text) is not None


@dataclass(frozen=True)
class Case:
    """One upstream report."""

    package: str
    number: int
    title: str
    kind: str  # "issue" or "pull request"
    status: str  # upstream's, e.g. "closed unmerged"
    claims: tuple[Claim, ...]
    conditions: tuple[Condition, ...]
    budget: Budget
    #: Largest relative error against the oracle that still counts as right numbers; judges `proposed` in every case.
    numbers: Callable[[Params], float] = lambda p: 0.05
    symptoms: tuple[Symptom, ...] = ()
    affected: tuple[Affected, ...] = ()
    #: What the report proposes as a fix, in a line; None if it proposes none.
    proposes: str | None = None
    #: What the `proposed` arm needs beyond the condition; where it is missing, that arm alone is left out.
    proposed_requires: Requires = Requires()
    #: Name of a checkpoint recipe that ``prepare`` gets the folder of, or a function of the parameters.
    checkpoint: str | Callable[[Params], str] | None = None
    #: Operators at whose first call the ledger waits until the loader's other threads are idle.
    gate: tuple[str, ...] = ()
    #: The subject is tried this often; a split vote is inconclusive.
    repeats: int = 1
    timeout_s: float = 60.0
    url: str = ""

    def condition(self, name: str) -> Condition:
        """Return the condition of that name; KeyError if there is none."""
        for condition in self.conditions:
            if condition.name == name:
                return condition
        raise KeyError(name)

    def on(self, device: str) -> tuple[Condition, ...]:
        """Return the conditions for cells of a device."""
        return tuple(condition for condition in self.conditions if condition.device == device)

    def budget_of(self, condition: Condition) -> Budget:
        """Return the budget that judges a condition."""
        return condition.budget or self.budget

    def recipe(self, condition: Condition) -> str | None:
        """Return the name of the checkpoint recipe of a condition."""
        return self.checkpoint(condition.params) if callable(self.checkpoint) else self.checkpoint
