"""What the meters see, and what they must not."""

from __future__ import annotations

import gc
import linecache
import math
import subprocess
import sys
import threading
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from repros import ROOT
from repros.cases import Entry
from repros.meters.cpu import CpuMeters
from repros.meters.heap import open_heap
from repros.meters.ledger import Ledger, tally
from repros.meters.numerics import compare, relative_error
from repros.meters.saved import SavedTensors
from repros.worker import arm

MIB = 1 << 20


def started(**options: object) -> Ledger:
    return Ledger(**options)  # type: ignore[arg-type]


def new(nbytes: int = MIB, dtype: torch.dtype = torch.uint8) -> torch.Tensor:
    return torch.empty(nbytes // dtype.itemsize, dtype=dtype)


def test_views_and_shared_storages_count_once() -> None:
    with started().open() as ledger:
        ledger.start()
        ledger.enter("forward")
        base = new()
        kept = [base[:10], base.view(2, -1), base.t(), base.detach(), torch.nn.Parameter(base, requires_grad=False)]
        assert ledger.live_bytes == MIB
        del base, kept
        assert ledger.live_bytes == 0
        assert ledger.peak_live_bytes == MIB


def test_what_was_there_before_is_prior() -> None:
    foreign = torch.frombuffer(bytearray(MIB), dtype=torch.uint8)  # made by no operator
    with started().open() as ledger:
        mine = new()
        ledger.start()
        ledger.enter("forward")
        kept = [foreign[1:], mine[1:], mine.t()]
        assert ledger.live_bytes == 0
        kept.append(new(2 * MIB))
        assert ledger.live_bytes == 2 * MIB


@pytest.mark.parametrize("how", ["thread", "pool", "subclass", "nested"])
def test_other_threads_are_seen(how: str) -> None:
    from concurrent.futures import ThreadPoolExecutor

    kept: list[torch.Tensor] = []

    def work() -> None:
        kept.append(new())

    class Own(threading.Thread):
        def run(self) -> None:
            work()

    def nested() -> None:
        inner = threading.Thread(target=work)
        inner.start()
        inner.join()

    with started().open() as ledger:
        ledger.start()
        ledger.enter("forward")
        if how == "pool":
            with ThreadPoolExecutor(2) as executor:
                executor.submit(work).result()
        else:
            thread = Own() if how == "subclass" else threading.Thread(target=nested if how == "nested" else work)
            thread.start()
            thread.join()
        assert ledger.live_bytes == MIB
        assert len(ledger.threads) == 1


def test_threads_after_the_ledger_are_left_alone() -> None:
    with started().open():
        pass
    assert threading.Thread._bootstrap_inner.__qualname__ == "Thread._bootstrap_inner"  # type: ignore[attr-defined]


@given(st.lists(st.tuples(st.integers(1, 64), st.booleans()), min_size=1, max_size=40))
@settings(max_examples=25, deadline=None)
def test_live_and_peak_equal_a_count_by_hand(steps: list[tuple[int, bool]]) -> None:
    """Addresses are reused as tensors come and go; the ledger must not mix up old and new."""
    kept: list[torch.Tensor] = []
    live = peak = 0
    with started().open() as ledger:
        ledger.start()
        ledger.enter("forward")
        for size, drop in steps:
            if drop and kept:
                live -= kept.pop().untyped_storage().nbytes()
            kept.append(new(size * 64))
            live += size * 64
            peak = max(peak, live)
            assert ledger.live_bytes == live
        assert ledger.peak_live_bytes == peak
        kept.clear()
        assert ledger.live_bytes == 0


def test_sixteen_bit_bytes_are_told_apart_by_where_they_lie(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    path.write_bytes(bytes(2 * MIB))
    with started().open() as ledger:
        ledger.start()
        ledger.enter("load")
        mapped = torch.from_file(str(path), shared=False, size=MIB, dtype=torch.float16).view(-1)
        heap = new(MIB, torch.bfloat16)
        assert (mapped.nbytes, heap.nbytes) == (2 * MIB, MIB)
        assert ledger.peak_live_16bit_bytes == 3 * MIB
        assert ledger.peak_live_16bit_heap_bytes == MIB


def test_the_picture_at_the_peak_names_what_was_alive() -> None:
    with started().open() as ledger:
        ledger.start()
        ledger.enter("forward")
        first = new(3 * MIB)
        new(2 * MIB)
        del first
        new(MIB)
    ledger.close()
    assert [(row["bytes"], row["count"]) for row in ledger.peak_alive] == [(3 * MIB, 1), (2 * MIB, 1)]


def test_meta_and_fake_tensors_have_no_bytes() -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    with started().open() as ledger:
        ledger.start()
        ledger.enter("forward")
        kept = [torch.empty(1000, device="meta")]
        with FakeTensorMode():
            kept.append(torch.empty(1000))
        assert ledger.live_bytes == 0


def test_the_gate_waits_for_other_threads() -> None:
    kept: list[torch.Tensor] = []

    def ahead() -> None:
        for _ in range(4):
            time.sleep(0.02)
            kept.append(new())

    with started(gate=("aten::relu",)).open() as ledger:
        ledger.start()
        ledger.enter("load")
        thread = threading.Thread(target=ahead)
        thread.start()
        torch.relu(torch.ones(1))
        assert len(kept) == 4
        assert ledger.gate_waited_s is not None
        thread.join()


def test_a_compiled_function_is_compiled_under_the_ledger() -> None:
    graphs = []

    def backend(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> object:
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    with started().open() as ledger:
        ledger.start()
        ledger.enter("forward")
        torch.compile(lambda x: torch.relu(x) + 1, backend=backend)(torch.ones(4))
    assert len(graphs) == 1


def linear(rows: int = 256, width: int = 1024) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.ones(rows, width, requires_grad=True), torch.ones(width, width)


def test_saved_tensors_leave_out_what_is_prior() -> None:
    x, weight = linear()
    with started().open() as ledger:
        saved = SavedTensors(ledger)
        with saved.open():
            ledger.start()
            ledger.enter("forward")
            out = F.linear(x, weight)
            assert saved.saved_bytes == 0
            out = F.linear(x, weight * 2)
            assert saved.saved_bytes == weight.nbytes
            assert saved.rows()[0]["shape"] == [1024, 1024]
        del out


@pytest.mark.parametrize("watched", [False, True])
@pytest.mark.parametrize("changed", ["an input", "an output", "nothing"])
def test_a_change_in_place_is_noticed_under_the_hooks_as_without_them(watched: bool, changed: str) -> None:
    x = torch.ones(8, requires_grad=True)
    with started().open() as ledger, SavedTensors(ledger).open() if watched else nullcontext():
        weight = torch.full((8,), 2.0)
        product = x * weight
        out = product.exp()
        with torch.no_grad():
            {"an input": weight, "an output": out, "nothing": torch.ones(1)}[changed].mul_(3)
        if changed == "nothing":
            out.sum().backward()
            assert x.grad is not None and torch.equal(x.grad, 2 * torch.full((8,), 2.0).exp())
        else:
            with pytest.raises(RuntimeError, match=r"modified by an inplace operation.*is at version 1; expected ver"):
                out.sum().backward()


def test_what_hides_on_ctx_shows_in_the_ledger_and_not_in_the_hooks() -> None:
    class Hides(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):  # type: ignore[no-untyped-def]
            ctx.kept = x * 2
            return x * 3

        @staticmethod
        def backward(ctx, grad):  # type: ignore[no-untyped-def]
            return grad * ctx.kept

    x = torch.ones(MIB // 4, requires_grad=True)
    with started().open() as ledger:
        saved = SavedTensors(ledger)
        with saved.open():
            ledger.start()
            ledger.enter("forward")
            out = Hides.apply(x)
            assert (saved.saved_bytes, ledger.live_bytes) == (0, 2 * MIB)
            assert [(row["bytes"], row["count"]) for row in tally(ledger.alive())] == [(2 * MIB, 2)]
    del out


def test_heap_and_ledger_agree_on_what_is_held() -> None:
    heap = open_heap()
    if heap is None:
        pytest.skip("libc has no mallinfo2")
    x, weight = linear()
    F.linear(x, weight).sum().backward()
    with started(heap=heap).open() as ledger:
        gc.collect()
        ledger.start()
        ledger.enter("forward")
        out = F.linear(x, weight * 2)
        taken = ledger.read_heap()
        assert taken is not None
        assert ledger.live_bytes == weight.nbytes + out.nbytes
        # Each large allocation is rounded up to pages.
        assert ledger.live_bytes <= taken <= ledger.live_bytes + 2 * 2 * 4096


@pytest.mark.parametrize("stack", ["8192", "unlimited"])  # without a limit what is mapped lies below the heap
def test_a_heap_without_holes_is_read_as_one_with_them(stack: str) -> None:
    """Nothing of what is freed inside it is left to walk through, and what is taken after that counts as before."""
    code = """
import ctypes
from repros.meters import heap
read = heap.open_heap()
if read is None:
    raise SystemExit(77)
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
parts = [libc.malloc(2000 + 16 * (k % 50)) for k in range(4000)]
for part in parts[:-1:2]:  # one of two: the parts between them stay
    libc.free(part)
info = heap._mallinfo2_of(libc)
holes, used, free = info().ordblks, read(), info().fordblks - info().keepcost
heap.fill_holes()
left, filled = info().ordblks, read() - used
began = read()
part = libc.malloc(1 << 20)
taken = read() - began
libc.free(part)
print(holes, left, free, filled, taken, read() - began)
"""
    limits = f'ulimit -s {stack} && ulimit -v 8000000 || exit 77; exec "$0" -c "$1"'
    command = ["sh", "-c", limits, sys.executable, code]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if ran.returncode == 77:
        pytest.skip("libc has no mallinfo2, or the limits cannot be set")
    assert not ran.returncode, ran.stderr
    holes, left, free, filled, taken, after = (int(word) for word in ran.stdout.split())
    assert holes > 2000 > 20 > left
    assert abs(filled - free) < 64 << 10
    assert (1 << 20) <= taken < (1 << 20) + 8192
    assert after == 0


@pytest.mark.parametrize(
    ("value", "oracle", "error"),
    [
        (torch.ones(3), torch.ones(3), 0.0),
        (torch.tensor([1.0, 2.0]), torch.tensor([1.0, 4.0]), 0.5),
        (torch.tensor([1.0, math.nan]), torch.ones(2), math.inf),
        (torch.tensor([1.0, math.inf]), torch.ones(2), math.inf),
        (torch.ones(2), torch.ones(3), math.inf),
        (torch.zeros(2), torch.zeros(2), 0.0),
        (torch.ones(2), torch.zeros(2), math.inf),
        (torch.empty(0), torch.empty(0), 0.0),
    ],
)
def test_relative_error(value: torch.Tensor, oracle: torch.Tensor, error: float) -> None:
    assert relative_error(value, oracle) == error


def test_a_gradient_that_never_came_is_infinitely_wrong() -> None:
    figures, errors = compare({"output": torch.ones(1)}, {"output": torch.ones(1), "grad_x": torch.ones(1)})
    assert figures == {"nonfinite": 0, "error": math.inf, "grad_error": math.inf, "output_error": 0.0}
    assert errors == {"output": 0.0, "grad_x": math.inf}


def test_the_allocators_history_is_replayed() -> None:
    """Peak, its owners and reserved bytes come out of events as torch gives them; older blocks do not count."""
    from repros.meters.cuda import replay

    mine = [
        {"filename": "/x/torch/nn.py", "line": 1, "name": "to"},
        {"filename": "/x/load.py", "line": 7, "name": "go"},
    ]
    torchs = [{"filename": "/x/torch/nn.py", "line": 2, "name": "inner"}]

    def event(action: str, address: int, size: int, at: int, frames: object = ()) -> dict[str, object]:
        return {"action": action, "addr": address, "size": size, "time_us": 1_000_000 + at, "frames": frames}

    found = replay(
        [
            event("segment_alloc", 0, 4096, 0),
            event("alloc", 10, 1000, 1, mine),
            event("alloc", 20, 2000, 2, mine),
            event("free_requested", 10, 1000, 3),
            event("free_completed", 99, 512, 4),  # it was there before
            event("alloc", 30, 500, 5, torchs),
            event("free_completed", 20, 2000, 6),
            event("alloc", 40, 100, 7, mine),
            {"action": "oom", "device_free": 1 << 30, "size": 9000, "time_us": 1_000_007, "frames": mine},
            event("segment_free", 0, 4096, 8),
        ]
    )
    assert found["alive_at_peak"] == [
        {"made_by": "load.py:7 go", "count": 2, "bytes": 3000},
        {"made_by": "nn.py:2 inner", "count": 1, "bytes": 500},
    ]
    assert max(allocated for _, allocated, _ in found["timeline"]) == 3500
    assert found["timeline"][-1][1:] == (1600, 0)
    assert replay([])["alive_at_peak"] == []


def test_what_an_arm_did_is_told_though_its_meters_fail(harness: Entry, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: arm.Driver) -> None:
        raise KeyError("addr")

    monkeypatch.setattr(arm.Driver, "results", broken)
    request = {
        "module": harness.module,
        "condition": "passes",
        "checkpoint": None,
        "log": "",
    }
    seen = arm.observe({**request, "arm": "reference"})
    assert (seen.state, seen.figures) == ("raised", {})
    assert seen.reason == "the meters failed: KeyError: 'addr'"


def ask(harness: Entry, what: str) -> dict[str, Any]:
    """Return what is asked of a subject of the harness's own case that does this."""
    params = {"does": {"subject": what}}
    return {"module": harness.module, "condition": "passes", "arm": "subject", "params": params, "checkpoint": None,
            "log": ""}  # fmt: skip


@pytest.mark.parametrize(
    ("short", "state", "reason"),
    [
        ("", "raised", "out of memory in phase forward: CUDA out of memory. Tried to allocate 2 GiB / and more lines"),
        (
            "the card had 3 MiB",
            "disturbed",
            "the card had 3 MiB; out of memory in phase forward: CUDA out of memory. Tried to allocate 2 GiB / "
            "and more lines",
        ),
    ],
)
def test_an_arm_that_was_left_too_little_memory_is_disturbed(
    short: str, state: str, reason: str, harness: Entry, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.selftest import st_harness

    def runs_out() -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB\nand more lines")

    monkeypatch.setitem(st_harness.ACTIONS, "runs out", runs_out)
    asked: list[int] = []

    def short_of(self: CpuMeters, card_bytes: int) -> str:
        asked.append(card_bytes)
        return short

    monkeypatch.setattr(CpuMeters, "short_of", short_of)
    seen = arm.observe({**ask(harness, "runs out"), "card_bytes": 7})
    assert (seen.state, seen.reason, asked) == (state, reason, [7])


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize(
    ("ooms", "short", "disturbed"), [(1, "the card had 3 MiB", True), (1, "", False), (0, "the card had 3 MiB", False)]
)
def test_so_is_one_that_went_on_after_it(
    ooms: int, short: str, disturbed: bool, fails: bool, harness: Entry, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.selftest import st_harness

    def stumbles() -> None:
        if fails:
            raise RuntimeError("no layer 7")

    monkeypatch.setitem(st_harness.ACTIONS, "stumbles", stumbles)
    monkeypatch.setattr(CpuMeters, "short_of", lambda self, card_bytes: short)
    monkeypatch.setattr(CpuMeters, "results", lambda self: ({}, {"cuda_ooms": ooms}))
    seen = arm.observe(ask(harness, "stumbles"))
    told = ["the card had 3 MiB", "it ran out of memory and went on"] if disturbed else []
    told += ["RuntimeError in phase forward: no layer 7"] if fails else []
    assert seen.state == ("disturbed" if disturbed else "raised" if fails else "done")
    assert seen.reason == "; ".join(told)


def test_an_arm_draws_what_torch_seeded_with_that_number_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the lines of its callers being read, as `torch.manual_seed` has them for devices that may come yet."""
    torch.manual_seed(arm.SEED)
    drawn = torch.rand(8), torch.randn(8).bfloat16(), torch.randint(256, (8,))
    monkeypatch.setattr(linecache, "updatecache", lambda *given: pytest.fail(f"{given} is read"))
    linecache.clearcache()
    arm.seed()
    for first, again in zip(drawn, (torch.rand(8), torch.randn(8).bfloat16(), torch.randint(256, (8,))), strict=True):
        assert torch.equal(first, again)
