"""A case file that is given by its path: it runs in a process of its own, and arrives as data."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from repros import ROOT, cases
from repros.case import Case, Reading
from repros.cases import apart, importing
from repros.cases.data import PARTS, Opaque
from repros.cells.matrix import load_matrix
from repros.commands import bisect, cli, run
from repros.errors import UserError
from repros.machine import sandbox
from tests.attack.test_case_input import FULL

ENTRIES = cases.find()
CELLS = [cell for cell in load_matrix(ROOT / "matrix.yaml").cells if cell.device == "cpu"]
TITLE = '"what the report is called"'
boxed = pytest.mark.skipif(bool(sandbox.missing()), reason=f"no sandbox: {sandbox.missing()}")


@pytest.fixture
def below() -> Iterator[Path]:
    """A folder below the project, as a cell needs it."""
    runs = ROOT / "reports" / "runs"
    runs.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=runs, prefix="test_apart_") as folder:
        yield Path(folder)


@pytest.fixture(params=[pytest.param("sandbox", marks=boxed), "no sandbox"])
def anywhere(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """With and without bubblewrap."""
    if request.param != "sandbox":
        monkeypatch.setattr(sandbox, "missing", lambda: sandbox.INSTALL)
    return str(request.param)


def written(folder: Path, *swaps: tuple[str, str]) -> Path:
    """Write a case file that differs from `FULL` so."""
    text = FULL
    for old, new in swaps:
        assert old in text
        text = text.replace(old, new, 1)
    path = folder / "gh1_x.py"
    path.write_text(text, encoding="utf-8")
    return path


def top(folder: Path, lines: str) -> Path:
    """Write a case file that does this before it declares."""
    return written(folder, ("ROWS, COLUMNS", f"{lines}\nROWS, COLUMNS"))


def refusal(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        cases.from_file(path)
    first, second = str(caught.value).split("\n")
    assert first.startswith(f"{path.relative_to(ROOT)}:") and second.startswith("hint: ")
    return str(caught.value)


# --- in which process ----------------------------------------------------------------------------

NOTES = """import os, pathlib
PID = os.getpid()
try:
    pathlib.Path({outside!r}).write_text(str(PID))
except OSError:
    pass
"""


def test_a_case_file_does_not_run_in_the_suites_process(below: Path, tmp_path: Path, anywhere: str) -> None:
    outside = tmp_path / "noted"
    path = written(below, ("ROWS, COLUMNS", NOTES.format(outside=str(outside)) + "ROWS, COLUMNS"), (TITLE, "str(PID)"))
    found = cases.from_file(path)
    assert found.case.title.isdecimal() and int(found.case.title) != os.getpid()
    assert found.module not in sys.modules
    if anywhere == "sandbox":
        assert not outside.exists()
    else:
        assert outside.read_text() == found.case.title


def test_that_test_would_see_an_import(below: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outside = tmp_path / "noted"
    path = written(below, ("ROWS, COLUMNS", NOTES.format(outside=str(outside)) + "ROWS, COLUMNS"), (TITLE, "str(PID)"))
    monkeypatch.syspath_prepend(str(ROOT))
    module = cases.module_of(path)
    assert cases.load(module).case.title == outside.read_text() == str(os.getpid())
    del sys.modules[module]


@boxed
def test_in_a_sandbox_it_writes_nowhere_and_has_no_network(below: Path) -> None:
    lines = f"""import os, socket
DONE = []
for name in ({str(below / "x")!r}, "/tmp/repros-test-apart", os.path.expanduser("~/repros-test-apart")):
    try:
        DONE.append(open(name, "w").name)
    except OSError:
        pass
DONE += [name for _, name in socket.if_nameindex() if name != "lo"]
"""
    path = written(below, ("ROWS, COLUMNS", f"{lines}ROWS, COLUMNS"), (TITLE, "repr(DONE)"))
    assert cases.from_file(path).case.title == "[]"


def test_it_has_nothing_of_the_users_environment(below: Path, monkeypatch: pytest.MonkeyPatch, anywhere: str) -> None:
    monkeypatch.setenv("SOME_TOKEN", "secret")
    path = written(below, ("ROWS, COLUMNS", "import os\nROWS, COLUMNS"), (TITLE, 'repr(os.environ.get("SOME_TOKEN"))'))
    assert cases.from_file(path).case.title == "None"


def test_a_registered_case_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is the project's own, and no process is started for it."""
    monkeypatch.setattr(apart, "read", None)
    entry = ENTRIES[0]
    assert cases.from_file(entry.path).case is entry.case


# --- how a process may end -----------------------------------------------------------------------

