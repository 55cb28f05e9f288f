"""On a CPU an int8 layer with a threshold gives wrong output where columns of the input are above it.

Report: with `has_fp16_weights=False` and a threshold the output is wrong, or an exception comes, for inputs with
outlier columns; without them it is right.

Mechanism: none was found. `int8_mixed_scaled_mm` (backends/default/ops.py) takes the outlier columns out of the int8
product and adds them in the input's dtype. Tried as well, and right: one row, three dimensions, training, a transposed
or an expanded input, a row of nothing but outliers, 1 to 253 such columns. Four dimensions raise without outliers too.

Limit: each of IN products is off by half a step of THRESHOLD/127, times a weight of about 1, against the outliers'
own output, SIZE times the root of COLUMNS; and the outliers' weight, their product and the sum are rounded to 16 bits,
each by half an epsilon of COLUMNS magnitudes. Without outliers, the root of IN is the output to hold the steps against.

Planted: the reference, on an input whose outliers were zeroed for the int8 product and never added.
"""

from __future__ import annotations

from typing import Any

from repros.case import Case, Claim, Condition, error
from repros.cases.bitsandbytes.gh1729 import _layer as int8

STEPS = int8.IN * int8.THRESHOLD / 127 / 2
EPS = 2.0**-7  # bfloat16's, the coarsest of the three
LIMIT = STEPS / (int8.SIZE * int8.COLUMNS**0.5) + 3 / 2 * EPS * int8.COLUMNS**0.5

CLAIM = Claim("on a CPU an int8 layer with a threshold gives wrong output for an input with outlier columns")


def tried(name: str, *shape: int, dtype: str = "float16", training: bool = False) -> Condition:
    """Declare a shape and a dtype of an input with outliers."""
    params = {"shape": shape, "dtype": dtype, "training": training, "outliers": True}
    return Condition(name, error(LIMIT), params, claims=(CLAIM,), affected=())


PLAIN = {"shape": (16, int8.IN), "dtype": "float16", "training": False, "outliers": False}

CASE = Case(
    report="bitsandbytes#1729",
    title=int8.TITLE,
    kind="issue",
    status="open",
    severity="wrong numbers",
    trigger="an int8 layer with a threshold on a CPU, and an input with outlier columns",
    claims=(CLAIM,),
    conditions=(
        tried("float16", 16, int8.IN),
        tried("bfloat16", 16, int8.IN, dtype="bfloat16"),
        tried("float32", 16, int8.IN, dtype="float32"),
        tried("one-row", 1, int8.IN),
        tried("three-dimensions", 2, 8, int8.IN),
        tried("training", 16, int8.IN, training=True),
        Condition("no-outliers", error(STEPS / int8.IN**0.5 + EPS), PLAIN, control=True),
    ),
)


def inputs(c: Condition) -> dict[str, Any]:
    return int8.draw(c.shape, c.dtype, c.outliers)


def oracle(c: Condition, x: Any, weight: Any) -> dict[str, Any]:
    return {"output": x.double() @ int8.dequantized(weight).t()}


def subject(c: Condition, x: Any, weight: Any) -> Any:
    layer = int8.installed(weight, c.training)
    yield "forward"
    return {"output": layer(x)}


def reference(c: Condition, x: Any, weight: Any) -> Any:
    yield "forward"
    return {"output": int8.right(x, weight)}


def planted(c: Condition, x: Any, weight: Any) -> Any:
    return reference(c, x.masked_fill(x.abs() >= int8.THRESHOLD, 0), weight)
