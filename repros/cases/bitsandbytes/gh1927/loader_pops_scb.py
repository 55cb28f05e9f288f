"""transformers' loader takes the scale off a weight on the meta device (bitsandbytes#1927).

The report says ``AttributeError: 'Int8Params' object has no attribute 'SCB'``. ``SCB`` is the scale of an int8 weight.

Run: the layer is built on the meta device, which holds shapes and no data. The loader takes ``SCB`` off the weight
there and passes its other attributes on to the weight that replaces it. ``state_dict()`` is called in between.
bitsandbytes reads the attribute without asking whether it is there; from 0.50 on, ``state_dict()`` asks. The layer is
then trained for a step.

Limit: the error of output and gradients against float64, relative to the largest number. A right layer rounds
activations to int8 (1.0 %, derived in ``_int8.py``) and numbers to bfloat16 (0.8 %). An exception of that family breaks
the limit too: a failed lookup of ``SCB`` or of its sister ``CB``, the codes.

Planted (must break the limit): the reference, but its weight carries the scale, and is replaced by one without.
"""

from repros.case import Affected, Case, Claim, Condition, Remedy, error
from repros.cases.bitsandbytes.gh1927 import _int8
from repros.cases.bitsandbytes.gh1927._meta import (
    fixed_layer_from_meta,
    installed_layer_on_meta,
    layer_with_replaced_weight,
    train,
)

LIMIT = _int8.CODE_ROUNDING + _int8.BFLOAT16_EPSILON  # 1.0 % + 0.8 %

BEFORE_0_50 = Affected({"bitsandbytes": "<0.50"}, "reports/bisect/gh1927-bitsandbytes")

POPPED = Claim("it raises where transformers' loader took SCB off the meta parameter")


def pop(layer, weight, frozen):
    """Pop SCB off the meta parameter, as transformers' loader does; call state_dict() before it is replaced."""
    options = pop_scale(layer)
    layer.state_dict()
    return replace_weight(layer, weight, frozen, options)


def pop_unasked(layer, weight, frozen):
    """Pop SCB off the meta parameter; call state_dict() once it is replaced."""
    layer = replace_weight(layer, weight, frozen, pop_scale(layer))
    layer.state_dict()
    return layer


def pop_from_tied(layer, weight, frozen):
    """Pop SCB off the meta parameter, to which a second layer is tied; call state_dict() of that one."""
    from bitsandbytes.nn import Linear8bitLt

    tied = Linear8bitLt(_int8.IN, _int8.OUT, has_fp16_weights=False)
    tied.weight, tied.bias = layer.weight, frozen_parameter(frozen.bias)
    options = pop_scale(layer)
    tied.state_dict()
    return replace_weight(layer, weight, frozen, options)


def pop_scale(layer):
    """Take ``SCB`` off the weight, and return the attributes that are left.

    Source: ``create_quantized_param`` in transformers 4.x, ``Bnb8bitQuantize.convert`` in 5.x.
    """
    options = vars(layer.weight)
    options.pop("SCB")
    return options


def replace_weight(layer, weight, frozen, options):
    from bitsandbytes.nn import Int8Params

    layer.weight = Int8Params(weight, requires_grad=False, **options).to(frozen.device)
    layer.bias = frozen_parameter(frozen.bias)
    return layer


def frozen_parameter(tensor):
    import torch

    return torch.nn.Parameter(tensor, requires_grad=False)


ASK_LATER = Remedy("call `state_dict()` once loading is over", params={"materialize": pop_unasked})


def popped(name, materialize, **more):
    params, note = {"materialize": materialize}, materialize.__doc__
    return Condition(name, error(LIMIT), params, affected=(BEFORE_0_50,), claims=(POPPED,), note=note, **more)


CASE = Case(
    **_int8.REPORT,
    title="INT8: transformers' loader takes SCB off a parameter on the meta device",
    severity="raises",
    fix="bitsandbytes#1897",
    trigger="loading an int8 model with transformers while something calls state_dict()",
    claims=(POPPED,),
    conditions=(
        popped("loader-pops", pop, witness="minimal_loader_pops_scb.py", remedies=(ASK_LATER,)),
        popped("loader-pops-tied", pop_from_tied),
    ),
)


inputs, oracle = _int8.inputs, _int8.oracle  # the oracle: float64, with the dequantized weight


def subject(c, frozen, batch):
    yield "materialize"
    layer, weight = installed_layer_on_meta(), frozen.weight.half()
    layer = c.materialize(layer, weight, frozen)
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
