"""Arms that are tried once for all cells of a run, where nothing that they can use differs between the cells.

A reference and a planted bug are the suite's own code over torch; a case whose source names bitsandbytes and no other
package under test has arms that use torch and bitsandbytes. So each is tried where nothing else under test can be
imported (`repros.worker.alone`), and its observation, which names the cell that it was made in, serves every later
trial of the same source and condition under the same build of torch, and for the latter the same bitsandbytes, on the
same machine. An arm that asks for one more package says which, and is tried with it: in the end in each cell.

In one cell a control is tried once for all conditions of a case that agree in what it asks of them: given the same, it
does the same.
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from repros.case import CONTROLS, Condition
from repros.run.record import Record
from repros.verdict import Observation
from repros.worker.arm import ASKED_FOR, READS

#: Evidence of an arm that was tried without other packages under test: the label of the cell that lent the rest.
TRIED_IN = "tried_in"
#: Evidence beside it: those that it was tried with, if any.
TRIED_WITH = "tried_with"
#: Evidence of a control that was tried under another condition, which gives it the same: that one's name.
TRIED_AS = "tried_as"
#: The ways in which a run may try its controls, and other arms that can be shared.
SHARED, EVERY_CELL = "shared", "every-cell"
WAYS = (SHARED, EVERY_CELL)
WAYS_HELP = (
    "try a control once for all cells that agree in torch, and what uses bitsandbytes alone once for those that agree "
    "in it too (default where there are several), or try all in every cell"
)
#: Packages under test that an arm is tried with where it is shared: a control with none; if it asks, and any other, so.
NOTHING: tuple[str, ...] = ()
KERNELS = ("bitsandbytes",)
LENT = (NOTHING, KERNELS)

#: In the place of an attribute that a condition has not, which an arm may ask for all the same.
MISSING = object()

Key = tuple[str, ...]


class Place(Protocol):
    """A cell that can try an arm with its packages, and with some of those under test alone."""

    @property
    def cell(self) -> str:
        """Its label."""

    @property
    def facts(self) -> Mapping[str, Any]:
        """What a record keeps of its environment."""

    def observe(self, request: Mapping[str, Any], log: Path, fresh: bool = False, cards: int = 1) -> Observation:
        """Run one arm."""

    def observe_with(self, lent: tuple[str, ...], request: Mapping[str, Any], log: Path, cards: int = 1) -> Observation:
        """Run one arm where of the packages under test these alone can be imported."""


@dataclass(frozen=True)
class Shared:
    """An arm of a trial that may be tried once: what it is, and with which packages under test, the fewest first."""

    case: str
    condition: str
    arm: str
    source: str
    lent: tuple[tuple[str, ...], ...]
    machine: str
    given: Condition | None = None
    """The condition itself, of a control alone."""

    def key(self, lent: tuple[str, ...], environment: Mapping[str, Any]) -> Key:
        """Return what has to be the same for one observation to serve two trials."""
        packages, build = environment.get("packages", {}), environment.get("build", "")
        versions = [f"{name}=={packages.get(name, '')}" for name in ("torch", *lent)]
        return self.case, self.condition, self.arm, self.source, self.machine, build, *versions


def lendings(arm: str, imported: Collection[str], environment: Mapping[str, Any]) -> tuple[tuple[str, ...], ...]:
    """Return the packages under test that an arm may be tried with once, the fewest first; empty if in each cell alone.

    ``imported`` is what its case's source imports. A checkout in place of bitsandbytes is not told by its version.
    """
    used = set(imported) & (environment.get("packages", {}).keys() - {"torch"})
    no_more = used <= set(KERNELS) and not set(KERNELS) & environment.get("overrides", {}).keys()
    return ((NOTHING,) if arm in CONTROLS else ()) + ((KERNELS,) if no_more else ())


class Controls:
    """What a run knows of arms that are shared; any thread may ask.

    ``cells`` maps those of the run to their pins, in their order; where there is one, others may be tried later.
    """

    def __init__(self, records: Iterable[Record] = (), cells: Mapping[str, Mapping[str, str]] | None = None) -> None:
        self._cells = cells if cells and len(cells) > 1 else {}
        self._kept: dict[Key, Observation] = {}
        self._asked: dict[Key, list[str]] = {}
        #: Packages that are lent, and the cells that agree in them -> the one whose interpreter has these alone.
        self._lenders: dict[tuple[tuple[str, ...], tuple[str, ...]], str] = {}
        self._lock = threading.Lock()
        #: Held while an arm is tried: a cell that begins before another has ended waits for what that one tries.
        self._trying: dict[Key, threading.Lock] = {}
        #: Case, arm and whatever else must be the same -> what was tried: under which condition, what it asked of that.
        self._seen: dict[Key, list[tuple[str, dict[str, Any], Observation]]] = {}
        for record in records:
            self.keep(record)

    def agreeing(self, cell: str, lent: tuple[str, ...]) -> list[str]:
        """Return the cells of the run, in their order, whose torch and lent packages are this one's; it is among them.

        Of a cell that the run does not name nothing is known, and none is returned.
        """
        pins = self._cells.get(cell, {})
        return [
            other
            for other, its in self._cells.items()
            if pins and all(its.get(name) == pins.get(name) for name in ("torch", *lent))
        ]

    def first_of(self, cell: str) -> list[tuple[str, ...]]:
        """Return the packages with which arms are tried first in this cell, and not again in some later ones."""
        groups = {lent: self.agreeing(cell, lent) for lent in LENT}
        return [lent for lent, cells in groups.items() if len(cells) > 1 and cells[0] == cell]

    def _lends(self, cell: str, lent: tuple[str, ...]) -> bool:
        """Return whether an arm is tried in this cell with these packages alone: in one of those that could share it.

        What that one could not try, as its releases do not meet a condition, is not worth an interpreter more.
        """
        cells = tuple(self.agreeing(cell, lent))
        if len(cells) < 2:
            return not cells  # of others nothing is known; or it would serve nobody else
        with self._lock:
            return self._lenders.setdefault((lent, cells), cell) == cell

    def keep(self, record: Record) -> None:
        """Take what a finished trial tells of arms that were shared, or that asked for a package."""
        for arm in record.arms:
            if not {TRIED_IN, ASKED_FOR} & set(arm.evidence):
                continue
            asked = arm.evidence.get(ASKED_FOR, [])
            served = lent_to(arm) if TRIED_IN in arm.evidence else None
            what = Shared(record.case, record.condition, arm.arm, record.source, LENT, of_machine(record.machine))
            for lent in LENT:
                key = what.key(lent, record.environment)
                with self._lock:
                    if lent == served:
                        self._kept.setdefault(key, arm)
                    elif not set(asked) <= set(lent):
                        self._asked.setdefault(key, asked)

    def forget(self, cell: str) -> None:
        """Leave out what was tried in a cell whose environment was not what it says."""
        with self._lock:
            self._kept = {key: arm for key, arm in self._kept.items() if arm.evidence.get(TRIED_IN) != cell}
            self._lenders = {of: lender for of, lender in self._lenders.items() if lender != cell}
            for tried in self._seen.values():
                tried[:] = [(c, asked, seen) for c, asked, seen in tried if seen.evidence.get(TRIED_IN) != cell]

    def observe(self, place: Place, what: Shared, request: Mapping[str, Any], log: Path, cards: int = 1) -> Observation:
        """Return what is known of an arm, or try it; a control waits for one that may come to be its own."""
        if what.given is None:
            return self._observe(place, what, request, log, cards)
        same = {name: value for name, value in request.items() if name != "condition"}
        kind = (what.case, what.arm, what.source, what.machine, place.cell, f"{cards} {same}")
        while True:
            turn = self._turn(kind, what.given)
            with turn:
                if turn is not self._turn(kind, what.given):
                    continue  # more is known by now of what such an arm asks for
                seen = self._as_another(kind, what.given) or self._observe(place, what, request, log, cards)
                if TRIED_AS not in seen.evidence and seen.state in ("done", "raised") and READS in seen.evidence:
                    asked = {name: getattr(what.given, name, MISSING) for name in seen.evidence[READS]}
                    with self._lock:
                        self._seen.setdefault(kind, []).append((what.condition, asked, seen))
                return seen

    def _turn(self, kind: Key, given: Condition) -> threading.Lock:
        """Return what is held while such an arm is tried: by all at first, then by those that agree in what it asks."""
        with self._lock:
            known = self._seen.get(kind, [])
            agree = [repr(getattr(given, name, MISSING)) for name in known[0][1]] if known else []
            return self._trying.setdefault((*kind, *agree), threading.Lock())

    def _as_another(self, kind: Key, given: Condition) -> Observation | None:
        """Return what was observed under another condition that gives an arm all that it asked for alike."""
        with self._lock:
            for condition, asked, seen in self._seen.get(kind, []):
                agree = all(getattr(given, name, MISSING) == value for name, value in asked.items())
                if agree and condition != given.name:
                    return replace(seen, evidence={**seen.evidence, TRIED_AS: condition})
        return None

    def _observe(self, place: Place, what: Shared, request: Mapping[str, Any], log: Path, cards: int) -> Observation:
        """Return what is known of an arm, or try it: with as little as it asks for, in the end in the cell."""
        asked: list[str] = []
        for lent in what.lent:
            if not set(asked) <= set(lent):
                break
            key = what.key(lent, place.facts)
            with self._lock:
                trying = self._trying.setdefault(key, threading.Lock())
            with trying:
                kept, refused = self._kept.get(key), self._asked.get(key)
                if kept is not None:
                    return kept
                if refused is None and not self._lends(place.cell, lent):
                    continue
                if refused is None:
                    seen = place.observe_with(lent, request, log, cards)
                    refused = seen.evidence.get(ASKED_FOR, [])
                    if not refused and seen.state in ("done", "raised"):
                        told = {name: list(found) for name, found in ((ASKED_FOR, asked), (TRIED_WITH, lent)) if found}
                        seen = replace(seen, evidence={**seen.evidence, **told, TRIED_IN: place.cell})
                        with self._lock:
                            self._kept[key] = seen
                        return seen
                    with contextlib.suppress(OSError):
                        log.unlink()
                    if not refused:
                        break  # it came to no end of its own: more packages are no help
                    with self._lock:
                        self._asked[key] = refused
            asked = sorted({*asked, *refused})
        seen = place.observe(request, log, cards=cards)
        return replace(seen, evidence={**seen.evidence, ASKED_FOR: asked}) if asked else seen


def lent_to(arm: Observation) -> tuple[str, ...]:
    """Return the packages under test that a shared arm was tried with."""
    return tuple(arm.evidence.get(TRIED_WITH, NOTHING))


def tried_as(record: Record) -> dict[str, str]:
    """Return, of the arms that this trial leans on, of each tried under another condition that one's name."""
    return {arm.arm: arm.evidence[TRIED_AS] for arm in record.arms if TRIED_AS in arm.evidence}


def tried_elsewhere(record: Record) -> dict[str, tuple[str, tuple[str, ...]]]:
    """Return, of the arms that this trial leans on, of each tried in another that one's cell, and what it was lent."""
    return {
        arm.arm: (arm.evidence[TRIED_IN], lent_to(arm))
        for arm in record.arms
        if arm.evidence.get(TRIED_IN, record.cell) != record.cell
    }


def way(given: str | None, cells: int) -> str:
    """Return how a call over so many cells tries what can be shared, where the user says and where not."""
    return given or (SHARED if cells > 1 else EVERY_CELL)


def of_machine(machine: Mapping[str, Any]) -> str:
    """Return a machine's facts as one text."""
    return json.dumps(machine, sort_keys=True)
