"""What a run leaves behind, and how it is told that an arm, a supervisor or a whole run did not come to its end."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from repros.cases import Entry
from repros.machine import workdir
from repros.machine.processes import working_below
from repros.machine.workdir import MARK, OWNER, WorkFolder, clear
from repros.run import link
from repros.run.link import LostError
from repros.run.server import CellServer, Clock
from repros.verdict import Verdict
from repros.worker import supervisor
from tests.conftest import Bench
from tests.waiting import eventually

# --- work folders --------------------------------------------------------------------------------

DIES = (
    "import os, repros.machine.workdir as w; f = w.WorkFolder('x'); (f.path / 'a').mkdir(); "
    "print(f.path, flush=True); os._exit(9)"
)


@pytest.fixture
def temp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a temp folder of this test's own."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def left_by_a_dead_run(temp: Path) -> Path:
    """Return a work folder whose process has ended without a chance to remove it."""
    environment = {**os.environ, "TMPDIR": str(temp), "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", DIES], env=environment, capture_output=True, text=True, check=False)
    return Path(done.stdout.strip())


def test_what_a_dead_run_left_is_cleared_and_a_live_ones_is_not(temp: Path) -> None:
    mine, dead = WorkFolder("mine"), left_by_a_dead_run(temp)
    (mine.path / "file").write_text("kept")
    os.utime(mine.path, (0, 0))  # age says nothing
    assert dead.is_dir()
    assert clear(temp) == [dead]
    assert not dead.exists()
    assert (mine.path / "file").read_text() == "kept"
    mine.close()
    assert list(temp.iterdir()) == []


def test_what_is_not_ours_stays(temp: Path) -> None:
    documents = temp / "repros-document"
    documents.mkdir()
    (documents / "thesis").write_text("years")
    other_mark = temp / "repros-abcdefgh"
    other_mark.mkdir()
    (other_mark / OWNER).write_text("somebody")
    unmarked = temp / "repros-12345678"
    unmarked.mkdir()
    (unmarked / "notes").touch()
    target = temp / "elsewhere"
    target.mkdir()
    (target / OWNER).write_bytes(MARK)
    (target / "thesis").write_text("years")
    (temp / "repros-linklink").symlink_to(target)
    linked_owner = temp / "repros-ownerlnk"
    linked_owner.mkdir()
    (linked_owner / OWNER).symlink_to(target / OWNER)
    (temp / "repros-20260101.jsonl").write_text("rescued lines")
    longer = temp / "repros-x-abcdefgh"
    longer.mkdir()
    before = sorted(temp.rglob("*"))
    assert clear(temp) == []
    assert sorted(temp.rglob("*")) == before


def test_a_folder_that_nobody_closed_goes_with_the_process(temp: Path) -> None:
    """An interrupt may come between its making and whoever was to close it."""
    environment = {**os.environ, "TMPDIR": str(temp), "PYTHONPATH": os.pathsep.join(sys.path)}
    script = DIES.replace("os._exit(9)", "raise KeyboardInterrupt")
    subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, check=False)
    assert list(temp.iterdir()) == []


@pytest.mark.parametrize("cut", ["made", "owned"])
def test_a_folder_whose_maker_died_at_once_is_cleared(temp: Path, cut: str) -> None:
    folder = Path(tempfile.mkdtemp(prefix="repros-"))
    if cut == "owned":
        (folder / OWNER).touch()
    assert clear(temp) == [folder]


def test_removal_that_is_cut_is_finished_by_the_next_run(temp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dead = left_by_a_dead_run(temp)
    with monkeypatch.context() as patch:
        patch.setattr("shutil.rmtree", lambda *a, **k: None)
        assert clear(temp) == []
    assert clear(temp) == [dead]


def test_a_link_in_a_work_folder_is_removed_and_not_followed(temp: Path) -> None:
    (temp / "documents").mkdir()
    (temp / "documents" / "thesis").write_text("years")
    dead = left_by_a_dead_run(temp)
    (dead / "link").symlink_to(temp / "documents")
    assert clear(temp) == [dead]
    assert (temp / "documents" / "thesis").read_text() == "years"


def test_no_folder_is_taken_from_a_run_that_is_just_making_it(temp: Path) -> None:
    """Two clear as fast as they can, while folders are made: each is its maker's when its maker has it."""
    over = threading.Event()

    def sweep() -> None:
        while not over.is_set():
            clear(temp)

    with ThreadPoolExecutor(2) as sweepers:
        sweeping = [sweepers.submit(sweep) for _ in range(2)]
        try:
            for _ in range(400):
                made = WorkFolder("mine")
                (made.path / "file").write_text("kept")
                time.sleep(0.0005)
                assert (made.path / "file").exists()
                assert (made.path / OWNER).read_bytes().startswith(MARK)
                made.close()
        finally:
            over.set()
    for one in sweeping:
        one.result()


