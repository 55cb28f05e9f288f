"""A frozen 4-bit layer is said to keep its dequantized weight from forward to backward.

The report: `MatMul4Bit.forward` calls `F.linear` on the dequantized weight, so autograd saves it; a layer holds 0.48 GB
where 0.06 GB are packed. The maintainer cannot reproduce it: the forward of an `autograd.Function` runs without
autograd. No release tried is affected here; `compiled.py` beside this file has what the maintainer suspects.

Limit, for a plain layer: the weight is frozen, so the backward needs only the packed weight, which was there before
the step. Between forward and backward a step has to hold its output. A saved weight is six times the output.

Limit, for a chain of layers under gradient checkpointing: nothing is held between forward and backward, with the bug or
without, since the bug would save the weights while the backward recomputes. So the peak of live 16-bit bytes is
limited: one dequantized weight at a time, an output and a recomputed one for each layer, and four more: input and
gradients.

Planted (must break the limit): the reference, but it multiplies by a dequantized weight that autograd saves.
"""

from __future__ import annotations

from typing import Any

from repros.case import NOTHING, Budget, Case, Claim, Condition, Needs, Reading, held, held_on_card
from repros.cases._frozen import Arm, draw, exact, installed
from repros.cases.bitsandbytes.gh1935._fix import apply_fix
from repros.cases.bitsandbytes.gh1935._step import NEWEST, REPORT, of_9b, train
from repros.reference.formats import FourBit, chain, layers, layers_that_save_their_weight

KIB = 1024
TOKENS, WIDTH = 128, 768  # one layer of 768 x 768, in bfloat16
LIMIT = 2 * TOKENS * WIDTH + 64 * KIB  # bytes: the output, and what the heap rounds up to

LAYERS, ROWS, SIDE = 4, 16, 512  # the checkpointed chain
PEAK = 2 * SIDE * SIDE + (2 * LAYERS + 4) * 2 * ROWS * SIDE  # one weight; outputs, once more, and four

# At the report's size, on a GPU: layers 4096 and 12288 wide, 128 tokens too.
CARD_LIMIT = 2 * TOKENS * 4096 + 64 * KIB
# One weight, and a byte more for each of its codes, which the allocator sees unpacked; and input, output and both
# gradients, of the chain (4096, 4096) and of its widest layer (4096, 12288).
CARD_PEAK = 3 * 4096 * 12288 + 4 * TOKENS * (4096 + 4096 + 4096 + 12288)

HAS_FP4 = Needs({"bitsandbytes": ">=0.47.0"}, reason="fp4 has a CPU kernel from bitsandbytes 0.47.0 on")


def gigabytes(figure: str, *conditions: str, case: str = "", note: str = "") -> tuple[Reading, ...]:
    """Return where a number in the report's GB, 10**9 bytes, is measured: as installed, and with the planted bug."""
    arms = ("subject", "planted") if figure == "cuda_held_bytes" else ("subject",)
    return tuple(Reading(figure, name, 10**9, arm, case=case, note=note) for name in conditions for arm in arms)


PACKED = "in 4 bits a layer has a quarter of its 16-bit size, and its scales beside it"
ALL = "what is held until the backward is all that a fix can save"
SAVED = Claim(
    "autograd saves the dequantized weight of a 4-bit layer",
    {
        "a layer": "0.48 GB",
        "a layer, packed": "0.06 GB",
        "32 layers of a 9B model": "15.4 GB",
        "32 layers of a 9B model, packed": "1.9 GB",
        "saved by the fix": "~13 GB",
    },
    {
        "a layer": gigabytes("cuda_held_bytes", "nf4-eager-layer-cuda")
        + gigabytes("cuda_held_bytes", "nf4-compile-inductor-layer-cuda", case="gh1935_compiled"),
        "a layer, packed": gigabytes("packed_bytes", "nf4-eager-layer-cuda", note=PACKED),
        "32 layers of a 9B model": gigabytes("cuda_held_bytes", "nf4-eager-32-layers-cuda")
        + gigabytes("cuda_held_bytes", "nf4-compile-mincut-32-layers-cuda", case="gh1935_compiled"),
        "32 layers of a 9B model, packed": gigabytes("packed_bytes", "nf4-eager-32-layers-cuda", note=PACKED),
        "saved by the fix": gigabytes("cuda_held_bytes", "nf4-eager-32-layers-cuda", note=ALL),
    },
)


def plain(name: str, quant: FourBit, needs: Needs = NOTHING) -> Condition:
    params = {"quant": quant, "tokens": TOKENS, "widths": (WIDTH, WIDTH)}
    return Condition(name, held(LIMIT), params, needs, affected=(), claims=(SAVED,))


def checkpointed(name: str, reentrant: bool) -> Condition:
    params = {"quant": FourBit("nf4"), "tokens": ROWS, "widths": (SIDE,) * (LAYERS + 1), "reentrant": reentrant}
    return Condition(name, Budget("peak_live_16bit_bytes", PEAK), params, affected=(), claims=(SAVED,))


PLAIN, NONREENTRANT = plain("nf4-eager", FourBit("nf4")), checkpointed("nf4-checkpoint-nonreentrant", False)
ON_CARD, PEAK_ON_CARD = held_on_card(CARD_LIMIT), Budget("cuda_peak_allocated_bytes", CARD_PEAK)

CASE = Case(
    **REPORT,
    title="the dequantized 16-bit weight is saved for backward",
    trigger="training through frozen 4-bit layers, as QLoRA does",
    claims=(SAVED,),
    conditions=(
        PLAIN,
        plain("nf4-double-eager", FourBit("nf4", double=True)),
        plain("fp4-eager", FourBit("fp4"), HAS_FP4),
        checkpointed("nf4-checkpoint-reentrant", True),
        NONREENTRANT,
        of_9b(PLAIN, ON_CARD, proposed=True),
        of_9b(PLAIN, ON_CARD, layers=32, needs=NEWEST),
        of_9b(NONREENTRANT, PEAK_ON_CARD),
        of_9b(NONREENTRANT, PEAK_ON_CARD, layers=32, needs=NEWEST),
    ),
    timeout_s=180.0,
)


def inputs(c: Condition) -> dict[str, Any]:
    return draw(c)


def oracle(c: Condition, x: Any, weights: Any, grad: Any) -> dict[str, Any]:
    return exact(c, x, weights, grad)


def subject(c: Condition, x: Any, weights: Any, grad: Any) -> Arm:
    layers = installed(c, weights)
    figures = yield from train(c, layers, x, grad)
    return {**figures, "packed_bytes": packed_bytes(layers)}


def packed_bytes(layers: Any) -> float:
    """Return what bitsandbytes' layers hold in codes and scales."""
    states = [(codes, codes.quant_state.absmax, codes.quant_state.state2) for codes in layers.parameters()]
    tensors = [one for codes, scales, double in states for one in (codes, scales, double.absmax if double else None)]
    return float(sum(tensor.nbytes for tensor in tensors if tensor is not None))


def reference(c: Condition, x: Any, weights: Any, grad: Any) -> Arm:
    return train(c, chain(layers(c.quant, weights)), x, grad)


def planted(c: Condition, x: Any, weights: Any, grad: Any) -> Arm:
    return train(c, chain(layers_that_save_their_weight(c.quant, weights)), x, grad)


def proposed(c: Condition, x: Any, weights: Any, grad: Any) -> Arm:
    apply_fix()
    return subject(c, x, weights, grad)
