"""Parent side of a cell: requests to its supervisor, observations back, and where the time went."""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from repros import ROOT
from repros.cases import imports
from repros.machine.cards import Card, lost
from repros.machine.processes import kill_group
from repros.machine.turns import Apart, CardLostError, Want, turn
from repros.machine.workdir import WorkFolder, end_workers
from repros.run.link import Link, LostError, Message
from repros.verdict import Observation
from repros.worker import ahead, alone
from repros.worker.supervisor import STOPPED_WORDS, Stopped

#: Environment of every arm: what would make arms differ from machine to machine is set.
COMMON = {
    "PYTHONHASHSEED": "0",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "TORCHINDUCTOR_FX_GRAPH_CACHE": "0",
    "TORCHINDUCTOR_AUTOGRAD_CACHE": "0",
    "TORCHINDUCTOR_COMPILE_THREADS": "1",
    # Scalar kernels: what a graph saves is the same, and finding the width starts a compiler and a Python.
    "TORCHINDUCTOR_VEC_ISA_OK": "0",
    # Else a supervisor's first arms build torch's headers anew, for 5 s, though their kernels are there already.
    "TORCHINDUCTOR_CPP_CACHE_PRECOMPILE_HEADERS": "0",
}
#: Else each large tensor is pages of its own, which the kernel clears anew, for a sixth of the main job's time. Here it
#: is on the heap, which is not given back; the heap's meter counts bytes in use and sees but another rounding.
ON_THE_HEAP = {"GLIBC_TUNABLES": f"glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold={1 << 40}"}
#: Else MKL keeps its workspace after a product, little on one processor and 6 MiB on another (a Xeon that has no
#: instructions for bfloat16, say): a reading of the heap would tell of the machine.
NO_WORKSPACE = {"MKL_DISABLE_FAST_MM": "1"}
SETTINGS = {
    "cpu": {
        **COMMON,
        **ON_THE_HEAP,
        **NO_WORKSPACE,
        "CUDA_VISIBLE_DEVICES": "",
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
    },
    # Cards are numbered as the driver's tool numbers them; and `torch.cuda.is_available()` is asked without a context,
    # or the server's forks could have none.
    "cuda": {**COMMON, "CUDA_DEVICE_ORDER": "PCI_BUS_ID", "PYTORCH_NVML_BASED_CUDA_CHECK": "1"},
}
#: What is set for the suite's process and is not for arms; glibc's settings decide how much of the heap a tensor takes,
#: and dask sets one for its workers.
NOT_HANDED_ON = ("PYTHON", "HF_", "PYTEST_", "MALLOC_", "GLIBC_TUNABLES")
#: Arms at a time for which no more cores are asked; of those for a card, some wait for room there.
MOST_ARMS = 16
#: Address space an arm may take beyond what it starts with.
MEMORY_BYTES = 12 << 30


class Clock:
    """Where a run's time went: environments, preloads, and the time in which at least one arm worked."""

    def __init__(self) -> None:
        self.began = time.monotonic()
        self._spans: dict[str, list[tuple[float, float]]] = {"environment": [], "preload": [], "arms": []}
        self._lock = threading.Lock()

    def add(self, kind: str, started: float, ended: float) -> None:
        """Enter a span of the machine's monotonic clock."""
        with self._lock:
            self._spans[kind].append((started, ended))

    @contextmanager
    def span(self, kind: str) -> Iterator[None]:
        """Enter the time that the block takes."""
        started = time.monotonic()
        try:
            yield
        finally:
            self.add(kind, started, time.monotonic())

    def summary(self) -> dict[str, float]:
        """Return seconds by kind; a moment in which several things went on counts once, for arms first."""
        total = time.monotonic() - self.began
        covered: list[tuple[float, float]] = []
        seconds: dict[str, float] = {}
        for kind in ("arms", "environment", "preload"):
            before = union(covered)
            covered += self._spans[kind]
            seconds[kind] = union(covered) - before
        seconds["everything else"] = total - union(covered)
        return {"total": total, **seconds}


def union(spans: list[tuple[float, float]]) -> float:
    """Return the length of the union of spans."""
    length, end = 0.0, float("-inf")
    for start, stop in sorted(spans):
        length += max(0.0, stop - max(start, end))
        end = max(end, stop)
    return length


