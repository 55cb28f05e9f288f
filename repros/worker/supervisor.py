"""The cell's supervisor: starts arms from the standard library's fork server, ends them, reports how they ended.

It runs in the cell's interpreter and speaks JSON lines: requests on stdin, replies on a descriptor of its own (what
the packages print at import goes to stderr). Every arm is a fresh fork of a process that has imported the packages
and done nothing else. A fork server cannot be used where import itself is on trial, or after CUDA was initialized in
the server; such conditions say ``fresh=True`` and each arm gets a new interpreter.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import select
import signal
import threading
import time
from collections.abc import Mapping
from multiprocessing import forkserver
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from repros.machine.processes import kill_group, working_below

#: An arm that prints more than this is ended: a full disk would take the other arms with it.
LOG_LIMIT_BYTES = 256 << 20
#: What is kept of a longer log, at each of its ends.
LOG_KEPT_BYTES = 64 << 10
GRACE_S = 0.5
#: Tells the fork server whose it is.
SUPERVISOR = "REPROS_SUPERVISOR"
#: A process that a signal has stopped (SIGSTOP) for so many looks, one a second, is ended: it would cost its timeout.
STOPPED_LOOKS = 10


class Supervisor:
    """Runs requests side by side until stdin ends."""

    def __init__(self, replies: int) -> None:
        self._replies = replies
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["repros.worker.preload"])
        self._running: dict[int, tuple[BaseProcess, Mapping[str, Any], float]] = {}
        self._stopped = Stopped()

    def reply(self, **message: Any) -> None:
        """Send one message as one line; of a run that was killed nobody hears it, and arms are ended all the same."""
        with contextlib.suppress(BrokenPipeError):
            os.write(self._replies, (json.dumps(message) + "\n").encode())

    def serve(self) -> None:
        """Warm the fork server, then take requests."""
        began = time.monotonic()
        become_subreaper()
        os.environ[SUPERVISOR] = str(os.getpid())
        up = threading.Event()
        threading.Thread(target=_end_without_parent, args=(up,), daemon=True).start()
        reader, writer = self._context.Pipe(duplex=False)
        first = self._context.Process(target=_report_preload, args=(writer,))
        first.start()
        writer.close()
        try:
            failures = reader.recv()
        except EOFError:
            failures = {"fork server": "it ended while importing the packages"}
        first.join()
        up.set()
        self.reply(event="ready", seconds=time.monotonic() - began, failures=failures, fork_server=fork_server())
        stdin, pending = 0, b""
        while True:
            sentinels = {process.sentinel: number for number, (process, _, _) in self._running.items()}
            wait = 0.2 if self._running else None
            ready, _, _ = select.select([stdin, *sentinels], [], [], wait)
            for number in [sentinels[s] for s in ready if s in sentinels]:
                self._finish(number, "")
            if stdin in ready:
                data = os.read(stdin, 1 << 16)
                if not data:
                    break
                *lines, pending = (pending + data).split(b"\n")
                for line in lines:
                    self._start(json.loads(line))
            self._police()
        for number in list(self._running):
            self._finish(number, "the run ended")

    def _start(self, request: Mapping[str, Any]) -> None:
        from repros.worker import arm

        forkserver.ensure_running()  # one that has died is begun anew
        process = self._context.Process(target=arm.run, args=(request, fork_server()))
        process.start()
        self._running[request["id"]] = (process, request, time.monotonic())

    def _police(self) -> None:
        now = time.monotonic()
        for number, (process, request, began) in list(self._running.items()):
            if now - began > request["timeout_s"]:
                self._finish(number, f"no end after {request['timeout_s']:g} s", late=True)
            elif process.pid and self._stopped.too_long(process.pid):
                self._finish(number, f"the {request['arm']} arm was {STOPPED_WORDS}", late=True)
            elif _size(request["log"]) > LOG_LIMIT_BYTES:
                self._finish(number, f"printed more than {LOG_LIMIT_BYTES >> 20} MiB")

    def _finish(self, number: int, killed: str, late: bool = False) -> None:
        process, request, _ = self._running.pop(number)
        assert process.pid is not None
        kill_group(process.pid)
        if killed:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)
        process.join(GRACE_S * 10)
        kill_strays(Path(request["folder"]) / "tmp")
        trim(request["log"])
        self.reply(event="ended", id=number, exitcode=process.exitcode, killed=killed, late=late)


def fork_server() -> int | None:
    """Return the process number of this process's fork server."""
    return getattr(getattr(forkserver, "_forkserver", None), "_forkserver_pid", None)


STOPPED_WORDS = f"stopped by a signal for {STOPPED_LOOKS} s, and was ended"


class Stopped:
    """Counts how often processes were seen stopped in a row, a second apart.

    It counts looks and reads no clock: while the one who looks is stopped as well, nothing is held against the others.
    """

    def __init__(self) -> None:
        self._looks: dict[int, tuple[int, float]] = {}

    def too_long(self, pid: int) -> bool:
        """Look at a process (Linux), if the last look was a second ago; return whether it was stopped all the while."""
        looks, last = self._looks.get(pid, (0, 0.0))
        now = time.monotonic()
        if now - last >= 1.0:
            looks = looks + 1 if is_stopped(pid) else 0
            self._looks[pid] = looks, now
        return looks >= STOPPED_LOOKS


def is_stopped(pid: int) -> bool:
    """Return whether a signal has stopped a process; one that a debugger holds is not (Linux)."""
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0] == b"T"
    except (OSError, IndexError):
        return False


def _end_without_parent(up: threading.Event) -> None:
    """End this process if its parent ends while packages are imported: nobody reads stdin until that is done."""
    poll = select.poll()
    poll.register(0, 0)  # that the other side was closed is always told
    while not up.is_set():
        if poll.poll(500) and not up.is_set():
            os._exit(0)


def _report_preload(pipe: Any) -> None:
    from repros.worker import preload

    pipe.send(preload.FAILURES)


def kill_strays(folder: Path) -> None:
    """Kill what an arm left behind in a session of its own, known by its working folder, and reap it (Linux)."""
    for process in working_below(folder):
        with contextlib.suppress(OSError):
            os.kill(int(process.name), signal.SIGKILL)
            os.waitpid(int(process.name), 0)


def become_subreaper() -> None:
    """Have orphans of arms come to this process, so that they can be reaped (Linux's PR_SET_CHILD_SUBREAPER)."""
    import ctypes

    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)


def trim(log: str) -> None:
    """Keep both ends of a long log."""
    size = _size(log)
    if size <= 4 * LOG_KEPT_BYTES:
        return
    with open(log, "r+b") as file:
        head = file.read(LOG_KEPT_BYTES)
        file.seek(-LOG_KEPT_BYTES, os.SEEK_END)
        tail = file.read()
        file.seek(0)
        file.write(head + f"\n[{size - 2 * LOG_KEPT_BYTES} bytes left out]\n".encode() + tail)
        file.truncate()


def _size(path: str) -> int:
    try:
        return Path(path).stat().st_size
    except OSError:
        return 0


def main() -> None:
    """Serve until stdin ends."""
    replies = os.dup(1)
    os.dup2(2, 1)
    os.set_inheritable(replies, False)
    Supervisor(replies).serve()
    os._exit(0)  # the fork server and its tracker go with the pipes; waiting for them is no use to anybody


if __name__ == "__main__":
    main()
