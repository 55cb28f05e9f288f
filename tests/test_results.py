"""Results on disk: what is written is read again, and what is broken is said in two lines."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import orjson
import pytest

from repros import ROOT, cases
from repros.cases import aliases
from repros.errors import UserError
from repros.run import results
from repros.run.results import Run
from repros.verdict import Verdict
from tests.factories import record


def test_a_record_survives_its_line(tmp_path: Path) -> None:
    run = Run(tmp_path / "r")
    run.append(record())
    run.note("time", seconds={"total": 1.0})
    assert results.load(run.folder) == ([record()], "")


def test_of_a_trial_tried_twice_the_later_counts(tmp_path: Path) -> None:
    run = Run(tmp_path / "r")
    run.append(record())
    run.append(record(condition="d"))
    run.append(record(verdict=Verdict.REPRODUCED))
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


NO_RECORD = "results.jsonl:2: not a record: "


@pytest.mark.parametrize(
    ("line", "text"),
    [
        (
            '{"schema": 99, "kind": "trial"}',
            "results.jsonl:2: schema version 99, this version reads 1\nhint: read it with",
        ),
        ('{"schema": "1"}', f"{NO_RECORD}`schema` is `1`, not a version such as 1\nhint: delete that line"),
        ('{"schema": true, "kind": "trial"}', f"{NO_RECORD}`schema` is `True`, not a version such as 1\nhint: delete"),
        ('{"kind": "trial"}', f"{NO_RECORD}`schema` is missing, not a version such as 1\nhint: delete that line"),
        ('{"schema": 1, "kin', f"{NO_RECORD}not a line of JSON\nhint: delete that line"),
        ("[]", f"{NO_RECORD}not an object\nhint: delete that line"),
        ('{"schema": 1}', f"{NO_RECORD}`kind` is missing, not one of trial, time, plan, probe\nhint: delete that line"),
        ('{"schema": 1, "kind": "trial"}', f"{NO_RECORD}Object missing required field `case`\nhint: delete that line"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str, text: str) -> None:
    path = tmp_path / "results.jsonl"
    path.write_text(record().to_line() + line + "\n" + record(condition="d").to_line())
    with pytest.raises(UserError) as error:
        results.load(tmp_path)
    assert str(error.value).startswith(str(tmp_path / text.partition("\n")[0]))
    assert text.partition("\n")[2] in str(error.value)


def test_a_release_that_is_none_is_named(tmp_path: Path) -> None:
    Run(tmp_path / "r").append(record(packages={"torch": "2.13.0", "bitsandbytes": "newest"}))
    with pytest.raises(
        UserError, match=r":1: not a record: `environment.packages.bitsandbytes`: `newest` is not a rel"
    ):
        results.load(tmp_path / "r")


def test_a_margin_of_any_name_is_a_number(tmp_path: Path) -> None:
    line = json.loads(record().to_line())
    line["margins"]["None"] = "absent"  # as an attack wrote it
    (tmp_path / results.RESULTS).write_text(json.dumps(line) + "\n")
    with pytest.raises(UserError, match=r":1: not a record: `margins\[\.\.\.\]`"):
        results.load(tmp_path)


def test_resume_tries_again_what_came_to_no_verdict(tmp_path: Path) -> None:
    run = Run(tmp_path / "r")
    for verdict in Verdict:
        run.append(record(condition=verdict.value, verdict=verdict))
    assert {key[1] for key in results.settled(run.folder)} == {"reproduced", "absent"}


def test_a_record_of_a_case_that_was_split_is_of_the_case_that_took_it_over(tmp_path: Path) -> None:
    """What was written stays as it is; what is read, and what `--resume` leaves out, is called as it is now."""
    run = Run(tmp_path / "r")
    again = "python -m repros run gh1935_saved_weight --cell a --condition {}"
    for condition in ("nf4-compile-mincut", "nf4-eager"):
        run.append(replace(record("gh1935_saved_weight", condition), repeat=again.format(condition)))
    kept = run.path.read_bytes()
    moved, stays = results.load(run.folder)[0]
    assert (moved.case, moved.condition) == ("gh1935_compiled", "nf4-compile-mincut")
    assert moved.repeat == "python -m repros run gh1935_compiled --cell a --condition nf4-compile-mincut"
    assert (stays.case, stays.repeat) == ("gh1935_saved_weight", again.format("nf4-eager"))
    assert results.settled(run.folder) == {moved.key, stays.key}
    run.append(record("gh1935_compiled", "nf4-compile-mincut", verdict=Verdict.REPRODUCED))
    assert [(r.case, r.verdict) for r in results.load(run.folder)[0]] == [
        ("gh1935_saved_weight", Verdict.ABSENT), ("gh1935_compiled", Verdict.REPRODUCED),
    ]  # fmt: skip
    assert run.path.read_bytes().startswith(kept)


def test_each_former_name_is_of_conditions_that_the_case_has_now() -> None:
    now = {entry.name: {condition.name for condition in entry.case.conditions} for entry in cases.find()}
    for name, several in aliases.WAS.items():
        for was, conditions in several.items():
            assert set(conditions.split()) <= now[name], (name, was)
            assert not now.get(was, set()).intersection(conditions.split()), (name, was)
            assert all(entry.name in aliases.WAS for entry in cases.select(was, cases.find()) if was not in now)


def test_a_missing_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"nowhere/results.jsonl: No such file or directory\nhint: name the folder of a run"
    ):
        results.load(tmp_path / "nowhere" / "results.jsonl")
    with pytest.raises(UserError, match=r"runs: no run there\nhint: make one: `nox -s cpu`"):
        results.latest_run(tmp_path)


def test_a_folder_that_cannot_be_written_stops_the_run_before_it_starts(tmp_path: Path) -> None:
    (tmp_path / "reports").write_text("a file in the way")
    with pytest.raises(UserError, match=r"reports: a file, not a folder"):
        results.new_run("x", tmp_path / "reports")
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
        "import sys; from pathlib import Path; from tests.factories import record; from repros.run.results import Run\n"
        "run = Run(Path(sys.argv[1]))\n"
        "for n in range(50): run.append(record(condition=f'{sys.argv[2]}-{n}'))"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    writers = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "r"), name], env=environment)
        for name in ("a", "b")
    ]
    assert [writer.wait(60) for writer in writers] == [0, 0]
    assert len(results.load(tmp_path / "r")[0]) == 100


def test_lines_are_strict_json(tmp_path: Path) -> None:
    def refuse(name: str) -> None:
        raise AssertionError(name)

    json.loads(record().to_line(), parse_constant=refuse)


def test_runs_begun_in_one_second_have_folders_of_their_own(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as several:
        folders = list(several.map(lambda _: results.new_run("cpu", tmp_path), range(24)))
    assert len(set(folders)) == 24
    assert all(folder.is_dir() for folder in folders)


def test_the_newest_run_is_told_by_its_name(tmp_path: Path) -> None:
    names = ("20260101-000000-cpu", "20260102-000000-cpu-2", "20260102-000000-cpu-10", "20260102-000000-cpu", "mine")
    for at, name in enumerate(names):
        Run(tmp_path / "runs" / name)
        os.utime(tmp_path / "runs" / name / results.RESULTS, (1000 - at, 1000 - at))
    assert results.latest_run(tmp_path).name == "20260102-000000-cpu-10"
    shutil.rmtree(tmp_path / "runs")
    Run(tmp_path / "runs" / "mine")
    assert results.latest_run(tmp_path).name == "mine"


BIG = 200_000
WRITER = """
import sys
from dataclasses import replace
from pathlib import Path
from repros.run.results import Run
from tests.factories import record
folder, name, count, size = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
run = Run(folder)
for n in range(count):
    run.append(replace(record(condition=f"{name}-{n}"), repeat="x" * size))
    if n % 10 == 0:
        Run(folder)  # what `--resume` and each of pytest-xdist's workers does
