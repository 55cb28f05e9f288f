"""Results on disk: what is written is read again, and what is broken is said in two lines."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest

from repros import results
from repros.errors import UserError
from repros.results import Record, Run
from repros.verdict import Observation, Outcome, Verdict


def record(case: str = "gh1_x", condition: str = "c", cell: str = "a", verdict: Verdict = Verdict.ABSENT) -> Record:
    return Record(
        case=case, condition=condition, cell=cell, device="cpu", verdict=verdict, outcome=Outcome.AS_EXPECTED,
        failed=False, expected=False, reason="r",
        budget={"figure": "held_bytes", "second": None, "limit": 10, "unit": "bytes"},
        margins={"planted_over_budget": float("inf"), "budget_over_reference": None},
        arms=(Observation("subject", "done", {"held_bytes": 3, "error": float("inf")}),),
        environment={"packages": {"torch": "2.13.0"}},
    )  # fmt: skip


def test_a_record_survives_its_line(tmp_path: Path) -> None:
    run = Run(tmp_path / "r")
    run.append(record())
    run.note("time", seconds={"total": 1.0})
    assert results.load(run.folder) == ([record()], "")


def test_of_a_trial_tried_twice_the_later_counts(tmp_path: Path) -> None:
    run = Run(tmp_path / "r")
    run.append(record())
    run.append(record(condition="d"))
    run.append(replace(record(), verdict=Verdict.REPRODUCED))
    assert [(r.condition, r.verdict.value) for r in results.load(run.folder)[0]] == [
        ("d", "absent"),
        ("c", "reproduced"),
    ]


@pytest.mark.parametrize("kept", [1, 40, -2])
def test_a_killed_run_loses_nothing_that_was_finished(tmp_path: Path, kept: int) -> None:
    run = Run(tmp_path / "r")
    run.append(record())
    whole = run.path.read_bytes()
    run.append(record(condition="d"))
    cut = whole + run.path.read_bytes()[len(whole) :][:kept]
    run.path.write_bytes(cut)
    found, notice = results.load(run.folder)
    assert [r.condition for r in found] == ["c"]
    assert notice.endswith("results.jsonl: the last line is cut off, 1 whole lines were read")
    again = Run(run.folder)
    again.append(record(condition="e"))
    assert [r.condition for r in results.load(run.folder)[0]] == ["c", "e"]


@pytest.mark.parametrize(
    ("line", "text"),
    [
        (
            '{"schema": 99, "kind": "trial"}',
            "results.jsonl:2: schema version 99, this version reads 1\nhint: read it with",
        ),
        ('{"schema": "1"}', "results.jsonl:2: schema version '1', this version reads 1\nhint: read it with"),
        ('{"kind": "trial"}', "results.jsonl:2: not a record (KeyError)\nhint: delete that line"),
        ('{"schema": 1, "kin', "results.jsonl:2: not a record (JSONDecodeError)\nhint: delete that line"),
        ("[]", "results.jsonl:2: not a record (TypeError)\nhint: delete that line"),
        ('{"schema": 1, "kind": "trial"}', "results.jsonl:2: a trial without 'verdict'\nhint: delete that line"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str, text: str) -> None:
    path = tmp_path / "results.jsonl"
    path.write_text(record().to_line() + line + "\n" + record(condition="d").to_line())
    with pytest.raises(UserError) as error:
        results.load(tmp_path)
    assert str(error.value).startswith(str(tmp_path / text.partition("\n")[0]))
    assert text.partition("\n")[2] in str(error.value)


def test_resume_tries_again_what_came_to_no_verdict(tmp_path: Path) -> None:
    run = Run(tmp_path / "r")
    for verdict in Verdict:
        run.append(record(condition=verdict.value, verdict=verdict))
    assert {key[1] for key in results.settled(run.folder)} == {"reproduced", "absent"}


def test_a_missing_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"nowhere/results.jsonl: No such file or directory\nhint: name the folder of a run"
    ):
        results.load(tmp_path / "nowhere" / "results.jsonl")
    with pytest.raises(UserError, match=r"runs: no run there\nhint: make one: `nox -s cpu`"):
        results.latest_run(tmp_path)


def test_a_folder_that_cannot_be_written_stops_the_run_before_it_starts(tmp_path: Path) -> None:
    (tmp_path / "reports").write_text("a file in the way")
    with pytest.raises(UserError, match=r"cannot write: Not a directory\nhint: name a place that is there"):
        Run(tmp_path / "reports" / "runs" / "x")


def test_a_full_disk_keeps_the_line_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path))
    run = Run(tmp_path / "r")
    run.append(record())
    run.path.unlink()
    run.path.symlink_to("/dev/full")
    with pytest.raises(
        UserError, match=r"cannot append: No space left on device; the line was kept in .*\nhint: free some"
    ):
        run.append(record(condition="d"))
    assert results.load(tmp_path / "repros-r.jsonl")[0][0].condition == "d"


def test_lines_of_runs_side_by_side_do_not_mix(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from tests.test_results import record; from repros.results import Run\n"
        "run = Run(Path(sys.argv[1]))\n"
        "for n in range(50): run.append(record(condition=f'{sys.argv[2]}-{n}'))"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(results.ROOT), *sys.path])}
    writers = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "r"), name], env=environment)
        for name in ("a", "b")
    ]
    assert [writer.wait() for writer in writers] == [0, 0]
    assert len(results.load(tmp_path / "r")[0]) == 100


def test_lines_are_strict_json(tmp_path: Path) -> None:
    def refuse(name: str) -> None:
        raise AssertionError(name)

    json.loads(record().to_line(), parse_constant=refuse)
