"""Releases newer than the evidence: which are tried, and what is said of what changes."""

from __future__ import annotations

import json
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as Xml

import pytest
from packaging.version import Version

from repros import ROOT, cases
from repros.bisect.releases import Release
from repros.cells.matrix import load_matrix
from repros.commands import ci, cli
from repros.errors import UserError
from repros.run.record import Record
from repros.run.results import Run
from repros.verdict import Verdict
from repros.watch import page
from repros.watch.changes import Kind, before, changes
from repros.watch.newer import newer, newest
from tests.factories import record

BASE = load_matrix(ROOT / "matrix.yaml").cell("tf5.23.0-bnb0.50.2")
NEWER = f"{BASE.label} with accelerate=1.16.0"
CASE, CONDITION = "gh4044_detached_hook", "hooks-removed"


def trial(
    verdict: Verdict = Verdict.ABSENT, cell: str = BASE.label, accelerate: str = "1.15.0", **values: Any
) -> Record:
    made = record(CASE, CONDITION, cell, verdict, packages={"torch": "2.13.0", "accelerate": accelerate})
    return replace(made, **values)


# --- what is newer -------------------------------------------------------------------------------


def test_the_newest_known_is_the_newest_that_came_to_a_verdict() -> None:
    told = [trial(accelerate="1.9.0"), trial(accelerate="1.10.0"), trial(Verdict.ERROR, accelerate="1.11.0")]
    assert newest(told, "accelerate") == Version("1.10.0")
    with pytest.raises(UserError, match="peft: no trial in the evidence came to a verdict with it"):
        newest(told, "peft")


def test_yanked_and_pre_releases_and_those_without_a_wheel_are_left_out_and_said() -> None:
    listed = [
        Release(Version("1.15.0")), Release(Version("1.16.0")), Release(Version("1.17.0"), yanked=True),
        Release(Version("1.18.0rc1")), Release(Version("1.19.0"), problem="no wheel"),
    ]  # fmt: skip
    (found,) = newer(["accelerate"], [trial()], lambda package: listed)
    assert [str(release) for release in found.releases] == ["1.16.0"]
    assert [(str(release), why.partition(":")[0]) for release, why in found.left_out] == [
        ("1.17.0", "yanked"), ("1.18.0rc1", "a pre-release"), ("1.19.0", "no wheel"),
    ]  # fmt: skip
    (with_pre,) = newer(["accelerate"], [trial()], lambda package: listed, pre=True)
    assert with_pre.newest == "1.18.0rc1"
    assert newer(["accelerate"], [trial()], lambda package: listed[:1]) == []


def test_just_that_package_is_newer() -> None:
    (found,) = newer(["accelerate"], [trial()], lambda package: [Release(Version("1.16.0"))])
    assert found.cell(BASE).label == NEWER


# --- what changes --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("was", "now", "kind"),
    [
        (Verdict.ABSENT, Verdict.ABSENT, None),
        (Verdict.ABSENT, Verdict.REPRODUCED, Kind.BAD),
        (Verdict.REPRODUCED, Verdict.REPRODUCED, None),
        (Verdict.REPRODUCED, Verdict.ABSENT, Kind.GOOD),
        (Verdict.ABSENT, Verdict.ERROR, Kind.UNTOLD),
        (Verdict.REPRODUCED, Verdict.UNSUPPORTED, Kind.UNTOLD),
        (Verdict.UNSUPPORTED, Verdict.UNSUPPORTED, None),
        (None, Verdict.ABSENT, None),
        (None, Verdict.ERROR, Kind.UNTOLD),
    ],
)
def test_a_trial_is_held_against_the_one_before(was: Verdict | None, now: Verdict, kind: Kind | None) -> None:
    known = before([trial(was)] if was else [], BASE, "accelerate")
    found = changes([trial(now, NEWER, "1.16.0")], known, "accelerate")
    assert [change.kind for change in found] == [kind] * bool(kind)


@pytest.mark.parametrize(("expected", "kind"), [(False, Kind.BAD), (True, None)])
def test_without_one_before_what_the_case_expects_counts(expected: bool, kind: Kind | None) -> None:
    now = record(CASE, CONDITION, NEWER, Verdict.REPRODUCED, expected=expected)
    assert [change.kind for change in changes([now], {}, "accelerate")] == [kind] * bool(kind)


def test_the_one_before_is_of_this_cell_with_the_newest_of_that_package_that_was_told() -> None:
    evidence = [
        trial(accelerate="1.15.0"),
        trial(Verdict.REPRODUCED, f"{BASE.label} with accelerate=1.15.1", "1.15.1"),
        trial(Verdict.ERROR, f"{BASE.label} with accelerate=1.15.2", "1.15.2"),
        trial(Verdict.ABSENT, f"{BASE.label} with peft=0.30.0", "1.15.9"),
        trial(Verdict.ABSENT, "tf5.2.0-bnb0.49.2", "1.15.9"),
    ]
    assert before(evidence, BASE, "accelerate")[CASE, CONDITION] is evidence[1]


