"""On a CPU with AVX512-BF16 a 4-bit layer passes no gradient on once it was evaluated.

Report: `layer.eval()` and a forward repack the weight; what is then trained is wrong. Never evaluated, it is fine.

Mechanism: `matmul_4bit` (autograd/_functions.py) takes `gemv_4bit` for a packed weight, whatever x needs; it has no
backward, and nothing unpacks the weight when training goes on. Silently, the layer's share of the gradient is missing:
in x + layer(x) that of x alone is left. Shortest: `eval()`, a forward, `train()`.

Limit: scale, weight, product and sum may each be rounded to bfloat16, by half an epsilon, of OUT magnitudes; with
random signs the largest sum is at least their root of OUT-th part.

Planted: the reference, run without a graph.
"""

from typing import Any

from repros.case import Affected, Case, Claim, Condition, error
from repros.cases.bitsandbytes.gh1946._layer import OUT, PACKS, TITLE, codes, dequantized, draw, installed

BUDGET = error(4 / 2 * 2.0**-7 * OUT**0.5)  # bfloat16's epsilon

CLAIM = Claim("on a CPU a 4-bit layer that was evaluated and is then trained is wrong")
SINCE_049 = (Affected({"bitsandbytes": ">=0.49"}, "reports/bisect/gh1946-bitsandbytes"),)
TRAINING = {"evaluated": True, "double": False, "training": True}


def trained(name: str, **how: Any) -> Condition:
    return Condition(name, BUDGET, TRAINING | how, PACKS, SINCE_049, (CLAIM,))


CASE = Case(
    report="bitsandbytes#1946",
    title=TITLE,
    kind="issue",
    status="open",
    severity="wrong numbers",
    trigger="training through a 4-bit layer after an evaluation on a CPU with AVX512-BF16",
    claims=(CLAIM,),
    conditions=(
        trained("training"),
        trained("training-double-quantized", double=True),
        trained("gradient-in-eval", training=False),
        Condition("never-evaluated", BUDGET, TRAINING | {"evaluated": False}, PACKS, control=True),
    ),
)


def inputs(c: Condition) -> dict[str, Any]:
    return draw()


def oracle(c: Condition, x: Any, weight: Any) -> dict[str, Any]:
    return {"grad": 1 + dequantized(weight, c.double).double().sum(0).expand_as(x)}


def around(x: Any, layer: Any) -> Any:
    """Add what a layer gives to x, as a residual network does, and send a gradient of ones back."""
    x.requires_grad_()
    yield "forward"
    output = layer(x).sum() + x.sum()
    yield "backward"
    output.backward()
    return {"grad": x.grad}


def subject(c: Condition, x: Any, weight: Any) -> Any:
    layer = installed(weight, c.double)
    if c.evaluated:
        layer.eval()(x)
    return around(x, layer.train(c.training))


def reference(c: Condition, x: Any, weight: Any, seen: Any = lambda x: x) -> Any:
    from repros.reference.linear import linear_4bit

    return around(x, lambda x: linear_4bit(seen(x), codes(weight, c.double)))


def planted(c: Condition, x: Any, weight: Any) -> Any:
    return reference(c, x, weight, lambda x: x.detach())
