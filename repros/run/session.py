"""A run in progress: cells made ready when they are first needed, trials started ahead, results appended.

Both runners stand on it: pytest (`repros.pytest_plugin`) and the command line (`repros.commands.cli`).
"""

from __future__ import annotations

import contextlib
import math
import subprocess
import threading
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from repros import ROOT
from repros.cells.envs import EnvError, Environment, ensure
from repros.cells.matrix import Cell
from repros.errors import UserError
from repros.machine.host import probe_host
from repros.machine.turns import Apart
from repros.machine.workdir import clear_once
from repros.run import shards
from repros.run.controls import EVERY_CELL, LENT, SHARED, Controls, tried_elsewhere
from repros.run.link import LostError
from repros.run.results import Record, Run, load
from repros.run.server import CellServer, Clock, at_a_time
from repros.run.trial import Running, Trial, not_run
from repros.verdict import SETTLED, Observation, Outcome, Verdict, is_failure
from repros.worker import checkpoints

#: An arm that is to have this much of a card waits for it in a pool of its own, and keeps no smaller one from running.
LARGE_BYTES = 4 << 30
#: Threads for large ones. Of those that wait, the largest that has room goes first, so the more wait the fuller a card.
LARGE_WAITING = 64
#: Threads beside those of arms that run: for arms that wait until their packages are imported.
WAITING = 16
#: What a run names as its machine: enough to compare two runs by, nothing that tells whose it is.
MACHINE_FACTS = ("system", "libc", "cpu_model", "cores", "memory_bytes", "cxx", "gpus", "cpu_flags", "python")


def machine_facts() -> dict[str, Any]:
    """Return what a record keeps of this machine."""
    return {name: value for name, value in probe_host().as_json().items() if name in MACHINE_FACTS}


def is_kept(record: Record) -> bool:
    """Return whether a trial that nobody waited for is kept: one that would fail the run has to be seen to fail.

    Of an arm that crashed it is not known whether the end of the run did that.
    """
    crashed = any(arm.state == "crashed" for arm in record.arms)
    return record.verdict in SETTLED and not record.failed and not crashed


def void(record: Record, why: str) -> Record:
    """Return what is kept of a trial whose environment was not what it says: no verdict, and nothing measured."""
    return replace(
        record,
        verdict=Verdict.ERROR,
        outcome=Outcome.UNSETTLED,
        failed=is_failure(Verdict.ERROR, Outcome.UNSETTLED),
        reason=f"the environment changed while it was used: {why}",
        margins={},
        proposed=None,
        remedies={},
        readings={},
        arms=(),
    )


def told_apart(record: Record) -> bool:
    """Return whether a driver told the bytes of an arm of this trial from those of others on its card."""
    return any(arm.evidence.get("driver_tells_of") == "process" for arm in record.arms)


