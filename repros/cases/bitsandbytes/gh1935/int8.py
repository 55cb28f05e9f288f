"""A frozen int8 layer is said to keep its dequantized weight from forward to backward.

The report says so of `MatMul8bitLt`, as of 4 bits. In eager mode no release tried keeps it. Compiled with inductor for
a CPU the layer does, since bitsandbytes 0.48 and before torch 2.14: the compiler meets the same dequantization in
forward and backward, does it once and saves the result.

Limit, for one layer: the weight is frozen, so the backward needs codes and scales alone, which were there before the
step. Between forward and backward a step has to hold its output; on a GPU bitsandbytes keeps the 16-bit input of each
further layer too, by design. A saved weight is six times the output.

Limit, for a chain of layers under gradient checkpointing: its peak of live 16-bit bytes, since the backward recomputes:
one dequantized weight at a time, an output and a recomputed one for each layer, and four more: input and gradients.

Planted (must break the limit): the reference, but it multiplies by a dequantized weight that autograd saves.
"""

from repros.case import NOTHING, Affected, Budget, Case, Claim, Condition, Needs, held, held_on_card
from repros.cases._frozen import draw, exact, installed
from repros.cases.bitsandbytes.gh1935._fix import apply_fix
from repros.cases.bitsandbytes.gh1935._step import NEWEST, REPORT, of_9b, train
from repros.cases.bitsandbytes.gh1935._today import APART, remedy_apart  # noqa: F401 - an arm
from repros.reference.formats import EightBit, chain, layers, layers_that_save_their_weight

KIB = 1024
TOKENS, WIDTH = 128, 768  # one layer of 768 x 768; input and output in bfloat16
ONE = {"tokens": TOKENS, "widths": (WIDTH, WIDTH)}
STEP = 2 * TOKENS * WIDTH + 64 * KIB  # bytes: the output, and what the heap rounds up to
LIMIT, COMPILED = held(STEP), held(STEP + 256 * KIB)  # and the compiler's objects: torch 2.9 compiles this step anew

LAYERS, ROWS, SIDE = 4, 16, 512  # the checkpointed chain
CHAIN = {"tokens": ROWS, "widths": (SIDE,) * (LAYERS + 1)}
WEIGHT, ACTIVATION = 2 * SIDE * SIDE, 2 * ROWS * SIDE  # bytes: one weight, one input or output
PEAK = Budget("peak_live_16bit_bytes", WEIGHT + (2 * LAYERS + 4) * ACTIVATION)
# At the report's size, on a GPU: the output, 4096 wide, and the inputs of five further layers, three of 4096 wide.
CARD_LIMIT = held_on_card(2 * TOKENS * (4096 + 3 * 4096 + 2 * 12288) + 64 * KIB)

SINCE_0_48 = (Affected({"bitsandbytes": ">=0.48", "torch": "<2.14"}, "reports/bisect/gh1935-bitsandbytes"),)
KERNELS = Needs({"torch": ">=2.10"}, compiler=True, reason="2.9 builds kernels by setuptools, not installed with it")

SAVED = Claim("autograd saves the dequantized weight of an 8-bit layer")
SUSPECTED = Claim("the maintainer suspects a graph compiler's joint graph, not eager mode")
BOTH = (SAVED, SUSPECTED)


def int8(name, budget, *, shape=ONE, threshold=0.0, needs=NOTHING, affected=(), claims=(SAVED,), remedies=(), **how):
    """Declare frozen layers; inputs over the threshold are multiplied in 16 bits (0: none)."""
    params = {"quant": EightBit(threshold), "training": True, **shape, **how}
    return Condition(name, budget, params, needs, affected, claims, remedies=remedies)


PLAIN = int8("int8-eager", LIMIT)
KNOWN = {"affected": SINCE_0_48, "claims": BOTH, "remedies": (APART,)}
INDUCTOR = int8("int8-compile-inductor", COMPILED, backend="inductor", needs=KERNELS, **KNOWN)
CASE = Case(
    **REPORT,
    title="the dequantized 16-bit weight of an int8 layer is saved for backward",
    trigger="torch.compile with inductor, for a CPU, around frozen int8 layers that are trained through",
    claims=BOTH,
    conditions=(
        PLAIN,
        int8("int8-outlier-eager", LIMIT, threshold=6.0),
        int8("int8-eval-eager", LIMIT, training=False),
        int8("int8-checkpoint-reentrant", PEAK, shape=CHAIN, reentrant=True),
        int8("int8-checkpoint-nonreentrant", PEAK, shape=CHAIN, reentrant=False),
        int8("int8-compile-mincut", COMPILED, backend="aot_eager_decomp_partition", claims=BOTH),
        INDUCTOR,
        of_9b(PLAIN, CARD_LIMIT, proposed=True),
        of_9b(INDUCTOR, CARD_LIMIT, needs=NEWEST),
    ),
    timeout_s=180.0,  # inductor's first kernel in a cell precompiles torch's headers
)

inputs, oracle = draw, exact  # the oracle: float64, with the dequantized weights


def subject(c, x, weights, grad):
    return train(c, installed(c, weights).train(c.training), x, grad)


def reference(c, x, weights, grad):
    return train(c, chain(layers(c.quant, weights)), x, grad)


def planted(c, x, weights, grad):
    return train(c, chain(layers_that_save_their_weight(c.quant, weights)), x, grad)


def proposed(c, x, weights, grad):
    apply_fix()
    return subject(c, x, weights, grad)
