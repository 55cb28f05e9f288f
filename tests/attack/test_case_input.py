"""Case files damaged: a contributor's mistakes, one by one by their text, and mutations of whole files."""

from __future__ import annotations

import copy
import functools
import importlib
import json
import math
import random
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from repros import ROOT, cases
from repros.cases import Entry
from repros.commands.new import KINDS, scaffold
from repros.errors import UserError
from tests.attack.tally import at_the_door, part

# ruff: noqa: E501 - a row a mistake
#: A declaration with one of everything.
FULL = '''"""It is held: what the report says.

Mechanism: the input is held. Limit: the output. Planted: the input too.
"""

from repros.case import Affected, Budget, Case, Claim, Condition, Needs, Reading, Remedy, Symptom, held

ROWS, COLUMNS = 256, 512
LIMIT = 4 * ROWS * COLUMNS
HELD = Claim(
    "it is held",
    reported={"held": "1 GB"},
    readings={"held": (Reading("held_bytes", "eager", 10**9, versions={"torch": ">=2"}),)},
)

CASE = Case(
    report="bitsandbytes#1",
    title="what the report is called",
    kind="issue",
    status="open",
    severity="memory",
    trigger="a layer",
    claims=(HELD,),
    conditions=(
        Condition(
            "eager",
            budget=Budget("held_bytes", LIMIT, second="heap_held_bytes", second_slack=1),
            params={"dtype": "float32"},
            needs=Needs({"torch": ">=2"}, compiler=False, cards=1, card_bytes=0, reason="why"),
            affected=(Affected({"bitsandbytes": "<0.50"}, source="reports/cpu"),),
            claims=(HELD,),
            env={"A": "1"},
            proposed=False,
            remedies=(
                Remedy("do less", arm="remedy_less", recommended="the report"),
                Remedy("set B", env={"B": "1"}, needs=Needs({"torch": ">=2.1"})),
            ),
            numbers=0.1,
            note="a note",
        ),
        Condition("fine", held(LIMIT), control=True),
        Condition("whole-cuda", held(LIMIT), device="cuda", checkpoint="smollm2-135m-2l", proxy="eager"),
    ),
    numbers=0.05,
    symptoms=(Symptom("OSError", "no room"),),
    fix="bitsandbytes#2",
    proposes="less",
    proposed_needs=Needs({"transformers": ">=5"}),
    gate=("aten::mm",),
    timeout_s=60.0,
)


def inputs(c, checkpoint=None):
    import torch

    return {"x": torch.randn(ROWS, COLUMNS, requires_grad=True)}


def oracle(c, x):
    return {"output": x.double().sum()}


def train(x, keep):
    yield "forward"
    output = x * 2
    kept = output * 2 if keep else None
    yield "backward"
    output.sum().backward()
    return {"output": output.sum(), "kept": 0 if kept is None else 1}


def subject(c, x):
    return train(x, keep=False)


def reference(c, x):
    return train(x, keep=False)


def planted(c, x):
    return train(x, keep=True)


def proposed(c, x):
    return train(x, keep=False)


def remedy_less(c, x):
    return train(x, keep=False)
'''
SCAFFOLDS = [scaffold("bitsandbytes#1", kind) for kind in KINDS]
REAL = [
    (ROOT / "repros" / "cases" / name).read_text(encoding="utf-8")
    for name in (
        "bitsandbytes/gh1935/saved_weight.py", "bitsandbytes/gh1927/train_order.py", "transformers/gh44387/reserved_memory.py"
    )
]  # fmt: skip


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("cases") / "damaged"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    for name in {path.name for path in (ROOT / "repros" / "cases").glob("*/gh*/minimal*.py")}:
        (folder / name).write_text("print('good: nothing')\n")  # the real ones name their witness
    sys.path.insert(0, str(folder.parent))
    yield folder
    sys.path.remove(str(folder.parent))


COUNT = iter(range(10**9))


def read(package: Path, content: str | bytes) -> Entry:
    """Import a file of this content as a case; its name is new, for a module is imported once."""
    name = f"gh{next(COUNT)}_x"
    file = package / f"{name}.py"
    file.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))
    importlib.invalidate_caches()
    try:
        return cases.load(f"damaged.{name}")
    finally:
        sys.modules.pop(f"damaged.{name}", None)
        file.unlink()


@pytest.fixture(scope="module")
def apart() -> Iterator[Path]:
    """A folder below the project, whose files are given by their path and read in a process of their own."""
    runs = ROOT / "reports" / "runs"
    runs.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=runs, prefix="damaged_") as name:
        folder = Path(name)
        (folder / "minimal.py").write_text("print('good: nothing')\n")
        yield folder


def read_apart(folder: Path, content: str | bytes) -> Entry:
    """Read a file of this content as a case that is given by its path."""
    file = folder / f"gh{next(COUNT)}_x.py"
    file.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))
    try:
        return cases.from_file(file)
    finally:
        assert cases.module_of(file) not in sys.modules
        file.unlink()


