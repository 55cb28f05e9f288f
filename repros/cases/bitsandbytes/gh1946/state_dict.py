"""`Linear4bit` writes its quantization state into a state dict and does not read it back.

Report: `load_state_dict` of a layer's own state dict raises for the keys of the quantization state; with `strict=False`
it raises nothing, and the layer is silently wrong.

Mechanism: `Linear4bit._save_to_state_dict` writes the scales and the rest of the state beside the weight. Nothing reads
them: torch takes them for unexpected keys, or leaves them out, and the layer has the new codes and its old scales.

Limit: the error of the output against float64, over the codes that were saved, relative to the largest number: a sum of
128 products in float32 is off by at most as many epsilons. The exception that the report quotes breaks the limit too.

Planted (must break the limit): the reference, but the layer that loads keeps its scales out of its buffers.
"""

from repros.case import Affected, Case, Claim, Condition, Symptom, error
from repros.cases.bitsandbytes.gh1946._today import LOOSE, TODAY, remedy_prequantized  # noqa: F401 - an arm

ROWS, IN, OUT = 4, 128, 64
LIMIT = IN * 2.0**-23  # float32's epsilon
ALL = (Affected({"bitsandbytes": ">=0.46"}, "reports/bisect/gh1946-bitsandbytes"),)
ALL_CUDA = (Affected({"bitsandbytes": ">=0.48"}, "reports/h100"),)
RAISES = Claim("load_state_dict of a 4-bit layer's own state dict raises")
WRONG = Claim("with strict=False it is silently wrong")
NOT_STRICT = Condition(
    "not-strict", error(LIMIT), {"strict": False}, affected=ALL, claims=(WRONG,), witness="minimal.py", remedies=TODAY
)

CASE = Case(
    report="bitsandbytes#1946",
    title="Linear4bit._save_to_state_dict writes QuantState keys but no _load_from_state_dict consumes them",
    kind="issue",
    status="open, fix proposed: #1958",
    severity="wrong numbers",
    trigger="`load_state_dict` on a quantized `bitsandbytes.nn.Linear4bit`, as a checkpoint is resumed by hand",
    claims=(RAISES, WRONG),
    conditions=(
        Condition("strict", error(LIMIT), {"strict": True}, affected=ALL, claims=(RAISES,), remedies=(*TODAY, LOOSE)),
        NOT_STRICT,
        NOT_STRICT.on_card("", error(LIMIT), affected=ALL_CUDA, witness="minimal.py"),
    ),
    symptoms=(Symptom("RuntimeError", r"Unexpected key\(s\) in state_dict: .*absmax"),),
)


def inputs(c):
    import torch

    shapes = {"x": (ROWS, IN), "saved": (OUT, IN), "other": (OUT, IN)}
    return {name: torch.randn(*shape, device=c.device) for name, shape in shapes.items()}


def oracle(c, x, saved, other):
    from repros.reference.blockwise import dequantize_4bit, quantize_4bit

    return {"output": x.double() @ dequantize_4bit(quantize_4bit(saved)).double().t()}


def installed_layer(c, weight):
    import torch
    from bitsandbytes.nn import Linear4bit, Params4bit

    made = Linear4bit(IN, OUT, bias=False, compute_dtype=torch.float32, quant_type="nf4", compress_statistics=False)
    made.weight = Params4bit(weight, requires_grad=False, quant_type="nf4", compress_statistics=False)
    return made.to(c.device)


def subject(c, x, saved, other):
    return load(c, installed_layer(c, saved).state_dict(), installed_layer(c, other), x)


def reference(c, x, saved, other):
    from repros.reference.modules import FrozenLinear4bit

    return load(c, FrozenLinear4bit.from_weight(saved).state_dict(), FrozenLinear4bit.from_weight(other), x)


def planted(c, x, saved, other):
    from repros.reference.modules import FrozenLinear4bit

    layer = FrozenLinear4bit.from_weight(other)
    layer._non_persistent_buffers_set.add("absmax")
    return load(c, FrozenLinear4bit.from_weight(saved).state_dict(), layer, x)


def load(c, state, layer, x):
    yield "load"
    layer.load_state_dict(state, strict=c.strict)
    return {"output": layer(x)}
