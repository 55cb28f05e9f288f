"""A record that says two things is told so; what a run or a redaction makes of a record contradicts nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from repros import cases
from repros.case import Symptom
from repros.commands import cli
from repros.errors import UserError
from repros.run import ending, results
from repros.run.consistency import alike, contradiction
from repros.run.results import Record, Run
from repros.verdict import Outcome, Verdict
from tests.factories import done, raised, record

Change = Callable[[dict[str, Any]], object]
EVIDENCE = sorted(path.parent for path in results.REPORTS.glob("*/results.jsonl"))


@pytest.mark.parametrize("folder", EVIDENCE, ids=lambda folder: folder.name)
def test_the_committed_evidence_contradicts_nothing(folder: Path) -> None:
    records, notices = ending.judged([folder], {e.name: e for e in cases.find()})
    assert records
    assert not notices
    assert not [says for one in records if (says := contradiction(one))]


@pytest.mark.parametrize("verdict", Verdict)
def test_each_verdict_agrees_with_what_it_was_drawn_from(verdict: Verdict) -> None:
    assert contradiction(record(verdict=verdict)) == ""


def test_repeats_are_decided_again() -> None:
    first, *controls = record().arms
    over = replace(first, figures={"held_bytes": 30})
    split = record(arms=(first, over, *controls))
    assert split.verdict is Verdict.INCONCLUSIVE
    assert contradiction(split) == ""
    assert "observations say `inconclusive`: split vote" in contradiction(replace(split, verdict=Verdict.ABSENT))
    symptom = record(arms=(raised(), raised(), *controls), symptoms=(Symptom("ValueError"),))
    assert symptom.verdict is Verdict.REPRODUCED
    assert contradiction(symptom) == ""


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda line: line.update(verdict="reproduced"), "the verdict is `reproduced`, its observations say `absent`"),
        (lambda line: line["arms"][0]["figures"].update(held_bytes=99), "the subject arm is read as `inside`, its"),
        (lambda line: line["budget"].update(limit=2), "the subject arm is read as `inside`, its observation"),
        (lambda line: line.update(reason="held_bytes 30 B against 10 B allowed"), "the reason is `held_bytes 30 B ag"),
        (lambda line: line.update(outcome="regression"), "`absent`, not expected, is `as expected`; the"),
        (lambda line: line.update(failed=True), "`absent`, not expected, is `as expected`; the"),
        (lambda line: line.update(expected=True), "`absent`, expected, is `fixed`; the record says `as expected`"),
        (lambda line: line["margins"].update(planted_over_budget=7.0), "the margin planted_over_budget is 7.0, the"),
        (lambda line: line.update(margins={}), "the margin planted_over_budget is None, the figures say 3"),
        (lambda line: line["arms"].pop(1), "arms subject, planted; a trial has a subject, one reference and one plan"),
        (lambda line: line.update(arms=[]), "`absent` without an arm"),
        (lambda line: line["readings"].pop("planted"), "readings of reference, subject, arms subject, ref"),
        (lambda line: line["readings"].update(subject="over"), "the subject arm is read as `over`, its obs"),
        (lambda line: line["arms"][0].update(state="timeout"), "the subject arm is read as `inside`, its observation"),
        (lambda line: line["arms"][0].update(exception=raised().exception), "the subject arm is done and has an excep"),
        (lambda line: line["arms"][0].update(started=9.0, ended=3.0), "the subject arm ended before it started"),
        (lambda line: line["budget"].update(unit="count"), "`held_bytes` is counted in bytes, the budget says count"),
        (lambda line: line.update(proposed={"effect": "cures", "reason": ""}), "an effect of a proposed fix that"),
    ],
)  # fmt: skip
def test_a_contradiction_is_said_with_its_line(tmp_path: Path, change: Change, says: str) -> None:
    run = Run(tmp_path / "r")
    run.append(record(condition="other"))
    line = json.loads(record().to_line())
    change(line)
    with run.path.open("a") as file:
        file.write(json.dumps(line) + "\n")
    with pytest.raises(UserError) as error:
        results.load(run.folder)
    assert error.value.what.startswith(f"{run.path}:2: a trial that contradicts itself: {says}"), error.value.what


def test_a_control_condition_has_no_planted_arm_and_any_other_has_one() -> None:
    whole = record()
    subject, reference, _ = whole.arms
    control = replace(
        whole,
        control=True,
        arms=(subject, reference),
        readings={"subject": "inside", "reference": "inside"},
        margins={**whole.margins, "planted_over_budget": None},
    )
    assert contradiction(control) == ""
    assert "a control condition has a subject and one reference" in contradiction(replace(whole, control=True))
    assert "a trial has a subject, one reference and one planted" in contradiction(replace(control, control=False))
    assert "planted_over_budget is 3.0, the figures say None" in contradiction(replace(control, margins=whole.margins))


def test_where_nothing_is_recorded_a_verdict_is_new_and_what_is_unsettled_is_unsettled() -> None:
    new = replace(record(), expected=None, outcome=Outcome.NEW)
    assert contradiction(new) == ""
    says = contradiction(replace(new, outcome=Outcome.AS_EXPECTED))
    assert says == "`absent`, nothing recorded, is `new`; the record says `as expected`"
    assert contradiction(replace(new, failed=True)).endswith("the record says `new`, failed")
    assert contradiction(replace(record(verdict=Verdict.ERROR), expected=None)) == ""


def test_the_effect_of_a_fix_is_decided_again() -> None:
    bad, *controls = record(verdict=Verdict.REPRODUCED).arms
    fixed = done("proposed", held_bytes=3)
    whole = record(arms=(bad, *controls, fixed))
    cures = replace(whole, proposed={"effect": "cures", "reason": "inside the budget with it"})
    assert contradiction(cures) == ""
    says = contradiction(replace(cures, proposed={"effect": "changes nothing", "reason": ""}))
    assert says == "the proposed fix `changes nothing`, its observations say `cures`"


def test_the_effect_of_a_remedy_is_decided_again() -> None:
    bad, *controls = record(verdict=Verdict.REPRODUCED).arms
    whole = record(arms=(bad, *controls, done("remedy", held_bytes=3), done("remedy-2", held_bytes=30)))
    told = {"text": "do it", "recommended": "", "reason": ""}
    remedies = {"remedy": {**told, "effect": "cures"}, "remedy-2": {**told, "effect": "changes nothing"}}
    tried = replace(whole, remedies=remedies)
    assert contradiction(tried) == ""
    says = contradiction(replace(tried, remedies={**remedies, "remedy-2": {**told, "effect": "cures"}}))
    assert says == "the remedy-2 arm `cures`, its observations say `changes nothing`"
    assert contradiction(whole) == "remedies none, arms of remedies remedy, remedy-2"
    one = {name: remedies[name] for name in ("remedy",)}
    assert contradiction(replace(tried, remedies=one)) == "remedies remedy, arms of remedies remedy, remedy-2"


def test_a_verdict_by_symptoms_that_the_case_has_no_more_is_decided_anew_and_said() -> None:
    entry = next(e for e in cases.find() if e.case.symptoms)
    condition = entry.case.conditions[0].name
    arms = (raised("ZeroDivisionError", "unheard of"), *record().arms[1:])
    old = record(entry.name, condition, arms=arms, symptoms=(Symptom("ZeroDivisionError"),))
    assert old.verdict is Verdict.REPRODUCED
    made, notice = ending.by_symptoms(old, {entry.name: entry})
    assert made.verdict is Verdict.ERROR
    assert notice.endswith("recorded `reproduced`; by the symptoms that the case declares: `error`")


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("error 0.00703 against 0.00703 allowed", "error 0.007031 against 0.0070302 allowed", True),
        ("held_bytes 2.00 MiB against 1.00 MiB allowed", "held_bytes 2.00 MiB against 1.00 MiB allowed", True),
        ("held_bytes 2.00 MiB against 1.00 MiB allowed", "held_bytes 2.20 MiB against 1.00 MiB allowed", False),
        ("held_bytes 2.00 MiB against", "held_bytes 2.00 KiB against", False),
        ("raised ValueError: first", "raised ValueError: first / second", True),
        ("raised ValueError: first", "raised KeyError: first", False),
        ("raised ValueError: the first of several", "raised ValueError: the fir … / second", True),
        ("raised ValueError: the last of several", "raised ValueError: the first of se …", False),
    ],
)
def test_reasons_are_alike(one: str, other: str, same: bool) -> None:
    assert alike(one, other) is same


def test_a_resumed_run_ends_as_its_report_does(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A regression that an earlier call found is one of the run, whatever this call tries."""
    run = Run(tmp_path / "runs" / "20260101-000000-run")
    cell = "tf5.23.0-bnb0.50.2"
    packages = {"torch": "2.13.0", "transformers": "5.23.0", "bitsandbytes": "0.50.2"}
    made = record("gh1935_saved_weight", "nf4-eager", cell, Verdict.REPRODUCED, expected=False, packages=packages)
    run.append(made)
    words = ["gh1935_saved_weight", "--condition", "nf4-eager", "--cell", cell, "--reports", str(tmp_path)]
    assert cli.main(["report", str(run.folder)]) == 1
    told = capsys.readouterr().out
    assert cli.main(["run", *words, "--resume"]) == 1
    resumed = capsys.readouterr().out
    for said in (told, resumed):
        assert "every verdict is as recorded" not in said
        assert "1 not as recorded" in said
        assert "hint: the record says that this version is not affected" in said
    assert [one.key for one in results.load(run.folder)[0]] == [made.key]


def test_verdicts_of_the_evidence_are_those_recorded(tmp_path: Path) -> None:
    """Decided again by today's symptoms, not one of the committed trials changes."""
    assert EVIDENCE
    known = {e.name: e for e in cases.find()}
    for folder in EVIDENCE:
        kept = {one.key: one.verdict for one in results.load(folder)[0]}
        assert kept, folder
        judged: list[Record] = ending.judged([folder], known)[0]
        assert {one.key: one.verdict for one in judged} == kept
