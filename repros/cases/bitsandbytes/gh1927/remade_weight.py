"""The weight of an int8 layer is made anew, not by bitsandbytes' constructor (bitsandbytes#1927).

Report: a layer on the meta device, which holds shapes and no data, raises ``AttributeError: 'Int8Params' object has no
attribute 'SCB'``. ``SCB`` is the scale of an int8 weight, ``CB`` are its codes.

Run: both are plain attributes that the constructor ``Int8Params.__new__`` sets. The layer reads them without asking
whether they are there. Other code makes weights in its own way, and such a weight has neither: ``to_empty``,
``load_state_dict(assign=True)``, ``_make_subclass``, or a head that shares the 16-bit weight of an embedding. From 0.50
on, ``state_dict()`` asks; ``forward`` does not, and fails on ``CB``. The layer is trained for a step.

Limit: the error of output and gradients against float64, relative to the largest number. A right layer rounds
activations to int8 (1.0 %, derived in ``_int8.py``) and numbers to bfloat16 (0.8 %). An exception of that family breaks
the limit too: a failed lookup of ``SCB`` or of its sister ``CB``, the codes.

Planted (must break the limit): the reference, but its weight carries the scale, and is replaced by one without.
"""

from repros.case import Affected, Case, Claim, Condition, Needs, Remedy, Symptom, error
from repros.cases.bitsandbytes.gh1927 import _int8
from repros.cases.bitsandbytes.gh1927._meta import (
    fixed_layer_from_meta,
    installed_layer_on_meta,
    layer_with_replaced_weight,
    train,
)

LIMIT = _int8.CODE_ROUNDING + _int8.BFLOAT16_EPSILON  # 1.0 % + 0.8 %

ALL_TRIED = Affected({"bitsandbytes": ">=0.46"}, "reports/bisect/gh1927-bitsandbytes")

#: What transformers 4.57 and bitsandbytes 0.50 say of a head whose attribute is gone.
LOST_BY_HEAD = Symptom("AttributeError", r"^`lm_head\.SCB` is neither a parameter, buffer, nor extra state\.$")
LOST = Claim("not in the report: it raises wherever the attributes were lost on the way")

LOADS_INT8 = Needs({"bitsandbytes": "<0.50"}, reason="0.50 refuses by design to load int8 into an unquantized layer")


# How bitsandbytes' layer on meta gets its weights. Each docstring is a condition's note.


def emptied(layer, weight, frozen):
    """Leave meta by to_empty(device), then load_state_dict and to(device)."""
    layer = layer.to_empty(device="cpu")
    layer.load_state_dict({"weight": weight, "bias": frozen.bias})
    return layer.to(frozen.device)


def assign_16bit(layer, weight, frozen):
    """Call load_state_dict(assign=True) with 16-bit weights on meta, then to(device)."""
    layer.load_state_dict({"weight": weight, "bias": frozen.bias}, assign=True)
    return layer.to(frozen.device)


def assign_int8(layer, weight, frozen):
    """Call load_state_dict(assign=True) with an int8 state dict on meta."""
    layer.load_state_dict(_int8.installed_layer(frozen).state_dict(), assign=True)
    return layer


def make_subclass(layer, weight, frozen):
    """Call Tensor._make_subclass(Int8Params, codes), as generic tensor code does."""
    import torch
    from bitsandbytes.nn import Int8Params

    layer.weight = torch.Tensor._make_subclass(Int8Params, frozen.codes)
    layer.bias = torch.nn.Parameter(frozen.bias, requires_grad=False)
    return layer


def head_tied_to_embedding(layer, weight, frozen):
    """Load a tied model by from_pretrained, with llm_int8_skip_modules that lacks lm_head."""
    import torch
    from transformers import BitsAndBytesConfig, LlamaConfig, LlamaForCausalLM

    heads = {"num_attention_heads": 4, "num_key_value_heads": 4, "num_hidden_layers": 1}
    shape = {"hidden_size": _int8.IN, "vocab_size": _int8.OUT, "intermediate_size": 64}
    model = LlamaForCausalLM(LlamaConfig(tie_word_embeddings=True, **heads, **shape)).half()
    model.lm_head.load_state_dict({"weight": frozen.weight})
    model.save_pretrained("saved")
    int8 = BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=["v_proj"])
    options = {"device_map": {"": "cpu"}, "dtype": torch.float16}
    return LlamaForCausalLM.from_pretrained("saved", quantization_config=int8, **options).lm_head


NO_META = Remedy("build the layer on the CPU, not on meta: load its 16-bit weights, then move it", arm="remedy_no_meta")


def remade(name, materialize, *, assign=False, bias=True, **more):
    """Return a condition; ``assign``: the reference loads by assignment too; ``bias``: the layer has one."""
    params, note = {"materialize": materialize, "assign": assign, "bias": bias}, materialize.__doc__
    return Condition(name, error(LIMIT), params, affected=(ALL_TRIED,), claims=(LOST,), note=note, **more)


CASE = Case(
    **{**_int8.REPORT, "symptoms": (*_int8.LOST_SCALE, LOST_BY_HEAD)},
    title="INT8: a weight that is made anew has no SCB",
    severity="raises",
    trigger="an int8 layer whose weight other code makes anew: to_empty, load_state_dict(assign=True), a tied head",
    claims=(LOST,),
    conditions=(
        remade("to-empty", emptied, remedies=(NO_META,)),
        remade("assign-16bit", assign_16bit, assign=True),
        remade("assign-int8", assign_int8, assign=True, needs=LOADS_INT8),
        remade("make-subclass", make_subclass),
        remade("skip-modules-tied", head_tied_to_embedding, bias=False),
    ),
)


def inputs(c):
    return _int8.inputs(c, bias=c.bias)


oracle = _int8.oracle  # float64, with the dequantized weight


def subject(c, frozen, batch):
    yield "materialize"
    layer, weight = installed_layer_on_meta(), frozen.weight.half()
    layer = c.materialize(layer, weight, frozen)
    return (yield from train(layer, batch))


def remedy_no_meta(c, frozen, batch):
    yield "materialize"
    return (yield from train(_int8.installed_layer(frozen), batch))


def reference(c, frozen, batch):
    """Codes and scale are buffers: a layer on meta has both, and takes both from a state dict."""
    yield "materialize"
    layer = fixed_layer_from_meta(frozen, c.assign)
    return (yield from train(layer, batch))


def planted(c, frozen, batch):
    """Keep the scale in an attribute of the weight, and replace the weight."""
    yield "materialize"
    layer = layer_with_replaced_weight(frozen)
    return (yield from train(layer, batch))
