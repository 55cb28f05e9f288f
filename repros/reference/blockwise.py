"""Quantize weights blockwise to 4 bits and back: the arithmetic of ``bitsandbytes.functional``.

The flattened weight is cut into blocks of ``blocksize`` elements; a block stores its largest
magnitude (absmax, float32) and each element the code of the table value nearest to
``element / absmax``.  Two codes share a byte, the earlier one in the high nibble.  Temporaries are
bounded by a chunk of elements whatever the size of the weight, so that a peak measured over a
quantization is the weight and its result, not the arithmetic.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from repros.errors import UserError
from repros.reference.chunks import chunk
from repros.reference.codebook import table_4bit, table_dynamic

BLOCKSIZES = (32, 64, 128, 256, 512, 1024, 2048, 4096)
NESTED_BLOCKSIZE = 256
FLOAT_DTYPES = (torch.float16, torch.bfloat16, torch.float32)

_TINY = 1e-38  # divides in place of an absmax of zero; upstream uses the same


@dataclass(frozen=True)
class Nested:
    """The second level of double quantization: how to turn absmax codes into float32 values.

    ``absmax[i] = table_dynamic[codes[i]] * self.absmax[i // 256] + offset``.
    ``absmax``: float32 ``[ceil(blocks / 256)]``.  ``offset``: float32 ``[]``, the mean taken off.
    """

    absmax: Tensor
    offset: Tensor


@dataclass(frozen=True)
class Quantized4bit:
    """A 4-bit weight of ``n = prod(shape)`` elements in ``blocks = ceil(n / blocksize)`` blocks.

    ``packed``: uint8 ``[ceil(n / 2)]``.  ``absmax``: float32 ``[blocks]``, or uint8 ``[blocks]``
    codes where ``nested`` says how to read them.  ``dtype``: of the weight, and of what
    ``dequantize_4bit`` returns.
    """

    packed: Tensor
    absmax: Tensor
    shape: tuple[int, ...]
    dtype: torch.dtype
    quant_type: str
    blocksize: int
    nested: Nested | None = None

    @property
    def code(self) -> Tensor:
        """Return the table that the codes index: float32 ``[16]``."""
        return table_4bit(self.quant_type, self.packed.device)

    def tensors(self) -> tuple[Tensor, ...]:
        """Return every tensor that the weight is made of: all that a backward may hold."""
        nested = () if self.nested is None else (self.nested.absmax, self.nested.offset)
        return (self.packed, self.absmax, *nested)


def check_scheme(quant_type: str, blocksize: int) -> None:
    """Raise UserError for a 4-bit type or a block size that bitsandbytes does not have."""
    table_4bit(quant_type, "meta")
    if blocksize not in BLOCKSIZES:
        sizes = ", ".join(map(str, BLOCKSIZES))
        raise UserError(f"blocksize: {blocksize} is not supported", f"use one of {sizes}")


def quantize_4bit(w: Tensor, quant_type: str = "nf4", blocksize: int = 64, double: bool = False) -> Quantized4bit:
    """Quantize ``w`` (float16, bfloat16 or float32, any shape, also empty) to 4 bits.

    With ``double`` the absmax values are quantized in turn to 8 bits (QLoRA, arXiv:2305.14314,
    section 3).  A non-finite element spoils its own block.  Raises UserError for a type or block
    size that bitsandbytes does not have and for another dtype.
    Source: ``bitsandbytes.functional.quantize_4bit``.
    """
    check_scheme(quant_type, blocksize)
    if w.dtype not in FLOAT_DTYPES:
        raise UserError(
            f"quantize_4bit: a weight of {w.dtype} cannot be quantized",
            "pass float16, bfloat16 or float32",
        )
    flat = w.detach().reshape(-1)
    table = table_4bit(quant_type, w.device)
    packed = torch.empty(-(flat.numel() // -2), dtype=torch.uint8, device=w.device)
    absmax = torch.empty(-(flat.numel() // -blocksize), dtype=torch.float32, device=w.device)
    nearest = _nearest_of(table)
    for start, stop in _chunks(flat):
        codes, scales = _encode(flat[start:stop], nearest, blocksize)
        pairs = codes[: 2 * -((stop - start) // -2)].view(-1, 2)
        packed[start // 2 : -(stop // -2)] = (pairs[:, 0] << 4) | pairs[:, 1]
        absmax[start // blocksize : -(stop // -blocksize)] = scales
    nested = None
    if double:
        absmax, nested = _nest(absmax)
    return Quantized4bit(packed, absmax, tuple(w.shape), w.dtype, quant_type, blocksize, nested)


def dequantize_4bit(q: Quantized4bit, dtype: torch.dtype | None = None) -> Tensor:
    """Return the weight that ``q`` stands for: ``q.shape``, in ``dtype`` or else ``q.dtype``.

    The product of table value and absmax is taken in float32 and rounded once.
    Source: ``bitsandbytes.functional.dequantize_4bit``.
    """
    n = prod(q.shape)
    pairs = torch.cartesian_prod(q.code, q.code)  # [256, 2]: the two values of every byte
    absmax = dequantize_absmax(q.absmax, q.nested)
    flat = torch.empty(n, dtype=dtype or q.dtype, device=q.packed.device)
    for start, stop in _chunks(flat):
        codes = q.packed[start // 2 : -(stop // -2)].int()
        values = pairs.index_select(0, codes).view(-1)[: stop - start]
        scales = absmax[start // q.blocksize : -(stop // -q.blocksize)]
        _scale(values, scales, q.blocksize, flat[start:stop])
    return flat.view(q.shape)


def _scale(values: Tensor, scales: Tensor, blocksize: int, out: Tensor) -> None:
    """Write values (float32) times the scale of their block; the last block may be cut."""
    blocks = values.numel() // blocksize
    whole = blocks * blocksize
    torch.mul(values[:whole].view(-1, blocksize), scales[:blocks, None], out=out[:whole].view(-1, blocksize))
    out[whole:] = values[whole:] * scales[blocks:]


def dequantize_absmax(absmax: Tensor, nested: Nested | None) -> Tensor:
    """Return absmax in float32 ``[blocks]``, whether or not it was quantized in turn."""
    if nested is None:
        return absmax
    spread = nested.absmax.repeat_interleave(NESTED_BLOCKSIZE)[: absmax.numel()]
    return table_dynamic(absmax.device)[absmax.int()] * spread + nested.offset


def _nest(absmax: Tensor) -> tuple[Tensor, Nested]:
    """Quantize absmax less its mean to 8 bits; an empty one has no mean, and gets zero."""
    offset = absmax.mean() if absmax.numel() else absmax.new_zeros(())
    codes, scales = _encode(absmax - offset, _nearest_of(table_dynamic(absmax.device)), NESTED_BLOCKSIZE)
    return codes[: absmax.numel()].clone(), Nested(scales, offset)


def _chunks(flat: Tensor) -> Iterator[tuple[int, int]]:
    n, step = flat.numel(), chunk(flat.device)  # even, and a multiple of every block size
    return ((start, min(start + step, n)) for start in range(0, n, step))


#: Equal parts of [-1, 1] by which a CPU finds the nearest value: no two halfway points of a 4-bit table share one.
_PARTS = 1024
#: Elements looked up at a time: what that takes stays in a core's cache.
_PIECE = 1 << 18

#: Normalized values (float32, contiguous, its own to change) -> their codes.
Nearest = Callable[[Tensor], Tensor]


def _nearest_of(table: Tensor) -> Nearest:
    """Return what gives each value in [-1, 1] the code (uint8) of the table's nearest; NaN takes that of the largest.

    A value halfway between two of the table takes the smaller one.
    """
    ranked, order = torch.sort(table, stable=True)
    halfway, codes = (ranked[:-1] + ranked[1:]) / 2, order.to(torch.uint8)
    if table.device.type == "cpu":
        parts = _part(halfway)
        if bool((parts.diff() > 0).all()):
            return _by_parts(halfway, parts, codes)
    # Indexing would copy the ranks to 64 bits.
    return lambda values: codes.index_select(0, torch.bucketize(values, halfway, out_int32=True))


def _by_parts(halfway: Tensor, parts: Tensor, codes: Tensor) -> Nearest:
    """Return the same where no two halfway points lie in one of the ``parts``: a search costs a CPU 20 ns a value.

    A value's part says which two codes are possible, and one comparison which of them it is. `_part` never falls as its
    argument rises, rounded or not, so a point in a lower part is below the value.
    """
    below = torch.bucketize(torch.arange(_PARTS + 1, dtype=torch.int32, device="cpu"), parts)  # points in lower parts
    ends = torch.ones_like(below, dtype=torch.float32).index_copy_(0, parts.long(), halfway)
    lower = codes.index_select(0, below)
    change = lower ^ codes.index_select(0, (below + 1).clamp_(max=codes.numel() - 1))
    del below

    def nearest(normalized: Tensor) -> Tensor:
        found = torch.empty_like(normalized, dtype=torch.uint8)
        pieces = (torch.split(whole, _PIECE) for whole in (normalized.nan_to_num_(1.0), found))
        for values, out in zip(*pieces, strict=True):
            part = _part(values)
            above = values > ends.index_select(0, part)
            torch.mul(change.index_select(0, part), above, out=out)
            out.bitwise_xor_(lower.index_select(0, part))
        return found

    return nearest


def _part(values: Tensor) -> Tensor:
    """Return in which of the parts of [-1, 1] each value lies (int32)."""
    return values.add(1.0).mul_(_PARTS / 2).int()


def _encode(flat: Tensor, nearest: Nearest, blocksize: int) -> tuple[Tensor, Tensor]:
    """Return codes (uint8, whole blocks: the padding encodes zero) and absmax (float32)."""
    blocks = flat.float()
    if flat.numel() % blocksize:
        blocks = torch.nn.functional.pad(blocks, (0, -flat.numel() % blocksize))
    blocks = blocks.view(-1, blocksize)
    absmax = blocks.abs().amax(dim=1)
    divisor = absmax.clamp(min=_TINY).unsqueeze(1)
    normalized = blocks * (1.0 / divisor)
    if flat.numel() % blocksize:
        # bitsandbytes' CPU kernel multiplies full blocks by the reciprocal, but divides a cut one.
        normalized[-1] = blocks[-1] / divisor[-1]
    del blocks
    return nearest(normalized.clamp_(-1.0, 1.0).view(-1)), absmax