# --- an index in a folder, and what is written ---------------------------------------------------


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Configure an index in a folder that knows accelerate 1.15.0, and evidence of that release."""
    write_index(tmp_path, "1.14.0", "1.15.0")
    made = Run(tmp_path / "known")
    made.append(trial())
    monkeypatch.setenv("UV_DEFAULT_INDEX", (tmp_path / "simple").as_uri())
    for name in ("UV_INDEX", "UV_EXTRA_INDEX_URL", "UV_FIND_LINKS", "UV_INDEX_URL", "UV_NO_INDEX"):
        monkeypatch.setenv(name, "")
    return tmp_path


def write_index(place: Path, *versions: str, yanked: str = "") -> None:
    folder = place / "simple" / "accelerate"
    folder.mkdir(parents=True, exist_ok=True)
    names = {version: f"accelerate-{version}-py3-none-any.whl" for version in versions}
    rows = [
        f'<a href="{name}" {"data-yanked" if version == yanked else ""}>{name}</a>' for version, name in names.items()
    ]
    (folder / "index.html").write_text("<!DOCTYPE html><html><body>" + "<br>".join(rows) + "</body></html>")


def watch(index: Path, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    argv = ["watch", "gh4044", "--package", "accelerate", "--evidence", str(index / "known"),
            "--reports", str(index / "reports"), *words]  # fmt: skip
    code = cli.main(argv)
    out, err = capsys.readouterr()
    return code, out, err


def test_nothing_new_is_one_line(index: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert watch(index, capsys) == (0, "nothing new: accelerate 1.15.0\n", "")
    assert not (index / "reports").exists()


def test_what_is_left_out_is_said(index: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_index(index, "1.15.0", "1.16.0", "1.17.0b1", yanked="1.16.0")
    assert watch(index, capsys)[:2] == (
        0,
        "accelerate 1.16.0 is left out: yanked\n"
        "accelerate 1.17.0b1 is left out: a pre-release: `--pre` tries it\n"
        "nothing new: accelerate 1.15.0\n",
    )


def test_an_index_that_cannot_be_reached_is_two_lines(
    index: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UV_DEFAULT_INDEX", "http://127.0.0.1:9/simple")
    code, out, err = watch(index, capsys)
    assert (code, out) == (2, "")
    assert err.splitlines()[0].startswith("http://127.0.0.1:9/simple/accelerate/: ")
    assert err.splitlines()[1] == "hint: check the network, or pip's and uv's index settings"


def test_a_release_that_cannot_be_had_is_no_longer_told(index: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The index names a wheel that is none: uv says so, and every trial of it could not run."""
    write_index(index, "1.15.0", "1.15.99")
    with zipfile.ZipFile(index / "simple" / "accelerate" / "accelerate-1.15.99-py3-none-any.whl", "w"):
        pass
    code, out, _ = watch(index, capsys)
    assert code == 1
    assert "accelerate 1.15.99 (known: 1.15.0): 3 trials, 0 newly bad, 0 newly good, 1 no longer told" in out
    assert "no longer told in 1: " in out
    (run,) = (index / "reports" / "runs").iterdir()
    (text,) = (run / "to-file").iterdir()
    assert text.name == "no-longer-told-gh4044_detached_hook-accelerate.md"
    assert text.read_text().startswith("# accelerate#4044 could not be told with accelerate 1.15.99\n")


def test_a_change_is_on_the_page_in_junit_and_ready_to_file(
    index: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is written is tried here; that real releases change a verdict is tried by hand, over real wheels."""
    write_index(index, "1.15.0", "1.16.0")

    def take(wanted: Any, run: Run, console: Any, **settings: Any) -> tuple[list[Record], dict[str, float]]:
        assert {found.cell for found, _ in wanted} == {NEWER}
        now = trial(Verdict.REPRODUCED, NEWER, "1.16.0", repeat="python -m repros run X")
        run.append(now)
        return [now], {}

    monkeypatch.setattr(ci, "take", take)
    code, out, _ = watch(index, capsys)
    assert code == 1
    assert "accelerate 1.16.0 (known: 1.15.0): 1 trials, 1 newly bad, 0 newly good, 0 no longer told" in out
    (run,) = (index / "reports" / "runs").iterdir()
    text = (run / "watch.md").read_text()
    assert "| accelerate | 1.15.0 | 1.16.0 | 1 | 1 | 0 | 0 |" in text
    assert "### Newly bad" in text
    assert "<title>" in (run / "index.html").read_text()
    (case,) = Xml.parse(run / "junit.xml").iter("testcase")
    assert case.get("name") == f"{CONDITION}[{NEWER}]"
    filed = (run / "to-file" / "newly-bad-gh4044_detached_hook-accelerate.md").read_text()
    assert filed.startswith("# accelerate#4044 is back with accelerate 1.16.0\n")
    for section in ("## System Info", "## Reproduction", "## Expected behavior"):
        assert section in filed
    assert "`python -m repros run X`" in filed


def test_a_witness_is_in_the_text_to_the_letter() -> None:
    (entry,) = cases.select("gh4044", cases.find())
    witness = cases.witness_of(entry.path, entry.condition(CONDITION))
    assert witness is not None
    now = trial(Verdict.REPRODUCED, NEWER, "1.16.0", witness={"vote": "bad", "says": "bad: lost"})
    found = changes([now], before([trial()], BASE, "accelerate"), "accelerate")
    (text,) = page.texts(found, {entry.name: entry}).values()
    assert witness.read_text() in text
    assert "It says: `bad: lost`" in text


def test_commit_is_for_cells_without_a_card(index: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = watch(index, capsys, "--commit", "--base", "gpu-tf5.23.0-bnb0.50.2")
    assert code == 2
    assert err.splitlines()[0] == "--commit: gpu-tf5.23.0-bnb0.50.2 is for a card"


def test_the_real_evidence_is_of_every_watched_package() -> None:
    rows = (ROOT / "reports" / "cpu" / "results.jsonl").read_text().splitlines()
    found = [json.loads(row) for row in rows]
    packages = {
        name for row in found if row["kind"] == "trial" for name in row.get("environment", {}).get("packages", {})
    }
    assert {"torch", "transformers", "bitsandbytes", "accelerate", "peft"} <= packages
