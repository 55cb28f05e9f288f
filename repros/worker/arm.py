"""The child: one arm of one trial, in the cell's interpreter.

It writes one observation as JSON to a file of its own (a part file, then a rename), so nothing that an arm prints
can be taken for a result. Standard library only at import time: it is imported in the cell's environment, which holds
the pins and nothing of ours, and once as a check on every Python of the matrix.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import random
import re
import runpy
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from repros.case import Case
from repros.verdict import Observation, in_a_line
from repros.worker import ahead, alone, watched

#: A package that has no kernel for the device says so like this; anything else that fails is an error.
NO_KERNEL = re.compile(r"Could not run 'bitsandbytes::|not (implemented|supported) (for|on) the CPU|no kernel image")
OUT_OF_MEMORY = re.compile(r"can't allocate memory|CUDA out of memory|CUDA error: out of memory")
SEED = 1234
#: The name by which a witness is asked for in the place of an arm.
WITNESS = "witness"
#: Evidence of a control that was tried without the packages under test: which of them it asked for.
ASKED_FOR = "asked_for"
#: Evidence of one that the run watches: which attributes of its condition it asked for.
READS = "reads"
#: Exit code -> vote, as `git bisect run` takes it.
VOTES = {0: "good", 1: "bad"}


def main(argv: list[str] | None = None) -> int:
    """Run the arm that a request file describes, in this interpreter."""
    path = (sys.argv[1:] if argv is None else argv)[0]
    run(json.loads(Path(path).read_text(encoding="utf-8")))
    return 0


def run(request: Mapping[str, Any], fork_server: int | None = None) -> None:
    """Take a session, a temp folder and a log of one's own, run the arm, write the observation."""
    os.setsid()
    end_with_parent()
    if fork_server not in (None, os.getppid()):
        os._exit(0)  # it was killed before this process could ask to go with it
    folder = Path(request["folder"])
    log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for descriptor in (1, 2):
        os.dup2(log, descriptor)
    os.close(log)
    (folder / "tmp").mkdir(exist_ok=True)
    os.environ["TMPDIR"] = str(folder / "tmp")
    os.environ.update(request["env"])
    tempfile.tempdir = None
    os.chdir(folder / "tmp")
    limit_memory(request.get("memory_bytes"))
    observation = (hear if request["arm"] == WITNESS else observe)(request).to_json()
    part = folder / "observation.part"
    part.write_text(json.dumps(observation, allow_nan=False), encoding="utf-8")
    part.rename(folder / "observation.json")


def end_with_parent() -> None:
    """Have the kernel end this process, which has a session of its own, when its fork server ends (Linux).

    The fork server ends with the supervisor, unless somebody else holds the pipe by which it knows: every fork does.
    """
    import ctypes
    from multiprocessing import forkserver

    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG
    pipe = getattr(getattr(forkserver, "_forkserver", None), "_forkserver_alive_fd", None)
    if pipe is not None:  # none in a new interpreter
        os.close(pipe)


def limit_memory(more_bytes: int | None) -> None:
    """Let the process take this much address space beyond what it has, so that a runaway arm fails alone."""
    if not more_bytes:
        return
    try:
        import resource

        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + more_bytes
        resource.setrlimit(resource.RLIMIT_AS, (limit, resource.getrlimit(resource.RLIMIT_AS)[1]))
    except (ImportError, OSError, ValueError):
        pass


