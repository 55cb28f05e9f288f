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

import difflib
import json
import math
import re
import sys
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from fnmatch import fnmatchcase
from pathlib import Path

from repros import ROOT
from repros.errors import UserError, shortened

ARMS = ("subject", "reference", "planted", "proposed")
#: What a cell pins.
AXES = ("torch", "transformers", "bitsandbytes")
COMPANIONS = ("accelerate", "peft", "huggingface_hub", "tokenizers")
PACKAGES = AXES + COMPANIONS
DEVICES = ("cpu", "cuda")

#: Bytes of one element, by the name torch prints for the dtype.
ITEMSIZE: Mapping[str, int] = {
    "float64": 8, "float32": 4, "float16": 2, "bfloat16": 2, "int8": 1, "uint8": 1, "int32": 4, "int64": 8,
}  # fmt: skip

Params = Mapping[str, object]


class DeclarationError(UserError):
    """What a case declares and cannot be; its first line begins with file and line."""


def _is_text(value: object) -> bool:
    return isinstance(value, str) and not any(unicodedata.category(c) in ("Cc", "Cs") for c in value)


def _is_texts(value: object) -> bool:
    return isinstance(value, Mapping) and all(map(_is_text, (*value, *value.values())))


def _is_params(value: object) -> bool:
    """Parameters travel to an arm as JSON."""
    if not (isinstance(value, Mapping) and all(map(_is_text, value))):
        return False
    try:
        json.dumps(dict(value), allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        return False
    return True


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf


def _each(value: object, holds: Callable[[object], bool]) -> bool:
    return isinstance(value, tuple | list) and all(map(holds, value))


def _one_of(*names: str) -> Callable[[object], bool]:
    return lambda value: type(value).__name__ in names


def _tuple_of(name: str) -> Callable[[object], bool]:
    return lambda value: _each(value, _one_of(name))


#: What a field may hold, by its annotation, and how that is called.
KINDS: Mapping[str, tuple[Callable[[object], bool], str]] = {
    "str": (_is_text, "a text of one line"),
    "str | None": (lambda v: v is None or _is_text(v), "a text of one line, or None"),
    "bool": (lambda v: isinstance(v, bool), "True or False"),
    "int": (lambda v: type(v) is int and v >= 0, "a whole number, 0 or more"),
    "float": (_is_number, "a number above 0"),
    "Params": (_is_params, "a mapping from names to values that JSON can hold"),
    "Mapping[str, str]": (_is_texts, "a mapping from texts to texts"),
    "Mapping[str, tuple[Reading, ...]]": (
        lambda v: isinstance(v, Mapping) and all(_each(one, _one_of("Reading")) for one in v.values()),
        "a mapping from names to tuples of Reading",
    ),
    "tuple[str, ...]": (lambda v: _each(v, _is_text), "a tuple of texts"),
    **{f"tuple[{name}, ...]": (_tuple_of(name), f"a tuple of {name}")
       for name in ("Affected", "Claim", "Condition", "Symptom")},
    "Budget": (_one_of("Budget"), "a Budget"),
    "Budget | None": (_one_of("Budget", "NoneType"), "a Budget, or None"),
    "Requires": (_one_of("Requires"), "a Requires"),
    "Callable[[Params], float]": (callable, "a function of the parameters"),
    "Callable[[], float]": (callable, "a function"),
    "str | Callable[[Params], str] | None": (
        lambda v: v is None or callable(v) or _is_text(v), "a name, a function of the parameters, or None"
    ),
}  # fmt: skip


class _Declared:
    """A part of a declaration: it knows where it is written, and holds what its annotations say."""

    place = ("", 0)
    """File and line where it is written."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "place", _place())
        for one in fields(self):  # type: ignore[arg-type]
            holds, kind = KINDS[str(one.type)]
            value = getattr(self, one.name)
            if not holds(value):
                raise self.error(f"{type(self).__name__}.{one.name}: {_quoted(value)} is not {kind}", f"write {kind}")
        self._check()

    def _check(self) -> None:
        """Look at what no annotation says."""

    def error(self, what: str, hint: str) -> DeclarationError:
        """Return the error of this part, with the place where it is written."""
        return DeclarationError(f"{place_of(Path(self.place[0]), self.place[1])}: {what}", hint)

    def _within(self, name: str, value: str, known: tuple[str, ...], word: str = "") -> None:
        if value not in known:
            what = f"{type(self).__name__}.{name}: unknown {word or name} `{shortened(value)}`"
            raise self.error(what, f"one of: {', '.join(known)}")


def _place() -> tuple[str, int]:
    """Return file and line of the innermost code that is not of this module and not of `dataclasses`."""
    frame = sys._getframe(1)
    while frame.f_back and frame.f_globals.get("__name__") in (__name__, "dataclasses"):
        frame = frame.f_back
    return frame.f_code.co_filename, frame.f_lineno


def place_of(path: Path, line: int) -> str:
    """Return ``file:line``, the file as seen from the project's folder where it lies inside."""
    return f"{path.relative_to(ROOT) if path.is_relative_to(ROOT) else path}:{line}"


def _quoted(value: object) -> str:
    """Return a value as a message shows it, whatever its own `repr` does."""
    try:
        return f"`{shortened(repr(value))}`"
    except Exception:  # noqa: BLE001 - the value is of a contributor's class
        return f"a {type(value).__name__}"


@dataclass(frozen=True)
class Reading(_Declared):
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

    def _check(self) -> None:
        self._within("arm", self.arm, (*ARMS, "budget", "arithmetic"))


@dataclass(frozen=True)
class Claim(_Declared):
    """What the report says in numbers, quoted in its own units; never used as a budget."""

    text: str
    #: Name of a number -> how the report gives it, such as ``13.83 GB``.
    reported: Mapping[str, str] = field(default_factory=dict)
    #: Globs, separated by blanks, over the names of the conditions that speak to this claim; empty if none can yet.
    conditions: str = "*"
    #: Name of a reported number -> where it is measured, in one place or several.
    readings: Mapping[str, tuple[Reading, ...]] = field(default_factory=dict)

    def _check(self) -> None:
        for name in self.readings:
            if name not in self.reported:
                what = f"Claim.readings: the report gives no number `{shortened(str(name))}`"
                raise self.error(what, f"one of: {', '.join(self.reported)}" if self.reported else "fill in `reported`")

    def covers(self, condition: str) -> bool:
        """Return whether a condition speaks to this claim."""
        return any(fnmatchcase(condition, glob) for glob in self.conditions.split())


@dataclass(frozen=True)
class Budget(_Declared):
    """A limit on one figure of an observation.

    ``limit`` maps a condition's parameters to the largest allowed value, from shapes and dtypes alone (bytes for a
    figure named ``*_bytes``). ``second`` names the figure of an independent instrument held to the same limit, and to
    ``second_slack`` more where it counts coarser: where both were read and they disagree, the trial is inconclusive.
    """

    figure: str
    limit: Callable[[Params], float]
    second: str | None = None
    second_slack: int = 0

    def _check(self) -> None:
        if re.search(r"_[kmg]i?b$", self.figure, re.IGNORECASE):
            raise self.error(f"budget on `{self.figure}`: memory is counted in bytes", "name a `*_bytes` figure")
        if not self.figure.isidentifier():
            raise self.error(f"Budget.figure: `{shortened(self.figure)}` is not a figure", "such as `held_bytes`")

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
class Requires(_Declared):
    """What a condition needs; where it is missing, the trial is `unsupported` with that reason."""

    packages: Mapping[str, str] = field(default_factory=dict)
    #: A C++ compiler on the host (inductor's CPU backend builds its kernels with one).
    compiler: bool = False
    memory_bytes: int = 0
    #: How many cards the arms see, and the free memory that each of them must have.
    cards: int = 1
    card_bytes: int = 0
    reason: str = ""

    def _check(self) -> None:
        if not self.cards:
            raise self.error("Requires.cards: 0 cards", "leave it out: a cell without a GPU has no cards to count")


@dataclass(frozen=True)
class Condition(_Declared):
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

    def _check(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,99}", self.name):
            what = f"Condition.name: `{shortened(self.name)}` is not a name"
            raise self.error(what, "use letters, digits, `-`, `.`, `_` and `+`: it is chosen by globs and names files")
        self._within("device", self.device, DEVICES)
        for arm in self.without:
            self._within("without", arm, ("proposed",), "arm, or one that a verdict needs,")
        for name in self.env:
            if not name or "=" in name:
                raise self.error(f"Condition.env: `{name}` is not a name of a variable", "such as `OMP_NUM_THREADS`")

    def on_cuda(self, **changes: object) -> Condition:
        """Return the same condition on a GPU, with these parameters changed; this one is its proxy on a CPU."""
        params = {**self.params, "device": "cuda", **changes}
        return replace(self, name=f"{self.name}-cuda", params=params, proxy=self.name)

    @property
    def device(self) -> str:
        """Return ``cpu`` or ``cuda``: only cells of that device try this condition."""
        return str(self.params.get("device", "cpu"))


@dataclass(frozen=True)
class Affected(_Declared):
    """A window of versions in which the suite's own trials reproduced the report.

    ``versions`` maps packages to PEP 440 specifiers which must all hold; ``conditions`` is a glob; ``source`` names
    the report of this suite that the window was read from.
    """

    versions: Mapping[str, str]
    conditions: str = "*"
    device: str = "cpu"
    source: str = ""

    def _check(self) -> None:
        self._within("device", self.device, DEVICES)

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
class Symptom(_Declared):
    """An exception that *is* the reported symptom: it counts as breaking the budget; any other is an `error`."""

    type: str
    text: str = ""

    def _check(self) -> None:
        if not self.type.isidentifier():
            what = f"Symptom.type: `{shortened(self.type)}` is not a class name"
            raise self.error(what, "write an exception's class without its module")
        try:
            re.compile(self.text)
        except (re.error, OverflowError, RecursionError) as error:
            what = f"Symptom.text: `{shortened(self.text)}` is not a regular expression: {error}"
            raise self.error(what, "escape what stands for itself, such as `\\(`") from None

    def matches(self, types: tuple[str, ...], text: str) -> bool:
        """Match a class name of the exception's MRO and a regular expression searched in its text."""
        return self.type in types and re.search(self.text, text) is not None


def _no_condition(what: str, name: str, names: list[str]) -> tuple[str, str]:
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.3) or names[:5]
    return f"{what}: no condition `{shortened(name)}` in this case", f"one of: {', '.join(near)}"


