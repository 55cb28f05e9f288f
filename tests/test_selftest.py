"""The harness on trial: what arms can do to it, and what verdict must come of it."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from repros.cases import Entry
from repros.redaction.redact import Redactor
from repros.report import junit, markdown, terminal
from repros.run.consistency import contradiction
from repros.run.record import Record
from repros.verdict import Outcome, Verdict
from repros.worker.supervisor import kill_strays
from tests.conftest import Bench
from tests.processes import working_below
from tests.waiting import eventually

VERDICTS = {
    "reference-imports-a-package": (Verdict.ABSENT, "held_bytes 1.00 MiB against 1.25 MiB allowed"),
    "planted-asks-for-a-version": (Verdict.REPRODUCED, "held_bytes 2.00 MiB against 1.25 MiB allowed"),
    "passes": (Verdict.ABSENT, "held_bytes 1.00 MiB against 1.25 MiB allowed"),
    "breaks": (Verdict.REPRODUCED, "held_bytes 2.00 MiB against 1.25 MiB allowed"),
    "hangs": (Verdict.TIMEOUT, "no end after 4 s"),
    "leaves-daemon-and-hangs": (Verdict.TIMEOUT, "no end after 4 s"),
    "ignores-signals": (Verdict.TIMEOUT, "no end after 4 s"),
    "crashes": (Verdict.ERROR, "killed by SIGSEGV"),
    "exits": (Verdict.ERROR, "ended with exit code 0 and no observation"),
    "exhausts-memory": (Verdict.ERROR, "out of memory in phase forward"),
    "prints-garbage": (Verdict.ABSENT, "held_bytes 1.00 MiB against 1.25 MiB allowed"),
    "prints-100mb": (Verdict.ABSENT, "held_bytes 1.00 MiB against 1.25 MiB allowed"),
    "leaves-child": (Verdict.ABSENT, "held_bytes 1.00 MiB against 1.25 MiB allowed"),
    "leaves-daemon": (Verdict.ABSENT, "held_bytes 1.00 MiB against 1.25 MiB allowed"),
    "raises-symptom": (Verdict.REPRODUCED, "raised KeyError: 'the reported one'"),
    "raises-other": (Verdict.ERROR, "ValueError in phase forward: something else"),
    "raises-symptom-in-its-second-line": (Verdict.REPRODUCED, " … / the reported one"),
    "raises-what-no-file-can-hold": (Verdict.ERROR, "ValueError in phase forward: no file \\udcff here"),
    "raises-what-has-no-text": (Verdict.ERROR, "MuteError in phase forward: (its text cannot be had: TypeError)"),
    "returns-a-bool": (Verdict.ERROR, "figure `held_bytes` is a bool: return an int or a float"),
    "planted-silent": (Verdict.INCONCLUSIVE, "the planted arm is not over the budget"),
    "planted-crashes": (Verdict.INCONCLUSIVE, "the planted arm is not over the budget: killed by SIGSEGV"),
    "planted-hangs": (Verdict.INCONCLUSIVE, "the planted arm is not over the budget: no end after 4 s"),
    "reference-fires": (Verdict.INCONCLUSIVE, "the reference arm is not inside the budget"),
    "reference-raises": (Verdict.INCONCLUSIVE, "the reference arm is not inside the budget: ValueError"),
    "hidden-from-one-instrument": (Verdict.INCONCLUSIVE, "but heap_held_bytes 3.0"),  # and some KiB of small objects
    "witness-agrees": (Verdict.ABSENT, "held_bytes 1.00 MiB against 1.25 MiB allowed"),
    "witness-agrees-that-it-is-bad": (Verdict.REPRODUCED, "held_bytes 2.00 MiB against 1.25 MiB allowed"),
    "witness-disagrees": (
        Verdict.INCONCLUSIVE,
        "the witness witness_bad.py votes bad (bad: one tensor too many is held); the arms say `absent`: held_bytes",
    ),
    "witness-cannot-tell": (Verdict.INCONCLUSIVE, "votes skip (skip: its control failed); the arms say `reproduced`"),
    "witness-raises": (Verdict.INCONCLUSIVE, "votes skip (ValueError: a fault of the witness)"),
    "witness-hangs": (Verdict.INCONCLUSIVE, "votes skip (no end after 4 s)"),
    "witness-of-an-error": (Verdict.ERROR, "ValueError in phase forward: something else"),
    "control": (Verdict.ABSENT, "held_bytes 1.00 MiB against 1.25 MiB allowed"),
    "control-breaks": (Verdict.REPRODUCED, "held_bytes 2.00 MiB against 1.25 MiB allowed"),
    "nothing-recorded": (Verdict.ABSENT, "held_bytes 1.00 MiB against 1.25 MiB allowed"),
    "remedies": (Verdict.REPRODUCED, "held_bytes 2.00 MiB against 1.25 MiB allowed"),
    "remedies-where-nothing-is-wrong": (Verdict.ABSENT, "held_bytes 1.00 MiB against 1.25 MiB allowed"),
    "remedies-of-what-is-unsettled": (Verdict.INCONCLUSIVE, "the planted arm is not over the budget"),
    "remedies-of-what-is-not-affected": (Verdict.ABSENT, "held_bytes 1.00 MiB against 1.25 MiB allowed"),
}
EFFECTS = {
    "fix-cures": "cures",
    "fix-changes-nothing": "changes nothing",
    "fix-makes-wrong": "makes numbers wrong",
    "fix-fails": "fails",
}


@pytest.mark.parametrize("condition", VERDICTS)
def test_verdict(bench: Bench, harness: Entry, condition: str) -> None:
    record = bench.run(harness, condition)
    verdict, reason = VERDICTS[condition]
    assert (record.verdict, reason in record.reason) == (verdict, True), record.reason


@pytest.mark.parametrize("condition", EFFECTS)
def test_effect_of_the_proposed_fix(bench: Bench, harness: Entry, condition: str) -> None:
    record = bench.run(harness, condition)
    assert record.proposed is not None
    assert record.proposed["effect"] == EFFECTS[condition]


def test_remedies_are_arms_and_each_is_judged(bench: Bench, harness: Entry) -> None:
    """One that needs what the cell has not is left out; none of them has a say in the verdict."""
    record = bench.run(harness, "remedies")
    assert {arm: one["effect"] for arm, one in record.remedies.items()} == {
        "remedy": "cures",
        "remedy-2": "changes nothing",
        "remedy-3": "fails",
        "remedy-4": "cures",
        "remedy-5": "makes numbers wrong",
    }
    assert record.remedies["remedy"]["text"] == "hold one tensor"
    assert record.remedies["remedy"]["recommended"] == "the report"
    assert "something else" in record.remedies["remedy-3"]["reason"]
    assert record.readings["remedy"] == "inside"
    assert (record.verdict, record.outcome) == (Verdict.REPRODUCED, Outcome.NEW)
    assert contradiction(record) == ""
    assert Record.from_json(json.loads(record.to_line())) == record


def test_every_report_of_a_run_tells_of_its_remedies(bench: Bench, harness: Entry) -> None:
    record, known = bench.run(harness, "remedies"), {harness.name: harness}
    out = io.StringIO()
    terminal.detail(record, terminal.console(file=out))
    assert "remedy: hold one tensor: cures: inside the budget with it\n" in out.getvalue()
    assert "remedy-3: raise: fails: ValueError in phase forward" in out.getvalue()
    page = markdown.page([record], known, ["x"])
    assert "- Remedy, hold one tensor (recommended by the report): **works**; cures in 1 of 1 trial" in page
    assert "| remedy | remedy-2 | remedy-3 | remedy-4 | remedy-5 | margins | fix |" in page
    assert 'name="remedy-2" value="hold them all the same: changes nothing"' in junit.document([record], Redactor())


def test_a_remedy_cures_nothing_where_nothing_is_wrong_or_nothing_is_known(bench: Bench, harness: Entry) -> None:
    absent = bench.run(harness, "remedies-where-nothing-is-wrong")
    assert absent.remedies["remedy"]["effect"] == "changes nothing"
    assert bench.run(harness, "remedies-of-what-is-not-affected").remedies == {}
    unsettled = bench.run(harness, "remedies-of-what-is-unsettled")
    assert unsettled.remedies["remedy"]["effect"] == "unsettled"
    assert unsettled.remedies["remedy"]["reason"] == "the trial is inconclusive"
    assert contradiction(absent) == contradiction(unsettled) == ""
    cured = {"remedy": {**unsettled.remedies["remedy"], "effect": "cures"}}
    says = contradiction(replace(unsettled, remedies=cured))
    assert says == "the effect of a remedy that was not judged: `cures`"


@pytest.mark.parametrize(
    ("condition", "expected", "outcome", "failed"),
    [
        ("passes", False, Outcome.AS_EXPECTED, False),
        ("breaks", False, Outcome.REGRESSION, True),
        ("control", False, Outcome.AS_EXPECTED, False),
        ("control-breaks", False, Outcome.REGRESSION, True),
        ("nothing-recorded", None, Outcome.NEW, False),
        ("planted-silent", False, Outcome.UNSETTLED, True),
    ],
)
def test_a_verdict_is_held_against_what_is_recorded(
    bench: Bench, harness: Entry, condition: str, expected: bool | None, outcome: Outcome, failed: bool
) -> None:
    made = bench.run(harness, condition)
    assert (made.expected, made.outcome, made.failed) == (expected, outcome, failed)
    assert contradiction(made) == ""
    assert Record.from_json(json.loads(made.to_line())) == made


@pytest.mark.parametrize(
    ("condition", "file", "vote"),
    [
        ("passes", "", ""),
        ("witness-agrees", "witness_good.py", "good"),
        ("witness-disagrees", "witness_bad.py", "bad"),
        ("witness-cannot-tell", "witness_skip.py", "skip"),
        ("witness-raises", "witness_raises.py", "skip"),
    ],
)
def test_a_record_keeps_what_its_witness_said(
    bench: Bench, harness: Entry, condition: str, file: str, vote: str
) -> None:
    made = bench.run(harness, condition)
    assert (made.witness.get("file", ""), made.witness.get("vote", "")) == (file, vote)
    assert contradiction(made) == ""
    assert Record.from_json(json.loads(made.to_line())) == made
    other = {"good": "bad", "bad": "good", "skip": "good"}.get(vote)
    if other and made.verdict is not Verdict.INCONCLUSIVE:
        lying = replace(made, witness={**made.witness, "vote": other})
        assert f"its observations say `inconclusive`: the witness {file} votes {other}" in contradiction(lying)


@pytest.mark.parametrize("condition", ["control", "control-breaks"])
def test_a_control_condition_has_no_planted_arm_and_says_so(bench: Bench, harness: Entry, condition: str) -> None:
    made = bench.run(harness, condition)
    assert made.control
    assert {arm.arm for arm in made.arms} == {"subject", "reference", "proposed"}
    assert made.margins["planted_over_budget"] is None
    assert made.margins["budget_over_reference"] == pytest.approx(1.25, rel=0.01)
    assert not bench.run(harness, "passes").control


def test_every_condition_of_the_harness_case_has_its_expected_end(harness: Entry) -> None:
    assert {c.name for c in harness.case.conditions} == VERDICTS.keys() | EFFECTS.keys()


def test_a_long_log_keeps_both_ends(bench: Bench, harness: Entry) -> None:
    record = bench.run(harness, "prints-100mb")
    logs = [path for path in bench.folder.iterdir() if "prints-100mb.subject" in path.name]
    assert record.verdict is Verdict.ABSENT
    assert "bytes left out" in logs[0].read_text(errors="replace")
    assert logs[0].stat().st_size < 1 << 20


@pytest.mark.parametrize("condition", ["leaves-child", "leaves-daemon", "leaves-daemon-and-hangs", "hangs"])
def test_nothing_outlives_its_arm(bench: Bench, harness: Entry, condition: str) -> None:
    bench.run(harness, condition)
    eventually(lambda: not working_below(bench.server.work), 2, "the end of what the arm started")


FORKS_ON = """
import os, time
open("began", "w").close()
for _ in range(200):
    if os.fork():
        os._exit(0)
    os.setsid()
    time.sleep(0.002)
