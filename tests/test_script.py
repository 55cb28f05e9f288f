"""Plain scripts as they are run: what is seen of each ending, that nothing else is touched, and the sandbox."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from repros.cells.envs import Environment
from repros.cells.matrix import Cell
from repros.errors import UserError
from repros.machine import sandbox
from repros.run.script import Runner, read
from repros.run.vote import Seen
from repros.worker.supervisor import LOG_KEPT_BYTES

PYTHON = Path(sys.executable)
HERE = Environment(
    PYTHON, PYTHON.parent.parent, Cell("here", "cpu", {"torch": "2.13.0"}), "cpu", "", False, 0.0, True,
    {"torch": "2.13.0+cpu"}, 0,
)  # fmt: skip
boxed = pytest.mark.skipif(bool(sandbox.missing()), reason=f"no sandbox: {sandbox.missing()}")


class Ran:
    """Runs sources as scripts, without a sandbox unless asked for one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "logs").mkdir()

    def __call__(self, source: str, *args: str, meters: bool = False, **how: Any) -> Seen:
        (self.folder / "repro.py").write_text(source)
        script = read(self.folder / "repro.py", args, **{"sandboxed": False, "timeout_s": 50.0, **how})
        return Runner(script, self.folder / "logs").run(HERE, "here", meters=meters)

    def log(self, ending: str) -> str:
        return (self.folder / "logs" / f"here.{ending}").read_text()


@pytest.fixture
def ran(tmp_path: Path) -> Ran:
    return Ran(tmp_path)


def by_hand(folder: Path, *args: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(folder / "repro.py"), *args]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("source", "code"),
    [
        ("import sys\nprint(sys.argv, __name__, sys.path[0] == __file__.rpartition('/')[0])", 0),
        ("import sys\nsys.exit(3)", 3),
        ("import sys\nsys.exit('words')", 1),
        ("raise SystemExit", 0),
        ("import os\nos._exit(5)", 5),
        ("def f():\n    assert 1 == 2, 'no'\ntry:\n    f()\nexcept AssertionError:\n    {}['x']", 1),
        ("x = = 1", 1),
        ("import atexit\natexit.register(print, 'last')\nprint('first')", 0),
        ("import multiprocessing as m\ndef f(x): return 2 * x\n"
         "if __name__ == '__main__':\n    with m.get_context('spawn').Pool(1) as p: print(p.map(f, [1, 2]))", 0),
        ("import sys\nprint('repros' in sys.path, 'torch' in sys.modules)", 0),
    ],
)  # fmt: skip
def test_a_script_prints_and_ends_as_by_hand(ran: Ran, source: str, code: int) -> None:
    seen = ran(source, "--a", "b c")
    done = by_hand(ran.folder, "--a", "b c")
    assert seen.exit == done.returncode == code
    assert (without_folder(ran.log("out")), without_folder(ran.log("err"))) == (
        without_folder(done.stdout), without_folder(done.stderr),
    )  # fmt: skip


def without_folder(text: str) -> str:
    return re.sub(r"[^\s'\"]*/repro\.py", "repro.py", text)


def test_an_exception_is_told_by_type_and_text(ran: Ran) -> None:
    seen = ran("{}['x']")
    assert (seen.exit, seen.exception[:2], seen.text) == (1, ("KeyError", "LookupError"), "'x'")
    assert seen.reason == "KeyError: 'x'"


def test_modules_beside_a_script_come_along(ran: Ran) -> None:
    (ran.folder / "helper.py").write_text("import pack.part\nX = pack.part.Y")
    (ran.folder / "pack").mkdir()
    (ran.folder / "pack" / "__init__.py").write_text("")
    (ran.folder / "pack" / "part.py").write_text("Y = 7")
    assert ran("import helper\nprint(helper.X)").output == "7\n"


def test_a_script_that_hangs_is_ended_with_its_children(ran: Ran) -> None:
    mark = ran.folder / "child"
    source = (
        "import os, time\nif not os.fork():\n    os.setsid()\n"
        f"    open({str(mark)!r}, 'w').write(str(os.getpid()))\ntime.sleep(60)"
    )
    seen = ran(source, timeout_s=1.0)
    assert (seen.exit, seen.late, seen.reason) == (None, True, "no end after 1 s")
    assert ended(int(mark.read_text()))


