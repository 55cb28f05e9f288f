"""The weight of an int8 layer is moved or shared (bitsandbytes#1927).

Report: under gradient checkpointing an int8 layer runs a second time in the backward (the recompute). Then the loss is
NaN, the lookup of the layer's scale ``SCB`` fails, or a wrong scale is used. It does not say what loses the scale. This
case tries three ways: the layer is moved again, its weight is moved by itself, or two layers share a weight.

Mechanism: the scale of an int8 weight (the largest magnitude of each row) is in one place at a time. At first that is
the weight's attribute ``SCB``; the first forward moves it to ``layer.state`` and clears it on the weight. A move makes
a new weight, without what was cleared, and a second layer that shares the weight finds it cleared. A layer without its
scale raises, or it quantizes the codes as if they were a weight: the largest code of a row is 127, so each scale
becomes 127, without a warning. Each layer is trained for two steps under gradient checkpointing.

Limit: the error of output and gradients against float64, relative to the largest number. A right layer rounds
activations to int8 (1.0 %, derived in ``_int8.py``) and numbers to bfloat16 (0.8 %). Numbers from a lost scale are
2,000 times too large. A failed lookup of the scale, an exception, breaks the limit too.

Planted (must break the limit): the reference, but its scale is lost first and codes are quantized as if a weight.
"""

from repros.case import Affected, Case, Claim, Condition, Needs, Remedy, error
from repros.cases.bitsandbytes.gh1927 import _int8
from repros.cases.bitsandbytes.gh1927._report_fix import REPORT_FIX, with_report_fix
from repros.cases.bitsandbytes.gh1927._training import fixed_layer, lose_scale, train

LIMIT = _int8.CODE_ROUNDING + _int8.BFLOAT16_EPSILON  # 1.0 % + 0.8 %

BEFORE_0_47 = Affected({"bitsandbytes": "<0.47"}, "reports/bisect/gh1927-bitsandbytes")
SINCE_0_48_1 = Affected({"bitsandbytes": ">=0.48.1"}, "reports/bisect/gh1927-bitsandbytes")
ALL_TRIED = Affected({"bitsandbytes": ">=0.46"}, "reports/bisect/gh1927-bitsandbytes")
SINCE_0_48_1_CUDA = Affected({"bitsandbytes": ">=0.48.1"}, "reports/h200")
ALL_TRIED_CUDA = Affected({"bitsandbytes": ">=0.48"}, "reports/h200")

LOSES_SCALE = Claim("not in the report: a moved or tied weight loses its scale")


# What is done to bitsandbytes' layer, which was moved to its device once. Each docstring is the note of a condition.


def move_again(layer, frozen, batch):
    """Call layer.to(device) twice before the first forward."""
    return layer.to(frozen.device)


def move_after_forward(layer, frozen, batch):
    """Call layer.to(device) between two forwards."""
    layer(batch.x.detach())
    return layer.to(frozen.device)


def move_weight_after_forward(layer, frozen, batch):
    """Set layer.weight = layer.weight.to(device) between two forwards."""
    layer(batch.x.detach())
    layer.weight = layer.weight.to(frozen.device)
    return layer


def tie_weight(layer, frozen, batch):
    """Let two layers share one weight; the other one runs first."""
    other = _int8.installed_layer(frozen)
    other.weight = layer.weight
    other(batch.x.detach())
    return layer


def keep_apart(layer, frozen, batch):
    """Make two layers of one 16-bit weight, each with a quantized weight of its own; the other one runs first."""
    _int8.installed_layer(frozen)(batch.x.detach())
    return layer


MOVE_LAYER = Remedy(
    "move the whole layer, `layer.to(device)`, not its weight",
    params={"move": move_after_forward},
    needs=Needs({"bitsandbytes": ">=0.47"}, reason="before 0.47 a layer, too, is moved only once"),
)
WEIGHT_MOVED = {"affected": (BEFORE_0_47, SINCE_0_48_1), "remedies": (MOVE_LAYER,)}
OWN_WEIGHT = Remedy("quantize each layer from the 16-bit weight: share no int8 weight", params={"move": keep_apart})


def moved(name, move, *, affected, **more):
    more |= {"affected": affected, "claims": (LOSES_SCALE,), "note": move.__doc__}
    return Condition(name, error(LIMIT), {"move": move}, **more)


def on_card(name, move, *, affected):
    return moved(f"{name}-cuda", move, affected=affected, device="cuda", proxy=name, proposed=False)


CASE = Case(
    **_int8.REPORT,
    title="INT8: a moved or tied weight loses its scale",
    severity="wrong numbers",
    trigger="an int8 layer that is moved a second time, or whose weight is moved alone or shared with another layer",
    claims=(LOSES_SCALE,),
    conditions=(
        moved("second-to", move_again, affected=(BEFORE_0_47,)),
        moved("to-after-forward", move_after_forward, affected=(BEFORE_0_47,)),
        moved("weight-to-after-forward", move_weight_after_forward, **WEIGHT_MOVED),
        moved("tied-weight", tie_weight, affected=(ALL_TRIED,), remedies=(OWN_WEIGHT,)),
        on_card("weight-to-after-forward", move_weight_after_forward, affected=(SINCE_0_48_1_CUDA,)),
        on_card("tied-weight", tie_weight, affected=(ALL_TRIED_CUDA,)),
    ),
    proposes=REPORT_FIX,
)


inputs, oracle = _int8.inputs, _int8.oracle  # the oracle: float64, with the dequantized weight


def subject(c, frozen, batch):
    yield "move"
    layer = c.move(_int8.installed_layer(frozen), frozen, batch)
    return (yield from train(layer, batch))


def reference(c, frozen, batch):
    """Codes and scale are buffers of one layer, moved together."""
    layer = fixed_layer(frozen)
    yield "move"
    return (yield from train(layer.to(frozen.device), batch))


def planted(c, frozen, batch):
    """Lose the scale before the first forward."""
    layer = fixed_layer(frozen)
    yield "move"
    lose_scale(layer)
    return (yield from train(layer, batch))


proposed = with_report_fix(subject)  # it takes int8 codes as they are, with the scale that the weight has
