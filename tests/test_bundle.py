"""The attachment: its script runs outside the repository, and says what the trial said."""

from __future__ import annotations

import ast
import json
import pickle
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from repros import ROOT, cases
from repros.cases import Entry
from repros.cells.envs import ensure
from repros.cells.locks import LOCKS, Lock
from repros.cells.matrix import load_matrix
from repros.errors import UserError
from repros.redaction.redact import Redactor
from repros.report import onefile
from repros.report.attachment import bundle, comment, packing
from repros.run import results
from repros.run.results import Record
from repros.run.trial import declared
from repros.verdict import Verdict
from tests.commands import errors

EVIDENCE = results.REPORTS / "cpu"
CELL = "tf5.2.0-bnb0.49.2"
KNOWN = {e.name: e for e in cases.find()}
#: One condition of each case, cheap to run: some reproduced and some absent in `CELL`, with a checkpoint and without.
CHOSEN = {
    "gh1549_quantized_scales": "blockwise",
    "gh1569_float32_cast": "step",
    "gh1729_unpacked_state": "unpacked",
    "gh1775_saved_weight": "as-transformers-4",
    "gh1849_fused_experts": "nf4-experts",
    "gh1862_transposed_weight": "one-row-square",
    "gh1927_cleared_state": "clear-cb-between",
    "gh1927_held_state": "held-enable-train-reentrant-8bit",
    "gh1927_int8_recompute": "recompute-reentrant-train-bfloat16-t0",
    "gh1927_large_activations": "large-bfloat16-eval",
    "gh1927_loader_pops_scb": "loader-pops",
    "gh1927_meta_scb": "meta-deepcopy",
    "gh1927_moved_weight": "second-to",
    "gh1927_offload_hooks": "offload-eval",
    "gh1927_prequantized_weight": "codes-scale-module-move",
    "gh1927_remade_weight": "make-subclass",
    "gh1927_saved_model": "state-dict-reload",
    "gh1927_train_order": "order-enable-train-default-8bit",
    "gh1935_adapters": "nf4-lora-eager",
    "gh1935_compiled": "nf4-compile-default",
    "gh1935_custom_op": "nf4-customop-eager",
    "gh1935_int8": "int8-eager",
    "gh1935_saved_weight": "nf4-eager",
    "gh1946_state_dict": "not-strict",
    "gh1995_strided_tensor": "every-other-row",
    "gh2005_experts": "nf4-experts-eager",
    "gh44387_cast_dtype": "nf4-cast-sync",
    "gh44387_int8": "int8",
    "gh44387_reserved_memory": "nf4",
    "gh44728_fp16_load_leak": "nf4-sync",
    "gh44728_reads_ahead": "int8",
    "gh44728_report_test": "nf4-report-test",
    "gh3265_cast_parameters": "untied",
    "gh3265_reserved_memory": "peak",
    "gh2034_kept_input": "8bit",
    "gh2034_reused_buffer": "one-buffer-4bit",
    "gh2034_unseen_weight": "4bit",
    "gh4044_detached_hook": "offloaded-again",
    "gh40327_split_state": "apart",
    "gh43032_whole_model": "nf4",
}
#: Of these the whole script is run, which takes half a minute each: those whose arms differ most. They raise, compile,
#: train whole models, and load checkpoints.
RUN_ALONE = ("gh1927_meta_scb", "gh1935_compiled", "gh44387_reserved_memory")
EXITS = {Verdict.REPRODUCED: 1, Verdict.ABSENT: 0}


@pytest.fixture(scope="module")
def records() -> list[Record]:
    return results.load(EVIDENCE)[0]


def trial(records: list[Record], case: str, condition: str | None = None, cell: str = CELL) -> Record:
    return bundle.choose(records, KNOWN[case], cell, condition, "evidence")


def made(records: list[Record], record: Record, folder: Path, entry: Entry | None = None) -> packing.Bundle:
    return bundle.make(record, records, entry or KNOWN[record.case], folder, Redactor(), EVIDENCE)


