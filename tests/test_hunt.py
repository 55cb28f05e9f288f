"""The hunt: lives are led in a place, departures shrunk to their shortest life, known ones told apart."""

from __future__ import annotations

import ast
import importlib
import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from repros import ROOT, cases
from repros.commands import cli
from repros.errors import UserError
from repros.files import Marker
from repros.hunt import findings, write
from repros.hunt.known import KNOWN, Known, number_of
from repros.hunt.life import SPEC, STEPS, Departure, Life, matches
from repros.hunt.search import FaultOfReferenceError, Finding, Hunt, smaller
from repros.verdict import Observation
from tests.hostile import HOSTILE

Steps = list[tuple[str, dict[str, Any]]]


class Scripted:
    """A place whose packages have one bug, known exactly: what a bisection's fake repository is to a bisection."""

    def __init__(
        self, departs: Callable[[Life], tuple[str, int] | None], types: tuple[str, ...] = ("Departed",)
    ) -> None:
        self.departs, self.types = departs, types
        self.fresh: list[bool] = []

    def observe(self, request: Mapping[str, Any], log: Path, fresh: bool = False) -> Observation:
        self.fresh.append(fresh)
        found = self.departs(Life.from_json(request["params"]["life"]))
        state, exception = "done", None
        if found is not None:
            state = "raised"
            text = json.dumps({"what": found[0], "at": found[1], "detail": "off by 7", "types": []})
            exception = {"types": list(self.types), "text": text, "phase": "life", "frames": []}
        return Observation(arm="subject", state=state, exception=exception)


def names(life: Life) -> list[str]:
    return [name for name, _ in life.steps]


def reset_then_step(life: Life) -> tuple[str, int] | None:
    """An int8 layer whose state was reset gives wrong output in the next step that computes."""
    if life.full()["kind"] != "int8" or "reset" not in names(life):
        return None
    after = names(life).index("reset")
    return next(
        (("output", at) for at in range(after, len(life.steps)) if names(life)[at] in ("step", "forward")), None
    )


def test_a_planted_departure_is_found_and_shrunk_to_its_shortest_life(tmp_path: Path) -> None:
    place = Scripted(reset_then_step)
    hunt = Hunt(place, tmp_path, 3, [])
    (finding,) = hunt.run(most=1)
    assert True not in place.fresh and not finding.confirmed
    hunt.confirm()
    assert finding.life == Life.of({}, [("reset", {}), ("forward", {})])
    assert finding.departure == Departure("output", 1, "off by 7")
    assert finding.confirmed
    assert place.fresh.count(True) == 1


def test_two_departures_are_told_apart(tmp_path: Path) -> None:
    def departs(life: Life) -> tuple[str, int] | None:
        wide = life.full()["kind"] == "nf4" and life.full()["in"] == 96
        at = next((i for i, name in enumerate(names(life)) if name in ("step", "forward")), None)
        return ("gradient", at) if wide and at is not None else reset_then_step(life)

    found = Hunt(Scripted(departs), tmp_path, 5, []).run(most=2)
    assert {finding.life.key for finding in found} == {
        Life.of({}, [("reset", {}), ("forward", {})]).key,
        Life.of({"kind": "nf4", "in": 96}, [("forward", {})]).key,
    }


def test_a_known_departure_is_met_and_passed_over(tmp_path: Path) -> None:
    lives = [Life.of({}, [("train", {})] * n + [("reset", {}), ("step", {})]) for n in range(40)]
    hunt = Hunt(Scripted(reset_then_step), tmp_path, 1, KNOWN)
    for life in lives:
        hunt.judge(life)
    (met,) = hunt.known_met.items()
    assert met[0] == "a state that is reset loses the scale"
    assert 0 < met[1] < len(lives)  # most are cut before the reset
    assert not hunt.findings
    with pytest.raises(AssertionError, match="output"):
        Hunt(Scripted(reset_then_step), tmp_path, 1, []).judge(lives[1])