def ended(pid: int) -> bool:
    """Return whether a process has ended; whoever adopted it may not have reaped it yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0] == b"Z"
    except OSError:
        return True


def test_the_log_of_a_script_that_prints_100_mb_keeps_both_ends(ran: Ran) -> None:
    seen = ran("print('head')\nfor _ in range(100): print('x' * 1_000_000)\nprint('tail')")
    assert seen.exit == 0
    assert len(seen.output) < 3 * LOG_KEPT_BYTES
    assert seen.output.startswith("head\n") and seen.output.endswith("tail\n")


def test_a_script_that_kills_its_parent_ends_nothing_of_ours(ran: Ran) -> None:
    seen = ran("import os, time\nos.kill(os.getppid(), 9)\ntime.sleep(5)")
    assert (seen.exit, seen.reason) == (None, "no word from the process that runs it (killed by SIGKILL)")


def test_memory_is_capped(ran: Ran) -> None:
    seen = ran("x = bytearray(2 << 30)", memory_bytes=1 << 30)
    assert seen.exception[0] == "MemoryError"


def test_generators_are_seeded(ran: Ran) -> None:
    source = "import random, numpy\nprint(random.random(), numpy.random.rand(), hash('a'))"
    assert ran(source).output == ran(source).output != ""


def test_versions_and_folders_do_not_tell_outputs_apart(ran: Ran) -> None:
    source = "print('torch', '2.13.0+cpu', '2.13.0', '12.13.0', __file__, object())"
    assert ran(source).output == "torch VERSION VERSION 12.13.0 ./repro.py <object object at 0xN>\n"


def test_where_an_environment_lies_does_not_tell_failures_apart(ran: Ran) -> None:
    seen = ran("raise ImportError(f'cannot import name from {__file__} at 0x7f3a2b4c5d6e, torch 2.13.0')")
    assert seen.text == "cannot import name from ./repro.py at 0xN, torch VERSION"


TRAINS = """
import torch
w = torch.ones(1024, 256, requires_grad=True)
kept = (w * w).sum()
freed = torch.ones(1 << 20, dtype=torch.float16)
del freed
"""


def test_memory_is_metered_in_a_second_run(ran: Ran) -> None:
    figures = ran(TRAINS, meters=True).figures
    mib = 1 << 20
    assert figures["saved_bytes"] == mib
    assert mib <= figures["live_end_bytes"] == figures["live_end_bytes.float32"] < mib + 1024
    assert figures["peak_live_bytes.float16"] == 2 * mib
    assert figures["peak_live_bytes"] - figures["live_end_bytes"] >= 2 * mib
    assert "peak_live_bytes" not in ran(TRAINS).figures


def test_what_the_meters_change_is_not_told(ran: Ran) -> None:
    changed = "import sys, torch\nsys.exit('repros.meters.ledger' in sys.modules)"
    seen = ran(changed, meters=True)
    assert seen.exit == 0 and "peak_live_bytes" not in seen.figures


def test_what_runs_is_ended_when_the_user_stops(tmp_path: Path) -> None:
    (tmp_path / "repro.py").write_text("import time\ntime.sleep(60)")
    runner = Runner(read(tmp_path / "repro.py", sandboxed=False), tmp_path)
    timer = threading.Timer(0.5, runner.stop)
    timer.start()
    assert runner.run(HERE, "here").reason == "the run ended"
    timer.join()


def test_a_script_that_is_not_there_is_two_lines(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        read(tmp_path / "none.py")


# -- the sandbox

DENIED = {
    "home": "import os\nassert os.listdir({home!r})",
    "a file outside": "open({outside!r}, 'w')",
    "a file below /tmp": "open('/tmp/repros-sandbox-test', 'w')",
    "a connection": "import socket\nsocket.create_connection(('127.0.0.1', {port}), 3)",
    "the environment": "import os\nassert 'REPROS_SECRET' in os.environ",
    "another process": "import os\nos.kill({pid}, 0)",
}


@boxed
@pytest.mark.parametrize("what", DENIED)
def test_a_sandbox_denies(ran: Ran, what: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "secret").touch()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("REPROS_SECRET", "x")
    with socket.create_server(("127.0.0.1", 0)) as server:
        source = DENIED[what].format(
            home=str(home), outside=str(tmp_path / "outside"), port=server.getsockname()[1], pid=os.getpid()
        )
        try:
            assert ran(source).exit == 0, "it is denied without a sandbox too, so the next line shows nothing"
            seen = ran(source, sandboxed=True)
        finally:
            Path("/tmp/repros-sandbox-test").unlink(missing_ok=True)
    assert seen.exit == 1, seen
    assert seen.exception[0] in ("AssertionError", "OSError", "FileNotFoundError", "ConnectionRefusedError",
                                 "ProcessLookupError")  # fmt: skip


@boxed
def test_a_sandbox_leaves_a_folder_to_write_to(ran: Ran) -> None:
    source = "import os, tempfile\nopen('x', 'w').write('1')\ntempfile.mkstemp()\nprint(os.listdir('.'))"
    seen = ran(source, sandboxed=True)
    assert seen.exit == 0 and "'x'" in seen.output


@boxed
def test_a_sandboxed_script_cannot_end_what_runs_it(ran: Ran) -> None:
    seen = ran("import os, time\nos.kill(os.getppid(), 9)\ntime.sleep(5)", sandboxed=True)
    assert (seen.exit, seen.reason) == (None, "no word from the process that runs it (killed by SIGKILL)")


ON_A_CARD = """
import os, pathlib, sys, time
seen = pathlib.Path(sys.argv[1])
mine = seen / os.environ["CUDA_VISIBLE_DEVICES"]
mine.mkdir()  # fails where another script is on this card
time.sleep(0.5)
mine.rmdir()
print(mine.name)
"""


@pytest.mark.usefixtures("two_cards")
def test_scripts_take_turns_on_the_cards(tmp_path: Path) -> None:
    """Four scripts over two cards: never two on one, and both cards are used."""
    (tmp_path / "repro.py").write_text(ON_A_CARD)
    for name in ("logs", "busy"):
        (tmp_path / name).mkdir()
    runner = Runner(read(tmp_path / "repro.py", [str(tmp_path / "busy")], sandboxed=False), tmp_path / "logs")
    there = replace(HERE, cell=Cell("there", "cuda", {"torch": "host"}))
    with ThreadPoolExecutor(4) as pool:
        seen = list(pool.map(lambda number: runner.run(there, f"there{number}"), range(4)))
    assert [one.exit for one in seen] == [0] * 4
    assert len({one.output for one in seen}) == 2
