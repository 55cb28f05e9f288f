"""The cost of an arm and of the ledger, each measured beside its alternatives in one run."""

from __future__ import annotations

import contextlib
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from repros.cases import Entry
from repros.meters.heap import open_heap
from repros.meters.ledger import Ledger
from repros.run.server import CellServer, Clock

Benchmark = Any


@pytest.fixture(scope="module")
def cell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CellServer]:
    """Return a server with the packages of the cell that the tests run in, warmed as in a run."""
    server = CellServer(Path(sys.executable), Clock(), "bench")
    server.start()
    yield server
    server.close()


def test_a_further_arm_in_a_warm_cell(benchmark: Benchmark, cell: CellServer, harness: Entry, tmp_path: Path) -> None:
    """A fork against a new interpreter: wall time of an arm beyond what the arm itself worked."""
    request: dict[str, Any] = {
        "module": harness.module, "condition": "passes", "arm": "reference",
        "checkpoint": None, "env": {}, "timeout_s": 120.0,
    }  # fmt: skip

    def beyond(fresh: bool) -> float:
        began = time.monotonic()
        seen = cell.observe(request, tmp_path / "log", fresh)
        assert seen.state == "done", seen.reason
        return time.monotonic() - began - (seen.ended - seen.started)

    def whole(fresh: bool) -> float:
        began = time.monotonic()
        cell.observe(request, tmp_path / "log", fresh)
        return time.monotonic() - began

    forks = [beyond(False) for _ in range(21)]
    benchmark.extra_info["fork, beyond its work (s)"] = statistics.median(forks)
    benchmark.extra_info["fork, whole arm (s)"] = statistics.median(whole(False) for _ in range(11))
    benchmark.extra_info["new interpreter, whole arm (s)"] = statistics.median(whole(True) for _ in range(3))
    benchmark.pedantic(cell.observe, args=(request, tmp_path / "log"), rounds=5)
    assert statistics.median(forks) <= 0.1


class Nothing(TorchDispatchMode):
    """A dispatch mode that does nothing."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


def training_step() -> Callable[[], None]:
    """Return one QLoRA-like step: four 4-bit layers of 2048 x 2048, 512 rows, forward and backward in bfloat16."""
    bnb = pytest.importorskip("bitsandbytes")
    layers = torch.nn.Sequential(
        *(bnb.nn.Linear4bit(2048, 2048, bias=False, compute_dtype=torch.bfloat16, quant_type="nf4") for _ in range(4))
    )
    layers.to("cpu").train()
    x = torch.randn(512, 2048, dtype=torch.bfloat16, requires_grad=True)

    def step() -> None:
        layers(x).float().sum().backward()

    return step


def test_the_ledger_beside_other_modes(benchmark: Benchmark) -> None:
    """The step under no mode, a mode that does nothing, the ledger, and torch's MemTracker, taken in turn."""
    step = training_step()
    ledger = Ledger(open_heap())

    def watched() -> contextlib.AbstractContextManager[Any]:
        return ledger.open()

    kinds: dict[str, Callable[[], contextlib.AbstractContextManager[Any]]] = {
        "no mode": contextlib.nullcontext,
        "a mode that does nothing": Nothing,
        "the ledger": watched,
    }
    with ledger.open():
        step()
        ledger.start()
        ledger.enter("forward")
    taken: dict[str, list[float]] = {name: [] for name in kinds}
    for _ in range(15):
        for name, mode in kinds.items():
            with mode():
                began = time.perf_counter()
                step()
                taken[name].append(time.perf_counter() - began)
    medians = {name: statistics.median(times) for name, times in taken.items()}
    for name, median in medians.items():
        benchmark.extra_info[f"{name} (s)"] = median
    ratio = statistics.median(a / b for a, b in zip(taken["the ledger"], taken["no mode"], strict=True))
    benchmark.extra_info["ledger over no mode"] = ratio
    benchmark.extra_info["MemTracker over no mode"] = mem_tracker(step, medians["no mode"])
    with ledger.open():
        benchmark.pedantic(step, rounds=3)
    assert ratio <= 1.2


def mem_tracker(step: Callable[[], None], base: float) -> float | str:
    """Return the ratio under torch's MemTracker, or what it raised."""
    try:
        from torch.distributed._tools.mem_tracker import MemTracker
    except ImportError as error:
        return f"cannot be imported: {error}"
    times = []
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for _ in range(5):
                with MemTracker():
                    began = time.perf_counter()
                    step()
                    times.append(time.perf_counter() - began)
    except Exception as error:  # noqa: BLE001 - what it does here is the finding
        return f"raised {type(error).__name__}: {str(error).splitlines()[0][:80]}"
    return statistics.median(times) / base
