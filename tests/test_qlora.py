"""QLoRA steps of the card table, here with a model of a few layers on a CPU."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from repros.cases import _qlora
from repros.cases.bitsandbytes import gh1935_card_table_largest as largest
from repros.cases.bitsandbytes import gh1935_card_table_largest_server as largest_server
from repros.reference.modules import FrozenLinear4bit

#: Of transformers (a new name for checkpointing) and of torch's compiler, which stumbles over them where they raise.
pytestmark = pytest.mark.filterwarnings(*(f"ignore::{kind}Warning" for kind in ("Future", "Deprecation", "User")))


def run(arm: Callable[[Any], Any], mode: str) -> dict[str, Any]:
    p = {"model": "tiny", "card_gb": 1, "mode": mode, "length": 24, "device": "cpu"}
    torch.manual_seed(1)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()  # other tests of this process compile too
    i = _qlora.inputs(p)
    steps = arm(i)
    while True:
        try:
            next(steps)
        except StopIteration as stop:
            return dict(stop.value)


@pytest.mark.parametrize("planted", [_qlora.saving, _qlora.caching])
@pytest.mark.parametrize("mode", ["eager", "checkpoint", "mincut"])
def test_a_bug_in_memory_is_none_in_numbers(mode: str, planted: Callable[[Any], Any]) -> None:
    fixed, bug = run(_qlora.fixed, mode), run(planted, mode)
    assert fixed["loss"] == pytest.approx(bug["loss"], rel=1e-3)
    assert fixed["loss"] == pytest.approx(run(_qlora.fixed, "eager")["loss"], rel=1e-3)
    assert (fixed["graph_calls"] > 0) == (mode == "mincut")


def test_checkpointing_recomputes_each_layer_and_the_planted_cache_keeps_its_weights(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    built: list[Any] = []
    build = _qlora.build
    forwards = {"eager": 0, "checkpoint": 0}

    def remembered(i: Any, make: Any) -> Any:
        model = build(i, make)

        def count(*_: Any) -> None:
            forwards[i.p["mode"]] += 1

        model.model.layers[0].mlp.register_forward_pre_hook(count)
        built.append(model)
        return model

    monkeypatch.setattr(_qlora, "build", remembered)
    run(_qlora.fixed, "eager")
    run(_qlora.caching, "checkpoint")
    assert forwards == {"eager": 1, "checkpoint": 2}
    layers = _qlora.MODELS["tiny"][2]
    caches = [module.cache for module in built[1].modules() if hasattr(module, "cache")]
    assert len(caches) == 7 * layers
    weights = _qlora.linears({"model": "tiny"})
    assert sum(cache.numel() for cache in caches) == layers * sum(n * k for n, k in weights)
    assert not [module for module in built[0].modules() if hasattr(module, "cache")]


@pytest.mark.parametrize(("room", "trained"), [(2, 1), (3, 2), (9, 3)])
def test_models_are_trained_upward_until_one_does_not_fit(
    room: int, trained: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A card that has room for models of so many layers."""
    shape = _qlora.MODELS["tiny"]
    layers = {"1b": 2, "2b": 3, "3b": 4}
    for name, count in layers.items():
        monkeypatch.setitem(_qlora.MODELS, name, (*shape[:2], count, *shape[3:]))
    built: list[Any] = []
    build = _qlora.build

    def watched(i: Any, make: Any) -> Any:
        assert all(model() is None for model in built), "the model before is still there"
        model = build(i, make)
        built.append(weakref.ref(model))
        return model

    class Full(torch.optim.SGD):
        """Has no room for what the adapters of a larger model need."""

        def __init__(self, adapters: list[Any], lr: float) -> None:
            if len(adapters) > room * 7 * 2:
                raise torch.OutOfMemoryError("CUDA out of memory")
            super().__init__(adapters, lr=lr)

    monkeypatch.setattr(_qlora, "build", watched)
    p = {"models": "1b 2b 3b", "card_gb": 1, "mode": "eager", "length": 24, "device": "cpu"}
    steps, phases = _qlora.climb(SimpleNamespace(p=p), FrozenLinear4bit.from_weight, Full), []
    while True:
        try:
            phases.append(next(steps))
        except StopIteration as stop:
            figures = stop.value
            break
    assert phases == list(layers)[: trained + 1]
    assert (figures["largest_parameters"], figures["too_large"]) == (trained * 1e9, 3 - trained)
    assert [name for name in figures if name.startswith("foreseen")] == [f"foreseen_{name}_bytes" for name in phases]
    assert [model() for model in built] == [None] * len(phases)


LADDERS = (*largest.CASE.conditions, *largest_server.CASE.conditions)


@pytest.mark.parametrize("condition", LADDERS, ids=lambda condition: condition.name)
def test_a_card_is_too_small_for_the_last_model_alone_and_with_the_bug_for_more(condition: Any) -> None:
    models = condition.params["models"].split()
    needed = [sum(_qlora.predicted({**condition.params, "model": name}).values()) for name in models]
    assert needed == sorted(needed)
    assert needed[-2] * 1.05 < _qlora.limit(condition.params) < needed[-1] * 0.94
    assert largest.CASE.budget.limit(condition.params) == 1
    first = {**condition.params, "model": models[1]}
    saved = 2 * _qlora.MODELS[models[1]][2] * sum(n * k for n, k in _qlora.linears(first))
    assert needed[1] + saved > _qlora.limit(condition.params)


def test_what_a_checkpointed_step_should_need_is_less() -> None:
    p = {"model": "34b", "card_gb": 24, "mode": "checkpoint", "length": 512, "device": "cuda"}
    checkpointed, eager = _qlora.predicted(p), _qlora.predicted({**p, "mode": "eager"})
    assert checkpointed["activations"] < eager["activations"] / 15
    assert {k: v for k, v in checkpointed.items() if k != "activations"} == {
        k: v for k, v in eager.items() if k != "activations"
    }