EVERY_FD = "import os\ndef say(text):\n    for fd in range(3, 64):\n        try:\n            os.write(fd, text)\n"
EVERY_FD += "        except OSError:\n            pass\n"
ENDINGS = [
    ("import torch", r":11: ModuleNotFoundError: No module named 'torch'\nhint: import inside the arms"),
    ("import packaging", r":11: ModuleNotFoundError: No module named 'packaging'\nhint: import inside the arms"),
    ("import os; os._exit(0)", r":1: it ended the process that reads it: exit 0\nhint: a case file declares"),
    ("import os; os._exit(3)", r":1: it ended the process that reads it: exit 3\nhint: a case file declares"),
    ("import os; os.kill(os.getpid(), 9)", r":1: it ended the process that reads it: killed by SIGKILL\nhint: a case"),
    ("raise KeyboardInterrupt", r":11: KeyboardInterrupt: \nhint: a case file declares"),
    ("x = bytearray(8 << 30)", r":11: MemoryError: \nhint: a case file declares"),
    (f"{EVERY_FD}say(b'hello')\nos._exit(0)", r":1: what came of it is no declaration \(Expecting value.*`hello`\n"),
    (f"{EVERY_FD}say(b'\\xff\\xfe\\0')\nos._exit(0)", r":1: what came of it is no declaration \("),
    (f"{EVERY_FD}say(b'null')\nos._exit(0)", r":1: what came of it is no declaration \(no object of case, "),
    (f"{EVERY_FD}say(b'[' * 10**5)\nos._exit(0)", r":1: what came of it is no declaration \(.*\): `\[\[\["),
    (f"{EVERY_FD}say(b'9' * 10**5)\nos._exit(0)", r":1: what came of it is no declaration \(.*\): `999"),
    (f"{EVERY_FD}say(b'x' * (5 << 20))", r":1: it declares more than 4 MiB\nhint: a case file declares"),
    (f"{EVERY_FD}say(b'{{}}')", r":1: what came of it is no declaration \(Extra data"),
    (f"{EVERY_FD}say(b'{{\"error\": [3, 4]}}'); os._exit(0)", r":1: what came of it is no declaration \(an error is"),
]  # fmt: skip


@pytest.mark.parametrize(("lines", "says"), ENDINGS, ids=[re.sub(r".*\n", "", lines) for lines, _ in ENDINGS])
def test_however_the_process_ends_it_is_two_lines(below: Path, lines: str, says: str, anywhere: str) -> None:
    said = refusal(top(below, lines))
    line = FULL[: FULL.index("ROWS, COLUMNS")].count("\n") + 1
    assert re.search(says.replace(":11:", f":{line}:"), said), said


@pytest.mark.parametrize(
    "lines",
    [
        "while True: print('x' * 1000)",
        "import os\nwhile True: os.write(1, b'x' * 1000)",
        "import time\nwhile True:\n    try: time.sleep(9)\n    except Exception: pass",
    ],
)
def test_a_file_that_does_not_end_is_told_with_the_line(
    below: Path, lines: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importing, "PATIENCE_S", 0.3)
    first = FULL[: FULL.index("ROWS, COLUMNS")].count("\n") + 1
    said = re.search(r"gh1_x\.py:(\d+): still busy after 0\.3 s\nhint: a case file", refusal(top(below, lines)))
    assert said and first <= int(said[1]) <= first + lines.count("\n")


LATE = "gh1_x.py:1: no declaration after 1.5 s\nhint: a case file declares"


@pytest.mark.parametrize("first", ["", "os.closerange(0, 64)\n"])
def test_a_process_that_does_not_give_up_is_ended(
    below: Path, first: str, monkeypatch: pytest.MonkeyPatch, anywhere: str
) -> None:
    """Whether it can still say something or has closed all that it could say it by."""
    monkeypatch.setattr(apart, "LIMIT_S", 1.5)
    lines = f"import os, signal\n{first}signal.signal(signal.SIGALRM, signal.SIG_IGN)\nwhile True: pass"
    assert LATE in refusal(top(below, lines))


def test_a_child_that_stays_behind_is_ended(below: Path, monkeypatch: pytest.MonkeyPatch, anywhere: str) -> None:
    """It holds the pipe of the answer; a sandbox ends with the process that it was made for."""
    monkeypatch.setattr(apart, "LIMIT_S", 1.5)
    path = top(below, "import os, time\nif not os.fork(): time.sleep(600)")
    if anywhere == "sandbox":
        assert cases.from_file(path).case.report == "bitsandbytes#1"
    else:
        assert LATE in refusal(path)


def test_what_is_left_to_be_done_at_the_end_is_not_waited_for(below: Path) -> None:
    lines = "import atexit, threading, time\natexit.register(time.sleep, 60)\n"
    lines += "threading.Thread(target=time.sleep, args=(60,)).start()"
    assert cases.from_file(top(below, lines)).case.report == "bitsandbytes#1"


def test_a_file_that_another_hides_is_refused(below: Path) -> None:
    """Python, in a cell too, takes a package before a module of its name."""
    path = written(below)
    (below / "gh1_x").mkdir()
    (below / "gh1_x" / "__init__.py").write_text(FULL, encoding="utf-8")
    assert re.search(r"gh1_x\.py:1: Python imports .*/gh1_x/__init__\.py in its place\nhint: rename", refusal(path))


# --- what arrives --------------------------------------------------------------------------------


