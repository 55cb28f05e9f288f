"""A checkpointed block of 8-bit layers holds the input of each layer until its backward.

Report: it is about 4-bit layers, whose Function keeps the weight on `ctx`. That of an 8-bit layer keeps its input
there too, which is memory: see bitsandbytes#1927, where a model of transformers is measured.

Mechanism: non-reentrant checkpointing drops what is saved by `save_for_backward`, and nothing else.

Limit: the block's output in float32, a state of the random generator, and 64 KiB for what the heap rounds up. The
input was there before; each further layer that is not computed again would hold another `STATE`. What is kept from a
first step on does not count: a second is measured.

Planted (must break the limit): the reference's layers, by a Function that keeps its input on `ctx`.
"""

from repros.case import Affected, Case, Claim, Condition, held, held_on_card
from repros.cases.bitsandbytes.gh2034._layers import REPORT, installed, kept, plain
from repros.cases.bitsandbytes.gh2034._today import REENTRANT
from repros.reference.formats import EightBit, FourBit

LAYERS, WIDTH, CARD = 4, 256, 2048  # as many tokens as features


def limit(width):
    return 4 * width * width + (8 << 10) + (64 << 10)  # float32


ON_CARD = (Affected({"bitsandbytes": ">=0.48"}, "reports/h100"),)
ALL = (Affected({"bitsandbytes": ">=0.46"}, "reports/cpu"),)
KEPT = Claim("not in the report: an 8-bit layer keeps its input alive under checkpointing")


def block(quant, name, **declared):
    return Condition(name, held(limit(WIDTH)), {"quant": quant, "reentrant": False, "width": WIDTH}, **declared)


EIGHT_BIT = block(EightBit(), "8bit", claims=(KEPT,), affected=ALL, remedies=(REENTRANT,))
CASE = Case(
    **REPORT,
    title="MatMul4Bit keeps B and quant_state on ctx instead of save_for_backward: activations of 8-bit layers",
    severity="memory",
    trigger="8-bit layers under non-reentrant gradient checkpointing",
    claims=(KEPT,),
    conditions=(
        EIGHT_BIT,
        EIGHT_BIT.on_card("2048", held_on_card(limit(CARD)), {"width": CARD}, affected=ON_CARD),
        block(FourBit(), "4bit", control=True),
    ),
)


def inputs(c):
    import torch

    x, grad, *weights = (torch.randn(c.width, c.width, device=c.device) for _ in range(2 + LAYERS))
    return {"x": x.requires_grad_(), "weights": weights, "grad": grad}


def subject(c, x, weights, grad, make=installed):
    from torch.utils.checkpoint import checkpoint

    layers = [make(c, weight)[0] for weight in weights]

    def block(x):
        for layer in layers:
            x = layer(x)
        return x

    checkpoint(block, x, use_reentrant=c.reentrant).backward(grad)
    yield "forward"
    output = checkpoint(block, x, use_reentrant=c.reentrant)
    yield "backward"
    output.backward(grad)
    return {"output": output}


def reference(c, x, weights, grad):
    return subject(c, x, weights, grad, plain)


def planted(c, x, weights, grad):
    return subject(c, x, weights, grad, kept)
