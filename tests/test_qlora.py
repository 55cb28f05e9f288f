"""QLoRA steps of the card table, here with a model of a few layers on a CPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from repros.cases import _qlora

#: Of transformers (a new name for checkpointing) and of torch's compiler, which stumbles over them where they raise.
pytestmark = pytest.mark.filterwarnings(*(f"ignore::{kind}Warning" for kind in ("Future", "Deprecation", "User")))


def run(arm: Callable[[Any], Any], mode: str) -> dict[str, Any]:
    p = {"model": "tiny", "card_gb": 1, "mode": mode, "tokens": 24, "device": "cpu"}
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


def test_what_a_checkpointed_step_should_need_is_less() -> None:
    p = {"model": "34b", "card_gb": 24, "mode": "checkpoint", "tokens": 512, "device": "cuda"}
    checkpointed, eager = _qlora.predicted(p), _qlora.predicted({**p, "mode": "eager"})
    assert checkpointed["activations"] < eager["activations"] / 15
    assert {k: v for k, v in checkpointed.items() if k != "activations"} == {
        k: v for k, v in eager.items() if k != "activations"
    }
