"""Control conditions, controls that measure nothing, and what nobody filled in: from the declaration to the page."""

from __future__ import annotations

import importlib.util
import itertools
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from repros import cases
from repros.case import Affected, Budget, Case, Claim, Condition, Needs, Symptom, held
from repros.cases import Entry
from repros.errors import UserError
from repros.evidence.committed import Outputs
from repros.report import terminal
from repros.run import results
from repros.run.consistency import contradiction
from repros.run.record import Record
from repros.run.results import Run
from repros.run.trial import judged_again, two_lines
from repros.verdict import Outcome, Verdict, is_failure
from tests.conftest import Bench

CLAIM = Claim("something is kept")
PARTS: dict[str, Any] = {
    "report": "bitsandbytes#1", "title": "t", "kind": "issue", "status": "open", "severity": "memory",
    "trigger": "nothing", "claims": (CLAIM,),
}  # fmt: skip


# --- a trial of one ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("condition", "verdict", "outcome", "expected", "fails"),
    [
        ("control", Verdict.ABSENT, Outcome.AS_EXPECTED, False, False),
        ("control-breaks", Verdict.REPRODUCED, Outcome.REGRESSION, False, True),
        ("nothing-recorded", Verdict.ABSENT, Outcome.NEW, None, False),
    ],
)
def test_a_trial_says_whether_it_is_of_a_control_and_whether_anything_was_recorded(
    bench: Bench, harness: Entry, condition: str, verdict: Verdict, outcome: Outcome, expected: object, fails: bool
) -> None:
    record = bench.run(harness, condition)
    control = condition != "nothing-recorded"
    assert (record.verdict, record.outcome, record.expected, record.failed) == (verdict, outcome, expected, fails)
    assert record.control is control
    arms = [arm.arm for arm in record.arms]
    assert arms == ["subject", "reference", *([] if control else ["planted"]), "proposed"]
    assert record.readings.keys() == set(arms)
    assert record.margins["budget_over_reference"] == pytest.approx(1.25)
    assert (record.margins["planted_over_budget"] is None) is control
    assert contradiction(record) == ""
    if outcome is Outcome.NEW:
        assert two_lines(record).endswith("\nhint: nothing is recorded here yet; write what it is into `affected` of "
                                          "the condition")  # fmt: skip


@pytest.fixture(scope="module")
def control(bench: Bench, harness: Entry) -> Record:
    """Return the record of a control condition."""
    return bench.run(harness, "control")


@pytest.fixture(scope="module")
def new(bench: Bench, harness: Entry) -> Record:
    """Return the record of a condition of which nothing is recorded."""
    return bench.run(harness, "nothing-recorded")


# --- its record ----------------------------------------------------------------------------------


def test_a_record_of_a_control_comes_back_from_its_file_as_it_was(control: Record, new: Record, tmp_path: Path) -> None:
    run = Run(tmp_path / "r")
    for record in (control, new):
        run.append(record)
    assert results.load(run.folder) == ([control, new], "")
    lines = [json.loads(line) for line in run.path.read_text().splitlines()]
    assert [line.get("control") for line in lines] == [True, None]
    assert [line["expected"] for line in lines] == [False, None]
    assert results.settled(run.folder) == {control.key, new.key}


@pytest.mark.parametrize("wrong", [None, 1, "yes"])
def test_a_line_whose_control_is_no_boolean_is_refused(control: Record, wrong: object, tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    path.write_text(json.dumps({**json.loads(control.to_line()), "control": wrong}) + "\n")
    with pytest.raises(UserError, match=r"results\.jsonl:1: not a record: `control`: Expected `bool`"):
        results.load(path)


Change = Callable[[Record], Record]


def without_planted(record: Record) -> Record:
    arms = tuple(arm for arm in record.arms if arm.arm != "planted")
    return replace(record, arms=arms, readings={arm.arm: record.readings[arm.arm] for arm in arms})


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            lambda new: replace(without_planted(new), margins={**new.margins, "planted_over_budget": None}),
            "arms subject, reference, proposed; a trial has a subject, one reference and one planted",
        ),
        (
            lambda new: replace(new, control=True),
            "arms subject, reference, planted, proposed; a control condition has a subject and one reference",
        ),
        (
            lambda new: replace(new, outcome=Outcome.AS_EXPECTED),
            "`absent`, nothing recorded, is `new`; the record says `as expected`",
        ),
        (lambda new: replace(new, expected=False), "`absent`, not expected, is `as expected`; the record says `new`"),
        (lambda new: replace(new, failed=True), "`absent`, nothing recorded, is `new`; the record says `new`, failed"),
        (
            lambda new: replace(without_planted(new), control=True),
            "the margin planted_over_budget is 1.6",
        ),
    ],
)  # fmt: skip
def test_what_is_no_control_has_a_planted_arm_and_what_is_none_has_not(new: Record, change: Change, says: str) -> None:
    assert contradiction(change(new)).startswith(says)


