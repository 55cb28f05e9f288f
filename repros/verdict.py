"""From observations to a verdict, from a verdict to an outcome: pure functions and the records they travel in.

Nothing here reads a clock, a file or a package. The truth tables are in ``tests/test_verdict.py``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Any

from repros.case import Budget, Symptom

#: Version of every record in a results file. Raise it when a field changes its meaning.
SCHEMA = 1


class Verdict(StrEnum):
    """What a trial found, from its observations alone."""

    REPRODUCED = "reproduced"
    ABSENT = "absent"
    INCONCLUSIVE = "inconclusive"
    UNSUPPORTED = "unsupported"
    ERROR = "error"
    TIMEOUT = "timeout"


#: Verdicts that settle a trial: it need not be tried again, and a claim or a proxy may be held against it.
SETTLED = (Verdict.REPRODUCED, Verdict.ABSENT)
#: How the witness of the same mechanism votes.
VOTES = {Verdict.REPRODUCED: "bad", Verdict.ABSENT: "good"}


class Outcome(StrEnum):
    """A verdict held against the case's record."""

    AS_EXPECTED = "as expected"
    REGRESSION = "regression"
    FIXED = "fixed"
    UNSETTLED = "unsettled"
    NEW = "new"


class Effect(StrEnum):
    """What a proposed fix or a remedy does to the subject."""

    CURES = "cures"
    NOTHING = "changes nothing"
    WRONG = "makes numbers wrong"
    WORSE = "makes it worse"
    FAILS = "fails"
    UNSETTLED = "unsettled"


class ArmReading(StrEnum):
    """One arm's observation held against the budget."""

    INSIDE = "inside"
    OVER = "over"
    DISAGREE = "instruments disagree"
    UNSUPPORTED = "unsupported"
    ERROR = "error"
    TIMEOUT = "timeout"


