"""What GitHub shows of a run: annotations and SARIF."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

import pytest

from repros import ROOT, cases
from repros.commands import cli
from repros.redaction.redact import Redactor
from repros.report import github
from repros.run.record import Record
from repros.run.results import Run
from repros.verdict import Verdict
from tests.factories import record

KNOWN = {entry.name: entry for entry in cases.find()}
CASE = "gh1995_strided_tensor"
REGRESSED = record(CASE, "every-other-row", verdict=Verdict.REPRODUCED, expected=False)
STALE = record(CASE, "transposed", verdict=Verdict.ABSENT, expected=True)
FINE = record(CASE, "contiguous")
REDACTOR = Redactor({})


def commands(*records: Record, known: Mapping[str, cases.Entry] = KNOWN) -> list[str]:
    return github.workflow_commands(records, known, REDACTOR).splitlines()


def test_a_regression_is_an_error_and_comes_first() -> None:
    lines = commands(STALE, FINE, REGRESSED)
    assert len(lines) == 2
    assert lines[0].startswith("::error title=bitsandbytes#1995%3A regression::gh1995_strided_tensor")
    assert lines[1].startswith("::warning title=bitsandbytes#1995%3A fixed::")
    assert all(re.search(r"%0Ahint: ", line) for line in lines)


def test_a_message_cannot_end_its_command_or_begin_another() -> None:
    hostile = record("x\n::error::no", "a,b:c%", verdict=Verdict.REPRODUCED, expected=False)
    (one,) = commands(hostile)
    title, _, message = one.removeprefix("::error title=").partition("::")
    assert "::" not in title
    assert "\n" not in message
    assert not re.search(r"[,:]", title)


def test_what_is_beyond_ten_is_counted() -> None:
    many = [record(CASE, f"c{n}", verdict=Verdict.REPRODUCED, expected=False) for n in range(14)]
    lines = commands(*many)
    assert len(lines) == 10
    assert lines[-1] == "::warning title=repros::5 more trials failed: see the job's summary"


def test_sarif_has_a_rule_a_report_and_a_result_a_trial_that_failed() -> None:
    (run,) = json.loads(github.sarif([REGRESSED, STALE, FINE], KNOWN, REDACTOR))["runs"]
    (rule,) = run["tool"]["driver"]["rules"]
    assert rule["id"] == "bitsandbytes#1995"
    assert rule["helpUri"] == KNOWN[CASE].case.url
    assert [(one["ruleIndex"], one["level"]) for one in run["results"]] == [(0, "error"), (0, "warning")]


def test_sarif_fits_its_schema() -> None:
    jsonschema = pytest.importorskip("jsonschema")
    schema = json.loads((ROOT / "fixtures" / "schemas" / "sarif-2.1.0.json").read_text())
    for records in ([REGRESSED, STALE, FINE], [FINE], [record("gh1_x", verdict=Verdict.ERROR)]):
        jsonschema.validate(json.loads(github.sarif(records, KNOWN, REDACTOR)), schema)


def test_the_command_prints_either(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = Run(tmp_path / "run")
    run.append(REGRESSED)
    assert cli.main(["report", str(run.folder), "--annotations"]) == 0
    assert capsys.readouterr().out.startswith("::error title=")
    assert cli.main(["report", str(run.folder), "--sarif"]) == 0
    assert len(json.loads(capsys.readouterr().out)["runs"][0]["results"]) == 1
