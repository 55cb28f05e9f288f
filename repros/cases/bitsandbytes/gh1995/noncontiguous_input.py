"""On a CPU with AVX512-BF16 an evaluated 4-bit layer reads a non-contiguous input as if its rows were contiguous.

Report: `Linear4bit` on a CPU gives wrong numbers, silently, for a transposed or a sliced activation.

Mechanism: in eval mode, for an x without gradient, `gemv_4bit` (backends/cpu/ops.py) tells the kernel x's row stride
alone. The cast to bfloat16 keeps a transposed view's strides; a view with gaps is hit only where no cast is needed.

Limit: x, scale, weight and output are rounded to bfloat16, of IN magnitudes; the output has at least their IN**0.5-th.

Planted: the reference, on x's memory read as if x were contiguous.
"""

from typing import Any

from repros.case import Affected, Case, Claim, Condition, Needs, error

ROWS, IN, OUT = 16, 256, 128
BUDGET = error(4 / 2 * 2.0**-7 * IN**0.5)  # bfloat16's epsilon
PACKS = Needs(cpu=("avx512_bf16",), reason="elsewhere bitsandbytes has another kernel")
CLAIM = Claim("on a CPU a Linear4bit gives wrong numbers for an input that is a transposed or sliced view")
SINCE_049 = (Affected({"bitsandbytes": ">=0.49"}, "reports/bisect/gh1995-bitsandbytes"),)


def view(layout: str, dtype: str, mode: str = "", **declared: Any) -> Condition:
    how = {"layout": layout, "dtype": dtype, "mode": mode}
    return Condition(f"{layout}-{dtype}{mode}", BUDGET, how, PACKS, **declared)


CASE = Case(
    report="bitsandbytes#1995",
    title="CPU: Linear4bit gives wrong numbers for a non-contiguous input",
    kind="issue",
    status="open",
    severity="wrong numbers",
    trigger="an evaluated 4-bit layer on a CPU with AVX512-BF16, and an input that is a transposed or strided view",
    claims=(CLAIM,),
    conditions=(
        view("transposed", "float32", claims=(CLAIM,), affected=SINCE_049),
        view("transposed", "bfloat16", claims=(CLAIM,), affected=SINCE_049),
        view("transposed", "bfloat16", "-training", claims=(CLAIM,), affected=()),
        view("every-other-column", "float32", claims=(CLAIM,), affected=()),
        view("every-other-column", "bfloat16", claims=(CLAIM,), affected=SINCE_049),
        view("left-half", "bfloat16", claims=(CLAIM,), affected=()),
        view("contiguous", "bfloat16", control=True),
    ),
)


def inputs(c: Condition) -> dict[str, Any]:
    import torch

    x = torch.randn(ROWS, 2 * IN, dtype=getattr(torch, c.dtype))
    views = {"transposed": x[:, :IN].t().contiguous().t(), "every-other-column": x[:, ::2], "left-half": x[:, :IN]}
    return {"x": views.get(c.layout, x[:, :IN].contiguous()), "weight": torch.randn(OUT, IN)}


def oracle(c: Condition, x: Any, weight: Any) -> dict[str, Any]:
    from repros.reference.blockwise import dequantize_4bit, quantize_4bit

    return {"output": x.double() @ dequantize_4bit(quantize_4bit(weight, "nf4", 64)).double().t()}


def subject(c: Condition, x: Any, weight: Any) -> Any:
    from bitsandbytes.nn import Linear4bit

    layer = Linear4bit(IN, OUT, bias=False, compress_statistics=False, quant_type="nf4")
    layer.weight.data.copy_(weight)
    yield "forward"
    return {"output": layer.to("cpu").train(c.mode == "-training")(x)}


def reference(c: Condition, x: Any, weight: Any) -> Any:
    from repros.reference import blockwise, linear

    yield "forward"
    return {"output": linear.linear_4bit(x, blockwise.quantize_4bit(weight, "nf4", 64))}


def planted(c: Condition, x: Any, weight: Any) -> Any:
    return reference(c, x.as_strided(x.shape, (IN, 1)), weight)