@dataclass(frozen=True)
class Observation:
    """What the worker saw of one arm.

    ``state`` is ``done`` (ran to its end), ``raised``, ``crashed`` (ended without an observation, by a signal or
    not), ``disturbed`` (its card was lost, or had not the memory it was to have: no fault of the arm, and no symptom),
    ``timeout`` or ``unsupported``. Figures named ``*_bytes`` are integer bytes. ``seconds`` are wall clock;
    ``started`` and ``ended`` are readings of the machine's monotonic clock.
    """

    arm: str
    state: str
    figures: Mapping[str, float] = field(default_factory=dict)
    exception: Mapping[str, Any] | None = None
    evidence: Mapping[str, Any] = field(default_factory=dict)
    reason: str = ""
    seconds: Mapping[str, float] = field(default_factory=dict)
    started: float = 0.0
    ended: float = 0.0
    log: str = ""

    def reached(self, figure: str) -> float | None:
        """Return a figure; None unless the arm finished."""
        return self.figures.get(figure) if self.state == "done" else None

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dict; infinities are written as the strings ``inf`` and ``-inf``."""
        record = {name: getattr(self, name) for name in _FIELDS}
        record["figures"] = {name: to_number(value) for name, value in self.figures.items()}
        return record

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Observation:
        """Read what `to_json` wrote; unknown fields are left out, so newer minor additions do no harm."""
        values = {name: value for name, value in record.items() if name in _FIELDS}
        values["figures"] = {name: float(v) if isinstance(v, str) else v for name, v in record["figures"].items()}
        return cls(**values)


_FIELDS = tuple(f.name for f in fields(Observation))


def to_number(value: float | None) -> float | int | str | None:
    """Return a value that strict JSON can hold."""
    if value is None or isinstance(value, int) or math.isfinite(value):
        return value
    return "nan" if math.isnan(value) else str(value)


def exceeds(value: float, limit: float) -> bool:
    """Return whether a figure breaks its limit; NaN always does."""
    return not value <= limit


def is_symptom(observation: Observation, symptoms: Sequence[Symptom]) -> bool:
    """Return whether the arm ended in an exception (or a signal) that the report describes."""
    seen = observation.exception
    return seen is not None and any(s.matches(tuple(seen["types"]), seen["text"]) for s in symptoms)


def read(observation: Observation, budget: Budget, symptoms: Sequence[Symptom]) -> tuple[ArmReading, str]:
    """Hold one observation against the budget; the second part says why."""
    if observation.state == "timeout":
        return ArmReading.TIMEOUT, observation.reason
    if observation.state == "unsupported":
        return ArmReading.UNSUPPORTED, observation.reason
    if observation.state != "disturbed" and is_symptom(observation, symptoms):
        assert observation.exception is not None
        types, text = tuple(observation.exception["types"]), observation.exception["text"]
        wanted = next(symptom.text for symptom in symptoms if symptom.matches(types, text))
        return as_symptom(observation.exception, wanted)
    if observation.state != "done":
        return ArmReading.ERROR, observation.reason
    if budget.figure not in observation.figures:
        return ArmReading.ERROR, f"the arm has no figure `{budget.figure}`"
    value, limit = observation.figures[budget.figure], budget.limit
    over = exceeds(value, limit)
    shown, allowed = show_pair(value, limit, budget.unit)
    says = f"{budget.figure} {shown} against {allowed} allowed"
    second = observation.figures.get(budget.second) if budget.second else None
    if second is not None and exceeds(second, limit + budget.second_slack) != over:
        return ArmReading.DISAGREE, f"{says}, but {budget.second} {show_pair(second, limit, budget.unit)[0]}"
    return (ArmReading.OVER if over else ArmReading.INSIDE), says


def as_symptom(exception: Mapping[str, Any], wanted: str = "") -> tuple[ArmReading, str]:
    """Return how an exception that is the reported symptom is read; ``wanted`` is what was looked for in its text."""
    return ArmReading.OVER, f"raised {exception['types'][0]}: {in_a_line(exception['text'], wanted)}"


def in_a_line(text: str, wanted: str = "", most: int = 300) -> str:
    """Return the lines of a text as one, `` / `` between them; of a long text its beginning and what is ``wanted``.

    ``wanted`` is a regular expression: the line in which it is found is told wherever it stands.
    """
    joined = " / ".join(line.strip() for line in text.splitlines() if line.strip())
    if len(joined) <= most:
        return joined
    head, found = joined[:most], re.search(wanted, text) if wanted else None
    if found is None:
        return f"{head} …"
    begin = text.rfind("\n", 0, found.start()) + 1
    line = text[begin:].partition("\n")[0].strip()
    line = line if len(line) <= most else text[found.start() :][:most].partition("\n")[0].strip()
    return f"{head} …" + ("" if line in head else f" / {line}")


def decide(
    subject: Sequence[tuple[ArmReading, str]], reference: tuple[ArmReading, str], planted: tuple[ArmReading, str] | None
) -> tuple[Verdict, str]:
    """Return the verdict of a trial and its reason.

    The subject's own trouble comes first (`unsupported`, `timeout`, `error`). After that the detector must have
    proved itself, silent on the reference and firing on the planted bug, before the subject is judged at all. A
    control condition has no planted bug (None): it says that the detector is silent where the report says so too.
    """
    readings = [reading for reading, _ in subject]
    for reading, verdict in (
        (ArmReading.UNSUPPORTED, Verdict.UNSUPPORTED),
        (ArmReading.TIMEOUT, Verdict.TIMEOUT),
        (ArmReading.ERROR, Verdict.ERROR),
    ):
        if reading in readings:
            return verdict, subject[readings.index(reading)][1]
    for name, control, wanted in (("reference", reference, ArmReading.INSIDE), ("planted", planted, ArmReading.OVER)):
        if control is None:
            continue
        if control[0] is ArmReading.UNSUPPORTED:
            return Verdict.UNSUPPORTED, f"the {name} arm cannot run here: {control[1]}"
        if control[0] is not wanted:
            return Verdict.INCONCLUSIVE, f"the {name} arm is not {wanted.value} the budget: {control[1]}"
    if ArmReading.DISAGREE in readings:
        return Verdict.INCONCLUSIVE, subject[readings.index(ArmReading.DISAGREE)][1]
    if len(set(readings)) > 1:
        over = readings.count(ArmReading.OVER)
        return Verdict.INCONCLUSIVE, f"split vote: over the budget in {over} of {len(readings)} repeats"
    return (Verdict.REPRODUCED if readings[0] is ArmReading.OVER else Verdict.ABSENT), subject[0][1]


def with_witness(verdict: Verdict, reason: str, witness: Mapping[str, Any]) -> tuple[Verdict, str]:
    """Return a trial's verdict and reason once its witness was heard: where the two disagree, neither has proved it."""
    wanted = VOTES.get(verdict)
    if not witness or wanted is None or witness["vote"] == wanted:
        return verdict, reason
    heard = f"the witness {witness['file']} votes {witness['vote']} ({witness['says']})"
    return Verdict.INCONCLUSIVE, f"{heard}; the arms say `{verdict.value}`: {reason}"