class CellServer:
    """Runs arms in one cell: in forks of a server that has imported what they use, or each in a new interpreter.

    ``cases`` are the modules of those that it is for; None for any. ``preload`` stands in place of what they use.
    The packages that ``without`` names cannot be imported there (`repros.worker.alone`). ``apart`` is what is known of
    the driver, for all servers of a run.
    """

    def __init__(
        self,
        python: Path,
        clock: Clock,
        label: str,
        device: str = "cpu",
        preload: tuple[str, ...] | None = None,
        cases: Iterable[str] | None = None,
        without: Iterable[str] = (),
        apart: Apart | None = None,
    ) -> None:
        self._python = python
        self._clock = clock
        self._device = device
        self._without = tuple(without)
        wanted = imports.needed(imports.PRELOAD[device], cases) if preload is None else preload
        self._preload = imports.without(wanted, self._without)
        self._ahead = imports.ours(cases)
        self._late = imports.without(imports.needed(imports.LATE[device], cases), self._without)
        self._cache = python.parent.parent / "inductor"
        self._numbers = itertools.count()
        self._lock = threading.Lock()
        self._apart = apart or Apart()
        self._link: Link | None = None
        self._closed = False
        #: Supervisors, one after the other, that said nothing for as long as they may.
        self._silent: dict[Link, LostError] = {}
        self._folder = WorkFolder(label)
        self.work = self._folder.path
        self._scratch = self._folder.scratch(label)
        self._bin = self._scratch / "bin"
        self._bin.mkdir()
        (self._bin / "pip").write_text(f'#!/bin/sh\nexec {shlex.quote(str(python))} -m pip "$@"\n', encoding="utf-8")
        (self._bin / "pip").chmod(0o755)
        self.failures: dict[str, str] = {}

    # -- life

    def start(self) -> None:
        """Start the supervisor, if it is not up, and wait until the packages are imported; LostError if it is lost."""
        self._up()

    def _up(self) -> Link:
        with self._lock:
            if self._closed:
                raise LostError("the cell is closed")
            if len(self._silent) > 1:  # a third would be waited for as long
                raise next(reversed(self._silent.values()))
            if self._link is None or not self._link.alive:
                if self._link is not None:
                    self._link.end()
                command = [str(self._python), "-c", "from repros.worker.supervisor import main; main()"]
                self._link = Link(command, self.environment(), self.work, functools.partial(self._clock.add, "preload"))
            link = self._link
        try:
            self.failures = link.ready()
        except LostError as error:
            if error.silent:
                self._silent[link] = error
            raise
        self._silent.clear()
        return link

    @property
    def _process(self) -> subprocess.Popen[bytes] | None:
        return self._link.process if self._link else None

    @property
    def _waiting(self) -> Mapping[int, Any]:
        return self._link.waiting if self._link else {}

    def close(self) -> None:
        """End the supervisor and everything below it."""
        with self._lock:
            self._closed = True
            link = self._link
        if link is not None:
            link.end()
        self._folder.close()

    def environment(self) -> dict[str, str]:
        """Return the arms' environment: the host's, less what would make arms differ from machine to machine."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(NOT_HANDED_ON)}
        return {
            **kept,
            "PYTHONPATH": str(ROOT),
            # bitsandbytes before 0.50 asks `pip` for a plugin as it is imported; the host's knows of other packages.
            "PATH": f"{self._bin}:{os.environ.get('PATH', os.defpath)}",
            "REPROS_PRELOAD": ",".join(self._preload),
            ahead.VARIABLE: ",".join(self._ahead),
            alone.VARIABLE: ",".join(self._without),
            # What they leave in the temp folder goes with the work folder.
            "TMPDIR": str(self._scratch),
            **SETTINGS[self._device],
            # Object code of one kernel source may be used again; what a graph saves is worked out anew in each arm.
            "TORCHINDUCTOR_CACHE_DIR": str(self._cache),
            "TRITON_CACHE_DIR": str(self._cache / "triton"),
        }

    # -- arms

    def observe(self, request: Mapping[str, Any], log: Path, fresh: bool = False, cards: int = 1) -> Observation:
        """Run one arm and return what was observed of it; never raises for what the arm does.

        On a GPU it waits until ``cards`` cards are its own, or, where the request says ``shared``, for a share of one.
        An arm that did not end well on a card that is lost is `disturbed`, as is one whose last card is lost.
        """
        if self._device != "cuda":
            return self._observe({"memory_bytes": MEMORY_BYTES, **request}, log, fresh)
        want = Want(cards, request.get("card_bytes", 0), request.get("shared", False))
        while True:
            try:
                seen, mine = self._on_cards(request, log, fresh, want)
                break
            except CardLostError as error:
                if len(want.fitting) < cards:
                    return Observation(request["arm"], "disturbed", reason=str(error), log=str(log))
                # The card that it sat at is lost; it may do with another.
        gone = "" if seen.state == "done" else lost(mine)
        return replace(seen, state="disturbed", reason=f"{gone}; {seen.reason}") if gone else seen

    def _on_cards(
        self, request: Mapping[str, Any], log: Path, fresh: bool, want: Want, alone: bool = False
    ) -> tuple[Observation, tuple[Card, ...]]:
        """Run one arm when it is its turn: beside others, where the driver tells its bytes from theirs.

        Where it turns out that it had not all that is its own there, it is run once more, ``alone``.
        """
        with contextlib.ExitStack() as stack:
            may = not (alone or want.shared or fresh or want.count > 1)
            beside = may and stack.enter_context(self._apart.ask(want))
            mine = stack.enter_context(turn(replace(want, shared=True) if beside else want))
            # By their names: where a card is lost, those after it are numbered anew.
            visible = {"CUDA_VISIBLE_DEVICES": ",".join(card.uuid for card in mine)}
            late = () if fresh else self._late_of(request)
            full = {**request, "env": {**visible, **request["env"]}, "imports": late}
            seen = self._observe({**full, "beside": beside}, log, fresh)
            if told := seen.evidence.get("driver_tells_of"):
                self._apart.known = told == "process"
        if beside and (told == "card" or seen.state == "disturbed"):
            return self._on_cards(request, log, fresh, want, alone=True)
        return seen, mine

    def _late_of(self, request: Mapping[str, Any]) -> tuple[str, ...]:
        """Return what an arm imports as it warms up; none of what its own case does not use."""
        return imports.needed(self._late, [request["module"]]) if "module" in request else self._late

    def _observe(self, request: Mapping[str, Any], log: Path, fresh: bool) -> Observation:
        number = next(self._numbers)
        folder = self.work / f"arm{number}"
        with self._lock:
            if self._closed:  # a folder made now would be left: the one above it is being removed
                return Observation(request["arm"], "crashed", reason="the cell is closed", log=str(log))
            folder.mkdir()
        full = {**request, "id": number, "folder": str(folder), "log": str(log)}
        started = time.monotonic()
        try:
            ended = self._in_new_interpreter(full) if fresh else self._in_fork(full)
            if ended.get("lost"):
                end_workers(folder)
            observation = self._read(folder, full, ended, started)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        self._clock.add("arms", observation.started, observation.ended)
        return observation

    def _in_fork(self, request: Message) -> Message:
        try:
            link = self._up()
        except LostError as error:
            return {"exitcode": None, "killed": error.what, "late": error.late, "lost": True}
        return link.end_of(link.send(request), request["timeout_s"])

    def _in_new_interpreter(self, request: Message) -> Message:
        path = Path(request["folder"]) / "request.json"
        path.write_text(json.dumps(request), encoding="utf-8")
        command = [str(self._python), "-m", "repros.worker.arm", str(path)]
        # The worker takes a session of its own; its parent must not lead one already.
        process = subprocess.Popen(command, env=self.environment(), cwd=self.work, stdin=subprocess.DEVNULL)
        late = _overdue(process, request)
        kill_group(process.pid)
        process.kill()  # it may not have come to a session of its own
        return {"exitcode": process.wait(), "killed": late, "late": bool(late)}

    def _read(self, folder: Path, request: Message, ended: Message, started: float) -> Observation:
        path = folder / "observation.json"
        if path.exists() and not ended["killed"]:
            return Observation.from_json(json.loads(path.read_text(encoding="utf-8")))
        state, exception = "crashed", None
        if ended["killed"]:
            state = "timeout" if ended["late"] else "crashed"
            reason = ended["killed"]
        elif (ended["exitcode"] or 0) < 0:
            name = signal.Signals(-ended["exitcode"]).name
            reason = f"killed by {name}"
            exception = {"types": [name], "text": reason, "phase": "", "frames": []}
        else:
            reason = f"ended with exit code {ended['exitcode']} and no observation"
        now = time.monotonic()
        return Observation(
            arm=request["arm"],
            state=state,
            reason=reason,
            exception=exception,
            seconds={"total": now - started},
            started=started,
            ended=now,
            log=request["log"],
        )


def _overdue(process: subprocess.Popen[bytes], request: Message) -> str:
    """Wait for an arm in an interpreter of its own; return in words why it is not waited for any longer, if so."""
    stopped, until = Stopped(), time.monotonic() + request["timeout_s"]
    while (left_s := until - time.monotonic()) > 0:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(min(left_s, 1.0))
            return ""
        if stopped.too_long(process.pid):
            return f"the {request['arm']} arm was {STOPPED_WORDS}"
    return f"no end after {request['timeout_s']:g} s"


def at_a_time(jobs: int | None = None) -> int:
    """Return how many arms run at a time: one a core, and one more for the time in which others start and end."""
    return jobs or 1 + min(MOST_ARMS, os.cpu_count() or 1)


def pool(jobs: int | None = None) -> ThreadPoolExecutor:
    """Return a pool in which arms take turns."""
    return ThreadPoolExecutor(at_a_time(jobs), thread_name_prefix="arm")


if sys.platform == "win32":  # pragma: no cover
    raise SystemExit("repros needs POSIX process groups; it runs on Linux and macOS, or in WSL")
