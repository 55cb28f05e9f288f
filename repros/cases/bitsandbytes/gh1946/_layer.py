"""What the cases of bitsandbytes#1946 share: a title, a 4-bit layer that may have been evaluated once, its codes."""

from __future__ import annotations

from typing import Any

from repros.case import Needs

PACKS = Needs(cpu=("avx512_bf16",), reason="elsewhere bitsandbytes does not pack the weight")
TITLE = "CPU: a 4-bit weight that was packed by an evaluation is wrong to save and to train"
ROWS, IN, OUT, BLOCK = 16, 256, 128, 64


def draw() -> dict[str, Any]:
    """Draw an input and a weight."""
    import torch

    return {"x": torch.randn(ROWS, IN), "weight": torch.randn(OUT, IN)}


def codes(weight: Any, double: bool) -> Any:
    """Quantize by the formula, which gives bitsandbytes' codes and scales."""
    from repros.reference.blockwise import quantize_4bit

    return quantize_4bit(weight, "nf4", BLOCK, double)


def dequantized(weight: Any, double: bool) -> Any:
    """Say what the codes of the weight stand for."""
    from repros.reference.blockwise import dequantize_4bit

    return dequantize_4bit(codes(weight, double))


def installed(weight: Any, double: bool) -> Any:
    """Build the installed layer, quantized from this weight."""
    from bitsandbytes.nn import Linear4bit

    layer = Linear4bit(IN, OUT, bias=False, compress_statistics=double, quant_type="nf4")
    layer.weight.data.copy_(weight)
    return layer.to("cpu")
