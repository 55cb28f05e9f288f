"""pytest as the runner: ids, selection, resume, reports, and two lines for what is wrong."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import pytest

from repros import ROOT
from repros.cases import find
from repros.cells.matrix import load_matrix
from repros.pytest_plugin import Plugin, TrialItem
from repros.run import results
from repros.run.results import Run
from repros.run.trial import Trial
from repros.verdict import Verdict
from tests.factories import record
from tests.processes import takes_signals as takes_signals  # tests/attack looks for it here
from tests.waiting import eventually

CELL = "tf5.23.0-bnb0.50.2"


def begin(*arguments: str, reports: Path, root: Path = ROOT) -> subprocess.Popen[str]:
    """Start pytest with the plugin on the suite's cases, those of this checkout or of a copy of it."""
    command = [sys.executable, "-m", "pytest", "-p", "repros.pytest_plugin", "--no-header"]
    command += ["-o", f"cache_dir={reports}-cache"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(root), *sys.path])}
    for ours in ("PYTEST_XDIST_WORKER", "NOX_CURRENT_SESSION"):
        environment.pop(ours, None)
    return subprocess.Popen(
        # A relative path, as people write one.
        [*command, "--reports", os.path.relpath(reports, root), *arguments, "repros/cases"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=root, env=environment,
        preexec_fn=takes_signals,
    )  # fmt: skip


def run(*arguments: str, reports: Path, root: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run pytest with the plugin on the suite's cases."""
    process = begin(*arguments, reports=reports, root=root)
    out, err = process.communicate()
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def test_ids_are_readable_and_k_selects_by_number_condition_and_cell(tmp_path: Path) -> None:
    listed = run("--collect-only", "-q", "--cell", CELL, "-k", "1935 and nf4-eager", reports=tmp_path).stdout
    assert f"repros/cases/bitsandbytes/gh1935/saved_weight.py::nf4-eager[{CELL}]" in listed
    assert re.search(r"(?m)^1/\d+ tests collected \(\d+ deselected\)", listed)
    assert "44387" not in listed
    both = run("--collect-only", "-q", "--tier", "smoke", "-k", "nf4-eager", reports=tmp_path).stdout
    assert both.count("gh1935/saved_weight.py::nf4-eager[") == 2
    named = run("--collect-only", "-q", "--cell", CELL, "-k", "gh1935_saved_weight", reports=tmp_path).stdout
    assert {line.partition("::")[0] for line in named.splitlines() if "::" in line} == {
        "repros/cases/bitsandbytes/gh1935/saved_weight.py"
    }


def test_what_failed_last_is_chosen_by_its_id(tmp_path: Path) -> None:
    failed = f"repros/cases/bitsandbytes/gh1935/saved_weight.py::nf4-eager[{CELL}]"
    kept = Path(f"{tmp_path}-cache") / "v" / "cache" / "lastfailed"
    kept.parent.mkdir(parents=True)
    kept.write_text(json.dumps({failed: True}))
    listed = run("--collect-only", "-q", "--cell", CELL, "--lf", reports=tmp_path).stdout
    assert [line for line in listed.splitlines() if "::" in line] == [failed]


@pytest.mark.parametrize(
    ("arguments", "first", "second"),
    [
        (["--cell", "nope"], "matrix.yaml: no cell `nope`", "hint: one of: "),
        (["--tier", "nope"], "matrix.yaml: no tier `nope`", "hint: one of: "),
        (["--cell", CELL, "--with", "bitsandbytes"], "--with bitsandbytes: no `=` in it", "hint: write"),
        (["--cell", CELL, "--jobs", "-5"], "--jobs: `-5` is not a whole number from 1 to 1,024", "hint: see `pytest"),
        (["--cell", CELL, "--run", "/dev/null"], "--run: `/dev/null` is not a folder", "hint: see `pytest"),
        (["--cell", CELL, "--resume"], "runs: no run there", "hint: make one: `nox -s cpu`"),
    ],
)
def test_bad_options_get_two_lines_and_exit_2(tmp_path: Path, arguments: list[str], first: str, second: str) -> None:
    done = run(*arguments, reports=tmp_path)
    assert done.returncode == 2
    assert first in done.stderr
    assert second in done.stderr
    assert "Traceback" not in done.stderr + done.stdout


def test_a_broken_case_file_is_two_lines_and_exit_2(tmp_path: Path) -> None:
    """In a copy of the checkout: a case file is read from below it alone."""
    root = tmp_path / "checkout"
    shutil.copytree(ROOT / "repros", root / "repros", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "matrix.yaml", "fixtures", "reports"):
        (root / name).symlink_to(ROOT / name)
    broken = root / "mine" / "gh0_broken.py"
    broken.parent.mkdir()
    broken.write_text("CASE = Case(foo=1)\n")
    done = run("--dry-run", "--cell", CELL, str(broken), reports=tmp_path / "out", root=root)
    assert done.returncode == 2, done.stdout + done.stderr
    place = f"{broken.relative_to(root)}:1: NameError: name 'Case' is not defined"
    assert f"{place}\nhint: a case file declares" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr


def test_a_run_end_to_end_with_junit_and_resume(tmp_path: Path) -> None:
    junit = tmp_path / "junit.xml"
    chosen = ["--cell", CELL, "-k", "1935 and (nf4-eager or nf4-checkpoint-reentrant)"]
    done = run(*chosen, f"--junitxml={junit}", reports=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 passed" in done.stdout
    assert "every verdict is as recorded" in done.stdout
    assert "time: " in done.stdout
    folder = results.latest_run(tmp_path)
    records, _ = results.load(folder)
    assert {(r.condition, r.verdict) for r in records} == {
        ("nf4-eager", Verdict.ABSENT),
        ("nf4-checkpoint-reentrant", Verdict.ABSENT),
    }
    for one in records:
        assert {arm.arm for arm in one.arms} >= {"subject", "reference", "planted"}
        assert (one.margins["planted_over_budget"] or 0) > 1.5
        assert one.environment["lock_committed"]
    names = [case.get("name") for case in ElementTree.parse(junit).iter("testcase")]
    assert names == [f"nf4-eager[{CELL}]", f"nf4-checkpoint-reentrant[{CELL}]"]
    again = run(*chosen, "--resume", reports=tmp_path)
    assert "2 passed" not in again.stdout
    assert again.returncode == 5


def settled(folder: Path) -> set[tuple[str, str, str]]:
    """Return what a run has settled so far; nothing before its first line."""
    return results.settled(folder) if (folder / results.RESULTS).exists() else set()


def test_a_run_that_is_interrupted_says_what_is_missing_and_goes_on(tmp_path: Path) -> None:
    chosen = ["--cell", CELL, "-k", "gh1927 and not assign-int8", "--run", str(folder := tmp_path / "r")]
    with begin(*chosen, reports=tmp_path) as process:
        eventually(lambda: process.poll() is not None or settled(folder), 120, "a first verdict")
        time.sleep(0.1)  # the verdict is on disk a moment before pytest tells of it, and only then is it counted
        process.send_signal(signal.SIGINT)
        out, err = process.communicate()
    kept = settled(folder)
    listed = int(re.findall(r"(\d+)/\d+ tests collected", run("--collect-only", *chosen, reports=tmp_path).stdout)[0])
    assert process.returncode == 130, err
    assert 0 < len(kept) < listed
    assert f"not tried: {listed - len(kept)} of {listed} trials in {CELL}" in out
    assert f"hint: the same command goes on with `--resume --run {folder}`" in out
    again = run(*chosen, "--resume", reports=tmp_path)
    assert f"{listed - len(kept)} passed" in again.stdout
    assert "not tried" not in again.stdout
    assert len(results.load(folder)[0]) == listed


def test_trials_go_cell_by_cell_and_else_as_they_stand() -> None:
    plugin = object.__new__(Plugin)
    plugin.cells = load_matrix(ROOT / "matrix.yaml").tier("smoke")
    plugin.config = SimpleNamespace(option=SimpleNamespace(one_a_report=None))  # type: ignore[assignment]
    entry = next(entry for entry in find() if entry.name == "gh1995_strided_tensor")
    pairs = [(cell, condition) for condition in entry.case.conditions[:3] for cell in reversed(plugin.cells)]
    given: list[pytest.Item] = [object.__new__(TrialItem) for _ in pairs]
    for item, (cell, condition) in zip(given, pairs, strict=True):
        assert isinstance(item, TrialItem)
        item.trial, item.cell, item.name = Trial(entry, condition, cell.label), cell, condition.name
    plugin.pytest_collection_modifyitems(given)
    names = [condition.name for condition in entry.case.conditions[:3]]
    found = [(item.cell.label, item.name) for item in given if isinstance(item, TrialItem)]
    assert found == [(cell.label, name) for cell in plugin.cells for name in names]


def test_what_was_not_tried_is_told_where_a_run_was_cut_and_nowhere_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plugin = object.__new__(Plugin)
    kept, told, left = (SimpleNamespace(nodeid=name, trial=SimpleNamespace(key=name)) for name in ("a", "b", "c"))
    plugin.cells = load_matrix(ROOT / "matrix.yaml").tier("cpu")[:1]
    plugin.run = SimpleNamespace(folder=ROOT / "reports" / "runs" / "r")  # type: ignore[assignment]
    plugin.items, plugin.told, plugin.began = [kept, told, left], {"b"}, True  # type: ignore[list-item]
    plugin.session = SimpleNamespace(kept={"a"})  # type: ignore[assignment]
    monkeypatch.chdir(ROOT)
    monkeypatch.delenv("NOX_CURRENT_SESSION", raising=False)
    says = [
        f"not tried: 1 of 3 trials in {plugin.cells[0].label}",
        "hint: the same command goes on with `--resume --run reports/runs/r`",
    ]
    interrupted = pytest.ExitCode.INTERRUPTED
    assert plugin._rest(interrupted) == says
    monkeypatch.setenv("NOX_CURRENT_SESSION", "cpu")
    assert plugin._rest(interrupted)[1].endswith("`-- --resume --run reports/runs/r`")
    monkeypatch.chdir(tmp_path)  # `--run` is taken from there
    assert plugin._rest(interrupted)[1].endswith(f" --run {plugin.run.folder}`")
    plugin.items = [kept, told]  # type: ignore[list-item]
    assert plugin._rest(pytest.ExitCode.OK) == []
    plugin.items, plugin.began = [left], False  # type: ignore[list-item]
    assert plugin._rest(interrupted) == []  # a case that cannot be imported: going on would not help
    plugin.items = []
    assert "the rest of the trials" in plugin._rest(interrupted)[0]  # with pytest-xdist
    assert plugin._rest(pytest.ExitCode.OK) == []


def test_a_regression_fails_with_its_two_lines(tmp_path: Path) -> None:
    """With the record of what is affected taken away, what reproduces is a regression."""
    script = (
        "import sys, dataclasses, pytest\n"
        "from repros.cases.bitsandbytes.gh1935 import compiled as g\n"
        "unaffected = tuple(dataclasses.replace(c, affected=()) for c in g.CASE.conditions)\n"
        "g.CASE = dataclasses.replace(g.CASE, conditions=unaffected)\n"
        "sys.exit(pytest.main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", script, "-p", "repros.pytest_plugin", "-p", "no:cacheprovider", "-q"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    chosen = ["--cell", "tf5.2.0-bnb0.49.2", "-k", "nf4-compile-default", "--reports", str(tmp_path)]
    done = subprocess.run(
        [*command, *chosen, "repros/cases/bitsandbytes/gh1935/compiled.py"],
        capture_output=True, text=True, cwd=ROOT, env=environment, check=False,
    )  # fmt: skip
    assert done.returncode == 1, done.stdout
    assert "gh1935_compiled[nf4-compile-default] in tf5.2.0-bnb0.49.2: reproduced: held_bytes" in done.stdout
    assert "hint: the record says that this version is not affected" in done.stdout
    assert "Traceback" not in done.stdout


def test_results_of_an_unknown_schema_stop_a_resume(tmp_path: Path) -> None:
    made = Run(tmp_path / "runs" / "r")
    made.append(record())
    made.path.write_text(made.path.read_text().replace('"schema":1', '"schema":99'))
    done = run("--cell", CELL, "--resume", reports=tmp_path)
    assert done.returncode == 2
    assert "schema version 99, this version reads 1" in done.stderr
    assert made.path.read_text().count("\n") == 1


@pytest.mark.parametrize("label", [CELL, "another"])
def test_a_resumed_run_fails_by_what_an_earlier_call_found_in_its_cells(tmp_path: Path, label: str) -> None:
    made = Run(tmp_path / "runs" / "20260101-000000-smoke")
    packages = {"torch": "2.13.0", "transformers": "5.23.0", "bitsandbytes": "0.50.2"}
    made.append(record("gh1935_saved_weight", "nf4-eager", label, Verdict.REPRODUCED, False, packages=packages))
    chosen = "1935_saved and nf4-eager and not nf4-eager-" if label == CELL else "nothing_of_this_name"
    done = run("--cell", CELL, "--resume", "-k", chosen, reports=tmp_path)
    assert done.returncode == (1 if label == CELL else 5), done.stdout
    assert ("hint: the record says that this version is not affected" in done.stdout) == (label == CELL)
