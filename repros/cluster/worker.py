"""What a worker of a cluster does: one order at a time, in cells that stay ready from one to the next.

This module and what it imports run in the worker's own process, which has this suite and dask.distributed; the arms run
in the cells' interpreters, as everywhere. Environments are built below the worker's cache folder, by one process of a
machine at a time.
"""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import shutil
import threading
import uuid
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from repros import ROOT, cases
from repros.bisect.probe import Workshop
from repros.bisect.revisions import Revision
from repros.cells.envs import EnvError, ensure
from repros.cells.matrix import Cell
from repros.machine.workdir import WorkFolder, clear_once
from repros.run.server import Clock, pool
from repros.run.session import ReadyCell, machine_facts, void
from repros.run.trial import Running, Trial

#: Cells whose packages stay imported: orders come cell by cell, and a bisection's two by two.
KEPT_CELLS = 2


@dataclass(frozen=True)
class TrialOrder:
    """A trial for a worker; ``cases`` are the modules of all that this run tries."""

    suite: str
    module: str
    condition: str
    cell: Cell
    cases: frozenset[str]
    snapshots: bool = False

    @property
    def where(self) -> str:
        """Return the cell's label."""
        return self.cell.label


@dataclass(frozen=True)
class ProbeOrder:
    """A probe of a case at a revision; ``fresh`` asks for an environment of its own."""

    suite: str
    module: str
    condition: str
    package: str
    revision: Revision
    cases: frozenset[str]
    fresh: bool = False

    @property
    def where(self) -> str:
        """Return the revision's name."""
        return f"{self.package} {self.revision.name}"


@dataclass(frozen=True)
class Answer:
    """What came of an order: a record or a probe as plain data and the logs, or why this worker cannot."""

    found: Any = None
    logs: Mapping[str, bytes] = field(default_factory=dict)
    cannot: str = ""
    kind: str = ""
    """Of what it cannot: ``unsupported`` or ``error``."""
    worker: str = ""


@lru_cache(maxsize=1)
def suite() -> str:
    """Return the SHA-256 of the sources that decide a verdict."""
    total = hashlib.sha256()
    files = [*(ROOT / "repros").rglob("*.py"), *(ROOT / "fixtures").rglob("*.json"), ROOT / "matrix.yaml"]
    for path in sorted(files):
        total.update(path.relative_to(ROOT).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return total.hexdigest()


class Bench:
    """What one worker process holds: its cells, and the pool in which the arms of a trial take turns."""

    def __init__(self, threads: int) -> None:
        clear_once()
        self.clock = Clock()
        self.arms = pool(threads)
        self.machine = machine_facts()
        self.folder = WorkFolder("cluster")
        self._cells: OrderedDict[tuple[str, frozenset[str]], ReadyCell | EnvError] = OrderedDict()
        self._shops: dict[tuple[str, frozenset[str]], Workshop] = {}
        self._using: dict[tuple[str, frozenset[str]], int] = {}
        self._lock = threading.Lock()
        self.threads = threads

    @contextlib.contextmanager
    def cell(self, cell: Cell, modules: frozenset[str]) -> Iterator[ReadyCell]:
        """Have a cell ready; those used longest ago are given back, but for what another thread is in."""
        key = (cell.label, modules)
        with self._lock:
            if key not in self._cells:
                try:
                    self._cells[key] = ReadyCell(ensure(cell, root=ROOT), self.clock, modules)
                except EnvError as error:
                    self._cells[key] = error
            self._cells.move_to_end(key)
            found = self._cells[key]
            if isinstance(found, EnvError):
                raise found
            self._using[key] = self._using.get(key, 0) + 1
            idle = [one for one in self._cells if not self._using.get(one)]
            for one in idle[: max(0, len(self._cells) - KEPT_CELLS)]:
                _close(self._cells.pop(one))
        try:
            yield found
        finally:
            with self._lock:
                self._using[key] -= 1

    def drop(self, cell: Cell, modules: frozenset[str]) -> None:
        """Give a cell back whose environment is not what it was: the next order builds it anew."""
        with self._lock:
            _close(self._cells.pop((cell.label, modules), None))

    def shop(self, package: str, modules: frozenset[str]) -> Workshop:
        """Return the workshop of a bisection."""
        with self._lock:
            key = (package, modules)
            if key not in self._shops:
                logs = self.folder.path / "probes" / "logs"
                logs.mkdir(parents=True, exist_ok=True)
                self._shops[key] = Workshop(package, logs, jobs=self.threads, say=lambda text: None, cases=modules)
            return self._shops[key]

    def close(self) -> None:
        """End every supervisor."""
        with self._lock:
            for found in self._cells.values():
                _close(found)
            self._cells.clear()
            for shop in self._shops.values():
                shop.close()
            self._shops.clear()
        self.arms.shutdown(wait=False, cancel_futures=True)
        self.folder.close()


def _close(found: ReadyCell | EnvError | None) -> None:
    if isinstance(found, ReadyCell):
        found.close()


_bench: Bench | None = None
_bench_lock = threading.Lock()


def bench() -> Bench:
    """Return this process's bench."""
    global _bench
    with _bench_lock:
        if _bench is None:
            from distributed import get_worker

            _bench = Bench(get_worker().state.nthreads)
        return _bench


@atexit.register
def clear() -> None:
    """Give back what this process holds."""
    global _bench
    with _bench_lock:
        found, _bench = _bench, None
    if found is not None:
        found.close()


def _carried_out(order: TrialOrder | ProbeOrder, work: Callable[[Bench], Answer]) -> Answer:
    """Do the work of an order; say why this worker cannot where that is its machine's or its sources' fault."""
    from distributed import get_worker

    address = get_worker().address
    if order.suite != suite():
        return Answer(cannot="it runs another suite: its sources differ", kind="error", worker=address)
    try:
        return work(bench())
    except EnvError as error:
        return Answer(cannot=error.what, kind=error.kind, worker=address)


def try_trial(order: TrialOrder) -> Answer:
    """Try a trial and return its record as plain data, with its logs."""
    return _carried_out(order, lambda bench: _trial(order, bench))


def _trial(order: TrialOrder, bench: Bench) -> Answer:
    entry = cases.load(order.module)
    trial = Trial(entry, entry.condition(order.condition), order.cell.label)
    logs = bench.folder.path / uuid.uuid4().hex[:12] / "logs"
    logs.mkdir(parents=True)
    try:
        with bench.cell(order.cell, order.cases) as place:
            record = Running(trial, place, bench.arms, logs, bench.machine, order.snapshots).record()
            changed = place.environment.damage() if record.arms else ""
        if changed:
            record = void(record, changed)
            bench.drop(order.cell, order.cases)
        return Answer(record.to_line(), _files(logs))
    finally:
        shutil.rmtree(logs.parent, ignore_errors=True)


def probe(order: ProbeOrder) -> Answer:
    """Probe a revision and return the probe as plain data."""
    return _carried_out(order, lambda bench: _probe(order, bench))


def _probe(order: ProbeOrder, bench: Bench) -> Answer:
    shop, entry = bench.shop(order.package, order.cases), cases.load(order.module)
    future = shop.prepare_fresh(order.revision) if order.fresh else shop.prepare(order.revision)
    try:
        found = shop.try_here(entry, order.condition, order.revision, future, order.fresh)
    finally:
        if order.fresh:
            shop.drop_fresh(order.revision)
        shop.trim({order.revision.name})
    return Answer(found.to_line())


def _files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}
