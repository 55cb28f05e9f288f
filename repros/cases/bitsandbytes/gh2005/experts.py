"""Experts in one 4-bit parameter stay dequantized, in a cache, after a checkpointed step.

A block that keeps its experts in one parameter has it quantized by `bitsandbytes.nn.parametrize`, which dequantizes it
by `torch.nn.utils.parametrize` and opens the cache of that around a forward. The report: under non-reentrant gradient
checkpointing every dequantized expert stays alive. Such checkpointing breaks off its recomputation, in the backward, by
an exception, so the forward hook that closes the cache does not run. The releases from 0.48, which brought that module,
to before 0.50 are affected.

Without checkpointing (not in the report) autograd saves the dequantized experts until the backward, in every release:
the block applies them by `F.linear`, outside of bitsandbytes' `autograd.Function`.

Limit: the experts are frozen, so the backward needs their packed weights alone, which were there before the step. What
was born since the judged steps began and is alive between forward and backward may be the output alone. Two dequantized
experts are twelve times the output. Under checkpointing two steps are run, and what the first one leaves counts.

Planted (must break the limit): the reference, but autograd saves its dequantized weights and a cache keeps them.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from repros.case import Affected, Case, Claim, Condition, Needs, Remedy, held, held_on_card
from repros.cases._frozen import Arm, draw, exact
from repros.reference.formats import FourBit, layers, layers_that_save_their_weight

KIB = 1024
TOKENS, WIDTH = 128, 768  # two experts of 768 x 768 in bfloat16, which share the rows
LIMIT = 2 * TOKENS * WIDTH + 64 * KIB  # bytes: the output, and what the heap rounds up to

BISECTED = "reports/bisect/gh1935-bitsandbytes"
PARAMETRIZE = Needs({"bitsandbytes": ">=0.48.0"}, reason="bitsandbytes.nn.parametrize came with 0.48.0")
CACHED = Claim("the cache keeps dequantized experts after a step under non-reentrant checkpointing")
REENTRANT = Remedy(
    "checkpoint in the reentrant mode, `use_reentrant=True`", params={"checkpointed_twice": True, "reentrant": True}
)
TO_THE_END = Remedy("run the forward under `set_checkpoint_early_stop(False)`", arm="remedy_to_the_end")
SAVED = Claim("not in the report: without checkpointing autograd saves the dequantized experts")


def experts(name: str, claim: Claim, versions: str, twice: bool, **more: Any) -> Condition:
    shape = {"quant": FourBit("nf4"), "tokens": TOKENS, "widths": (WIDTH, WIDTH)}
    shape |= {"checkpointed_twice": twice, "reentrant": False}
    window = Affected({"bitsandbytes": versions}, BISECTED)
    return Condition(name, held(LIMIT), shape, PARAMETRIZE, affected=(window,), claims=(claim,), **more)


NOTE = "the second step is judged: what the first one leaves in the cache of parametrize counts"
TWICE: dict[str, Any] = {"note": NOTE, "witness": "minimal.py", "remedies": (REENTRANT, TO_THE_END)}
AFTER_A_STEP = experts("nf4-experts-checkpoint-nonreentrant", CACHED, ">=0.48,<0.50", True, **TWICE)
EAGER: dict[str, Any] = {"note": "applied by F.linear, as such blocks do", "remedies": (REENTRANT,)}
# On a GPU: as wide as a model of 7B, where an expert has 32 MiB in 16 bits.
WIDE, CARD_LIMIT = {"widths": (4096, 4096)}, 2 * TOKENS * 4096 + 64 * KIB
UNTIL_0_50_CUDA = (Affected({"bitsandbytes": ">=0.48,<0.50"}, "reports/h100"),)

CASE = Case(
    report="bitsandbytes#2005",
    title="parametrized experts stay dequantized under non-reentrant checkpointing",
    kind="issue",
    status="closed",
    fix="bitsandbytes#1999",
    severity="memory",
    trigger="a mixture of experts whose 4-bit weights are one parameter, trained with non-reentrant checkpointing",
    claims=(CACHED, SAVED),
    conditions=(
        AFTER_A_STEP,
        AFTER_A_STEP.on_card("", held_on_card(CARD_LIMIT), WIDE, affected=UNTIL_0_50_CUDA, witness="minimal.py"),
        experts("nf4-experts-eager", SAVED, ">=0.48", False, **EAGER),
    ),
    timeout_s=180.0,
)


def inputs(c: Condition) -> dict[str, Any]:
    return draw(c, experts=2)


def oracle(c: Condition, x: Any, weights: Any, grad: Any) -> dict[str, Any]:
    import torch

    each = [exact(c, *one) for one in zip(x.chunk(2), [weights[:1], weights[1:]], grad.chunk(2), strict=True)]
    return {name: torch.cat([one[name] for one in each]) for name in ("output", "grad_input")}


#: The planted bug's cache, of this process. Nothing empties it once the judged steps have begun.
CACHE: dict[int, Any] = {}


def train(c: Condition, block: Any, x: Any, grad: Any) -> Arm:
    """Warm up, then run one step, or two checkpointed ones; the last is the one at whose backward it is counted."""
    from torch.utils.checkpoint import checkpoint

    def step(run: Any) -> None:
        run(x).backward(grad)
        x.grad = None

    judged = partial(checkpoint, block, use_reentrant=c.reentrant) if c.checkpointed_twice else block
    step(block)
    CACHE.clear()
    if not c.checkpointed_twice:
        step(judged)
    yield "forward"
    if c.checkpointed_twice:
        step(judged)
    output = judged(x)
    yield "backward"
    output.backward(grad)
    return {"output": output, "grad_input": x.grad}


def subject(c: Condition, x: Any, weights: Any, grad: Any) -> Arm:
    import torch
    from bitsandbytes.nn.parametrize import replace_parameter_4bit

    class Experts(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.stack(weights), requires_grad=False)

        def forward(self, x: Any) -> Any:
            return routed([partial(torch.nn.functional.linear, weight=self.weight[e]) for e in (0, 1)])(x)

    experts = Experts()
    replace_parameter_4bit(experts, "weight", compress_statistics=False, quant_type="nf4")
    return train(c, experts, x, grad)


def remedy_to_the_end(c: Condition, x: Any, weights: Any, grad: Any) -> Arm:
    from torch.utils.checkpoint import set_checkpoint_early_stop

    with set_checkpoint_early_stop(False):
        return (yield from subject(c, x, weights, grad))


def reference(c: Condition, x: Any, weights: Any, grad: Any) -> Arm:
    return train(c, routed(layers(c.quant, weights)), x, grad)


def planted(c: Condition, x: Any, weights: Any, grad: Any) -> Arm:
    cache = CACHE if c.checkpointed_twice else None
    return train(c, routed(layers_that_save_their_weight(c.quant, weights, cache)), x, grad)


def routed(experts: Any) -> Any:
    """Return one function that gives each expert its half of the rows."""
    import torch

    return lambda x: torch.cat([run(rows) for run, rows in zip(experts, x.chunk(2), strict=True)])
