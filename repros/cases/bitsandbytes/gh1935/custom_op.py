"""The operator that the maintainer plans in place of `MatMul4Bit` is asked whether it keeps the dequantized weight.

The maintainer's answer to the report is a custom operator with `register_autograd`, whose backward dequantizes again.
It is written here by hand, over the installed kernels, and keeps nothing, plain or compiled, in every release tried.

Limit: the backward needs only the packed weight, which was there before the step. Between forward and backward a step
has to hold its output. A saved weight is six times the output.

Planted (must break the limit): the reference, but it multiplies by a dequantized weight that autograd saves.
"""

from repros.case import Case, Claim, Condition, held
from repros.cases._frozen import draw, exact
from repros.cases.bitsandbytes.gh1935._step import REPORT, train
from repros.reference.formats import FourBit, chain, layers, layers_that_save_their_weight

KIB = 1024
TOKENS, WIDTH = 128, 768  # one layer of 768 x 768, in bfloat16
LIMIT = 2 * TOKENS * WIDTH + 64 * KIB  # bytes: the output, and what the heap rounds up to
COMPILED = LIMIT + 256 * KIB  # and the compiler's own objects, as torch 2.9 compiles this step anew

NOTE = "the operator that the maintainer planned, written by hand over the installed kernels"
SAVED = Claim("not in the report: the operator that the maintainer plans saves the weight too")


def planned(name, limit, **how):
    params = {"quant": FourBit("nf4"), "tokens": TOKENS, "widths": (WIDTH, WIDTH), **how}
    return Condition(name, held(limit), params, affected=(), claims=(SAVED,), note=NOTE)


CASE = Case(
    **{**REPORT, "proposes": None},
    title="the operator planned in place of the 4-bit layer's Function",
    trigger="the planned operator; no release has it",
    claims=(SAVED,),
    conditions=(
        planned("nf4-customop-eager", LIMIT),
        planned("nf4-customop-compile-mincut", COMPILED, backend="aot_eager_decomp_partition"),
    ),
    timeout_s=180.0,
)

inputs, oracle = draw, exact  # the oracle: float64, with the dequantized weights


def subject(c, x, weights, grad):
    import bitsandbytes.functional as F

    packed, state = F.quantize_4bit(weights[0], quant_type=c.quant.quant_type)
    weight = (packed, state.absmax, *state.shape, state.quant_type, state.blocksize)
    operator = planned_operator()
    return train(c, lambda x: operator(x, *weight), x, grad)


def planned_operator():
    """Register the operator; its backward dequantizes the weight again."""
    import torch

    scheme = "Tensor packed, Tensor absmax, int n, int k, str kind, int blocksize"

    def dequantize(like, packed, absmax, n, k, kind, blocksize):
        return torch.ops.bitsandbytes.dequantize_4bit(packed, absmax, blocksize, kind, [n, k], like.dtype)

    def setup(ctx, inputs, output):
        _, packed, absmax, *ctx.scheme = inputs
        ctx.save_for_backward(packed, absmax)

    def backward(ctx, grad):
        return (grad @ dequantize(grad, *ctx.saved_tensors, *ctx.scheme), *(None,) * 6)

    op = torch.library.custom_op(
        "repros_subject::linear_4bit",
        lambda x, *weight: torch.nn.functional.linear(x, dequantize(x, *weight)),
        mutates_args=(),
        schema=f"(Tensor x, {scheme}) -> Tensor",
    )
    op.register_fake(lambda x, packed, absmax, n, *rest: x.new_empty((*x.shape[:-1], n)))
    op.register_autograd(backward, setup_context=setup)
    return op


def reference(c, x, weights, grad):
    return train(c, chain(layers(c.quant, weights)), x, grad)


def planted(c, x, weights, grad):
    return train(c, chain(layers_that_save_their_weight(c.quant, weights)), x, grad)
