"""Reported numbers stand beside measured ones, and verdicts on a GPU beside those of their proxies."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from repros import cases
from repros.case import Claim, Reading
from repros.evidence import cards, proxies
from repros.report import machine, reported
from repros.run.results import Record
from repros.run.trial import judged_again
from repros.verdict import Outcome, Verdict
from tests.factories import record

GIB = 1 << 30
KNOWN = {e.name: e for e in cases.find()}


def measured(condition: str, version: str, figures: dict[str, float], verdict: Verdict = Verdict.ABSENT) -> Record:
    """Return a record of transformers#44387 in a release of transformers."""
    packages = {"torch": "2.11.0+cu130", "transformers": version, "bitsandbytes": "0.49.2"}
    made = record("gh44387_reserved_memory", condition, f"cell-{version}", verdict, packages=packages)
    return replace(made, arms=tuple(replace(arm, figures=figures) for arm in made.arms))


CLAIM = Claim(
    "it doubles",
    {"after": "about 13.83 GB", "limit": "1 GB"},
    readings={
        "after": (Reading("cuda_end_reserved_bytes", "big", GIB, versions={"transformers": ">=5"}),),
        "limit": (Reading("", "big", GIB, arm="budget"),),
    },
)


def test_a_number_is_read_where_the_claim_says() -> None:
    figures = {"cuda_end_reserved_bytes": 13.6 * GIB}
    trials = [
        measured("big", "5.2.0", figures),
        measured("big", "4.57.5", figures),
        measured("small", "5.2.0", figures),
    ]
    after, *limits = reported.rows(CLAIM, trials, "gh44387_reserved_memory")
    assert (after.name, after.cell, after.unit, after.arm) == ("after", "cell-5.2.0", " GB", "subject")
    assert after.ratio == pytest.approx(13.6 / 13.83)
    assert [row.cell for row in limits] == ["cell-5.2.0", "cell-4.57.5"]
    assert limits[0].measured == trials[0].budget["limit"]


def test_a_number_is_spelled_as_the_report_spells_it() -> None:
    claim = Claim(
        "a smaller one", {"largest": "4B"}, readings={"largest": (Reading("largest_parameters", "big", 10**9),)}
    )
    for parameters, printed in ((9 * 10**9, "9B"), (0, "0B"), (7.62 * 10**9, "7.62B")):
        trials = [measured("big", "5.2.0", {"largest_parameters": parameters})]
        (largest,) = reported.spans(reported.rows(claim, trials, "gh44387_reserved_memory"))
        assert largest.measured == printed


def test_cells_that_differ_are_printed_as_a_range() -> None:
    trials = [
        measured("big", version, {"cuda_end_reserved_bytes": size * GIB})
        for version, size in (("5.2.0", 13.6), ("5.1.0", 13.9), ("5.0.0", 13.6))
    ]
    after, limit = reported.spans(reported.rows(CLAIM, trials, "gh44387_reserved_memory"))
    assert (after.measured, after.ratio, after.where) == ("13.60 to 13.90 GiB", "0.983 to 1.005", "3 cells")
    assert " to " not in limit.measured


def test_why_a_number_may_differ_is_said_once() -> None:
    reading = Reading("cuda_end_reserved_bytes", "big", GIB, note="it is a race")
    readings = {"a": (reading,), "b": (reading,), "c": (replace(reading, per_unit=10**9, note=""),)}
    claim = Claim("", {"a": "1 GB", "b": "2 GB", "c": "3 GB"}, readings=readings)
    trials = [measured("big", version, {"cuda_end_reserved_bytes": GIB}) for version in ("5.2.0", "5.1.0")]
    found = reported.spans(reported.rows(claim, trials, "gh44387_reserved_memory"))
    assert [span.name for span in found] == ["a", "b", "c"]
    assert reported.notes(found) == ["a; b: the report's GB is taken for GiB.", "a; b: it is a race."]
    assert found[2].measured.endswith(" GB")
    assert reported.notes(found[:2]) == ["all: the report's GB is taken for GiB.", "all: it is a race."]


