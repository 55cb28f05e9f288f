"""On a CPU with AVX512-BF16 the scales of a 4-bit layer are saved in the wrong order once it was evaluated.

Report: `layer.eval()` and a forward repack the weight; what is then saved is wrong. Never evaluated, it is fine.

Mechanism: `_convert_weight_packed_for_cpu` transposes the scales and casts them to bfloat16; `state_dict` undoes the
packing in the layer itself, by `_convert_weight_packed_for_cpu_inverse` (functional.py), which turns scales back only
where they were quantized twice. Shortest: `eval()`, a forward, `state_dict()`; the layer is as wrong as the file.

Limit: a weight is its code times its scale, so relatively as wrong as that: half an epsilon of bfloat16, and one more
epsilon where scales are quantized anew, to 8 bits.

Planted: the reference, with its scales in the transposed order.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from repros.case import Affected, Case, Claim, Condition, error
from repros.cases.bitsandbytes.gh1946._layer import BLOCK, IN, OUT, PACKS, TITLE, codes, dequantized, draw, installed

LIMIT = 3 / 2 * 2.0**-7  # bfloat16's epsilon
SAVED = Claim("on a CPU the state_dict of a 4-bit layer that was evaluated is wrong")
KEPT = Claim("not in the report: after state_dict() the layer itself is as wrong")
SINCE_049 = (Affected({"bitsandbytes": ">=0.49"}, "reports/bisect/gh1946-bitsandbytes"),)


def after(name: str, evaluated: bool = True, double: bool = False, kept: bool = False, **declared: Any) -> Condition:
    params = {"evaluated": evaluated, "double": double, "kept": kept}
    return Condition(name, error(LIMIT), params, PACKS, **declared)


CASE = Case(
    report="bitsandbytes#1946",
    title=TITLE,
    kind="issue",
    status="open",
    severity="wrong numbers",
    trigger="`state_dict()` of a 4-bit layer without double quantization, after an evaluation on an AVX512-BF16 CPU",
    claims=(SAVED, KEPT),
    conditions=(
        after("saved", claims=(SAVED,), affected=SINCE_049),
        after("kept", kept=True, claims=(KEPT,), affected=SINCE_049),
        after("saved-double-quantized", double=True, claims=(SAVED,), affected=()),
        after("never-evaluated", evaluated=False, control=True),
    ),
)


def inputs(c: Condition) -> dict[str, Any]:
    return draw()


def oracle(c: Condition, x: Any, weight: Any) -> dict[str, Any]:
    return {"weight": dequantized(weight, c.double).double()}


def subject(c: Condition, x: Any, weight: Any) -> Any:
    from bitsandbytes.functional import QuantState, dequantize_4bit

    layer = installed(weight, c.double)
    if c.evaluated:
        layer.eval()(x)
    yield "forward"
    saved = layer.state_dict()
    parts = {name.removeprefix("weight."): part for name, part in saved.items() if name != "weight"}
    state = layer.weight.quant_state if c.kept else QuantState.from_dict(parts, x.device)
    return {"weight": dequantize_4bit(saved["weight"], state)}


def reference(c: Condition, x: Any, weight: Any, order: Any = lambda q: q) -> Any:
    from repros.reference.blockwise import dequantize_4bit

    yield "forward"
    return {"weight": dequantize_4bit(order(codes(weight, c.double)))}


def planted(c: Condition, x: Any, weight: Any) -> Any:
    return reference(c, x, weight, lambda q: replace(q, absmax=q.absmax.reshape(OUT, IN // BLOCK).t().reshape(-1)))
