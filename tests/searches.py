"""Searches over invented histories: nothing is installed, nothing is run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from repros import cases
from repros.bisect.bisection import Bisection, Walk
from repros.bisect.probe import Kept, Probe, identity
from repros.bisect.revisions import Revision
from repros.bisect.search import Search
from repros.cases import Entry
from repros.cells.matrix import Cell

PINS = {"torch": "2.13.0", "bitsandbytes": "0.49.2", "huggingface_hub": "1.0.0", "tokenizers": "0.22.2"}
BASE = Cell("base", "cpu", PINS)
CASE = cases.select("gh1935_saved_weight", cases.find())[0]


class InventedWorkshop:
    """Answers from a history in place of environments, and notes what it was asked for."""

    def __init__(self, history: Callable[[str, bool], str]) -> None:
        self.machine = {"cpu_model": "x", "memory_bytes": 1 << 30}
        self.history = history
        self.tried: list[tuple[str, str, bool]] = []
        self.prepared: list[str] = []
        self.ready: dict[str, list[str]] = {}
        """Revision -> what had been prepared when it was tried."""
        self.fresh: list[str] = []

    def prepare(self, revision: Revision) -> Future[Any]:
        self.prepared.append(revision.name)
        return Future()

    def prepare_fresh(self, revision: Revision) -> Future[Any]:
        return Future()

    def drop_fresh(self, revision: Revision) -> None:
        self.fresh.append(revision.name)

    def trim(self, wanted: set[str]) -> None:
        pass

    def try_here(self, entry: Entry, condition: str, revision: Revision, future: Any, fresh: bool) -> Probe:
        self.tried.append((condition, revision.name, fresh))
        self.ready.setdefault(revision.name, list(self.prepared))
        vote = self.history(revision.name, fresh)
        verdict = {"good": "absent", "skip": "error"}.get(vote, "reproduced")
        value = {"good": 100, "skip": None}.get(vote, 1000)
        return Probe(
            entry.name, condition, "bitsandbytes", revision.name, identity(entry, revision), fresh, verdict, (vote,),
            reason=f"held_bytes {value}", figure="held_bytes", unit="bytes", limit=500, values={"subject": value},
            margins={"planted_over_budget": 2.0, "budget_over_reference": 2.5}, content=f"c{revision.name}",
            seconds={"environment": 1.0, "import": 2.0, "trial": 0.5, "waited": 3.0}, machine=self.machine,
            packages={"bitsandbytes": revision.name, "tokenizers": "0.22.2"}, date="2026-01-01T00:00:00Z",
        )  # fmt: skip


def revisions(n: int) -> tuple[Revision, ...]:
    return tuple(
        Revision(f"0.{i}.0", BASE.with_override("bitsandbytes", f"0.{i}.0"), f"2026-01-{i + 1:02}") for i in range(n)
    )


def hunts(n: int, *conditions: str) -> list[Walk]:
    return [Walk(CASE, condition, revisions(n), Search(n)) for condition in conditions or ("nf4-eager",)]


def work(found: Sequence[Walk], folder: Path, history: Callable[[str, bool], str], **options: Any) -> InventedWorkshop:
    workshop = InventedWorkshop(history)
    Bisection(found, Kept(folder), workshop, **options).run()  # type: ignore[arg-type]
    return workshop


def number(name: str) -> int:
    return int(name.split(".")[1])


def monotone(name: str, fresh: bool) -> str:
    return "good" if number(name) < 5 else "bad: held_bytes"