def test_what_lies_before_known_ground_is_looked_at(tmp_path: Path) -> None:
    """A departure that most lives would reach only behind a known one is found, and in no more lives for it."""

    def departs(life: Life) -> tuple[str, int] | None:
        at = next((i for i, (n, p) in enumerate(life.steps) if n == "step" and p == {"mode": "compiled"}), None)
        return reset_then_step(life) or (None if at is None else ("gradient", at))

    hunt = Hunt(Scripted(departs), tmp_path, 3, [Known("", Life.of({}, [("reset", {})]), "output")])
    (finding,) = hunt.run(most=1)
    assert finding.life == Life.of({}, [("step", {"mode": "compiled"})])


def test_shrinking_does_not_slip_into_a_known_departure(tmp_path: Path) -> None:
    """The new one needs `nf4`, which shrinks towards `int8`, where the known one shows in the same way."""

    def departs(life: Life) -> tuple[str, int] | None:
        if life.full()["kind"] == "fp4" or "pretrained" not in names(life):
            return None
        return "output", len(life.steps) - 1

    known = Known("", Life.of({}, [("pretrained", {})]), "output")
    (finding,) = Hunt(Scripted(departs), tmp_path, 3, [known]).run(most=1)
    assert finding.life == Life.of({"kind": "nf4"}, [("pretrained", {})])


def test_files_of_two_findings_never_share_a_name() -> None:
    """Their words may be the same: a long life is cut, and of what is raised only the type is named."""
    long: Steps = [
        ("pickle", {}),
        ("state_dict_meta", {}),
        ("torch_save", {}),
        ("deepcopy", {}),
        ("lora_merge", {}),
    ] * 2
    lives = [Life.of({}, [*long, ("to", {})]), Life.of({}, [*long, ("eval", {})]), Life.of({}, [("to", {})])]
    findings = [Finding(life, Departure(what, 0), 1, 1.0) for life in lives for what in ("raises A: x", "raises A: y")]
    slugs = [finding.slug for finding in findings]
    assert len(set(slugs)) == len(findings)
    assert all(slug.isidentifier() and len(slug) < 100 for slug in slugs)
    assert slugs == [finding.slug for finding in findings]


def test_of_a_life_that_comes_upon_known_ground_the_rest_is_led(tmp_path: Path) -> None:
    """One that is not the one in LOOK_AGAIN which is led in full, so that each cut is looked at."""
    known = [Known("", Life.of({}, [("tie", {})]), "output"), Known("", Life.of({}, [("step", {})]), "held")]
    hunt = Hunt(
        Scripted(lambda life: None), tmp_path, 1, [*known, Known("", Life.of({"kind": "nf4", "in": 96}, []), "")]
    )

    def led(steps: list[str], **spec: object) -> set[tuple[str, ...]]:
        """Return what is led of lives that differ in what no pattern speaks of."""
        found = set()
        for dtype in SPEC["dtype"]:
            for out in SPEC["out"]:
                life = Life.of({**spec, "dtype": dtype, "out": out}, [(name, {}) for name in steps])
                cut = hunt._before_known(life)
                found.add(() if cut is None else tuple(names(cut)))
        return found

    def whole(*steps: str) -> set[tuple[str, ...]]:
        return {steps}

    assert led(["eval", "to"]) == whole("eval", "to")
    assert led(["eval", "step"]) == whole("eval", "step")
    assert led(["eval", "tie", "to", "step"]) - whole("eval", "tie", "to", "step") == whole("eval", "step")
    assert led(["eval", "tie", "to"]) - whole("eval", "tie", "to") == whole("eval")
    assert led(["eval", "step", "to", "step"]) - whole("eval", "step", "to", "step") == whole("eval", "step")
    assert led(["to", "step"], kind="nf4", **{"in": 96}) - whole("to", "step") == whole()


COMMITTED = sorted((ROOT / "reports" / "hunt").glob("*/findings.json"))