def test_a_control_is_decided_again_by_its_reference(control: Record) -> None:
    says = contradiction(replace(control, verdict=Verdict.REPRODUCED, outcome=Outcome.REGRESSION, failed=True))
    assert says.startswith("the verdict is `reproduced`, its observations say `absent`")
    inconclusive: dict[str, Any] = {
        "verdict": Verdict.INCONCLUSIVE,
        "outcome": Outcome.UNSETTLED,
        "failed": True,
        "proposed": None,
    }
    arms = tuple(replace(arm, figures={**arm.figures, "held_bytes": 2 << 20, "heap_held_bytes": 2 << 20})
                 if arm.arm == "reference" else arm for arm in control.arms)  # fmt: skip
    readings = {**control.readings, "reference": "over"}
    fires = replace(control, arms=arms, readings=readings, **inconclusive)
    assert contradiction(fires).startswith("the reason is `held_bytes")
    reason = "the reference arm is not inside the budget: held_bytes 2.00 MiB against 1.25 MiB allowed"
    whole = replace(fires, reason=reason, margins={**control.margins, "budget_over_reference": 0.625})
    assert contradiction(whole) == ""


def test_a_record_is_judged_by_what_its_condition_records_now(harness: Entry, new: Record) -> None:
    """A window is written into the case after the run that it is read from."""

    def recorded(**changes: Any) -> Record:
        conditions = [replace(c, **changes) if c.name == new.condition else c for c in harness.case.conditions]
        entry = replace(harness, case=replace(harness.case, conditions=tuple(conditions)))
        return judged_again(new, {harness.name: entry})

    window = Affected({"torch": ">=2"}, "reports/cpu")
    for found, expected, outcome in (
        (recorded(), None, Outcome.NEW),
        (recorded(affected=()), False, Outcome.AS_EXPECTED),
        (recorded(affected=(window,)), True, Outcome.FIXED),
        (recorded(affected=(replace(window, versions={"torch": "<2"}),)), False, Outcome.AS_EXPECTED),
        (recorded(control=True), False, Outcome.AS_EXPECTED),
    ):
        assert (found.expected, found.outcome) == (expected, outcome)
        assert found.failed is is_failure(found.verdict, outcome)


# --- what is written of it -----------------------------------------------------------------------


def test_whatever_is_written_of_a_run_can_be_written_of_a_control_and_of_what_is_new(
    control: Record, new: Record, harness: Entry, capsys: pytest.CaptureFixture[str]
) -> None:
    outputs = Outputs([control, new], {harness.name: harness}, [Path("reports/runs/r")])
    html, page, summary, junit = outputs.html(), outputs.markdown(), outputs.summary(), outputs.junit()
    assert "nothing-recorded" in html and "nothing-recorded" in page and summary
    assert 'failures="0"' in junit and 'tests="2"' in junit
    console = terminal.console()
    terminal.matrix([control, new], console)
    for record in (control, new):
        terminal.detail(record, console)
    terminal.summary([control, new], console)
    said = capsys.readouterr().out
    assert (said.count("planted/budget 1.60×"), said.count("budget/reference 1.25×")) == (1, 2)
    assert "(new)" in said
    says = "othing is recorded yet of 1 trial: write what it is into `affected`; every other verdict is as recorded"
    assert " ".join(said.split()).count(says) == 1
    assert all(text.count(f"{says}{end}") == 1 for text, end in ((summary, ".\n"), (html, "</dd>")))
    terminal.summary([new, new], console)
    terminal.summary([control], console)
    said = capsys.readouterr().out
    assert (
        "\nnothing is recorded yet of 2 trials: write what it is into `affected`\n" in said
        and "\nevery verdict is as recorded\n" in said
    )