@pytest.mark.skipif(not Path("/proc/self/cwd").exists(), reason="workers are found by /proc")
def test_what_works_in_a_dead_runs_folder_is_ended_and_a_shell_there_is_not(temp: Path) -> None:
    """A supervisor that is stopped outlives its run: it cannot see that its stdin was closed."""
    dead = left_by_a_dead_run(temp)
    sleeps = [sys.executable, "-c", "import time; time.sleep(60)"]
    plain = {name: value for name, value in os.environ.items() if name != "REPROS_PRELOAD"}
    shell = subprocess.Popen(sleeps, cwd=dead, env=plain)
    worker = subprocess.Popen(sleeps, cwd=dead, env={**plain, "REPROS_PRELOAD": "torch"})
    worker.send_signal(signal.SIGSTOP)
    try:
        time.sleep(0.3)  # both are past their exec
        clear(temp)
        assert worker.wait(10) == -signal.SIGKILL
        assert shell.poll() is None
    finally:
        for process in (shell, worker):
            process.kill()
            process.wait()


def test_the_lock_goes_with_the_process_and_not_with_its_children(temp: Path) -> None:
    folder = WorkFolder("x")
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], close_fds=False)
    try:
        path = folder.path
        assert clear(temp) == []
        assert folder._owner is not None
        os.close(folder._owner)  # as if this process had ended
        folder._owner = None
        # Popen returns a moment before the child's copy is closed.
        eventually(lambda: clear(temp) == [path], 10, "the folder is nobody's and is cleared")
    finally:
        child.kill()
        child.wait()


@pytest.mark.parametrize("length", [20, 90])
def test_a_cell_leaves_nothing_in_a_temp_folder_of_a_short_or_a_long_name(
    tmp_path: Path, harness: Entry, monkeypatch: pytest.MonkeyPatch, length: int
) -> None:
    """Below the longer one a socket could have no name."""
    outer = Path(tempfile.mkdtemp(dir="/tmp"))
    monkeypatch.setattr(tempfile, "tempdir", str(inner := outer / ("x" * (length - len(str(outer))))))
    inner.mkdir()
    monkeypatch.setattr(workdir, "SHORT", short := outer / "s")
    short.mkdir()
    bench = Bench(tmp_path)
    try:
        assert bench.run(harness, "passes").verdict is Verdict.ABSENT
        assert len(list(outer.rglob("pymp-*"))) == 1
    finally:
        bench.server.close()
    assert [*inner.iterdir(), *short.iterdir()] == []
    shutil.rmtree(outer)


# --- lost and stopped ----------------------------------------------------------------------------


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Bench]:
    """Return a cell that this test may do anything to."""
    made = Bench(tmp_path)
    yield made
    made.server.close()


def worker_of(server: CellServer) -> int:
    """Wait for an arm to work in a cell and return its process."""

    def look() -> int | None:
        for process in Path("/proc").glob("[0-9]*"):
            try:
                here = (process / "cwd").readlink()
            except OSError:
                continue
            if here.name == "tmp" and here.is_relative_to(server.work):
                return int(process.name)
        return None

    return eventually(look, 60, "an arm at work in the cell")