def _matches(part: _Declared, what: str, glob: str, names: list[str]) -> None:
    if not any(fnmatchcase(name, glob) for name in names):
        raise part.error(*_no_condition(what, glob, names))


@dataclass(frozen=True)
class Case(_Declared):
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

    def _check(self) -> None:
        if not 1 <= self.repeats <= 100:
            raise self.error(f"Case.repeats: {self.repeats} tries of the subject", "write 1 to 100")
        names = [condition.name for condition in self.conditions]
        if not names:
            raise self.error("Case.conditions: no condition", 'write at least one: `Condition("eager")`')
        for condition in self.conditions:
            if names.count(condition.name) > 1:
                what = f"condition `{condition.name}`: the name of another condition too"
                raise condition.error(what, "give each condition a name of its own")

    def check_names(self) -> None:
        """Refuse globs and names that mean no condition of this case; not asked of a case made from another."""
        names = [condition.name for condition in self.conditions]
        for claim in self.claims:
            for glob in claim.conditions.split():
                _matches(claim, "Claim.conditions", glob, names)
            for reading in (one for several in claim.readings.values() for one in several if not one.case):
                if reading.condition not in names:
                    raise reading.error(*_no_condition("Reading.condition", reading.condition, names))
        for window in self.affected:
            _matches(window, "Affected.conditions", window.conditions, names)
        for condition in self.conditions:
            if condition.proxy and condition.proxy not in names:
                raise condition.error(*_no_condition("Condition.proxy", condition.proxy, names))

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