def test_an_arm_that_ran_out_of_memory_says_so_and_gives_no_number() -> None:
    figures = {"cuda_end_reserved_bytes": 11.2 * GIB}
    ended = measured("big", "5.2.0", figures)
    arms = tuple(replace(arm, state="raised", reason="out of memory in phase step: CUDA …") for arm in ended.arms)
    trials = [measured("big", "5.1.0", figures), replace(ended, arms=arms)]
    oom, done, _ = reported.spans(reported.rows(CLAIM, trials, "gh44387_reserved_memory"))
    assert (oom.measured, oom.ratio, oom.where) == ("out of memory", "-", "cell-5.2.0")
    assert (done.measured, done.where) == ("11.20 GiB", "cell-5.1.0")


def test_an_arm_that_somebody_disturbed_measured_nothing() -> None:
    whole = measured("big", "5.2.0", {"cuda_end_reserved_bytes": 11.2 * GIB})
    reason = "the card had 3 MiB; out of memory in phase step"
    arms = tuple(replace(arm, state="disturbed", reason=reason) for arm in whole.arms)
    assert [row.name for row in reported.rows(CLAIM, [replace(whole, arms=arms)], "gh44387_reserved_memory")] == [
        "limit"
    ]
    assert reported.ended(arms[0]) == "disturbed"


def test_another_case_may_measure_a_number() -> None:
    elsewhere = Claim("", {"n": "1 GB"}, readings={"n": (Reading("peak", "big", GIB, case="gh44387_reserved_memory"),)})
    trials = [measured("big", "5.2.0", {"peak": GIB}), replace(measured("big", "5.3.0", {"peak": GIB}), case="other")]
    assert [row.cell for row in reported.rows(elsewhere, trials, "gh44728_fp16_load_leak")] == ["cell-5.2.0"]
    own = replace(elsewhere, readings={"n": (Reading("peak", "big", GIB),)})
    assert [row.cell for row in reported.rows(own, trials, "other")] == ["cell-5.3.0"]


def test_what_shapes_alone_give_stands_beside_what_was_tried() -> None:
    share = Reading("whole_bytes", "big", 0.01, "arithmetic", value=lambda: 0.484)
    claim = Claim("it ends half-way", {"loaded": "about 48 %"}, readings={"loaded": (share,)})
    tried = measured("big", "5.2.0", {})
    trials = [tried, replace(measured("big", "4.57.5", {}), verdict=Verdict.UNSUPPORTED, arms=())]
    (loaded,) = reported.spans(reported.rows(claim, trials, tried.case))
    assert (loaded.measured, loaded.ratio, loaded.arm, loaded.cells) == (
        "48.40 %",
        "1.008",
        "arithmetic",
        ("cell-5.2.0",),
    )


def test_a_machine_is_told_with_its_torch_and_days() -> None:
    host = replace(measured("big", "5.2.0", {}), date="2026-11-22T00:16:14Z", machine={"cpu_model": "X", "cores": 16})
    host.environment["packages"]["torch"] = "2.11.0"
    host = replace(host, environment={**host.environment, "build": "host (2.11.0+cu130)"})
    pinned = replace(measured("big", "5.2.0", {}), date="2026-11-21T23:00:00Z", machine=host.machine)
    pinned.environment["packages"]["torch"] = "2.9.1"
    (line,) = machine.machines([host, pinned])
    assert line.startswith("X, 16 cores, ")
    assert line.endswith(", torch 2.9.1, 2.11.0+cu130, 2026-11-21 to 2026-11-22")


def test_an_arm_that_ended_early_has_no_number() -> None:
    assert [row.name for row in reported.rows(CLAIM, [measured("big", "5.2.0", {})], "gh44387_reserved_memory")] == [
        "limit"
    ]


@pytest.mark.parametrize(
    ("text", "number"),
    [("13.83 GB", 13.83), ("about 889 MB", 889.0), ("1,024 MiB, more or less", 1024.0), ("about 48 %", 48.0)],
)
def test_numbers_are_read_out_of_the_reports_words(text: str, number: float) -> None:
    assert reported.quantity(text)[0] == number


def test_words_without_a_number_are_an_error() -> None:
    with pytest.raises(ValueError, match="no number with a unit in `a lot`"):
        reported.quantity("a lot")