def test_there_are_hunts() -> None:
    assert COMMITTED


@pytest.mark.parametrize("path", COMMITTED, ids=[path.parent.name for path in COMMITTED])
def test_every_committed_finding_is_known_by_its_number(path: Path) -> None:
    """Else a hunt that tells the known ones apart would find it anew."""
    findings = json.loads(path.read_text())["findings"]
    assert findings
    for found in findings:
        life, departure = Life.from_json(found["life"]), Departure(found["what"], found["at"])
        assert any(known.covers(life, departure) for known in KNOWN), (life.words(), departure)
        assert number_of(life, departure) == found["number"], life.words()


@pytest.mark.parametrize("path", COMMITTED, ids=[path.parent.name for path in COMMITTED])
def test_committed_pages_are_what_the_code_makes_of_committed_findings(path: Path) -> None:
    """Where this fails after a change of the page: ``python -m repros findings reports/hunt/NAME --page``."""
    kept = findings.load(path.parent)
    assert kept.page() == (path.parent / "README.md").read_text()
    assert findings.as_json(kept.findings, kept.about) == path.read_text()
    marker = Marker.of(path.parent)
    assert marker and marker.kind == "hunt" and sorted(marker.files) == ["README.md", "findings.json"]
    assert sorted(one.name for one in path.parent.iterdir()) == ["README.md", "findings.json"]