# --- the declaration -----------------------------------------------------------------------------


def test_controls_of_the_suite_are_ones_that_the_report_calls_fine() -> None:
    found = [(entry, c) for entry in cases.find() for c in entry.case.conditions if c.control]
    assert found
    for entry, condition in found:
        assert not condition.affected
        assert "planted" in entry.arms and "planted" not in entry.arms_of(condition)
        assert set(entry.arms_of(condition)) >= {"subject", "reference"}


def test_a_control_is_not_affected_and_does_not_stand_alone() -> None:
    window = (Affected({"torch": ">=2"}, "reports/cpu"),)
    with pytest.raises(UserError, match="condition `c`: a control condition that is affected\nhint: a control is one"):
        Condition("c", held(1), control=True, affected=window)
    control = Condition("c", held(1), control=True)
    with pytest.raises(UserError, match=r"Case\.conditions: control conditions alone\nhint: write one under which"):
        Case(**PARTS, conditions=(control,))
    assert Case(**PARTS, conditions=(control, Condition("bug", held(1)))).condition("c").control


def part(name: str) -> Callable[[str, Any], object]:
    """Return what makes a part of a declaration, filled in but for one field."""
    whole: dict[str, tuple[Any, dict[str, Any]]] = {
        "Case": (Case, {**PARTS, "conditions": (Condition("c", held(1)),)}),
        "Condition": (Condition, {"name": "c", "budget": held(1)}),
        "Budget": (Budget, {"figure": "held_bytes", "limit": 1}),
        "Claim": (Claim, {"text": "t"}),
        "Symptom": (Symptom, {"type": "ValueError"}),
        "Needs": (Needs, {}),
        "Affected": (Affected, {"versions": {}, "source": "reports/cpu"}),
    }
    kind, filled = whole[name]
    return lambda field, value: kind(**{**filled, field: value})


FIELDS = [
    *itertools.product(["Case"], ["report", "title", "kind", "status", "severity", "trigger", "claims", "conditions",
                                  "numbers", "symptoms", "proposes", "timeout_s"]),
    *itertools.product(["Condition"], ["name", "budget", "params", "needs", "affected", "claims", "control", "device",
                                       "checkpoint", "env", "numbers", "note"]),
    *itertools.product(["Budget"], ["figure", "limit", "second", "second_slack"]),
    *itertools.product(["Claim"], ["text", "reported", "readings"]),
    *itertools.product(["Symptom"], ["type", "text"]),
    *itertools.product(["Needs"], ["packages", "compiler", "cards", "card_bytes", "reason"]),
    *itertools.product(["Affected"], ["versions", "source"]),
]  # fmt: skip


@pytest.mark.parametrize(("name", "field"), FIELDS)
def test_what_nobody_filled_in_is_refused_wherever_it_stands(name: str, field: str) -> None:
    made = part(name)
    refused = rf"test_controls\.py:\d+: {name}\.{field}: not filled in\nhint: write "
    with pytest.raises(UserError, match=refused):
        made(field, ...)


@pytest.mark.parametrize(
    ("name", "field"), [("Condition", "params"), ("Condition", "env"), ("Claim", "reported"), ("Needs", "packages"),
                        ("Affected", "versions")],
)  # fmt: skip
def test_a_value_that_nobody_filled_in_is_refused_within_a_mapping(name: str, field: str) -> None:
    with pytest.raises(UserError, match=rf"{name}\.{field}: not filled in"):
        part(name)(field, {"torch": ...})


@pytest.mark.parametrize("field", ["claims", "conditions", "symptoms"])
def test_a_part_that_nobody_filled_in_is_refused_within_a_tuple(field: str) -> None:
    with pytest.raises(UserError, match=rf"Case\.{field}: .* is not a tuple of "):
        part("Case")(field, (...,))


# --- controls that measure nothing ---------------------------------------------------------------

