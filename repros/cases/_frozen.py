"""Frozen quantized layers of bitsandbytes, and what is right for a chain of them.

``c.quant`` says how the weights are quantized: ``("nf4", False)`` is the 4-bit type and whether its scales are in 8
bits too; a number is the threshold of LLM.int8.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from itertools import pairwise
from typing import Any

Arm = Generator[str, None, Mapping[str, Any]]


def reference_format(c: Any) -> Any:
    """Return what quantizes, dequantizes and multiplies with the reference."""
    from repros.reference.formats import EightBit, FourBit

    return FourBit(*c.quant) if isinstance(c.quant, tuple) else EightBit(c.quant)


def exact(c: Any, x: Any, weights: Any, grad: Any) -> dict[str, Any]:
    """Return what is right; nothing of more than six weights, whose numbers a chain of one judges."""
    from repros.reference.formats import exact_chain

    return exact_chain(reference_format(c), x, weights, grad) if len(weights) <= 6 else {}


def installed_layer(c: Any, weight: Any) -> Any:
    """Return bitsandbytes' layer of a 16-bit weight ``[out, in]``, quantized where the weight lies."""
    import bitsandbytes

    nn: Any = bitsandbytes.nn
    n, k = weight.shape
    if isinstance(c.quant, tuple):
        scheme = {"quant_type": c.quant[0], "compress_statistics": c.quant[1]}
        layer = nn.Linear4bit(k, n, bias=False, compute_dtype=weight.dtype, device="meta", **scheme)
        layer.weight = nn.Params4bit(weight, requires_grad=False, **scheme).to(weight.device)
        return layer
    layer = nn.Linear8bitLt(k, n, bias=False, has_fp16_weights=False, threshold=c.quant, device="meta")
    layer.weight = nn.Int8Params(weight, requires_grad=False, has_fp16_weights=False).to(weight.device)
    return layer


def installed(c: Any, weights: Any) -> Any:
    """Return bitsandbytes' layers, one after the other, in training mode."""
    import torch

    return torch.nn.Sequential(*(installed_layer(c, weight) for weight in weights))


def packed_bytes(layers: Any) -> float:
    """Return what bitsandbytes' 4-bit layers hold in codes and scales."""
    states = [(value, value.quant_state) for value in layers.parameters() if getattr(value, "quant_state", None)]
    held = [(value, state.absmax, getattr(state.state2, "absmax", None)) for value, state in states]
    return float(sum(tensor.nbytes for tensors in held for tensor in tensors if tensor is not None))


def draw(c: Any, experts: int = 1) -> dict[str, Any]:
    """Draw input, weights and gradient of the output, in bfloat16; with a threshold, four columns of outliers."""
    import torch

    def normal(*shape: int) -> Any:
        return torch.randn(*shape, device=c.device)

    x = normal(c.tokens, c.widths[0]).bfloat16()
    if not isinstance(c.quant, tuple) and c.quant:
        x[:, :: c.widths[0] // 4] *= 4 * c.quant
    shapes = [(n, k) for k, n in pairwise(c.widths)] * experts
    weights = [(normal(n, k) * k**-0.5).bfloat16() for n, k in shapes]
    return {"x": x.requires_grad_(), "weights": weights, "grad": normal(c.tokens, c.widths[-1]).bfloat16()}
