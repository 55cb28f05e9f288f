"""Multiply by a quantized weight and keep nothing but the quantized weight for the backward."""

from __future__ import annotations

import torch
from torch import Tensor

from repros.errors import UserError
from repros.reference.blockwise import Quantized4bit
from repros.reference.ops import register

register()  # torch.ops.repros_reference


def linear_4bit(x: Tensor, q: Quantized4bit, bias: Tensor | None = None) -> Tensor:
    """Return ``x @ W.T + bias`` for the ``[out, in]`` weight that ``q`` stands for.

    ``x``: ``[..., in]``, floating; ``bias``: ``[out]`` or None.  The result is ``[..., out]`` in
    the dtype of ``x``, or under autocast in its dtype, as ``torch.nn.functional.linear`` has it.
    Differentiable once in ``x`` and ``bias``; saved for backward: ``q.tensors()``.
    Raises UserError for shapes that do not fit.  Source: ``bitsandbytes.matmul_4bit``.
    """
    nested_absmax, nested_offset = (q.nested.absmax, q.nested.offset) if q.nested else (None, None)
    return linear_4bit_parts(
        x,
        bias,
        q.packed,
        q.absmax,
        nested_absmax,
        nested_offset,
        q.shape,
        q.quant_type,
        q.blocksize,
    )


def linear_4bit_parts(
    x: Tensor,
    bias: Tensor | None,
    packed: Tensor,
    absmax: Tensor,
    nested_absmax: Tensor | None,
    nested_offset: Tensor | None,
    shape: tuple[int, ...],
    quant_type: str,
    blocksize: int,
) -> Tensor:
    """Do as ``linear_4bit`` from the parts of a ``Quantized4bit``, as a module holds them."""
    x, bias = _prepare("linear_4bit", x, shape, bias)
    weight = (packed, absmax, nested_absmax, nested_offset, *shape, quant_type, blocksize)
    result: Tensor = torch.ops.repros_reference.linear_4bit(x, bias, *weight)
    return result


def linear_8bit(x: Tensor, codes: Tensor, scale: Tensor, bias: Tensor | None = None, threshold: float = 0.0) -> Tensor:
    """Return ``matmul_int8`` of the arguments, differentiable once in ``x`` and ``bias``.

    ``x``: ``[..., in]``; ``codes``: int8 ``[out, in]``; ``scale``: float32 ``[out]``.  The gradient
    is that of the product with the dequantized weight: rounding ``x`` to codes counts as the
    identity.  Saved for backward: ``codes`` and ``scale``, and never ``x``.
    Raises UserError for shapes that do not fit.  Source: ``bitsandbytes.MatMul8bitLt``.
    """
    x, bias = _prepare("linear_8bit", x, tuple(codes.shape), bias)
    result: Tensor = torch.ops.repros_reference.linear_8bit(x, bias, codes, scale, threshold)
    return result


def _prepare(name: str, x: Tensor, shape: tuple[int, ...], bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Check shapes, and cast to one dtype where autograd sees it: the operators never cast."""
    if len(shape) != 2:
        raise UserError(f"{name}: a weight of shape {shape} is not a matrix", "pass [out, in]")
    if x.dim() == 0 or x.shape[-1] != shape[1]:
        raise UserError(
            f"{name}: x of shape {tuple(x.shape)} does not fit a weight of shape {shape}",
            f"the last dimension of x must be {shape[1]}",
        )
    if bias is not None and tuple(bias.shape) != shape[:1]:
        raise UserError(
            f"{name}: a bias of shape {tuple(bias.shape)} does not fit a weight of shape {shape}",
            f"the bias must have shape ({shape[0]},)",
        )
    if torch.is_autocast_enabled(x.device.type):
        x = x.to(torch.get_autocast_dtype(x.device.type))
    return x, None if bias is None else bias.to(x.dtype)
