"""With PEFT's DoRA and dropout, a 4-bit layer's dequantized weight is held from forward to backward.

The report says that autograd saves the weight of a frozen 4-bit layer. Under plain LoRA it does not. Under DoRA
(arXiv:2402.09353) with dropout it does, in every release tried that can copy a layer: PEFT applies the weight outside
of bitsandbytes' Function, where autograd saves it like any other.

Limit: between forward and backward a step has to hold its output; dropout's mask and result, and their product by the
adapter's A; with DoRA two factors of the gradient of the magnitude, each as large as the output. A saved weight is six
times the output.

Planted (must break the limit): the reference with that adapter, but autograd saves the dequantized weight.
"""

from __future__ import annotations

from typing import Any

from repros.case import NOTHING, Affected, Case, Claim, Condition, Needs, Remedy, held, held_on_card
from repros.cases._frozen import Arm, draw, exact, installed
from repros.cases.bitsandbytes.gh1935._fix import apply_fix
from repros.cases.bitsandbytes.gh1935._step import NEWEST, REPORT, train
from repros.reference.formats import FourBit, chain, layers, layers_that_save_their_weight

KIB = 1024
TOKENS, WIDTH = 128, 768  # one layer of 768 x 768, in bfloat16
RANK, DROPOUT = 8, 0.1
LORA = (
    2 * TOKENS * (WIDTH + 2 * WIDTH + RANK) + 64 * KIB
)  # bytes: output, mask and result, product; the heap's rounding
DORA = LORA + 2 * TOKENS * 2 * WIDTH  # and two factors
# A weight of the report's 9B model, 4096 in and 12288 out, as many tokens, on a GPU.
CARD_DORA = 2 * TOKENS * (12288 + 2 * 4096 + RANK + 2 * 12288) + 64 * KIB

SINCE_0_46_1 = Affected({"bitsandbytes": ">=0.46.1"}, "reports/bisect/gh1935-bitsandbytes")
CARD_SINCE_0_49 = Affected({"bitsandbytes": ">=0.49"}, "reports/h200")
COPIES = Needs({"bitsandbytes": ">=0.46.1"}, reason="0.46.0 cannot copy a layer on CPU, and DoRA copies it")

SAVED = Claim("autograd saves the dequantized weight of a 4-bit layer under LoRA or DoRA")
NO_DROPOUT = Remedy("set `lora_dropout=0`", arm="remedy_no_dropout", recommended="the documentation of PEFT")
CHECKPOINTED = Remedy("checkpoint the layer, with `use_reentrant=False`", arm="remedy_checkpointed")
PARAMS = {"quant": FourBit("nf4"), "tokens": TOKENS, "widths": (WIDTH, WIDTH)}
DORA_ON_CPU = Condition(
    "nf4-dora-eager",
    held(DORA),
    {**PARAMS, "dora": True},
    COPIES,
    affected=(SINCE_0_46_1,),
    claims=(SAVED,),
    note="PEFT DoRA with dropout",
    witness="minimal_dora.py",
    remedies=(NO_DROPOUT, CHECKPOINTED),
)

CASE = Case(
    **REPORT,
    title="the dequantized 16-bit weight is saved for backward under PEFT's adapters",
    trigger="DoRA with dropout over 4-bit layers",
    claims=(SAVED,),
    conditions=(
        Condition(
            "nf4-lora-eager",
            held(LORA),
            {**PARAMS, "dora": False},
            NOTHING,
            affected=(),
            claims=(SAVED,),
            note="PEFT LoRA with dropout",
        ),
        DORA_ON_CPU,
        DORA_ON_CPU.on_card(
            "weight",
            held_on_card(CARD_DORA),
            {"widths": (4096, 12288)},
            needs=Needs(NEWEST.packages, card_bytes=6 * 4096 * 12288, reason=NEWEST.reason),
            affected=(CARD_SINCE_0_49,),
            proposed=False,
            witness="minimal_dora.py",
        ),
    ),
    timeout_s=180.0,
)


def inputs(c: Condition) -> dict[str, Any]:
    return draw(c)


def oracle(c: Condition, x: Any, weights: Any, grad: Any) -> dict[str, Any]:
    return exact(c, x, weights, grad)


def subject(c: Condition, x: Any, weights: Any, grad: Any, dropout: float = DROPOUT) -> Arm:
    import peft

    model = installed(c, weights)
    adapter = {"r": RANK, "lora_alpha": RANK, "lora_dropout": dropout, "use_dora": c.dora}
    peft.inject_adapter_in_model(peft.LoraConfig(target_modules=["0"], **adapter), model)
    return train(c, model.to(c.device).train(), x, grad)


def remedy_no_dropout(c: Condition, x: Any, weights: Any, grad: Any) -> Arm:
    return subject(c, x, weights, grad, dropout=0.0)


def remedy_checkpointed(c: Condition, x: Any, weights: Any, grad: Any) -> Arm:
    return subject(c.but(reentrant=False), x, weights, grad)


def reference(c: Condition, x: Any, weights: Any, grad: Any) -> Arm:
    return train(c, adapted(c, chain(layers(c.quant, weights)), *weights), x, grad)


def planted(c: Condition, x: Any, weights: Any, grad: Any) -> Arm:
    return train(c, adapted(c, chain(layers_that_save_their_weight(c.quant, weights)), *weights), x, grad)


def proposed(c: Condition, x: Any, weights: Any, grad: Any) -> Arm:
    apply_fix()
    return subject(c, x, weights, grad)


def adapted(c: Condition, base: Any, weight: Any) -> Any:
    """Add to the base product what PEFT adds: LoRA (arXiv:2106.09685), or DoRA."""
    import torch

    (n, k), kind = weight.shape, {"dtype": weight.dtype, "device": weight.device}
    quantized = c.quant.quantize(weight)
    down, up = torch.nn.Linear(k, RANK, bias=False, **kind), torch.nn.Linear(RANK, n, bias=False, **kind)
    torch.nn.init.zeros_(up.weight)

    def norm() -> Any:
        with torch.no_grad():
            return torch.linalg.vector_norm(
                c.quant.dequantize(quantized, weight.dtype) + up.weight @ down.weight, dim=1
            )

    magnitude = torch.nn.Parameter(norm())

    def forward(x: Any) -> Any:
        dropped = torch.nn.functional.dropout(x, DROPOUT)
        update = up(down(dropped))
        if c.dora:
            factor = magnitude / norm()
            update = (factor - 1) * base(dropped) + factor * update
        return base(x) + update

    return forward
