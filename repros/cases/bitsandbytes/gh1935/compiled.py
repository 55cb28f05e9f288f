"""Under `torch.compile` a frozen 4-bit layer keeps its dequantized weight from forward to backward.

Report: autograd saves the dequantized weight. A maintainer of bitsandbytes suspects `torch.compile` instead, and is
right.

Mechanism: forward and backward dequantize the same weight. The compiler sees both in one graph, dequantizes once and
saves the result. Two releases end that, each by itself: bitsandbytes 0.50 has one operator for dequantization and
product; torch 2.14 merges no value of the forward with one of the backward.

Limit: the weight is frozen, so the backward needs only the packed weight, which was there before the step. Between
forward and backward a step has to hold its output. A saved weight is six times the output.

Planted (must break the limit): the reference, but it multiplies by a dequantized weight that autograd saves.
"""

from repros.case import NOTHING, Affected, Case, Claim, Condition, Needs, held, held_on_card
from repros.cases._frozen import draw, exact, installed
from repros.cases.bitsandbytes.gh1935._fix import apply_fix
from repros.cases.bitsandbytes.gh1935._step import NEWEST, REPORT, of_9b, train
from repros.cases.bitsandbytes.gh1935._today import APART, RECOMPUTE, remedy_apart, remedy_recompute  # noqa: F401 - arms
from repros.reference.formats import FourBit, chain, layers, layers_that_save_their_weight

KIB = 1024
TOKENS, WIDTH = 128, 768  # one layer of 768 x 768, in bfloat16
OUTPUT = 2 * TOKENS * WIDTH
# Bytes: the output; what the heap rounds up to; the compiler's own objects, since torch 2.9 compiles it once more.
LIMIT = OUTPUT + 64 * KIB + 256 * KIB
# At the report's size, on a GPU: the output is 4096 wide, and no object of the compiler lies there.
CARD_LIMIT = held_on_card(2 * TOKENS * 4096 + 64 * KIB)

BISECTED = "reports/bisect/gh1935-bitsandbytes"
UNTIL_0_50 = Affected({"bitsandbytes": "<0.50", "torch": "<2.14"}, BISECTED)
FP4_UNTIL_0_50 = Affected({"bitsandbytes": ">=0.47,<0.50", "torch": "<2.14"}, BISECTED)
CARD_UNTIL_0_50 = Affected({"bitsandbytes": "<0.50"}, "reports/h200")

HAS_FP4 = Needs({"bitsandbytes": ">=0.47.0"}, reason="fp4 has a CPU kernel from bitsandbytes 0.47.0 on")
COMPILER = Needs(compiler=True, reason="inductor's CPU backend builds its kernels with a C++ compiler")

SAVED = Claim("autograd saves the dequantized weight of a 4-bit layer")
SUSPECTED = Claim("the maintainer suspects a graph compiler's joint graph, not eager mode")

MINCUT = "aot_eager_decomp_partition"  # splits the graph by min-cut, as inductor does; `aot_eager` does not
NF4, FP4 = FourBit("nf4"), FourBit("fp4", double=True)


def compiled(name, backend, affected, *, quant=NF4, training=True, needs=NOTHING, **more):
    params = {"quant": quant, "tokens": TOKENS, "widths": (WIDTH, WIDTH), "training": training, "backend": backend}
    return Condition(name, held(LIMIT), params, needs, affected=(affected,), claims=(SAVED, SUSPECTED), **more)


BY_MINCUT = compiled("nf4-compile-mincut", MINCUT, UNTIL_0_50, witness="minimal.py", remedies=(APART, RECOMPUTE))
BY_INDUCTOR = compiled("nf4-compile-inductor", "inductor", UNTIL_0_50, needs=COMPILER)

CASE = Case(
    **REPORT,
    title="the dequantized 16-bit weight is saved for backward under torch.compile",
    fix="bitsandbytes#1949",
    trigger="torch.compile around frozen 4-bit layers that are trained through",
    claims=(SAVED, SUSPECTED),
    conditions=(
        compiled("nf4-compile-default", "aot_eager", UNTIL_0_50),
        BY_MINCUT,
        BY_INDUCTOR,
        compiled("nf4-eval-compile-mincut", MINCUT, UNTIL_0_50, training=False),
        compiled("fp4-double-compile-mincut", MINCUT, FP4_UNTIL_0_50, quant=FP4, needs=HAS_FP4),
        of_9b(BY_MINCUT, CARD_LIMIT, affected=(CARD_UNTIL_0_50,), witness="minimal.py"),
        of_9b(BY_MINCUT, CARD_LIMIT, affected=(CARD_UNTIL_0_50,), layers=32, needs=NEWEST),
        of_9b(BY_INDUCTOR, CARD_LIMIT, affected=(CARD_UNTIL_0_50,), needs=NEWEST, proposed=True),
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