@pytest.mark.parametrize("path", COMMITTED, ids=[path.parent.name for path in COMMITTED])
def test_every_command_of_a_committed_page_works_as_printed(
    path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    kept = findings.load(path.parent)
    page = (path.parent / "README.md").read_text()
    scripts = [shlex.split(words) for words in re.findall("^- script: `(.*)`$", page, re.MULTILINE)]
    assert len(scripts) == len(kept.findings)
    for words, finding in zip(scripts, kept.findings, strict=True):
        assert words[:3] == ["python", "-m", "repros"]
        assert cli.main(words[3:]) == 0
        assert capsys.readouterr().out == kept.script(finding)
    runs = [shlex.split(words) for words in re.findall("^- case: `(.*)`$", page, re.MULTILINE)]
    place = findings.place_of_cases(path.parent)
    for words, finding in zip(runs, kept.findings, strict=True):
        arguments = cli.parser().parse_args(words[3:])
        assert arguments.case == [str((place / f"{finding.slug}.py").relative_to(ROOT))]
        assert arguments.cell == [kept.about["cell"]]
    assert f"Cases: `python -m repros findings {path.parent.relative_to(ROOT)}` writes them to" in page


@pytest.mark.parametrize("path", COMMITTED, ids=[path.parent.name for path in COMMITTED])
def test_every_committed_finding_is_a_case_and_a_script_of_its_own(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = findings.load(path.parent)
    place = tmp_path / f"made_{path.parent.name}"
    place.mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    for finding in kept.findings:
        (place / f"{finding.slug}.py").write_text(kept.case(finding))
        (place / f"{finding.slug}_script.py").write_text(kept.script(finding))
        case = cases.load(f"{place.name}.{finding.slug}").case
        (condition,) = case.conditions
        assert condition.life == finding.life
        assert case.number == number_of(finding.life, finding.departure)
        same = [kept.about["pins"][cell] for cell, said in finding.cells.items() if said == finding.departure.what]
        windows = condition.affected or ()
        assert [window.versions for window in windows] == [write.exact(pins) for pins in same]
        assert {window.source for window in windows} == {f"reports/hunt/{path.parent.name}"}
        assert kept.script(finding).splitlines()[2].split()[4:] == [
            f"{package}=={version}" for package, version in kept.about["pins"][kept.about["cell"]].items()
        ]
    stand_alone(place)


def test_the_commands_of_the_overview_name_what_is_there() -> None:
    text = (ROOT / "reports" / "hunt" / "README.md").read_text().partition("## Ready to file")[0]
    lines = [shlex.split(line)[3:] for line in text.splitlines() if line.startswith("python -m repros ")]
    everything, run, script = (cli.parser().parse_args(words) for words in lines)
    kept = findings.load(ROOT / everything.hunt)
    (finding,) = kept.named(script.finding)
    assert script.hunt == everything.hunt and script.script
    assert run.cell == [kept.about["cell"]]
    assert [ROOT / one for one in run.case] == [findings.place_of_cases(ROOT / script.hunt) / f"{finding.slug}.py"]


CASE = """\
\"\"\"int8: it raises OSError: N 'b', where the reference goes on.

Found by the hunt in here, as the shortest life that shows it:

    [bias=True] tie → step(mode=reentrant)

7 'b'

Budget: `repros.hunt.arms.error_limit`, from code steps and the epsilon of the dtype.
\"\"\"

from repros.case import Affected, Budget, Case, Claim, Condition, Symptom
from repros.hunt.arms import error_limit, inputs, oracle, planted, reference, subject
from repros.hunt.life import Life

__all__ = ["CASE", "inputs", "oracle", "planted", "reference", "subject"]

LIFE = Life.from_json({"spec": {"bias": True}, "steps": [["tie", {}], ["step", {"mode": "reentrant"}]]})
DEPARTS = Claim("it raises OSError: N 'b', where the reference goes on")

CASE = Case(
    report="bitsandbytes#0",
    title="int8: it raises OSError: N 'b', where the reference goes on",
    kind="finding of the hunt",
    status="not reported",
    severity="raises",
    trigger='[bias=True] tie → step(mode=reentrant)',
    claims=(DEPARTS,),
    conditions=(
        Condition(
            "life",
            Budget('error', error_limit(LIFE)),
            {"life": LIFE, "what": "raises OSError: 7 'b'"},
            affected=(
                Affected({'torch': '==2.13.0'}, source='reports/hunt'),
            ),
            claims=(DEPARTS,),
        ),
    ),
    symptoms=(Symptom('OSError', "7\\\\ 'b'"),),
)
"""
SCRIPT_HEAD = """\
\"\"\"It raises OSError: N 'b', where the reference goes on.

python3 -m pip install torch==2.13.0
The shortest life that shows it: [bias=True] tie → step(mode=reentrant)
\"\"\"

from types import SimpleNamespace
"""
SCRIPT_TAIL = """
layer = build(spec, t)
layer = step_tie(layer, s)
x = t["x"].clone().requires_grad_()
out = run(layer, x, "reentrant")
out.backward(t["grad"])
show("output", out, exact)
show("gradient of x", x.grad, exact_grad)
"""


def test_a_case_and_a_script_word_for_word() -> None:
    life = Life.of({"bias": True}, [("tie", {}), ("step", {"mode": "reentrant"})])
    cells = {"here": "raises OSError: N 'b'", "there": "as the reference"}
    finding = Finding(life, Departure("raises OSError: N 'b'", 1, "7 'b'\nmore"), 10, 1.0, True, cells)
    pins = {"here": {"torch": "2.13.0"}, "there": {"torch": "2.9.1"}}
    assert write.case_text(finding, "reports/hunt", "here", pins) == CASE.replace("7 'b'\n\n", "7 'b' more\n\n")
    script = write.script_text(finding, pins["here"])
    assert script.startswith(SCRIPT_HEAD) and script.endswith(SCRIPT_TAIL)


@pytest.mark.parametrize(
    ("cells", "written"),
    [({}, "None"), ({"here": "gone"}, "()"), ({"here": "output"}, "(\n                Affected({'torch': '==2'}, ")],
)
def test_a_window_is_what_the_cells_said_and_none_where_none_was_tried(cells: dict[str, str], written: str) -> None:
    finding = Finding(Life.of({}, [("step", {})]), Departure("output", 0, "off"), 1, 1.0, True, cells)
    assert f"\n            affected={written}" in write.case_text(
        finding, "reports/hunt", "here", {"here": {"torch": "2"}}
    )


def test_nothing_is_found_where_nothing_departs(tmp_path: Path) -> None:
    hunt = Hunt(Scripted(lambda life: None), tmp_path, 0.05, [])
    assert hunt.run() == []
    assert hunt.lives > 0


def test_a_reference_that_departs_is_a_fault_and_no_finding(tmp_path: Path) -> None:
    life = Life.of({}, [("forward", {})])
    hunt = Hunt(Scripted(lambda life: ("output", 0), ("FaultError",)), tmp_path, 3, [])
    with pytest.raises(FaultOfReferenceError, match="off by 7"):
        hunt.lead(life)
    hunt.judge(life)
    assert list(hunt.faults) == ["[defaults] forward"]
    assert not hunt.findings


def test_half_a_pair_of_surrogates_can_be_kept(tmp_path: Path) -> None:
    found = Hunt(Scripted(lambda life: ("raises A: \ud800", 0)), tmp_path, 1, []).lead(Life.of({}, [("to", {})]))
    assert found == Departure("raises A: \\ud800", 0, "off by 7")
    finding = Finding(Life.of({}, [("to", {})]), found, 1, 1.0)
    assert keep(tmp_path, [finding], about()).findings == (finding,)


def test_a_killed_process_names_the_step_it_was_in(tmp_path: Path) -> None:
    class Killed(Scripted):
        def observe(self, request: Mapping[str, Any], log: Path, fresh: bool = False) -> Observation:
            log.write_text("life: step -1\nlife: step 0\nlife: step 1\n")
            return Observation(arm="subject", state="crashed", exception={"types": ["SIGSEGV"], "text": ""})

    life = Life.of({}, [("train", {}), ("eval", {}), ("to", {})])
    assert Hunt(Killed(lambda life: None), tmp_path, 1, []).lead(life) == Departure("killed by SIGSEGV", 1)


def test_a_pattern_needs_its_steps_in_order_and_its_spec() -> None:
    pattern = Life.of({}, [("reset", {}), ("step", {"mode": "reentrant"})])
    steps: Steps = [("train", {}), ("reset", {}), ("to", {}), ("step", {"mode": "reentrant"})]
    assert matches(Life.of({"in": 96}, steps), pattern)
    assert not matches(Life.of({}, steps[::-1]), pattern)
    assert not matches(Life.of({}, [("reset", {}), ("step", {})]), pattern)
    assert not matches(Life.of({"kind": "nf4"}, steps), pattern)
    assert matches(Life.of({}, steps), Life.of({}, [("forward", {})]))
    assert not matches(Life.of({}, [("forward", {})]), Life.of({}, [("step", {})]))
    assert matches(Life.of({"kind": "fp4", "in": 96}, steps), Life.of({"kind": "nf4", "in": 96}, []))
    assert matches(Life.of({"kind": "nf4", "in": 96}, steps), Life.of({"kind": "nf4", "in": 96}, []))


def test_a_known_one_looks_no_further_than_the_step_that_departs() -> None:
    known = Known("", Life.of({}, [("reset", {})]), "output")
    life = Life.of({}, [("step", {}), ("reset", {})])
    assert not known.covers(life, Departure("output", 0))
    assert known.covers(life, Departure("output", 1))


def test_a_life_is_written_without_what_is_default_or_has_no_meaning() -> None:
    life = Life.of({"kind": "int8", "double": True, "threshold": 6.0, "in": 64}, [("step", {"mode": "plain"})])
    assert life.to_json() == {"spec": {"threshold": 6.0}, "steps": [["step", {}]]}
    assert Life.from_json(life.to_json()) == life
    assert life.words() == "[threshold=6.0] step"
    without_step, forward, without_threshold = smaller(life)
    assert without_step == Life.of({"threshold": 6.0}, [])
    assert forward == Life.of({"threshold": 6.0}, [("forward", {})])
    assert without_threshold == Life.of({}, [("step", {})])
    assert max(without_step.size, without_threshold.size) < life.size


FINDINGS = [
    (Life.of({"bias": True}, [("tie", {}), ("step", {"mode": "reentrant"})]), Departure("output", 1, "off")),
    (Life.of({}, [("step", {"mode": "reentrant", "between": "reset"})]), Departure("gradient", 0, "off")),
    (Life.of({"kind": "nf4"}, [("offload", {})]), Departure("raises OSError: a 'b'", 0, "a 'b'")),
    (Life.of({"kind": "nf4", "double": True}, []), Departure("killed by SIGSEGV", -1, "killed by SIGSEGV")),
    (Life.of({}, [("step", {"between": "change"})]), Departure("unnoticed", 0, "no error")),
    (Life.of({}, [("step", {}), ("lora_merge", {}), ("step", {})]), Departure("held", 2, "8192 bytes")),
]  # fmt: skip


def stand_alone(folder: Path) -> None:
    """Assert that the scripts in a folder import nothing of ours, and that no file there calls what it lacks."""
    for path in folder.glob("*_script.py"):
        nodes = list(ast.walk(ast.parse(path.read_text())))
        names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
        names += [node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)]
        assert names and not [name for name in names if name.partition(".")[0] == "repros"]
    command = [sys.executable, "-m", "ruff", "check", "--isolated", "--select", "F821,F811", str(folder)]
    subprocess.run(command, check=True, capture_output=True)


def about(*pins: str, **more: Any) -> dict[str, Any]:
    """Return what is said of a hunt in the cell ``here``."""
    known = {cell: {"torch": "2.13.0", "bitsandbytes": "0.50.2"} for cell in ("here", *pins)}
    found = {
        "cell": "here",
        "pins": known,
        "date": "2026-01-02",
        "seed": 0,
        "hidden": True,
        "lives": 10,
        "seconds": 1.0,
    }
    return {**found, "met": {}, "cores": 2, "cpu_model": "a CPU", "command": "c", **more}


def keep(folder: Path, found: list[Finding], said: Mapping[str, Any]) -> findings.Kept:
    """Write a hunt into a folder as the command does, and read it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "findings.json").write_text(findings.as_json(found, said))
    return findings.load(folder)


@pytest.mark.parametrize(("life", "departure"), FINDINGS, ids=[departure.what[:12] for _, departure in FINDINGS])
def test_what_is_written_can_be_read(
    life: Life, departure: Departure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The case is a case, the script compiles and defines all that it calls, and neither needs the hunt's own table."""
    finding = Finding(life, departure, 10, 1.0, True, {"here": departure.what, "there": "as the reference"})
    kept = keep(tmp_path / "hunt", [finding], about())
    assert kept.findings == (finding,)
    folder = tmp_path / "found"
    folder.mkdir()
    source = "reports/hunt/README.md"
    (folder / f"{finding.slug}.py").write_text(write.case_text(finding, source, "here", kept.about["pins"]))
    (folder / f"{finding.slug}_script.py").write_text(kept.script(finding))
    monkeypatch.syspath_prepend(tmp_path)
    made = cases.entry(importlib.import_module(f"found.{finding.slug}"))
    (condition,) = made.case.conditions
    (window,) = condition.affected or ()
    assert window.versions == {"torch": "==2.13.0", "bitsandbytes": "==0.50.2"}
    assert condition.life == life
    assert condition.budget.limit > 0
    assert made.arms_of(condition) == ("subject", "reference", "planted")
    stand_alone(folder)
    assert "| there | as the reference |" in kept.page()


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_what_an_exception_said_stays_text_in_a_case_and_a_script(text: str) -> None:
    """It may end a docstring, or hold what is an escape in one."""
    for said in (text, f'{text}"""\nimport os\nos._exit(9)\n"""', "\\", "\\N{no}", '"', '"""'):
        finding = Finding(FINDINGS[2][0], Departure(f"raises OSError: {said}", 0, said), 1, 1.0, False, {})
        case = ast.parse(write.case_text(finding, said, said, {}))
        script = ast.parse(write.script_text(finding, {"torch": "2.13.0"}))
        for tree in (case, script):
            imported = [alias.name for node in tree.body if isinstance(node, ast.Import) for alias in node.names]
            assert "os" not in imported
            assert (ast.get_docstring(tree) or "").count("OSError") >= 1
        assert [type(node).__name__ for node in case.body] == ["Expr"] + ["ImportFrom"] * 3 + ["Assign"] * 4


# --- made on demand ------------------------------------------------------------------------------

HUNT = COMMITTED[0].parent
SLUG = json.loads(COMMITTED[0].read_text())["findings"][0]["slug"]


@pytest.fixture
def below() -> Any:
    """A folder below the project, as a cell needs it."""
    runs = ROOT / "reports" / "runs"
    runs.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=runs, prefix="test_hunt_") as folder:
        yield Path(folder)


def refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert cli.main(words) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 2, said
    return said.err


def test_cases_are_written_where_a_cell_can_run_them(below: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["findings", str(HUNT), SLUG, "--out", str(below / "one")]) == 0
    (made,) = (below / "one").glob("*.py")
    assert made.stem == SLUG
    shown = made.relative_to(ROOT)
    assert f"python -m repros run {shown} --cell tf4.57.5-bnb0.46.0" in capsys.readouterr().out
    (entry,) = cases.select(str(made), ())
    assert entry.name == SLUG and entry.case.kind == "finding of the hunt"
    made.write_text("edited")
    assert "it was edited" in refused(["findings", str(HUNT), SLUG, "--out", str(below / "one")], capsys)
    assert cli.main(["findings", str(HUNT), "--out", str(below / "one"), "--force"]) == 0
    assert len(list((below / "one").glob("*.py"))) == len(findings.load(HUNT).findings)


@pytest.mark.parametrize("hunt", [path.parent for path in COMMITTED] + [Path("/"), Path("a b/0.é-x")])
def test_the_folder_of_cases_is_one_that_python_can_import(hunt: Path) -> None:
    place = findings.place_of_cases(hunt)
    assert place.name.isidentifier() and place.name.isascii()
    assert cases.module_of(place / "x.py") == f"reports.runs.{place.name}.x"


