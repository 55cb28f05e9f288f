"""QLoRA steps of the card table, here with a model of a few layers on a CPU."""

from __future__ import annotations

import json
import weakref
from collections.abc import Generator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import LlamaConfig

from repros.case import Condition
from repros.cases import sources
from repros.cases.bitsandbytes.gh1935 import _qlora, card_table, largest
from repros.cases.bitsandbytes.gh1935._qlora import eager, llama
from repros.cases.bitsandbytes.gh1935.card_table import checkpointed, compiled
from repros.reference.modules import FrozenLinear4bit
from repros.reference.step_memory import predicted, weight_shapes
from repros.worker.small_card import allowed

#: Of transformers (a new name for checkpointing) and of torch's compiler, which stumbles over them where they raise.
pytestmark = pytest.mark.filterwarnings(*(f"ignore::{kind}Warning" for kind in ("Future", "Deprecation", "User")))

LAYERS = 4


def tiny(layers: int = LAYERS) -> Any:
    """Return the configuration of a model that trains on a CPU in no time."""
    return LlamaConfig(
        hidden_size=64, intermediate_size=160, num_hidden_layers=layers, num_attention_heads=4, num_key_value_heads=2,
        head_dim=16, vocab_size=256, tie_word_embeddings=False, use_cache=False, attn_implementation="sdpa",
    )  # fmt: skip


def run(arm: Any, run_as: Any) -> dict[str, Any]:
    """Run an arm of the card table with the tiny model."""
    torch.manual_seed(1)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()  # other tests of this process compile too
    condition = SimpleNamespace(run_as=run_as)
    _, figures = ended(arm(condition, tiny(), torch.randint(256, (1, 24))))
    return figures


def ended(steps: Generator[str, None, dict[str, Any]]) -> tuple[list[str], dict[str, Any]]:
    """Return an arm's phases, and what it returns at its end."""
    phases = []
    while True:
        try:
            phases.append(next(steps))
        except StopIteration as stop:
            return phases, dict(stop.value)


def saved_bytes(config: Any) -> int:
    """Return what the dequantized weights of all decoder layers take, in 16 bits."""
    return int(2 * config.num_hidden_layers * sum(n * k for n, k in weight_shapes(config)))


@pytest.mark.parametrize("run_as", [eager, checkpointed, compiled])
def test_a_bug_in_memory_is_none_in_numbers(run_as: Any) -> None:
    fixed, bug = run(card_table.reference, run_as), run(card_table.planted, run_as)
    assert fixed["loss"] == pytest.approx(bug["loss"], rel=1e-3)
    assert fixed["loss"] == pytest.approx(run(card_table.reference, eager)["loss"], rel=1e-3)
    assert (fixed["graph_calls"] > 0) == (run_as is compiled)


@pytest.mark.parametrize("run_as", [eager, checkpointed, compiled])
def test_the_figures_of_an_arm_name_what_was_predicted(run_as: Any) -> None:
    figures = run(card_table.subject, run_as)
    parts = predicted(tiny(), 24, checkpointed=run_as is checkpointed)
    assert {name: figures[f"predicted_{name}_bytes"] for name in parts} == parts
    assert figures["predicted_bytes"] == sum(parts.values())


