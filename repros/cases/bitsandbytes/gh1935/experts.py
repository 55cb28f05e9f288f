"""Experts in one 4-bit parameter: the dequantized weight of each is held from forward to backward.

The report says that autograd saves the dequantized weight of a 4-bit layer. Where a block keeps all its experts in one
parameter, bitsandbytes dequantizes it by `torch.nn.utils.parametrize` and the block applies `F.linear`, outside of
bitsandbytes' Function. There autograd saves the weight like any other, in every release that has this.

Limit: the experts are frozen, so the backward needs their packed weights alone, which were there before the step.
Between forward and backward a step has to hold its output. The two saved weights are twelve times the output.

Planted: the reference's experts multiply by a dequantized weight that autograd saves.
"""

from __future__ import annotations

from typing import Any

from repros.case import Affected, Case, Claim, Condition, held
from repros.cases._experts import PARAMETRIZE, exact_experts, installed_experts, routed
from repros.cases._frozen import Arm, draw, reference_format
from repros.cases.bitsandbytes.gh1935._step import REPORT, apply_fix, train

KIB = 1024
TOKENS, WIDTH = 128, 768  # two experts of 768 x 768 in bfloat16, which share the rows
LIMIT = 2 * TOKENS * WIDTH + 64 * KIB  # bytes: the output, and what the heap rounds up to

SINCE_0_48 = Affected({"bitsandbytes": ">=0.48"}, "reports/bisect/gh1935-bitsandbytes")
SAVED = Claim("autograd saves the dequantized weight of experts in one 4-bit parameter")

CASE = Case(
    **REPORT,
    title="the dequantized 16-bit weight of parametrized experts is saved for backward",
    trigger="a mixture of experts whose 4-bit weights are one parameter, trained without checkpointing",
    claims=(SAVED,),
    conditions=(
        Condition(
            "nf4-experts-eager",
            held(LIMIT),
            {"quant": ("nf4", False), "tokens": TOKENS, "widths": (WIDTH, WIDTH)},
            PARAMETRIZE,
            affected=(SINCE_0_48,),
            claims=(SAVED,),
            note="two experts in one parametrized parameter, applied by F.linear as MoE blocks do",
        ),
    ),
    timeout_s=180.0,
)


def inputs(c: Condition) -> dict[str, Any]:
    return draw(c, experts=2)


def oracle(c: Condition, x: Any, weights: Any, grad: Any) -> dict[str, Any]:
    return exact_experts(c, x, weights, grad)


def subject(c: Condition, x: Any, weights: Any, grad: Any) -> Arm:
    return train(c, installed_experts(c, weights), x, grad)


def reference(c: Condition, x: Any, weights: Any, grad: Any) -> Arm:
    from repros.reference.formats import products

    return train(c, routed(products(reference_format(c), weights)), x, grad)


def planted(c: Condition, x: Any, weights: Any, grad: Any) -> Arm:
    from repros.reference.formats import saving_products

    return train(c, routed(saving_products(reference_format(c), weights)), x, grad)


def proposed(c: Condition, x: Any, weights: Any, grad: Any) -> Arm:
    apply_fix()
    return subject(c, x, weights, grad)
