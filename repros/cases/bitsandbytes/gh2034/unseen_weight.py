"""Saved-tensor hooks do not see the weight that the backward of a quantized layer multiplies by.

Report: the packed weight of a 4-bit layer and its scales are attributes of `ctx`. What works by hooks on saved
tensors, as non-reentrant checkpointing does, can neither drop nor replace them.

Mechanism: `MatMul4Bit`, `MatMul8bitLt` and what takes its place on a CPU save nothing by `save_for_backward`.

Limit: of `LAYERS` layers there is none whose codes the hooks did not see.

Planted (must break the limit): the reference's layers, by a Function that keeps the weight on `ctx`.
"""

from repros.case import Affected, Budget, Case, Claim, Condition
from repros.cases.bitsandbytes.gh2034._layers import REPORT, Plain, installed, kept, plain, save_the_weight
from repros.reference.formats import EightBit, FourBit

LAYERS, TOKENS, WIDTH = 4, 8, 128
ALL = (Affected({"bitsandbytes": ">=0.46"}, "reports/cpu"),)
UNSEEN = Budget("unseen_weights", 0)
HIDDEN = Claim("saved-tensor hooks see no packed weight of a 4-bit layer")
EIGHT = Claim("not in the report: they see no weight of an 8-bit layer")

CASE = Case(
    **REPORT,
    title="MatMul4Bit keeps B and quant_state on ctx instead of save_for_backward: hooks do not see the weight",
    severity="wrong numbers",
    trigger="saved-tensor hooks around a quantized layer, as of offloading or checkpointing",
    proposes="save the packed weight of a 4-bit layer by `save_for_backward` (bitsandbytes#2035)",
    claims=(HIDDEN, EIGHT),
    conditions=(
        Condition("4bit", UNSEEN, {"quant": FourBit()}, claims=(HIDDEN,), affected=ALL),
        Condition("double-4bit", UNSEEN, {"quant": FourBit(double=True)}, claims=(HIDDEN,), affected=ALL),
        Condition("8bit", UNSEEN, {"quant": EightBit()}, claims=(EIGHT,), affected=ALL, proposed=False),
        Condition("plain", UNSEEN, {"quant": Plain()}, control=True, proposed=False),
    ),
)


def inputs(c):
    import torch

    x, *weights = (torch.randn(n, WIDTH, device=c.device) for n in (TOKENS, *[WIDTH] * LAYERS))
    return {"x": x.requires_grad_(), "weights": weights}


def subject(c, x, weights, make=installed):
    from torch.autograd.graph import saved_tensors_hooks

    layers, seen = [make(c, weight) for weight in weights], set()

    def see(tensor):
        seen.add(tensor.untyped_storage().data_ptr())
        return tensor

    yield "forward"
    with saved_tensors_hooks(see, lambda tensor: tensor):
        for layer, _ in layers:
            x = layer(x)
    yield "backward"
    x.sum().backward()
    return {"unseen_weights": sum(codes.untyped_storage().data_ptr() not in seen for _, (codes, *_) in layers)}


def reference(c, x, weights):
    return subject(c, x, weights, plain)


def planted(c, x, weights):
    return subject(c, x, weights, kept)


def proposed(c, x, weights):
    save_the_weight()
    return subject(c, x, weights)
