"""The two formats of a frozen weight behind one interface, and layers of them: right, and with a bug on purpose.

A case declares a format before torch is there, so torch is imported where it is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial, reduce
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class Format(Protocol):
    """How a weight ``[out, in]`` is quantized and multiplied by."""

    def quantize(self, weight: Tensor) -> Any:
        """Quantize a weight."""

    def dequantize(self, quantized: Any, dtype: torch.dtype) -> Tensor:
        """Return the weight that the codes stand for."""

    def multiply(self, x: Tensor, quantized: Any) -> Tensor:
        """Return ``x @ W.T``; saved for backward is the quantized weight alone."""

    def codes(self, quantized: Any) -> Tensor:
        """Return the tensor of codes."""


@dataclass(frozen=True)
class FourBit:
    """``nf4`` or ``fp4`` in blocks of 64; with ``double`` the scales are in 8 bits. See `Format`."""

    quant_type: str = "nf4"
    double: bool = False

    def quantize(self, weight: Tensor) -> Any:  # noqa: D102
        from repros.reference.blockwise import quantize_4bit

        return quantize_4bit(weight, self.quant_type, double=self.double)

    def dequantize(self, quantized: Any, dtype: torch.dtype) -> Tensor:  # noqa: D102
        from repros.reference.blockwise import dequantize_4bit

        return dequantize_4bit(quantized, dtype)

    def multiply(self, x: Tensor, quantized: Any) -> Tensor:  # noqa: D102
        from repros.reference.linear import linear_4bit

        return linear_4bit(x, quantized)

    def codes(self, quantized: Any) -> Tensor:  # noqa: D102
        packed: Tensor = quantized.packed
        return packed


@dataclass(frozen=True)
class EightBit:
    """LLM.int8, a scale a row; inputs over ``threshold`` are multiplied in 16 bits (0: none). See `Format`."""

    threshold: float = 0.0

    def quantize(self, weight: Tensor) -> Any:  # noqa: D102
        from repros.reference.int8 import quantize_rowwise

        return quantize_rowwise(weight)

    def dequantize(self, quantized: Any, dtype: torch.dtype) -> Tensor:  # noqa: D102
        from repros.reference.int8 import dequantize_rowwise

        codes, scale = quantized
        return dequantize_rowwise(codes, scale, dtype)

    def multiply(self, x: Tensor, quantized: Any) -> Tensor:  # noqa: D102
        from repros.reference.linear import linear_8bit

        codes, scale = quantized
        return linear_8bit(x, codes, scale, threshold=self.threshold)

    def codes(self, quantized: Any) -> Tensor:  # noqa: D102
        codes: Tensor = quantized[0]
        return codes


Multiply = Callable[["Tensor"], "Tensor"]


def layers(how: Format, weights: Sequence[Tensor]) -> list[Multiply]:
    """Return a function for each weight that multiplies by it and keeps nothing but its quantized form."""
    return [partial(how.multiply, quantized=how.quantize(weight)) for weight in weights]


def layers_that_save_their_weight(
    how: Format, weights: Sequence[Tensor], cache: dict[int, Tensor] | None = None
) -> list[Multiply]:
    """Return such functions with a bug: autograd saves the dequantized weight, and a cache, if there is one, keeps it.

    The weight is dequantized by an operator that a compiler cannot open, or the compiler might undo the bug.
    """
    import torch

    quantized = [how.quantize(weight) for weight in weights]
    op = torch.library.custom_op(
        "repros_planted::dequantize",
        lambda codes, which, dtype: how.dequantize(quantized[which], dtype),
        mutates_args=(),
        schema="(Tensor codes, int which, ScalarType dtype) -> Tensor",
    )
    op.register_fake(lambda codes, which, dtype: codes.new_empty(weights[which].shape, dtype=dtype))

    def multiply(x: Tensor, which: int, codes: Tensor) -> Tensor:
        weight: Tensor = op(codes, which, x.dtype)
        if cache is not None:
            cache[which] = weight
        return torch.nn.functional.linear(x, weight)

    return [partial(multiply, which=which, codes=how.codes(one)) for which, one in enumerate(quantized)]


def module_that_saves_its_weight(cache: bool = False) -> Any:
    """Return what makes an nf4 layer of a 16-bit weight, with the same bug: the reference's module otherwise.

    With ``cache`` the layer keeps the dequantized weight too, whatever becomes of what autograd saved.
    """
    import torch

    from repros.reference.blockwise import Quantized4bit, dequantize_4bit
    from repros.reference.modules import FrozenLinear4bit

    scheme = "(Tensor packed, Tensor absmax, int n, int k) -> Tensor"

    # An operator that a compiler cannot open: else it might undo the bug and dequantize again in the backward.
    @torch.library.custom_op("repros_planted::whole", mutates_args=(), schema=scheme)
    def dequantize(packed: Tensor, absmax: Tensor, n: int, k: int) -> Tensor:
        return dequantize_4bit(Quantized4bit(packed, absmax, (n, k), torch.bfloat16, "nf4", 64))

    dequantize.register_fake(lambda packed, absmax, n, k: packed.new_empty((n, k), dtype=torch.bfloat16))

    class SavesItsWeight(FrozenLinear4bit):
        """Multiply by the dequantized weight, as any other layer does."""

        def forward(self, x: Tensor) -> Tensor:
            weight = dequantize(self.packed, self.absmax, self.out_features, self.in_features)
            self.cache = weight if cache else None
            return torch.nn.functional.linear(x, weight)

    return SavesItsWeight.from_weight


def chain(each: Sequence[Multiply]) -> Multiply:
    """Return one function that applies these one after the other."""
    return lambda x: reduce(lambda y, multiply: multiply(y), each, x)


def exact_chain(how: Format, x: Tensor, weights: Sequence[Tensor], grad: Tensor) -> dict[str, Tensor]:
    """Return ``output`` and ``grad_input`` of a chain of layers in float64, with the weights that the codes stand for.

    One weight at a time is dequantized: a deep chain in float64 would fill a card.
    """
    import torch

    def dequantized(weight: Tensor) -> Tensor:
        return how.dequantize(how.quantize(weight), torch.float64)

    output, grad_input = x.detach().double(), grad.double()
    for weight in weights:
        output = output @ dequantized(weight).t()
    for weight in reversed(weights):
        grad_input = grad_input @ dequantized(weight)
    return {"output": output, "grad_input": grad_input}