def sound(found: Entry) -> None:
    """What is taken can be tried: a limit for each condition, the arms that it needs, distinct names."""
    names = [condition.name for condition in found.case.conditions]
    assert len(set(names)) == len(names) > 0
    for condition in found.case.conditions:
        assert condition.device in ("cpu", "cuda")
        assert 0 <= condition.budget.limit < math.inf
        needed = {"subject", "reference"} if condition.control else {"subject", "reference", "planted"}
        assert needed <= set(found.arms_of(condition))
        assert not condition.control or "planted" not in found.arms_of(condition)
    assert not all(condition.control for condition in found.case.conditions)


def test_whole_files_are_taken(package: Path) -> None:
    """The door is not shut."""
    for content in (FULL, *REAL):
        sound(read(package, content))


def test_whole_files_are_taken_by_their_path(apart: Path) -> None:
    sound(read_apart(apart, FULL))


#: What is damaged in FULL -> with what, what is said behind file and line, and what to do.
MISTAKES = [
    ("symptoms=(", "foo=1, symptoms=(", ": TypeError: Case.__init__() got an unexpected keyword argument 'foo'", "Case takes report"),
    ("timeout_s=60.0", "timeout=60.0", "unexpected keyword argument 'timeout'", "Case takes timeout_s"),
    ("timeout_s=60.0", "timeout_s=-1", "Case.timeout_s: `-1` is not a number above 0", "write a number above 0"),
    ("timeout_s=60.0", 'timeout_s=float("nan")', "Case.timeout_s: `nan` is not a number above 0", "write"),
    ("timeout_s=60.0", 'timeout_s="60"', "Case.timeout_s: `'60'` is not a number above 0", "write"),
    ("timeout_s=60.0", "timeout_s=True", "Case.timeout_s: `True` is not a number above 0", "write"),
    ('"bitsandbytes#1"', "None", "Case.report: `None` is not a text of one line", "write"),
    ('"bitsandbytes#1"', '"bitsandbytes"', "Case.report: `bitsandbytes` is not a report", "write package and number, such as"),
    ('"bitsandbytes#1"', '"bitsandbytes#9999999999"', "Case.report: `bitsandbytes#9999999999` is not a report", "write package and"),
    ('title="what the report is called"', "title=3", "Case.title: `3` is not a text of one line", "write a text"),
    ('title="what the report is called"', "title=...", ": Case.title: not filled in", "write a text of one line"),
    ('kind="issue",', "", "TypeError: Case.__init__() missing 1 required positional argument: 'kind'", "a case file declares"),
    ('kind="issue"', 'kind="bug"', "Case.kind: unknown kind `bug`", "one of: issue, pull request"),
    ('severity="memory"', 'severity="bad"', "Case.severity: unknown severity `bad`", "one of: wrong numbers, memory, raises"),
    ('trigger="a layer",', "", "missing 1 required positional argument: 'trigger'", "a case file declares"),
    ('trigger="a layer"', 'trigger="a\\nlayer"', "Case.trigger: `'a\\nlayer'` is not a text of one line", "write a text"),
    ('proposes="less"', "proposes=...", "Case.proposes: not filled in", "write a text of one line, or None"),
    ("numbers=0.05", "numbers=0", "Case.numbers: `0` is not a number above 0", "write"),
    ("numbers=0.05", "numbers=lambda p: 0.05", "is not a number above 0", "write"),
    ('gate=("aten::mm",)', 'gate="aten::mm"', "Case.gate: `'aten::mm'` is not a tuple of texts", "write a tuple"),
    ('gate=("aten::mm",)', "gate=(3,)", "Case.gate: `(3,)` is not a tuple of texts", "write a tuple"),
    ("conditions=(", "conditions=(3, ", "Case.conditions: `(3, Condition", "write a tuple of Condition"),
    ("conditions=(", "conditions=() and (", "Case.conditions: no condition", "write at least one"),
    ('device="cuda", ', 'device="cuda", witness="minimal_none.py", ', "no witness `minimal_none.py` beside the case", "write it"),
    ('device="cuda", ', 'device="cuda", witness="../minimal.py", ', "the witness `../minimal.py` is not a file name", "write a file"),
    ('device="cuda", ', 'device="cuda", witness=type("S", (str,), {})("minimal.py"), ', "is not a text of one line", "write a text"),
    ("conditions=(", 'conditions=(Condition("eager", held(1)), ', "`eager`: the name of another condition too", "give each"),
    ("    claims=(HELD,),\n    conditions", "    claims=(),\n    conditions", "condition `eager`: `it is held` is not in Case.claims", "add it to `claims`"),
    ('"smollm2-135m-2l"', '"llama-zzz"', "condition `whole-cuda`: no checkpoint recipe `llama-zzz`", "one of: "),
    ('"smollm2-135m-2l"', "lambda p: p", "Condition.checkpoint: `<function <lambda> at", "write a text"),
    ('"smollm2-135m-2l"', "3", "Condition.checkpoint: `3` is not a text of one line", "write a text"),
    ('            "eager",', '            "",', "Condition.name: `` is not a name", "use letters"),
    ('            "eager",', '            "a/b",', "Condition.name: `a/b` is not a name", "use letters"),
    ('            "eager",', '            "a[b",', "Condition.name: `a[b` is not a name", "use letters"),
    ('            "eager",', '            "a b",', "Condition.name: `a b` is not a name", "use letters"),
    ('            "eager",', '            "a\\n",', "Condition.name: `'a\\n'` is not a text of one line", "write a text"),
    ('{"dtype": "float32"}', "{3: 4}", "Condition.params: `{3: 4}` is not a mapping from names", "write a mapping"),
    ('{"dtype": "float32"}', "3", "Condition.params: `3` is not a mapping", "write a mapping"),
    ('{"dtype": "float32"}', '{"dtype": ...}', "Condition.params: not filled in", "write a mapping"),
    ('{"dtype": "float32"}', '{"device": "cuda"}', "Condition.params: `{'device': 'cuda'}` is not a mapping from names, none of them an attribute", "write"),
    ('{"dtype": "float32"}', '{"on_card": 1}', "Condition.params: `{'on_card': 1}` is not a mapping", "write"),
    ('device="cuda"', 'device="gpu"', "Condition.device: unknown device `gpu`", "one of: cpu, cuda"),
    ("proposed=False", 'proposed="no"', "Condition.proposed: `'no'` is not True or False", "write True or False"),
    ("numbers=0.1", "numbers=-1", "Condition.numbers: `-1` is not a finite number, 0 or more, or None", "write"),
    ("control=True", "control=1", "Condition.control: `1` is not True or False", "write"),
    ("control=True", 'control=True, affected=(Affected({"torch": ">=2"}, "reports/cpu"),)', "condition `fine`: a control condition that is affected", "a control is one that the report calls fine"),
    ('{"A": "1"}', '{"A": 1}', "Condition.env: `{'A': 1}` is not a mapping from texts to texts", "write a mapping"),
    ('{"A": "1"}', '{"A=B": "1"}', "Condition.env: `A=B` is not a name of a variable", "such as"),
    ('"do less"', '" "', "Remedy.text: it says nothing", "write what a user does"),
    ('"do less"', "...", "Remedy.text: not filled in", "write a text of one line"),
    ('"do less"', '"do less\\nor more"', "Remedy.text: `'do less\\nor more'` is not a text of one line", "write a text"),
    ('"do less"', '"set B"', "condition `eager`: a remedy twice: `set B`", "take one out"),
    ('"set B", env', '"do less", env', "condition `eager`: a remedy twice: `do less`", "take one out"),
    ('"set B", env={"B": "1"}', '"do less otherwise", arm="remedy_less"', "Remedy: `do less otherwise` is one of two", "declare it once"),
    ('arm="remedy_less"', 'arm="subject"', "Remedy.arm: `subject` is not the name of a remedy", "call the function `remedy`"),
    ('arm="remedy_less"', 'arm="remedy_more"', ": `remedy_less` is the arm of no remedy", "name it under a condition"),
    ("def remedy_less(c", "def rem_less(c", ": no arm `remedy_less`", "write a function `remedy_less(c, …)` that yields phases"),
    ("def remedy_less(c, x):\n    return train(x, keep=False)", "def remedy_less(c, x):\n    ...", ": `remedy_less` is not filled in", "write what"),
    ('env={"B": "1"}', "env={}", "Remedy: it does what the subject does", "write `arm`"),
    ('env={"B": "1"}', 'env={"B=": "1"}', "Remedy.env: `B=` is not a name of a variable", "such as"),
    ('{"torch": ">=2.1"}', '{"torch": "2.1"}', "Needs.packages: `2.1` is not a specifier", "such as"),
    ('env={"B": "1"}', 'params={"dtipe": 1}', "condition `eager` has no parameter `dtipe`, which a remedy changes", "one of: dtype"),
    ("remedies=(", "remedies=3 or (", "Condition.remedies: `3` is not a tuple of Remedy", "write a tuple of Remedy"),
    ("control=True", 'control=True, remedies=(Remedy("x", env={"C": "1"}),)', "condition `fine`: a control condition with a remedy", "try it where"),
    ('fix="bitsandbytes#2"', 'fix="0.50"', "Case.fix: `0.50` is no pull request and no commit", "write package and number or commit"),
    ('proxy="eager"', 'proxy="eagre"', "Condition.proxy: no condition `eagre` in this case", "one of: eager"),
    ('            claims=(HELD,),', '            claims=(Claim("other"),),', "condition `eager`: `other` is not in Case.claims", "add it"),
    ('            claims=(HELD,),', '            claims=HELD,', "Condition.claims: `Claim(", "write a tuple of Claim"),
    ("budget=Budget(", "budget=3 or Budget(", "Condition.budget: `3` is not a Budget", "write a Budget"),
    ("budget=Budget(", "budget=... or Budget(", "Condition.budget: not filled in", "write a Budget"),
    ("needs=Needs(", "needs=3 or Needs(", "Condition.needs: `3` is not a Needs", "write a Needs"),
    ("cards=1", "cards=0", "Needs.cards: 0 cards", "leave it out"),
    ("card_bytes=0", "card_bytes=-1", "Needs.card_bytes: `-1` is not a whole", "write"),
    ("compiler=False", "compiler=0", "Needs.compiler: `0` is not True or False", "write"),
    ('Needs({"torch": ">=2"}', 'Needs({"torhc": ">=2"}', "Needs.packages: no cell pins `torhc`", "one of: torch"),
    ('Needs({"torch": ">=2"}', 'Needs({"torch": "new"}', "Needs.packages: `new` is not a specifier", "such as"),
    ('Needs({"torch": ">=2"}', f'Needs({{"torch": ">={"9" * 5000}"}}', "99…` is not a specifier", "such as"),
    ('Needs({"transformers": ">=5"}', 'Needs({"transformers": "5"}', "Needs.packages: `5` is not a specifier", "such as"),
    ('readings={"held"', 'readings={"hold"', "Claim.readings: the report gives no number `hold`", "one of: held"),
    ('reported={"held": "1 GB"}', "reported=...", "Claim.reported: not filled in", "write a mapping"),
    ('reported={"held": "1 GB"}', 'reported={"held": ...}', "Claim.reported: not filled in", "write a mapping"),
    ('"held_bytes", "eager", 10**9', '"held_bytes", "eagre", 10**9', "Reading.condition: no condition `eagre`", "one of: eager"),
    ('"held_bytes", "eager", 10**9', '"held_bytes", "eager", 10**9, "subjct"', "Reading.arm: unknown arm `subjct`", "one of: subject"),
    ('"held_bytes", "eager", 10**9', '"held_bytes", "eager", 0', "Reading.per_unit: `0` is not a number above 0", "write"),
    ("affected=(Affected", "affected=3 or (Affected", "Condition.affected: `3` is not a tuple of Affected", "write a tuple of Affected, empty where"),
    ("affected=(Affected", "affected=... or (Affected", "Condition.affected: not filled in", "write a tuple of Affected"),
    ('{"bitsandbytes": "<0.50"}', '{"bitsandbytes": "0.50"}', "Affected.versions: `0.50` is not a specifier", "such as"),
    ('{"bitsandbytes": "<0.50"}', '{"numpy": "<2"}', "Affected.versions: no cell pins `numpy`", "one of: torch"),
    ('source="reports/cpu"', 'source="reports/nowhere"', "Affected.source: `reports/nowhere` does not exist", "name the evidence"),
    ('source="reports/cpu"', 'source=""', "Affected.source: `` does not exist", "name the evidence"),
    ('source="reports/cpu"', 'source="../main"', "Affected.source: `../main` does not exist", "name the evidence"),
    ('source="reports/cpu"', 'source="/etc"', "Affected.source: `/etc` does not exist", "name the evidence"),
    ('source="reports/cpu"', f'source="{"x" * 9000}"', "Affected.source: `xxxx", "name the evidence"),
    ('"no room"', '"no (room"', "Symptom.text: `no (room` is not a regular expression: missing )", "escape"),
    ('"no room"', "...", "Symptom.text: not filled in", "write a text"),
    ('Symptom("OSError"', 'Symptom("os.error"', "Symptom.type: `os.error` is not a class name", "write an exception's class"),
    ('"held_bytes", LIMIT', '"held_mib", LIMIT', "budget on `held_mib`: memory is counted in bytes", "name a `*_bytes` figure"),
    ('"held_bytes", LIMIT', '"held bytes", LIMIT', "Budget.figure: `held bytes` is not a figure", "such as `held_bytes`"),
    ('"held_bytes", LIMIT', '"held_bytes", None', "Budget.limit: `None` is not a finite number, 0 or more", "write a finite"),
    ('"held_bytes", LIMIT', '"held_bytes", ...', "Budget.limit: not filled in", "write a finite"),
    ('"held_bytes", LIMIT', '"held_bytes", lambda c: 1', "Budget.limit: `<function <lambda> at", "write a finite"),
    ('"held_bytes", LIMIT', '"held_bytes", "1"', "Budget.limit: `'1'` is not a finite number", "write a finite"),
    ('"held_bytes", LIMIT', '"held_bytes", True', "Budget.limit: `True` is not a finite number", "write a finite"),
    ('"held_bytes", LIMIT', '"held_bytes", False', "Budget.limit: `False` is not a finite number", "write a finite"),
    ('"held_bytes", LIMIT', '"held_bytes", -1', "Budget.limit: `-1` is not a finite number", "write a finite"),
    ('"held_bytes", LIMIT', '"held_bytes", 1e999', "Budget.limit: `inf` is not a finite number", "write a finite"),
    ('"held_bytes", LIMIT', '"held_bytes", 1e999 - 1e999', "Budget.limit: `nan` is not a finite number", "write a finite"),
    ('"held_bytes", LIMIT', '"held_bytes", {}["x"]', ": KeyError: 'x'", "a case file declares"),
    ('"held_bytes", LIMIT', '"held_bytes", __import__("sys").exit(3)', ": SystemExit: 3", "a case file declares"),
    ("second_slack=1", "second_slack=1.5", "Budget.second_slack: `1.5` is not a whole number", "write a whole"),
    ("CASE = Case(", "CASE = dict(", ": `CASE` is a dict", "declare one"),
    ("CASE = Case(", "CASES = Case(", ":1: no `CASE`", "declare one"),
    ("says.\n", "says: ...\n", ":1: the docstring is not filled in", "say first what is claimed"),
    ("too.\n", "too.\nWhy: ...\n", ":4: the docstring is not filled in", "say first what is claimed"),
    ("def subject(c", "def subjct(c", ": no arm `subject`", "write a function `subject(c, …)` that yields phases"),
    ("def planted(c", "def plant(c", ": no arm `planted`", "write a function `planted(c, …)` that yields phases"),
    ("def reference(c, x):\n    return train(x, keep=False)", "def reference(c, x):\n    ...", ": `reference` is not filled in", "write what it does in place of"),
    ("def oracle(c, x):\n    return {\"output\": x.double().sum()}", "def oracle(c, x):\n    'What is right.'\n    ...", ": `oracle` is not filled in", "write what it does"),
    ("def inputs(c", "inputs = 3\n\n\ndef other(c", ": `inputs` is a int", "write a function `inputs(c, …)`"),
    ("def proposed(c", "proposed = 3\n\n\ndef other(c", ": `proposed` is a int", "write a function `proposed(c, …)` that yields"),
    ("def reference(c, x):\n    return train(x, keep=False)", 'def reference(c, x):\n    yield "forward"\n    return {"held_bytes": 3}', ": the reference arm returns `held_bytes` as the number 3", "measure it"),
    ("def planted(c, x):\n    return train(x, keep=True)", 'def planted(c, x):\n    yield "forward"\n    raise OSError("no room")', ": the planted arm raises OSError itself", "measure it"),
    ("def planted(c, x):\n    return train(x, keep=True)", "def planted(c, x):\n    return break_(x)\n\n\ndef break_(x):\n    yield 'forward'\n    raise OSError", ": the planted arm raises OSError itself", "measure it"),
    ("import Affected", "import Afected", ": ImportError: cannot import name 'Afected'", "import inside the arms"),
    ("ROWS, COLUMNS", "import torhc\nROWS, COLUMNS", ": ModuleNotFoundError: No module named 'torhc'", "import inside the arms"),
    ("ROWS, COLUMNS", "raise SystemExit(0)\nROWS, COLUMNS", ": SystemExit: 0", "a case file declares"),
    ("ROWS, COLUMNS", "1 / 0\nROWS, COLUMNS", ": ZeroDivisionError: division by zero", "a case file declares"),
    ("ROWS, COLUMNS", "print('hello')\nROWS, COLUMNS", ": it prints `hello`", "a case file declares"),
    ("ROWS, COLUMNS", "def a(): return a()\na()\nROWS, COLUMNS", ": RecursionError: maximum recursion depth", "nest less there"),
    ("ROWS, COLUMNS", "(ROWS, COLUMNS", "invalid syntax", "fix the syntax there"),
    ("ROWS, COLUMNS", "\tROWS, COLUMNS", "unexpected indent", "fix the syntax there"),
]  # fmt: skip


