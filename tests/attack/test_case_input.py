"""Case files damaged: a contributor's mistakes, one by one by their text, and mutations of whole files."""

from __future__ import annotations

import importlib
import math
import random
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from repros import ROOT, cases
from repros.cases import Entry
from repros.commands.new import TEMPLATE
from repros.errors import UserError
from tests.attack.tally import at_the_door, part

# ruff: noqa: E501 - a row a mistake
SCAFFOLD = TEMPLATE.format(package="bitsandbytes", number=1)
#: A declaration with one of everything.
FULL = SCAFFOLD.replace("Budget, Case, Claim, Condition", "Affected, Budget, Case, Claim, Condition, Reading, Requires, Symptom") \
    .replace('reported={"held": "the report\'s own figure"}', 'reported={"held": "1 GB"}, conditions="eager", '
             'readings={"held": (Reading("held_bytes", "eager", 10**9, versions={"torch": ">=2"}),)}') \
    .replace('budget=Budget(', 'symptoms=(Symptom("OSError", "no room"),), repeats=1, timeout_s=60.0, gate=("aten::mm",), checkpoint=None,\n'
             '    affected=(Affected({"bitsandbytes": "<0.50"}, "eager", source="reports/cpu"),),\n    budget=Budget(') \
    .replace('{"dtype": "float32"}', '{"dtype": "float32"}, Requires({"torch": ">=2"}), ("proposed",), "a note", env={"A": "1"}')  # fmt: skip
REAL = [
    (ROOT / "repros" / "cases" / name).read_text(encoding="utf-8")
    for name in ("bitsandbytes/gh1935_saved_weight.py", "transformers/gh44387/reserved_memory.py")
]


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("cases") / "damaged"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
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


def sound(found: Entry) -> None:
    """What is taken can be tried: a limit for each condition, three arms, distinct names."""
    names = [condition.name for condition in found.case.conditions]
    assert len(set(names)) == len(names) > 0
    assert {"subject", "reference", "planted"} <= set(found.arms)
    for condition in found.case.conditions:
        assert condition.device in ("cpu", "cuda")
        assert 0 <= found.case.budget_of(condition).limit(condition.params) < math.inf
        assert {"subject", "reference", "planted"} <= set(found.arms_of(condition))


def test_whole_files_are_taken(package: Path) -> None:
    """The door is not shut."""
    for content in (SCAFFOLD, FULL, *REAL):
        sound(read(package, content))


