"""After a checkpointed step, experts in one 4-bit parameter stay dequantized in a cache.

The report: under non-reentrant gradient checkpointing every dequantized expert stays alive. bitsandbytes opens the
cache of `torch.nn.utils.parametrize` around a forward and closes it in a forward hook. Non-reentrant checkpointing
leaves its recomputation by an exception, so that hook does not run and the cache stays open. Releases from 0.48, where
parametrized experts came, and before 0.50 are affected.

Limit: two steps are run, and what the first one leaves counts. Between the forward and the backward of the second,
what was born since the start may be its output. The two cached weights are twelve times the output.

Planted: the reference's experts put their dequantized weights into a cache that nobody empties.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from repros.case import Affected, Case, Claim, Condition, held
from repros.cases._experts import PARAMETRIZE, exact_experts, installed_experts, routed
from repros.cases._frozen import Arm, draw, reference_format

KIB = 1024
TOKENS, WIDTH = 128, 768  # two experts of 768 x 768 in bfloat16, which share the rows
LIMIT = 2 * TOKENS * WIDTH + 64 * KIB  # bytes: the output, and what the heap rounds up to

UNTIL_0_50 = Affected({"bitsandbytes": ">=0.48,<0.50"}, "reports/bisect/gh1935-bitsandbytes")
CACHED = Claim("the cache keeps the dequantized weights after a step under non-reentrant checkpointing")

CASE = Case(
    report="bitsandbytes#2005",
    title="parametrized experts stay dequantized under non-reentrant checkpointing",
    kind="issue",
    status="closed",
    severity="memory",
    trigger="a mixture of experts whose 4-bit weights are one parameter, trained with non-reentrant checkpointing",
    claims=(CACHED,),
    conditions=(
        Condition(
            "nf4-experts-checkpoint-nonreentrant",
            held(LIMIT),
            {"quant": ("nf4", False), "tokens": TOKENS, "widths": (WIDTH, WIDTH)},
            PARAMETRIZE,
            affected=(UNTIL_0_50,),
            claims=(CACHED,),
            note="the second step is judged: what the first one leaves in the cache of parametrize counts",
        ),
    ),
    timeout_s=180.0,
)


def inputs(c: Condition) -> dict[str, Any]:
    return draw(c, experts=2)


def oracle(c: Condition, x: Any, weights: Any, grad: Any) -> dict[str, Any]:
    return exact_experts(c, x, weights, grad)


#: The planted bug's cache, of this process: nothing empties it once the judged steps have begun.
CACHE: dict[int, Any] = {}


def train_twice(run: Any, x: Any, grad: Any) -> Arm:
    """Run a bare step, which is not judged, and two checkpointed ones."""
    from torch.utils.checkpoint import checkpoint

    recomputed = partial(checkpoint, run, use_reentrant=False)
    run(x).backward(grad)
    x.grad = None
    CACHE.clear()
    yield "forward"
    recomputed(x).backward(grad)
    x.grad = None
    output = recomputed(x)
    yield "backward"
    output.backward(grad)
    return {"output": output, "grad_input": x.grad}


def subject(c: Condition, x: Any, weights: Any, grad: Any) -> Arm:
    return train_twice(installed_experts(c, weights), x, grad)


def reference(c: Condition, x: Any, weights: Any, grad: Any) -> Arm:
    from repros.reference.formats import products

    return train_twice(routed(products(reference_format(c), weights)), x, grad)


def planted(c: Condition, x: Any, weights: Any, grad: Any) -> Arm:
    """Keep each dequantized weight in a cache, from the first checkpointed step on."""
    from repros.reference.formats import saving_products

    return train_twice(routed(saving_products(reference_format(c), weights, CACHE)), x, grad)
