"""The house is small: what is opened to read a case, how many modules stand in a room, how many files are evidence."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

from repros import ROOT, cases
from repros.bisect import probe
from repros.case import Remedy
from repros.cases import Entry, aliases, sources
from repros.run import results

ENTRIES = cases.find()
#: The folder of each report, by the report.
FOLDERS = {entry.case.report: ROOT / Path(*entry.module.split(".")[:-1]) for entry in ENTRIES}
WITNESSES = [(report, path) for report, folder in FOLDERS.items() for path in cases.witnesses(folder)]
UNDER_TEST = {"torch", "transformers", "bitsandbytes", "accelerate", "peft"}
KNOWN = {entry.name: entry for entry in ENTRIES}
#: Lines of a case file, and of all that must be opened beside it.
MOST_LINES = 150
WITNESS_LINES = 80
ROOT_MODULES, ROOM_MODULES = 8, 14
REPORT_FILES = 130


def file_of(module: str) -> Path:
    return ROOT.joinpath(*module.split(".")).with_suffix(".py")


def lines_of(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def remedies(module: str) -> set[str]:
    """Return the modules from which one takes remedies alone: they decide no verdict, and nobody must open them."""
    body = ast.parse(file_of(module).read_text(encoding="utf-8")).body
    taken: dict[str, list[str]] = {}
    for node in body:
        if isinstance(node, ast.ImportFrom):
            taken.setdefault(str(node.module), []).extend(one.name for one in node.names)
    return {
        name
        for name, parts in taken.items()
        if all(
            part.startswith("remedy_") or isinstance(getattr(import_module(name), part, None), Remedy) for part in parts
        )
    }


def beside(module: str) -> set[str]:
    """Return the modules of `repros.cases` that a case file imports, directly or by another: all but packages."""
    waiting, found = [module], set[str]()
    while waiting:
        name = waiting.pop()
        named = {*sources.imported(file_of(name).read_text(encoding="utf-8"), name)} - remedies(name)
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


def test_each_report_has_a_witness() -> None:
    assert {report for report, path in WITNESSES if path.name == "minimal.py"} == FOLDERS.keys()


@pytest.mark.parametrize(("report", "path"), WITNESSES, ids=lambda value: "-".join(Path(value).parts[-3:]))
def test_a_witness_stands_alone_and_says_what_it_is(report: str, path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert lines_of(path) <= WITNESS_LINES
    said = ast.get_docstring(ast.parse(text)) or ""
    assert said.startswith(f"{report}: ")
    assert f"uv run {path.name} " in said
    assert "\nFigure: " in said
    assert re.search(r"(^|[. ])Limit\b", said, re.MULTILINE)
    assert imported(text) <= UNDER_TEST | sys.stdlib_module_names
    assert declared(text) >= imported(text) & UNDER_TEST


def imported(text: str) -> set[str]:
    """Return the packages that a script imports, wherever in it; a relative import is called by its dots."""
    nodes = list(ast.walk(ast.parse(text)))
    named = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    named += ["." * node.level or node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)]
    return {name.partition(".")[0] or name for name in named}


def declared(text: str) -> set[str]:
    """Return the packages in a script's metadata (PEP 723)."""
    block = re.match(r"# /// script\n((?:# .*\n)+)# ///\n", text)
    assert block, "no script metadata in the first lines"
    lines = block[1].replace("# ", "", 1).replace("\n# ", "\n")
    return {re.split(r"[<>=!~ ]", one)[0] for one in tomllib.loads(lines)["dependencies"]}


def test_what_a_script_imports_and_declares_is_found() -> None:
    """Or the test above would hold of every script."""
    assert imported("def f():\n    import torch.nn, repros\n    from . import x\n    from repros.case import y\n") == {
        "torch",
        "repros",
        ".",
    }
    assert declared('# /// script\n# dependencies = ["torch>=2.4", "peft"]\n# ///\n') == {"torch", "peft"}


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
    declared |= {(path.name, "exit") for _, path in WITNESSES}  # a walk of a witness, judged by its exit code
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
    command = ["git", "ls-files", "reports"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert 0 < len(listed.stdout.splitlines()) < REPORT_FILES
