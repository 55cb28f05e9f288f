"""A dask.distributed cluster as a crew: orders go out, answers come back, and a lost worker costs nothing but time.

dask has the queue, the resources, the dashboard and the word that a worker is gone. What is decided here is what a
loss means: an order whose worker died goes out again, one that a worker cannot carry out goes to others, and a trial's
finding is never asked for twice.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import logging
import pickle
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass, field
from typing import Any, Protocol

from repros.cluster import worker
from repros.errors import UserError

#: How often an order goes out again whose worker was lost, or the scheduler gave it up for that.
LOST = 16
#: How long to wait for a scheduler, and for the first of its workers: those of a batch system start late.
CONNECT_S, FIRST_WORKER_S = 10.0, 300.0
#: How often orders are looked after that only workers may take that are gone.
LOOK_S = 5.0
GOES_ON = "what was finished is kept: the same command goes on, a run with `--resume`"
INSTALL = "install it: `python -m pip install 'distributed>=2025.5'`"


class Order(Protocol):
    """What a worker is asked."""

    @property
    def where(self) -> str:
        """What has to stand there: a cell, a revision."""


@dataclass(eq=False)
class _Task:
    work: Callable[[Any], worker.Answer]
    order: Order
    name: str
    resources: Mapping[str, float]
    done: Future[worker.Answer] = field(default_factory=Future)
    lost: int = 0
    sent: Any = None
    """Its future at dask."""
    fit: tuple[str, ...] = ()
    """The only workers that may take it; any where it is empty."""


class Crew:
    """The workers of a cluster, or of one on this machine where no scheduler is named."""

    def __init__(self, scheduler: str | None, workers: int, say: Callable[[str], None]) -> None:
        distributed = _distributed()
        from cloudpickle import dumps  # dask's own: a cell has tables that pickle leaves out

        self._dumps = dumps
        self._closing = threading.Event()
        self._lock = threading.RLock()
        self._tasks: set[_Task] = set()
        self._numbers = itertools.count(1)
        self._unfit: dict[str, dict[str, worker.Answer]] = {}
        self._local: Any = None
        if scheduler is None:
            self._local = distributed.LocalCluster(
                n_workers=workers, threads_per_worker=1, memory_limit=0, dashboard_address="127.0.0.1:0",
                silence_logs=logging.CRITICAL,
            )  # fmt: skip
        self.address: str = scheduler or self._local.scheduler_address
        try:
            self._client = distributed.Client(self._local or scheduler, timeout=CONNECT_S)
        except (OSError, TimeoutError, ValueError) as error:
            what = f"{scheduler}: no dask scheduler answers there: {_first_line(error)}"
            raise UserError(
                what, "start one, `dask scheduler`, and name its address, such as tcp://HOST:8786"
            ) from None
        with contextlib.ExitStack() as undo:
            undo.callback(self.close)
            self.workers = self._first_workers()
            undo.pop_all()
        threading.Thread(target=self._look, daemon=True, name="cluster").start()

    def _first_workers(self) -> int:
        """Wait for workers and return how many there are; UserError where one runs another suite than this."""
        try:
            self._client.wait_for_workers(1, timeout=FIRST_WORKER_S)
        except TimeoutError:
            what = f"{self.address}: no worker came to it in {FIRST_WORKER_S:g} s"
            raise UserError(what, f"start one: `dask worker {self.address} --nthreads 1`") from None
        for address, found in self._client.run(worker.suite, on_error="return").items():
            if isinstance(found, BaseException):
                what = f"the worker {address} cannot import this suite: {_first_line(found)}"
                raise UserError(what, "start it in an environment and a folder that have this checkout")
            if found != worker.suite():
                what = f"the worker {address} runs another suite than this: its sources differ"
                raise UserError(what, "start it anew from this checkout")
        return len(self._addresses())

    @property
    def dashboard(self) -> str:
        """Return the address of the dashboard."""
        return str(self._client.dashboard_link)

    def declared(self) -> frozenset[str]:
        """Return the resources that workers declare."""
        known = self._client.scheduler_info(n_workers=-1)["workers"].values()
        return frozenset(name for one in known for name in one["resources"])

    def _addresses(self) -> frozenset[str]:
        return frozenset(self._client.scheduler_info(n_workers=-1)["workers"])

    # -- orders

    def submit(
        self, work: Callable[[Any], worker.Answer], order: Order, name: str, resources: Mapping[str, float]
    ) -> Future[worker.Answer]:
        """Send an order out and return what becomes of it: an answer, or the exception that ended its work."""
        task = _Task(work, order, name, resources)
        with self._lock:
            self._tasks.add(task)
        self._send(task)
        return task.done

    def _send(self, task: _Task) -> None:
        """Send an order to any worker, or to those that were not found unfit for it."""
        with self._lock:
            if self._closing.is_set() or task.done.done():
                return
            task.fit = ()
            if unfit := self._unfit.get(task.order.where):
                task.fit = tuple(sorted(self._addresses() - set(unfit)))
                if not task.fit:
                    self._end(task, next(iter(unfit.values())))
                    return
            number = next(self._numbers)
            work = f"{task.work.__module__}:{task.work.__name__}"
            task.sent = self._client.submit(
                _carrier(), work, self._dumps(task.order), key=f"trial-{number:06}-{task.name}", pure=False, retries=0,
                resources=dict(task.resources) or None, workers=list(task.fit) or None,
            )  # fmt: skip
            task.sent.add_done_callback(functools.partial(self._ended, task))

    def _ended(self, task: _Task, sent: Any) -> None:
        """Take what dask has of an order; what only the worker's end prevented goes out again."""
        if task.sent is not sent or self._closing.is_set():
            return
        if sent.status in ("lost", "pending"):  # an answer that went with its worker before it was fetched
            self._again(task)
            return
        if sent.status not in ("finished", "error"):
            what = f"{self.address}: the scheduler went away"
            self._fail(task, UserError(what, GOES_ON))
            return
        try:
            answer: worker.Answer = pickle.loads(sent.result())  # noqa: S301 - of a worker of ours
        except Exception as error:  # noqa: BLE001 - of any class: it is the work's own
            # An answer may go with its worker, between its end and this.
            if type(error).__name__ == "KilledWorker" or isinstance(error, CancelledError):
                self._again(task)
            else:
                self._fail(task, error)
            return
        if answer.cannot:
            with self._lock:
                self._unfit.setdefault(task.order.where, {})[answer.worker] = answer
            self._send(task)
        else:
            self._end(task, answer)

    def _again(self, task: _Task) -> None:
        task.lost += 1
        if task.lost > LOST:
            self._end(task, worker.Answer(cannot=f"its worker was lost {task.lost} times", kind="error"))
        else:
            self._send(task)

    def _end(self, task: _Task, answer: worker.Answer) -> None:
        with self._lock:
            self._tasks.discard(task)
            if not task.done.done():
                task.done.set_result(answer)

    def _fail(self, task: _Task, error: BaseException) -> None:
        with self._lock:
            self._tasks.discard(task)
            if not task.done.done():
                task.done.set_exception(error)

    def _look(self) -> None:
        """Send out again what waits for workers that are gone for good, and end all where none is left."""
        seen = time.monotonic()
        while not self._closing.wait(LOOK_S):
            with contextlib.suppress(OSError, RuntimeError), self._lock:
                here = self._addresses()
                seen = time.monotonic() if here else seen
                if time.monotonic() - seen > FIRST_WORKER_S:
                    what = f"{self.address}: no worker has been there for {FIRST_WORKER_S:g} s"
                    for task in list(self._tasks):
                        self._fail(task, UserError(what, GOES_ON))
                for task in [task for task in self._tasks if task.fit and not here & set(task.fit)]:
                    sent, task.sent = task.sent, None
                    sent.cancel()
                    self._send(task)

    # -- the end

    def close(self) -> None:
        """Call off what is not done, have the workers give back what they hold, and end a cluster of our own."""
        self._closing.set()
        with self._lock:
            tasks, self._tasks = list(self._tasks), set()
        with contextlib.suppress(Exception):  # the scheduler may be gone
            self._client.cancel([task.sent for task in tasks if task.sent is not None])
            if self._client.status == "running" and not self._local:
                self._client.run(worker.clear, on_error="ignore")
        for task in tasks:
            task.done.cancel()
        with contextlib.suppress(Exception):
            self._client.close(timeout=CONNECT_S)
        if self._local is not None:
            self._local.close(timeout=CONNECT_S)


@contextlib.contextmanager
def crew(scheduler: str | None, workers: int, say: Callable[[str], None]) -> Iterator[Crew]:
    """Have a crew, and end it; say where it is."""
    found = Crew(scheduler, workers, say)
    try:
        say(f"dask: {found.workers} workers at {found.address}, dashboard {found.dashboard}")
        yield found
    finally:
        found.close()


def _carrier() -> Callable[[str, bytes], bytes]:
    """Return what a worker does with an order: a function without a name, which dask sends whole.

    So a scheduler, which reads what it hands on, needs dask alone and none of this suite.
    """

    def carry(work: str, order: bytes) -> bytes:
        import importlib
        import pickle

        module, _, name = work.partition(":")
        found = getattr(importlib.import_module(module), name)(pickle.loads(order))  # noqa: S301 - the client's own
        return pickle.dumps(found)

    return carry


def _distributed() -> Any:
    try:
        import distributed
    except ImportError as error:
        raise UserError(f"--executor dask: dask.distributed is not installed: {error}", INSTALL) from None
    for name in [name for name in logging.root.manager.loggerDict if name.partition(".")[0] == "distributed"]:
        logging.getLogger(name).setLevel(logging.CRITICAL)  # what it tells in pages is said here in two lines
    return distributed


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
