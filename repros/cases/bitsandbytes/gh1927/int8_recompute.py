"""Gradient checkpointing runs an int8 layer a second time: the recompute (bitsandbytes#1927).

Report: the recompute breaks: the loss is NaN, the lookup of the scale ``SCB`` fails, or a wrong scale is used. It says
that ``state.CB``, the codes, is still set from the first run, and that an int8 weight is not handled.

Run: plain recompute and nothing else. A layer is loaded, moved once as documented, and trained for two steps under
``torch.utils.checkpoint``. A condition's name says how: mode of checkpointing, mode of the layer, dtype, and threshold
of outliers (``t6``: columns of activations that reach 6 are multiplied in 16 bits). Other cases lose a scale.

Limit: the error of output and gradients against float64, relative to the largest number. A right layer rounds
activations to int8 (1.0 %, derived in ``_int8.py``) and numbers to their dtype. Numbers from a lost scale are 2,000
times too large.

Planted (must break the limit): the reference, but its scale is lost first and codes are quantized as if a weight.
"""

from repros.case import Case, Claim, Condition, error
from repros.cases.bitsandbytes.gh1927 import _int8
from repros.cases.bitsandbytes.gh1927._report_fix import REPORT_FIX, with_report_fix
from repros.cases.bitsandbytes.gh1927._training import fixed_layer, lose_scale, train

LIMITS = {
    "bfloat16": _int8.CODE_ROUNDING + _int8.BFLOAT16_EPSILON,  # 1.0 % + 0.8 %
    "float16": _int8.CODE_ROUNDING + _int8.FLOAT16_EPSILON,  # 1.0 % + 0.1 %
    "float32": _int8.CODE_ROUNDING + _int8.FLOAT32_EPSILON,  # 1.0 %
}

BREAKS = "plain recompute, nothing offloaded: NaN loss, failed SCB lookup or wrong SCB"
RECOMPUTE = Claim(BREAKS, reported={"tested": "0.43.x / 0.44.x"})


def condition(recompute: str, mode: str, dtype: str, threshold: int) -> Condition:
    """Return a condition that no release tried is affected under (bitsandbytes 0.46.0 to 0.50.2)."""
    name = f"recompute-{recompute}-{mode}-{dtype}-t{threshold}"
    params = {"recompute": recompute, "training": mode == "train", "dtype": dtype, "threshold": threshold}
    return Condition(name, error(LIMITS[dtype]), params, affected=(), claims=(RECOMPUTE,))


def on_card(proxy: Condition) -> Condition:
    return proxy.on_card("", proxy.budget, affected=(), proposed=False)


CASE = Case(
    **_int8.REPORT,
    title="INT8 + gradient checkpointing: CB/SCB state machine breaks on recompute",
    severity="wrong numbers",
    trigger="gradient checkpointing around an int8 layer",
    claims=(RECOMPUTE,),
    conditions=(
        condition("reentrant", "train", "bfloat16", 0),
        condition("reentrant", "train", "float16", 6),
        condition("reentrant", "eval", "bfloat16", 6),
        condition("reentrant", "eval", "float32", 0),
        condition("nonreentrant", "train", "bfloat16", 6),
        condition("nonreentrant", "train", "float32", 0),
        condition("nonreentrant", "eval", "float16", 0),
        condition("nonreentrant", "eval", "bfloat16", 6),
        on_card(condition("reentrant", "train", "bfloat16", 0)),
        on_card(condition("nonreentrant", "train", "bfloat16", 6)),
    ),
    proposes=REPORT_FIX,
)


def inputs(c):
    return _int8.inputs(c, c.dtype, outliers=c.threshold > 0)


oracle = _int8.oracle  # float64, with the dequantized weight


def subject(c, frozen, batch):
    yield "load"
    layer = _int8.installed_layer(frozen, c.threshold)
    return (yield from train(layer, batch, recompute=c.recompute, training=c.training))


def reference(c, frozen, batch, spoil=lambda layer: None):
    layer = fixed_layer(frozen, c.threshold)
    yield "load"
    spoil(layer)
    return (yield from train(layer, batch, recompute=c.recompute, training=c.training))


def planted(c, frozen, batch):
    """Lose the scale before the first forward."""
    return reference(c, frozen, batch, spoil=lose_scale)


proposed = with_report_fix(subject)  # it takes int8 codes as they are, with the scale that the weight has