def outcome(verdict: Verdict, expected: bool | None) -> Outcome:
    """Hold a verdict against what is recorded: this cell is affected, or not; None where nothing is recorded yet."""
    if expected is None and verdict in SETTLED:
        return Outcome.NEW
    if verdict is Verdict.REPRODUCED:
        return Outcome.AS_EXPECTED if expected else Outcome.REGRESSION
    if verdict is Verdict.ABSENT:
        return Outcome.FIXED if expected else Outcome.AS_EXPECTED
    return Outcome.UNSETTLED


def is_failure(verdict: Verdict, result: Outcome) -> bool:
    """Return whether a run with this trial fails; `unsupported` never does."""
    if result is Outcome.UNSETTLED:
        return verdict is not Verdict.UNSUPPORTED
    return result in (Outcome.REGRESSION, Outcome.FIXED)


def effect(
    subject: tuple[ArmReading, Observation], tried: tuple[ArmReading, Observation], numbers_limit: float
) -> tuple[Effect, str]:
    """Say what a proposed fix or a remedy does, from the subject and its arm in one trial.

    Wrong numbers count only where the subject's are right (or where it raised): a fix is not blamed for what was
    wrong before it.
    """
    before, after = subject[0], tried[0]
    settled = (ArmReading.INSIDE, ArmReading.OVER)
    disturbed = tried[1].state == "disturbed"
    if before not in settled or disturbed or after in (ArmReading.UNSUPPORTED, ArmReading.TIMEOUT, ArmReading.DISAGREE):
        return Effect.UNSETTLED, f"subject {before.value}, {tried[1].arm} {after.value}"
    if after is ArmReading.ERROR:
        return Effect.FAILS, tried[1].reason
    was, now = (observation.figures.get("error", 0.0) for observation in (subject[1], tried[1]))
    if exceeds(now, numbers_limit) and (subject[1].state == "raised" or not exceeds(was, numbers_limit)):
        error, allowed = show_pair(now, numbers_limit, "ratio")
        return Effect.WRONG, f"error {error} against {allowed} allowed"
    if before is after:
        return Effect.NOTHING, f"{before.value} the budget with and without it"
    return (Effect.CURES, "inside the budget with it") if after is ArmReading.INSIDE else (Effect.WORSE, "over with it")


def margins(planted: Observation | None, reference: Observation, budget: Budget) -> dict[str, float | None]:
    """Return planted over budget and budget over reference; None where an arm did not reach such a figure."""

    def over(top: float | None, bottom: float | None) -> float | None:
        if top is None or bottom is None:
            return None
        return top / bottom if bottom else math.inf

    return {
        "planted_over_budget": over(planted.reached(budget.figure) if planted else None, budget.limit),
        "budget_over_reference": over(budget.limit, reference.reached(budget.figure)),
    }


def show(value: float | None, unit: str, more: int = 0) -> str:
    """Print a figure: bytes in KiB, MiB or GiB, billions of parameters, ratios to three digits, counts as they are.

    ``more`` asks for so many digits more.
    """
    if value is None:
        return "-"
    if not math.isfinite(value):
        return "non-finite"
    if unit == "parameters":
        return f"{value / 10**9:.{3 + more}g}B"
    if unit == "times":
        return f"{value:.{2 + more}f}×"
    if unit != "bytes":
        return f"{value:.{(3 if unit == 'ratio' else 6) + more}g}"
    for scale, name in ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
        if abs(value) >= scale:
            return f"{value / scale:.{2 + more}f} {name}"
    return f"{value:.{more}f} B"


#: Digits more than which no two figures of this suite need to print apart.
MOST_DIGITS = 24


def apart(values: Iterable[float | None], limit: float, unit: str) -> int:
    """Return how many digits more it takes until no figure prints like the limit that it is not."""
    differ = [value for value in values if value is not None and math.isfinite(value) and value != limit]
    for more in range(MOST_DIGITS):
        if all(show(value, unit, more) != show(limit, unit, more) for value in differ):
            return more
    return MOST_DIGITS


def show_pair(value: float | None, limit: float, unit: str) -> tuple[str, str]:
    """Print a figure and its limit, with as many digits as tell them apart."""
    more = apart([value], limit, unit)
    return show(value, unit, more), show(limit, unit, more)


def multiple(value: float | None) -> str:
    """Print a margin: how many times a limit; never as the limit itself unless it is that."""
    if value is None:
        return "-"
    return show_pair(value, 1.0, "times")[0] if math.isfinite(value) else "∞"
