"""Whether a report hits versions: the rule, over invented conditions, and over all committed evidence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from repros import ROOT
from repros.advisory import decide, model
from repros.advisory.decide import Answer, Given
from repros.cells.matrix import Cell, load_matrix
from repros.run import results
from repros.run.results import Record
from repros.verdict import SETTLED, Verdict

TRIED = {"torch": ["2.11.0", "2.13.0"], "bitsandbytes": ["0.46.0", "0.49.2", "0.50.2"], "peft": ["0.21.2"]}
UNTIL_0_50: dict[str, str] = {"bitsandbytes": "<0.50"}
BOTH = {"bitsandbytes": "<0.50", "torch": "<2.12"}


def condition(
    windows: Sequence[Mapping[str, str]] = (UNTIL_0_50,),
    tried: Mapping[str, list[str]] = TRIED,
    needs: model.Needs | None = None,
) -> model.Condition:
    return model.Condition(
        "nf4", "cpu", True, [dict(one) for one in windows], dict(tried), 2, 1, needs or model.Needs()
    )


def decided(one: model.Condition, whole: bool = False, **versions: str) -> tuple[str, str]:
    found = decide.condition(one, Given(versions, whole=whole))
    return str(found.answer), found.why


@pytest.mark.parametrize(
    ("version", "answer", "why"),
    [
        ("0.45.9", "unknown", "bitsandbytes 0.45.9: not tried, 0.46.0 to 0.50.2 were"),
        ("0.46.0", "hit", "bitsandbytes 0.46.0: bad"),
        ("0.47.0", "hit", "bitsandbytes 0.47.0: bad"),
        ("0.49.2", "hit", "bitsandbytes 0.49.2: bad"),
        ("0.50.0", "unknown", "between bitsandbytes 0.49.2, bad, and 0.50.2, good, nothing was tried"),
        ("0.50.2.dev0", "unknown", "between bitsandbytes 0.49.2, bad, and 0.50.2, good, nothing was tried"),
        ("0.50.2", "not hit", "bitsandbytes 0.50.2: good"),
        ("0.50.2+cu128", "not hit", "bitsandbytes 0.50.2+cu128: good"),
        ("0.50.2.post1", "unknown", "bitsandbytes 0.50.2.post1: not tried, 0.46.0 to 0.50.2 were"),
        ("nightly", "unknown", "bitsandbytes nightly: not tried, 0.46.0 to 0.50.2 were"),
    ],
)
def test_one_package(version: str, answer: str, why: str) -> None:
    assert decided(condition(), torch="2.12.0", bitsandbytes=version, peft="0.21.2") == (answer, why)


@pytest.mark.parametrize(
    ("torch", "bitsandbytes", "answer"),
    [
        ("2.11.0", "0.49.2", "hit"),
        ("2.13.0", "0.49.2", "not hit"),
        ("2.12.0", "0.49.2", "unknown"),
        ("2.12.0", "0.50.2", "not hit"),
        ("2.11.0", "0.50.0", "unknown"),
        ("2.13.0", "0.50.0", "not hit"),
        ("2.12.0", "0.50.0", "unknown"),
        ("2.14.0", "0.50.2", "unknown"),
    ],
)
def test_every_corner_of_the_box_must_say_the_same(torch: str, bitsandbytes: str, answer: str) -> None:
    assert decided(condition([BOTH]), torch=torch, bitsandbytes=bitsandbytes, peft="0.21.2")[0] == answer


def test_a_package_that_has_a_part_is_held_to_what_was_tried_of_it() -> None:
    assert decided(condition(), torch="2.11.0", bitsandbytes="0.49.2", peft="0.18.0") == (
        "unknown",
        "peft 0.18.0: not tried, 0.21.2 was",
    )
    assert decided(condition(), torch="2.11.0", bitsandbytes="0.49.2", accelerate="0.1")[0] == "hit"


def test_what_is_not_named_is_decided_by_the_others() -> None:
    assert decided(condition(), bitsandbytes="0.49.2")[0] == "hit"
    assert decided(condition([BOTH]), bitsandbytes="0.50.2")[0] == "not hit"
    assert decided(condition([BOTH]), bitsandbytes="0.49.2") == (
        "unknown",
        "torch is not named, and decides: 2.11.0 is bad, 2.13.0 good",
    )


def test_what_is_not_installed_cannot_be_hit() -> None:
    assert decided(condition(), whole=True, torch="2.11.0", bitsandbytes="0.49.2") == (
        "not hit",
        "peft is not installed",
    )


def test_needs() -> None:
    fp4 = model.Needs(packages={"bitsandbytes": ">=0.47"}, reason="fp4 came with it")
    assert decided(condition(needs=fp4), bitsandbytes="0.46.0") == (
        "not hit",
        "takes bitsandbytes >=0.47 (fp4 came with it)",
    )
    assert decided(condition(needs=fp4), bitsandbytes="0.48.0")[0] == "hit"
    for needs, host, why in (
        (model.Needs(compiler=True), {"compiler": False}, "takes a C++ compiler, here is none"),
        (model.Needs(cards=2), {"cards": 1}, "takes 2 cards, here 1"),
        (model.Needs(cpu=["amx_tile"]), {"cpu": frozenset({"sse"})}, "takes a CPU with amx_tile"),
    ):
        one = condition(needs=needs)
        assert decide.condition(one, Given({"bitsandbytes": "0.49.2"}, **host)).why == why
        assert decide.condition(one, Given({"bitsandbytes": "0.49.2"})).answer is Answer.HIT
    # How much memory the trial took is of its size, and not of the bug.
    large = condition(needs=model.Needs(card_bytes=80 << 30))
    assert decide.condition(large, Given({"bitsandbytes": "0.49.2"}, cards=1)).answer is Answer.HIT


# --- over committed evidence ---------------------------------------------------------------------

CELLS = [cell for cell in load_matrix(ROOT / "matrix.yaml").cells if {"cpu", "gpu"} & {*cell.tiers}]


@pytest.fixture(scope="module")
def evidence() -> list[Record]:
    folders = sorted(path.parent for path in (ROOT / "reports").glob(f"*/{results.RESULTS}"))
    return [record for folder in folders for record in results.load(folder)[0]]


@pytest.fixture(scope="module")
def advisories() -> list[model.Advisory]:
    return model.load()


@pytest.mark.slow
@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: cell.name)
def test_a_cell_is_hit_by_what_was_reproduced_in_it(
    cell: Cell, evidence: list[Record], advisories: list[model.Advisory]
) -> None:
    mine = [record for record in evidence if record.cell == cell.name]
    versions = next(record.versions for record in mine if record.verdict in SETTLED)  # torch as the host had it
    found = decide.findings(advisories, Given(versions, whole=True, devices=(cell.device,)))
    reproduced = {record.case for record in mine if record.verdict is Verdict.REPRODUCED}
    hit = [one for one in found if one.answer is Answer.HIT]
    reports = {one.about.report: {each.case for each in one.about.mechanisms} for one in advisories}
    assert {one.advisory.about.report for one in hit} == {name for name, cases in reports.items() if cases & reproduced}
    assert reproduced <= {one.mechanism.case for one in hit}
    verdicts = {(record.case, record.condition): record.verdict for record in mine if record.verdict in SETTLED}
    for one in found:
        for each in one.decisions:
            verdict = verdicts.get((one.mechanism.case, each.condition.name))
            where = f"{one.mechanism.case} [{each.condition.name}]: {each.answer}, {verdict}"
            # What was not tried in this very cell (its trial was unsupported) is decided by those next to it.
            assert verdict is None or each.answer is {Verdict.REPRODUCED: Answer.HIT}.get(verdict, Answer.NOT_HIT), (
                where
            )


def test_the_cells_are_those_that_evidence_is_of() -> None:
    assert len(CELLS) == 12


def test_outside_of_everything_that_was_tried_nothing_is_said(advisories: list[model.Advisory]) -> None:
    for versions in (
        {"torch": "9.0.0", "transformers": "9.0.0", "bitsandbytes": "9.0.0"},
        {"torch": "1.0.0", "transformers": "4.0.0", "bitsandbytes": "0.40.0"},
    ):
        found = decide.findings(advisories, Given(versions))
        needing = [one for one in found if one.answer is Answer.NOT_HIT]
        assert all(each.why.startswith("takes ") for one in needing for each in one.decisions)
        assert all(one.answer is not Answer.HIT for one in found)
        assert len(found) - len(needing) > 20


def test_nobody_is_told_to_upgrade_to_what_they_have(advisories: list[model.Advisory]) -> None:
    for cell in CELLS:
        pins = {name: pin for name, pin in cell.pins.items() if pin != "host"}
        for one in decide.findings(advisories, Given(pins)):
            if one.answer is Answer.HIT and one.upgrade:
                assert any(decide.parsed(pins.get(name, "0")) < decide.parsed(to) for name, to in one.upgrade.items())  # type: ignore[operator]


def test_a_witness_of_an_advisory_is_there(advisories: list[model.Advisory]) -> None:
    named = {each.witness for one in advisories for case in one.about.mechanisms for each in case.conditions}
    scripts = {Path(name) for name in named if name}
    assert len(scripts) > 9
    assert all((ROOT / script).is_file() for script in scripts)
