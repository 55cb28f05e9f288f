"""Controls that are tried once for all cells of a run, where nothing that they can use differs between the cells.

A reference and a planted bug are the suite's own code over torch. So each is tried where the packages under test
cannot be imported (`repros.worker.alone`), and its observation, which names the cell that it was made in, serves every
later trial of the same source and condition under the same build of torch on the same machine. A control that asks for
a package under test says which, and is tried in each cell.
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from repros.case import CONTROLS
from repros.run.record import Record
from repros.verdict import Observation
from repros.worker.arm import ASKED_FOR

#: Evidence of a control that was tried without the packages under test: the label of the cell that lent its torch.
TRIED_IN = "tried_in"
#: The ways in which a run may try its controls.
SHARED, EVERY_CELL = "shared", "every-cell"
WAYS = (SHARED, EVERY_CELL)
WAYS_HELP = "try a control once for all cells that agree in torch (default where there are several), or in every cell"

Key = tuple[str, ...]


class Place(Protocol):
    """A cell that can try an arm with its packages, and without those under test."""

    @property
    def cell(self) -> str:
        """Its label."""

    def observe(self, request: Mapping[str, Any], log: Path, fresh: bool = False, cards: int = 1) -> Observation:
        """Run one arm."""

    def observe_alone(self, request: Mapping[str, Any], log: Path, cards: int = 1) -> Observation:
        """Run one arm where the packages under test cannot be imported."""


class Controls:
    """What a run knows of its controls; any thread may ask."""

    def __init__(self, records: Iterable[Record] = ()) -> None:
        self._kept: dict[Key, Observation] = {}
        self._lock = threading.Lock()
        for record in records:
            self.keep(record)

    def keep(self, record: Record) -> None:
        """Take what a finished trial tells of its controls."""
        for arm in record.arms:
            if arm.arm in CONTROLS and {TRIED_IN, ASKED_FOR} & set(arm.evidence):
                key = key_of(record.case, record.condition, arm.arm, record.source, record.environment, record.machine)
                with self._lock:
                    self._kept.setdefault(key, arm)

    def forget(self, cell: str) -> None:
        """Leave out what was tried in a cell whose environment was not what it says."""
        with self._lock:
            self._kept = {key: arm for key, arm in self._kept.items() if arm.evidence.get(TRIED_IN) != cell}

    def observe(self, place: Place, key: Key, request: Mapping[str, Any], log: Path, cards: int = 1) -> Observation:
        """Return what is known of a control, or try it: alone, and in the cell where it asks for a package."""
        with self._lock:
            kept = self._kept.get(key)
        if kept is not None and TRIED_IN in kept.evidence:
            return kept
        asked = kept.evidence[ASKED_FOR] if kept is not None else ()
        if not asked:
            seen = place.observe_alone(request, log, cards)
            asked = seen.evidence.get(ASKED_FOR, ())
            if not asked and seen.state in ("done", "raised"):
                return replace(seen, evidence={**seen.evidence, TRIED_IN: place.cell})
            with contextlib.suppress(OSError):
                log.unlink()
        seen = place.observe(request, log, cards=cards)
        return replace(seen, evidence={**seen.evidence, ASKED_FOR: list(asked)}) if asked else seen


def tried_elsewhere(record: Record) -> dict[str, str]:
    """Return, of the controls that this trial leans on, the cell of each that was tried in another trial."""
    found = {arm.arm: arm.evidence.get(TRIED_IN, record.cell) for arm in record.arms}
    return {arm: cell for arm, cell in found.items() if cell != record.cell}


def way(given: str | None, cells: int) -> str:
    """Return how a call over so many cells tries its controls, where the user says and where not."""
    return given or (SHARED if cells > 1 else EVERY_CELL)


def key_of(
    case: str, condition: str, arm: str, source: str, environment: Mapping[str, Any], machine: Mapping[str, Any]
) -> Key:
    """Return what has to be the same for one observation of a control to serve two trials."""
    torch = environment.get("packages", {}).get("torch", "")
    return case, condition, arm, source, torch, environment.get("build", ""), json.dumps(machine, sort_keys=True)