def test_every_case_has_a_condition_that_is_run_here(records: list[Record]) -> None:
    on_cpu = {name for name, entry in KNOWN.items() if "cpu" in {c.device for c in entry.case.conditions}}
    assert on_cpu == CHOSEN.keys()
    assert {trial(records, *chosen).verdict for chosen in CHOSEN.items()} == set(EXITS)


@pytest.mark.slow
@pytest.mark.parametrize("case", RUN_ALONE)
def test_the_script_alone_says_what_the_trial_said(case: str, records: list[Record], tmp_path: Path) -> None:
    """Run it in the cell's interpreter, isolated, with the script and nothing else in a folder of its own."""
    record = trial(records, case, CHOSEN[case])
    one = made(records, record, tmp_path / "b")
    alone = tmp_path / "alone"
    alone.mkdir()
    shutil.copy(one.folder / "full.py", alone)
    python = ensure(load_matrix(ROOT / "matrix.yaml").cell(CELL), root=ROOT).python
    done = subprocess.run(
        [str(python), "-I", "full.py", "--json", "seen.json"],
        cwd=alone, env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "REPROS_CACHE": str(tmp_path / "cache")},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == EXITS[record.verdict], done.stdout + done.stderr
    seen = json.loads((alone / "seen.json").read_text())
    assert seen["verdict"] == record.verdict.value
    assert seen["readings"] == record.readings
    assert seen["effect"] == (record.proposed["effect"] if record.proposed else None)
    assert seen["remedies"] == {arm: told["effect"] for arm, told in record.remedies.items()}
    assert seen["versions"]["bitsandbytes"] == record.environment["packages"]["bitsandbytes"]
    assert seen["budget"]["figure"] == record.budget["figure"]
    loads = bool(KNOWN[case].condition(record.condition).checkpoint)
    for was, now in zip(record.arms, seen["arms"], strict=True):
        assert now["arm"] == was.arm
        for name in {record.budget["figure"], "peak_live_bytes"} & was.figures.keys():
            within = 0.01 if name.endswith("_bytes") else 0.1  # kernels of another CPU round otherwise
            if loads and name != record.budget["figure"]:  # how far what reads is ahead of what quantizes is a race
                within = 0.15
            assert float(now["figures"][name]) == pytest.approx(was.figures[name], rel=within), (was.arm, name)
    assert f"verdict: {record.verdict.value}" in done.stdout
    assert "budget: " in done.stdout
    assert "versions: torch 2.13.0" in done.stdout
    assert str(ROOT) not in done.stdout + (alone / "full.py").read_text()


def test_a_script_without_its_packages_could_not_tell(records: list[Record], tmp_path: Path) -> None:
    one = made(records, trial(records, "gh1935_saved_weight", "nf4-eager"), tmp_path / "b")
    base = getattr(sys, "_base_executable", sys.executable)
    done = subprocess.run(
        [base, "-I", "-S", "full.py"], cwd=one.folder, env={"PATH": "/usr/bin:/bin"}, capture_output=True, text=True
    )
    assert done.returncode == 125, done.stdout + done.stderr
    assert "torch none" in done.stdout
    assert "verdict: error" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr


