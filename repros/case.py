"""How a case is declared.

A case file holds one declaration, ``CASE``, and short functions for its arms. Nothing here or at the top of a case
file imports torch: the parent process reads declarations with the standard library alone, and so does every Python
of the matrix.

Each function gets the condition; an arm also gets what ``inputs`` returned, by name. An arm returns a generator: each
``yield "name"`` ends the present phase and starts the phase of that name, and what it returns at its end is a mapping
from names to tensors, compared with the float64 tensors that ``oracle`` returned, or to figures::

    def inputs(c):
        import torch
        ...
        return {"x": x, "weight": weight}

    def oracle(c, x, weight):
        return {"output": (x.double() @ weight.double().t()).detach()}

    def subject(c, x, weight):
        layer = Linear4bit(...)
        yield "forward"
        out = layer(x)
        yield "backward"
        out.sum().backward()
        return {"output": out, "grad_input": x.grad}

Before the first ``yield`` an arm sets up what is its own (it counts as the phase ``prepare``). Meters count what was
born after that: ``held_bytes`` is what was born since and is still alive when ``backward`` starts. Where a condition
names a checkpoint, ``inputs`` gets its folder too, as ``checkpoint``.
"""

from __future__ import annotations

import difflib
import itertools
import math
import re
import sys
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Self

from repros import ROOT
from repros.errors import UserError, shortened

ARMS = ("subject", "reference", "planted", "proposed")
#: Those that say whether the instrument can be believed; they are the suite's own code.
CONTROLS = ("reference", "planted")
#: How the name of a remedy's arm begins, in a case file and in a record.
REMEDY = "remedy"
#: What a cell pins.
AXES = ("torch", "transformers", "bitsandbytes")
COMPANIONS = ("accelerate", "peft", "huggingface_hub", "tokenizers")
PACKAGES = AXES + COMPANIONS
DEVICES = ("cpu", "cuda")

#: Bytes of one element, by the name torch prints for the dtype.
ITEMSIZE: Mapping[str, int] = {
    "float64": 8, "float32": 4, "float16": 2, "bfloat16": 2, "int8": 1, "uint8": 1, "int32": 4, "int64": 8,
}  # fmt: skip

#: Where upstream keeps its reports.
REPOSITORIES: Mapping[str, str] = {
    "bitsandbytes": "bitsandbytes-foundation/bitsandbytes", "transformers": "huggingface/transformers",
    "accelerate": "huggingface/accelerate", "peft": "huggingface/peft", "torch": "pytorch/pytorch",
    "huggingface_hub": "huggingface/huggingface_hub", "tokenizers": "huggingface/tokenizers",
}  # fmt: skip
#: Kind of a report -> how its page is addressed.
PAGES: Mapping[str, str] = {"issue": "issues", "pull request": "pull", "finding of the hunt": "issues", "selftest": ""}
SEVERITIES = ("wrong numbers", "memory", "raises")

Params = Mapping[str, Any]
Limit = float


class DeclarationError(UserError):
    """What a case declares and cannot be; its first line begins with file and line."""


def _is_text(value: object) -> bool:
    # A subclass of str is no text: it may say one thing and be another, and cannot name a file.
    return type(value) is str and not any(unicodedata.category(c) in ("Cc", "Cs") for c in value)


def _is_texts(value: object) -> bool:
    return isinstance(value, Mapping) and all(map(_is_text, (*value, *value.values())))


def _is_params(value: object) -> bool:
    taken = {*dir(Condition), *(one.name for one in fields(Condition))}
    return isinstance(value, Mapping) and all(map(_is_text, value)) and not taken.intersection(value)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf


