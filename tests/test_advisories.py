"""Advisories: the releases that they name, and that the committed ones are as cases and evidence say."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from repros import cases
from repros.advisory import model
from repros.commands import cli
from repros.commands.pages import evidence
from repros.errors import UserError
from repros.evidence import advisories
from repros.report.rows import Line, Row
from repros.run.record import Record
from repros.verdict import Verdict
from tests.factories import record

GOOD, BAD = Verdict.ABSENT, Verdict.REPRODUCED


def tried(condition: str, verdicts: Mapping[str, Verdict]) -> list[Record]:
    return [
        record("gh1_x", condition, release, verdict, packages={"torch": "2.13.0", "bitsandbytes": release})
        for release, verdict in verdicts.items()
    ]


@pytest.mark.parametrize(
    ("conditions", "events"),
    [
        ([{"0.46.0": GOOD, "0.47.0": BAD, "0.49.0": BAD, "0.50.0": GOOD}], [("0.47.0", "fixed", "0.50.0")]),
        ([{"0.46.0": BAD, "0.50.0": BAD}], [("0.46.0", "last_affected", "0.50.0")]),
        (
            [{"0.9.0": BAD, "0.10.0": GOOD, "0.11.0": BAD}],
            [("0.9.0", "fixed", "0.10.0"), ("0.11.0", "last_affected", "0.11.0")],
        ),
        # A release that one condition did not try is no gap of another.
        ([{"0.46.0": BAD, "0.49.0": BAD, "0.50.0": GOOD}, {"0.47.0": GOOD}], [("0.46.0", "fixed", "0.50.0")]),
        ([{"0.46.0": BAD, "0.49.0": GOOD}, {"0.47.0": BAD, "0.50.0": GOOD}], [("0.46.0", "fixed", "0.50.0")]),
        ([{"0.46.0": BAD, "0.49.0": GOOD}, {"0.47.0": BAD}], [("0.46.0", "fixed", "0.49.0")]),
        ([{"0.46.0": BAD, "0.49.0": GOOD}, {"0.49.0": BAD}], [("0.46.0", "last_affected", "0.49.0")]),
    ],
)
def test_ranges_name_tried_releases(conditions: list[dict[str, Verdict]], events: list[tuple[str, str, str]]) -> None:
    records = [one for number, verdicts in enumerate(conditions) for one in tried(f"c{number}", verdicts)]
    row = Row("bitsandbytes#1", "", "", (Line("gh1_x", "", "", "", {"bitsandbytes": "x"}, ""),), 0, 1)
    (found,) = advisories.affected(row, records, ())
    assert [each.events for each in found.ranges] == [[{"introduced": a}, {end: b}] for a, end, b in events]
    assert found.versions == sorted(
        {r.cell for r in records if r.verdict is BAD}, key=lambda v: [*map(int, v.split("."))]
    )


def test_what_is_stale_is_named(tmp_path: Path) -> None:
    wanted = {"a.json": "1", "b.json": "2", "c.json": "3"}
    for name, text in {"a.json": "1", "b.json": "other", "d.json": "4"}.items():
        (tmp_path / name).write_text(text)
    assert advisories.stale(tmp_path, wanted) == ["b.json", "c.json", "d.json"]


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"id": 1}', "\0"])
def test_a_damaged_advisory_is_said(text: str, tmp_path: Path) -> None:
    (tmp_path / "bitsandbytes-1.json").write_text(text)
    with pytest.raises(UserError) as error:
        model.load(tmp_path)
    assert "bitsandbytes-1.json: not an advisory: " in error.value.what
    with pytest.raises(UserError, match="no advisory"):
        model.load(tmp_path / "nowhere")


@pytest.mark.slow
def test_the_committed_advisories_are_as_the_evidence_says(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    made = advisories.files(advisories.advisories(evidence(), {entry.name: entry for entry in cases.find()}))
    assert advisories.stale(model.folder(), made) == []
    assert len(made) == len({entry.case.report for entry in cases.find()})
    assert all(model.text(one) == made[model.file_name(one.about.report)] for one in model.load())


@pytest.mark.slow
def test_the_check_fails_where_one_is_stale(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for path in model.folder().glob("*.json"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "bitsandbytes-1995.json").unlink()
    assert cli.main(["advisories", "--check", "--to", str(tmp_path)]) == 1
    all_of = len(list(model.folder().glob("*.json")))
    assert f"{all_of - 1} of {all_of} advisories are as the evidence says" in capsys.readouterr().out
