"""The hunt: lives are led in a place, departures shrunk to their shortest life, known ones told apart."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from repros import cases
from repros.errors import UserError
from repros.files import Folder
from repros.hunt import write
from repros.hunt.known import KNOWN, Known, number_of
from repros.hunt.life import SPEC, STEPS, Departure, Life, matches
from repros.hunt.search import FaultOfReferenceError, Finding, Hunt, smaller
from repros.results import ROOT
from repros.verdict import Observation

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
        assert (path.parent / found["case"]).exists()


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
    (Life.of({"kind": "nf4"}, [("offload", {})]), Departure("raises OSError: a 'b'", 0, "a 'b'", ("OSError",))),
    (Life.of({"kind": "nf4", "double": True}, []), Departure("killed by SIGSEGV", -1, "killed by SIGSEGV")),
    (Life.of({}, [("step", {"between": "change"})]), Departure("unnoticed", 0, "no error")),
    (Life.of({}, [("step", {}), ("lora_merge", {}), ("step", {})]), Departure("held", 2, "8192 bytes")),
]  # fmt: skip


@pytest.mark.parametrize(("life", "departure"), FINDINGS, ids=[departure.what[:12] for _, departure in FINDINGS])
def test_what_is_written_can_be_read(
    life: Life, departure: Departure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The case is a case, the script compiles and defines all that it calls, and neither needs the hunt's own table."""
    finding = Finding(life, departure, 10, 1.0, True, {"here": departure.what, "there": "as the reference"})
    pins = {"here": {"torch": "2.13.0", "bitsandbytes": "0.50.2"}, "there": {"bitsandbytes": "0.46.0"}}
    folder = tmp_path / "found"
    with Folder(folder, "hunt") as out:
        write.write_finding(finding, out, "here", pins)
    monkeypatch.syspath_prepend(tmp_path)
    import importlib

    made = cases.entry(importlib.import_module(f"found.{finding.slug}"))
    (condition,) = made.case.conditions
    assert made.case.affected[0].versions == {"torch": "==2.13.0", "bitsandbytes": "==0.50.2"}
    assert len(made.case.affected) == 1
    assert Life.from_json(condition.params["life"]) == life  # type: ignore[arg-type]
    assert made.case.budget_of(condition).limit(condition.params) > 0
    script = (folder / f"{finding.slug}_script.py").read_text()
    tree = ast.parse(script)
    assert "repros" not in {
        alias.name.partition(".")[0] for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names
    }
    assert not [n for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and (n.module or "").startswith("repros")]
    command = [sys.executable, "-m", "ruff", "check", "--isolated", "--select", "F821,F811", str(folder)]
    subprocess.run(command, check=True, capture_output=True)
    about = {"cell": "here", "lives": 10, "seconds": 1, "cores": 2, "cpu_model": "", "date": "", "seed": 0}
    page = write.page([finding], {**about, "hidden": True, "command": "c", "met": {}})
    assert "| there | as the reference |" in page


def test_every_step_has_both_sides() -> None:
    from repros.hunt import fixed, upstream

    for name in STEPS:
        if name not in ("step", "forward"):
            assert callable(getattr(upstream, f"step_{name}"))
            assert callable(getattr(fixed, f"step_{name}"))
    assert all(len(set(values)) == len(values) > 1 for values in SPEC.values())


def test_a_path_that_is_no_case_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"not below .*\nhint: copy it to reports/hunt/"):
        cases.select(str(tmp_path / "x.py"), ())
    with pytest.raises(UserError, match="no such file\nhint: give the path of a case file"):
        cases.select("reports/hunt/none.py", ())
