"""accelerate offloads an int8 layer to the CPU while it trains (bitsandbytes#1927).

The report's environment has accelerate's offload in use, around training with gradient checkpointing.

Run: ``accelerate.cpu_offload`` puts hooks around a layer's forward. One brings the weights before it, one takes them
away after it. The scale of an int8 weight moves to ``layer.state`` in the first forward, and the hooks know nothing of
that: after the forward the scale is gone, and the recompute, the backward or the next forward raises. So it happens
without checkpointing too, and in eval mode. Two steps are trained.

Limit: the error of output and gradients against float64, relative to the largest number. A right layer rounds
activations to int8 (1.0 %, derived in ``_int8.py``) and numbers to bfloat16 (0.8 %). Numbers from a lost scale are
2,000 times too large. A failed lookup of the scale, an exception, breaks the limit too.

Planted (must break the limit): the reference, but its scale is lost first and codes are quantized as if a weight.
"""

from repros.case import Affected, Case, Claim, Condition, error
from repros.cases.bitsandbytes.gh1927 import _int8
from repros.cases.bitsandbytes.gh1927._offloaded import IN_16_BITS, KEEP, remedy_keep  # noqa: F401 - an arm
from repros.cases.bitsandbytes.gh1927._report_fix import REPORT_FIX, with_report_fix
from repros.cases.bitsandbytes.gh1927._training import fixed_layer, lose_scale, train

LIMIT = _int8.CODE_ROUNDING + _int8.BFLOAT16_EPSILON  # 1.0 % + 0.8 %

ALL_TRIED = Affected({"bitsandbytes": ">=0.46"}, "reports/bisect/gh1927-bitsandbytes")
ALL_TRIED_CUDA = Affected({"bitsandbytes": ">=0.48"}, "reports/h200")

UNDER_OFFLOAD = Claim("recompute under accelerate's offload, as in the report's environment")
HOOKS = Claim("not in the report: accelerate's offload hooks lose the scale, with recompute or without")


def offload(name, note, claim=HOOKS, *, recompute="reentrant", training=True, scale_in_map=True, **more):
    """Return a condition on a CPU; accelerate brings the weights from a map of names to tensors."""
    params = {"recompute": recompute, "training": training, "scale_in_map": scale_in_map, "make": _int8.installed_layer}
    return Condition(name, error(LIMIT), params, affected=(ALL_TRIED,), claims=(claim,), note=note, **more)


AROUND = "accelerate.cpu_offload around checkpointed training"
OFFLOADED = offload("offload", AROUND, UNDER_OFFLOAD, witness="minimal.py", remedies=(KEEP, IN_16_BITS))

CASE = Case(
    **_int8.REPORT,
    title="INT8: accelerate's offload loses the scale",
    severity="raises",
    trigger="training an int8 layer that accelerate offloads to the CPU",
    claims=(UNDER_OFFLOAD, HOOKS),
    conditions=(
        OFFLOADED,
        offload("offload-no-checkpoint", "the same without checkpointing", recompute=None),
        offload("offload-map-without-scale", "its map of weights lacks SCB", scale_in_map=False),
        offload("offload-eval", "the same hooks, eval mode, no checkpointing", recompute=None, training=False),
        OFFLOADED.on_card("", error(LIMIT), affected=(ALL_TRIED_CUDA,), proposed=False, witness="minimal.py"),
    ),
    proposes=REPORT_FIX,
)

inputs, oracle = _int8.inputs, _int8.oracle  # the oracle: float64, with the dequantized weight


def subject(c, frozen, batch):
    import accelerate

    yield "offload"
    layer = c.make(frozen)
    weights = {name: tensor.to("cpu", copy=True) for name, tensor in layer.state_dict().items()}
    if not c.scale_in_map:
        weights.pop("SCB")
    layer = accelerate.cpu_offload(layer, execution_device=frozen.device, state_dict=weights)
    return (yield from train(layer, batch, recompute=c.recompute, training=c.training))


def reference(c, frozen, batch):
    """Codes and scale are buffers of one layer, offloaded together."""
    import accelerate

    layer = fixed_layer(frozen)
    yield "offload"
    layer = accelerate.cpu_offload(layer, execution_device=frozen.device, offload_buffers=True)
    return (yield from train(layer, batch, recompute=c.recompute, training=c.training))


def planted(c, frozen, batch):
    """Lose the scale before the first forward."""
    layer = fixed_layer(frozen)
    yield "offload"
    lose_scale(layer)
    return (yield from train(layer, batch, recompute=c.recompute, training=c.training))


proposed = with_report_fix(subject)  # it takes int8 codes as they are, with the scale that the weight has