#: What is damaged in FULL -> with what, what is said behind file and line, and what to do.
MISTAKES = [
    ("symptoms=(", "foo=1, symptoms=(", ": TypeError: Case.__init__() got an unexpected keyword argument 'foo'", "Case takes package"),
    ("repeats=1", "repeat=1", "unexpected keyword argument 'repeat'", "Case takes repeats"),
    ("repeats=1", "repeats=0", "Case.repeats: 0 tries of the subject", "write 1 to 100"),
    ("repeats=1", "repeats=True", "Case.repeats: `True` is not a whole number, 0 or more", "write a whole number"),
    ("repeats=1", "repeats=10**9", "Case.repeats: 1000000000 tries", "write 1 to 100"),
    ("timeout_s=60.0", "timeout_s=-1", "Case.timeout_s: `-1` is not a number above 0", "write a number above 0"),
    ("timeout_s=60.0", 'timeout_s=float("nan")', "Case.timeout_s: `nan` is not a number above 0", "write"),
    ("timeout_s=60.0", 'timeout_s="60"', "Case.timeout_s: `'60'` is not a number above 0", "write"),
    ("number=1", "number=None", "Case.number: `None` is not a whole number", "write"),
    ('title="WHAT THE REPORT IS CALLED"', "title=3", "Case.title: `3` is not a text of one line", "write a text"),
    ('kind="issue",', "", "TypeError: Case.__init__() missing 1 required positional argument: 'kind'", "a case file declares"),
    ("gate=(\"aten::mm\",)", 'gate="aten::mm"', "Case.gate: `'aten::mm'` is not a tuple of texts", "write a tuple"),
    ("gate=(\"aten::mm\",)", "gate=(3,)", "Case.gate: `(3,)` is not a tuple of texts", "write a tuple"),
    ("checkpoint=None", 'checkpoint="llama-zzz"', "condition `eager`: no checkpoint recipe `llama-zzz`", "one of: "),
    ("checkpoint=None", "checkpoint=lambda p: p['x']", "condition `eager`: its checkpoint raises KeyError: 'x'", "compute"),
    ("checkpoint=None", "checkpoint=lambda p: [1]", "condition `eager`: no checkpoint recipe `[1]`", "one of: "),
    ("checkpoint=None", "checkpoint=3", "is not a name, a function of the parameters, or None", "write a name"),
    ("conditions=(Condition(", "conditions=(3, Condition(", "Case.conditions: `(3, Condition", "write a tuple of Condition"),
    ("conditions=(Condition", "conditions=() and (Condition", "Case.conditions: no condition", "write at least one"),
    ("conditions=(Condition", 'conditions=(Condition("eager"), Condition', "`eager`: the name of another condition too", "give each"),
    ('Condition("eager"', 'Condition(""', "Condition.name: `` is not a name", "use letters"),
    ('Condition("eager"', 'Condition("a/b"', "Condition.name: `a/b` is not a name", "use letters"),
    ('Condition("eager"', 'Condition("a[b"', "Condition.name: `a[b` is not a name", "use letters"),
    ('Condition("eager"', 'Condition("a b"', "Condition.name: `a b` is not a name", "use letters"),
    ('Condition("eager"', 'Condition("a\\n"', "Condition.name: `'a\\n'` is not a text of one line", "write a text"),
    ('{"dtype": "float32"}', '{"dtype": object()}', "Condition.params: `{'dtype': <object object", "write a mapping"),
    ('{"dtype": "float32"}', '{3: 4}', "Condition.params: `{3: 4}` is not a mapping", "write a mapping"),
    ('{"dtype": "float32"}', '{"dtype": "float32", "device": "gpu"}', "Condition.device: unknown device `gpu`", "one of: cpu, cuda"),
    ('("proposed",)', '("planted",)', "Condition.without: unknown arm, or one that a verdict needs, `planted`", "one of: proposed"),
    ('("proposed",)', '"proposed"', "Condition.without: `'proposed'` is not a tuple of texts", "write a tuple"),
    ('{"A": "1"}', '{"A": 1}', "Condition.env: `{'A': 1}` is not a mapping from texts to texts", "write a mapping"),
    ('{"A": "1"}', '{"A=B": "1"}', "Condition.env: `A=B` is not a name of a variable", "such as"),
    ('{"A": "1"}', '{"A": "1"}, proxy="eagre"', "Condition.proxy: no condition `eagre` in this case", "one of: eager"),
    ('{"A": "1"}', '{"A": "1"}, budget=3', "Condition.budget: `3` is not a Budget, or None", "write a Budget"),
    ("Requires({", "Requires(cards=0, packages={", "Requires.cards: 0 cards", "leave it out"),
    ("Requires({", "Requires(memory_bytes=-1, packages={", "Requires.memory_bytes: `-1` is not a whole", "write"),
    ('Requires({"torch": ">=2"}', 'Requires({"torhc": ">=2"}', "Requires.packages: no cell pins `torhc`", "one of: torch"),
    ('Requires({"torch": ">=2"}', 'Requires({"torch": "new"}', "Requires.packages: `new` is not a specifier", "such as"),
    ('Requires({"torch": ">=2"}', f'Requires({{"torch": ">={"9" * 5000}"}}', "99…` is not a specifier", "such as"),
    ('conditions="eager"', 'conditions="eagre*"', "Claim.conditions: no condition `eagre*` in this case", "one of: eager"),
    ('readings={"held"', 'readings={"hold"', "Claim.readings: the report gives no number `hold`", "one of: held"),
    ('"held_bytes", "eager", 10**9', '"held_bytes", "eagre", 10**9', "Reading.condition: no condition `eagre`", "one of: eager"),
    ('"held_bytes", "eager", 10**9', '"held_bytes", "eager", 10**9, "subjct"', "Reading.arm: unknown arm `subjct`", "one of: subject"),
    ('"held_bytes", "eager", 10**9', '"held_bytes", "eager", 0', "Reading.per_unit: `0` is not a number above 0", "write"),
    ('"<0.50"}, "eager"', '"<0.50"}, "eager", "tpu"', "Affected.device: unknown device `tpu`", "one of: cpu, cuda"),
    ('"<0.50"}', '"0.50"}', "Affected.versions: `0.50` is not a specifier", "such as"),
    ('{"bitsandbytes": "<0.50"}', '{"numpy": "<2"}', "Affected.versions: no cell pins `numpy`", "one of: torch"),
    ('"<0.50"}, "eager"', '"<0.50"}, "nf4-*"', "Affected.conditions: no condition `nf4-*` in this case", "one of: eager"),
    ('source="reports/cpu"', 'source="reports/nowhere"', "Affected.source: `reports/nowhere` does not exist", "name the evidence"),
    ('source="reports/cpu"', 'source=""', "Affected.source: `` does not exist", "name the evidence"),
    ('source="reports/cpu"', 'source="../main"', "Affected.source: `../main` does not exist", "name the evidence"),
    ('source="reports/cpu"', 'source="/etc"', "Affected.source: `/etc` does not exist", "name the evidence"),
    ('"no room"', '"no (room"', "Symptom.text: `no (room` is not a regular expression: missing )", "escape"),
    ('Symptom("OSError"', 'Symptom("os.error"', "Symptom.type: `os.error` is not a class name", "write an exception's class"),
    ('"held_bytes", held', '"held_mib", held', "budget on `held_mib`: memory is counted in bytes", "name a `*_bytes` figure"),
    ('"held_bytes", held', '"held_bytes", None', "Budget.limit: `None` is not a function of the parameters", "write"),
    ('"held_bytes", held', '"held_bytes", lambda p: None', "condition `eager`: the limit of its budget is None", "return a finite"),
    ('"held_bytes", held', '"held_bytes", lambda p: "1"', "the limit of its budget is '1'", "return a finite"),
    ('"held_bytes", held', '"held_bytes", lambda p: True', "the limit of its budget is True", "return a finite"),
    ('"held_bytes", held', '"held_bytes", lambda p: -1', "the limit of its budget is -1", "return a finite"),
    ('"held_bytes", held', '"held_bytes", lambda p: 1e999', "the limit of its budget is inf", "return a finite"),
    ('"held_bytes", held', '"held_bytes", lambda p: 1e999 - 1e999', "the limit of its budget is nan", "return a finite"),
    ('"held_bytes", held', '"held_bytes", lambda p: p["x"]', "the limit of its budget raises KeyError: 'x'", "compute it"),
    ('"held_bytes", held', '"held_bytes", lambda p: exit(3)', "the limit of its budget raises SystemExit: 3", "compute it"),
    ("repeats=1", "numbers=lambda p: None", "condition `eager`: the limit of its numbers is None", "return a finite"),
    ("CASE = Case(", "CASE = dict(", ": `CASE` is a dict", "declare one"),
    ("CASE = Case(", "CASES = Case(", ":1: no `CASE`", "declare one"),
    ("def subject(i)", "def subjct(i)", ": no arm `subject`", "write a generator function `subject(i)`"),
    ("    return (yield from step(i, lambda x: x @ i.weight.t()))", "    return 3", ": the arm `subject` is no generator function", "write a"),
    ("def prepare(p", "def prep(p", ": no function `prepare`", "write `def prepare(p, checkpoint)`"),
    ("def oracle(i)", "oracle = 3\n\n\ndef other(i)", ": no function `oracle`", "write `def oracle(i)`"),
    ("import SimpleNamespace", "import SimpelNamespace", ": ImportError: cannot import name 'SimpelNamespace'", "import inside the arms"),
    ("ROWS, IN", "import torhc\nROWS, IN", ": ModuleNotFoundError: No module named 'torhc'", "import inside the arms"),
    ("ROWS, IN", "raise SystemExit(0)\nROWS, IN", ": SystemExit: 0", "a case file declares"),
    ("ROWS, IN", "1 / 0\nROWS, IN", ": ZeroDivisionError: division by zero", "a case file declares"),
    ("ROWS, IN", "print('hello')\nROWS, IN", ": it prints `hello`", "a case file declares"),
    ("ROWS, IN", "def a(): return a()\na()\nROWS, IN", ": RecursionError: maximum recursion depth", "nest less there"),
    ("ROWS, IN", "(ROWS, IN", "invalid syntax", "fix the syntax there"),
    ("ROWS, IN", "\tROWS, IN", "unexpected indent", "fix the syntax there"),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "says", "hint"), MISTAKES, ids=[new[:30] for _, new, *_ in MISTAKES])