def test_a_case_of_control_conditions_alone_is_refused(package: Path) -> None:
    content = FULL.replace('"OSError", "no room"', '"OSError"').replace(
        "conditions=(", 'conditions=(Condition("fine", held(LIMIT), control=True),) or (', 1
    )
    with pytest.raises(
        UserError, match=r"_x\.py:\d+: Case.conditions: control conditions alone\nhint: write one under which"
    ):
        read(package, content.replace('"eager", 10**9', '"fine", 10**9'))


@pytest.mark.parametrize("content", SCAFFOLDS, ids=KINDS)
def test_a_scaffold_that_nobody_filled_in_is_no_case(package: Path, content: str) -> None:
    """Each `...` is refused in turn, with its line: of the declaration, of the docstring, of the arms."""
    with pytest.raises(UserError, match=r"_x\.py:\d+: Claim.text: not filled in\nhint: write a text of one line"):
        read(package, content)
    head, case, tail = content.partition("# What the report says")
    filled = head + case + tail.replace('reported={"message": ...}', "").replace("...", '"x"')
    with pytest.raises(UserError, match=r"_x\.py:1: the docstring is not filled in\nhint: say first"):
        read(package, filled)
    filled = filled.replace(": ...\n", ": told.\n")
    assert "..." not in filled
    sound(read(package, filled))
    for arm in ("subject", "reference", "planted"):
        before, name, after = filled.partition(f"def {arm}(")
        with pytest.raises(UserError, match=rf"_x\.py:{before.count(chr(10)) + 1}: `{arm}` is not filled in\n"):
            read(package, before + name + after.replace('    "x"\n', "    ...\n", 1))


