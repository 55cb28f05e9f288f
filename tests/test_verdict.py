"""Truth tables of the pure functions, over every combination of arms."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from repros.case import Budget, Symptom
from repros.errors import UserError
from repros.verdict import (
    ArmReading,
    Effect,
    Observation,
    Outcome,
    Verdict,
    decide,
    effect,
    exceeds,
    in_a_line,
    is_failure,
    margins,
    multiple,
    outcome,
    read,
    show,
    show_pair,
    to_number,
)
from tests.factories import done, raised

R = ArmReading
BYTES = Budget("held_bytes", 100, second="heap_held_bytes")


@pytest.mark.parametrize(("subject", "reference", "planted"), list(itertools.product(R, R, R)))
def test_decide_over_every_combination(subject: R, reference: R, planted: R) -> None:
    verdict, reason = decide([(subject, "s")], (reference, "r"), (planted, "p"))
    if subject in (R.UNSUPPORTED, R.TIMEOUT, R.ERROR):
        assert verdict.value == subject.value
        assert reason == "s"
        return
    detector_works = reference is R.INSIDE and planted is R.OVER
    if not detector_works:
        first_wrong = reference if reference is not R.INSIDE else planted
        assert verdict is (Verdict.UNSUPPORTED if first_wrong is R.UNSUPPORTED else Verdict.INCONCLUSIVE)
        return
    wanted = {R.OVER: Verdict.REPRODUCED, R.INSIDE: Verdict.ABSENT, R.DISAGREE: Verdict.INCONCLUSIVE}
    assert verdict is wanted[subject]


@pytest.mark.parametrize(("subject", "reference"), list(itertools.product(R, R)))
def test_a_control_condition_is_decided_by_a_reference_that_is_silent(subject: R, reference: R) -> None:
    verdict, reason = decide([(subject, "s")], (reference, "r"), None)
    if subject in (R.UNSUPPORTED, R.TIMEOUT, R.ERROR):
        assert (verdict.value, reason) == (subject.value, "s")
    elif reference is R.UNSUPPORTED:
        assert (verdict, reason) == (Verdict.UNSUPPORTED, "the reference arm cannot run here: r")
    elif reference is not R.INSIDE:
        assert (verdict, reason) == (Verdict.INCONCLUSIVE, "the reference arm is not inside the budget: r")
    else:
        assert (verdict, reason) == decide([(subject, "s")], (R.INSIDE, "r"), (R.OVER, "p"))


@pytest.mark.parametrize("votes", [v for n in (2, 3) for v in itertools.product((R.INSIDE, R.OVER), repeat=n)])
def test_a_split_vote_is_inconclusive_with_its_counts(votes: tuple[R, ...]) -> None:
    verdict, reason = decide([(vote, "s") for vote in votes], (R.INSIDE, ""), (R.OVER, ""))
    if len(set(votes)) == 1:
        assert verdict is (Verdict.REPRODUCED if votes[0] is R.OVER else Verdict.ABSENT)
    else:
        assert verdict is Verdict.INCONCLUSIVE
        assert reason == f"split vote: over the budget in {votes.count(R.OVER)} of {len(votes)} repeats"


def test_nothing_is_judged_by_a_silent_detector() -> None:
    passes = {
        (s, r, p)
        for s, r, p in itertools.product(R, R, R)
        if decide([(s, "")], (r, ""), (p, ""))[0] in (Verdict.REPRODUCED, Verdict.ABSENT)
    }
    assert {(r, p) for _, r, p in passes} == {(R.INSIDE, R.OVER)}


@pytest.mark.parametrize(
    ("verdict", "expected", "wanted", "fails"),
    [
        (Verdict.REPRODUCED, True, Outcome.AS_EXPECTED, False),
        (Verdict.REPRODUCED, False, Outcome.REGRESSION, True),
        (Verdict.ABSENT, True, Outcome.FIXED, True),
        (Verdict.ABSENT, False, Outcome.AS_EXPECTED, False),
        (Verdict.REPRODUCED, None, Outcome.NEW, False),
        (Verdict.ABSENT, None, Outcome.NEW, False),
        *[
            (verdict, expected, Outcome.UNSETTLED, verdict is not Verdict.UNSUPPORTED)
            for verdict in (Verdict.INCONCLUSIVE, Verdict.UNSUPPORTED, Verdict.ERROR, Verdict.TIMEOUT)
            for expected in (True, False, None)
        ],
    ],
)
def test_outcome(verdict: Verdict, expected: bool | None, wanted: Outcome, fails: bool) -> None:
    assert outcome(verdict, expected) is wanted
    assert is_failure(verdict, wanted) is fails


@pytest.mark.parametrize(
    ("value", "over"), [(99, False), (100, False), (101, True), (math.nan, True), (math.inf, True)]
)
def test_the_limit_itself_is_allowed(value: float, over: bool) -> None:
    assert exceeds(value, 100) is over
    reading, reason = read(done(held_bytes=value), BYTES, ())
    assert reading is (R.OVER if over else R.INSIDE)
    assert "100 B allowed" in reason


def test_a_coarser_instrument_has_its_slack() -> None:
    budget = replace(BYTES, second_slack=20)
    for heap, wanted in ((120, R.INSIDE), (121, R.DISAGREE)):
        assert read(done(held_bytes=100, heap_held_bytes=heap), budget, ())[0] is wanted
    assert read(done(held_bytes=101, heap_held_bytes=121), budget, ())[0] is R.OVER


@pytest.mark.parametrize(
    ("first", "second", "wanted"),
    [(50, 50, R.INSIDE), (150, 150, R.OVER), (50, 150, R.DISAGREE), (150, 50, R.DISAGREE)],
)
def test_two_instruments_must_agree(first: int, second: int, wanted: R) -> None:
    assert read(done(held_bytes=first, heap_held_bytes=second), BYTES, ())[0] is wanted


def test_one_instrument_is_enough_where_the_other_cannot_be_read() -> None:
    assert read(done(held_bytes=150), BYTES, ())[0] is R.OVER


@pytest.mark.parametrize(
    ("observation", "wanted"),
    [
        (raised("AttributeError", "no attribute 'SCB'"), R.OVER),
        (raised("AttributeError", "no attribute 'other'"), R.ERROR),
        (raised("TypeError", "SCB"), R.ERROR),
        (Observation("subject", "timeout", reason="no end"), R.TIMEOUT),
        (Observation("subject", "unsupported", reason="no kernel"), R.UNSUPPORTED),
        (Observation("subject", "crashed", reason="killed by SIGSEGV"), R.ERROR),
        (done(other_bytes=1), R.ERROR),
    ],
)
def test_only_the_reported_symptom_counts_as_the_symptom(observation: Observation, wanted: R) -> None:
    assert read(observation, BYTES, (Symptom("AttributeError", "attribute 'SCB'"),))[0] is wanted


def test_a_signal_can_be_the_symptom() -> None:
    crash = Observation("subject", "crashed", exception={"types": ["SIGSEGV"], "text": "killed by SIGSEGV"})
    assert read(crash, BYTES, (Symptom("SIGSEGV"),))[0] is R.OVER


@pytest.mark.parametrize(
    ("before", "after", "was", "now", "wanted"),
    [
        (R.OVER, R.INSIDE, 0.0, 0.0, Effect.CURES),
        (R.OVER, R.OVER, 0.0, 0.0, Effect.NOTHING),
        (R.INSIDE, R.INSIDE, 0.0, 0.0, Effect.NOTHING),
        (R.INSIDE, R.OVER, 0.0, 0.0, Effect.WORSE),
        (R.OVER, R.INSIDE, 0.0, 1.0, Effect.WRONG),
        (R.OVER, R.OVER, 9.0, 9.0, Effect.NOTHING),
        (R.INSIDE, R.OVER, 0.0, math.inf, Effect.WRONG),
        (R.OVER, R.ERROR, 0.0, 0.0, Effect.FAILS),
        (R.OVER, R.TIMEOUT, 0.0, 0.0, Effect.UNSETTLED),
        (R.ERROR, R.INSIDE, 0.0, 0.0, Effect.UNSETTLED),
    ],
)
def test_effect_of_a_fix(before: R, after: R, was: float, now: float, wanted: Effect) -> None:
    assert effect((before, done(error=was)), (after, done("proposed", error=now)), 0.05)[0] is wanted


def test_an_unsettled_effect_names_the_arm() -> None:
    late = Observation("remedy-2", "timeout", reason="no end after 60 s")
    assert effect((R.OVER, done()), (R.TIMEOUT, late), 0.05) == (Effect.UNSETTLED, "subject over, remedy-2 timeout")


def test_a_fix_is_not_blamed_for_a_card_that_was_lost_under_it() -> None:
    lost = Observation("proposed", "disturbed", reason="card 0 is lost")
    assert effect((R.OVER, done()), (R.ERROR, lost), 0.05)[0] is Effect.UNSETTLED


def test_a_fix_that_silences_an_exception_with_wrong_numbers_is_wrong() -> None:
    silent = (R.OVER, done("proposed", error=2000.0))
    assert effect((R.OVER, raised("AttributeError", "SCB")), silent, 0.05)[0] is Effect.WRONG


def test_what_ends_an_arm_from_outside_is_no_symptom() -> None:
    """Out of memory is the report's symptom, but not where somebody else has the card's memory."""
    symptoms = (Symptom("OutOfMemoryError"),)
    oom = replace(raised("OutOfMemoryError", "CUDA out of memory"), reason="the card had 3 MiB")
    assert read(oom, Budget("held_bytes", 1), symptoms)[0] is R.OVER
    disturbed = replace(oom, state="disturbed")
    assert read(disturbed, Budget("held_bytes", 1), symptoms) == (R.ERROR, "the card had 3 MiB")


def test_an_arm_that_ran_out_of_memory_has_no_margin() -> None:
    """It came to 99 % of the budget and wanted more; that is no weak control."""
    cut = replace(raised("OutOfMemoryError", "out of memory"), figures={"held_bytes": 99})
    assert margins(cut, done(held_bytes=50), BYTES) == {
        "planted_over_budget": None,
        "budget_over_reference": 2.0,
    }


def test_margins() -> None:
    got = margins(done(held_bytes=300), done(held_bytes=80), BYTES)
    assert got == {"planted_over_budget": 3.0, "budget_over_reference": 1.25}
    assert margins(raised("E", ""), done(held_bytes=0), BYTES) == {
        "planted_over_budget": None,
        "budget_over_reference": math.inf,
    }


def test_margins_of_a_control_condition_and_of_a_limit_of_nothing() -> None:
    """Without a planted arm there is no margin of one; where nothing is allowed, what is over is so without end."""
    assert margins(None, done(held_bytes=80), BYTES) == {"planted_over_budget": None, "budget_over_reference": 1.25}
    assert margins(done(too_many=2), done(too_many=0), Budget("too_many", 0)) == {
        "planted_over_budget": math.inf,
        "budget_over_reference": math.inf,
    }
    assert margins(done(too_many=2), done(too_many=1), Budget("too_many", 0))["budget_over_reference"] == 0


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (1023, "bytes", "1023 B"),
        (1024, "bytes", "1.00 KiB"),
        (1 << 20, "bytes", "1.00 MiB"),
        (3 << 29, "bytes", "1.50 GiB"),
        (-2048, "bytes", "-2.00 KiB"),
        (0.012345, "ratio", "0.0123"),
        (math.inf, "ratio", "non-finite"),
        (12, "count", "12"),
        (34 * 10**9, "parameters", "34B"),
        (None, "bytes", "-"),
    ],
)
def test_show(value: float | None, unit: str, text: str) -> None:
    assert show(value, unit) == text


@pytest.mark.parametrize(
    ("value", "limit", "unit", "texts"),
    [
        (0.007034, 0.00703, "ratio", ("0.007034", "0.00703")),
        (0.5, 0.05, "ratio", ("0.5", "0.05")),
        (math.nextafter(0.05, 1), 0.05, "ratio", ("0.05000000000000001", "0.05")),
        ((16 << 20) + 1, 16 << 20, "bytes", ("16.000001 MiB", "16.000000 MiB")),
        (1000, 1000.5, "bytes", ("1000.0 B", "1000.5 B")),
        (1_000_001, 1_000_002, "count", ("1000001", "1000002")),
        (34_000_001_000, 34 * 10**9, "parameters", ("34.000001B", "34B")),
        (7, 7, "count", ("7", "7")),
        (math.inf, math.nan, "ratio", ("non-finite", "non-finite")),
        (None, 1.0, "bytes", ("-", "1 B")),
    ],
)
def test_a_figure_never_prints_like_the_limit_that_it_is_not(
    value: float | None, limit: float, unit: str, texts: tuple[str, str]
) -> None:
    assert show_pair(value, limit, unit) == texts


@given(st.integers(0, 2**50), st.integers(1, 2**50), st.sampled_from(["bytes", "ratio", "count", "parameters"]))
def test_two_figures_never_print_alike(value: int, limit: int, unit: str) -> None:
    scale = 2.0**-40 if unit == "ratio" else 1
    for other in (value * scale, (limit - 1) * scale, limit * scale):
        shown, allowed = show_pair(other, limit * scale, unit)
        assert (shown == allowed) is (other == limit * scale)


@pytest.mark.parametrize(("value", "text"), [(1.0, "1.00×"), (1.0004, "1.0004×"), (0.99999, "0.99999×"), (3, "3.00×")])
def test_a_margin_prints_as_one_only_where_it_is_one(value: float, text: str) -> None:
    assert (multiple(value), multiple(None), multiple(math.inf)) == (text, "-", "∞")


def test_a_reason_tells_a_figure_from_its_limit() -> None:
    budget = Budget("error", 0.00703)
    assert read(done(error=0.007034), budget, ())[1] == "error 0.007034 against 0.00703 allowed"
    proposed = done(error=0.050001)
    assert effect((R.OVER, done(error=0.01)), (R.INSIDE, proposed), 0.05)[1] == "error 0.050001 against 0.05 allowed"
    read_two = read(done(held_bytes=99, heap_held_bytes=(1 << 20) + 1), replace(BYTES, limit=1 << 20), ())[1]
    assert read_two.endswith("but heap_held_bytes 1.000001 MiB")


@pytest.mark.parametrize(
    ("text", "wanted", "line"),
    [
        ("one", "", "one"),
        ("\n  one\n\ttwo\n\n", "", "one / two"),
        ("a" * 400, "", "a" * 300 + " …"),
        ("a" * 400 + "\nb\nreported here\nc", "reported", "a" * 300 + " … / reported here"),
        ("reported\n" + "a" * 400, "reported", "reported / " + "a" * 289 + " …"),
        ("x" * 1000 + "reported" + "y" * 1000, "reported", "x" * 300 + " … / reported" + "y" * 292),
        ("", "", ""),
    ],
)
def test_a_line_of_an_exception_holds_what_was_reported(text: str, wanted: str, line: str) -> None:
    assert in_a_line(text, wanted) == line


@pytest.mark.parametrize("name", ["held_mb", "peak_GB", "peak_MiB", "live_kb"])
def test_a_budget_in_megabytes_is_rejected(name: str) -> None:
    with pytest.raises(UserError, match="memory is counted in bytes\nhint: name a `\\*_bytes` figure"):
        Budget(name, 1)


@given(st.dictionaries(st.text(max_size=8), st.floats() | st.integers(-(2**60), 2**60), max_size=5))
def test_observations_survive_strict_json(figures: dict[str, float]) -> None:
    text = json.dumps(
        done(x=1.0).to_json() | {"figures": {k: to_number(v) for k, v in figures.items()}}, allow_nan=False
    )
    back = Observation.from_json(json.loads(text)).figures
    assert back.keys() == figures.keys()
    assert all(back[k] == v or (math.isnan(v) and math.isnan(back[k])) for k, v in figures.items())
