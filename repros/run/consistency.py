"""A record held against itself: its verdict is decided again from its observations, and a contradiction is said.

Nothing here asks what a case declares today: a record carries its budget and how each arm was read, and that is enough
to tell whether its parts agree.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from repros.case import REMEDY, Budget, Symptom, unit_of
from repros.run.record import Record
from repros.verdict import (
    SETTLED,
    ArmReading,
    Effect,
    Observation,
    Verdict,
    as_symptom,
    decide,
    effect,
    is_failure,
    margins,
    outcome,
    read,
    with_witness,
)

#: Margins are kept in full; words are rounded.
CLOSE, ROUNDED = 1e-6, 0.01

#: The ways in which one observation can be read, the plain one first.
Ways = Sequence[tuple[ArmReading, str]]


def contradiction(record: Record) -> str:
    """Return in words the first thing that a record's parts do not agree on; empty if they agree."""
    if record.rivals:
        return _of_rivals(record)
    if says := _of_arms(record):
        return says
    budget = budget_of(record)
    ways = [_ways(arm, budget) for arm in record.arms]
    return (
        _of_readings(record, ways)
        or _of_verdict(record, ways)
        or _of_outcome(record)
        or _of_margins(record, budget)
        or _of_fix(record)
        or _of_remedies(record)
    )


def rivalry(rivals: Sequence[Mapping[str, Any]]) -> str:
    """Return the reason of a trial whose results in several runs disagree."""
    told = ", ".join(f"{rival['record']['verdict']} in {rival['run']}" for rival in rivals)
    return f"{len(rivals)} results disagree: {told}"


def _of_rivals(record: Record) -> str:
    if record.arms or record.verdict is not Verdict.INCONCLUSIVE:
        return f"`{record.verdict.value}` of {len(record.arms)} arms, and results that disagree"
    rivals = [Record.from_json(rival["record"]) for rival in record.rivals]
    if len({rival.verdict for rival in rivals}) < 2:
        return "results that disagree, of one verdict"
    for rival in rivals:
        if rival.key != record.key or rival.rivals:
            return f"a result of {rival.case}[{rival.condition}] in {rival.cell} among those that disagree"
        if says := contradiction(rival):
            return says
    if record.reason != rivalry(record.rivals):
        return f"the reason is `{record.reason[:120]}`, its results say: {rivalry(record.rivals)}"
    return _of_outcome(record)


def budget_of(record: Record) -> Budget:
    """Return the budget that a record was judged by."""
    kept = record.budget
    return Budget(kept["figure"], float(kept["limit"]), kept.get("second"), kept.get("second_slack", 0))


def decided(record: Record, symptoms: Sequence[Symptom]) -> tuple[Verdict, str]:
    """Return what a record's observations decide where these exceptions are the reported symptom."""
    budget = budget_of(record)
    readings: dict[str, list[tuple[ArmReading, str]]] = {}
    for arm in record.arms:
        readings.setdefault(arm.arm, []).append(read(arm, budget, symptoms))
    planted = None if record.control else readings["planted"][0]
    return with_witness(*decide(readings["subject"], readings["reference"][0], planted), record.witness)


def _ways(arm: Observation, budget: Budget) -> Ways:
    """Return how an observation can be read: an exception is an error, or the reported symptom."""
    found = [read(arm, budget, ())]
    if arm.exception and arm.state in ("raised", "crashed"):
        found.append(as_symptom(arm.exception))
    return found


def _of_arms(record: Record) -> str:
    names = [arm.arm for arm in record.arms]
    figure, unit = record.budget["figure"], record.budget["unit"]
    if unit != unit_of(figure):
        return f"`{figure}` is counted in {unit_of(figure)}, the budget says {unit}"
    if not names:
        settles = record.verdict in (*SETTLED, Verdict.INCONCLUSIVE)
        return f"`{record.verdict.value}` without an arm" if settles else ""
    planted = 0 if record.control else 1
    if "subject" not in names or names.count("reference") != 1 or names.count("planted") != planted:
        has = (
            "a control condition has a subject and one reference"
            if record.control
            else ("a trial has a subject, one reference and one planted")
        )
        return f"arms {', '.join(names)}; {has}"
    if set(record.readings) != set(names):
        return f"readings of {', '.join(record.readings) or 'none'}, arms {', '.join(dict.fromkeys(names))}"
    tried = [name for name in names if name.startswith(REMEDY)]
    if sorted(record.remedies) != sorted(tried):
        return f"remedies {', '.join(record.remedies) or 'none'}, arms of remedies {', '.join(tried) or 'none'}"
    return ""


def _of_readings(record: Record, ways: Sequence[Ways]) -> str:
    told: set[str] = set()
    for arm, possible in zip(record.arms, ways, strict=True):
        if arm.exception is not None and arm.state == "done":
            return f"the {arm.arm} arm is done and has an exception"
        if arm.ended < arm.started:
            return f"the {arm.arm} arm ended before it started"
        recorded = record.readings[arm.arm]
        if arm.arm not in told and recorded not in [reading.value for reading, _ in possible]:
            reading, why = possible[0]
            return f"the {arm.arm} arm is read as `{recorded}`, its observation says `{reading.value}`: {why}"
        told.add(arm.arm)
    return ""