def test_a_folder_of_cases_that_no_cell_can_import_from_is_refused(
    below: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = refused(["findings", str(HUNT), "--out", str(tmp_path / "x")], capsys)
    assert f"not below {ROOT}, so a cell cannot import it\nhint: put it below reports/runs/" in said
    said = refused(["findings", str(HUNT), "--out", str(below / "a.b")], capsys)
    assert "Python cannot import a folder or file called `a.b`" in said
    assert not list(below.iterdir()) and not list(tmp_path.iterdir())


def test_a_finding_that_is_not_there_is_told_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    for more in ([], ["--script"]):
        said = refused(["findings", str(HUNT), SLUG[:-2], *more], capsys)
        assert said.startswith(f"no finding of reports/hunt/{HUNT.name} `{SLUG[:-2]}`\nhint: one of: {SLUG}")


def test_a_folder_that_is_no_hunt_is_told_with_the_nearest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = f"reports/hunt/{HUNT.name}"
    said = refused(["findings", str(ROOT / name[:-1])], capsys)
    assert said.startswith(f"{name[:-1]}: not the folder of a hunt: it has no `findings.json`\nhint: one of: ")
    assert name in said
    os.mkfifo(tmp_path / "findings.json")
    assert "not the folder of a hunt" in refused(["findings", str(tmp_path)], capsys)


def test_a_script_is_of_one_finding_and_a_page_of_all(capsys: pytest.CaptureFixture[str]) -> None:
    said = refused(["findings", str(HUNT), "--script"], capsys)
    assert f"not of 23\nhint: name one, e.g. {SLUG}" in said
    assert "leave their names out" in refused(["findings", str(HUNT), SLUG, "--page"], capsys)


def test_a_page_is_made_anew_over_our_own_and_not_over_the_users(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hunt = tmp_path / "kept"
    kept = keep(hunt, [Finding(*FINDINGS[0], 10, 1.0)], about())
    assert "not a folder of this suite" in refused(["findings", str(hunt), "--page"], capsys)
    Marker("hunt").write(hunt)
    assert cli.main(["findings", str(hunt), "--page"]) == 0
    assert (hunt / "README.md").read_text() == kept.page()
    assert "python -m repros findings kept hunt_" in kept.page() and str(tmp_path) not in kept.page()
    (hunt / "README.md").write_text("mine")
    capsys.readouterr()
    assert "it was edited" in refused(["findings", str(hunt), "--page"], capsys)


def test_a_hunt_outside_the_project_makes_scripts_and_no_cases(
    below: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = keep(tmp_path, [Finding(*FINDINGS[0], 10, 1.0)], about())
    assert cli.main(["findings", str(tmp_path), kept.findings[0].slug, "--script"]) == 0
    assert capsys.readouterr().out == kept.script(kept.findings[0])
    said = refused(["findings", str(tmp_path), "--out", str(below / "x")], capsys)
    assert "no case can name it as its source\nhint: copy the hunt below reports/runs/" in said
    assert not list(below.iterdir())
    keep(tmp_path, [], about())
    assert "this hunt found nothing" in refused(["findings", str(tmp_path)], capsys)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"pins": {"torch": "2.13.0"}}, "findings.json: `pins[...]`: Expected `object`, got `str`"),
        ({"pins": {"here": {"os;": "1"}}}, "pins of here: `os;==1` is not a pin"),
        ({"pins": {"here": {"torch": "2; rm"}}}, "pins of here: `torch==2; rm` is not a pin"),
        ({"pins": {}}, "no pins of here"),
        ({"cell": "there"}, "no pins of there"),
        ({"life": {"spec": {"kind": "x"}, "steps": []}}, "findings[0].life: no layer has `kind=x`"),
        ({"life": {"spec": {"x": 1}, "steps": []}}, "findings[0].life: no layer has `x=1`"),
        ({"life": {"spec": {}, "steps": [["x", {}]]}}, "findings[0].life: no step `x`"),
        ({"life": {"spec": {}, "steps": [["step", {"mode": '")'}]]}}, "no step `step(mode=\"))`"),
        ({"life": {"spec": {}, "steps": [["tie", {"x": 1}]]}}, "no step `tie(x=1)`"),
        ({"number": -1}, "findings[0].number: `-1`"),
        ({"cells": {"elsewhere": "output"}}, "no pins of elsewhere"),
    ],
)  # fmt: skip
def test_a_file_that_no_hunt_wrote_is_refused_with_its_place(
    change: dict[str, Any], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keep(tmp_path, [Finding(*FINDINGS[0], 10, 1.0)], about())
    data = json.loads((tmp_path / "findings.json").read_text())
    (row,) = data["findings"]
    for name, value in change.items():
        (row if name in row else data)[name] = value
    (tmp_path / "findings.json").write_text(json.dumps(data))
    said = refused(["findings", str(tmp_path)], capsys)
    assert says in said
    assert "\nhint: hunt again" in said


def test_every_step_has_both_sides() -> None:
    from repros.hunt import fixed, upstream

    for name in STEPS:
        if name not in ("step", "forward"):
            assert callable(getattr(upstream, f"step_{name}"))
            assert callable(getattr(fixed, f"step_{name}"))
    assert all(len(set(values)) == len(values) > 1 for values in SPEC.values())


def test_a_path_that_is_no_case_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"not below .*\nhint: put it below reports/runs/"):
        cases.select(str(tmp_path / "x.py"), ())
    with pytest.raises(UserError, match="no such file\nhint: give the path of a case file"):
        cases.select(str(ROOT / "reports" / "runs" / "none.py"), ())
