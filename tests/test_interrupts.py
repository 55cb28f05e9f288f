"""Ctrl-C and SIGTERM end a program where Python would drop them, too."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from repros import ROOT
from tests.processes import takes_signals

#: A signal that comes while a finalizer runs: what it raises there is printed by Python and dropped.
IN_A_FINALIZER = """
import os, signal, sys, time
from repros.machine import interrupts

class Finalized:
    def __del__(self):
        os.kill(os.getpid(), signal.{name})
        time.sleep(0.01)

def main():
    {before}
    Finalized()
    time.sleep(20)
    return 0

sys.exit(interrupts.guard(main))
"""


@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143)])
@pytest.mark.parametrize("before", ["pass", "sys.unraisablehook = print; interrupts.raise_what_is_lost()"])
def test_a_signal_in_a_finalizer_ends_the_program_without_a_traceback(name: str, code: int, before: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", IN_A_FINALIZER.format(name=name, before=before)],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=15,
        preexec_fn=takes_signals,
    )  # fmt: skip
    assert done.returncode == code
    assert done.stdout == ""
    assert done.stderr.splitlines()[0] == "interrupted; finished trials are kept"
    assert "Traceback" not in done.stderr


#: A signal that comes while the text of an `exec` runs, as one does for each dataclass; after it, a program that was
#: started by `-m` kills itself by SIGINT at its end.
IN_A_TEXT = """
import os, signal, sys
from repros.machine import interrupts

def main():
    exec("os.kill(os.getpid(), signal.SIGTERM); import time; time.sleep(20)")
    return 0

def catches():
    try:
        return main()
    except KeyboardInterrupt:
        interrupts.heard()
        return interrupts.exit_code()

sys.exit(interrupts.guard({caller}))
"""


@pytest.mark.parametrize("caller", ["main", "catches"])
def test_a_signal_in_the_text_of_an_exec_ends_the_program_by_its_exit_code(caller: str, tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(IN_A_TEXT.format(caller=caller))
    paths = os.pathsep.join([str(ROOT), str(tmp_path)])
    done = subprocess.run(
        [sys.executable, "-m", "program"],
        env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True, timeout=15,
    )  # fmt: skip
    assert done.returncode == 143, done.stderr


def test_other_faults_of_a_finalizer_are_shown_as_ever() -> None:
    script = """
from repros.machine import interrupts
class Faulty:
    def __del__(self):
        raise ValueError("in a finalizer")
interrupts.take()
Faulty()
"""
    done = subprocess.run(
        [sys.executable, "-c", script], env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert "ValueError: in a finalizer" in done.stderr


#: An interrupt at an instruction that belongs to no line, as the end of a comprehension does.
NO_LINE = """
def interrupted(): raise KeyboardInterrupt

def test_interrupted():
    exec(compile("interrupted()", "text", "exec").replace(co_linetable=b""), {"interrupted": interrupted})
"""


def test_pytest_tells_of_an_interrupt_on_no_line(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(NO_LINE, encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-p", "repros.pytest_plugin", "-c", os.devnull]
    done = subprocess.run(
        [*command, "--rootdir", str(tmp_path), str(tmp_path / "test_it.py")],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, cwd=tmp_path, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == pytest.ExitCode.INTERRUPTED, done.stdout + done.stderr
    assert "test_it.py:2: KeyboardInterrupt" in done.stdout
    assert "TypeError" not in done.stdout + done.stderr