def _is_limit(value: object) -> bool:
    return _is_number(value) or (value == 0 and not isinstance(value, bool))


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
    "Limit": (_is_limit, "a finite number, 0 or more"),
    "Limit | None": (lambda v: v is None or _is_limit(v), "a finite number, 0 or more, or None"),
    "Params": (_is_params, "a mapping from names, none of them an attribute of a condition, to values"),
    "Mapping[str, str]": (_is_texts, "a mapping from texts to texts"),
    "Mapping[str, tuple[Reading, ...]]": (
        lambda v: isinstance(v, Mapping) and all(_each(one, _one_of("Reading")) for one in v.values()),
        "a mapping from names to tuples of Reading",
    ),
    "tuple[str, ...]": (lambda v: _each(v, _is_text), "a tuple of texts"),
    **{
        f"tuple[{name}, ...]": (_tuple_of(name), f"a tuple of {name}")
        for name in ("Claim", "Condition", "Remedy", "Symptom")
    },
    "tuple[Affected, ...] | None": (
        lambda v: v is None or _tuple_of("Affected")(v),
        "a tuple of Affected, empty where no release is affected",
    ),
    "Budget": (_one_of("Budget"), "a Budget"),
    "Needs": (_one_of("Needs"), "a Needs"),
    "Callable[[], float]": (callable, "a function"),
}