def test_a_contributors_mistake_is_told_with_file_and_line(
    package: Path, old: str, new: str, says: str, hint: str
) -> None:
    assert old in FULL
    with pytest.raises(UserError) as caught:
        read(package, FULL.replace(old, new, 1))
    first, second = str(caught.value).split("\n")
    assert re.match(rf"{re.escape(str(package))}/gh\d+_x\.py:\d+: ", first)
    assert says in first
    assert second.startswith(f"hint: {hint}")


@pytest.mark.parametrize(
    ("part", "wrong"),
    [
        ("Condition(", 'Condition("a b"), Condition('), ("Claim(", "Claim(3), Claim("), ("Symptom(", 'Symptom("a."), Symptom('),
        ("Reading(", 'Reading("x", "no", 1), Reading('), ("Affected(", 'Affected({"torch": "x"}, source="reports"), Affected('),
        ("Budget(", 'Budget("held_bytes", lambda p: -1) and Budget('), ("repeats=1", "repeats=0"),
    ],
)  # fmt: skip
def test_the_line_is_that_of_the_part(package: Path, part: str, wrong: str) -> None:
    """A condition's mistake is told with the condition's line, not with that of `CASE`."""
    head, case, tail = FULL.partition("CASE = ")
    content = head + case + tail.replace(part, f"\n\n        {wrong}", 1)
    where = "CASE = " if part == "repeats=1" else "Condition(" if part == "Budget(" else wrong
    wanted = next(i for i, line in enumerate(content.split("\n"), 1) if where in line and "import" not in line)
    content = content.replace("and Budget(", "or Budget(")
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
        cases.find(("damaged.three",))
    (package / "three" / "gh1_x.py").write_text(FULL)
    del sys.modules["damaged.three.gh1_x"]
    importlib.invalidate_caches()
    with pytest.raises(
        UserError, match=r"gh2_x.py:\d+: Reading.condition: `gh1_x` has no condition `eagre`\nhint: one of: eager"
    ):
        cases.find(("damaged.three",))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"\xff\xfe", "(unicode error) 'utf-8' codec can't decode byte 0xff in position 0"),
        (b"x = 1\0", "source code "),
        (b"", ":1: no `CASE`"),
        (("x = " + "(" * 500).encode(), "too many nested parentheses"),
        (SCAFFOLD.partition('"""\n\n')[2].encode(), ":1: no docstring"),
        (b"import sys; sys.modules[__name__] = None", ":1: it puts something else in its own place"),
        (b"__name__ = 3", ":1: it puts something else in its own place"),
    ],
)
def test_a_file_that_is_no_case(package: Path, content: bytes, says: str) -> None:
    with pytest.raises(UserError) as caught:
        read(package, content)
    assert says in str(caught.value)
    assert str(caught.value).startswith(str(package))


