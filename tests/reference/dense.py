"""Compute a dense linear layer and its gradients in float64, by formula and not by autograd."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Dense(NamedTuple):
    """What a linear layer gives: all float64; ``grad_bias`` is None where there is no bias."""

    output: Tensor
    grad_x: Tensor
    grad_weight: Tensor
    grad_bias: Tensor | None


def dense_oracle(x: Tensor, weight: Tensor, bias: Tensor | None = None, grad_output: Tensor | None = None) -> Dense:
    """Return output and gradients of ``x @ weight.T + bias`` in float64.

    ``x``: ``[..., in]``; ``weight``: ``[out, in]``; ``bias``: ``[out]``; any floating dtype, cast
    to float64 first.  ``grad_output``: ``[..., out]``, ones (the loss is the sum) by default.
    """
    x64, w64 = x.detach().double(), weight.detach().double()
    output = x64 @ w64.t()
    if bias is not None:
        output = output + bias.detach().double()
    grad = torch.ones_like(output) if grad_output is None else grad_output.detach().double()
    rows = grad.reshape(-1, grad.shape[-1])
    return Dense(
        output=output,
        grad_x=grad @ w64,
        grad_weight=rows.t() @ x64.reshape(-1, x64.shape[-1]),
        grad_bias=None if bias is None else rows.sum(dim=0),
    )
