"""An int8 layer comes out of a saved or converted model (bitsandbytes#1927).

Report: under gradient checkpointing an int8 layer runs a second time in the backward (the recompute). Then the loss is
NaN, the lookup of the layer's scale ``SCB`` fails, or a wrong scale is used. It does not say what loses the scale. This
case tries one way: the layer comes out of a saved model.

Run: a layer saved in int8 and loaded into a new one, and a model that transformers quantizes while it loads, or that is
saved in int8 and loaded again. Loading replaces weights and moves them, and some of these moves forget the scale
``SCB``. The next forward quantizes the codes as if they were a weight: the largest code of a row is 127, so each scale
becomes 127, without a warning. The layer is then trained for two steps under gradient checkpointing.

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
BEFORE_0_48_1 = Affected({"bitsandbytes": "<0.48.1"}, "reports/bisect/gh1927-bitsandbytes")

LOSES_SCALE = Claim("not in the report: a saved or converted model loses its scale")


# Where the layer comes from. Each docstring is the note of a condition.


def state_dict(layer, frozen):
    """Load a saved int8 layer into one that was moved first, as documented."""
    saved = layer.state_dict()
    layer = _int8.installed_layer(frozen._replace(weight=-2 * frozen.weight))
    layer.load_state_dict(saved)
    return layer


def state_dict_then_move(layer, frozen):
    """Load a saved int8 layer into one that was moved first, then move that again."""
    return state_dict(layer, frozen).to(frozen.device)


def converted(layer, frozen):
    """Take the layer out of a model that transformers quantized while loading."""
    return layer_of(convert_model(frozen))


def converted_and_saved(layer, frozen):
    """Take the layer out of a model that transformers quantized while loading, saved in int8 and loaded again."""
    model = convert_model(frozen)
    model.save_pretrained("saved_int8")
    return layer_of(load_model("saved_int8"))


FROM_16_BITS = Remedy(
    "save and load the 16-bit model, and quantize it as it is loaded",
    params={"load": converted},
    needs=Needs({"bitsandbytes": ">=0.47"}, reason="before 0.47 that loses the scale too"),
)


def loaded(name, load, *, saved=True, **more):
    """Return a condition; where the layer is ``saved``, the reference is saved and loaded too."""
    params = {"load": load, "saved": saved}
    return Condition(name, error(LIMIT), params, claims=(LOSES_SCALE,), note=load.__doc__, **more)


CASE = Case(
    **_int8.REPORT,
    title="INT8: a saved or converted model loses its scale",
    severity="wrong numbers",
    trigger="an int8 model that is loaded with from_pretrained, or an int8 layer that is loaded and moved",
    claims=(LOSES_SCALE,),
    conditions=(
        loaded("state-dict-reload", state_dict, affected=()),
        loaded("state-dict-reload-then-to", state_dict_then_move, affected=(BEFORE_0_47,)),
        loaded("from-pretrained", converted, saved=False, affected=(BEFORE_0_47,)),
        loaded("from-pretrained-reload", converted_and_saved, affected=(BEFORE_0_48_1,), remedies=(FROM_16_BITS,)),
    ),
    proposes=REPORT_FIX,
)


inputs, oracle = _int8.inputs, _int8.oracle  # the oracle: float64, with the dequantized weight


def subject(c, frozen, batch):
    yield "load"
    layer = c.load(_int8.installed_layer(frozen), frozen)
    return (yield from train(layer, batch))


def reference(c, frozen, batch):
    """Codes and scale are buffers of one layer, saved and loaded together."""
    from repros.reference.modules import FrozenLinear8bit

    layer = fixed_layer(frozen)
    yield "load"
    if c.saved:
        saved, layer = layer.state_dict(), FrozenLinear8bit(_int8.IN, _int8.OUT)
        layer.load_state_dict(saved)
    return (yield from train(layer.to(frozen.device), batch))


def planted(c, frozen, batch):
    """Lose the scale before the first forward."""
    layer = fixed_layer(frozen)
    yield "load"
    lose_scale(layer)
    return (yield from train(layer, batch))


proposed = with_report_fix(subject)  # it takes int8 codes as they are, with the scale that the weight has


def convert_model(frozen):
    """Save a 16-bit model that has the weight, and load it in int8."""
    from transformers import BitsAndBytesConfig, LlamaConfig, LlamaForCausalLM

    heads = {"num_attention_heads": 4, "num_key_value_heads": 4, "num_hidden_layers": 1}
    config = LlamaConfig(vocab_size=64, hidden_size=_int8.IN, intermediate_size=_int8.OUT, mlp_bias=True, **heads)
    model = LlamaForCausalLM(config).half()
    layer_of(model).load_state_dict({"weight": frozen.weight, "bias": frozen.bias})
    model.save_pretrained("saved")
    return load_model("saved", quantization_config=BitsAndBytesConfig(load_in_8bit=True, llm_int8_threshold=0.0))


def load_model(folder, **options):
    import torch
    from transformers import LlamaForCausalLM

    return LlamaForCausalLM.from_pretrained(folder, device_map={"": "cpu"}, dtype=torch.float16, **options)


def layer_of(model):
    return model.model.layers[0].mlp.gate_proj.requires_grad_(False)
