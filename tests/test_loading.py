"""The budgets of the loading cases: sums over shapes, held against bytes counted another way."""

from __future__ import annotations

import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from repros.cases import _loading
from repros.cases.transformers import gh44387_reserved_memory as reserved
from repros.cases.transformers import gh44728_fp16_load_leak as leak
from repros.reference.checkpoint import Entry
from repros.reference.loader import StreamingLoader
from repros.worker import checkpoints
from repros.worker.checkpoints import Recipe

CONDITIONS = [*reserved.CASE.conditions, *leak.CASE.conditions]
LAYER = {
    "q": 576 * 576,
    "k": 192 * 576,
    "v": 192 * 576,
    "o": 576 * 576,
    "gate": 1536 * 576,
    "up": 1536 * 576,
    "down": 576 * 1536,
}


def test_sums_of_one_layer_by_hand() -> None:
    p = _loading.params("nf4")
    assert sum(_loading.linear_elements(p)) == sum(LAYER.values())
    assert _loading.largest_bytes(p) == 2 * 1536 * 576
    assert _loading.resident_bytes(p) == 2 * (256 * 576 + 3 * 576)
    assert _loading.quantized_bytes(p) == sum(LAYER.values()) // 2 + 4 * sum(LAYER.values()) // 64
    assert _loading.model_bytes(p) == _loading.resident_bytes(p) + 2 * sum(LAYER.values())


@pytest.mark.parametrize(
    ("scheme", "dtype", "copies"),
    [("nf4", "bfloat16", 0), ("nf4", "float16", 1), ("int8", "bfloat16", 1), ("int8", "float16", 1)],
)
def test_copies_that_a_conversion_makes(scheme: str, dtype: str, copies: int) -> None:
    p = _loading.params(scheme, dtype)
    assert _loading.copies(p) == copies
    cast = 2 * 256 * 576 if dtype == "float16" else 0  # the embedding, as the checkpoint has it
    assert _loading.peak_limit(p) == _loading.resident_bytes(p) + (1 + copies) * _loading.largest_bytes(p) + cast


@pytest.mark.parametrize("condition", CONDITIONS, ids=lambda condition: condition.name)
def test_the_whole_model_breaks_the_peak_budget_by_half_at_least(condition: object) -> None:
    p = condition.params  # type: ignore[attr-defined]
    assert _loading.model_bytes(p) > 1.5 * _loading.peak_limit(p)


def test_a_leak_of_a_third_passes_the_test_of_the_report_and_not_the_derived_budget() -> None:
    p = leak.CASE.condition("nf4").params
    linear = [s for s in _loading.specs(p) if _loading.is_quantized(s.name, s.shape)]
    kept = sum(s.nbytes for s in linear[::3])
    assert kept > 0.4 * sum(s.nbytes for s in linear)
    everything = _loading.resident_bytes(p) + kept + _loading.quantized_bytes(p)
    assert everything < _loading.model_bytes(p)
    assert _loading.resident_bytes(p) + kept > 1.5 * _loading.peak_limit(p)


def test_what_is_compared_is_in_every_checkpoint() -> None:
    for condition in CONDITIONS:
        shapes = {spec.name: spec.shape for spec in _loading.specs(condition.params)}
        quantized = [_loading.is_quantized(name, shapes[name]) for name in _loading.compared(condition.params)]
        assert sorted(quantized) == [False, True, True]


def test_the_ledger_counts_a_mapped_safetensors_slice_in_its_own_dtype(tmp_path: Path) -> None:
    """safetensors hands a slice over as bytes and views them: those are 16-bit bytes, and they lie in a file."""
    from safetensors import safe_open

    from repros.meters.ledger import Ledger

    checkpoints.write(Recipe("tiny", "smollm2-135m", "bfloat16", layers=1, vocab=16), tmp_path)
    name, elements = "model.layers.0.mlp.up_proj.weight", 1536 * 576
    with Ledger().open() as ledger, safe_open(tmp_path / "model.safetensors", framework="pt") as shard:
        ledger.start()
        ledger.enter("load")
        source = shard.get_slice(name)[...]
        assert source.dtype == torch.bfloat16
        assert (ledger.live_16bit_bytes, ledger.peak_live_16bit_heap_bytes) == (2 * elements, 0)
        copy = source.to(torch.float16)
        assert (ledger.live_16bit_bytes, ledger.peak_live_16bit_heap_bytes) == (4 * elements, 2 * elements)
        del source
        assert ledger.live_16bit_bytes == copy.nbytes


def test_a_failed_read_ends_the_arm_that_reads_ahead_without_a_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waits for every read before it converts the first one; on a full card a read fails and nobody else tells."""
    tiny = Recipe("tiny", "smollm2-135m", "bfloat16", layers=1, vocab=16)
    monkeypatch.setattr(checkpoints, "recipes", lambda: {"tiny": tiny})
    read, seen = StreamingLoader.read, []

    def out_of_memory(self: StreamingLoader, entry: Entry) -> torch.Tensor:
        seen.append(entry.name)
        if len(seen) == 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return read(self, entry)

    monkeypatch.setattr(StreamingLoader, "read", out_of_memory)
    p = _loading.params("nf4", recipe="tiny")
    arm = reserved.planted(SimpleNamespace(p=p, checkpoint=checkpoints.ensure("tiny", tmp_path), device="cpu",
                                           dtype=torch.bfloat16))  # fmt: skip
    ended: list[BaseException] = []

    def run() -> None:
        try:
            for _ in arm:
                pass
        except torch.OutOfMemoryError as error:
            ended.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(30)
    assert ended, "still waiting for a read that failed"


def test_several_cards_share_a_checkpoint_in_its_order() -> None:
    p = {**_loading.params("nf4", recipe="qwen3.5-35b-a3b"), "cards": 2, "device": "cuda"}
    on = _loading.cards_of(p)
    sizes = {spec.name: spec.nbytes for spec in _loading.specs(p)}
    assert on.keys() == sizes.keys()
    assert list(on.values()) == sorted(on.values())
    held = [sum(size for name, size in sizes.items() if on[name] == card) for card in (0, 1)]
    assert max(held) - min(held) < 2 * max(sizes.values())
    assert _loading.cards_of(_loading.params("nf4")) == {}
