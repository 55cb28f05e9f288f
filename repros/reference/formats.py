"""The two formats of a frozen weight behind one interface, and chains of layers: right, and with a bug on purpose."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial, reduce

import torch
from torch import Tensor

from repros.reference.blockwise import Quantized4bit, dequantize_4bit, quantize_4bit
from repros.reference.int8 import dequantize_rowwise, quantize_rowwise
from repros.reference.linear import linear_4bit, linear_8bit

Codes8bit = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class FourBit:
    """``nf4`` or ``fp4`` in blocks of 64; with ``double`` the scales are in 8 bits."""

    quant_type: str = "nf4"
    double: bool = False

    def quantize(self, weight: Tensor) -> Quantized4bit:
        """Quantize a weight ``[out, in]``."""
        return quantize_4bit(weight, self.quant_type, double=self.double)

    def dequantize(self, quantized: Quantized4bit, dtype: torch.dtype) -> Tensor:
        """Return the weight ``[out, in]`` that the codes stand for."""
        return dequantize_4bit(quantized, dtype)

    def multiply(self, x: Tensor, quantized: Quantized4bit) -> Tensor:
        """Return ``x @ W.T``; saved for backward is the quantized weight alone."""
        return linear_4bit(x, quantized)

    def codes(self, quantized: Quantized4bit) -> Tensor:
        """Return the codes, uint8."""
        return quantized.packed


@dataclass(frozen=True)
class EightBit:
    """LLM.int8, a scale a row; what of ``x`` is over ``threshold`` is multiplied in 16 bits (0: nothing)."""

    threshold: float = 0.0

    def quantize(self, weight: Tensor) -> Codes8bit:
        """Quantize a weight ``[out, in]``."""
        return quantize_rowwise(weight)

    def dequantize(self, quantized: Codes8bit, dtype: torch.dtype) -> Tensor:
        """Return the weight ``[out, in]`` that codes and scale stand for."""
        return dequantize_rowwise(*quantized, dtype)

    def multiply(self, x: Tensor, quantized: Codes8bit) -> Tensor:
        """Return ``x @ W.T``; saved for backward are codes and scale alone."""
        codes, scale = quantized
        return linear_8bit(x, codes, scale, threshold=self.threshold)

    def codes(self, quantized: Codes8bit) -> Tensor:
        """Return the codes, int8."""
        return quantized[0]


Multiply = Callable[[Tensor], Tensor]


def products(how: FourBit | EightBit, weights: Sequence[Tensor]) -> list[Multiply]:
    """Return functions that multiply by a weight ``[out, in]`` and keep nothing but its quantized form."""
    return [partial(how.multiply, quantized=how.quantize(weight)) for weight in weights]  # type: ignore[arg-type]


def saving_products(
    how: FourBit | EightBit, weights: Sequence[Tensor], cache: dict[int, Tensor] | None = None
) -> list[Multiply]:
    """Return such functions with a bug: autograd saves the dequantized weight, and a cache, if there is one, keeps it.

    It is dequantized by an operator that a compiler cannot open, or the compiler might undo the bug.
    """
    quantized = [how.quantize(weight) for weight in weights]
    op = torch.library.custom_op(
        "repros_planted::dequantize",
        lambda codes, which, dtype: how.dequantize(quantized[which], dtype),  # type: ignore[arg-type]
        mutates_args=(),
        schema="(Tensor codes, int which, ScalarType dtype) -> Tensor",
    )
    op.register_fake(lambda codes, which, dtype: codes.new_empty(weights[which].shape, dtype=dtype))

    def multiply(x: Tensor, which: int, codes: Tensor) -> Tensor:
        weight: Tensor = op(codes, which, x.dtype)
        if cache is not None:
            cache[which] = weight
        return torch.nn.functional.linear(x, weight)

    codes = [how.codes(one) for one in quantized]  # type: ignore[arg-type]
    return [partial(multiply, which=which, codes=one) for which, one in enumerate(codes)]


def chain(each: Sequence[Multiply]) -> Multiply:
    """Return one function that applies these one after the other."""
    return lambda x: reduce(lambda y, multiply: multiply(y), each, x)


def exact_chain(how: FourBit | EightBit, x: Tensor, weights: Sequence[Tensor], grad: Tensor) -> dict[str, Tensor]:
    """Return ``output`` and ``grad_input`` of a chain of layers in float64, with the weights that the codes stand for.

    One weight at a time is dequantized: a deep chain in float64 would fill a card.
    """

    def dequantized(weight: Tensor) -> Tensor:
        return how.dequantize(how.quantize(weight), torch.float64)  # type: ignore[arg-type]

    output, grad_input = x.detach().double(), grad.double()
    for weight in weights:
        output = output @ dequantized(weight).t()
    for weight in reversed(weights):
        grad_input = grad_input @ dequantized(weight)
    return {"output": output, "grad_input": grad_input}
