"""What tests are made of: observations, and records that agree with themselves. Plain functions with defaults."""

from __future__ import annotations

from collections.abc import Mapping

from repros.case import Budget, Symptom
from repros.run.record import Record
from repros.verdict import Observation, Verdict, decide, is_failure, margins, outcome, read

BUDGET = Budget("held_bytes", 10)


def done(arm: str = "subject", **figures: float) -> Observation:
    """Return what was seen of an arm that came to its end with these figures."""
    return Observation(arm, "done", figures)


def raised(kind: str = "ValueError", text: str = "no", arm: str = "subject") -> Observation:
    """Return what was seen of an arm that ended with an exception, as the worker notes it."""
    seen = {"types": [kind, "Exception"], "text": text, "phase": "forward", "frames": []}
    return Observation(arm, "raised", exception=seen, reason=f"{kind} in phase forward: {text}")


#: Verdict -> what the subject's arm ended like.
SUBJECTS = {
    Verdict.ABSENT: done(held_bytes=3, error=float("inf")),
    Verdict.REPRODUCED: done(held_bytes=30, error=float("inf")),
    Verdict.INCONCLUSIVE: done(held_bytes=3),
    Verdict.UNSUPPORTED: Observation("subject", "unsupported", reason="no kernel for this device: none"),
    Verdict.ERROR: raised(),
    Verdict.TIMEOUT: Observation("subject", "timeout", reason="no end after 60 s"),
}


def record(
    case: str = "gh1_x",
    condition: str = "c",
    cell: str = "a",
    verdict: Verdict = Verdict.ABSENT,
    expected: bool | None = None,
    arms: tuple[Observation, ...] = (),
    symptoms: tuple[Symptom, ...] = (),
    packages: Mapping[str, str] | None = None,
) -> Record:
    """Return the record of a trial that came to this verdict; by itself as expected.

    ``arms`` take the place of those that lead to ``verdict``, which then follows from them.
    """
    planted = 3 if verdict is Verdict.INCONCLUSIVE else 30
    controls = (done("reference", held_bytes=0), done("planted", held_bytes=planted))
    several = arms or (SUBJECTS[verdict], *controls)
    by_name = {arm.arm: arm for arm in reversed(several)}
    readings = {name: read(arm, BUDGET, symptoms) for name, arm in by_name.items()}
    subjects = [read(arm, BUDGET, symptoms) for arm in several if arm.arm == "subject"]
    found, reason = decide(subjects, readings["reference"], readings["planted"])
    assert arms or found is verdict
    expects = found is Verdict.REPRODUCED if expected is None else expected
    result = outcome(found, expects)
    return Record(
        case=case, condition=condition, cell=cell, device="cpu", verdict=found, outcome=result,
        failed=is_failure(found, result), expected=expects, reason=reason,
        budget={"figure": BUDGET.figure, "second": None, "limit": BUDGET.limit, "unit": "bytes"},
        margins=margins(by_name["planted"], by_name["reference"], BUDGET),
        readings={name: reading.value for name, (reading, _) in readings.items()}, arms=several,
        environment={"packages": dict(packages or {"torch": "2.13.0"})},
    )  # fmt: skip
