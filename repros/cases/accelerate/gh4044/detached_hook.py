"""accelerate's offload hooks, taken off again, do not bring the scale of an int8 weight back (accelerate#4044).

Report: after sequential CPU offload, removing the hooks restores an int8 weight without its scale, and the next offload
fails with `Cannot copy out of meta tensor; no data!`.

Mechanism: while a weight is offloaded a parameter on meta stands in its place. The hook that brings the weight before
a forward looks up its scale `SCB` in the map of offloaded tensors; one that is taken off did not, so that the scale is
on meta from then on, or is none.

Limit: the error of the output against float64, over the same codes, relative to the largest number. The inputs are
whole numbers up to 127, with a 127 in each row, so that their own rounding to int8 is exact. What is left is the
rounding of the output and of the weight to float16: an epsilon each, where half of one would do.

Planted (must break the limit): the reference, but its scale is left on meta, and the model is copied to the CPU.
"""

from __future__ import annotations

from typing import Any

from repros.case import Affected, Case, Claim, Condition, Needs, Remedy, Symptom, error

LIMIT = 2 * 2.0**-10  # epsilons of float16

AGAIN = Claim("offload, taking the hooks off, and offload again fails: SCB is on the meta device")
FORWARD = Claim("not in the report: a forward after the hooks were taken off fails likewise")

BEFORE_1_14 = (Affected({"accelerate": ">=1.0,<1.14"}, "reports/bisect/gh4044-accelerate"),)
OFFLOADS = Needs({"bitsandbytes": ">=0.48.1"}, reason="0.48.0 cannot offload int8 weights at all, bitsandbytes#1786")
KEEP = Remedy("leave the hooks on: do not call `remove_hook_from_module`", params={"steps": ("offload",)})
OFFLOADED_AGAIN = Condition("offloaded-again", error(LIMIT), {"steps": ("offload", "remove", "offload")},
                            claims=(AGAIN,), affected=BEFORE_1_14, witness="minimal.py", remedies=(KEEP,))  # fmt: skip

CASE = Case(
    report="accelerate#4044",
    title="Fix int8 offload hook detachment statistics restoration",
    kind="pull request",
    status="merged",
    severity="raises",
    trigger="an int8 model whose offload to the CPU is taken back, as diffusers does it before it loads a LoRA",
    fix="accelerate#4044",
    claims=(AGAIN, FORWARD),
    conditions=(
        OFFLOADED_AGAIN,
        Condition(
            "hooks-removed", error(LIMIT), {"steps": ("offload", "remove")}, claims=(FORWARD,), affected=BEFORE_1_14
        ),
        Condition("offloaded-once", error(LIMIT), {"steps": ("offload",)}, control=True),
        OFFLOADED_AGAIN.on_card("", error(LIMIT), needs=OFFLOADS, affected=BEFORE_1_14),
    ),
    symptoms=(
        Symptom("NotImplementedError", "Cannot copy out of meta tensor; no data!"),
        Symptom("AttributeError", "'NoneType' object has no attribute"),  # the scale, in a forward
    ),
)


def inputs(c: Condition) -> dict[str, Any]:
    import torch

    x = torch.randint(-126, 127, (16, 64))
    x[:, 0] = 127
    return {"x": x.half().to(c.device), "weight": torch.randn(32, 64)}


def oracle(c: Condition, x: Any, weight: Any) -> dict[str, Any]:
    """Multiply in float64 by what the codes stand for."""
    from repros.reference.int8 import dequantize_rowwise, quantize_rowwise

    return {"output": x.cpu().double() @ dequantize_rowwise(*quantize_rowwise(weight.half())).double().t()}


def subject(c: Condition, x: Any, weight: Any) -> Any:
    import torch
    from accelerate import cpu_offload
    from accelerate.hooks import remove_hook_from_module
    from bitsandbytes.nn import Int8Params, Linear8bitLt

    layer = Linear8bitLt(64, 32, bias=False, has_fp16_weights=False)
    layer.weight = Int8Params(weight.half(), requires_grad=False).to(c.device)
    model = torch.nn.Sequential(layer)
    yield "offload"
    for step in c.steps:
        if step == "offload":
            cpu_offload(model, execution_device=torch.device(c.device))
        else:
            remove_hook_from_module(model, recurse=True)
    yield "forward"
    return {"output": model(x)}


def reference(c: Condition, x: Any, weight: Any, device: str = "") -> Any:
    """Codes and scale are buffers of one layer, taken to the CPU together."""
    from repros.reference.modules import FrozenLinear8bit

    layer = FrozenLinear8bit.from_weight(weight.half()).to(c.device)
    layer.scale = layer.scale.to(device or c.device)
    yield "offload"
    layer = layer.to("cpu")
    yield "forward"
    return {"output": layer.to(c.device)(x)}


def planted(c: Condition, x: Any, weight: Any) -> Any:
    return reference(c, x, weight, device="meta")