def test_checkpointing_recomputes_each_layer_and_the_planted_cache_keeps_its_weights(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    built: list[Any] = []
    forwards: list[int] = []
    build = _qlora.build

    def remembered(*given: Any) -> Any:
        model, at = build(*given), len(built)

        def count(*_: Any) -> None:
            forwards[at] += 1

        model.model.layers[0].mlp.register_forward_pre_hook(count)
        built.append(model)
        forwards.append(0)
        return model

    monkeypatch.setattr(_qlora, "build", remembered)
    run(card_table.reference, eager)
    run(card_table.planted, checkpointed)
    run(card_table.planted, eager)
    assert forwards == [1, 2, 1]
    caches = [[module.cache for module in model.modules() if hasattr(module, "cache")] for model in built]
    assert caches[0] == []
    assert len(caches[1]) == 7 * LAYERS
    assert sum(cache.nbytes for cache in caches[1]) == saved_bytes(tiny())
    assert caches[2] == [None] * 7 * LAYERS


@pytest.mark.parametrize(("room", "trained"), [(2, 1), (3, 2), (9, 3)])
def test_models_are_trained_upward_until_one_does_not_fit(
    room: int, trained: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A card that has room for models of so many layers."""
    models = {"1b": tiny(2), "2b": tiny(3), "3b": tiny(4)}
    monkeypatch.setattr(_qlora, "llama", models.__getitem__)
    built: list[Any] = []
    build = _qlora.build

    def watched(*given: Any) -> Any:
        assert all(model() is None for model in built), "the model before is still there"
        model = build(*given)
        built.append(weakref.ref(model))
        return model

    class Full(torch.optim.SGD):
        """Has no room for what the adapters of a larger model need."""

        def __init__(self, adapters: list[Any], lr: float) -> None:
            if len(adapters) > room * 7 * 2:
                raise torch.OutOfMemoryError("CUDA out of memory")
            super().__init__(adapters, lr=lr)

    monkeypatch.setattr(_qlora, "build", watched)
    condition = SimpleNamespace(models=tuple(models), device="cpu")
    phases, figures = ended(largest.climb(condition, FrozenLinear4bit.from_weight, Full))
    assert phases == list(models)[: trained + 1]
    assert (figures["largest_parameters"], figures["too_large"]) == (trained * 1e9, 3 - trained)
    assert [name for name in figures if name.startswith("foreseen")] == [f"foreseen_{name}_bytes" for name in phases]
    assert [model() for model in built] == [None] * len(phases)


@pytest.mark.parametrize("condition", largest.CASE.conditions, ids=lambda condition: condition.name)
def test_a_card_is_too_small_for_the_last_model_alone_and_with_the_bug_for_more(condition: Condition) -> None:
    needed = [sum(predicted(llama(model), _qlora.LENGTH).values()) for model in condition.models]
    assert needed == sorted(needed)
    card = allowed(condition.card_gb)
    assert needed[-2] * 1.05 < card < needed[-1] * 0.94
    assert condition.budget.limit == sum(size > card for size in needed) == 1
    assert needed[1] + saved_bytes(llama(condition.models[1])) > card


@pytest.mark.parametrize("condition", card_table.CASE.conditions, ids=lambda condition: condition.name)
def test_a_step_is_foreseen_inside_its_card_and_the_bug_outside(condition: Condition) -> None:
    config = llama(condition.model)
    foreseen = sum(predicted(config, condition.length, condition.run_as is checkpointed).values())
    assert condition.budget.limit == allowed(condition.card_gb)
    assert foreseen < allowed(condition.card_gb) < foreseen + saved_bytes(config)


def test_a_condition_is_named_after_what_it_runs() -> None:
    ways = {eager: "", compiled: "-compile", checkpointed: "-checkpoint"}
    for c in card_table.CASE.conditions:
        length = f"-{c.length}" if c.length != _qlora.LENGTH else ""
        assert c.name == f"{c.model}-on-{c.card_gb}gb{ways[c.run_as]}{length}-cuda"


def test_what_a_checkpointed_step_should_need_is_less() -> None:
    config = llama("34b")
    less, eagerly = predicted(config, 512, checkpointed=True), predicted(config, 512)
    assert less["activations"] < eagerly["activations"] / 15
    assert {**less, "activations": 0} == {**eagerly, "activations": 0}


BILLIONS = {
    "4b": 4.0, "7b": 6.7, "9b": 8.8, "13b": 13.0, "20b": 19.9, "34b": 34.4, "50b": 50.0, "70b": 69.0, "123b": 122.6,
}  # fmt: skip


@pytest.mark.parametrize(("model", "billions"), BILLIONS.items())
def test_models_have_the_size_that_they_go_by(model: str, billions: float) -> None:
    config = llama(model)
    elements = config.num_hidden_layers * sum(n * k for n, k in weight_shapes(config))
    ends = config.vocab_size * config.hidden_size * (1 if config.tie_word_embeddings else 2)
    assert (elements + ends) / 1e9 == pytest.approx(billions, rel=0.02)


def test_the_shapes_of_models_are_a_source_of_the_case() -> None:
    """They decide its figures: a one-file script carries them along, and other shapes are another digest."""
    own = sources.own("repros.cases.bitsandbytes.gh1935.largest")
    models = json.loads(own["fixtures/qlora_models.json"])
    tried = {model for condition in largest.CASE.conditions for model in condition.models}
    assert tried == set(models)
    assert all(models[model]["comment"] for model in tried)


def test_the_model_that_trains_is_the_one_of_the_condition(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its inputs, on a CPU."""
    shrunk: list[int] = []
    monkeypatch.setattr(card_table, "shrink", shrunk.append)
    monkeypatch.setattr(largest, "shrink", shrunk.append)
    condition = card_table.CASE.condition("13b-on-32gb-2048-cuda")
    given = card_table.inputs(replace(condition, device="cpu"))
    assert given["config"].num_hidden_layers == 40
    assert (given["ids"].shape, given["ids"].dtype) == ((1, 2048), torch.int64)
    assert largest.inputs(largest.CASE.condition("up-to-48gb-cuda")) == {}
    assert shrunk == [32, 48]
