"""An int8 layer is built on the meta device, then gets its weights (bitsandbytes#1927).

The meta device holds shapes and no data; a model is built there to be filled by a loader. Report: a layer there raises
``AttributeError: 'Int8Params' object has no attribute 'SCB'``. ``SCB`` is the scale of an int8 weight.

Run: the layer is built on meta and asked for its ``state_dict()``, as a loader does. accelerate then gives 16-bit or
int8 weights to the layer or to a copy of it, and the layer is trained for a step. ``SCB`` is an attribute that the
constructor of the weight, ``Int8Params``, sets, so building the layer raises nothing. Where a weight is made without
that constructor, as pickle does, or its scale is not handed on, the scale is gone.

Limit: the error of output and gradients against float64, relative to the largest number. A right layer rounds
activations to int8 (1.0 %, derived in ``_int8.py``) and numbers to bfloat16 (0.8 %). An exception of that family breaks
the limit too: a failed lookup of ``SCB`` or of its sister ``CB``, the codes.

Planted (must break the limit): the reference, but its weight carries the scale, and is replaced by one without.
"""

import copy
import pickle

from repros.case import Affected, Case, Claim, Condition, Remedy, error
from repros.cases.bitsandbytes.gh1927 import _int8
from repros.cases.bitsandbytes.gh1927._meta import (
    fixed_layer_from_meta,
    installed_layer_on_meta,
    layer_with_replaced_weight,
    train,
)

LIMIT = _int8.CODE_ROUNDING + _int8.BFLOAT16_EPSILON  # 1.0 % + 0.8 %

FROM_0_47_TO_0_48_0 = Affected({"bitsandbytes": ">=0.47,<0.48.1"}, "reports/bisect/gh1927-bitsandbytes")
ALL_TRIED = Affected({"bitsandbytes": ">=0.46"}, "reports/bisect/gh1927-bitsandbytes")

RAISES = Claim(
    "a layer on the meta device raises",
    reported={"message": "AttributeError: 'Int8Params' object has no attribute 'SCB'"},
)
LOST = Claim("not in the report: it raises wherever the attributes were lost on the way")


# What becomes of bitsandbytes' layer on meta before it gets weights.


def itself(layer):
    return layer


def unpickled(layer):
    return pickle.loads(pickle.dumps(layer))


# The weight that accelerate gives it, and the scale.


def in_16_bits(frozen):
    return frozen.weight.half(), None


def codes_and_scale(frozen):
    return frozen.codes, frozen.scale


def codes_alone(frozen):
    return frozen.codes, None


DEEPCOPY = Remedy("copy it by `copy.deepcopy`, not by pickle", params={"copied": copy.deepcopy})
PICKLED = {"affected": (ALL_TRIED,), "remedies": (DEEPCOPY,)}


def on_meta(name, copied, gets, claim, note, **more):
    params = {"copied": copied, "gets": gets}
    return Condition(name, error(LIMIT), params, claims=(claim,), note=note, **more)


CASE = Case(
    **_int8.REPORT,
    title="INT8: 'Int8Params' object has no attribute 'SCB' on the meta device",
    severity="raises",
    trigger="an int8 layer that is built on the meta device and then given weights",
    claims=(RAISES, LOST),
    conditions=(
        on_meta("meta-16bit", itself, in_16_bits, RAISES, "16-bit weights by accelerate", affected=()),
        on_meta("meta-deepcopy", copy.deepcopy, in_16_bits, RAISES, "deepcopy() on meta first", affected=()),
        on_meta("meta-pickle", unpickled, in_16_bits, LOST, "pickled on meta first", **PICKLED),
        on_meta(
            "meta-int8", itself, codes_and_scale, LOST, "codes and SCB by accelerate", affected=(FROM_0_47_TO_0_48_0,)
        ),
        on_meta("meta-int8-no-scale", itself, codes_alone, LOST, "right is only an error", affected=(ALL_TRIED,)),
    ),
)


inputs, oracle = _int8.inputs, _int8.oracle  # the oracle: float64, with the dequantized weight


def subject(c, frozen, batch):
    import torch
    from accelerate.utils import set_module_tensor_to_device

    yield "materialize"
    layer = c.copied(installed_layer_on_meta())
    weight, scale = c.gets(frozen)
    if weight.dtype == torch.int8:
        layer.weight.data = layer.weight.data.to(torch.int8)
    set_module_tensor_to_device(layer, "bias", frozen.device, value=frozen.bias)
    set_module_tensor_to_device(layer, "weight", frozen.device, value=weight, fp16_statistics=scale)
    return (yield from train(layer, batch))


def reference(c, frozen, batch):
    """Codes and scale are buffers: a layer on meta has both, and takes both from a state dict."""
    yield "materialize"
    layer = fixed_layer_from_meta(frozen)
    return (yield from train(layer, batch))


def planted(c, frozen, batch):
    """Keep the scale in an attribute of the weight, and replace the weight."""
    yield "materialize"
    layer = layer_with_replaced_weight(frozen)
    return (yield from train(layer, batch))
