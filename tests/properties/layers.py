"""The products under proof: one table of kinds, and each one's formula of what it may save for backward."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from repros.reference.blockwise import NESTED_BLOCKSIZE, dequantize_4bit, quantize_4bit
from repros.reference.int8 import dequantize_rowwise, quantize_rowwise
from repros.reference.linear import linear_4bit, linear_8bit
from repros.reference.modules import FrozenLinear4bit, FrozenLinear8bit

KINDS = ("nf4", "fp4", "nf4 double", "fp4 double", "int8", "int8 outliers")
THRESHOLD = 2.0


@dataclass(frozen=True)
class Product:
    """A product by a quantized weight ``[out, in]``."""

    run: Callable[..., Tensor]
    #: What the weight stands for, float64.
    weight: Tensor
    #: All that the weight is made of, by name.
    parts: dict[str, Tensor]
    #: Bytes that may be saved for backward, by the formula.
    saved_bytes: int


def saved_bytes(kind: str, out: int, width: int, blocksize: int) -> int:
    """Return what a product may save for backward: its packed weight and scales, and nothing that depends on ``x``.

    4-bit: two codes a byte and 4 bytes a block; with double quantization 1 byte a block, 4 bytes for 256 blocks and
    4 for the mean. 8-bit: a byte an element and 4 bytes a row. Neither gradient needs ``x``, for the weight is frozen.
    """
    n = out * width
    if kind.startswith("int8"):
        return n + 4 * out
    blocks = -(n // -blocksize)
    if kind.endswith("double"):
        return -(n // -2) + blocks + 4 * -(blocks // -NESTED_BLOCKSIZE) + 4
    return -(n // -2) + 4 * blocks


def product(kind: str, w: Tensor, blocksize: int) -> Product:
    """Quantize ``w`` and return its product."""
    formula = saved_bytes(kind, w.shape[0], w.shape[1], blocksize)
    if kind.startswith("int8"):
        codes, scale = quantize_rowwise(w)
        run = partial(linear_8bit, codes=codes, scale=scale, threshold=THRESHOLD if kind == "int8 outliers" else 0.0)
        return Product(run, dequantize_rowwise(codes, scale).double(), {"codes": codes, "scale": scale}, formula)
    q = quantize_4bit(w, kind.split()[0], blocksize, kind.endswith("double"))
    names = ("packed", "absmax", "nested absmax", "nested offset")
    parts = dict(zip(names, q.tensors(), strict=False))
    return Product(partial(linear_4bit, q=q), dequantize_4bit(q, torch.float32).double(), parts, formula)


def module(kind: str, w: Tensor, blocksize: int) -> nn.Module:
    """Return the layer of a kind."""
    if kind.startswith("int8"):
        return FrozenLinear8bit.from_weight(w, threshold=THRESHOLD if kind == "int8 outliers" else 0.0)
    quant_type, _, double = kind.partition(" ")
    return FrozenLinear4bit.from_weight(w, quant_type=quant_type, blocksize=blocksize, double=bool(double))
