"""Frozen quantized layers of bitsandbytes, their inputs, and what is right for a chain of them."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from itertools import pairwise
from typing import Any

from repros.reference.formats import FourBit, exact_chain

Arm = Generator[str, None, Mapping[str, Any]]


def installed_layer(c: Any, weight: Any) -> Any:
    """Return bitsandbytes' layer of a 16-bit weight ``[out, in]``, quantized where the weight lies."""
    import bitsandbytes

    nn: Any = bitsandbytes.nn
    n, k = weight.shape
    if isinstance(c.quant, FourBit):
        scheme = {"quant_type": c.quant.quant_type, "compress_statistics": c.quant.double}
        layer = nn.Linear4bit(k, n, bias=False, compute_dtype=weight.dtype, device="meta", **scheme)
        layer.weight = nn.Params4bit(weight, requires_grad=False, **scheme).to(weight.device)
        return layer
    layer = nn.Linear8bitLt(k, n, bias=False, has_fp16_weights=False, threshold=c.quant.threshold, device="meta")
    layer.weight = nn.Int8Params(weight, requires_grad=False, has_fp16_weights=False).to(weight.device)
    return layer


def installed(c: Any, weights: Any) -> Any:
    """Return bitsandbytes' layers, one after the other, in training mode."""
    import torch

    return torch.nn.Sequential(*(installed_layer(c, weight) for weight in weights))


def draw(c: Any, experts: int = 1) -> dict[str, Any]:
    """Draw input, weights and gradient of the output, in bfloat16; with a threshold, four columns of outliers."""
    import torch

    def normal(*shape: int) -> Any:
        return torch.randn(*shape, device=c.device)

    x = normal(c.tokens, c.widths[0]).bfloat16()
    if threshold := getattr(c.quant, "threshold", 0):
        x[:, :: c.widths[0] // 4] *= 4 * threshold
    shapes = [(n, k) for k, n in pairwise(c.widths)] * experts
    weights = [(normal(n, k) * k**-0.5).bfloat16() for n, k in shapes]
    return {"x": x.requires_grad_(), "weights": weights, "grad": normal(c.tokens, c.widths[-1]).bfloat16()}


def exact(c: Any, x: Any, weights: Any, grad: Any) -> dict[str, Any]:
    """Return what is right; nothing of more than six weights, whose numbers a shorter chain judges."""
    return exact_chain(c.quant, x, weights, grad) if len(weights) <= 6 else {}