class CheckpointWriter:
    """Has checkpoints made in a cell's interpreter, one after the other: writing one takes every core."""

    def __init__(self) -> None:
        self._begun: dict[str, Future[str]] = {}
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._process: subprocess.Popen[str] | None = None
        self._lock = threading.Lock()

    def begin(self, recipe: str, python: Path, environment: Mapping[str, str]) -> Future[str]:
        """Return the folder of a checkpoint to come; one that is there, or was begun, is not made again."""
        with self._lock:
            if recipe not in self._begun:
                self._begun[recipe] = self._there(recipe) or self._pool.submit(self._write, recipe, python, environment)
            return self._begun[recipe]

    def _there(self, recipe: str) -> Future[str] | None:
        with contextlib.suppress(UserError):
            if folder := checkpoints.there(recipe):
                found: Future[str] = Future()
                found.set_result(str(folder))
                return found
        return None

    def _write(self, recipe: str, python: Path, environment: Mapping[str, str]) -> str:
        command, pipe = [str(python), "-m", "repros.worker.checkpoints", recipe], subprocess.PIPE
        with subprocess.Popen(command, env=environment, stdout=pipe, stderr=pipe, text=True) as process:
            self._process = process
            out, err = process.communicate()
        if process.returncode:
            lines = err.strip().splitlines()[-2:]
            raise UserError(lines[0] if lines else f"checkpoint {recipe}: not made", lines[-1] if lines else "")
        return out.strip().splitlines()[-1]

    def close(self) -> None:
        """Write to its end nothing that nobody waits for any more."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        if self._process is not None:
            self._process.kill()


class ReadyCell:
    """A cell whose environment stands; a supervisor starts with its first arm.

    ``writer`` makes checkpoints for several cells. ``slot`` is what an arm holds while it runs, given the bytes of a
    card that it asks for; while it waits until packages are imported it holds nothing.
    """

    def __init__(
        self,
        environment: Environment,
        clock: Clock,
        cases: Collection[str] | None = None,
        apart: Apart | None = None,
        writer: CheckpointWriter | None = None,
        slot: Callable[[int], AbstractContextManager[Any]] = contextlib.nullcontext,
    ) -> None:
        cell = environment.cell
        self.cell = cell.label
        self.device = cell.device
        self.environment = environment
        self.versions = {name: self._installed(name).partition("+")[0] for name in cell.pins}
        apart = apart or Apart()

        def serving(without: Collection[str] = ()) -> CellServer:
            return CellServer(
                environment.python, clock, cell.name, cell.device, cases=cases, without=without, apart=apart
            )

        self.server = serving()
        self._lending = {lent: serving([name for name in cell.pins if name not in ("torch", *lent)]) for lent in LENT}
        self._slot = slot
        self._owns_writer = writer is None
        self._writer = writer or CheckpointWriter()

    def _installed(self, package: str) -> str:
        resolved = self.environment.resolved
        return resolved.get(package) or resolved.get(package.replace("_", "-"), "")

    @cached_property
    def facts(self) -> Mapping[str, Any]:
        """Return what a record keeps of the environment."""
        environment = self.environment
        return {
            "packages": {name: self._installed(name) for name in self.versions},
            "build": environment.build,
            "lock": environment.lock_digest,
            "lock_committed": environment.lock_committed,
            "overrides": dict(environment.cell.overrides),
        }

    def checkpoint(self, recipe: str) -> str:
        """Return the folder of a checkpoint, made in the cell's interpreter if it is missing."""
        return self.begin_checkpoint(recipe).result()

    def begin_checkpoint(self, recipe: str) -> Future[str]:
        """Have a checkpoint made, after those begun before it, while the caller goes on."""
        return self._writer.begin(recipe, self.environment.python, self.server.environment())

    def start(self, lent: Iterable[tuple[str, ...]] = ()) -> None:
        """Have the cell's packages imported, and those of interpreters that have these alone; wait until they are."""
        with ThreadPoolExecutor() as pool:
            for begun in [pool.submit(server.start) for server in (self.server, *(self._lending[one] for one in lent))]:
                with contextlib.suppress(LostError):  # it is told by an arm
                    begun.result()

    def observe(self, request: Mapping[str, Any], log: Path, fresh: bool = False, cards: int = 1) -> Observation:
        """Run an arm with the cell's packages."""
        return self._observe(self.server, request, log, fresh, cards)

    def observe_with(self, lent: tuple[str, ...], request: Mapping[str, Any], log: Path, cards: int = 1) -> Observation:
        """Run an arm where of the packages under test these alone can be imported."""
        return self._observe(self._lending[lent], request, log, False, cards)

    def _observe(
        self, server: CellServer, request: Mapping[str, Any], log: Path, fresh: bool, cards: int
    ) -> Observation:
        if not fresh:
            with contextlib.suppress(LostError):  # it is told by the arm
                server.start()
        with self._slot(request.get("card_bytes", 0)):
            return server.observe(request, log, fresh, cards)

    def close(self) -> None:
        """End the supervisors."""
        if self._owns_writer:
            self._writer.close()
        for server in (self.server, *self._lending.values()):
            server.close()


def _of_first(order: Sequence[tuple[Trial, Cell]]) -> tuple[list[Trial], list[tuple[Trial, Cell]]]:
    """Return the trials of an order that are in its first cell, and the rest of it."""
    label = order[0][1].label
    rest = [(trial, cell) for trial, cell in order if cell.label != label]
    return [trial for trial, cell in order if cell.label == label], rest


