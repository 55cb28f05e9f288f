"""An int8 weight that was saved quantized comes out broken when it is loaded with bitsandbytes 0.48.0.

Report: all models that were quantized with prior versions are severely broken when loaded with 0.48; with 0.47 they are
fine. A maintainer narrows it to int8.

Mechanism: a loader hands over the codes, and the scale `SCB` of their rows. Moving the weight to its device drops the
scale, or takes the codes for a weight: the largest code of a row is 127, so each scale becomes 127, without a warning.

Limit: the error of the output against float64, over the same codes, relative to the largest number. The inputs are
whole numbers up to 127, with a 127 in each row, so that their own rounding to int8 is exact. What is left is the
rounding of the output and of a scale that went through float16: an epsilon each, where half of one would do.

Planted (must break the limit): the reference, but every scale is 127.
"""

from __future__ import annotations

from typing import Any

from repros.case import Affected, Case, Claim, Condition, Remedy, error

LIMIT = 2 * 2.0**-10  # epsilons of float16

FROM_0_47 = Affected({"bitsandbytes": ">=0.47,<0.48.1"}, "reports/bisect/gh1775-bitsandbytes")
BEFORE_0_48_1 = Affected({"bitsandbytes": ">=0.46,<0.48.1"}, "reports/bisect/gh1775-bitsandbytes")
ON_CARD = (Affected({"bitsandbytes": ">=0.48,<0.48.1"}, "reports/h100"),)
BROKEN = Claim("a model that was saved in int8 is severely broken when it is loaded")


def as_transformers_4(codes: Any, scale: Any, device: Any) -> Any:
    from bitsandbytes.nn import Int8Params

    weight = Int8Params(codes, requires_grad=False).to(device)
    weight.SCB = scale.to(device)
    return weight


def as_transformers_5(codes: Any, scale: Any, device: Any) -> Any:
    from bitsandbytes.nn import Int8Params

    return Int8Params(codes, requires_grad=False, SCB=scale).to(device)


def quantized_anew(codes: Any, scale: Any, device: Any) -> Any:
    from bitsandbytes.nn import Int8Params

    return Int8Params((codes * (scale / 127).unsqueeze(1)).half(), requires_grad=False).to(device)


ANEW = Remedy("quantize anew: load the 16-bit checkpoint with `load_in_8bit=True`", params={"load": quantized_anew})
BY_4 = Condition("as-transformers-4", error(LIMIT), {"load": as_transformers_4}, claims=(BROKEN,), remedies=(ANEW,),
                 witness="minimal.py", affected=(FROM_0_47,))  # fmt: skip
BY_5 = Condition("as-transformers-5", error(LIMIT), {"load": as_transformers_5}, claims=(BROKEN,),
                 affected=(BEFORE_0_48_1,))  # fmt: skip

CASE = Case(
    report="bitsandbytes#1775",
    title="version 0.48 is broken",
    kind="issue",
    status="closed",
    severity="wrong numbers",
    trigger="a model that was saved in int8 and is loaded again",
    fix="bitsandbytes#1776",
    claims=(BROKEN,),
    conditions=(
        BY_4,
        BY_5,
        Condition("quantized-anew", error(LIMIT), {"load": quantized_anew}, control=True),
        BY_4.on_card("", error(LIMIT), affected=ON_CARD),
        BY_5.on_card("", error(LIMIT), affected=ON_CARD),
    ),
)


def inputs(c: Condition) -> dict[str, Any]:
    import torch

    from repros.reference.int8 import quantize_rowwise

    codes, scale = quantize_rowwise(torch.randn(32, 64))
    x = torch.randint(-126, 127, (16, 64))
    x[:, 0] = 127
    return {"x": x.half().to(c.device), "codes": codes, "scale": scale}


def oracle(c: Condition, x: Any, codes: Any, scale: Any) -> dict[str, Any]:
    """Multiply in float64 by what the codes stand for."""
    return {"output": x.cpu().double() @ (codes.double() * scale.double().unsqueeze(1) / 127).t()}


def subject(c: Condition, x: Any, codes: Any, scale: Any) -> Any:
    from bitsandbytes.nn import Linear8bitLt

    layer = Linear8bitLt(64, 32, bias=False, has_fp16_weights=False)
    layer.weight = c.load(codes, scale, c.device)
    yield "forward"
    return {"output": layer(x)}


def reference(c: Condition, x: Any, codes: Any, scale: Any) -> Any:
    from repros.reference.linear import linear_8bit

    yield "forward"
    return {"output": linear_8bit(x, codes.to(x.device), scale.to(x.device))}


def planted(c: Condition, x: Any, codes: Any, scale: Any) -> Any:
    return reference(c, x, codes, scale.new_full(scale.shape, 127.0))
