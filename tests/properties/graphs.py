"""Inputs of a product, and its compiled graphs: one for each backend and kind, for it takes long to make one."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from repros.reference.linear import linear_4bit_parts, linear_8bit

BACKENDS = ("aot_eager", "aot_eager_decomp_partition", "inductor")


def tensors(seed: int, rows: tuple[int, ...], shape: tuple[int, ...], dtype: torch.dtype) -> tuple[Tensor, ...]:
    """Return ``x``, bias and the gradient of the output for a weight of that shape."""
    out, width = shape
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(*rows, width, generator=generator).to(dtype).requires_grad_()
    bias = torch.randn(out, generator=generator).to(dtype).requires_grad_()
    return x, bias, torch.randn(*rows, out, generator=generator).to(dtype)


@cache
def compiled(backend: str, kind: str) -> Callable[..., Tensor]:
    """Return one graph of a kind: the weight's parts are its inputs, so that it serves every weight of a shape."""

    def run(x: Tensor, bias: Tensor, first: Tensor, second: Tensor, *nested: Tensor) -> Tensor:
        if kind.startswith("int8"):
            return linear_8bit(x, first, second, bias, 2.0)
        levels = nested or (None, None)
        return linear_4bit_parts(x, bias, first, second, levels[0], levels[1], (33, 65), "nf4", 64)

    return torch.compile(run, backend=backend, fullgraph=True, dynamic=False)