@pytest.mark.parametrize(("old", "new", "says", "hint"), MISTAKES, ids=[new[:30] for _, new, *_ in MISTAKES])
def test_a_contributors_mistake_is_told_with_file_and_line(
    package: Path, old: str, new: str, says: str, hint: str
) -> None:
    assert old in FULL
    with pytest.raises(UserError) as caught:
        read(package, FULL.replace(old, new, 1))
    check_words(str(caught.value), str(package), says, hint)


@pytest.mark.parametrize(("old", "new", "says", "hint"), MISTAKES, ids=[new[:30] for _, new, *_ in MISTAKES])
def test_a_mistake_in_a_file_that_is_given_by_its_path_is_told_alike(
    apart: Path, old: str, new: str, says: str, hint: str
) -> None:
    with pytest.raises(UserError) as caught:
        read_apart(apart, FULL.replace(old, new, 1))
    check_words(str(caught.value), str(apart.relative_to(ROOT)), says, hint)


def check_words(said: str, folder: str, says: str, hint: str) -> None:
    first, second = said.split("\n")
    assert re.match(rf"{re.escape(folder)}/gh\d+_x\.py:\d+: ", first)
    assert says in first
    assert second.startswith(f"hint: {hint}")


@pytest.mark.parametrize(
    ("part", "wrong"),
    [
        ("Condition(", 'Condition("a b", held(1)), Condition('), ("Symptom(", 'Symptom("a."), Symptom('),
        ("Reading(", 'Reading("x", "no", 1), Reading('), ("Affected(", 'Affected({"torch": "x"}, source="reports"), Affected('),
        ("Budget(", 'Budget("held_bytes", -1) or Budget('), ("Needs(", "Needs(cards=0) or Needs("),
        ("timeout_s=60.0", "timeout_s=-1"), ("HELD,),", "Claim(3), HELD,),"),
    ],
)  # fmt: skip
def test_the_line_is_that_of_the_part(package: Path, part: str, wrong: str) -> None:
    """A condition's mistake is told with the condition's line, not with that of `CASE`."""
    head, first, tail = FULL.partition("HELD = ")
    content = head + first + tail.replace(part, f"\n\n        {wrong}", 1)
    where = "CASE = " if part == "timeout_s=60.0" else wrong
    wanted = next(i for i, line in enumerate(content.split("\n"), 1) if where in line and "import" not in line)
    with pytest.raises(UserError, match=rf"_x\.py:{wanted}: "):
        read(package, content)


