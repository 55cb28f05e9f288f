"""What the cases of bitsandbytes#1729 share: a title, an int8 layer with a threshold, an input with outlier columns."""

from __future__ import annotations

from typing import Any

TITLE = "CPU: int8 with a threshold is wrong for inputs with outlier columns"
THRESHOLD, SIZE, IN, OUT = 6.0, 20.0, 256, 128
COLUMNS = IN // 64


def draw(shape: tuple[int, ...], dtype: str, outliers: bool) -> dict[str, Any]:
    """Draw an input, with four columns far above the threshold if so asked, and a weight that is float16 as it is."""
    import torch

    x = torch.randn(*shape).clamp(-5, 5)
    if outliers:
        x[..., ::64] += SIZE
    return {"x": x.to(getattr(torch, dtype)), "weight": torch.randn(OUT, IN, dtype=torch.float16)}


def dequantized(weight: Any) -> Any:
    """Say what the codes of the weight stand for, in float64."""
    from repros.reference.int8 import dequantize_rowwise, quantize_rowwise

    return dequantize_rowwise(*quantize_rowwise(weight)).double()


def installed(weight: Any, training: bool) -> Any:
    """Build the installed layer."""
    from bitsandbytes.nn import Linear8bitLt

    layer = Linear8bitLt(IN, OUT, bias=False, has_fp16_weights=False, threshold=THRESHOLD)
    layer.weight.data.copy_(weight)
    return layer.to("cpu").train(training)


def right(x: Any, weight: Any) -> Any:
    """Multiply by the codes, and by what they stand for in columns above the threshold."""
    from repros.reference.int8 import quantize_rowwise
    from repros.reference.linear import linear_8bit

    return linear_8bit(x, *quantize_rowwise(weight), None, THRESHOLD)


def written(x: Any) -> Any:
    """Zero the outliers of x in place, and restore them, as bitsandbytes does."""
    kept = x.detach().clone()
    x.detach().masked_fill_(kept >= THRESHOLD, 0).copy_(kept)
    return x
