"""The command line: what it prints, and two lines and exit code 2 for bad input."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from repros import ROOT, cases
from repros.case import Affected
from repros.cases import Entry
from repros.commands import cli
from repros.requirements import holds
from repros.run import results
from repros.run.results import Run
from repros.run.trial import Trial, two_lines
from repros.verdict import Outcome, Verdict
from tests.commands import errors
from tests.factories import record


@pytest.mark.parametrize(
    ("argv", "says", "hint"),
    [
        (["run", "gh1953"], "no case of a report `gh1953`", "one of: gh1995, gh1935, gh1946; "),
        (["run", "gh1935_saved_wieght"], "no case `gh1935_saved_wieght`", "one of: gh1935_saved_weight"),
        (["list", "--search", "scale", "zebra"], "no case has all of: scale, zebra", "try fewer words"),
        (
            ["run", "gh1935", "--condition", "nf4-eagre"],
            "gh1935_saved_weight `nf4-eagre`",
            "nf4-eager",
        ),
        (["run", "gh1935", "--cell", "tf5.2.0"], "matrix.yaml: no cell `tf5.2.0`", "tf5.2.0-bnb0.49.2"),
        (["run", "gh1935", "--tier", "cup"], "matrix.yaml: no tier `cup`", "cpu"),
        (["run", "gh1935", "--with", "bitsandbytes"], "--with bitsandbytes: no `=` in it", "write"),
        (["run", "gh1935", "--with", "bitsandbite=1.0"], "bitsandbite", "bitsandbytes"),
        (["cells", "--tier", "cup"], "matrix.yaml: no tier `cup`", "cpu"),
        (["show", "gh1"], "no case of a report `gh1`", "`python -m repros list --search WORDS` finds one"),
        (["bisct"], "command: there is no `bisct`", "one of: bisect, "),
        (["report", "/nowhere"], "/nowhere: No such file or directory", "name the folder of a run"),
        (
            ["new", "bitsandbytes", "0", "x", "--kind", "memory"],
            "new: `0` is not the number of a report",
            "the upstream issue's number",
        ),
        (
            ["new", "bitsandbytes", "7", "Bad-Slug", "--kind", "memory"],
            "new: `Bad-Slug` is not a valid name",
            "lower-case words",
        ),
        (["run", "gh1935_saved_weight", "--condition", "int8-eager"], "is of gh1935_int8 now", "name gh1935_int8"),
    ],
)
def test_bad_input(argv: list[str], says: str, hint: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    more = ["--reports", str(tmp_path)] if argv[0] == "run" else []
    said = errors([*argv, *more], capsys)
    assert says in said.splitlines()[0]
    assert hint in said.splitlines()[1]


@pytest.mark.parametrize(
    ("argv", "nearest"),
    [
        ("show gh1936", "gh1935"),
        ("show bitsandbytes#1936", "bitsandbytes#1935"),
        ("show gh1935_compild", "gh1935_compiled"),
        ("run gh1935 --condition nf4-compile-minct", "nf4-compile-mincut"),
        ("run gh1935 --cell tf5.2.0", "tf5.2.0-bnb0.49.2"),
        ("bisect gh1935 --package bitsandbites", "bitsandbytes"),
        ("run gh1935 --with torhc=2", "torch"),
        ("bisct", "bisect"),
        ("bundle gh1995 --cell tf5.2.0-bnb", "tf5.2.0-bnb0.49.2"),
        ("cells --tier gp", "gpu"),
        ("try x.py --bad-if peak_live>1MiB", "peak_live_bytes"),
        ("findings reports/hunts/x", "reports/hunt/"),
    ],
)
def test_an_unknown_name_is_told_with_the_three_nearest(
    argv: str, nearest: str, capsys: pytest.CaptureFixture[str]
) -> None:
    hint = errors(argv.split(), capsys).splitlines()[1]
    names = hint.removeprefix("hint: one of: ").partition(";")[0].split(", ")
    assert len(set(names)) == 3
    assert nearest in names[:2] or names[0].startswith(nearest)


def test_reports_that_cannot_be_written_stop_the_run_before_anything_is_built(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "reports").write_text("")
    said = errors(["run", "gh1935", "--reports", str(tmp_path / "reports")], capsys)
    assert f"--reports: `{tmp_path}/reports` is not a folder\n" in said
    (tmp_path / "runs").write_text("")
    assert "runs: " in errors(["run", "gh1935", "--reports", str(tmp_path)], capsys)


def test_an_environment_that_cannot_be_had_is_unsupported_and_the_rest_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["run", "gh1935", "--condition", "nf4-eager", "--with", "bitsandbytes=0.0.1", "--reports", str(tmp_path)]
    assert cli.main(argv) == 0
    found, _ = results.load(results.latest_run(tmp_path))
    assert {r.verdict for r in found} == {Verdict.UNSUPPORTED}
    assert "0.0.1" in found[0].reason
    words = found[0].repeat.split()
    assert words[:3] == ["python", "-m", "repros"]
    assert cli.main([*words[3:], "--reports", str(tmp_path / "again")]) == 0
    assert "unsupported" in capsys.readouterr().out


def test_list_show_cells_and_doctor_say_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    found = cases.find()
    assert len(found) > 5
    said = {}
    for argv in (["list"], ["cells"], ["doctor"], *(["show", e.name] for e in found)):
        assert cli.main(argv) == 0
        said[argv[-1]] = capsys.readouterr().out
    for e in found:
        assert e.name in said["list"]
        for condition in e.case.conditions:
            assert condition.name in said[e.name]
    assert "excluded: device cpu and bitsandbytes <0.46: bitsandbytes before 0.46 has no CPU kernel" in " ".join(
        said["cells"].split()
    )
    (kind,) = re.findall(r"gpu kind: (\w+)", said["doctor"])
    assert ("cannot run: it needs a GPU" in said["doctor"]) == (kind == "none")


def test_a_report_of_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = Run(tmp_path / "runs" / "r")
    run.append(record(case="gh1935_saved_weight", condition="nf4-eager"))
    assert cli.main(["report", str(run.folder)]) == 0
    assert "refuted" in capsys.readouterr().out
    kept = tmp_path / "kept"
    assert cli.main(["report", str(run.folder), "--commit-to", str(kept)]) == 0
    assert results.load(kept)[0] == results.load(run.folder)[0]
    assert "- **refuted**" in (kept / "README.md").read_text()
    with run.path.open("a") as file:
        file.write('{"schema": 1, "ki')
    assert cli.main(["report", str(run.folder)]) == 0
    assert "the last line is cut off, 1 whole lines were read" in capsys.readouterr().err


def test_an_empty_run_is_said_in_two_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Run(tmp_path / "runs" / "r")
    assert "no finished trial" in errors(["report", str(tmp_path / "runs" / "r")], capsys)


def test_a_fault_of_the_harness_is_told_apart(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cases, "find", lambda: 1 / 0)
    assert cli.main(["list"]) == 3
    assert "a fault of the harness: ZeroDivisionError" in capsys.readouterr().err


def test_a_missing_dependency_is_said_in_two_lines() -> None:
    code = "import sys; sys.modules['yaml'] = None; import runpy; runpy.run_module('repros', run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert (done.returncode, done.stderr) == (
        2,
        "repros: the package yaml is missing\nhint: python3 -m pip install -e .\n",
    )


@pytest.mark.parametrize(
    ("specifier", "version", "wanted"),
    [
        (">=0.46,<0.50", "0.49.2", True), (">=0.46,<0.50", "0.50.0", False), (">=0.50", "0.51.0.dev0", True),
        ("", "1.0", True), (">=1", "", False), ("==2.13.*", "2.13.0+cpu", True),
    ],
)  # fmt: skip
def test_holds(specifier: str, version: str, wanted: bool) -> None:
    assert holds(specifier, version) is wanted


@pytest.mark.parametrize(
    ("outcome", "hint"),
    [
        (Outcome.REGRESSION, "the record says that this version is not affected"),
        (Outcome.FIXED, "narrow `affected` in the case"),
        (Outcome.NEW, "write what it is into `affected` of the condition"),
        (Outcome.UNSETTLED, "read the arms' logs"),
    ],
)
def test_a_failed_trial_says_what_and_then_what_to_do(outcome: Outcome, hint: str) -> None:
    text = two_lines(replace(record(), outcome=outcome))
    first, second = text.splitlines()
    assert first == "gh1_x[c] in a: absent: held_bytes 3 B against 10 B allowed"
    assert second.startswith("hint: ")
    assert hint in second


def test_every_case_keeps_the_rules_of_a_case() -> None:
    """Each limit is a number, each claim is spoken to or read, each window names where it comes from."""
    found = cases.find()
    assert len(found) > 5
    for e in found:
        assert e.doc, e.name
        assert e.case.claims, e.name
        for claim in e.case.claims:
            assert e.case.speaking_to(claim) or claim.readings, (e.name, claim.text)
        for condition in e.case.conditions:
            assert condition.budget.limit >= 0, (e.name, condition.name)
            assert all(claim in e.case.claims for claim in condition.claims), (e.name, condition.name)
            assert ("proposed" in e.arms_of(condition)) <= (e.case.proposes is not None), e.name
            assert ("planted" in e.arms_of(condition)) != condition.control, (e.name, condition.name)
            for window in condition.affected or ():
                assert (ROOT / window.source).exists(), (e.name, window.source)


def test_every_report_has_a_remedy_that_is_tried_where_the_bug_is() -> None:
    """No two of a case say the same, and each names an arm that is there, or an environment."""
    found = cases.find()
    for e in found:
        remedies = [one for c in e.case.conditions for one in c.remedies]
        does = [(one.arm, one.params, one.env) for one in remedies]
        assert [[one.text for one in remedies].index(one.text) for one in remedies] == [does.index(one) for one in does]
        module = importlib.import_module(e.module)
        assert all(callable(getattr(module, one.arm)) if one.arm else one.params or one.env for one in remedies), e.name
        assert all(c.affected != () and not c.control for c in e.case.conditions if c.remedies), e.name
    tried = {e.case.report for e in found if any(c.remedies for c in e.case.conditions)}
    assert tried == {e.case.report for e in found}


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("repros.cases.bitsandbytes.gh1935.saved_weight", "gh1935_saved_weight"),
        ("tests.selftest.st_harness", "st_harness"),
        ("reports.runs.r.gh0_mine", "gh0_mine"),
        ("repros.cases.bitsandbytes.gh1935._step", None),
        ("repros.cases.bitsandbytes.gh1935.minimal", None),
        ("repros.cases.bitsandbytes.gh1935.minimal_dora", None),
        ("repros.cases.bitsandbytes.gh1935.minimally", "gh1935_minimally"),
        ("repros.cases.bitsandbytes.gh1935.__init__", None),
        ("repros.cases._frozen", None),
        ("repros.cases.aliases", None),
    ],
)
def test_a_case_is_called_by_its_report_and_its_file(module: str, name: str | None) -> None:
    assert cases.is_case(module) is (name is not None)
    assert name is None or cases.name_of(module) == name


@pytest.mark.parametrize(
    ("word", "wanted"),
    [
        ("gh2005_experts", {"gh2005_experts"}),
        ("gh44728", {"gh44728_fp16_load_leak", "gh44728_reads_ahead", "gh44728_report_test"}),
        ("44728", {"gh44728_fp16_load_leak", "gh44728_reads_ahead", "gh44728_report_test"}),
        ("bitsandbytes#2005", {"gh2005_experts"}),
        ("#2005", {"gh2005_experts"}),
        ("https://github.com/bitsandbytes-foundation/bitsandbytes/issues/2005#issuecomment-1", {"gh2005_experts"}),
        ("repros/cases/bitsandbytes/gh2005/experts.py", {"gh2005_experts"}),
        ("gh1935_card_table_largest", {"gh1935_largest"}),  # as it was called
    ],
)
def test_a_case_is_named_by_itself_its_report_its_file_or_as_it_was_called(
    word: str, wanted: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    assert {entry.name for entry in cases.select(word, cases.find())} == wanted


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (["fused", "Experts"], "gh1849_fused_experts"),  # of a title, in another case
        (["dispatched on the CPU"], "gh1849_two_cards"),  # of an error's text
        (["bitsandbytes#2005"], "gh2005_experts"),
        (["inductor", "frozen 4-bit"], "gh1935_compiled"),
    ],
)
def test_list_finds_a_case_by_words(words: list[str], wanted: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["list", "--search", *words]) == 0
    found = capsys.readouterr().out
    assert wanted in found
    assert "gh44387_cast_dtype" not in found


def test_what_list_prints_can_be_shown(capsys: pytest.CaptureFixture[str]) -> None:
    for e in cases.find():
        for word in (e.name, e.case.report):
            assert cli.main(["show", word]) == 0
            assert e.name in capsys.readouterr().out


def test_a_broken_matrix_is_two_lines_under_nox(tmp_path: Path) -> None:
    """Nox reads the matrix for the names of its sessions."""
    for name in ("noxfile.py", "pyproject.toml", "repros"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "matrix.yaml").write_text("cells: [\n")
    code = "import sys, types; sys.modules['nox'] = types.ModuleType('nox'); import runpy; runpy.run_path('noxfile.py')"
    code = code.replace("import runpy", "sys.modules['nox'].options = types.SimpleNamespace(); import runpy")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("matrix.yaml: line 2, column 1: ")
    assert done.stderr.count("\n") == 2


def test_each_command_is_found_by_its_module_and_starts_without_the_others() -> None:
    for module, names in cli.COMMANDS.items():
        for name in names:
            (choices,) = (action.choices for action in cli.parser([name])._actions if action.metavar == "COMMAND")
            assert tuple(choices or ()) == names, module
    assert sum(map(len, cli.COMMANDS.values())) == len(set().union(*cli.COMMANDS.values()))
    code = (
        "import sys; from repros.commands import cli; cli.main(['list'])\n"
        "print('loaded', {'matplotlib', 'jinja2', 'repros.bisect', 'repros.cells.envs'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.endswith("loaded set()\n")


def test_cases_import_nothing_heavy() -> None:
    """The parent reads declarations; torch and the packages under test stay out of it."""
    code = (
        "import sys; from repros import cases; cases.find()\n"
        "heavy = {'torch', 'bitsandbytes', 'transformers', 'numpy', 'accelerate', 'peft'} & sys.modules.keys()\n"
        "sys.exit(', '.join(sorted(heavy)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_expected_needs_every_package_of_a_window(harness: Entry) -> None:
    window = Affected({"bitsandbytes": "<0.50", "transformers": ">=5"}, "reports/cpu")
    passes = harness.condition("passes")
    trial = Trial(harness, replace(passes, affected=(window,)), "x")
    assert trial.expected({"bitsandbytes": "0.49.2", "transformers": "5.2.0"})
    assert not trial.expected({"bitsandbytes": "0.49.2", "transformers": "4.57.5"})
    assert not trial.expected({"bitsandbytes": "0.50.2", "transformers": "5.2.0"})
    assert not trial.expected({"bitsandbytes": "0.49.2"})
    either = Trial(harness, replace(passes, affected=(Affected({"torch": "<2"}, "reports/cpu"), window)), "x")
    assert either.expected({"torch": "1.13", "bitsandbytes": "0.50.2", "transformers": "5.2.0"})
    assert either.expected({"torch": "2.13", "bitsandbytes": "0.49.2", "transformers": "5.2.0"})


def test_nothing_is_expected_where_nothing_is_recorded_and_of_a_control_that_it_is_fine(harness: Entry) -> None:
    versions = {"bitsandbytes": "0.49.2", "transformers": "5.2.0"}
    recorded = [Trial(harness, harness.condition(name), "x").expected(versions) for name in
                ("nothing-recorded", "passes", "control")]  # fmt: skip
    assert recorded == [None, False, False]


def test_a_window_on_a_cpu_says_nothing_of_a_card(harness: Entry) -> None:
    everywhere = (Affected({"torch": ">=1"}, "reports/cpu"),)
    on_cpu = replace(harness.condition("passes"), affected=everywhere)
    card = on_cpu.on_card("7b", on_cpu.budget)
    assert (card.name, card.proxy, card.device) == ("passes-7b-cuda", "passes", "cuda")
    versions = {"torch": "2.13.0"}
    assert Trial(harness, on_cpu, "x").expected(versions) is True
    assert Trial(harness, card, "x").expected(versions) is None
