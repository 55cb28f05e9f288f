"""A layer gets an int8 weight that is quantized already: its codes, and their scale (bitsandbytes#1927).

Report: a weight that is int8 already is not handled.

Run: four ways in which a loader hands over codes and the scale ``SCB``. It sets the scale after it moves the weight, or
before, or it moves the whole layer, or it has no scale. Where the scale is not found, the first forward raises, or it
quantizes the codes as if they were a weight: the largest code of a row is 127, so each scale becomes 127, without a
warning. Each layer is trained for two steps under gradient checkpointing.

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

BEFORE_0_48_1 = Affected({"bitsandbytes": "<0.48.1"}, "reports/bisect/gh1927-bitsandbytes")
FROM_0_47_TO_0_48_0 = Affected({"bitsandbytes": ">=0.47,<0.48.1"}, "reports/bisect/gh1927-bitsandbytes")
ALL_TRIED = Affected({"bitsandbytes": ">=0.46"}, "reports/bisect/gh1927-bitsandbytes")
BEFORE_0_48_1_CUDA = Affected({"bitsandbytes": "<0.48.1"}, "reports/h200")

NOT_HANDLED = Claim("a pre-quantized int8 weight is not handled")


# Four ways to hand over codes and scale to bitsandbytes' layer, as loaders do. Each docstring is a condition's note.


def scale_after_move(layer, frozen):
    """Int8 codes, moved, then given their SCB (as transformers 4.x loads them)."""
    layer.weight = int8_weight(frozen, scale=None).to(frozen.device)
    layer.weight.SCB = frozen.scale
    return layer


def scale_before_move(layer, frozen):
    """Int8 codes with their SCB, weight moved (as transformers 5.x loads them)."""
    layer.weight = int8_weight(frozen, scale=frozen.scale).to(frozen.device)
    return layer


def scale_before_move_of_layer(layer, frozen):
    """Int8 codes with their SCB, layer moved: its CB stays None, and SCB is not looked at."""
    layer.weight = int8_weight(frozen, scale=frozen.scale)
    return layer.to(frozen.device)


def no_scale(layer, frozen):
    """Int8 codes whose scale is nowhere: the only right answer is an error."""
    layer.weight = int8_weight(frozen, scale=None).to(frozen.device)
    return layer


def int8_weight(frozen, scale):
    from bitsandbytes.nn import Int8Params

    return Int8Params(frozen.codes.clone(), requires_grad=False, SCB=scale)


WEIGHT_FIRST = Remedy(
    "move the weight before you give it to the layer: `layer.weight = Int8Params(codes, SCB=scale).to(device)`",
    params={"load": scale_before_move},
    needs=Needs({"bitsandbytes": ">=0.48.1"}, reason="before 0.48.1 a weight loses its scale where it is moved"),
)


def codes(name, load, *, affected, **more):
    more |= {"affected": affected, "claims": (NOT_HANDLED,), "note": load.__doc__}
    return Condition(f"codes-{name}", error(LIMIT), {"load": load}, **more)


ON_CARD = {"device": "cuda", "proxy": "codes-scale-after-move", "proposed": False}

CASE = Case(
    **_int8.REPORT,
    title="INT8: a weight that is quantized already loses its scale",
    severity="wrong numbers",
    trigger="an int8 layer that is given int8 codes, as when a saved int8 model is loaded",
    claims=(NOT_HANDLED,),
    conditions=(
        codes("scale-after-move", scale_after_move, affected=(FROM_0_47_TO_0_48_0,)),
        codes("scale-before-move", scale_before_move, affected=(BEFORE_0_48_1,)),
        codes("scale-module-move", scale_before_move_of_layer, affected=(ALL_TRIED,), remedies=(WEIGHT_FIRST,)),
        codes("no-scale", no_scale, affected=(ALL_TRIED,)),
        codes("scale-after-move-cuda", scale_after_move, affected=(BEFORE_0_48_1_CUDA,), **ON_CARD),
    ),
    proposes=REPORT_FIX,
)


inputs, oracle = _int8.inputs, _int8.oracle  # the oracle: float64, with the dequantized weight


def subject(c, frozen, batch):
    yield "load"
    layer = c.load(_int8.installed_layer(frozen), frozen)
    return (yield from train(layer, batch))


def reference(c, frozen, batch):
    """Codes and scale are buffers of one layer, moved together."""
    layer = fixed_layer(frozen)
    yield "load"
    return (yield from train(layer.to(frozen.device), batch))


def planted(c, frozen, batch):
    """Lose the scale before the first forward."""
    layer = fixed_layer(frozen)
    yield "load"
    lose_scale(layer)
    return (yield from train(layer, batch))


proposed = with_report_fix(subject)  # it takes int8 codes as they are, with the scale that the weight has
