"""A run over the harness's own case in this interpreter: ``harness_run FOLDER`` begins it, or goes on with it.

It stands on the same session, server, supervisor and results as the two runners do, and imports torch alone.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

from repros import ROOT
from repros.cases import entry
from repros.cells.matrix import Cell, load_matrix
from repros.machine import interrupts
from repros.run.results import Run, settled
from repros.run.server import CellServer, Clock
from repros.run.session import Session
from repros.run.trial import Trial

CONDITIONS = ("passes", "breaks", "raises-symptom", "leaves-daemon", "fix-cures", "fix-makes-wrong")
METERS = tuple(f"repros.meters.{name}" for name in ("ledger", "saved", "heap", "numerics"))


class Here:
    """A place whose arms run in forks of this interpreter."""

    device, versions, facts = "cpu", {"torch": "2.13.0"}, {"packages": {"torch": "2.13.0"}}

    def __init__(self, cell: Cell, clock: Clock) -> None:
        self.cell = cell.label
        self.server = CellServer(Path(sys.executable), clock, cell.label, "cpu", ("torch", "torch._dynamo", *METERS))
        self.observe = self.server.observe


class HereSession(Session):
    """A session of which every cell is here."""

    def ready(self, cell: Cell) -> Any:
        """Return the place."""
        if cell.label not in self._ready:
            self._ready[cell.label] = Here(cell, self.clock)  # type: ignore[assignment]
        return self._ready[cell.label]

    def end(self) -> None:
        """End the session, and its places."""
        places: list[Any] = list(self._ready.values())
        self.close()
        for place in places:
            place.server.close()


def main() -> int:
    """Try what is not settled yet."""
    run = Run(Path(sys.argv[1]))
    case, cell = entry(importlib.import_module("tests.selftest.st_harness")), load_matrix(ROOT / "matrix.yaml").cells[0]
    trials = [Trial(case, case.condition(name), cell.label) for name in CONDITIONS]
    order = [(trial, cell) for trial in trials if trial.key not in settled(run.folder)]
    session = HereSession(run, jobs=2)
    try:
        for at in range(len(order)):
            session.finish(*order[at])
            for ahead in order[at + 1 : at + 3]:
                session.start(*ahead)
    finally:
        with interrupts.held():
            session.end()
            run.note("time", seconds=session.clock.summary())
    return 0


if __name__ == "__main__":
    sys.exit(interrupts.guard(main))