@pytest.mark.parametrize("case", CHOSEN)
def test_a_bundle_is_whole_and_small(case: str, records: list[Record], tmp_path: Path) -> None:
    record = trial(records, case, CHOSEN[case])
    one = made(records, record, tmp_path / "b")
    names = {path.name for path in one.folder.iterdir()}
    witness = {"minimal.py"} if cases.witness_of(KNOWN[case].path, KNOWN[case].condition(record.condition)) else set()
    wanted = witness | {"full.py", "comment.md", "requirements.txt", "results.jsonl", "timeline.svg", "timeline.png"}
    assert names == {*wanted, ".repros"}
    assert one.zip.stat().st_size < packing.ZIP_BYTES
    assert not one.left_out
    with zipfile.ZipFile(one.zip) as file:
        assert {Path(name).name for name in file.namelist()} == wanted
    assert [r.key for r in results.load(one.folder)[0]] == [r.key for r in records if r.case == case]
    assert (one.folder / "timeline.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (one.folder / "timeline.svg").read_text()


def test_the_sources_in_a_script_are_the_files_to_the_letter(records: list[Record], tmp_path: Path) -> None:
    one = made(records, trial(records, "gh44387_reserved_memory", "nf4"), tmp_path / "b")
    files = unpacked((one.folder / "full.py").read_text())
    assert "repros/cases/transformers/gh44387/reserved_memory.py" in files
    for name in ("worker/arm", "meters/ledger", "reference/loader", "worker/checkpoints", "verdict"):
        assert f"repros/{name}.py" in files
    for name, text in files.items():
        if name.endswith(".py"):
            assert text == (ROOT / name).read_text(), name
    for name in ("commands", "run", "cells", "report", "bisect", "machine/host", "redaction", "hunt"):
        assert not [file for file in files if file.startswith(f"repros/{name}")]


@pytest.mark.parametrize("case", KNOWN)
def test_a_script_holds_all_that_its_declaration_reads(case: str, tmp_path: Path) -> None:
    """In a folder with what a script unpacks, any Python reads the declaration with the standard library alone."""
    entry, writer = KNOWN[case], onefile.Writer(Redactor())
    condition = entry.case.conditions[0]
    script = writer.script(entry, condition, "x", condition.device, onefile.Pins((), ()), ["subject"])
    for name, text in unpacked(script.text()).items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    code = f"import sys; sys.path.insert(0, '.'); import {entry.module} as m; print(len(m.CASE.conditions))"
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout == f"{len(entry.case.conditions)}\n", done.stderr


def unpacked(script: str) -> dict[str, str]:
    """Return path -> text of the files that a script holds."""
    return {
        ast.literal_eval(node.targets[0].slice): ast.literal_eval(node.value)
        for node in ast.parse(script).body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Subscript)
    }


def test_the_pins_are_those_of_the_trials_lock(records: list[Record], tmp_path: Path) -> None:
    record = trial(records, "gh1935_saved_weight", "nf4-eager")
    one = made(records, record, tmp_path / "b")
    text = (one.folder / "full.py").read_text()
    block = re.search(r"(?m)^# /// script$\s(?P<content>(^#(| .*)$\s)+)^# ///$", text)  # PEP 723's own expression
    assert block
    data = tomllib.loads(
        "".join(line[2:] if line.startswith("# ") else line[1:] for line in block["content"].splitlines(True))
    )
    lock = lock_of(record)
    assert Lock(lock, committed=True).digest == record.environment["lock"]
    assert data["requires-python"] == ">=3.11"
    assert data["dependencies"] == (one.folder / "requirements.txt").read_text().splitlines()
    pinned = dict(line.partition(" ;")[0].split("==") for line in data["dependencies"])
    for name, version in record.environment["packages"].items():
        assert pinned[name.replace("_", "-")] == version.partition("+")[0]
    assert "torch==2.13.0" in data["dependencies"]


def lock_of(record: Record) -> str:
    """Return the committed lock that a trial's environment was installed from."""
    texts = [path.read_text() for path in (ROOT / LOCKS).glob("*.txt")]
    return next(text for text in texts if Lock(text, committed=True).digest == record.environment["lock"])


def test_a_lock_around_the_hosts_torch_gets_its_pin_from_the_trial() -> None:
    pins = onefile.as_pins({"torch": "2.11.0+cu130", "hf_xet": "1.8.0"}, "hf-xet==1.8.0\nnumpy==2.4.6\n", {})
    assert pins.requirements == ("hf-xet==1.8.0", "numpy==2.4.6", "torch==2.11.0")