def observe(request: Mapping[str, Any]) -> Observation:
    """Run the arm under the meters; exceptions are observations too."""
    began = time.monotonic()
    probe = Driver()
    state, reason, exception = "done", "", None
    try:
        probe.run(request)
    except BaseException as error:  # noqa: BLE001 - whatever ends an arm is what was observed of it
        traceback.print_exc()
        exception, whole = describe(error, probe.phase), words(error)
        text = in_a_line(whole, NO_KERNEL.pattern)
        state, reason = "raised", f"{type(error).__name__} in phase {probe.phase}: {text}"
        if NO_KERNEL.search(whole):
            state, reason = "unsupported", f"no kernel for this device: {text}"
        elif isinstance(error, MemoryError) or OUT_OF_MEMORY.search(whole):
            reason = f"out of memory in phase {probe.phase}: {text}"
            if short := short_of(probe, request):
                state, reason = "disturbed", f"{short}; {reason}"
    ended = time.monotonic()
    try:
        figures, evidence = probe.results()
    except Exception as error:  # noqa: BLE001 - what the arm did is told, though an instrument failed after it
        traceback.print_exc()
        figures, evidence = {}, {}
        reason = "; ".join(filter(None, [reason, f"the meters failed: {type(error).__name__}: {words(error)}"]))
        state = "raised" if state == "done" else state
    if alone.ASKED:
        evidence = {**evidence, ASKED_FOR: sorted(set(alone.ASKED))}
    if request.get("watch"):
        evidence = {**evidence, READS: sorted(watched.READ)}
    went_on = state in ("done", "raised") and (evidence.get("cuda_ooms") or evidence.get("cuda_retries"))
    if went_on and (short := short_of(probe, request)):
        state, reason = "disturbed", "; ".join(filter(None, [short, "it ran out of memory and went on", reason]))
    return Observation(
        arm=request["arm"],
        state=state,
        figures=figures,
        exception=exception,
        evidence=evidence,
        reason=reason,
        seconds={**probe.seconds, "total": ended - began},
        started=began,
        ended=ended,
        log=request["log"],
    )


def short_of(probe: Driver, request: Mapping[str, Any]) -> str:
    """Return in words why an arm that ran out of memory did not have what it was to have; empty if it had."""
    declared = request.get("card_bytes", 0)
    if not declared and request.get("beside"):
        return "others were on the card"
    return probe.short_of(declared)


def hear(request: Mapping[str, Any]) -> Observation:
    """Run a witness as `python SCRIPT` does, and return its vote and its last line; no meter looks on."""
    began = time.monotonic()
    seed()
    path, sys.argv = request["script"], [request["script"]]
    code: Any = 0
    try:
        runpy.run_path(path, run_name="__main__")
    except SystemExit as end:
        code = 0 if end.code is None else end.code
    except BaseException:  # noqa: BLE001 - it ends as Python would end it
        traceback.print_exc()
        code = "an exception that it did not catch"
    sys.stdout.flush()
    vote = VOTES.get(code, "skip") if isinstance(code, int) else "skip"
    lines = Path(request["log"]).read_text(encoding="utf-8", errors="replace").strip().splitlines()
    ended = time.monotonic()
    return Observation(
        arm=WITNESS,
        state="done",
        evidence={"vote": vote, "says": in_a_line(lines[-1] if lines else f"no word; exit {code}")},
        seconds={"total": ended - began},
        started=began,
        ended=ended,
        log=request["log"],
    )


def words(error: BaseException) -> str:
    """Return an exception's text; of one that cannot say it, why, and of a character that no file can hold, its number.

    Names of files bring such characters along (PEP 383); a record with one in it could not be read again.
    """
    try:
        return str(error).encode("utf-8", "backslashreplace").decode()
    except Exception as mute:  # noqa: BLE001 - a package on trial may raise anything
        return f"(its text cannot be had: {type(mute).__name__})"


class FigureError(Exception):
    """An arm returned what is no figure: a contributor's mistake, and no symptom of any report."""


def describe(error: BaseException, phase: str) -> dict[str, Any]:
    """Return the exception's type names (most derived first), text, phase and innermost frames."""
    frames = traceback.extract_tb(error.__traceback__)[-3:]
    return {
        "types": [cls.__name__ for cls in type(error).__mro__ if cls is not object],
        "text": words(error)[:2000],
        "phase": phase,
        "frames": [f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in frames],
    }


class Meters(Protocol):
    """The instruments of a device; figures start at the end of the first phase."""

    def open(self) -> AbstractContextManager[None]:
        """Make ready, and watch all that is done inside."""

    def watch(self) -> AbstractContextManager[None]:
        """Watch the arm itself, without its preparation."""

    def enter(self, name: str) -> None:
        """End a phase and start one of this name."""

    def end(self) -> None:
        """Read what is left after the last phase."""

    def results(self) -> tuple[dict[str, float], dict[str, Any]]:
        """Return figures and evidence read so far."""

    def short_of(self, card_bytes: int) -> str:
        """Return in words that a card had less than this for the arm; empty if it had as much."""


def meters_of(device: str, gate: tuple[str, ...], shared: bool = False, snapshot: Path | None = None) -> Meters:
    """Return the instruments of ``cpu`` or ``cuda``.

    On a ``shared`` card the driver says nothing of one arm; ``snapshot`` names a file that those of ``cuda`` write.
    """
    if device == "cuda":
        from repros.meters.cuda import CudaMeters

        return CudaMeters(shared, snapshot)
    from repros.meters.cpu import CpuMeters

    return CpuMeters(gate)