def _of_verdict(record: Record, ways: Sequence[Ways]) -> str:
    if not record.arms:
        return ""
    decided = _decisions(record, ways)
    fits = [reason for verdict, reason in decided if verdict is record.verdict]
    if not fits:
        return f"the verdict is `{record.verdict.value}`, its observations say `{decided[0][0].value}`: {decided[0][1]}"
    if not any(alike(record.reason, reason) for reason in fits):
        return f"the reason is `{record.reason[:120]}`, its observations say: {fits[0]}"
    return ""


def _decisions(record: Record, ways: Sequence[Ways]) -> list[tuple[Verdict, str]]:
    """Return what the observations can decide; of repeats of the subject only the first one's reading is kept."""
    of_arm: dict[str, list[Ways]] = {}
    for arm, possible in zip(record.arms, ways, strict=True):
        of_arm.setdefault(arm.arm, []).append(possible)

    def as_read(name: str) -> tuple[ArmReading, str]:
        return next(one for one in of_arm[name][0] if one[0].value == record.readings[name])

    # One error among the repeats decides: all read as errors, and all as the symptom, is all that there can be.
    others = of_arm["subject"][1:]
    several = [[as_read("subject"), *(possible[way] for possible in others)] for way in ((0, -1) if others else (0,))]
    planted = None if record.control else as_read("planted")
    found = [decide(subject, as_read("reference"), planted) for subject in several]
    return [with_witness(*one, record.witness) for one in found]


def _of_outcome(record: Record) -> str:
    result = outcome(record.verdict, record.expected)
    if record.outcome is not result or record.failed != is_failure(record.verdict, result):
        fails = ", failed" if record.failed else ""
        expects = {True: "expected", False: "not expected", None: "nothing recorded"}[record.expected]
        return (
            f"`{record.verdict.value}`, {expects}, is `{result.value}`; the record says `{record.outcome.value}`{fails}"
        )
    return ""


def _of_margins(record: Record, budget: Budget) -> str:
    planted, reference = record.arm("planted"), record.arm("reference")
    if reference is None:
        return f"margins without arms: {', '.join(record.margins)}" if record.margins else ""
    for name, value in margins(planted, reference, budget).items():
        if not _close(record.margins.get(name), value):
            return f"the margin {name} is {record.margins.get(name)}, the figures say {value}"
    return ""


def _of_fix(record: Record) -> str:
    if record.proposed is None:
        return ""
    if record.arm("subject") is None or record.arm("proposed") is None or record.verdict not in SETTLED:
        return "an effect of a proposed fix that was not judged"
    return _of_effect(record, "proposed", record.proposed["effect"], "the proposed fix")


def _of_remedies(record: Record) -> str:
    for arm, told in record.remedies.items():
        if record.verdict not in SETTLED:
            if told["effect"] != Effect.UNSETTLED:
                return f"the effect of a remedy that was not judged: `{told['effect']}`"
        elif says := _of_effect(record, arm, told["effect"], f"the {arm} arm"):
            return says
    return ""


def _of_effect(record: Record, arm: str, told: str, what: str) -> str:
    """Return in words that an arm's effect on the subject is another one than is told; empty if it is that."""
    subject, tried = record.arm("subject"), record.arm(arm)
    assert subject is not None and tried is not None
    before, after = ((ArmReading(record.readings[one.arm]), one) for one in (subject, tried))
    possible = [effect(before, after, math.inf)[0]]
    if after[0] in (ArmReading.INSIDE, ArmReading.OVER) and "error" in tried.figures:
        possible.append(Effect.WRONG)  # the limit on numbers is not kept
    return "" if told in possible else f"{what} `{told}`, its observations say `{possible[0].value}`"


def _close(a: float | None, b: float | None) -> bool:
    if a is None or b is None:
        return a is b
    return a == b or math.isclose(a, b, rel_tol=CLOSE) or (math.isnan(a) and math.isnan(b))


def alike(recorded: str, decided: str) -> bool:
    """Return whether two reasons say the same; numbers may be rounded otherwise, and one may say more at its end."""
    both = zip(_words(recorded), _words(decided), strict=False)
    return all(one == other or _rounded_alike(one, other) for one, other in both)


def _words(reason: str) -> list[str]:
    """Return the words of a reason up to where it was shortened, which may be within a word."""
    head, cut, _ = reason.partition(" …")
    return head.split()[:-1] if cut else head.split()


def _rounded_alike(one: str, other: str) -> bool:
    try:
        return math.isclose(float(one.strip(",;:×")), float(other.strip(",;:×")), rel_tol=ROUNDED)
    except ValueError:
        return False
