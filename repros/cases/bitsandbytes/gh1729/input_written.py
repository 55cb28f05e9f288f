"""On a CPU an int8 layer with a threshold writes into an input with outliers, and the backward before it raises.

Report: with a threshold above 0 and outlier columns the output is wrong, or an exception comes; without it is right.

Mechanism: `int8_vectorwise_quant` (backends/default/ops.py) zeroes the outliers in A itself and restores them later.
The cast before it does not copy float16, so the input's version goes up, and whatever saved it, such as a ReLU, refuses
its backward. From 0.48 on (MatMul8bitFp) training does not quantize the input; eval mode still does.

Limit: the gradient is a sum of OUT products; the weight and the result are rounded by half an epsilon of bfloat16 or
finer, of OUT magnitudes, and with random signs the largest sum is at least their root of OUT-th part.

Planted: the reference, after its input's outliers were zeroed in place and restored.
"""

from __future__ import annotations

from typing import Any

from repros.case import Affected, Case, Claim, Condition, Symptom, error
from repros.cases.bitsandbytes.gh1729._layer import IN, OUT, TITLE, dequantized, draw, installed, right, written

BUDGET = error(2 / 2 * 2.0**-7 * OUT**0.5)  # bfloat16's epsilon
CLAIM = Claim("on a CPU an int8 layer with a threshold raises for an input with outlier columns")

ALL, TO_048 = (
    (Affected({"bitsandbytes": w}, "reports/bisect/gh1729-bitsandbytes"),) for w in (">=0.46", ">=0.46,<0.48")
)
EVAL = {"dtype": "float16", "training": False, "outliers": True}

CASE = Case(
    report="bitsandbytes#1729",
    title=TITLE,
    kind="issue",
    status="open",
    severity="raises",
    trigger="a gradient through an int8 layer with a threshold on a CPU, and a float16 input with outlier columns",
    claims=(CLAIM,),
    symptoms=(Symptom("RuntimeError", r"modified by an inplace operation"),),
    conditions=(
        Condition("eval-float16", BUDGET, EVAL, claims=(CLAIM,), affected=ALL),
        Condition("training-float16", BUDGET, EVAL | {"training": True}, claims=(CLAIM,), affected=TO_048),
        Condition("eval-bfloat16", BUDGET, EVAL | {"dtype": "bfloat16"}, claims=(CLAIM,), affected=()),
        Condition("no-outliers", BUDGET, EVAL | {"outliers": False}, control=True),
    ),
)


def inputs(c: Condition) -> dict[str, Any]:
    return draw((16, IN), c.dtype, c.outliers)


def oracle(c: Condition, x: Any, weight: Any) -> dict[str, Any]:
    return {"grad": dequantized(weight).sum(0) * (x > 0)}


def through(x: Any, layer: Any) -> Any:
    """Send a ReLU of x through a layer, and a gradient of ones back; a version does not count under a meter's mode."""
    from torch.utils._python_dispatch import _disable_current_modes

    activation = x.requires_grad_().relu()
    yield "forward"
    with _disable_current_modes():
        output = layer(activation)
    yield "backward"
    output.sum().backward()
    return {"grad": x.grad}


def subject(c: Condition, x: Any, weight: Any) -> Any:
    return through(x, installed(weight, c.training))


def reference(c: Condition, x: Any, weight: Any) -> Any:
    return through(x, lambda a: right(a, weight))


def planted(c: Condition, x: Any, weight: Any) -> Any:
    return through(x, lambda a: right(written(a), weight))