def test_a_reading_in_another_case_names_one_that_is_there(package: Path) -> None:
    (package / "three").mkdir()
    (package / "three" / "__init__.py").write_text("")
    for number, name, condition in ((1, "gh1_no", "eager"), (2, "gh1_x", "eagre")):
        (package / "three" / f"gh{number}_x.py").write_text(
            FULL.replace('"held_bytes", "eager", 10**9', f'"held_bytes", "{condition}", 10**9, case="{name}"')
        )
    with pytest.raises(UserError, match=r"gh1_x.py:\d+: Reading.case: no case `gh1_no`\nhint: one of: gh1_x, gh2_x"):
        cases.find("damaged.three")
    (package / "three" / "gh1_x.py").write_text(FULL)
    del sys.modules["damaged.three.gh1_x"]
    importlib.invalidate_caches()
    with pytest.raises(
        UserError, match=r"gh2_x.py:\d+: Reading.condition: `gh1_x` has no condition `eagre`\nhint: one of: eager"
    ):
        cases.find("damaged.three")


NO_CASES = [
    (b"\xff\xfe", "(unicode error) 'utf-8' codec can't decode byte 0xff in position 0"),
    (b"x = 1\0", "source code "),
    (b"", ":1: no `CASE`"),
    (("x = " + "(" * 500).encode(), "too many nested parentheses"),
    (FULL.partition('"""\n\n')[2].encode(), ":1: no docstring"),
    (b"import sys; sys.modules[__name__] = None", ":1: it puts something else in its own place"),
    (b"__name__ = 3", ":1: it puts something else in its own place"),
]


