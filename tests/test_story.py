"""A story says what its results say, and a sentence that they contradict stops the command."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

from repros import ROOT, cases
from repros.commands import cli
from repros.errors import UserError
from repros.evidence import story
from repros.report import rows, terminal
from repros.run import results
from repros.run.results import Record
from repros.verdict import Verdict
from tests.commands import errors
from tests.factories import record

KNOWN = {e.name: e for e in cases.find()}
STORIES = sorted(story.STORIES.glob("*.md"))
READINGS = sorted((ROOT / "repros" / "cases").glob("*/gh*/story.md"))
RUNS = [results.REPORTS / name for name in ("cpu", "cpu-edges", "cpu-torch", "h100", "h200")]


def report_of(reading: Path) -> str:
    return f"{reading.parent.parent.name}-{reading.parent.name.removeprefix('gh')}"


@pytest.fixture(scope="module")
def records() -> list[Record]:
    return results.load_all(RUNS)[0]


def test_every_report_has_a_story_and_a_reading() -> None:
    reports = {f"{e.case.package}-{e.case.number}" for e in KNOWN.values()}
    assert {report_of(path) for path in READINGS} == reports
    assert {rows.reading_path(e) for e in KNOWN.values()} == set(READINGS)
    assert {path.stem for path in STORIES} == reports


@cache
def made_of(sources: str) -> Mapping[str, str]:
    """Return the stories of all reports over these folders."""
    folders = [ROOT / source for source in sources.split()]
    return story.stories(results.load_all(folders)[0], KNOWN, sources.split(), rows.over_all())


@pytest.mark.parametrize("path", STORIES, ids=lambda path: path.stem)
def test_a_committed_story_is_what_its_results_make(path: Path) -> None:
    text = path.read_text()
    command = re.search(r"Made by `python -m repros stories ([^`]+)`", text)
    assert command
    assert made_of(command[1])[path.name] == text, f"make it again: python -m repros stories {command[1]}"


@pytest.mark.parametrize("path", READINGS, ids=report_of)
def test_a_reading_types_no_figure(path: Path) -> None:
    prose = re.sub(r"\{\{.*?\}\}|\{%.*?%\}", "", path.read_text(), flags=re.DOTALL)
    prose = re.sub(r"`[^`]*`", "", prose)
    names = (
        r"(transformers|bitsandbytes)#\d+|(Qwen[\d.]+-)?\d+B(-A\d+B)?\b|\b(4|8|16)[- ]bits?\b|(?i:int8)\b|NF4|float32"
    )
    assert not re.findall(r"\d[\d.,]*", re.sub(names, "", prose)), "a figure comes from `figure(…)` and its like"
    assert "{{" in path.read_text()


def test_a_sentence_that_results_contradict_stops_the_command(records: list[Record]) -> None:
    key = ("gh1935_saved_weight", "nf4-eager", "tf5.2.0-bnb0.49.2")
    turned = [replace(r, verdict=Verdict.REPRODUCED) if r.key == key else r for r in records]
    with pytest.raises(
        UserError, match=r"gh1935/story\.md: says absent of gh1935_saved_weight .*nf4-eager in tf5\.2\.0-bnb0\.49\.2"
    ):
        story.stories(turned, KNOWN, ["x"])


def test_an_arm_that_ran_out_of_memory_is_in_no_range(records: list[Record]) -> None:
    compiled = [r for r in records if r.condition == "9b-on-12gb-compile-cuda" and r.arms]
    reached, ran_out = ([r for r in compiled if (r.figure("subject") is None) is raised] for raised in (False, True))
    assert reached and ran_out
    (figure,) = {round(float(r.figure("subject") or 0) / 2**30, 2) for r in reached}
    assert story.arm_range(compiled, "subject", "bytes", 0) == f"{figure:.2f} GiB, out of memory in {len(ran_out)}"


def test_a_claim_of_several_cases_is_told_once_by_all_of_them(records: list[Record]) -> None:
    entries = [e for e in KNOWN.values() if e.case.number == 1935]
    text = "the maintainer suspects a graph compiler's joint graph, not eager mode"
    assert len([e for e in entries if text in [claim.text for claim in e.case.claims]]) == 2
    (row,) = [line for line in story.story(entries, records, ["x"]).splitlines() if line.startswith(f"| {text} |")]
    both = "bitsandbytes >0.49.2,<=0.50.2 or torch >2.13.0,<=2.14.0, by condition"
    assert row.endswith(f"| no figure | **fixed in {both}** |")


def test_a_control_condition_says_that_it_has_no_planted_arm() -> None:
    made = record()
    alone = replace(made, control=True, arms=made.arms[:2], margins={**made.margins, "planted_over_budget": None})
    assert [arm.arm for arm in alone.arms] == ["subject", "reference"]
    assert story.figures([made])[-1] == "≥ 3.00×, ≥ ∞"
    assert story.figures([alone])[-1] == "no planted arm, ≥ ∞"
    assert terminal.margins(made) == "planted/budget 3.00×, budget/reference ∞"
    assert terminal.margins(alone) == "no planted arm, budget/reference ∞"
    raised = replace(made, margins=dict.fromkeys(made.margins))
    assert story.figures([raised])[-1] == "raised, raised"


def test_a_report_without_a_reading_is_told_by_its_figures(
    records: list[Record], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = KNOWN["gh44387_int8"]
    whole = story.story([entry], records, ["x"])
    monkeypatch.setattr(story, "reading_path", lambda entry: tmp_path / "story.md")
    bare = story.story([entry], records, ["x"])
    assert set(re.findall("(?m)^(?:#|[|]).*", bare)) == set(re.findall("(?m)^(?:#|[|]).*", whole))
    assert len(bare) < len(whole)
    gone = [replace(r, verdict=Verdict.ABSENT) for r in records if r.case == "gh1946_state_dict"]
    nobody = story.story([KNOWN["gh1946_state_dict"]], gone, ["x"])
    assert "## What to do today\n\n- Nobody is hit: it is absent in every release that was tried.\n" in nobody


def test_a_story_follows_its_results(records: list[Record]) -> None:
    entry = KNOWN["gh44387_reserved_memory"]
    before = story.story([entry], records, ["x"])
    kept = [r for r in records if not (r.case == entry.name and "5.4.0" in r.cell)]
    after = story.story([entry], kept, ["x"])
    assert ">5.3.0,<=5.4.0" in before
    assert ">5.3.0,<=5.23.0" in after
    assert ">5.3.0,<=5.4.0" not in after


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{{ figure('gh1935_saved_weight', 'nope', 'x') }}", "no trial of gh1935_saved_weight [nope] in x"),
        (
            "{{ figure('gh1935_saved_weight', 'nf4-eager', 'tf5.2.0-bnb0.49.2', 'subject', 'x_bytes') }}",
            "no x_bytes of subject",
        ),
        (
            "{{ figure('gh1935_card_table', '9b-on-12gb-compile-cuda', 'gpu-tf5.23.0-bnb0.49.2') }}",
            "no cuda_peak_reserved_bytes of subject",
        ),
        ("{{ absent('gh1935_saved_weight', 'nope*') }}", "no settled trial of gh1935_saved_weight [nope*]"),
        ("{{ reported('gh1935_card_table', 'x') }}", "gh1935_card_table reports no `x`"),
        (
            "{{ measured('gh1935_card_table', '9B on 12 GB, after the fix', 'planted') }}",
            "no `9B on 12 GB, after the fix` of planted was measured",
        ),
        ("{{ good('gh1849_fused_experts') }}", "no release that was tried ends gh1849_fused_experts [*]"),
        ("{{ good('gh1935_compiled', '*', 'torch') }}", "no release of torch that was tried ends gh1935_compiled [*]"),
        ("{{ nothing() }}", "'nothing' is undefined"),
    ],
)
def test_a_reading_that_asks_for_what_is_not_there(text: str, says: str, records: list[Record], tmp_path: Path) -> None:
    path = tmp_path / "gh1.md"
    path.write_text("".join(f"## {name}\n\n{text}\n\n" for name in story.PARTS))
    with pytest.raises(UserError, match=re.escape(says)):
        story.parts(path, story.Results(records, path, [KNOWN["gh1935_card_table"]]))


def test_a_release_is_told_by_its_number(records: list[Record]) -> None:
    asked = story.Results(records, Path("story.md"), [])
    assert asked.good("gh1935_compiled", "nf4-compile-mincut") == "bitsandbytes 0.50.0"
    assert asked.good("gh1935_compiled", "nf4-compile-*") == "bitsandbytes 0.50.2", "the last of them to end"
    assert asked.good("gh1935_compiled", "nf4-compile-mincut", "torch") == "torch 2.14.0"
    fewer = [r for r in records if r.versions.get("bitsandbytes") != "0.50.0"]
    assert story.Results(fewer, Path("story.md"), []).good("gh1935_compiled", "nf4-compile-mincut")[-6:] == "0.50.2"


def test_a_story_opens_with_what_to_do(records: list[Record]) -> None:
    entries = [e for e in KNOWN.values() if e.case.number == 1935]
    text = story.story(entries, records, ["x"])
    heads = re.findall("(?m)^## (.*)", text)
    assert heads[:2] == ["What to do today", "What was claimed"]
    what = text.partition("## What to do today\n")[2].partition("\n## ")[0]
    for line in rows.row(entries, [r for r in records if r.case.startswith("gh1935_")]).lines:
        assert f"bad in {line.bad}; {line.advice or 'no release that was tried is good'}.\n" in what
    assert len(text.partition("## What to do")[0].splitlines()) < 12, "on the first screen"
    assert not [path for path in READINGS if re.search(r"table\s+(above\s+)?says", path.read_text())]


def test_a_reading_that_is_missing_or_lacks_a_part(records: list[Record], tmp_path: Path) -> None:
    path = tmp_path / "story.md"
    asked = story.Results(records, path, [KNOWN["gh1935_card_table"]])
    assert story.parts(path, asked) == dict.fromkeys(story.PARTS, ""), "a report may be told by its figures alone"
    path.mkdir()
    with pytest.raises(UserError, match=r"story\.md: Is a directory\nhint: check"):
        story.parts(path, asked)
    path.rmdir()
    path.write_text("## in short\n\nx\n")
    with pytest.raises(UserError, match="its parts are in short"):
        story.parts(path, story.Results(records, path, [KNOWN["gh1935_card_table"]]))


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["stories", *map(str, RUNS), "--to", str(tmp_path / "s")]) == 0
    assert {path.name for path in (tmp_path / "s").glob("*.md")} == {path.name for path in STORIES}
    assert "No such file" in errors(["stories", "/nowhere"], capsys)