@pytest.mark.parametrize("pin", ["x @ https://example.org/x.whl", "x>=1", "x==1\nos", "x"])
def test_what_is_no_exact_pin_is_refused(pin: str) -> None:
    with pytest.raises(UserError, match=r"is not an exact pin\nhint: a script is built from pins"):
        onefile.public(pin)


def test_a_bundle_of_a_trial_on_a_card(tmp_path: Path) -> None:
    """A card's allocator names owners, without shape and dtype; the lock leaves the host's torch out."""
    found = results.load(results.REPORTS / "h200")[0]
    record = bundle.choose(found, KNOWN["gh1935_saved_weight"], None, None, "evidence")
    one = bundle.make(record, found, KNOWN[record.case], tmp_path / "b", Redactor(), results.REPORTS / "h200")
    torch = record.environment["packages"]["torch"].partition("+")[0]
    assert f"torch=={torch}" in (one.folder / "requirements.txt").read_text().splitlines()
    row = next(row for row in record.arms[0].evidence["alive_at_peak"])
    assert f"| - | - | {row['count']} |" in (one.folder / "comment.md").read_text()
    assert row["made_by"] in (one.folder / "comment.md").read_text()


@pytest.mark.parametrize(
    "run", sorted(path.parent for path in results.REPORTS.glob("*/results.jsonl")), ids=lambda r: r.name
)
def test_every_committed_trial_has_its_script(run: Path) -> None:
    """A source that looks as if it told a secret (a number of `tokens`, say) has none, and no attachment either."""
    writer = onefile.Writer(Redactor())
    tried = [record for record in results.load(run)[0] if record.arms and declared(record, KNOWN)]
    assert tried
    for text in {writer.of(record, KNOWN[record.case]).text() for record in tried}:
        compile(text, run.name, "exec")


def test_a_script_holds_arms_and_not_the_suite_and_names_of_folders_are_no_secrets(records: list[Record]) -> None:
    """What hides `/root` in the suite's own process (`machine/sandbox.py`) is no part of any script."""
    writer = onefile.Writer(Redactor.here({"HOME": "/root", "USER": "root"}, {}))
    for case, condition in CHOSEN.items():
        text = writer.of(trial(records, case, condition), KNOWN[case]).text()
        assert "repros/worker/arm.py" in text
        assert not re.findall(r"repros/(?:run|cells|commands|report|redaction|machine/sandbox|cases/apart)\b", text)


def test_of_runs_the_newest_counts_whose_source_was_not_edited_since(records: list[Record], tmp_path: Path) -> None:
    case, condition = "gh1995_strided_tensor", "every-other-row"
    mine = trial(records, case, condition)
    runs = []
    for name, source in (("newest", "0" * 64), ("older", mine.source), ("oldest", mine.source)):
        runs.append([tmp_path / name])
        run = results.Run(tmp_path / name)
        run.append(replace(mine, source=source, date=f"of {name}"))
    assert bundle.look(runs, [KNOWN[case]], None, condition)[0].date == "of older"
    found, _, entry, *_ = bundle.look(runs[:1], [KNOWN[case]], None, condition)
    with pytest.raises(UserError, match="tried of newest, and its source was edited since"):
        bundle.compare(found, entry)


@pytest.mark.parametrize("label", ['x"""', "x\ny", "x\\"])
def test_a_label_that_could_end_the_docstring_is_refused(records: list[Record], label: str) -> None:
    record = replace(trial(records, "gh1935_saved_weight", "nf4-eager"), cell=label)
    with pytest.raises(UserError, match="cannot stand in a script"):
        onefile.Writer(Redactor()).of(record, KNOWN[record.case])