def assert_alike(here: Any, there: Any) -> None:
    """Compare a part of a declaration with what arrived of it, places included."""
    assert type(here) is type(there) and here.place == there.place
    for one in fields(here):
        assert_same(one.name, getattr(here, one.name), getattr(there, one.name), here)


def assert_same(name: str, here: Any, there: Any, part: Any) -> None:
    if type(here).__name__ in PARTS:
        assert_alike(here, there)
    elif name == "params":
        assert here.keys() == there.keys()
        for key, value in here.items():
            if is_plain(value):
                assert there[key] == value and type(there[key]) is type(value)
            else:
                assert isinstance(there[key], Opaque) and nowhere(there[key].shown) == nowhere(repr(value))
    elif name == "value" and isinstance(part, Reading):
        assert there() == (here() if part.arm == "arithmetic" else 0.0)
    elif isinstance(here, dict):
        assert here.keys() == there.keys()
        for key, value in here.items():
            assert_same("", value, there[key], part)
    elif isinstance(here, tuple):
        assert isinstance(there, tuple)
        for one, other in zip(here, there, strict=True):
            assert_same("", one, other, part)
    else:
        assert here == there and type(here) is type(there)


def nowhere(shown: str) -> str:
    """Return a text without addresses, which differ from process to process."""
    return re.sub(r" at 0x[0-9a-f]+", "", shown)


def is_plain(value: object) -> bool:
    if isinstance(value, tuple | list):
        return all(map(is_plain, value))
    return value is None or isinstance(value, bool | int | float | str)


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_every_case_of_the_suite_arrives_as_it_is_declared(entry: cases.Entry) -> None:
    found = apart.read(entry.path, entry.module)
    here = importing.look(sys.modules[entry.module])
    assert isinstance(found.case, Case)
    assert_alike(here.case, found.case)
    assert (found.module, found.file, found.kind, found.doc, found.has) == (
        here.module, here.file, here.kind, here.doc, here.has
    )  # fmt: skip
    assert all((c in found.case.claims) for condition in found.case.conditions for c in condition.claims)


def test_the_suites_cases_have_every_kind_of_value_that_travels() -> None:
    """Or the test above would hold of less."""
    params = [value for e in ENTRIES for c in e.case.conditions for value in c.params.values()]
    assert {True, False} == {is_plain(value) for value in params}
    assert any(isinstance(value, tuple) and is_plain(value) for value in params)
    readings = [r for e in ENTRIES for claim in e.case.claims for several in claim.readings.values() for r in several]
    assert any(reading.arm == "arithmetic" for reading in readings)


def test_a_part_that_arrived_is_told_with_its_place(below: Path) -> None:
    """The suite checks what arrives, and the line is that of the part."""
    lines = written(below, ('source="reports/cpu"', 'source="reports/none"'))
    line = FULL[: FULL.index("affected=(Affected")].count("\n") + 1
    assert f"gh1_x.py:{line}: Affected.source: `reports/none` does not exist" in refusal(lines)


# --- the commands --------------------------------------------------------------------------------


def test_the_commands_take_a_path(below: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(written(below))
    assert cli.main(["show", path]) == 0
    shown = capsys.readouterr().out
    for words in ("gh1_x\nbitsandbytes#1 ", "claim: it is held (held: 1 GB)", "affected: bitsandbytes <0.50"):
        assert words in shown
    trials = run.chosen_trials([path], "eager fine", CELLS[:1])
    assert [trial.condition.name for trial, _ in trials] == ["eager", "fine"]
    targets = bisect.chosen_targets([path], "*", "cpu")
    assert [(entry.name, condition) for entry, condition in targets] == [("gh1_x", "eager"), ("gh1_x", "fine")]
    assert bisect.only(path, "eager").path == Path(path)
    assert cli.main(["bundle", path, "--run", "reports/cpu"]) == 2
    assert "gh1_x" in capsys.readouterr().err


def test_pytest_does_not_import_it_either(below: Path, tmp_path: Path) -> None:
    """Neither as a module of tests, since its path is given, nor the package that it is in."""
    outside = tmp_path / "noted"
    note = f"import sys\nif not sys.flags.isolated:\n    open({str(outside)!r}, 'a').close()\n"
    (below / "__init__.py").write_text(note)
    path = written(
        below, ("ROWS, COLUMNS", f"{note}ROWS, COLUMNS"), ('Needs({"torch": ">=2"}', 'Needs({"torch": "<2"}')
    )
    command = [sys.executable, "-m", "pytest", "-p", "repros.pytest_plugin", "-q", "-o", f"cache_dir={tmp_path / 'c'}"]
    command += ["--reports", str(tmp_path / "reports"), "--cell", CELLS[0].label, "-k", "eager", str(path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert "1 skipped" in done.stdout and done.returncode == 0, done.stdout + done.stderr
    assert not outside.exists()
    subprocess.run([sys.executable, path], cwd=ROOT, env={"PYTHONPATH": str(ROOT)}, check=True)
    assert outside.exists()  # it does note where it runs
