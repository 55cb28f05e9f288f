"""A quantized layer whose weight lies in a buffer that other layers reuse gets wrong gradients under checkpointing.

Report: who streams layers writes each into a recycled buffer just before its use, within what is checkpointed. The
forward is exact, the gradients are silently wrong. A 16-bit layer is right in the same harness.

Mechanism: `MatMul4Bit` keeps weight and scales on `ctx`, where non-reentrant checkpointing does not see them.
Nothing has the layer written again, and the backward multiplies by the one that was written last. `MatMul8bitLt` keeps
its state likewise, and so does what takes its place on a CPU.

Limit: the error of the input's gradient against float64, over the same codes, relative to its largest number. In each
of `LAYERS` layers a sum of `WIDTH` products is off by at most as many epsilons.

Planted (must break the limit): the reference's layers, by a Function that keeps the weight on `ctx`.
"""

from repros.case import Affected, Budget, Case, Claim, Condition
from repros.cases.bitsandbytes.gh2034._layers import REPORT, Plain, installed, kept, plain, save_the_weight, train
from repros.cases.bitsandbytes.gh2034._today import LINEAR, OWN_BUFFER, REENTRANT, remedy_dequantize  # noqa: F401
from repros.reference.formats import EightBit, FourBit, exact_chain

LAYERS, TOKENS, WIDTH = 4, 8, 128
GRADIENT = Budget("grad_error", LAYERS * WIDTH * 2.0**-23)  # float32's epsilon
WRONG = Claim("under checkpointing, a 4-bit weight in a recycled buffer gives silently wrong gradients")
EIGHT = Claim("not in the report: so does an 8-bit weight")
TWO = Claim("not in the report: so does a 4-bit weight that is written into another buffer when it is computed again")


def streamed(name, quant, buffer=lambda layer, turn: 0, **declared):
    """Declare a format, and the buffer into which a layer is written, which may depend on how many were before."""
    return Condition(name, GRADIENT, {"quant": quant, "buffer": buffer, "reentrant": False}, **declared)


ALL = {"affected": (Affected({"bitsandbytes": ">=0.46"}, "reports/cpu"),)}
ON_CARD = (Affected({"bitsandbytes": ">=0.48"}, "reports/h100"),)
TODAY = (REENTRANT, OWN_BUFFER)
ONE = streamed("one-buffer-4bit", FourBit(), claims=(WRONG,), witness="minimal.py", remedies=(*TODAY, LINEAR), **ALL)
CASE = Case(
    **REPORT,
    title="MatMul4Bit keeps B and quant_state on ctx instead of save_for_backward: gradients of a reused weight buffer",
    severity="wrong numbers",
    trigger="layers streamed into a weight buffer that is reused, under non-reentrant gradient checkpointing",
    proposes="save the packed weight of a 4-bit layer by `save_for_backward` (bitsandbytes#2035)",
    claims=(WRONG, TWO, EIGHT),
    conditions=(
        ONE,
        ONE.on_card("", GRADIENT, witness="minimal.py", affected=ON_CARD),
        streamed("two-in-turn-4bit", FourBit(), lambda layer, turn: turn % 2, claims=(TWO,), **ALL),
        streamed("one-buffer-8bit", EightBit(), claims=(EIGHT,), proposed=False, remedies=TODAY, **ALL),
        streamed("one-buffer-plain", Plain(), control=True, proposed=False),
        streamed("its-own-buffer-4bit", FourBit(), lambda layer, turn: layer, control=True),
    ),
)


def inputs(c):
    import torch

    x, grad, *weights = (torch.randn(n, WIDTH, device=c.device) for n in (TOKENS, TOKENS, *[WIDTH] * LAYERS))
    weights = [(weight * WIDTH**-0.5).half().float() for weight in weights]  # int8 codes are made of float16
    return {"x": x.requires_grad_(), "weights": weights, "grad": grad}


def oracle(c, **inputs):
    return exact_chain(c.quant, **inputs)


def subject(c, **inputs):
    return train(c, **inputs, make=installed)


def reference(c, **inputs):
    return train(c, **inputs, make=plain)


def planted(c, **inputs):
    return train(c, **inputs, make=kept)


def proposed(c, **inputs):
    save_the_weight()
    return subject(c, **inputs)