class Session:
    """Trials under way and the cells they need.

    ``cases`` are the modules of all that it will try, where that is known: nothing else is imported ahead of them.
    ``controls``: whether what can be shared is tried once for all cells, also those of earlier calls, or in each;
    ``cells`` are those of this call, in their order, where that is known.
    """

    def __init__(
        self,
        run: Run,
        *,
        jobs: int | None = None,
        say: Callable[[str], None] = lambda text: None,
        snapshots: bool = False,
        cases: Collection[str] | None = None,
        controls: str = EVERY_CELL,
        cells: Iterable[Cell] = (),
    ) -> None:
        clear_once()
        self.run = run
        before = load(run.folder)[0] if controls == SHARED else []
        self._longest = shards.longest(before)
        pins = {cell.label: cell.pins for cell in cells}
        self._controls = Controls(before, pins) if controls == SHARED else None
        self._apart = Apart(known=True if any(map(told_apart, before)) else None)
        self._snapshots = snapshots
        self._cases = cases
        self.clock = Clock()
        self.machine = machine_facts()
        self._say = say
        slots = at_a_time(jobs)
        self._slots = threading.BoundedSemaphore(slots)
        self._large_bytes = math.inf if jobs else LARGE_BYTES
        self._writer = CheckpointWriter()
        self._arms = ThreadPoolExecutor(slots + WAITING, thread_name_prefix="arm")
        self._large = ThreadPoolExecutor(LARGE_WAITING, thread_name_prefix="large arm")
        self._ready: dict[str, ReadyCell | EnvError] = {}
        self._building: dict[str, threading.Lock] = defaultdict(threading.Lock)
        self._running: dict[tuple[str, str, str], Running | Record] = {}
        #: Held while a trial is sent, by the one who asks for it or ahead of that; `close` ends both.
        self._sending = threading.RLock()
        self._closed = False
        self._sent: set[tuple[str, str, str]] = set()
        #: Keys of trials that are sent once their checkpoint is written.
        self._awaiting: set[tuple[str, str, str]] = set()
        #: Labels of cells: whose trials were asked for, whose packages are imported ahead, whose environment changed.
        self._reached: set[str] = set()
        self._warming: set[str] = set()
        self._spoiled: set[str] = set()
        #: Label of a cell that is to follow once it is built -> the trials from there on.
        self._pending: dict[str, Sequence[tuple[Trial, Cell]]] = {}
        self._given: dict[str, list[Record]] = {}
        #: Keys of the trials that `close` kept: nobody waited for them.
        self.kept: set[tuple[str, str, str]] = set()
        self._builder: threading.Thread | None = None

    def ready(self, cell: Cell) -> ReadyCell:
        """Return the cell, its environment built if need be; EnvError (again) if it cannot be had."""
        with self._building[cell.label]:
            return self._ready_once(cell)

    def _ready_once(self, cell: Cell) -> ReadyCell:
        found = self._ready.get(cell.label)
        if found is None:
            try:
                with self.clock.span("environment"):
                    environment = ensure(cell, root=ROOT, progress=self._say)
                warmth = "warm" if environment.warm else "built"
                self._say(f"{cell.label}: {warmth} in {environment.seconds:.1f} s, torch build: {environment.build}")
                found = ReadyCell(environment, self.clock, self._cases, self._apart, self._writer, self._slot)
            except EnvError as error:
                found = error
            if self._closed:  # it was built for a run that was ended meanwhile
                if isinstance(found, ReadyCell):
                    found.close()
                raise EnvError("error", "the run was ended", "`--resume` goes on with it")
            self._ready[cell.label] = found
        if isinstance(found, EnvError):
            raise found
        return found

    def _slot(self, card_bytes: int) -> AbstractContextManager[Any]:
        """Return what an arm holds while it runs; a large one holds its part of a card."""
        return contextlib.nullcontext() if card_bytes >= self._large_bytes else self._slots

    def warm(self, cell: Cell) -> None:
        """Have a cell's packages imported while the caller goes on with something else; trouble shows at its trials."""

        def begin() -> None:
            with contextlib.suppress(UserError):
                self.ready(cell)
                self._warmed(cell)

        threading.Thread(target=begin, daemon=True).start()

    def build(self, order: Sequence[tuple[Trial, Cell]]) -> None:
        """Have the cells' environments built, and the checkpoints that their trials load, while the caller goes on.

        Their trouble is told at the trials.
        """

        def begin() -> None:
            rest = order
            while rest and not self._closed:
                cell = rest[0][1]
                here, rest = _of_first(rest)
                with contextlib.suppress(UserError):
                    self.ready(cell)
                    self._begin_checkpoints(here, cell)
                with self._sending:
                    waits = self._pending.pop(cell.label, None)
                    if waits and not self._closed:
                        self._arms.submit(self._follow, waits)

        self._builder = threading.Thread(target=begin, daemon=True)
        self._builder.start()

    def start(self, trial: Trial, cell: Cell) -> None:
        """Send a trial's arms on their way; a cell that cannot be had makes the trial's record at once."""
        with self._sending:
            if trial.key not in self._running and not self._closed:
                self._start(trial, cell)
                self._sent.add(trial.key)

    def _start(self, trial: Trial, cell: Cell) -> None:
        try:
            place = self.ready(cell)
            arms = self._large if trial.condition.needs.card_bytes >= self._large_bytes else self._arms
            self._running[trial.key] = Running(
                trial, place, arms, self.run.folder / "logs", self.machine, self._snapshots,
                controls=partial(self._controls.observe, place) if self._controls else None,
            )  # fmt: skip
        except EnvError as error:
            verdict = Verdict.UNSUPPORTED if error.kind == "unsupported" else Verdict.ERROR
            self._running[trial.key] = not_run(trial, verdict, error.what, cell.device, self.machine)

    def finish(self, trial: Trial, cell: Cell) -> Record:
        """Wait for a trial, write its record, return it."""
        record = self._wait_for(trial, cell)
        if self._spoiled & {its_cell for its_cell, _ in tried_elsewhere(record).values()}:
            record = self._wait_for(trial, cell)  # an arm that it leans on is void by now, and forgotten
        self._keep(record)
        return record

    def _wait_for(self, trial: Trial, cell: Cell) -> Record:
        self.start(trial, cell)
        found = self._running.pop(trial.key)
        return found.record() if isinstance(found, Running) else found

    def _keep(self, record: Record) -> None:
        self.run.append(record)
        self._given.setdefault(record.cell, []).append(record)
        self._longest |= shards.longest([record])
        if self._controls is not None:
            self._controls.keep(record)

    def take(self, order: Sequence[tuple[Trial, Cell]], at: int) -> Record:
        """Finish one trial of an order, with the arms of all others in its cell sent ahead, and then of the next cells.

        Of a trial whose checkpoint is still written they go once that is there. After the last of a cell its supervisor
        is ended; where its environment changed meanwhile, the record is void.
        """
        trial, cell = order[at]
        here, rest = _of_first(order[at:])
        self._send(here, cell, rest)
        if rest and cell.label not in self._reached:
            self._reached.add(cell.label)
            if self._builder is None:
                self.build(rest)
            self._arms.submit(self._follow, rest)  # its turn comes when every arm before it has begun
        record = self.finish(trial, cell)
        voided = self.leave(cell) if len(here) == 1 else ()
        return next((other for other in voided if other.key == record.key), record)

    def _follow(self, order: Sequence[tuple[Trial, Cell]]) -> None:
        """Send the next cell's trials ahead once its environment stands, and in their turn those of the cells after it.

        The last arms of a cell leave cores idle, and its large ones that wait for a card what room there is.
        """
        cell = order[0][1]
        here, rest = _of_first(order)
        with self._sending:
            if cell.label not in self._ready:
                self._pending[cell.label] = order
                return
        if self._warmed(cell):
            self._send(here, cell, rest)
        if rest:
            self._arms.submit(self._follow, rest)

    def _warmed(self, cell: Cell) -> bool:
        """Import a cell's packages, if its environment stands; return whether it does.

        Where it is the first of several cells that share arms, also in the interpreters that those are tried in.
        """
        place = self._ready.get(cell.label)
        if isinstance(place, ReadyCell):
            place.start(self._controls.first_of(cell.label) if self._controls else ())
        return isinstance(place, ReadyCell)

    def _send(self, trials: Sequence[Trial], cell: Cell, rest: Sequence[tuple[Trial, Cell]] = ()) -> None:
        """Send the arms of trials in one cell, the longest first, as far as none would wait for its checkpoint.

        A long one that began last would keep one core busy while the others idle, so one that was not tried yet in any
        cell counts as the longest; of these what needs most of a card goes first. After the first of them the next
        cell's packages are imported: that takes one core for seconds, as long as what a later cell has of its own.
        """
        waiting = [trial for trial in trials if trial.key not in self._sent]
        self._begin_checkpoints(waiting, cell)
        took = shards.seconds([(trial, cell) for trial in waiting], self._longest, unknown=math.inf)
        waiting.sort(key=lambda one: (-took[one.key], -one.condition.needs.card_bytes))
        for at, trial in enumerate(waiting):
            if rest and at == len(waiting) // 16 and rest[0][1].label not in self._warming:
                self._warming.add(rest[0][1].label)
                self.warm(rest[0][1])
            with contextlib.suppress(UserError):  # it is told when that trial's turn comes
                written = self._checkpoint(trial, cell)
                if written is None or written.done():
                    self._start_ahead(trial, cell)
                elif trial.key not in self._awaiting:
                    self._awaiting.add(trial.key)
                    written.add_done_callback(partial(self._now_written, trial, cell))

    def _begin_checkpoints(self, trials: Sequence[Trial], cell: Cell) -> None:
        """Have what the trials of a cell will load written while the first of them run."""
        with contextlib.suppress(EnvError):
            for trial in trials:
                self._checkpoint(trial, cell)

    def _checkpoint(self, trial: Trial, cell: Cell) -> Future[str] | None:
        """Return the checkpoint that a trial will load, as it is written; None where it loads none."""
        if not (recipe := trial.condition.checkpoint):
            return None
        place = self.ready(cell)
        return None if trial.missing(place.versions) else place.begin_checkpoint(recipe)

    def _now_written(self, trial: Trial, cell: Cell, written: Future[str]) -> None:
        """Send a trial whose checkpoint is there; in a thread of its own, or the writer would wait for its turn."""
        if not written.cancelled():
            threading.Thread(target=self._start_ahead, args=(trial, cell), daemon=True).start()

    def _start_ahead(self, trial: Trial, cell: Cell) -> None:
        """Send a trial that was not sent yet."""
        with self._sending, contextlib.suppress(UserError):
            if trial.key not in self._sent:
                self.start(trial, cell)

    def leave(self, cell: Cell) -> list[Record]:
        """End a cell's supervisor: no further trial of it is to come; return the records that are void by now."""
        found = self._ready.pop(cell.label, None)
        if not isinstance(found, ReadyCell):
            return []
        found.close()
        return self._take_back(found)

    def _take_back(self, place: ReadyCell) -> list[Record]:
        """Where an environment is not as it was handed out, make void what came of it."""
        given = self._given.pop(place.cell, [])
        why = place.environment.damage() if given else ""
        voided = [void(record, why) for record in given] if why else []
        if voided and self._controls is not None:
            self._spoiled.add(place.cell)
            self._controls.forget(place.cell)
        for record in voided:
            self._say(f"{record.case} [{record.condition}] in {record.cell}: {record.reason}")
            self.run.append(record)  # of a trial that is written twice, the later counts
        return voided

    def close(self) -> None:
        """Call off what did not start, end every supervisor; of what was sent ahead, keep what came to a verdict."""
        with self._sending:
            self._closed = True
        ahead = [running for running in self._running.values() if isinstance(running, Running)]
        whole = [running.record() for running in ahead if running.ended()]  # before any arm is made to end
        for running in ahead:
            running.cancel()
        self._running.clear()
        for arms in (self._arms, self._large):
            arms.shutdown(wait=False, cancel_futures=True)
        self._writer.close()
        places = [found for found in self._ready.values() if isinstance(found, ReadyCell)]
        for place in places:
            place.close()
        self._ready.clear()
        for record in filter(is_kept, whole):
            self._keep(record)
            self.kept.add(record.key)
        for place in places:
            self._take_back(place)

    def wait(self) -> None:
        """Wait for what `build` began: whoever needs it would have to wait as long, and begin anew."""
        if self._builder is not None:
            self._builder.join()
