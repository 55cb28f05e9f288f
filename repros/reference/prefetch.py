"""Read ahead in threads, within an allowance counted in bytes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from threading import Condition, Thread
from typing import Generic, Protocol, TypeVar

from torch import Tensor


class Weighed(Protocol):
    """What is to be read: an entry of a checkpoint, or a part of one."""

    @property
    def nbytes(self) -> int:
        """Return what it takes of the allowance."""


W = TypeVar("W", bound=Weighed)


class Prefetcher(Generic[W]):
    """Hand out what ``read`` makes of each entry; never more than ``limit`` bytes at a time.

    An entry counts from before it is read until ``give_back``.  One larger than ``limit`` is read
    when nothing else is out.  ``limit=None`` reads without waiting.  Use as a context: leaving it
    stops the readers and drops what was not taken.
    """

    def __init__(
        self,
        entries: Iterable[W],
        read: Callable[[W], Tensor],
        limit: int | None,
        threads: int,
    ) -> None:
        self._todo = deque(entries)
        self._read = read
        self._limit = limit
        self._out_bytes = 0
        self._ready: deque[tuple[W, Tensor] | BaseException] = deque()
        self._closed = False
        self._changed = Condition()
        self._threads = [Thread(target=self._work, daemon=True) for _ in range(threads)]

    def __enter__(self) -> Prefetcher[W]:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()
        self._ready.clear()

    def take(self) -> tuple[W, Tensor]:
        """Wait for the next source, whichever reader has it; raise what a reader raised."""
        with self._changed:
            self._changed.wait_for(lambda: self._ready)
            item = self._ready.popleft()
        if isinstance(item, BaseException):
            raise item
        return item

    def give_back(self, entry: W) -> None:
        """Free the allowance of an entry whose source is gone."""
        with self._changed:
            self._out_bytes -= entry.nbytes
            self._changed.notify_all()

    def _may_go_on(self) -> bool:
        if self._closed or not self._todo or self._limit is None or self._out_bytes == 0:
            return True
        return self._out_bytes + self._todo[0].nbytes <= self._limit

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(self._may_go_on)
                if self._closed or not self._todo:
                    return
                entry = self._todo.popleft()
                self._out_bytes += entry.nbytes
                self._changed.notify_all()  # the last one taken sends the other readers home
            item: tuple[W, Tensor] | BaseException
            try:
                item = (entry, self._read(entry))
            except BaseException as error:  # noqa: BLE001 - raised where it is awaited
                item = error
            with self._changed:
                self._ready.append(item)
                self._changed.notify_all()
            del item  # or this frame would keep the source until the next one is read