def test_every_reading_of_a_case_is_of_a_condition_and_a_number() -> None:
    assert sum(len(claim.readings) for entry in KNOWN.values() for claim in entry.case.claims) >= 12
    for entry in KNOWN.values():
        for claim in entry.case.claims:
            assert claim.readings.keys() <= claim.reported.keys()
            for name, several in claim.readings.items():
                for reading in several:
                    measuring = KNOWN[reading.case] if reading.case else entry
                    assert measuring.condition(reading.condition)
                assert reported.quantity(claim.reported[name])[0] > 0


def test_every_proxy_is_a_condition_on_a_cpu() -> None:
    lone = set()
    for entry in KNOWN.values():
        for condition in (c for c in entry.case.conditions if c.device == "cuda"):
            if condition.proxy:
                assert entry.condition(condition.proxy).device == "cpu"
            else:
                lone.add(entry.name)
    sizes = {"gh1849_two_cards", "gh1935_card_table", "gh1935_largest"}
    caches = {"gh3265_reserved_memory"}
    assert lone == sizes | caches, "no CPU stands for a card's size, or for its cache; everything else has its proxy"


def test_proxies_are_paired_by_releases() -> None:
    gpu = [
        measured("nf4-7b-cuda", "5.2.0", {}, Verdict.REPRODUCED),
        measured("nf4-7b-cuda", "4.57.5", {}, Verdict.REPRODUCED),
        measured("nf4-7b-cuda", "5.4.0", {}, Verdict.ABSENT),
        measured("int8-7b-cuda", "5.2.0", {}, Verdict.INCONCLUSIVE),
    ]
    cpu = [
        measured("nf4", "5.2.0", {}, Verdict.REPRODUCED),
        measured("nf4", "4.57.5", {}, Verdict.ABSENT),
        measured("int8", "5.2.0", {}, Verdict.REPRODUCED),
    ]
    found = proxies.pairs(gpu, cpu, KNOWN)
    assert [(a.condition, a.verdict is b.verdict) for a, b in found] == [("nf4-7b-cuda", True), ("nf4-7b-cuda", False)]
    text = proxies.page(gpu, cpu, KNOWN, [Path("reports/a")])
    assert "1 of 2 verdicts on a GPU" in text
    assert "| reproduced on a GPU | 1 | 1 |\n| absent on a GPU | 0 | 0 |" in text
    assert "1 of the 3 verdicts on a GPU are not compared: 0 have no proxy (a card's size has none), 1 have one" in text
    assert "| nf4-7b-cuda | nf4 | cell-4.57.5 | reproduced | absent | **differ** |" in text


def test_two_kinds_of_card_are_held_against_each_other_trial_by_trial() -> None:
    one = [
        measured("nf4-7b-cuda", "5.2.0", {}, Verdict.REPRODUCED),
        measured("nf4-7b-cuda", "5.4.0", {}, Verdict.ABSENT),
        measured("int8-7b-cuda", "5.2.0", {}, Verdict.ABSENT),
        measured("int8-7b-cuda", "5.4.0", {}, Verdict.INCONCLUSIVE),
    ]
    other = [
        measured("nf4-7b-cuda", "5.2.0", {}, Verdict.REPRODUCED),
        measured("nf4-7b-cuda", "5.4.0", {}, Verdict.REPRODUCED),
        measured("int8-7b-cuda", "5.4.0", {}, Verdict.ABSENT),
    ]
    assert [a.verdict is b.verdict for a, b in cards.pairs(one, other)] == [True, False]
    text = cards.section(one, other, [Path("reports/a"), Path("reports/b")])
    assert "1 of 2 verdicts are the same in `reports/a`" in text
    assert "1 more were settled in the first alone, 1 in the second alone" in text
    assert text.count("| **differ** |") == 1
    assert cards.section(one, [], [Path("reports/a"), Path("reports/b")]).count("0 of 0 verdicts") == 1


def test_a_record_is_held_against_todays_expectations() -> None:
    """5.2.0 is recorded as affected on a CPU: a record that says otherwise was written before that was known."""
    old = replace(
        measured("nf4", "5.2.0", {}, Verdict.REPRODUCED),
        device="cpu",
        expected=False,
        outcome=Outcome.REGRESSION,
        failed=True,
    )
    new = judged_again(old, KNOWN)
    assert (new.expected, new.outcome, new.failed) == (True, Outcome.AS_EXPECTED, False)
    assert judged_again(new, {}) == new
