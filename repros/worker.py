"""The child: one arm of one trial, in the cell's interpreter.

It writes one observation as JSON to a file of its own (a part file, then a rename), so nothing that an arm prints
can be taken for a result. Standard library only at import time: it is imported in the cell's environment, which holds
the pins and nothing of ours, and once as a check on every Python of the matrix.
"""

from __future__ import annotations

import importlib
import json
import os
import random
import re
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from repros.case import Case
from repros.verdict import Observation

if TYPE_CHECKING:
    from repros.meters.ledger import Ledger
    from repros.meters.saved import SavedTensors

#: A package that has no kernel for the device says so like this; anything else that fails is an error.
NO_KERNEL = re.compile(r"Could not run 'bitsandbytes::|not (implemented|supported) (for|on) the CPU|no kernel image")
SEED = 1234


def main(argv: list[str] | None = None) -> int:
    """Run the arm that a request file describes, in this interpreter."""
    path = (sys.argv[1:] if argv is None else argv)[0]
    run(json.loads(Path(path).read_text(encoding="utf-8")))
    return 0


def run(request: Mapping[str, Any]) -> None:
    """Take a session, a temp folder and a log of one's own, run the arm, write the observation."""
    os.setsid()
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
    observation = observe(request).to_json()
    part = folder / "observation.part"
    part.write_text(json.dumps(observation, allow_nan=False), encoding="utf-8")
    part.rename(folder / "observation.json")


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
    probe = Probe()
    state, reason, exception = "done", "", None
    try:
        probe.run(request)
    except BaseException as error:  # noqa: BLE001 - whatever ends an arm is what was observed of it
        traceback.print_exc()
        exception = describe(error, probe.phase)
        state, reason = "raised", f"{type(error).__name__} in phase {probe.phase}: {exception['text'].strip()[:300]}"
        if NO_KERNEL.search(str(error)):
            state, reason = "unsupported", f"no kernel for this device: {str(error).splitlines()[0][:200]}"
        elif isinstance(error, MemoryError) or "can't allocate memory" in str(error):
            reason = f"out of memory in phase {probe.phase}: {str(error)[:200]}"
    ended = time.monotonic()
    figures, evidence = probe.results()
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


def describe(error: BaseException, phase: str) -> dict[str, Any]:
    """Return the exception's type names (most derived first), text, phase and innermost frames."""
    frames = traceback.extract_tb(error.__traceback__)[-3:]
    return {
        "types": [cls.__name__ for cls in type(error).__mro__ if cls is not object],
        "text": str(error)[:2000],
        "phase": phase,
        "frames": [f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in frames],
    }


class Probe:
    """Drives an arm's generator and reads the meters at its phases."""

    def __init__(self) -> None:
        self.phase = "import"
        self.seconds: dict[str, float] = {}
        self._ledger: Ledger | None = None
        self._saved: SavedTensors | None = None
        self._figures: dict[str, float] = {}
        self._evidence: dict[str, Any] = {}

    def run(self, request: Mapping[str, Any]) -> None:
        """Prepare, run the arm phase by phase, compare with the oracle."""
        began = time.monotonic()
        module = importlib.import_module(request["module"])
        case: Case = module.CASE
        arm: Callable[[Any], Any] = getattr(module, request["arm"])
        seed()

        from repros.meters.heap import open_heap
        from repros.meters.ledger import Ledger
        from repros.meters.saved import SavedTensors

        ledger = self._ledger = Ledger(open_heap(), case.gate)
        self._saved = SavedTensors(ledger)
        with ledger.open():
            self._mark("prepare")
            inputs = module.prepare(request["params"], request["checkpoint"])
            oracle = module.oracle(inputs) if hasattr(module, "oracle") else {}
            seed()
            steps = arm(inputs)
            self.seconds["import"] = time.monotonic() - began
            with self._saved.open():
                result = self._drive(steps)
        ledger.close()
        self._compare(result, oracle)

    def _drive(self, steps: Any) -> Mapping[str, Any]:
        assert self._ledger is not None
        while True:
            before = time.monotonic()
            try:
                name = next(steps)
            except StopIteration as stop:
                self._spend(before)
                self._end()
                return stop.value or {}
            self._spend(before)
            self._boundary(name)

    def _spend(self, since: float) -> None:
        self.seconds[self.phase] = self.seconds.get(self.phase, 0.0) + time.monotonic() - since

    def _boundary(self, name: str) -> None:
        ledger = self._ledger
        assert ledger is not None
        if len(ledger.phases) == 1:
            ledger.start()
        if name == "backward":
            self._held()
        ledger.enter(name)
        self._mark(name)

    def _mark(self, name: str) -> None:
        self.phase = name

    def _held(self) -> None:
        """Read what is held from forward to backward, after a collection: what a cycle keeps is kept by nobody."""
        import gc

        from repros.meters.ledger import tally

        ledger, saved = self._ledger, self._saved
        assert ledger is not None and saved is not None
        self._evidence["held_before_gc_bytes"] = ledger.live_bytes
        gc.collect()
        self._figures["held_bytes"] = ledger.live_bytes
        heap = ledger.read_heap()
        if heap is not None:
            self._figures["heap_held_bytes"] = heap
        self._figures["saved_bytes"] = saved.saved_bytes
        self._evidence["held"] = tally(ledger.alive())
        self._evidence["saved"] = saved.rows()

    def _end(self) -> None:
        import gc

        ledger = self._ledger
        assert ledger is not None
        gc.collect()
        self._figures["live_end_bytes"] = ledger.live_bytes
        self._figures["live_end_16bit_bytes"] = ledger.live_16bit_bytes
        from repros.meters.ledger import tally

        self._evidence["alive_at_end"] = tally(ledger.alive())

    def _compare(self, result: Mapping[str, Any], oracle: Mapping[str, Any]) -> None:
        from repros.meters.numerics import compare

        if oracle:
            figures, errors = compare(result, oracle)
            self._figures.update(figures)
            self._evidence["errors"] = {
                name: error if error < float("inf") else "inf" for name, error in errors.items()
            }
        for name, value in result.items():
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                self._figures[name] = value

    def results(self) -> tuple[dict[str, float], dict[str, Any]]:
        """Return the figures and the evidence read so far, also of an arm that did not reach its end."""
        ledger = self._ledger
        if ledger is not None and len(ledger.phases) > 1:
            self._figures.update(
                peak_live_bytes=ledger.peak_live_bytes,
                peak_live_16bit_bytes=ledger.peak_live_16bit_bytes,
                peak_live_16bit_heap_bytes=ledger.peak_live_16bit_heap_bytes,
                peak_heap_bytes=ledger.peak_heap_bytes,
            )
            self._evidence.update(
                alive_at_peak=ledger.peak_alive,
                phases=ledger.phases,
                threads=len(ledger.threads),
                timeline=ledger.timeline(),
            )
            if ledger.gate_waited_s is not None:
                self._evidence["gate_waited_s"] = round(ledger.gate_waited_s, 3)
        return self._figures, self._evidence


def seed() -> None:
    """Seed every generator that an arm may draw from."""
    import torch

    warnings.simplefilter("ignore", FutureWarning)
    random.seed(SEED)
    torch.manual_seed(SEED)
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        numpy.random.seed(SEED)


if __name__ == "__main__":
    sys.exit(main())
