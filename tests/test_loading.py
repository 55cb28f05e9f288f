"""The budgets of the loading cases: sums over shapes, held against bytes counted another way."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from repros.case import Budget, Condition
from repros.cases import _loading
from repros.cases.bitsandbytes.gh1849 import two_cards
from repros.cases.transformers.gh44387 import cast_dtype, int8, reserved_memory
from repros.cases.transformers.gh44728 import fp16_load_leak, reads_ahead, report_test
from repros.reference.checkpoint import Entry, read_tensor
from repros.reference.loader import CardLoader, StreamingLoader
from repros.worker import checkpoints
from repros.worker.checkpoints import Recipe, recipe_of, tensors
from repros.worker.sizes import is_quantized, sizes

CASES = [one.CASE for one in (reserved_memory, int8, cast_dtype, fp16_load_leak, reads_ahead, report_test)]
CONDITIONS = [condition for case in CASES for condition in case.conditions]
LAYER = {
    "q": 576 * 576,
    "k": 192 * 576,
    "v": 192 * 576,
    "o": 576 * 576,
    "gate": 1536 * 576,
    "up": 1536 * 576,
    "down": 576 * 1536,
}
EMBEDDING, NORM = 2 * 256 * 576, 2 * 576
STAYING = EMBEDDING + 3 * NORM
SOURCE = 2 * 1536 * 576
SCRATCH = 40 << 20


def test_sums_of_one_layer_by_hand() -> None:
    layer, elements = sizes("smollm2-135m-1l"), sum(LAYER.values())
    assert layer.largest_quantized == layer.largest == SOURCE
    assert (layer.staying, layer.largest_staying) == (STAYING, EMBEDDING)
    assert layer.nf4 == elements // 2 + 4 * elements // 64
    assert layer.int8 == elements + 4 * (576 + 192 + 192 + 576 + 1536 + 1536 + 576)
    assert layer.whole == layer.staying + 2 * elements
    assert (layer.quantized, layer.tensors) == (7, 11)


def test_experts_are_quantized_and_a_router_is_not() -> None:
    assert is_quantized("model.layers.0.mlp.experts.gate_up_proj", (2, 1536, 2048))
    assert not is_quantized("model.layers.0.mlp.gate.weight", (2, 2048))
    assert not is_quantized("lm_head.weight", (256, 2048))


def limits(*conditions: str) -> list[float]:
    """Return the limits of conditions of these names, in whichever case."""
    return [one.budget.limit for name in conditions for one in CONDITIONS if one.name == name]


def test_limits_of_a_peak_by_hand() -> None:
    two_layers = STAYING + 2 * NORM
    assert set(limits("nf4", "nf4-sync")) == {STAYING + SOURCE}
    assert set(limits("int8", "int8-sync")) == {two_layers + 2 * SOURCE}
    assert set(limits("nf4-cast", "nf4-cast-sync")) == {STAYING + 2 * SOURCE + EMBEDDING}
    assert set(limits("int8-cast", "int8-cast-sync")) == {two_layers + 2 * SOURCE + EMBEDDING}
    assert limits("nf4-after") == [STAYING]


@pytest.mark.parametrize(("recipe", "copies"), [("qwen2.5-7b", 1), ("opt-350m", 0)])
def test_half_of_the_model_is_more_than_loading_takes_in_nf4_and_less_than_in_int8(recipe: str, copies: int) -> None:
    """It is what transformers warms the allocator up with, and so a GPU's limit in NF4."""
    model = sizes(recipe)
    on_its_way = model.largest + 2 * 512 * model.tensors + SCRATCH
    assert model.staying + model.nf4 + on_its_way < model.whole // 2
    assert model.staying + model.int8 + on_its_way + copies * model.largest_quantized > model.whole // 2


PEAKS = [one for one in CONDITIONS if one.budget.figure == "peak_live_16bit_bytes"]


@pytest.mark.parametrize("condition", PEAKS, ids=lambda condition: condition.name)
def test_the_whole_model_breaks_the_limit_of_a_peak_by_half_at_least(condition: Condition) -> None:
    assert sizes(condition.checkpoint).whole > 1.5 * condition.budget.limit


def test_a_leak_of_a_third_passes_the_test_of_the_report_and_not_the_derived_limit() -> None:
    layer = sizes("smollm2-135m-1l")
    quantized = [s for s in tensors(recipe_of("smollm2-135m-1l")) if is_quantized(s.name, s.shape)]
    kept = sum(s.nbytes for s in quantized[::3])
    assert kept > 0.4 * sum(s.nbytes for s in quantized)
    assert layer.staying + kept + layer.nf4 < report_test.CASE.condition("nf4-report-test").budget.limit
    assert layer.staying + kept > 1.5 * reads_ahead.CASE.condition("nf4").budget.limit


