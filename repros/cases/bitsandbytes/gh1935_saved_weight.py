"""Saved-weight bloat: the dequantized 16-bit weight is held from forward to backward.

Claim (bitsandbytes#1935): `MatMul4Bit.forward` and `MatMul8bitLt.forward` call `F.linear` on the dequantized weight and
autograd saves it, 0.48 GB a layer where 0.06 GB are packed; cure: call it under `torch.no_grad()`. The maintainer could
not reproduce it (the forward of an `autograd.Function` runs without grad), suspected `torch.compile`, and planned a
custom operator with `register_autograd`.

Mechanism, where there is one: a compiler meets the same dequantization in forward and backward, does it once and saves
the result (bitsandbytes 0.50 made product and dequantization one operator; torch 2.14 merges no forward value with a
backward one); or the weight is applied outside the Function (parametrized experts, DoRA with dropout), where autograd
saves it like any other; or a cache keeps it (non-reentrant checkpointing leaves its recomputation by an exception, and
a plain forward hook that would have closed the cache of `torch.nn.utils.parametrize` does not run).

Budget: the weight is frozen, so the gradient of x takes the gradient of the output and the packed weight. The packed
weight, its scales and x are alive before the step and are not counted; what a step may hold until its backward is

    M*N*itemsize                       its output
  + M*(2*K + RANK)*itemsize            with LoRA or DoRA: dropout's mask and result, and its product by A
  + 2*M*N*itemsize                     with DoRA: two factors of the gradient of the magnitude
  + M*(K2 + K3 + ...)*itemsize         in 8 bits on a GPU: the Function keeps the 16-bit input of every layer
  + SLACK                              page rounding and small objects, as the heap and the allocator count them
  + SEGMENT                            for the driver alone: it knows segments of 20 MiB
  + COMPILER                           under `torch.compile` on a CPU: its own objects, where the judged call is
                                       compiled anew (torch 2.9 does it under a dispatch mode, such as the ledger)

and the planted bug adds K*N*itemsize. A checkpointed block holds nothing of the kind until its backward, with the bug
or without; but its recomputation then saves the weights of all its layers at once. There the peak of live 16-bit bytes
is judged, over a block of LAYERS: one dequantized weight at a time, K*N*itemsize, and M*N*itemsize for each output,
recomputed output and gradient, 2*LAYERS + 4 at most. (The reference stays far below: its one weight lives inside an
operator, where the ledger does not look.) On a GPU a block has up to 192 layers and the allocator sees inside: there
it is one weight and a byte for each of its codes, unpacked, and the inputs, outputs and gradients of both of block and
of its widest layer.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import Any

from repros.case import ITEMSIZE, Affected, Budget, Case, Claim, Condition, Reading, Requires, on_cards
from repros.cases import _saved_weight as parts

SLACK, COMPILER, SEGMENT = 64 * 1024, 256 * 1024, 20 * 1024 * 1024
LAYERS = 4
#: Six weights of 235 million elements, 0.47 GB in 16 bits: a layer of the report's 9B model comes to 0.48 GB.
DEEP = 6
LAYER_9B = (4096, 4096, 4096, 12288, 4096, 12288, 4096)
MODEL_9B = LAYER_9B + LAYER_9B[1:] * 31
#: transformers has no part in these, and they take long: they are tried around its newest release alone.
NEWEST = Requires({"transformers": ">=5.20"}, reason="transformers has no part in it; its newest release is enough")
USUAL = {
    "quant": "nf4", "double": False, "threshold": 0.0, "mode": "eager", "train": True, "place": "linear",
    "tokens": 128, "widths": (768, 768), "late": False, "dtype": "bfloat16", "device": "cpu",
}  # fmt: skip


def held(p: Any) -> Any:
    m, n, k = p["tokens"], p["widths"][-1], p["widths"][0]
    elements = m * n
    if p["place"] in ("lora", "dora"):
        elements += m * (2 * k + parts.RANK)
    if p["place"] == "dora":
        elements += 2 * m * n
    on_card = p["device"] == "cuda"
    if p["quant"] == "int8" and on_card:
        elements += m * sum(p["widths"][1:-1])
    return elements * ITEMSIZE[p["dtype"]] + SLACK + (COMPILER if p["mode"] in parts.BACKENDS and not on_card else 0)


def peak(p: Any) -> Any:
    m, widths, size = p["tokens"], p["widths"], ITEMSIZE[p["dtype"]]
    largest = max(n * k for k, n in pairwise(widths))
    if p["device"] == "cuda":
        widest = max(k + n for k, n in pairwise(widths))
        return largest * (size + 1) + 2 * (widths[0] + widths[-1] + widest) * m * size
    return largest * size + (2 * (len(widths) - 1) + 4) * m * max(widths) * size


HELD = Budget("held_bytes", held, second="heap_held_bytes")
CARD_HELD = Budget("cuda_held_bytes", held, second="cuda_held_driver_bytes", second_slack=SEGMENT)
CARD_PEAK = Budget("cuda_peak_allocated_bytes", peak)
PEAK = Budget("peak_live_16bit_bytes", peak)
FP4 = Requires({"bitsandbytes": ">=0.47.0"}, reason="fp4 has a CPU kernel from bitsandbytes 0.47.0 on")
PARAMETRIZE = Requires({"bitsandbytes": ">=0.48.0"}, reason="bitsandbytes.nn.parametrize came with 0.48.0")
DEEPCOPY = Requires({"bitsandbytes": ">=0.46.1"}, reason="0.46.0 cannot copy a layer on CPU, and DoRA copies it")
ANYTHING = Requires()
INDUCTOR = Requires(compiler=True, reason="inductor's CPU backend builds its kernels with a C++ compiler")
KERNELS = Requires({"torch": ">=2.10"}, compiler=True, reason="2.9 builds kernels by setuptools, not installed with it")


PACKED = "in 4 bits a layer has a quarter of its 16-bit size, and its scales beside it"
HELD_IS_ALL = "what is held until the backward is all that a fix can save"
CUSTOM_OP = "the operator that the maintainer planned, written by hand over the installed kernels"
EXPERTS = "two experts in one parametrized parameter, applied by F.linear as MoE blocks do"
SECOND_STEP = "the second step is judged: what the first one leaves in the cache of torch.nn.utils.parametrize counts"


def on(
    name: str, requires: Requires = ANYTHING, without: tuple[str, ...] = (), note: str = "", **changes: Any
) -> Condition:
    """Declare a condition by what differs from the usual parameters; a checkpointed one runs a block of layers."""
    block = changes.get("mode") in ("reentrant", "nonreentrant") and not changes.get("late")
    shape = {"tokens": 16, "widths": (512,) * (LAYERS + 1)} if block else {}
    return Condition(name, {**USUAL, **shape, **changes}, requires, without, note, PEAK if block else None)


ON_CPU = (
    on("nf4-eager"),
    on("nf4-double-eager", double=True),
    on("fp4-eager", FP4, quant="fp4"),
    on("nf4-checkpoint-reentrant", mode="reentrant"),
    on("nf4-checkpoint-nonreentrant", mode="nonreentrant"),
    on("nf4-compile-default", mode="default"),
    on("nf4-compile-mincut", mode="mincut"),
    on("nf4-compile-inductor", INDUCTOR, mode="inductor"),
    on("nf4-eval-compile-mincut", train=False, mode="mincut"),
    on("fp4-double-compile-mincut", FP4, quant="fp4", double=True, mode="mincut"),
    on("nf4-customop-eager", without=("proposed",), note=CUSTOM_OP, place="customop"),
    on("nf4-customop-compile-mincut", without=("proposed",), note=CUSTOM_OP, place="customop", mode="mincut"),
    on("nf4-experts-eager", PARAMETRIZE, note=EXPERTS, place="experts"),
    on("nf4-experts-checkpoint-nonreentrant", PARAMETRIZE, note=SECOND_STEP,
       place="experts", mode="nonreentrant", late=True),
    on("nf4-lora-eager", note="PEFT LoRA with dropout", place="lora"),
    on("nf4-dora-eager", DEEPCOPY, note="PEFT DoRA with dropout", place="dora"),
    on("int8-eager", quant="int8"),
    on("int8-outlier-eager", quant="int8", threshold=6.0),
    on("int8-eval-eager", quant="int8", train=False),
    on("int8-checkpoint-reentrant", quant="int8", mode="reentrant"),
    on("int8-checkpoint-nonreentrant", quant="int8", mode="nonreentrant"),
    on("int8-compile-mincut", quant="int8", mode="mincut"),
    on("int8-compile-inductor", KERNELS, quant="int8", mode="inductor"),
)  # fmt: skip


def on_card(
    size: str, widths: tuple[int, ...], names: str, tried: bool = False, packages: Requires = ANYTHING
) -> tuple[Condition, ...]:
    """Return conditions of the report's size, judged by allocator and driver where those on a CPU are by the ledger.

    With ``tried`` the fix that the report proposes is an arm; elsewhere on a GPU it would cost more than it tells.
    """
    proxies = {condition.name: condition for condition in ON_CPU}
    chosen = []
    for proxy in (proxies[name] for name in names.split()):
        # The planted bug of a checkpointed block keeps every weight, and every arm has the 16-bit ones it began with.
        of_a_card = 6 * sum(n * k for k, n in pairwise(widths))
        needs = replace(packages if packages.packages else proxy.requires, compiler=False, card_bytes=of_a_card)
        budget = CARD_PEAK if proxy.budget is PEAK else CARD_HELD
        condition = replace(proxy.on_cuda(widths=widths, tokens=128), requires=needs, budget=budget)
        without = () if tried else ("proposed",)
        chosen.append(replace(condition, name=f"{proxy.name}-{size}-cuda", without=without))
    return tuple(chosen)


CONDITIONS = (
    *ON_CPU,
    *on_card("layer", LAYER_9B, "nf4-eager int8-eager", tried=True),
    *on_card("layer", LAYER_9B, "nf4-checkpoint-nonreentrant nf4-compile-mincut"),
    *on_card("layer", LAYER_9B, "nf4-compile-inductor", tried=True, packages=NEWEST),
    *on_card("layer", LAYER_9B, "int8-compile-inductor", packages=NEWEST),
    *on_card("32-layers", MODEL_9B, "nf4-eager nf4-checkpoint-nonreentrant nf4-compile-mincut", packages=NEWEST),
    *on_card("weight", (4096, 12288), "nf4-dora-eager", packages=NEWEST),
)

CASE = Case(
    package="bitsandbytes",
    number=1935,
    title="the dequantized 16-bit weight is saved for backward",
    kind="pull request",
    status="closed unmerged, withdrawn by its author",
    claims=(
        Claim(
            "autograd saves the dequantized weight of a 4-bit layer",
            {
                "a layer": "0.48 GB",
                "a layer, packed": "0.06 GB",
                "32 layers of a 9B model": "15.4 GB",
                "32 layers of a 9B model, packed": "1.9 GB",
                "saved by the fix": "~13 GB",
            },
            "?[fp]4-*",
            {
                "a layer": tuple(
                    Reading("cuda_held_bytes", condition, 10**9, arm)
                    for condition in ("nf4-eager-layer-cuda", "nf4-compile-inductor-layer-cuda")
                    for arm in ("subject", "planted")
                ),
                "a layer, packed": (Reading("packed_bytes", "nf4-eager-layer-cuda", 10**9, note=PACKED),),
                "32 layers of a 9B model": tuple(
                    Reading("cuda_held_bytes", f"nf4-{mode}-32-layers-cuda", 10**9, arm)
                    for mode in ("eager", "compile-mincut")
                    for arm in ("subject", "planted")
                ),
                "32 layers of a 9B model, packed": (
                    Reading("packed_bytes", "nf4-eager-32-layers-cuda", 10**9, note=PACKED),
                ),
                "saved by the fix": tuple(
                    Reading("cuda_held_bytes", "nf4-eager-32-layers-cuda", 10**9, arm, note=HELD_IS_ALL)
                    for arm in ("subject", "planted")
                ),
            },
        ),
        Claim("autograd saves the dequantized weight of an 8-bit layer", conditions="int8-*"),
        Claim("the maintainer suspects a graph compiler's joint graph, not eager mode", conditions="*-compile-*"),
    ),
    conditions=CONDITIONS,
    budget=HELD,
    timeout_s=180.0,  # inductor's first kernel in a cell precompiles torch's headers
    affected=on_cards("reports/h200", bitsandbytes=("<0.50", "nf4-compile-*-cuda"))
    + on_cards("reports/h200", bitsandbytes=(">=0.49", "nf4-dora-*-cuda"))
    + tuple(
        # The bounds of bitsandbytes; that of torch is read from reports/cpu-torch.
        Affected(versions, conditions, source="reports/bisect/gh1935-bitsandbytes")
        for conditions, versions in {
            "nf4-compile-*": {"bitsandbytes": "<0.50", "torch": "<2.14"},
            "nf4-eval-compile-*": {"bitsandbytes": "<0.50", "torch": "<2.14"},
            "fp4-double-compile-*": {"bitsandbytes": ">=0.47,<0.50", "torch": "<2.14"},
            "nf4-experts-eager": {"bitsandbytes": ">=0.48"},
            "nf4-experts-checkpoint-*": {"bitsandbytes": ">=0.48,<0.50"},
            "nf4-dora-eager": {"bitsandbytes": ">=0.46.1"},
            "int8-compile-inductor": {"bitsandbytes": ">=0.48", "torch": "<2.14"},
        }.items()
    ),
    proposes=parts.PROPOSES,
    url="https://github.com/bitsandbytes-foundation/bitsandbytes/pull/1935",
)


def prepare(p: Any, checkpoint: str | None) -> parts.Inputs:
    import torch

    dtype = getattr(torch, p["dtype"])
    m, widths, device = p["tokens"], p["widths"], p["device"]
    x = torch.randn(m, widths[0], device=device).to(dtype)
    if p["threshold"]:
        x[:, :: widths[0] // 4] *= 4 * p["threshold"]
    shapes = [(n, k) for k, n in pairwise(widths)] * (2 if p["place"] == "experts" else 1)
    weights = [(torch.randn(n, k, device=device) * k**-0.5).to(dtype) for n, k in shapes]
    grad = torch.randn(m, widths[-1], device=device).to(dtype)
    return parts.Inputs(p=p, x=x.requires_grad_(), grad=grad, weights=weights, kept={})


def oracle(i: Any) -> dict[str, Any]:
    import torch

    if len(i.weights) > DEEP:  # what is right over one layer is judged over one layer
        return {}
    if i.p["place"] == "experts":
        weights = [parts.dequantize(q, torch.float64) for q in i.quantized]
        x = i.x.detach().double().requires_grad_()
        output = parts.compose(i, [partial(torch.nn.functional.linear, weight=w) for w in weights])(x)
        output.backward(i.grad.double())
        return {"output": output.detach(), "grad_input": x.grad}
    output, grad = i.x.detach().double(), i.grad.double()
    for q in i.quantized:  # one weight at a time: 32 layers in float64 would fill a card
        output = output @ parts.dequantize(q, torch.float64).t()
    for q in reversed(i.quantized):
        grad = grad @ parts.dequantize(q, torch.float64)
    return {"output": output, "grad_input": grad}


def subject(i: Any) -> parts.Steps:
    run = parts.installed(i)
    return {**(yield from parts.steps(i, run)), **parts.packed_bytes(run)}


def reference(i: Any) -> parts.Steps:
    return (yield from parts.steps(i, parts.assemble(i, parts.reference_products(i))))


def planted(i: Any) -> parts.Steps:
    return (yield from parts.steps(i, parts.assemble(i, parts.planted_products(i))))


def proposed(i: Any) -> parts.Steps:
    parts.without_grad()
    return (yield from subject(i))
