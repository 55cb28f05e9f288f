"""Reports of runs in every state: empty, cut, of an older schema, of cells that were never built."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from repros import ROOT
from repros.commands import cli
from repros.redaction.redact import Redactor
from repros.report.page import html
from repros.run import results
from repros.run.results import Run
from repros.verdict import Observation, Verdict
from tests.commands import errors
from tests.factories import record
from tests.pages import EVIDENCE, KNOWN


def outputs(folder: Path) -> list[str]:
    return ["--html", str(folder / "p.html"), "--junit", str(folder / "j.xml"), "--summary", str(folder / "s.md")]


def test_an_empty_run_is_said_in_two_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = Run(tmp_path / "r")
    assert "no finished trial" in errors(["report", str(run.folder), *outputs(tmp_path)], capsys)


def test_a_run_cut_in_the_middle_makes_a_page_that_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = Run(tmp_path / "r")
    data = (EVIDENCE / results.RESULTS).read_bytes()
    run.path.write_bytes(data[: len(data) // 20])
    assert cli.main(["report", str(run.folder), *outputs(tmp_path)]) == 0
    assert "the last line is cut off" in (tmp_path / "p.html").read_text()
    assert "the last line is cut off" in capsys.readouterr().err


def test_a_run_of_an_older_schema(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without an upgrade it is refused in two lines; with one it makes a page."""
    old = ROOT / "fixtures" / "observations" / "schema0.jsonl"
    said = errors(["report", str(old), *outputs(tmp_path)], capsys)
    assert "schema0.jsonl:1: schema version 0, this version reads 1" in said
    monkeypatch.setitem(results.UPGRADES, 0, lambda line: {**line, "schema": 1})
    assert cli.main(["report", str(old), *outputs(tmp_path)]) == 0
    assert "gh1935_adapters" in (tmp_path / "p.html").read_text()  # as the record's case is called now


@pytest.mark.parametrize(
    "part", [*(f"report/page/{name}" for name in ("page.html.j2", "page.css", "trial.js")), "templates/full.py.j2"]
)
def test_a_missing_part_is_said_in_two_lines(
    part: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "installed" / "repros"
    for folder in ("report/page", "templates"):
        shutil.copytree(ROOT / "repros" / folder, root / Path(folder).name)
    (root / part.removeprefix("report/")).unlink()
    monkeypatch.setattr("importlib.resources.files", lambda package: root)
    monkeypatch.setattr("repros.report.onefile.ROOT", root.parent)
    run = Run(tmp_path / "r")
    run.append(record(case="gh1935_saved_weight", condition="nf4-eager"))
    said = errors(["report", str(run.folder), "--html", str(tmp_path / "p.html")], capsys)
    assert f"repros/{part}: No such file or directory" in said


def test_a_page_that_cannot_be_written_is_said_in_two_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = Run(tmp_path / "r")
    run.append(record())
    said = errors(["report", str(run.folder), "--html", str(tmp_path / "no" / "p.html")], capsys)
    assert "cannot write: No such file or directory" in said


def test_a_cell_that_was_never_built_and_a_case_that_is_gone_have_their_place() -> None:
    rows = [
        replace(record(case="gh9_gone"), arms=(), environment={}, verdict=Verdict.UNSUPPORTED, reason="no wheel"),
        replace(record(cell="b"), arms=(), environment={}, verdict=Verdict.ERROR, failed=True),
    ]
    text = html.page(rows, KNOWN, ["x"], Redactor())
    assert "a case that this version of the suite does not have" in text
    assert "no wheel" in text
    assert "1 trial is not as recorded or not settled" in text


def test_junit_says_what_the_run_says(tmp_path: Path) -> None:
    run = Run(tmp_path / "r")
    failed = record(condition="worse", verdict=Verdict.REPRODUCED, expected=False)
    hostile = Observation("subject", "timeout", reason="\x1b[0m")
    lost = record(condition="lost", arms=(hostile, *record().arms[1:]))
    for one in (record(), failed, lost, record(condition="no", verdict=Verdict.UNSUPPORTED)):
        run.append(one)
    assert cli.main(["report", str(run.folder), *outputs(tmp_path)]) == 0
    top = ElementTree.parse(tmp_path / "j.xml").getroot()
    assert [top.get(name) for name in ("tests", "failures", "errors", "skipped")] == ["4", "1", "1", "1"]
    found = {case.get("name"): [child.tag for child in case] for case in top.iter("testcase")}
    assert found == {
        "c[a]": ["properties"], "worse[a]": ["properties", "failure"], "lost[a]": ["properties", "error"],
        "no[a]": ["properties", "skipped"],
    }  # fmt: skip
    summary = (tmp_path / "s.md").read_text()
    assert "2 trials are not as recorded, or not settled" in summary
    assert "hint: the record says that this version is not affected" in summary