MODULE = '''"""Something is kept.

Limit: nothing may be. Planted: it is kept on purpose.
"""
import math

from repros.case import Budget, Case, Claim, Condition, Symptom, held

CLAIM = Claim("something is kept")
CASE = Case(
    report="bitsandbytes#1", title="t", kind="issue", status="open", severity="memory", trigger="nothing",
    claims=(CLAIM,), conditions=(Condition("a", held(1)), Condition("b", Budget("error", 0.5))),
    symptoms=(Symptom("OutOfMemoryError"), Symptom("KeyError", "SCB")),
)


def measured():
    return math.pi


def subject(c):
    yield "forward"
    return {"output": 1.0}


def reference(c):
    yield "forward"
    return {"output": measured()}


def planted(c):
    yield "forward"
    return {"output": measured()}
'''


def read(folder: Path, *swaps: tuple[str, str]) -> Case:
    """Return what a module declares that differs from `MODULE` so."""
    text = MODULE
    for old, new in swaps:
        assert text.count(old) >= 1
        text = text.replace(old, new)
    path = folder / "gh1_x.py"
    path.write_text(text)
    spec = importlib.util.spec_from_file_location("gh1_x", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return cases.entry(module).case


def arm(name: str, body: str) -> tuple[str, str]:
    """Return the swap that gives an arm another end."""
    head = f'def {name}(c):\n    yield "forward"\n    '
    figure = "1.0" if name == "subject" else "measured()"
    return f'{head}return {{"output": {figure}}}', f"{head}{body}"


HELPER = ("def measured():\n", "def made_up():\n    if math.e:\n        return {}\n\n\ndef measured():\n")
REFUSED = [
    ("reference", 'return {"held_bytes": 0}', "returns `held_bytes` as the number 0"),
    ("reference", 'return {"output": 1, "error": 0.01}', "returns `error` as the number 0.01"),
    ("reference", 'figures = {"error": 1e-9}\n    return figures', "returns `error` as the number 1e-09"),
    ("planted", 'return {"held_bytes": 10**9, "error": 9.5}', "returns `error` as the number 9.5"),
    ("planted", 'raise KeyError("SCB")', "raises KeyError itself"),
    ("planted", "raise KeyError", "raises KeyError itself"),
    ("planted", "import torch\n    raise torch.cuda.OutOfMemoryError('no')", "raises OutOfMemoryError itself"),
    ("planted", "import torch\n    if c.name:\n        raise torch.OutOfMemoryError", "raises OutOfMemoryError itself"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "body", "says"), REFUSED)
def test_a_control_that_measures_nothing_is_refused_with_its_line(
    name: str, body: str, says: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError) as caught:
        read(tmp_path, arm(name, body))
    place, line, what, hint = re.fullmatch(r"(.*):(\d+): (.*)\nhint: (.*)", str(caught.value)).groups()  # type: ignore[union-attr]
    assert (place, what) == (str(tmp_path / "gh1_x.py"), f"the {name} arm {says}")
    assert hint == "measure it: what a control returns or raises must come of what it runs"
    row = (tmp_path / "gh1_x.py").read_text().splitlines()[int(line) - 1]
    assert "raise " in row or '"error"' in row or '"held_bytes"' in row


def test_it_is_looked_for_in_the_functions_of_the_file_that_an_arm_calls(tmp_path: Path) -> None:
    typed_in = (HELPER[0], HELPER[1].replace("return {}", 'return {"held_bytes": 0}'))
    with pytest.raises(UserError, match=r"gh1_x\.py:19: the reference arm returns `held_bytes` as the number 0"):
        read(tmp_path, typed_in, arm("reference", "return made_up()"))
    raises = (HELPER[0], HELPER[1].replace("return {}", 'raise KeyError("SCB")'))
    with pytest.raises(UserError, match=r"gh1_x\.py:19: the planted arm raises KeyError itself"):
        read(tmp_path, raises, arm("planted", "yield 'backward'\n    return made_up()"))


@pytest.mark.parametrize(
    "way",
    [
        "def broken(c):\n    {}\n\n\nplanted = broken\n",
        "def broken(c):\n    {}\n\n\nother, planted = dict, broken\n",
        "if math:\n    def planted(c):\n        {}\n",
        "try:\n    import none\nexcept ImportError:\n    def planted(c):\n        {}\n",
        "def planted(c):\n    yield 'forward'\n\n\ndef planted(c):\n    {}\n",
    ],
)
def test_an_arm_is_found_however_it_comes_by_its_name(way: str, tmp_path: Path) -> None:
    """And one that another takes the place of is not looked at."""
    whole = MODULE[MODULE.index("def planted(c):") :]
    for body, says in (
        ("...", "`planted` is not filled in"),
        ("raise KeyError", "the planted arm raises KeyError itself"),
    ):
        with pytest.raises(UserError, match=rf"gh1_x\.py:\d+: {says}"):
            read(tmp_path, (whole, way.format(body)))
        assert read(tmp_path, (whole, f"{way.format(body)}\n\n{whole}"))


INNOCENT = [
    arm("subject", 'raise KeyError("SCB")'),  # what is tried may do whatever it does
    arm("subject", 'return {"held_bytes": 0}'),
    arm("reference", 'return {"held_bytes": measured()}'),
    arm("reference", 'return {"packed_bytes": 0}'),  # nothing is judged by it
    arm("planted", 'raise ValueError("KeyError")'),  # no symptom
    arm("planted", "try:\n        measured()\n    except KeyError:\n        raise"),
]


@pytest.mark.parametrize("swap", INNOCENT, ids=lambda swap: swap[1].partition("\n    ")[2].partition("\n    ")[2])
def test_what_comes_of_what_is_run_is_no_control_that_measures_nothing(swap: tuple[str, str], tmp_path: Path) -> None:
    assert read(tmp_path, swap).report == "bitsandbytes#1"


@pytest.mark.parametrize("name", ["subject", "reference", "planted"])
@pytest.mark.parametrize("body", ["...", '"""Do it."""\n    ...'])
def test_an_arm_that_nobody_filled_in_is_refused_with_its_line(name: str, body: str, tmp_path: Path) -> None:
    old, _ = arm(name, "")
    with pytest.raises(UserError) as caught:
        read(tmp_path, (old, f"def {name}(c):\n    {body}"))
    line = MODULE.splitlines().index(f"def {name}(c):") + 1
    assert str(caught.value).startswith(f"{tmp_path / 'gh1_x.py'}:{line}: `{name}` is not filled in\nhint: write what")


@pytest.mark.parametrize("assigned", ["inputs = 1", "inputs, oracle = 1, dict", "oracle, inputs = dict, 1"])
def test_a_function_that_is_assigned_and_is_none_is_refused_with_its_line(assigned: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        read(tmp_path, ("def planted(c):", f"{assigned}\n\n\ndef planted(c):"))
    line = MODULE.splitlines().index("def planted(c):") + 1
    assert str(caught.value).startswith(f"{tmp_path / 'gh1_x.py'}:{line}: `inputs` is a int\nhint: write a function")


@pytest.mark.parametrize("name", ["subject", "reference", "planted"])
def test_a_case_lacks_no_arm_that_a_condition_needs(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"no arm `{name}`\nhint: write a function `{name}\(c, …\)` that yields"):
        read(tmp_path, (f"def {name}(c)", f"def no_{name}(c)"))


@pytest.mark.parametrize(
    ("old", "new", "line"), [("Something is kept.\n", "...\n", 1), ("Limit: nothing may be.", "Limit: ...\n", 3)]
)
def test_a_docstring_that_nobody_filled_in_is_refused_with_its_line(
    old: str, new: str, line: int, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=rf"gh1_x\.py:{line}: the docstring is not filled in"):
        read(tmp_path, (old, new))


def test_a_cpu_without_the_feature_that_a_condition_needs_is_unsupported(monkeypatch: pytest.MonkeyPatch) -> None:
    from repros import requirements
    from repros.case import Needs

    needs = Needs(cpu=("avx512_bf16",), reason="elsewhere there is another kernel")
    monkeypatch.setattr(requirements, "cpu_features", lambda: frozenset({"avx2"}))
    assert requirements.unmet(needs, {}) == "needs a CPU with avx512_bf16 (elsewhere there is another kernel)"
    monkeypatch.setattr(requirements, "cpu_features", lambda: frozenset({"avx2", "avx512_bf16"}))
    assert requirements.unmet(needs, {}) == ""


def test_the_features_of_this_cpu_are_those_that_linux_lists() -> None:
    from pathlib import Path

    from repros import requirements

    found = requirements.cpu_features()
    assert found
    assert all(f" {name} " in Path("/proc/cpuinfo").read_text().replace("\n", " \n") for name in sorted(found)[:5])
