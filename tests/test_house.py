"""The house is small: what is opened to read a case, how many modules stand in a room, how many files are evidence."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from repros import ROOT, cases
from repros.bisect import probe
from repros.cases import Entry, aliases, sources
from repros.run import results

ENTRIES = cases.find()
KNOWN = {entry.name: entry for entry in ENTRIES}
#: Lines of a case file, and of all that must be opened beside it.
MOST_LINES = 150
ROOT_MODULES, ROOM_MODULES = 8, 14
REPORT_FILES = 130


def file_of(module: str) -> Path:
    return ROOT.joinpath(*module.split(".")).with_suffix(".py")


def lines_of(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def beside(module: str) -> set[str]:
    """Return the modules of `repros.cases` that a case file imports, directly or by another: all but packages."""
    waiting, found = [module], set[str]()
    while waiting:
        name = waiting.pop()
        named = sources.imported(file_of(name).read_text(encoding="utf-8"), name)
        new = {one for one in named if one.startswith("repros.cases.") and file_of(one).is_file()} - found - {module}
        found |= new
        waiting += new
    return found


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_a_case_is_read_in_two_minutes(entry: Entry) -> None:
    assert lines_of(file_of(entry.module)) <= MOST_LINES
    opened = {name: lines_of(file_of(name)) for name in beside(entry.module)}
    assert sum(opened.values()) <= MOST_LINES, opened
    assert all(name.rpartition(".")[2].startswith("_") for name in opened), "a case that needs another case"
    folder = entry.module.rpartition(".")[0]
    assert all(name.startswith((f"{folder}.", "repros.cases._")) for name in opened), "a part of another report"


def test_what_is_opened_beside_a_case_is_found_through_another_module() -> None:
    """Or the test above would hold of every case."""
    package = "repros.cases.bitsandbytes.gh1935"
    assert beside(f"{package}.saved_weight") == {"repros.cases._frozen", f"{package}._fix", f"{package}._step"}


def test_what_only_one_report_needs_is_in_its_folder() -> None:
    shared = {one for entry in ENTRIES for one in beside(entry.module) if one.startswith("repros.cases._")}
    assert shared
    for helper in shared:
        reports = {entry.case.report for entry in ENTRIES if helper in beside(entry.module)}
        assert len(reports) >= 2, f"{helper} serves {reports} alone"


def test_a_report_is_a_folder_of_its_own() -> None:
    for entry in ENTRIES:
        package, folder, _ = entry.module.removeprefix("repros.cases.").split(".")
        assert (package, folder) == (entry.case.package, f"gh{entry.case.number}")


def test_few_modules_stand_in_the_root_and_in_each_room() -> None:
    """A room's `__init__`, which holds its docstring, is not counted; the folder of a report is no room."""
    assert len(list((ROOT / "repros").glob("*.py"))) <= ROOT_MODULES
    folders = [path.parent for path in (ROOT / "repros").glob("*/**/__init__.py")]
    rooms = {room.name: len(list(room.glob("*.py"))) - 1 for room in folders if not cases.REPORT.fullmatch(room.name)}
    assert {"cells", "meters", "reference", "run"} <= rooms.keys()
    assert {room: count for room, count in rooms.items() if count > ROOM_MODULES} == {}


def committed() -> Iterator[tuple[str, str, str]]:
    """Yield file, case and condition of every committed line, as they are read now."""
    trials = sorted(results.REPORTS.glob(f"*/{results.RESULTS}"))
    probes = sorted((results.REPORTS / "bisect").glob("*/probes.jsonl"))
    assert trials and probes
    for path in trials:
        yield from ((results.shown(path), one.case, one.condition) for one in results.load(path)[0])
    for path in probes:
        yield from ((results.shown(path), one.case, one.condition) for one in probe.load(path))


def test_what_is_committed_is_of_conditions_that_are_declared() -> None:
    """A condition that was renamed, or taken out, leaves evidence of nothing behind."""
    declared = {(entry.name, condition.name) for entry in ENTRIES for condition in entry.case.conditions}
    lines = set(committed())
    assert len(lines) > 100
    assert sorted(line for line in lines if line[1:] not in declared) == []


def test_a_condition_that_has_another_case_now_is_declared_there_and_not_where_it_was() -> None:
    declared = {entry.name: {condition.name for condition in entry.case.conditions} for entry in ENTRIES}
    for now, several in aliases.WAS.items():
        for was, conditions in several.items():
            assert set(conditions.split()) <= declared[now], f"of {was}"
            assert not set(conditions.split()) & declared.get(was, set()), f"{was} still has them"


def test_evidence_is_few_files() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("no git checkout")
    listed = subprocess.run(["git", "ls-files", "reports"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert 0 < len(listed.stdout.splitlines()) < REPORT_FILES