class Driver:
    """Drives an arm's generator and reads the meters at its phases."""

    def __init__(self) -> None:
        self.phase = "import"
        self.seconds: dict[str, float] = {}
        self._meters: Meters | None = None
        self._figures: dict[str, float] = {}
        self._evidence: dict[str, Any] = {}

    def run(self, request: Mapping[str, Any]) -> None:
        """Prepare, run the arm phase by phase, compare with the oracle."""
        began = time.monotonic()
        ahead.forget_edited()
        module = importlib.import_module(request["module"])
        case: Case = module.CASE
        condition = case.condition(request["condition"])
        if "params" in request:
            condition = replace(condition, params=request["params"])
        function, given_to_arm = condition.runs(request["arm"])
        if request.get("watch"):  # a control, which runs under the condition as it is
            condition = given_to_arm = watched.watched(condition)
        arm: Callable[..., Any] = getattr(module, function)
        seed()
        snapshot = Path(request["log"]).with_suffix(".pickle") if request.get("snapshot") else None
        meters = self._meters = meters_of(condition.device, case.gate, request.get("shared", False), snapshot)
        with meters.open():
            warm_up(request.get("imports", ()))
            self.phase = "prepare"
            given = {"checkpoint": request["checkpoint"]} if request.get("checkpoint") else {}
            inputs = module.inputs(condition, **given) if hasattr(module, "inputs") else given
            oracle = module.oracle(condition, **inputs) if hasattr(module, "oracle") else {}
            seed()
            steps = arm(given_to_arm, **inputs)
            self.seconds["import"] = time.monotonic() - began
            with meters.watch():
                result = self._drive(steps, meters)
        self._compare(result, oracle)

    def _drive(self, steps: Any, meters: Meters) -> Mapping[str, Any]:
        while True:
            before = time.monotonic()
            try:
                name = next(steps)
            except StopIteration as stop:
                self._spend(before)
                meters.end()
                return stop.value or {}
            self._spend(before)
            meters.enter(name)
            self.phase = name

    def _spend(self, since: float) -> None:
        self.seconds[self.phase] = self.seconds.get(self.phase, 0.0) + time.monotonic() - since

    def _compare(self, result: Mapping[str, Any], oracle: Mapping[str, Any]) -> None:
        from repros.meters.numerics import compare

        if oracle:
            figures, errors = compare(result, oracle)
            self._figures.update(figures)
            self._evidence["errors"] = {
                name: error if error < float("inf") else "inf" for name, error in errors.items()
            }
        for name, value in result.items():
            if isinstance(value, bool):
                raise FigureError(f"figure `{name}` is a bool: return an int or a float")
            if isinstance(value, (int, float)):
                self._figures[name] = value

    def short_of(self, card_bytes: int) -> str:
        """Return in words that a card had less than this for the arm; empty if it had as much."""
        return self._meters.short_of(card_bytes) if self._meters else ""

    def results(self) -> tuple[dict[str, float], dict[str, Any]]:
        """Return the figures and the evidence read so far, also of an arm that did not reach its end."""
        figures, evidence = self._meters.results() if self._meters else ({}, {})
        return {**figures, **self._figures}, {**evidence, **self._evidence}


def warm_up(modules: Sequence[str]) -> None:
    """Import what the arms of a cell need; what fails here is the business of the arm that needs it."""
    for module in modules:
        try:
            importlib.import_module(module)
        except Exception:  # noqa: BLE001 - a package on trial may raise anything
            traceback.print_exc()


def seed() -> None:
    """Seed every generator that an arm may draw from.

    `torch.manual_seed` would keep, for each kind of device that may come yet, the lines of those who called it: reading
    their files takes 5 to 15 ms, of an arm's 30.
    """
    import torch

    warnings.simplefilter("ignore", FutureWarning)
    random.seed(SEED)
    # The pool of threads that torch had in the fork server is gone. Left to autograd's, several make it anew at once,
    # and one that finds none aborts the process.
    torch.set_num_threads(torch.get_num_threads())
    torch.default_generator.manual_seed(SEED)
    if torch.cuda.is_available():
        torch.cuda.manual_seed_all(SEED)
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        numpy.random.seed(SEED)


if __name__ == "__main__":
    sys.exit(main())
