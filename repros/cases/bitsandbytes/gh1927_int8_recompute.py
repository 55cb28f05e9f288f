"""Gradient checkpointing recomputes an int8 layer: NaN loss, a wrong scale, or a failed lookup of ``SCB``.

The report: on recompute ``state.CB`` is already set and an int8 ``B`` is not handled. Mechanism tried: the scale of
an int8 weight has one owner at a time. The first forward moves ``SCB`` from the weight to ``state``; whatever then
replaces the weight or resets the state loses it, and the next forward quantizes the int8 codes as if they were
weights. Their largest magnitude is 127 in every row, so the scale becomes 127, whatever it was.

The layer is ``Linear8bitLt(x) * gate`` with a trained gate, so that a recompute is needed in both modes of
``torch.utils.checkpoint`` and its numbers reach a gradient. Oracle: float64, with the dequantized weight.
Budget: ``repros.cases._int8.error_limit``, from the code steps of ``x`` and the epsilon of the dtype.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

from repros.case import Budget, Case, Claim, Condition, on_cards
from repros.cases import _int8
from repros.cases._int8 import error_limit, oracle

Arm = Generator[str, None, Mapping[str, Any]]

__all__ = ["CASE", "oracle", "planted", "prepare", "proposed", "reference", "subject"]


def _plain(checkpoint: str, mode: str, dtype: str, threshold: int) -> Condition:
    params = {"checkpoint": checkpoint, "train": mode == "train", "dtype": dtype, "threshold": threshold}
    return Condition(f"recompute-{checkpoint}-{mode}-{dtype}-t{threshold}", params)


def _trigger(name: str, note: str, **params: object) -> Condition:
    return Condition(name, {"trigger": name, **params}, note=note)


ON_CPU = (
    _plain("reentrant", "train", "bfloat16", 0),
    _plain("reentrant", "train", "float16", 6),
    _plain("reentrant", "eval", "bfloat16", 6),
    _plain("reentrant", "eval", "float32", 0),
    _plain("nonreentrant", "train", "bfloat16", 6),
    _plain("nonreentrant", "train", "float32", 0),
    _plain("nonreentrant", "eval", "float16", 0),
    _plain("nonreentrant", "eval", "bfloat16", 6),
    _trigger("codes-scale-after-move", "int8 codes, moved, then given their SCB (as transformers 4.x loads them)"),
    _trigger("codes-scale-before-move", "int8 codes with their SCB, weight moved (as transformers 5.x loads them)"),
    _trigger("codes-scale-module-move", "the same, but the module is moved: CB stays None, SCB is not looked at"),
    _trigger("codes-no-scale", "int8 codes whose scale is nowhere: the only right answer is an error"),
    _trigger("second-to", "layer.to(device) twice before the first forward"),
    _trigger("to-after-forward", "layer.to(device) between two forwards"),
    _trigger("weight-to-after-forward", "layer.weight = layer.weight.to(device) between two forwards"),
    _trigger("tied-weight", "two layers share one weight; the other one has run first"),
    _trigger("reset-grads-between", "state.reset_grads() between forward and recompute", lose="between"),
    _trigger("clear-cb-between", "state.CB = None between forward and recompute", lose="between"),
    _trigger("reset-grads-no-checkpoint", "state.reset_grads() between forward and backward", checkpoint="none"),
    _trigger("offload", "accelerate.cpu_offload around checkpointed training"),
    _trigger("offload-no-checkpoint", "the same without checkpointing", checkpoint="none"),
    _trigger("offload-map-without-scale", "its map of weights lacks SCB"),
    _trigger("offload-eval", "the same hooks, eval mode, no checkpointing", train=False, checkpoint="none"),
    _trigger("large-bfloat16-train", "activations above 65,504, the largest float16", amplitude=2e4),
    _trigger("large-bfloat16-eval", "the same in eval mode", amplitude=2e4, train=False),
    _trigger("state-dict-reload", "a saved int8 layer loaded into one that was moved first, as documented"),
    _trigger("state-dict-reload-then-to", "the same, then moved again"),
    _trigger("from-pretrained", "the layer out of a model that transformers quantized while loading"),
    _trigger("from-pretrained-reload", "the same, saved in int8 and loaded again"),
)
#: What is tried on a GPU too: the recompute, and the ways to lose a scale that differ in kind.
ON_CARD = [
    "recompute-reentrant-train-bfloat16-t0",
    "recompute-nonreentrant-train-bfloat16-t6",
    "codes-scale-after-move",
    "weight-to-after-forward",
    "tied-weight",
    "reset-grads-between",
    "offload",
]

CASE = Case(
    package="bitsandbytes",
    number=1927,
    title="INT8 + gradient checkpointing: CB/SCB state machine breaks on recompute",
    kind="issue",
    status="open",
    claims=(
        Claim(
            "plain recompute, nothing offloaded: NaN loss, failed SCB lookup or wrong SCB",
            {"tested": "0.43.x / 0.44.x"},
            "recompute-*",
        ),
        Claim("a pre-quantized int8 weight is not handled", conditions="codes-*"),
        Claim("not in the report: a moved or tied weight loses its scale", conditions="*to* tied-weight*"),
        Claim("not in the report: a state cleared before backward loses the scale", conditions="reset-grads-* clear-*"),
        Claim(
            "recompute under accelerate's offload, as in the report's environment", conditions="offload offload-cuda"
        ),
        Claim(
            "not in the report: accelerate's offload hooks lose the scale, with recompute or without",
            conditions="offload-no-checkpoint offload-eval offload-map-*",
        ),
        Claim("not in the report: a saved or converted model loses its scale", conditions="from-* state-dict-reload"),
        Claim("not in the report: bfloat16 above 65,504 overflows", conditions="large-*"),
    ),
    conditions=(
        *ON_CPU,
        *(replace(condition.on_cuda(), without=("proposed",)) for condition in ON_CPU if condition.name in ON_CARD),
    ),
    budget=Budget("error", error_limit),
    numbers=error_limit,
    symptoms=_int8.LOST_SCALE,
    affected=(
        *on_cards("reports/h200", bitsandbytes=("<0.48.1", "codes-scale-after-move-cuda")),
        *on_cards("reports/h200", bitsandbytes=(">=0.48.1", "weight-to-after-forward-cuda")),
        *on_cards("reports/h200", bitsandbytes=(">=0.48", "tied-weight-cuda", "reset-grads-*-cuda", "offload-cuda")),
        *_int8.affected("bitsandbytes", "<0.47", "second-to", "to-after-forward", "*-then-to", "from-pretrained"),
        *_int8.affected("bitsandbytes", "<0.47", "weight-to-after-forward"),
        *_int8.affected("bitsandbytes", "<0.48", "large-bfloat16-train"),
        *_int8.affected("bitsandbytes", "<0.48.1", "codes-scale-before-move", "from-pretrained-reload"),
        *_int8.affected("bitsandbytes", ">=0.47,<0.48.1", "codes-scale-after-move"),
        *_int8.affected("bitsandbytes", ">=0.48.1", "weight-to-after-forward"),
        *_int8.affected("bitsandbytes", ">=0.46", "codes-scale-module-move", "codes-no-scale", "tied-weight"),
        *_int8.affected("bitsandbytes", ">=0.46", "reset-grads-*", "clear-cb-*", "offload*", "large-bfloat16-eval"),
    ),
    proposes="where B is int8: CB = B.data.clone(); SCB = B.SCB if there is one, else amax(|CB|) / 127",
    url="https://github.com/bitsandbytes-foundation/bitsandbytes/issues/1927",
)


def prepare(p: Mapping[str, Any], checkpoint: object) -> SimpleNamespace:
    return _int8.inputs(p)


def _steps(i: Any, layer: Any, between: Any = None) -> Arm:
    """Run two training steps, each ``layer(x) * gate``, checkpointed as the condition says; return the second's."""
    import torch
    from torch.utils import checkpoint as utils

    mode = i.p.get("checkpoint", "reentrant")
    layer.train(i.p.get("train", True))
    for step in ("forward", "backward"), ("second forward", "second backward"):
        yield step[0]
        i.x.grad = i.gate.grad = None
        block = lambda x: layer(x) * i.gate  # noqa: E731
        out = block(i.x) if mode == "none" else utils.checkpoint(block, i.x, use_reentrant=mode == "reentrant")
        yield step[1]
        if between is not None:
            between(layer)
        torch.autograd.backward(out, i.grad)
    return {"output": out, "grad_input": i.x.grad, "grad_gate": i.gate.grad}


