"""Records that agree with themselves, for the tests of what is made of records."""

from __future__ import annotations

from repros.case import Budget, Symptom
from repros.run.record import Record
from repros.verdict import Observation, Verdict, decide, is_failure, margins, outcome, read

BUDGET, LIMIT = Budget("held_bytes", lambda _: 10), 10
#: Verdict -> what the subject's arm ended like.
SUBJECTS = {
    Verdict.ABSENT: Observation("subject", "done", {"held_bytes": 3, "error": float("inf")}),
    Verdict.REPRODUCED: Observation("subject", "done", {"held_bytes": 30, "error": float("inf")}),
    Verdict.INCONCLUSIVE: Observation("subject", "done", {"held_bytes": 3}),
    Verdict.UNSUPPORTED: Observation("subject", "unsupported", reason="no kernel for this device: none"),
    Verdict.ERROR: Observation("subject", "raised", exception={
        "types": ["ValueError", "Exception"], "text": "no", "phase": "forward", "frames": [],
    }, reason="ValueError in phase forward: no"),
    Verdict.TIMEOUT: Observation("subject", "timeout", reason="no end after 60 s"),
}  # fmt: skip


def record(
    case: str = "gh1_x",
    condition: str = "c",
    cell: str = "a",
    verdict: Verdict = Verdict.ABSENT,
    expected: bool | None = None,
    arms: tuple[Observation, ...] = (),
    symptoms: tuple[Symptom, ...] = (),
) -> Record:
    """Return the record of a trial that came to this verdict; by itself as expected."""
    planted = 3 if verdict is Verdict.INCONCLUSIVE else 30
    controls = (
        Observation("reference", "done", {"held_bytes": 0}),
        Observation("planted", "done", {"held_bytes": planted}),
    )
    several = arms or (SUBJECTS[verdict], *controls)
    by_name = {arm.arm: arm for arm in reversed(several)}
    readings = {name: read(arm, BUDGET, LIMIT, symptoms) for name, arm in by_name.items()}
    subjects = [read(arm, BUDGET, LIMIT, symptoms) for arm in several if arm.arm == "subject"]
    found, reason = decide(subjects, readings["reference"], readings["planted"])
    assert arms or found is verdict
    expects = found is Verdict.REPRODUCED if expected is None else expected
    result = outcome(found, expects)
    return Record(
        case=case, condition=condition, cell=cell, device="cpu", verdict=found, outcome=result,
        failed=is_failure(found, result), expected=expects, reason=reason,
        budget={"figure": BUDGET.figure, "second": None, "limit": LIMIT, "unit": "bytes"},
        margins=margins(by_name["planted"], by_name["reference"], BUDGET.figure, LIMIT),
        readings={name: reading.value for name, (reading, _) in readings.items()}, arms=several,
        environment={"packages": {"torch": "2.13.0"}},
    )  # fmt: skip