def test_a_file_that_does_not_end_is_given_up(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("repros.cases.declared.PATIENCE_S", 0.3)
    busy = "import time\nwhile True:\n    try:\n        time.sleep(9)\n    except Exception:\n        pass\n"
    with pytest.raises(UserError, match=r"gh\d+_x.py:4: still busy after 0.3 s\nhint: a case file declares"):
        read(package, busy)
    with pytest.raises(UserError, match="the limit of its budget raises TooSlow"):
        read(package, FULL.replace('"held_bytes", held', '"held_bytes", lambda p: [i for i in iter(int, 1)]'))


def test_two_cases_of_one_name(package: Path) -> None:
    for name in ("one", "two"):
        (package / name).mkdir()
        (package / name / "__init__.py").write_text("")
        (package / name / "gh1_x.py").write_text(SCAFFOLD)
    with pytest.raises(
        UserError, match=r"damaged.two.gh1_x: `gh1_x` is the name of damaged.one.gh1_x too\nhint: rename"
    ):
        cases.find(("damaged.one", "damaged.two"))


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


ARGUMENTS = [line.strip() for line in FULL.splitlines() if "=" in line and line.startswith("    ")]


@part(3)
@given(hostile=st.sampled_from(HOSTILE), other=st.sampled_from(HOSTILE), data=st.data())
def test_values_of_each_argument(package: Path, hostile: str, other: str, data: st.DataObject) -> None:
    """Give any class of a declaration any value under any of its names."""
    from repros import case

    kind = data.draw(
        st.sampled_from(("Affected", "Budget", "Case", "Claim", "Condition", "Reading", "Requires", "Symptom"))
    )
    name = data.draw(st.sampled_from(sorted(getattr(case, kind).__dataclass_fields__)))
    line = (
        f"x = {kind}(**{{{name!r}: {hostile}}}, )" if data.draw(st.booleans()) else f"replace(CASE, {name}={hostile})"
    )
    changed = f"replace({'CASE' if kind == 'Case' else f'PARTS[{kind!r}]'}, {name}={hostile})"
    into = {
        "Affected": "replace(CASE, affected=({},))", "Budget": "replace(CASE, budget={})", "Case": "{}",
        "Claim": "replace(CASE, claims=({},))", "Condition": "replace(CASE, conditions=({},))",
        "Reading": "replace(CASE, claims=(replace(CASE.claims[0], readings={{'held': ({},)}}),))",
        "Requires": "replace(CASE, conditions=(replace(CASE.conditions[0], requires={}),))",
        "Symptom": "replace(CASE, symptoms=({},))",
    }[kind].format(changed)  # fmt: skip
    parts = (
        "from dataclasses import replace\nPARTS = {'Affected': CASE.affected[0], 'Budget': CASE.budget, 'Claim': "
        "CASE.claims[0], 'Condition': CASE.conditions[0], 'Reading': CASE.claims[0].readings['held'][0], "
        "'Requires': CASE.conditions[0].requires, 'Symptom': CASE.symptoms[0]}\n"
    )
    attempt(package, f"{FULL}\n{parts}CASE = {into}\n" if other != hostile else f"{FULL}\n{line}\n")
