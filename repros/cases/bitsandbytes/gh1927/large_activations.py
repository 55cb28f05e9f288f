"""Activations of an int8 layer are larger than float16 can hold (bitsandbytes#1927).

Report: training an int8 layer under gradient checkpointing ends in a NaN loss. It does not name this cause.

Mechanism: bitsandbytes casts the activations of an int8 layer to float16 before it quantizes them. The largest float16
is 65,504. The activations here are bfloat16 and reach 80,000, so the cast makes infinities of them. From 0.48 on,
training on a CPU takes another path, without that cast; eval mode does not. Two steps are trained under gradient
checkpointing.

Limit: the error of output and gradients against float64, relative to the largest number. A right layer rounds
activations to int8 (1.0 %, derived in ``_int8.py``) and numbers to bfloat16 (0.8 %). A number that is infinite or NaN
makes the error infinite.

Planted (must break the limit): the reference, but its scale is lost, as in the other int8 cases. That shows
that wrong numbers break the limit; it is not the overflow itself.
"""

from repros.case import Affected, Case, Claim, Condition, error
from repros.cases.bitsandbytes.gh1927 import _int8
from repros.cases.bitsandbytes.gh1927._report_fix import REPORT_FIX, with_report_fix
from repros.cases.bitsandbytes.gh1927._training import fixed_layer, lose_scale, train

LIMIT = _int8.CODE_ROUNDING + _int8.BFLOAT16_EPSILON  # 1.0 % + 0.8 %
TIMES = 2e4  # the largest of the normal activations is about 4

BEFORE_0_48 = Affected({"bitsandbytes": "<0.48"}, "reports/bisect/gh1927-bitsandbytes")
ALL_TRIED = Affected({"bitsandbytes": ">=0.46"}, "reports/bisect/gh1927-bitsandbytes")

OVERFLOWS = Claim("not in the report: bfloat16 above 65,504 overflows")

CASE = Case(
    **_int8.REPORT,
    title="INT8: bfloat16 activations above 65,504 overflow",
    severity="wrong numbers",
    trigger="an int8 layer in bfloat16 whose activations exceed 65,504",
    claims=(OVERFLOWS,),
    conditions=(
        Condition(
            "large-bfloat16-train",
            error(LIMIT),
            {"training": True},
            affected=(BEFORE_0_48,),
            claims=(OVERFLOWS,),
            note="activations above 65,504, the largest float16",
        ),
        Condition(
            "large-bfloat16-eval",
            error(LIMIT),
            {"training": False},
            affected=(ALL_TRIED,),
            claims=(OVERFLOWS,),
            note="the same in eval mode",
        ),
    ),
    proposes=REPORT_FIX,
)


def inputs(c):
    return _int8.inputs(c, times=TIMES)


oracle = _int8.oracle  # float64, with the dequantized weight


def subject(c, frozen, batch):
    yield "load"
    layer = _int8.installed_layer(frozen)
    return (yield from train(layer, batch, training=c.training))


def reference(c, frozen, batch):
    """Quantize the activations in float32."""
    layer = fixed_layer(frozen)
    yield "load"
    return (yield from train(layer, batch, training=c.training))


def planted(c, frozen, batch):
    """Lose the scale before the first forward."""
    layer = fixed_layer(frozen)
    yield "load"
    lose_scale(layer)
    return (yield from train(layer, batch, training=c.training))


proposed = with_report_fix(subject)  # it takes int8 codes as they are, with the scale that the weight has
