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
from repros.run.controls import EVERY_CELL, KERNELS, NOTHING, SHARED, Controls, tried_elsewhere
from repros.run.link import LostError
from repros.run.results import Record, Run, load
from repros.run.server import CellServer, Clock, pool
from repros.run.trial import Running, Trial, not_run
from repros.verdict import SETTLED, Observation, Outcome, Verdict, is_failure
from repros.worker import checkpoints

#: An arm that is to have this much of a card waits for it in a pool of its own, and keeps no smaller one from running.
LARGE_BYTES = 4 << 30
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


def _written(recipe: str) -> Future[str] | None:
    """Return a checkpoint that is there, as one that was waited for; None where it is to be written, or to be told."""
    with contextlib.suppress(UserError):
        if folder := checkpoints.there(recipe):
            found: Future[str] = Future()
            found.set_result(str(folder))
            return found
    return None


class ReadyCell:
    """A cell whose environment stands; a supervisor starts with its first arm."""

    def __init__(
        self,
        environment: Environment,
        clock: Clock,
        cases: Collection[str] | None = None,
        apart: Apart | None = None,
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
        self._lending = {
            lent: serving([name for name in cell.pins if name not in ("torch", *lent)]) for lent in (NOTHING, KERNELS)
        }
        self._checkpoints: dict[str, Future[str]] = {}
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")  # writing one takes every core
        self._writing: subprocess.Popen[str] | None = None
        self._lock = threading.Lock()
        self.observe = self.server.observe

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
        with self._lock:
            if recipe not in self._checkpoints:
                self._checkpoints[recipe] = _written(recipe) or self._writer.submit(self._write, recipe)
            return self._checkpoints[recipe]

    def _write(self, recipe: str) -> str:
        command = [str(self.environment.python), "-m", "repros.worker.checkpoints", recipe]
        pipe = subprocess.PIPE
        with subprocess.Popen(command, env=self.server.environment(), stdout=pipe, stderr=pipe, text=True) as process:
            self._writing = process
            out, err = process.communicate()
        if process.returncode:
            lines = err.strip().splitlines()[-2:]
            raise UserError(lines[0] if lines else f"checkpoint {recipe}: not made", lines[-1] if lines else "")
        return out.strip().splitlines()[-1]

    def observe_with(self, lent: tuple[str, ...], request: Mapping[str, Any], log: Path, cards: int = 1) -> Observation:
        """Run an arm where of the packages under test these alone can be imported."""
        return self._lending[lent].observe(request, log, cards=cards)

    def close(self) -> None:
        """End the supervisors; checkpoints that nobody waits for any more are not begun, and not written to the end."""
        self._writer.shutdown(wait=False, cancel_futures=True)
        if self._writing is not None:
            self._writing.kill()
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
    ``controls``: whether what can be shared is tried once for all cells, also those of earlier calls, or in each.
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
    ) -> None:
        clear_once()
        self.run = run
        before = load(run.folder)[0] if controls == SHARED else []
        self._longest = shards.longest(before)
        self._controls = Controls(before) if controls == SHARED else None
        self._apart = Apart(known=True if any(map(told_apart, before)) else None)
        self._snapshots = snapshots
        self._cases = cases
        self.clock = Clock()
        self.machine = machine_facts()
        self._say = say
        self._arms = pool(jobs)
        self._large = self._arms if jobs else pool()
        self._ready: dict[str, ReadyCell | EnvError] = {}
        self._building: dict[str, threading.Lock] = defaultdict(threading.Lock)
        self._running: dict[tuple[str, str, str], Running | Record] = {}
        #: Held while a trial is sent, by the one who asks for it or ahead of that; `close` ends both.
        self._sending = threading.RLock()
        self._closed = False
        self._sent: set[tuple[str, str, str]] = set()
        #: Labels of cells: whose checkpoints were begun, whose trials were asked for, whose packages are imported ahead
        #: of them, whose environment had changed.
        self._begun: set[str] = set()
        self._reached: set[str] = set()
        self._warming: set[str] = set()
        self._spoiled: set[str] = set()
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
                found = ReadyCell(environment, self.clock, self._cases, self._apart)
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

    def warm(self, cell: Cell) -> None:
        """Have a cell's packages imported while the caller goes on with something else; trouble shows at its trials."""

        def begin() -> None:
            with contextlib.suppress(UserError):
                self.ready(cell).server.start()

        threading.Thread(target=begin, daemon=True).start()

    def build(self, cells: Iterable[Cell]) -> None:
        """Have the cells' environments built while the caller goes on; their trouble is told at their trials."""

        def begin() -> None:
            for cell in cells:
                with contextlib.suppress(UserError):
                    if not self._closed:
                        self.ready(cell)

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
            large = cell.device == "cuda" and trial.condition.needs.card_bytes >= LARGE_BYTES
            arms = self._large if large else self._arms
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
        """Finish one trial of an order, with the arms of all others in its cell sent ahead, and then of the next cell.

        Of a trial whose checkpoint is still written they go once that is there. After the last of a cell its supervisor
        is ended; where its environment changed meanwhile, the record is void.
        """
        trial, cell = order[at]
        here, rest = _of_first(order[at:])
        self._send(here, cell, rest)
        if rest and cell.label not in self._reached:
            self._reached.add(cell.label)
            if self._builder is None:
                self.build({its_cell.label: its_cell for _, its_cell in rest}.values())
            self._arms.submit(self._follow, rest)  # its turn comes when every arm before it has begun
        record = self.finish(trial, cell)
        voided = self.leave(cell) if len(here) == 1 else ()
        return next((other for other in voided if other.key == record.key), record)

    def _follow(self, order: Sequence[tuple[Trial, Cell]]) -> None:
        """Send the next cell's trials ahead, if its environment stands: the last arms of this one leave cores idle."""
        cell = order[0][1]
        if self._warmed(cell):
            here, rest = _of_first(order)
            self._send(here, cell, rest)

    def _warmed(self, cell: Cell) -> bool:
        """Import a cell's packages, if its environment stands; return whether it does."""
        place = self._ready.get(cell.label)
        if isinstance(place, ReadyCell):
            with contextlib.suppress(LostError):  # it is told by an arm
                place.server.start()
        return isinstance(place, ReadyCell)

    def _send(self, trials: Sequence[Trial], cell: Cell, rest: Sequence[tuple[Trial, Cell]] = ()) -> None:
        """Send the arms of trials in one cell, the longest first, as far as none would wait for its checkpoint.

        A long one that began last would keep one core busy while the others idle, so one that was not tried yet in any
        cell counts as the longest; of these what needs most of a card goes first. Half way through, the packages of the
        next cell are imported: that takes one core for seconds.
        """
        self._begin_checkpoints(trials, cell)
        waiting = [trial for trial in trials if trial.key not in self._sent]
        took = shards.seconds([(trial, cell) for trial in waiting], self._longest, unknown=math.inf)
        waiting.sort(key=lambda one: (-took[one.key], -one.condition.needs.card_bytes))
        for at, trial in enumerate(waiting):
            if rest and at == len(waiting) // 2 and rest[0][1].label not in self._warming:
                self._warming.add(rest[0][1].label)
                self._arms.submit(self._warmed, rest[0][1])
            with contextlib.suppress(UserError):  # it is told when that trial's turn comes
                if trial.key not in self._sent and self._may_start(trial, cell):
                    self.start(trial, cell)

    def _begin_checkpoints(self, trials: Sequence[Trial], cell: Cell) -> None:
        """Have what the trials of a cell will load written while the first of them run."""
        with self._sending:
            if cell.label in self._begun:
                return
            self._begun.add(cell.label)
        with contextlib.suppress(EnvError):
            place = self.ready(cell)
            for trial in trials:
                recipe = trial.condition.checkpoint
                if recipe and not trial.missing(place.versions):
                    place.begin_checkpoint(recipe)

    def _may_start(self, trial: Trial, cell: Cell) -> bool:
        """Return whether a trial would not have to wait for its checkpoint."""
        recipe = trial.condition.checkpoint
        if not recipe:
            return True
        place = self.ready(cell)
        return bool(trial.missing(place.versions)) or place.begin_checkpoint(recipe).done()

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
