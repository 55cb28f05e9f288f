"""The state of an int8 layer is cleared between forward and backward (bitsandbytes#1927).

Report: under gradient checkpointing an int8 layer runs a second time in the backward (the recompute). Then the loss is
NaN, the lookup of the layer's scale ``SCB`` fails, or a wrong scale is used. It does not say what loses the scale. This
case tries one way: something clears the layer's state between forward and backward.

Mechanism: after the first forward ``layer.state`` alone has the scale of an int8 weight. Where the state is cleared
before the backward, the recompute, or the backward itself, finds no scale. It raises, or it quantizes the codes as if
they were a weight: the largest code of a row is 127, so each scale becomes 127. Then the output was right, the
gradients are wrong, and nothing warns. Two steps are trained.

Limit: the error of output and gradients against float64, relative to the largest number. A right layer rounds
activations to int8 (1.0 %, derived in ``_int8.py``) and numbers to bfloat16 (0.8 %). Numbers from a lost scale are
2,000 times too large. A failed lookup of the scale, an exception, breaks the limit too.

Planted (must break the limit): the reference, but its scale is lost at the same moment; without a recompute,
where nothing would read the layer again, before the first forward.
"""

from repros.case import Affected, Case, Claim, Condition, Remedy, error
from repros.cases.bitsandbytes.gh1927 import _int8
from repros.cases.bitsandbytes.gh1927._report_fix import REPORT_FIX, with_report_fix
from repros.cases.bitsandbytes.gh1927._training import fixed_layer, lose_scale, train

LIMIT = _int8.CODE_ROUNDING + _int8.BFLOAT16_EPSILON  # 1.0 % + 0.8 %

ALL_TRIED = Affected({"bitsandbytes": ">=0.46"}, "reports/bisect/gh1927-bitsandbytes")
ALL_TRIED_CUDA = Affected({"bitsandbytes": ">=0.48"}, "reports/h200")

LOSES_SCALE = Claim("not in the report: a state cleared before backward loses the scale")


def reset_grads(layer):
    layer.state.reset_grads()


def clear_codes(layer):
    layer.state.CB = None


def cleared(name, note, *, clear, recompute="reentrant", **more):
    """Return a condition on a CPU; ``recompute`` is a mode of gradient checkpointing, None for a plain backward."""
    params = {"clear": clear, "recompute": recompute}
    return Condition(name, error(LIMIT), params, affected=(ALL_TRIED,), claims=(LOSES_SCALE,), note=note, **more)


LEAVE = Remedy("leave the state of a frozen layer alone: it has no gradient to reset", params={"clear": None})
RESET = cleared("reset-grads-between", "state.reset_grads() before the recompute", clear=reset_grads, remedies=(LEAVE,))

CASE = Case(
    **_int8.REPORT,
    title="INT8: a state that is cleared before the backward loses the scale",
    severity="wrong numbers",
    trigger="something resets the state of an int8 layer between forward and backward",
    claims=(LOSES_SCALE,),
    conditions=(
        RESET,
        cleared("clear-cb-between", "state.CB = None instead", clear=clear_codes),
        cleared("reset-grads-no-checkpoint", "the same before a plain backward", clear=reset_grads, recompute=None),
        RESET.on_card("", error(LIMIT), affected=(ALL_TRIED_CUDA,), proposed=False),
    ),
    proposes=REPORT_FIX,
)

inputs, oracle = _int8.inputs, _int8.oracle  # the oracle: float64, with the dequantized weight


def subject(c, frozen, batch):
    yield "load"
    layer = _int8.installed_layer(frozen)
    return (yield from train(layer, batch, recompute=c.recompute, between=c.clear))


def reference(c, frozen, batch):
    """Codes and scale are buffers of the layer, and it has no state to clear."""
    layer = fixed_layer(frozen)
    yield "load"
    return (yield from train(layer, batch, recompute=c.recompute))


def planted(c, frozen, batch):
    """Lose the scale between forward and backward; without a recompute, before the first forward too."""
    layer = fixed_layer(frozen)
    yield "load"
    if c.recompute is None:
        lose_scale(layer)
    return (yield from train(layer, batch, recompute=c.recompute, between=lose_scale))


proposed = with_report_fix(subject)  # it takes int8 codes as they are, with the scale that the weight has