time.sleep(20)
"""


@pytest.mark.skipif(not Path("/proc/self/cwd").exists(), reason="strays are found by /proc")
def test_a_daemon_on_its_way_between_two_forks_is_found(tmp_path: Path) -> None:
    """Each generation lives for some 2 ms: what is listed is mostly gone, and has a child, when it is looked at."""
    subprocess.run([sys.executable, "-c", FORKS_ON], cwd=tmp_path, check=True)
    assert (tmp_path / "began").exists()
    kill_strays(tmp_path)
    time.sleep(2)  # whoever was missed has done its forks by then and sleeps
    assert working_below(tmp_path.parent) == []


def test_a_lost_supervisor_is_an_error_and_the_next_arm_runs(bench: Bench, harness: Entry) -> None:
    bench.run(harness, "passes")
    assert bench.server._process is not None
    os.killpg(bench.server._process.pid, 9)
    bench.server._process.wait()
    assert bench.run(harness, "passes").verdict is Verdict.ABSENT


def test_what_an_arm_imports_as_it_warms_up_fails_in_nobodys_name(bench: Bench, harness: Entry) -> None:
    request: dict[str, Any] = {
        "module": harness.module,
        "arm": "subject",
        "condition": "passes",
        "checkpoint": None,
        "env": {},
        "timeout_s": 30.0,
        "imports": ("no_such_package", "colorsys"),
    }
    log = bench.folder / "imports.log"
    assert bench.observe(request, log).state == "done"
    assert "No module named 'no_such_package'" in log.read_text()


def test_arms_agree_in_a_fork_and_in_a_new_interpreter(bench: Bench, harness: Entry) -> None:
    request: dict[str, Any] = {
        "module": harness.module,
        "arm": "planted",
        "condition": "passes",
        "checkpoint": None,
        "env": {},
        "timeout_s": 30.0,
    }
    forked, fresh = (bench.observe(request, bench.folder / f"fresh{flag}.log", flag) for flag in (False, True))
    assert forked.figures["held_bytes"] == fresh.figures["held_bytes"] == 2 << 20