class _Declared:
    """A part of a declaration: it knows where it is written, and holds what its annotations say."""

    place = ("", 0)
    """File and line where it is written."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "place", _place())
        self._hold()

    @classmethod
    def placed(cls, place: tuple[str, int], values: Mapping[str, Any]) -> Self:
        """Return the part that is written at a place and was read there by another process; it is checked as any is.

        ``values`` has each field's; KeyError where it lacks one.
        """
        made = object.__new__(cls)
        object.__setattr__(made, "place", place)
        for one in fields(cls):  # type: ignore[arg-type]
            object.__setattr__(made, one.name, values[one.name])
        made._hold()
        return made

    def _hold(self) -> None:
        """Refuse what a field cannot hold."""
        for one in fields(self):  # type: ignore[arg-type]
            holds, kind = KINDS[str(one.type)]
            value = getattr(self, one.name)
            if value is ... or (isinstance(value, Mapping) and ... in value.values()):
                raise self.error(f"{type(self).__name__}.{one.name}: not filled in", f"write {kind}")
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
    """What the report says, quoted in its own units; a condition names the claims that it speaks to."""

    text: str
    #: Name of a number -> how the report gives it, such as ``13.83 GB``.
    reported: Mapping[str, str] = field(default_factory=dict)
    #: Name of a reported number -> where it is measured, in one place or several.
    readings: Mapping[str, tuple[Reading, ...]] = field(default_factory=dict)

    def _check(self) -> None:
        for name in self.readings:
            if name not in self.reported:
                what = f"Claim.readings: the report gives no number `{shortened(str(name))}`"
                raise self.error(what, f"one of: {', '.join(self.reported)}" if self.reported else "fill in `reported`")


@dataclass(frozen=True)
class Budget(_Declared):
    """A limit on one figure of an observation.

    ``limit`` is the largest allowed value, computed from shapes and dtypes (bytes for a figure named ``*_bytes``).
    ``second`` names the figure of an independent instrument held to the same limit, and to ``second_slack`` more where
    it counts coarser: where both were read and they disagree, the trial is inconclusive.
    """

    figure: str
    limit: Limit
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


def held(limit_bytes: int) -> Budget:
    """Limit what is alive when ``backward`` starts and was born since the arm began: tensors, and the heap beside."""
    return Budget("held_bytes", limit_bytes, second="heap_held_bytes")


def held_on_card(limit_bytes: int) -> Budget:
    """Limit the same on a GPU: what the allocator gave out, and the driver, which knows segments alone, beside."""
    return Budget("cuda_held_bytes", limit_bytes, second="cuda_held_driver_bytes", second_slack=SEGMENT_BYTES)


def error(limit: float) -> Budget:
    """Limit the largest relative error against ``oracle``, in the maximum norm."""
    return Budget("error", limit)


#: A segment that torch's caching allocator takes from the driver for blocks below 10 MiB (c10/cuda, kLargeBuffer).
SEGMENT_BYTES = 20 << 20
#: What a context, its kernels and a desktop take of a card before torch's allocator has anything.
CONTEXT_BYTES = 768 << 20


@dataclass(frozen=True)
class Needs(_Declared):
    """What a condition needs; where it is missing, the trial is `unsupported` with that reason."""

    packages: Mapping[str, str] = field(default_factory=dict)
    #: A C++ compiler on the host (inductor's CPU backend builds its kernels with one).
    compiler: bool = False
    #: Features of the CPU, as `/proc/cpuinfo` names them: `avx512_bf16`.
    cpu: tuple[str, ...] = ()
    #: How many cards the arms see, and the free memory that each of them must have.
    cards: int = 1
    card_bytes: int = 0
    reason: str = ""

    def _check(self) -> None:
        if not self.cards:
            raise self.error("Needs.cards: 0 cards", "leave it out: a cell without a GPU has no cards to count")


NOTHING = Needs()


@dataclass(frozen=True)
class Affected(_Declared):
    """A window of releases in which the suite's own trials reproduced the report.

    ``versions`` maps packages to PEP 440 specifiers which must all hold; ``source`` names the evidence of this suite
    that the window was read from.
    """

    versions: Mapping[str, str]
    source: str


@dataclass(frozen=True)
class Remedy(_Declared):
    """What a user can do today, in the user's words; it is tried as an arm, and counts only where it cures.

    ``arm`` names the function of the case file that does it, such as ``remedy_contiguous``; without one the subject
    runs. Either gets ``params`` and ``env`` in the place of the condition's of these names. ``recommended`` says who
    recommends it (``the report``, ``bitsandbytes#1935``); empty where this suite found it. Where ``needs`` are not met
    it is not tried, nor offered.
    """

    text: str
    arm: str = ""
    params: Params = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)
    recommended: str = ""
    needs: Needs = NOTHING

    def _check(self) -> None:
        if not self.text.strip():
            raise self.error("Remedy.text: it says nothing", "write what a user does: `call X before Y`")
        if self.arm and not (self.arm.isidentifier() and self.arm.startswith(REMEDY)):
            what = f"Remedy.arm: `{shortened(self.arm)}` is not the name of a remedy"
            raise self.error(what, f"call the function `{REMEDY}`, or `{REMEDY}_…`")
        if not (self.arm or self.params or self.env):
            hint = "write `arm`, a function's name, `params` or `env`"
            raise self.error("Remedy: it does what the subject does", hint)
        _check_variables(self, self.env)


@dataclass(frozen=True)
class Condition(_Declared):
    """One way to run a case, with the limit, the needs and the affected releases that belong to it.

    What ``params`` names is an attribute too: ``c.mode``. ``affected`` is None until something is recorded, and
    ``()`` where no release that was tried is affected.
    """

    name: str
    budget: Budget
    params: Params = field(default_factory=dict)
    needs: Needs = NOTHING
    affected: tuple[Affected, ...] | None = None
    #: What it speaks to.
    claims: tuple[Claim, ...] = ()
    #: One that the report itself calls fine: expected absent, and without a planted arm.
    control: bool = False
    device: str = "cpu"
    #: Name of the recipe (`fixtures/recipes.json`) of the checkpoint that ``inputs`` gets; empty for none.
    checkpoint: str = ""
    #: Environment variables of the arms' processes, set before anything of theirs runs.
    env: Mapping[str, str] = field(default_factory=dict)
    #: Whether the fix that the report proposes is tried here.
    proposed: bool = True
    #: The condition on a CPU that stands for this one on a GPU; empty if none does.
    proxy: str = ""
    #: File of the report's folder, such as ``minimal.py``, whose vote must be this trial's verdict; empty for none.
    witness: str = ""
    #: What a user can do today, each tried here.
    remedies: tuple[Remedy, ...] = ()
    #: Largest relative error of the numbers that `proposed` and remedies compute; where an error is judged, that limit
    #: counts.
    numbers: Limit | None = None
    note: str = ""

    def _check(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,99}", self.name):
            what = f"Condition.name: `{shortened(self.name)}` is not a name"
            raise self.error(what, "use letters, digits, `-`, `.`, `_` and `+`: it is chosen by globs and names files")
        self._within("device", self.device, DEVICES)
        _check_variables(self, self.env)
        if self.witness and not re.fullmatch(r"[a-z][a-z0-9_]{0,99}\.py", self.witness):
            what = f"condition `{self.name}`: the witness `{shortened(self.witness)}` is not a file name"
            raise self.error(what, "write a file of the report's folder, such as `minimal.py`")
        if self.control and self.affected:
            what = f"condition `{self.name}`: a control condition that is affected"
            raise self.error(what, "a control is one that the report calls fine; take `control` or `affected` out")
        if self.control and self.remedies:
            what = f"condition `{self.name}`: a control condition with a remedy"
            raise self.error(what, "try it where the bug is to be seen: where nothing is wrong it cures nothing")
        for one in self.remedies:
            if [other.text for other in self.remedies].count(one.text) > 1:
                raise one.error(f"condition `{self.name}`: a remedy twice: `{shortened(one.text)}`", "take one out")
            for name in one.params:
                if name not in self.params:
                    what = f"condition `{self.name}` has no parameter `{shortened(name)}`, which a remedy changes"
                    raise one.error(what, f"one of: {', '.join(self.params)}" if self.params else "it has none")

    def but(self, **params: Any) -> Condition:
        """Return the same with other parameters, as an arm passes it on to another arm."""
        return replace(self, params={**self.params, **params})

    def remedy_arms(self) -> dict[str, Remedy]:
        """Return each remedy by the name of its arm in a record: ``remedy``, ``remedy-2`` and so on."""
        return {f"{REMEDY}-{n}" if n > 1 else REMEDY: one for n, one in enumerate(self.remedies, 1)}

    def runs(self, arm: str) -> tuple[str, Condition]:
        """Return the function of the case file that an arm of a record runs, and the condition that it gets."""
        remedy = self.remedy_arms().get(arm)
        if remedy is None:
            return arm, self
        under = replace(self, params={**self.params, **remedy.params}, env={**self.env, **remedy.env})
        return remedy.arm or "subject", under

    def on_card(self, size: str, budget: Budget, params: Params | None = None, **declared: Any) -> Condition:
        """Return the same on a GPU, as ``NAME-SIZE-cuda``, at the size that ``params`` give; this one is its proxy.

        Its windows are its own: what is affected on a CPU may not be on a card. Its remedies are the same.
        """
        name = "-".join(filter(None, [self.name, size, "cuda"]))
        changes = {
            "budget": budget,
            "params": {**self.params, **(params or {})},
            "affected": None,
            "witness": "",
            **declared,
        }
        return replace(self, name=name, device="cuda", proxy=self.name, **changes)

    def __getattr__(self, name: str) -> Any:
        """Return a parameter."""
        params = self.__dict__.get("params", {})
        if name not in params:
            raise AttributeError(f"condition `{self.__dict__.get('name')}` has no `{name}`; it has {', '.join(params)}")
        return params[name]


def _check_variables(of: Condition | Remedy, env: Mapping[str, str]) -> None:
    for name in env:
        if not name or "=" in name:
            what = f"{type(of).__name__}.env: `{name}` is not a name of a variable"
            raise of.error(what, "such as `OMP_NUM_THREADS`")


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


@dataclass(frozen=True)
class Case(_Declared):
    """One mechanism of one upstream report."""

    report: str  # such as `bitsandbytes#1935`
    title: str
    kind: str  # "issue" or "pull request"
    status: str  # upstream's, e.g. "closed unmerged"
    severity: str
    #: What must be in use for the bug to bite, in a user's words.
    trigger: str
    claims: tuple[Claim, ...]
    conditions: tuple[Condition, ...]
    #: Largest relative error against the oracle that still counts as right numbers; judges `proposed`.
    numbers: float = 0.05
    symptoms: tuple[Symptom, ...] = ()
    #: Reports of the same family, such as `transformers#43032`: they are found under their own number, too.
    also: tuple[str, ...] = ()
    #: What ended the symptom upstream, a pull request or a commit, such as `bitsandbytes#1996`; empty if not known.
    fix: str = ""
    #: What the report proposes as a fix, in a line; None if it proposes none.
    proposes: str | None = None
    #: What the `proposed` arm needs beyond the condition; where it is missing, that arm alone is left out.
    proposed_needs: Needs = NOTHING
    #: Operators at whose first call the ledger waits until the loader's other threads are idle.
    gate: tuple[str, ...] = ()
    timeout_s: float = 60.0

    def _check(self) -> None:
        for name, report in (("report", self.report), *(("also", one) for one in self.also)):
            if not re.fullmatch(r"[a-z_]+#[0-9]{1,9}", report):
                what = f"Case.{name}: `{shortened(report)}` is not a report"
                raise self.error(what, "write package and number, such as `bitsandbytes#1935`")
        if self.fix and not re.fullmatch(r"[a-z_]+(#[0-9]{1,9}|@[0-9a-f]{7,40})", self.fix):
            what = f"Case.fix: `{shortened(self.fix)}` is no pull request and no commit"
            raise self.error(what, "write package and number or commit: `bitsandbytes#1996`, `torch@0123abc`")
        self._within("kind", self.kind, tuple(PAGES))
        self._within("severity", self.severity, SEVERITIES)
        names = [condition.name for condition in self.conditions]
        if not names:
            raise self.error("Case.conditions: no condition", 'write at least one: `Condition("eager", held(LIMIT))`')
        for condition in self.conditions:
            if names.count(condition.name) > 1:
                what = f"condition `{condition.name}`: the name of another condition too"
                raise condition.error(what, "give each condition a name of its own")
        remedies = [one for condition in self.conditions for one in condition.remedies]
        for one, other in itertools.combinations(remedies, 2):
            does, others = ((each.arm, each.params, each.env) for each in (one, other))
            if (one.text == other.text) != (does == others):
                what = f"Remedy: `{shortened(other.text)}` is one of two that say or do the same"
                raise other.error(what, "declare it once, and name it under each condition that tries it")
        if all(condition.control for condition in self.conditions):
            what = "Case.conditions: control conditions alone"
            raise self.error(what, "write one under which the bug is to be seen: a control shows nothing by itself")

    def check_names(self) -> None:
        """Refuse names that mean no condition or claim of this case; not asked of a case made from another."""
        names = [condition.name for condition in self.conditions]
        for claim in self.claims:
            for reading in (one for several in claim.readings.values() for one in several if not one.case):
                if reading.condition not in names:
                    raise reading.error(*_no_condition("Reading.condition", reading.condition, names))
        for condition in self.conditions:
            if condition.proxy and condition.proxy not in names:
                raise condition.error(*_no_condition("Condition.proxy", condition.proxy, names))
            for claim in condition.claims:
                if claim not in self.claims:
                    what = f"condition `{condition.name}`: `{shortened(claim.text)}` is not in Case.claims"
                    raise condition.error(what, "add it to `claims`")

    @property
    def package(self) -> str:
        """Return the package that the report is on."""
        return self.report.partition("#")[0]

    @property
    def blamed(self) -> str:
        """Return the package whose releases the windows name: the report's own, if it is among them, or if none is."""
        windows = [window for one in self.conditions for window in one.affected or ()]
        named = list(dict.fromkeys(package for window in windows for package in window.versions))
        return self.package if self.package in named or not named else named[0]

    @property
    def number(self) -> int:
        """Return the report's number."""
        return int(self.report.partition("#")[2])

    @property
    def url(self) -> str:
        """Return where the report stands; empty for a package whose reports are not on GitHub."""
        repository = REPOSITORIES.get(self.package)
        return f"https://github.com/{repository}/{PAGES[self.kind]}/{self.number}" if repository and self.number else ""

    def condition(self, name: str) -> Condition:
        """Return the condition of that name; KeyError if there is none."""
        for condition in self.conditions:
            if condition.name == name:
                return condition
        raise KeyError(name)

    def numbers_of(self, condition: Condition) -> float:
        """Return the largest relative error with which the numbers of a condition are still right."""
        if condition.numbers is not None:
            return condition.numbers
        return condition.budget.limit if condition.budget.unit == "ratio" else self.numbers

    def speaking_to(self, claim: Claim) -> frozenset[str]:
        """Return the names of the conditions that speak to a claim."""
        return frozenset(condition.name for condition in self.conditions if claim in condition.claims)


def _no_condition(what: str, name: str, names: list[str]) -> tuple[str, str]:
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.3) or names[:5]
    return f"{what}: no condition `{shortened(name)}` in this case", f"one of: {', '.join(near)}"
