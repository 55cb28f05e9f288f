"""A frozen int8 layer is said to keep its dequantized weight from forward to backward.

The report says of `MatMul8bitLt` what it says of 4 bits: autograd saves the 16-bit weight. In eager mode no release
tried does. Compiled with inductor for a CPU it does, since bitsandbytes 0.48 and before torch 2.14: the compiler
meets the same dequantization in forward and backward, does it once and saves the result.

Limit, for one layer: the weight is frozen, so the backward needs codes and scales alone, which were there before the
step. Between forward and backward a step has to hold its output; on a GPU bitsandbytes keeps the 16-bit input of each
further layer too, by design. A saved weight is six times the output.

Limit, for a chain of layers under gradient checkpointing: its peak of live 16-bit bytes, since it recomputes in the
backward: one dequantized weight at a time, and an output, a recomputed output and a gradient for each layer.

Planted: the reference multiplies by a dequantized weight that autograd saves.
"""

from __future__ import annotations

from typing import Any

from repros.case import Affected, Budget, Case, Claim, Condition, Needs, held, held_on_card
from repros.cases._frozen import Arm, draw, exact, installed
from repros.cases.bitsandbytes.gh1935._fix import apply_fix
from repros.cases.bitsandbytes.gh1935._step import NEWEST, REPORT, of_9b, train
from repros.reference.formats import EightBit, chain, layers, layers_that_save_their_weight

KIB = 1024
TOKENS, WIDTH = 128, 768  # one layer of 768 x 768; input and output in bfloat16
LIMIT = 2 * TOKENS * WIDTH + 64 * KIB  # bytes: the output, and what the heap rounds up to
COMPILED = LIMIT + 256 * KIB  # and the compiler's own objects, as torch 2.9 compiles this step anew

LAYERS, ROWS, SIDE = 4, 16, 512  # the checkpointed chain
PEAK = 2 * SIDE * SIDE + (2 * LAYERS + 4) * 2 * ROWS * SIDE  # one weight, and the layers' inputs and outputs

# At the report's size, on a GPU: the output, 4096 wide, and the inputs of five further layers, three of 4096 wide.
CARD_LIMIT = 2 * TOKENS * (4096 + 3 * 4096 + 2 * 12288) + 64 * KIB

SINCE_0_48 = Affected({"bitsandbytes": ">=0.48", "torch": "<2.14"}, "reports/bisect/gh1935-bitsandbytes")
KERNELS = Needs({"torch": ">=2.10"}, compiler=True, reason="2.9 builds kernels by setuptools, not installed with it")

SAVED = Claim("autograd saves the dequantized weight of an 8-bit layer")
SUSPECTED = Claim("the maintainer suspects a graph compiler's joint graph, not eager mode")


def layer(name: str, limit: int = LIMIT, threshold: float = 0.0, **declared: Any) -> Condition:
    """Declare one layer; inputs over the threshold are multiplied in 16 bits (0: none)."""
    params = {
        "quant": EightBit(threshold),
        "tokens": TOKENS,
        "widths": (WIDTH, WIDTH),
        "training": declared.pop("training", True),
    }
    if backend := declared.pop("backend", None):
        params["backend"] = backend
    return Condition(name, held(limit), params, **{"affected": (), "claims": (SAVED,), **declared})


def checkpointed(name: str, reentrant: bool) -> Condition:
    shape = {"tokens": ROWS, "widths": (SIDE,) * (LAYERS + 1)}
    params = {"quant": EightBit(), "training": True, "reentrant": reentrant, **shape}
    return Condition(name, Budget("peak_live_16bit_bytes", PEAK), params, affected=(), claims=(SAVED,))


BOTH = (SAVED, SUSPECTED)
PLAIN = layer("int8-eager")
INDUCTOR = layer(
    "int8-compile-inductor", COMPILED, backend="inductor", needs=KERNELS, affected=(SINCE_0_48,), claims=BOTH
)

CASE = Case(
    **REPORT,
    title="the dequantized 16-bit weight of an int8 layer is saved for backward",
    trigger="torch.compile with inductor, for a CPU, around frozen int8 layers that are trained through",
    claims=BOTH,
    conditions=(
        PLAIN,
        layer("int8-outlier-eager", threshold=6.0),
        layer("int8-eval-eager", training=False),
        checkpointed("int8-checkpoint-reentrant", True),
        checkpointed("int8-checkpoint-nonreentrant", False),
        layer("int8-compile-mincut", COMPILED, backend="aot_eager_decomp_partition", claims=BOTH),
        INDUCTOR,
        of_9b(PLAIN, held_on_card(CARD_LIMIT), proposed=True),
        of_9b(INDUCTOR, held_on_card(CARD_LIMIT), needs=NEWEST),
    ),
    timeout_s=180.0,  # inductor's first kernel in a cell precompiles torch's headers
)


def inputs(c: Condition) -> dict[str, Any]:
    return draw(c)


def oracle(c: Condition, x: Any, weights: Any, grad: Any) -> dict[str, Any]:
    return exact(c, x, weights, grad)


def subject(c: Condition, x: Any, weights: Any, grad: Any) -> Arm:
    return train(c, installed(c, weights).train(c.training), x, grad)


def reference(c: Condition, x: Any, weights: Any, grad: Any) -> Arm:
    return train(c, chain(layers(c.quant, weights)), x, grad)


def planted(c: Condition, x: Any, weights: Any, grad: Any) -> Arm:
    return train(c, chain(layers_that_save_their_weight(c.quant, weights)), x, grad)


def proposed(c: Condition, x: Any, weights: Any, grad: Any) -> Arm:
    apply_fix()
    return subject(c, x, weights, grad)
