"""Quantize while loading: what `repros.reference.loader.StreamingLoader` makes of each tensor."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from repros.reference.blockwise import Quantized4bit, dequantize_4bit, quantize_4bit
from repros.reference.int8 import dequantize_rowwise, quantize_rowwise

#: Elements that share a scale in NF4.
BLOCKSIZE = 64
#: One operator for each quantization, as in bitsandbytes: a gate on operators can name it.
OPERATOR = "repros_loading::quantize"


class Converter:
    """Quantize the tensors that ``quantizes(name, shape)`` says, cast the others to ``dtype``.

    ``scheme`` is ``nf4`` or ``int8``. A quantized tensor becomes ``(codes, scales, shape)``. ``copy`` has one that is
    not quantized copied although it has its dtype already: a meter can then tell the source from what is kept.
    """

    def __init__(
        self, scheme: str, dtype: torch.dtype, quantizes: Callable[[str, tuple[int, ...]], bool], copy: bool
    ) -> None:
        self.scheme, self.dtype, self.quantizes, self.copy = scheme, dtype, quantizes, copy
        schema = "(Tensor weight, str scheme) -> (Tensor, Tensor)"
        self._quantize = torch.library.custom_op(OPERATOR, _quantize, mutates_args=(), schema=schema)

    def __call__(self, name: str, source: Tensor) -> Any:
        """Return what is kept of a source."""
        shape = tuple(source.shape)
        if self.quantizes(name, shape):
            return (*self._quantize(source.to(self.dtype), self.scheme), shape)
        return source.to(self.dtype, copy=self.copy)

    def restore(self, kept: Any) -> Tensor:
        """Return what was kept of a tensor in float32, dequantized."""
        if isinstance(kept, Tensor):
            return kept.float()
        codes, scales, shape = kept
        if self.scheme == "int8":
            return dequantize_rowwise(codes, scales)
        return dequantize_4bit(Quantized4bit(codes, scales, shape, self.dtype, "nf4", BLOCKSIZE)).float()


def _quantize(weight: Tensor, scheme: str) -> tuple[Tensor, Tensor]:
    if scheme == "int8":
        return quantize_rowwise(weight)
    quantized = quantize_4bit(weight, "nf4", BLOCKSIZE)
    return quantized.packed, quantized.absmax
