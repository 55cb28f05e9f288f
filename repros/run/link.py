"""Parent side of one supervisor: its process, what it says, and how it is known to be lost.

A supervisor is lost when it ends, when a signal has stopped it (or its fork server), when it says nothing for longer
than it may, or when what it says is no message. It is then ended, and whoever waits for it is told which.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, InvalidStateError
from pathlib import Path
from typing import Any

from repros.errors import UserError
from repros.machine.processes import kill_group
from repros.worker.supervisor import STOPPED_WORDS, Stopped

Message = Mapping[str, Any]
#: How long the parent waits beyond an arm's timeout before it takes the supervisor for lost.
PATIENCE_S = 20.0
#: Importing the packages may take this long on a cold disk.
PRELOAD_TIMEOUT_S = 300.0
#: How often the parent looks whether the supervisor is stopped.
LOOK_S = 1.0
#: How long a supervisor may take to end its arms.
END_S = 5.0


class LostError(UserError):
    """A supervisor did not become ready; ``late`` where time ran out, ``silent`` where it was all that was allowed."""

    def __init__(self, what: str, late: bool = False, silent: bool = False) -> None:
        super().__init__(what, "try again; if it stays so, import the packages with the cell's own interpreter")
        self.late, self.silent = late, silent


class Link:
    """One supervisor, from its start to its end."""

    def __init__(self, command: list[str], environment: Mapping[str, str], folder: Path,
                 up: Callable[[float, float], None]) -> None:  # fmt: skip
        self.log = folder / "server.log"
        self.process = _popen(command, environment, folder, self.log)
        self.waiting: dict[int, Future[Message]] = {}
        self._ready: Future[Message] = Future()
        self._up = up
        self._began = time.monotonic()
        self._lock = threading.Lock()
        #: What whoever waits for the supervisor is told, once it is lost.
        self._lost: Message | None = None
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    @property
    def alive(self) -> bool:
        """Return whether it can be asked."""
        return self._lost is None and self.process.poll() is None

    def ready(self) -> dict[str, str]:
        """Wait until the packages are imported; return those that could not be, with reasons.

        LostError if the supervisor is lost before.
        """
        words = "no word from the cell's supervisor in {:g} s of importing the packages"
        found = self._wait(self._ready, PRELOAD_TIMEOUT_S, words)
        if "failures" not in found:
            raise LostError(found["killed"], found["late"], found["silent"])
        return dict(found["failures"])

    def send(self, request: Message) -> Future[Message]:
        """Ask for an arm; the future is of its end, or of the supervisor's."""
        future: Future[Message] = Future()
        assert self.process.stdin is not None
        with self._lock:
            if self._lost is not None:
                future.set_result(self._lost)
                return future
            self.waiting[request["id"]] = future
            try:
                self.process.stdin.write((json.dumps(request) + "\n").encode())
                self.process.stdin.flush()
            except (OSError, ValueError):  # it is ending, or was closed: the listener tells
                pass
        return future

    def end_of(self, future: Future[Message], timeout_s: float) -> Message:
        """Wait for an arm's end as long as it may take; then the supervisor is lost, and that is what is returned."""
        return self._wait(future, timeout_s + PATIENCE_S, "no word from the cell's supervisor for {:g} s")

    def _wait(self, future: Future[Message], limit_s: float, words: str) -> Message:
        """Wait in looks of a second, which are what is counted: time in which this process was stopped is not."""
        supervisor, server = Stopped(), Stopped()
        for _ in range(max(1, round(limit_s / LOOK_S))):
            with contextlib.suppress(TimeoutError):
                return future.result(LOOK_S)
            if supervisor.too_long(self.process.pid):
                self.lose(f"the cell's supervisor was {STOPPED_WORDS}", late=True)
            elif (pid := self._fork_server()) and server.too_long(pid):
                self.lose(f"the cell's fork server was {STOPPED_WORDS}", late=True)
        self.lose(words.format(limit_s), late=True, silent=True)
        return future.result(END_S)

    def _fork_server(self) -> int | None:
        if not self._ready.done():
            return None
        pid = self._ready.result().get("fork_server")
        return pid if isinstance(pid, int) else None

    def lose(self, words: str, late: bool, silent: bool = False) -> None:
        """End the supervisor at once, and tell whoever waits for it why."""
        told = {"exitcode": None, "killed": words, "late": late, "silent": silent, "lost": True}
        with self._lock:
            lost = self._lost = self._lost or told
            waiting = [self._ready, *self.waiting.values()]
            self.waiting.clear()
        kill_group(self.process.pid)
        for future in waiting:
            _tell(future, lost)

    def end(self) -> None:
        """End the supervisor and everything below it."""
        assert self.process.stdin is not None
        with contextlib.suppress(OSError):
            self.process.stdin.close()
        if self._lost is None and self._ready.done():  # while it imports, it has nothing to end
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(END_S)
        kill_group(self.process.pid)
        self.process.wait()
        self._listener.join(END_S)

    def _listen(self) -> None:
        assert self.process.stdout is not None
        words = "the cell's supervisor ended"
        try:
            with self.process.stdout:
                for line in self.process.stdout:
                    self._take(line)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            words = f"the supervisor sent something that is not a message: {line[:60]!r} ({type(error).__name__})"
        except OSError as error:
            words = f"the cell's supervisor cannot be heard: {error.strerror}"
        if not self._ready.done() and (tail := _tail(self.log)):
            words = f"{words} while it imported the packages: {tail}"
        self.lose(words, late=False)

    def _take(self, line: bytes) -> None:
        message = json.loads(line)
        if message["event"] == "ready":
            self._up(self._began, time.monotonic())
            _tell(self._ready, {"failures": dict(message["failures"]), "fork_server": message.get("fork_server")})
            return
        ended = {"exitcode": message["exitcode"], "killed": str(message["killed"]), "late": bool(message["late"])}
        with self._lock:
            future = self.waiting.pop(message["id"], None)
        if future is not None:
            _tell(future, ended)


def _popen(command: list[str], environment: Mapping[str, str], folder: Path, log: Path) -> subprocess.Popen[bytes]:
    with open(log, "ab") as errors:
        return subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            env=environment,
            cwd=folder,
            start_new_session=True,
        )


def _tell(future: Future[Message], message: Message) -> None:
    """Give a future its result, if it has none."""
    with contextlib.suppress(InvalidStateError):
        future.set_result(message)


def _tail(log: Path) -> str:
    """Return the last line of what a supervisor printed, which is where an exception says what it is."""
    with contextlib.suppress(OSError):
        lines = log.read_text(errors="replace")[-500:].strip().splitlines()
        return lines[-1] if lines else ""
    return ""
