"""Quantize rows to int8 and multiply by them: LLM.int8 (arXiv:2208.07339).

A row's scale is its largest magnitude, in float32, as bitsandbytes' ``SCB`` is: an element is
``code * scale / 127``.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from repros.errors import UserError
from repros.reference.chunks import chunk

# 1024 products of two codes sum to at most 1024 * 127**2 < 2**24, so float32 holds the sum exactly.
# Codes have 7 bits, so neither TF32 nor bfloat16 products, where enabled, would change that.
_EXACT = 1024


def _row_parts(w: Tensor) -> Iterator[slice]:
    step = max(1, chunk(w.device) // max(1, w.shape[1]))
    return (slice(start, start + step) for start in range(0, w.shape[0] if w.numel() else 0, step))


def quantize_rowwise(w: Tensor) -> tuple[Tensor, Tensor]:
    """Quantize ``w`` ``[out, in]`` to codes, int8 ``[out, in]``, and scale, float32 ``[out]``.

    Codes lie in [-127, 127], ties to even; a row of zeros has scale 0.  Raises UserError unless
    2-D.
    Source: ``bitsandbytes.functional.int8_vectorwise_quant``.
    """
    if w.dim() != 2:
        raise UserError(
            f"quantize_rowwise: a weight of shape {tuple(w.shape)} has no rows to scale",
            "pass [out, in]",
        )
    codes = torch.empty(w.shape, dtype=torch.int8, device=w.device)
    scale = torch.zeros(w.shape[0], dtype=torch.float32, device=w.device)
    for part in _row_parts(w):
        rows = w.detach()[part].to(torch.float32, copy=True)  # its own: what follows is done in place
        scale[part] = rows.abs().amax(dim=1)
        factor = torch.where(scale[part] > 0, 127.0 / scale[part], 0.0)
        codes[part] = rows.mul_(factor.unsqueeze(1)).round_().to(torch.int8)
    return codes, scale


def dequantize_rowwise(codes: Tensor, scale: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return ``codes * scale / 127``, ``[out, in]``: a float32 product, rounded once to ``dtype``.

    Source: ``MatMul8bitLt.backward`` of bitsandbytes.
    """
    weight = torch.empty(codes.shape, dtype=dtype, device=codes.device)
    factor = (scale / 127.0).unsqueeze(1)
    for part in _row_parts(codes):
        weight[part] = codes[part] * factor[part]
    return weight


def matmul_int8(x: Tensor, codes: Tensor, scale: Tensor, bias: Tensor | None = None, threshold: float = 0.0) -> Tensor:
    """Multiply ``x`` ``[..., in]`` by an int8 weight: ``[..., out]`` in the dtype of ``x``.

    Rows of ``x`` are quantized as the weight's are, the sum of products of codes is exact, and
    scaling and ``bias`` are applied in float32.  With ``threshold`` above 0, a column of ``x``
    with a magnitude of at least that is left out of the codes and multiplied as it is.  ``x`` is
    never cast to float16, so bfloat16 activations above 65,504 are safe.
    Source: ``bitsandbytes::int8_mixed_scaled_mm``.
    """
    rows = x.reshape(-1, x.shape[-1])
    out = torch.zeros(rows.shape[0], codes.shape[0], dtype=torch.float32, device=x.device)
    if threshold > 0.0 and rows.numel():
        columns = (rows.abs() >= threshold).any(dim=0).nonzero().view(-1)
        outliers = rows[:, columns].float()
        rows = rows.index_fill(1, columns, 0.0)
        out += outliers @ dequantize_rowwise(codes[:, columns], scale).t()
    row_codes, row_scale = quantize_rowwise(rows)
    sums = torch.zeros(out.shape, dtype=torch.int32, device=x.device)
    for start in range(0, codes.shape[1], _EXACT):
        part = slice(start, start + _EXACT)
        sums += (row_codes[:, part].float() @ codes[:, part].float().t()).to(torch.int32)
    out += sums * (row_scale.unsqueeze(1) * scale.unsqueeze(0) / 127.0**2)
    if bias is not None:
        out += bias
    return out.to(x.dtype).view(*x.shape[:-1], codes.shape[0])