def ask(harness: Entry, condition: str = "hangs", timeout_s: float = 120.0) -> dict[str, Any]:
    """Return what is asked of an arm of the harness's own case."""
    return {"module": harness.module, "arm": "subject", "condition": condition, "checkpoint": None, "env": {},
            "timeout_s": timeout_s}  # fmt: skip


@pytest.mark.parametrize("fresh", [False, True])
def test_a_stopped_arm_is_a_timeout_that_names_it_long_before_its_own(
    own: Bench, harness: Entry, tmp_path: Path, fresh: bool
) -> None:
    own.server.start()
    with ThreadPoolExecutor(1) as arms:
        waiting = arms.submit(own.observe, ask(harness), tmp_path / "log", fresh)
        os.kill(worker_of(own.server), signal.SIGSTOP)
        began = time.monotonic()
        seen = waiting.result(60)
    assert (seen.state, seen.reason) == ("timeout", "the subject arm was stopped by a signal for 10 s, and was ended")
    assert time.monotonic() - began < 30
    assert own.run(harness, "passes").verdict is Verdict.ABSENT


@pytest.mark.parametrize("which", ["supervisor", "fork server"])
def test_a_stopped_supervisor_is_a_timeout_that_names_it_and_the_cell_goes_on(
    own: Bench, harness: Entry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, which: str
) -> None:
    monkeypatch.setattr(supervisor, "STOPPED_LOOKS", 3)
    own.server.start()
    mine = own.server._link
    assert mine is not None
    with ThreadPoolExecutor(1) as arms:
        waiting = arms.submit(own.observe, ask(harness), tmp_path / "log")
        arm = worker_of(own.server)
        pid = mine.process.pid if which == "supervisor" else mine._fork_server()
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
        seen = waiting.result(30)
    assert seen.state == "timeout"
    assert seen.reason.startswith(f"the cell's {which} was stopped by a signal")
    eventually(lambda: serve_is_over(arm), 5, "the end of the arm of a supervisor that was stopped")
    assert own.run(harness, "passes").verdict is Verdict.ABSENT


TWO_ARMS = """
import json, sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from repros.run.server import CellServer, Clock

server, logs = CellServer(Path(sys.executable), Clock(), "two", "cpu", ()), Path(sys.argv[1])
with ThreadPoolExecutor(2) as arms:
    list(arms.map(lambda log: server.observe(json.loads(sys.argv[2]), logs / log), "ab"))
"""


def test_the_daemons_of_all_arms_end_with_a_run_that_is_killed(tmp_path: Path, harness: Entry) -> None:
    """The supervisor has nobody to tell that the first arm was ended, and ends the second all the same."""
    request = json.dumps(ask(harness, "leaves-daemon-and-hangs"))
    environment = {**os.environ, "TMPDIR": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)}
    run = subprocess.Popen([sys.executable, "-c", TWO_ARMS, str(tmp_path), request], env=environment)

    def at_work() -> list[Path]:
        found = []
        for process in working_below(tmp_path):
            with contextlib.suppress(OSError):  # it ended since
                found += [process] if (process / "cwd").readlink().name == "tmp" else []
        return found

    try:
        eventually(lambda: len(at_work()) == 4, 60, "two arms and the daemon of each")
    finally:
        run.kill()
        run.wait()
    eventually(lambda: at_work() == [], 10, "the end of arms and daemons")