"""
OPENER = """
import sys
from pathlib import Path
from repros.run import results
for n in range(int(sys.argv[2])):
    results.Run(Path(sys.argv[1]))
    found, notice = results.load(Path(sys.argv[1]))
    assert not notice, notice
"""


@pytest.mark.slow
def test_two_writers_and_readers_lose_nothing(tmp_path: Path) -> None:
    """Three thousand lines of 200 KB by two runs of one folder, while others open and read it."""
    folder, environment = tmp_path / "r", {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    Run(folder)

    def started(code: str, *words: object) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-c", code, str(folder), *map(str, words)], env=environment)

    several = [started(WRITER, name, 1500, BIG) for name in ("a", "b")] + [started(OPENER, 6)]
    assert [process.wait(300) for process in several] == [0, 0, 0]
    rows = folder.joinpath(results.RESULTS).read_bytes().split(b"\n")
    assert rows.pop() == b""
    keys = [(line["condition"], len(line["repeat"])) for line in map(orjson.loads, rows)]
    assert sorted(keys) == sorted((f"{name}-{n}", BIG) for name in ("a", "b") for n in range(1500))


def test_what_a_dead_writer_left_is_cut_off_by_the_next_line_of_another(tmp_path: Path) -> None:
    run = Run(tmp_path / "r")
    run.append(record())
    with run.path.open("ab") as file:
        file.write(b'{"schema": 1, "kind": "tri')
    run.append(record(condition="d"))
    assert [r.condition for r in results.load(run.folder)[0]] == ["c", "d"]


def test_a_reader_waits_for_the_line_that_is_being_written(tmp_path: Path) -> None:
    run = Run(tmp_path / "r")
    text = record().to_line().encode()
    with ThreadPoolExecutor(1) as reader, results.lock(run.path):
        with run.path.open("ab") as file:
            file.write(text[:50])
        found = reader.submit(results.load, run.folder)
        with pytest.raises(TimeoutError):
            found.result(0.3)
        with run.path.open("ab") as file:
            file.write(text[50:])
    assert found.result(10) == ([record()], "")