def test_a_users_name_may_be_a_word_of_a_source_and_a_secret_may_not(
    records: list[Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    record = trial(records, "gh1935_saved_weight", "nf4-eager")
    here = Redactor.here({"HOME": "/home/max", "USER": "max", "APP_TOKEN": "plain-words-token"}, {})
    assert "max(" in onefile.Writer(here).of(record, KNOWN[record.case]).text()
    monkeypatch.setattr(onefile, "sources", lambda modules, without: iter([("x.py", "A = 'plain-words-token'\n")]))
    with pytest.raises(UserError, match=r"x\.py:1: it would put something private .*in line 1, environment variable"):
        onefile.Writer(here).of(record, KNOWN[record.case])


def test_a_file_in_place_of_a_pin_is_named_and_not_pinned() -> None:
    packages = {"torch": "2.13.0+cpu", "bitsandbytes": "0.51.0.dev0"}
    pins = onefile.as_pins(packages, "", {"bitsandbytes": "../bitsandbytes"})
    assert pins.requirements == ("torch==2.13.0",)
    assert pins.missing == ("bitsandbytes 0.51.0.dev0",)


def test_comments_fit_and_name_what_upstream_asks_for(records: list[Record]) -> None:
    seen = set()
    for record in records:
        if record.arms and (record.case, record.condition) not in seen:
            seen.add((record.case, record.condition))
            mine = [r for r in records if r.case == record.case]
            text = comment.comment(record, mine, KNOWN[record.case], Redactor(), plotted=True)
            assert len(text) < comment.CHARACTERS
            for part in ("### System Info", "### Reproduction", "### Expected behavior", "`transformers` version: ",
                         "PyTorch version (accelerator?): ", "Platform: ", "Python version: ", "| subject |",
                         "| reference |", *([] if record.control else ["| planted |"]),
                         "Mechanism and derivation"):  # fmt: skip
                assert part in text, (record.key, part)
    assert len(seen) > 50


def test_a_comment_on_a_control_condition_says_that_nothing_is_planted(records: list[Record]) -> None:
    record = trial(records, "gh1935_saved_weight", "nf4-eager")
    alone = replace(record, control=True, arms=tuple(arm for arm in record.arms if arm.arm != "planted"))
    planted, without = (
        comment.comment(one, records, KNOWN[record.case], Redactor(), plotted=False) for one in (record, alone)
    )
    own = "\n\nEach arm ran in a process of its own. "
    assert f"{own}The reference must stay inside the budget and the planted bug must break it, else" in planted
    assert f"{own}The report itself calls this condition fine, so no bug is planted here: " in without
    assert "Margins: planted over budget " in planted
    assert "Margins: budget over reference " in without
    assert "the planted bug" not in without


def test_of_several_cases_of_a_report_one_is_shown_that_is_reproduced(records: list[Record]) -> None:
    several = cases.select("gh1927", tuple(KNOWN.values()))
    shown = {"gh1927_int8_recompute": Verdict.ABSENT, "gh1927_moved_weight": Verdict.REPRODUCED}
    tried = [r for r in records if shown.get(r.case) is r.verdict]
    assert tried[0].case == "gh1927_int8_recompute" or several[0].name != tried[0].case
    found, entry = bundle.choose_of(tried, several, None, None, "here")
    assert (found.case, entry.name, found.verdict) == ("gh1927_moved_weight", "gh1927_moved_weight", Verdict.REPRODUCED)
    of_one = [r for r in tried if r.case == "gh1927_int8_recompute" or r.cell == CELL]
    found, entry = bundle.choose_of(of_one, several, "tf4.57.5-bnb0.46.0", None, "here")
    assert (found.cell, entry.name) == ("tf4.57.5-bnb0.46.0", "gh1927_int8_recompute")
    with pytest.raises(UserError, match="here: no trial of gh1927_int8_recompute in nope"):
        bundle.choose_of(tried, several, "nope", None, "here")


def test_a_long_comment_is_cut_to_what_github_takes(records: list[Record]) -> None:
    record = trial(records, "gh1935_saved_weight", "nf4-eager")
    entry = replace(KNOWN[record.case], doc="line\n" * 20_000)
    many = [replace(record, cell=f"cell-{i}") for i in range(3000)]
    assert len(comment.comment(record, many, entry, Redactor(), plotted=True)) < comment.CHARACTERS


def test_a_large_file_stays_out_of_the_zip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "b"
    (folder / "logs").mkdir(parents=True)
    (folder / "full.py").write_text("x")
    (folder / "logs" / "a.log").write_bytes(bytes(range(256)) * 40)
    monkeypatch.setattr(packing, "ZIP_BYTES", 500)
    assert packing.pack(folder, "b", bundle.NEEDED)[1] == ["logs/a.log"]


def test_a_snapshot_with_code_in_it_is_refused(records: list[Record], tmp_path: Path) -> None:
    record = trial(records, "gh1935_saved_weight", "nf4-eager")
    logs = tmp_path / "run" / "snapshots"
    logs.mkdir(parents=True)
    (logs / f"{record.cell}.{record.case}.{record.condition}.subject.pickle").write_bytes(pickle.dumps(Path("x")))
    with pytest.raises(UserError, match=r"a snapshot holds pathlib.*\nhint: leave it out"):
        bundle.make(record, records, KNOWN[record.case], tmp_path / "b", Redactor(), tmp_path / "run")


def test_a_source_with_a_secret_is_refused(records: list[Record], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        onefile, "sources", lambda modules, without: iter([("x.py", "TOKEN = 'ghp_" + "a1B2" * 9 + "'\n")])
    )
    record = trial(records, "gh1935_saved_weight", "nf4-eager")
    entry = KNOWN[record.case]
    with pytest.raises(UserError, match=r"x\.py:1: it would put something private into the script"):
        onefile.Writer(Redactor()).of(record, entry)


@pytest.mark.parametrize(
    "text", ["a = r'\\d'\n", "x = '''y'''\n", "ends in '", "back\\", "tab\tand ü\n", '"""doc"""\n']
)
def test_a_literal_says_the_text(text: str) -> None:
    assert ast.literal_eval(onefile.literal(text)) == text


@pytest.mark.parametrize(
    ("argv", "says", "hint"),
    [
        (["bundle", "gh7"], "no case of a report `gh7`", "one of: gh1927, "),
        (
            ["bundle", "gh1935_saved_weight", "--condition", "nope"],
            "no condition of gh1935_saved_weight `nope`",
            "one of: ",
        ),
        (
            ["bundle", "gh1935", "--condition", "nope"],
            "no condition of gh1935_adapters, gh1935_card_table, gh1935_compiled,",
            "one of: ",
        ),
        (
            ["bundle", "gh1935_saved_weight", "--condition", "nf4-compile-mincut"],
            "gh1935_saved_weight: the condition `nf4-compile-mincut` is of gh1935_compiled now",
            "name gh1935_compiled",
        ),
        (
            ["bundle", "gh1935_saved_weight", "--cell", "nope"],
            "no trial of gh1935_saved_weight in nope",
            "one of: tf",
        ),
        (["bundle", "gh1935", "--run", "/nowhere"], "/nowhere: No such file", "name the folder of a run"),
    ],
)
def test_bad_input(argv: list[str], says: str, hint: str, capsys: Any) -> None:
    more = [] if "--run" in argv else ["--run", str(EVIDENCE)]
    said = errors([*argv, *more], capsys)
    assert says in said.splitlines()[0]
    assert hint in said.splitlines()[1]


def test_a_missing_template_is_said_in_two_lines(monkeypatch: pytest.MonkeyPatch, capsys: Any, tmp_path: Path) -> None:
    monkeypatch.setattr("repros.report.onefile.ROOT", tmp_path)
    said = errors(["bundle", "gh1935", "--run", str(EVIDENCE), "--out", str(tmp_path / "b")], capsys)
    assert "repros/templates/full.py.j2: No such file or directory" in said
    assert "install the suite again" in said