def serve_is_over(pid: int) -> bool:
    """Return whether a process is gone, but for its number."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


def test_a_supervisor_that_is_stopped_for_a_moment_is_not_lost(own: Bench, harness: Entry, tmp_path: Path) -> None:
    own.server.start()
    process = own.server._process
    assert process is not None
    with ThreadPoolExecutor(1) as arms:
        waiting = arms.submit(own.observe, ask(harness, "passes"), tmp_path / "log")
        process.send_signal(signal.SIGSTOP)
        time.sleep(3)
        process.send_signal(signal.SIGCONT)
        assert waiting.result(60).state == "done"
    assert own.server._process is process


def says(tmp_path: Path, text: str) -> CellServer:
    """Return a cell whose interpreter runs these lines of shell."""
    (tmp_path / "env" / "bin").mkdir(parents=True)
    python = tmp_path / "env" / "bin" / "python"
    python.write_text(f"#!/bin/sh\n{text}\n")
    python.chmod(0o755)
    return CellServer(python, Clock(), "says")


READY = '{"event": "ready", "failures": {}}'


@pytest.mark.parametrize(
    ("text", "state", "reason"),
    [
        ("exec sleep 60", "timeout", "no word from the cell's supervisor in 2 s of importing the packages"),
        ("echo garbage; exec sleep 60", "crashed", "the supervisor sent something that is not a message: b'garbage"),
        ("echo '[1]'; exec sleep 60", "crashed", "the supervisor sent something that is not a message: b'[1]"),
        (
            "head -c 3000 /dev/zero; echo; exec sleep 60",
            "crashed",
            "the supervisor sent something that is not a message",
        ),
        (f"echo '{READY}'; read r; echo '{{'; exec sleep 60", "crashed", "the supervisor sent something that is no"),
        (f"echo '{READY}'; read r; echo '{{\"event\": \"ended\"}}'; exec sleep 60", "crashed", "is not a message"),
        (f"echo '{READY}'; echo '{READY}'; exec sleep 60", "timeout", "no word from the cell's supervisor for 4 s"),
        (f"echo '{READY}'; exit 3", "crashed", "the cell's supervisor ended"),
        ("echo 'no such library' >&2; exit 3", "crashed", "while it imported the packages: no such library"),
    ],
)
def test_whatever_a_supervisor_says_or_does_not_its_arm_has_an_end_in_words(
    tmp_path: Path, harness: Entry, monkeypatch: pytest.MonkeyPatch, text: str, state: str, reason: str
) -> None:
    monkeypatch.setattr(link, "PRELOAD_TIMEOUT_S", 2.0)
    monkeypatch.setattr(link, "PATIENCE_S", 2.0)
    server = says(tmp_path, text)
    try:
        seen = server.observe(ask(harness, timeout_s=2.0), tmp_path / "log")
    finally:
        server.close()
    assert (seen.state, reason in seen.reason) == (state, True), seen.reason
    assert not server.work.exists()


def test_two_silent_supervisors_are_enough(tmp_path: Path, harness: Entry, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of a cell's arms would wait for five minutes."""
    monkeypatch.setattr(link, "PRELOAD_TIMEOUT_S", 2.0)
    server = says(tmp_path, f"echo x >> {tmp_path}/starts; exec sleep 60")
    began = time.monotonic()
    seen = [server.observe(ask(harness), tmp_path / "log").state for _ in range(5)]
    assert seen == ["timeout"] * 5
    assert (tmp_path / "starts").read_text().count("x") == 2
    assert time.monotonic() - began < 15
    with pytest.raises(LostError, match="no word"):
        server.start()
    server.close()


def test_a_run_that_ends_while_packages_are_imported_does_not_wait_for_them(tmp_path: Path) -> None:
    server = CellServer(Path(sys.executable), Clock(), "x", "cpu", ("torch", "torch._dynamo", "sympy"))

    def start() -> None:
        with pytest.raises(LostError):
            server.start()

    starting = threading.Thread(target=start)
    starting.start()
    eventually(lambda: server._process is not None, 20, "the cell's supervisor")
    time.sleep(0.5)
    began = time.monotonic()
    server.close()
    starting.join(10)
    assert time.monotonic() - began < 3
    assert not server.work.exists()


def test_an_arm_that_comes_after_its_cell_was_closed_makes_no_folder(tmp_path: Path) -> None:
    """It may have waited for its turn while the run was ended; what it made in the folder would be left there."""
    server = CellServer(Path(sys.executable), Clock(), "here", "cpu", ("torch",))
    server.close()
    seen = server.observe({"arm": "subject", "timeout_s": 5}, tmp_path / "log")
    assert (seen.state, seen.reason) == ("crashed", "the cell is closed")
    assert not server.work.exists()