@pytest.mark.parametrize(("content", "says"), NO_CASES)
def test_a_file_that_is_no_case(package: Path, content: bytes, says: str) -> None:
    with pytest.raises(UserError) as caught:
        read(package, content)
    assert says in str(caught.value)
    assert str(caught.value).startswith(str(package))


@pytest.mark.parametrize(("content", "says"), NO_CASES)
def test_a_path_of_a_file_that_is_no_case(apart: Path, content: bytes, says: str) -> None:
    with pytest.raises(UserError) as caught:
        read_apart(apart, content)
    assert says in str(caught.value)
    assert str(caught.value).startswith(str(apart.relative_to(ROOT)))


def test_a_file_that_does_not_end_is_given_up(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("repros.cases.importing.PATIENCE_S", 0.3)
    busy = "import time\nwhile True:\n    try:\n        time.sleep(9)\n    except Exception:\n        pass\n"
    with pytest.raises(UserError, match=r"gh\d+_x.py:4: still busy after 0.3 s\nhint: a case file declares"):
        read(package, busy)
    line = FULL[: FULL.index("LIMIT = ")].count("\n") + 1
    with pytest.raises(UserError, match=rf"_x\.py:{line}: still busy after 0.3 s"):
        read(package, FULL.replace("LIMIT = ", "LIMIT = next(i for i in iter(int, 1) if i) + "))


def test_two_cases_of_one_name(package: Path) -> None:
    for name, file in (("one", "gh1_x"), ("two/gh1", "x"), ("two/gh1", "_no_case"), ("two/gh1", "y")):
        folder = package / "several" / name
        folder.mkdir(parents=True, exist_ok=True)
        for place in (package / "several", folder.parent, folder):
            (place / "__init__.py").write_text("")
        (folder / f"{file}.py").write_text(FULL if file != "_no_case" else "raise OSError")
    what = r"damaged.several.two.gh1.x: `gh1_x` is the name of damaged.several.one.gh1_x too"
    with pytest.raises(UserError, match=rf"{what}\nhint: rename"):
        cases.find("damaged.several")
    assert [found.name for found in cases.find("damaged.several.two")] == ["gh1_x", "gh1_y"]


#: Texts that stand in the place of a value.
HOSTILE = (
    "None", "True", "-1", "0", "''", "[]", "{}", "()", "float('nan')", "float('inf')", "10**400", "'\\ud800'", "'\\0'",
    "'a/b'", "'a b'", "'['", "object()", "lambda *a: None", "lambda: 1", "b'x'", "...", "'*'", "exit(1)", "print(1)",
    "__import__('nope')", "1/0", "type('T', (), {'__repr__': lambda s: 1/0})()", "'x' * 10**6", "Case", "CASE", "'９'",
    "(_ for _ in ())", "{'device': 'tpu'}", "[[]] * 5", "int('9' * 4000)", "type('S', (str,), {})('cpu')",
)  # fmt: skip


def mutated(text: str, dice: random.Random, hostile: str) -> str | bytes:
    """Return a file with some of its lines, tokens, values or bytes damaged."""
    for _ in range(dice.randint(1, 3)):
        kind = dice.randrange(6)
        lines = text.split("\n")
        i, j = dice.randrange(len(lines)), dice.randrange(len(lines))
        if kind == 0:
            del lines[i]
        elif kind == 1:
            lines[i], lines[j] = lines[j], lines[i]
        elif kind == 2:
            lines.insert(j, lines[i])
        elif kind == 3:
            values = [k for k, line in enumerate(lines) if "=" in line and line.rstrip().endswith(",")] or [i]
            k = dice.choice(values)
            lines[k] = f"{lines[k].partition('=')[0]}={hostile},"
        elif kind == 4:
            words = lines[i].split(" ")
            words[dice.randrange(len(words))] = hostile
            lines[i] = " ".join(words)
        else:
            at = dice.randrange(len(text))
            lines = (
                text[:at]
                + chr(dice.choice((0, 9, 40, 34, 58, 0xFEFF, 0xD800, dice.randrange(0x3000))))
                + text[at + 1 :]
            ).split("\n")
        text = "\n".join(lines)
    return text


def attempt(package: Path, content: str | bytes) -> None:
    with at_the_door("cases"):
        sound(read(package, content))


seeds = given(seed=st.integers(0, 2**32), hostile=st.sampled_from(HOSTILE))


@part(2)
@seeds
def test_mutations_of_a_declaration(package: Path, seed: int, hostile: str) -> None:
    attempt(package, mutated(FULL, random.Random(seed), hostile))


@part(4)
@seeds
def test_mutations_of_real_cases(package: Path, seed: int, hostile: str) -> None:
    dice = random.Random(seed)
    attempt(package, mutated(dice.choice(REAL), dice, hostile))


@part(3)
@given(hostile=st.sampled_from(HOSTILE), other=st.sampled_from(HOSTILE), data=st.data())
def test_values_of_each_argument(package: Path, hostile: str, other: str, data: st.DataObject) -> None:
    """Give any class of a declaration any value under any of its names."""
    from repros import case

    kind = data.draw(
        st.sampled_from(("Affected", "Budget", "Case", "Claim", "Condition", "Needs", "Reading", "Symptom"))
    )
    name = data.draw(st.sampled_from(sorted(getattr(case, kind).__dataclass_fields__)))
    line = (
        f"x = {kind}(**{{{name!r}: {hostile}}}, )" if data.draw(st.booleans()) else f"replace(CASE, {name}={hostile})"
    )
    changed = f"replace({'CASE' if kind == 'Case' else f'PARTS[{kind!r}]'}, {name}={hostile})"
    condition = "replace(CASE, conditions=(replace(CASE.conditions[0], {}={}), *CASE.conditions[1:]))"
    into = {
        "Affected": condition.format("affected", f"({changed},)"), "Budget": condition.format("budget", changed),
        "Case": changed, "Claim": f"replace(CASE, claims=({changed},))",
        "Condition": f"replace(CASE, conditions=({changed}, *CASE.conditions[1:]))",
        "Reading": f"replace(CASE, claims=(replace(CASE.claims[0], readings={{'held': ({changed},)}}),))",
        "Needs": condition.format("needs", changed), "Symptom": f"replace(CASE, symptoms=({changed},))",
    }[kind]  # fmt: skip
    parts = (
        "from dataclasses import replace\nPARTS = {'Affected': CASE.conditions[0].affected[0], 'Budget': "
        "CASE.conditions[0].budget, 'Claim': CASE.claims[0], 'Condition': CASE.conditions[0], 'Reading': "
        "CASE.claims[0].readings['held'][0], 'Needs': CASE.conditions[0].needs, 'Symptom': CASE.symptoms[0]}\n"
    )
    attempt(package, f"{FULL}\n{parts}CASE = {into}\n" if other != hostile else f"{FULL}\n{line}\n")


# --- what comes of the process that reads a file -------------------------------------------------


@pytest.fixture(scope="module")
def answer(apart: Path) -> tuple[Path, bytes]:
    """A case file, and what the process that reads it says."""
    from repros.cases.apart import heard

    file = apart / "gh1_answered.py"
    reading = 'readings={"held": ('
    assert reading in FULL
    counted = f'{reading}Reading("held_bytes", "eager", 1, arm="arithmetic", value=lambda: 3.0), '
    text = FULL.replace(reading, counted, 1).replace('"float32"}', '"float32", "sizes": (1, [2.0]), "of": object()}', 1)
    file.write_text(text, encoding="utf-8")
    said, code = heard(file, cases.module_of(file))
    assert code == 0 and b"opaque" in said and b"tuple" in said
    return file, said


def answered(file: Path, said: bytes) -> None:
    """Have the process say this."""
    with at_the_door("cases"), mock.patch("repros.cases.apart.heard", lambda file, module: (said, 0)):
        sound(cases.from_file(file))


def test_an_answer_as_it_is_is_taken(answer: tuple[Path, bytes]) -> None:
    """Or what is said of damaged ones would hold of any."""
    file, said = answer
    with mock.patch("repros.cases.apart.heard", lambda file, module: (said, 0)):
        sound(cases.from_file(file))


LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.just("x" * 5000),
    st.sampled_from(("eager", "cuda", "../x", "[", "(" * 200, "bitsandbytes#1", "\ud800", "\n", ">=2", 10**400, -1, 0)),
)  # fmt: skip
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