@pytest.mark.parametrize("condition", CONDITIONS, ids=lambda condition: condition.name)
def test_what_is_compared_is_in_the_checkpoint(condition: Condition) -> None:
    shapes = {spec.name: spec.shape for spec in tensors(recipe_of(condition.checkpoint))}
    assert [is_quantized(name, shapes[name]) for name in _loading.compared(condition)] == [True, True, False]


def test_the_ledger_counts_a_mapped_safetensors_slice_in_its_own_dtype(tmp_path: Path) -> None:
    """safetensors hands a slice over as bytes and views them: those are 16-bit bytes, and they lie in a file."""
    from safetensors import safe_open

    from repros.meters.ledger import Ledger

    checkpoints.write(TINY, tmp_path)
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


TINY = Recipe("tiny", "smollm2-135m", "bfloat16", layers=1, vocab=16)


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return the folder of a small checkpoint, of which there is a recipe."""
    monkeypatch.setattr(checkpoints, "recipes", lambda: {"tiny": TINY})
    yield checkpoints.ensure("tiny", tmp_path)
    sizes.cache_clear()


def condition_of(scheme: str) -> Condition:
    params = {"scheme": scheme, "dtype": "bfloat16"}
    return Condition(scheme, Budget("peak_live_16bit_bytes", 1), params, checkpoint="tiny")


def result_of(arm: Any) -> dict[str, Any]:
    """Drive an arm to its end."""
    while True:
        try:
            next(arm)
        except StopIteration as stop:
            found: dict[str, Any] = stop.value
            return found


@pytest.mark.parametrize(("scheme", "most"), [("nf4", 0.16), ("int8", 0.012)])
@pytest.mark.parametrize("arm", ["reference", "planted"])
def test_what_the_reference_loads_is_the_checkpoint_within_a_step_of_its_codes(
    scheme: str, most: float, arm: str, tiny: Path
) -> None:
    condition = condition_of(scheme)
    found = result_of(getattr(reserved_memory, arm)(condition, tiny))
    published = reserved_memory.oracle(condition, tiny)
    assert published.keys() == found.keys() - {"model"}
    for name, weight in published.items():
        assert torch.equal(weight, read_tensor(tiny, name).double())
        assert float((found[name].double() - weight).abs().max() / weight.abs().max()) <= most


@pytest.mark.parametrize(("device", "kind", "ahead"), [("cpu", StreamingLoader, 0), ("cuda", CardLoader, 192 << 20)])
def test_on_a_card_the_reference_reads_ahead_in_memory_of_the_host(device: str, kind: type, ahead: int) -> None:
    """The loader is made, and asked for nothing: no card is needed."""
    condition = reserved_memory.CASE.condition("nf4-7b-cuda" if device == "cuda" else "nf4")
    made: list[StreamingLoader] = []
    arm = _loading.load_reference(condition, checkpoints.ensure("smollm2-135m-1l"), load=made.append)
    assert [next(arm), next(arm)] == ["load", "compare"]
    (loader,) = made
    assert (type(loader), loader.prefetch_bytes, loader.device.type) == (kind, ahead, device)


def test_sources_that_are_kept_are_in_the_result_so_that_they_outlive_the_arm(tiny: Path) -> None:
    (third, every) = (result_of(case.planted(condition_of("nf4"), tiny)) for case in (reads_ahead, report_test))
    assert [len(found["model"]["kept"]) for found in (third, every)] == [3, 7]


def test_a_failed_read_ends_the_arm_that_reads_everything_first(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It waits for every read before it converts the first one; on a full card a read fails and nobody else tells."""
    read, seen = StreamingLoader.read, []

    def out_of_memory(self: StreamingLoader, entry: Entry) -> torch.Tensor:
        seen.append(entry.name)
        if len(seen) == 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return read(self, entry)

    monkeypatch.setattr(StreamingLoader, "read", out_of_memory)
    ended: list[BaseException] = []

    def run() -> None:
        try:
            result_of(reserved_memory.planted(condition_of("nf4"), tiny))
        except torch.OutOfMemoryError as error:
            ended.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(30)
    assert ended, "still waiting for a read that failed"


def test_two_cards_share_a_checkpoint_in_its_order() -> None:
    class Loader:
        entries = tensors(recipe_of("qwen3.5-35b-a3b"))
        device_of: Any

        def load(self) -> dict[str, int]:
            return {entry.name: self.device_of(entry).index for entry in self.entries}

    on = two_cards.half_on_each_card(Loader())
    held = [sum(entry.nbytes for entry in Loader.entries if on[entry.name] == card) for card in (0, 1)]
    assert list(on.values()) == sorted(on.values())
    assert max(held) - min(held) < 2 * max(entry.nbytes for entry in Loader.entries)