def subject(i: Any) -> Arm:
    yield "disturb"
    return (yield from _steps(i, *_int8.disturb(i, _int8.bnb_layer(i))))


def proposed(i: Any) -> Arm:
    _int8.patch_report_fix()
    return (yield from subject(i))


def reference(i: Any) -> Arm:
    """Codes and scale are buffers of one module: moved, saved, loaded and offloaded together, owned by nobody else."""
    import accelerate

    from repros.reference.modules import FrozenLinear8bit

    layer = FrozenLinear8bit.from_weight(i.weight, i.bias, threshold=i.threshold)
    yield "disturb"
    if "reload" in i.trigger:
        saved, layer = layer.state_dict(), FrozenLinear8bit(_int8.IN, _int8.OUT)
        layer.load_state_dict(saved)
    layer = layer.to(i.device)
    if i.trigger.startswith("offload"):
        layer = accelerate.cpu_offload(layer, execution_device=i.device, offload_buffers=True)
    return (yield from _steps(i, layer))


def planted(i: Any) -> Arm:
    """Lose the scale and quantize the codes a second time, before the first forward or before the recompute."""
    from repros.reference.int8 import quantize_rowwise
    from repros.reference.modules import FrozenLinear8bit

    layer = FrozenLinear8bit.from_weight(i.weight, i.bias, threshold=i.threshold)

    def lose(layer: Any) -> None:
        layer.codes, layer.scale = quantize_rowwise(layer.codes.float())

    yield "disturb"
    if i.p.get("lose") == "between":
        return (yield from _steps(i, layer, lose))
    lose(layer)
    return (yield from _steps(i, layer))