def places(value: Any, inside: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the way to each value of a JSON document."""
    yield inside
    within = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, one in within:
        yield from places(one, (*inside, key))


@part(2)
@given(data=st.data())
def test_mutations_of_an_answer(answer: tuple[Path, bytes], data: st.DataObject) -> None:
    """Replace, remove, add or swap a value of what the process says: it is two lines or a case that can be tried."""
    file, said = answer
    whole = {"": json.loads(said)}
    for _ in range(data.draw(st.integers(1, 3))):
        *before, key = data.draw(st.sampled_from([one for one in places(whole) if one]))
        held = functools.reduce(lambda value, one: value[one], before, whole)
        how = data.draw(st.sampled_from(("replace", "remove", "add", "swap")))
        if how == "replace":
            held[key] = data.draw(VALUES)
        elif how == "remove" and before:
            del held[key]
        elif how == "add" and isinstance(held[key], dict):
            held[key][data.draw(st.text(max_size=8))] = data.draw(VALUES)
        elif how == "swap":
            other = data.draw(st.sampled_from([one for one in places(whole) if one]))
            held[key] = copy.deepcopy(functools.reduce(lambda value, one: value[one], other, whole))
    answered(file, json.dumps(whole.get("")).encode())


@part(4)
@given(data=st.data())
def test_damaged_bytes_of_an_answer(answer: tuple[Path, bytes], data: st.DataObject) -> None:
    file, said = answer
    at, until = sorted(data.draw(st.integers(0, len(said))) for _ in range(2))
    answered(file, said[:at] + data.draw(st.binary(max_size=9)) + said[until if data.draw(st.booleans()) else at :])
