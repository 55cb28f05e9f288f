"""Register the products by a quantized weight as operators that a graph compiler cannot open.

``repros_reference::linear_4bit`` and ``linear_8bit`` with an operator each for the gradient of
``x``.  To autograd, to checkpointing and to a graph compiler they are single nodes, so the 16-bit
weight exists inside one call and nowhere else.  (Where ``dequantize`` and ``matmul`` are two nodes
of a joint graph, the result of the first may be kept for the backward: bitsandbytes#1935.)  What
is saved goes through ``save_for_backward``, where saved-tensor hooks see it.  Neither gradient
needs ``x``: the weight is frozen.

Arguments are not checked here; ``repros.reference.linear`` does that.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from repros.reference.blockwise import Nested, Quantized4bit, dequantize_4bit
from repros.reference.int8 import dequantize_rowwise, matmul_int8

_WEIGHT_4BIT = (
    "Tensor packed, Tensor absmax, Tensor? nested_absmax, Tensor? nested_offset, "
    "int out_features, int in_features, str quant_type, int blocksize"
)


def _no_autocast(x: Tensor) -> torch.autocast:
    """Keep autocast off inside: outside it has been applied, and its sums would not be exact."""
    return torch.autocast(x.device.type, enabled=False)


def _dequantize(dtype: torch.dtype, weight: tuple[Any, ...]) -> Tensor:
    """Dequantize in ``dtype`` from the eight arguments that ``_WEIGHT_4BIT`` names."""
    packed, absmax, nested_absmax, nested_offset, *shape, quant_type, blocksize = weight
    nested = None if nested_absmax is None else Nested(nested_absmax, nested_offset)
    q = Quantized4bit(packed, absmax, tuple(shape), dtype, quant_type, blocksize, nested)
    return dequantize_4bit(q)


def _forward_4bit(x: Tensor, bias: Tensor | None, *weight: Any) -> Tensor:
    with _no_autocast(x):
        product = torch.nn.functional.linear(x, _dequantize(x.dtype, weight), bias)
        return product.contiguous()  # as its fake is


def _backward_4bit(grad: Tensor, *weight: Any) -> Tensor:
    with _no_autocast(grad):
        return (grad @ _dequantize(grad.dtype, weight)).contiguous()


def _forward_8bit(x: Tensor, bias: Tensor | None, codes: Tensor, scale: Tensor, threshold: float) -> Tensor:
    with _no_autocast(x):
        return matmul_int8(x, codes, scale, bias, threshold)


def _backward_8bit(grad: Tensor, codes: Tensor, scale: Tensor) -> Tensor:
    with _no_autocast(grad):
        return (grad @ dequantize_rowwise(codes, scale, grad.dtype)).contiguous()


def _like(x: Tensor, features: int) -> Tensor:
    return x.new_empty((*x.shape[:-1], features))


def _setup_4bit(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, _, packed, absmax, nested_absmax, nested_offset, *ctx.scheme = inputs
    ctx.save_for_backward(packed, absmax, nested_absmax, nested_offset)


def _setup_8bit(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, _, codes, scale, _ = inputs
    ctx.save_for_backward(codes, scale)


def _grad_bias(ctx: Any, grad: Tensor) -> Tensor | None:
    return grad.reshape(-1, grad.shape[-1]).sum(dim=0) if ctx.needs_input_grad[1] else None


def _autograd_4bit(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    grad_x = None
    if ctx.needs_input_grad[0]:
        grad_x = torch.ops.repros_reference.linear_4bit_grad(grad, *ctx.saved_tensors, *ctx.scheme)
    return (grad_x, _grad_bias(ctx, grad), *(None,) * 8)


def _autograd_8bit(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    grad_x = None
    if ctx.needs_input_grad[0]:
        grad_x = torch.ops.repros_reference.linear_8bit_grad(grad, *ctx.saved_tensors)
    return (grad_x, _grad_bias(ctx, grad), None, None, None)


def _define(name: str, schema: str, implementation: Any, fake: Any) -> Any:
    # The schema is written out, since annotations of Python 3.10 unions are not inferred alike in
    # every torch of the matrix.
    op = torch.library.custom_op(
        f"repros_reference::{name}", implementation, mutates_args=(), schema=f"({schema}) -> Tensor"
    )
    op.register_fake(fake)
    return op


def register() -> None:
    """Define the operators, once in a process: importing a module again finds them there."""
    if hasattr(torch.ops.repros_reference, "linear_8bit_grad"):
        return
    _define(
        "linear_4bit",
        f"Tensor x, Tensor? bias, {_WEIGHT_4BIT}",
        _forward_4bit,
        lambda x, bias, *weight: _like(x, weight[4]),
    ).register_autograd(_autograd_4bit, setup_context=_setup_4bit)
    _define(
        "linear_4bit_grad",
        f"Tensor grad, {_WEIGHT_4BIT}",
        _backward_4bit,
        lambda grad, *weight: _like(grad, weight[5]),
    )
    _define(
        "linear_8bit",
        "Tensor x, Tensor? bias, Tensor codes, Tensor scale, float threshold",
        _forward_8bit,
        lambda x, bias, codes, scale, threshold: _like(x, codes.shape[0]),
    ).register_autograd(_autograd_8bit, setup_context=_setup_8bit)
    _define(
        "linear_8bit_grad",
        "Tensor grad, Tensor codes, Tensor scale",
        _backward_8bit,
        lambda grad, codes, scale: _like(grad, codes.shape[1]),
    )
