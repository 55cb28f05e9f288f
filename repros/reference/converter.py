"""Quantize while loading: what `repros.reference.loader.StreamingLoader` makes of each tensor."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor

from repros.reference.blockwise import Quantized4bit, dequantize_4bit, quantize_4bit
from repros.reference.int8 import dequantize_rowwise, quantize_rowwise

#: Elements that share a scale in NF4.
BLOCKSIZE = 64
#: One operator for each quantization, as in bitsandbytes: a gate on operators can name it.
OPERATOR = "repros_loading::quantize"
#: Bytes to which each tensor of a buffer is aligned, as the allocator aligns its blocks.
ALIGNMENT = 512

#: Shape and dtype of a tensor that is kept.
Form = tuple[tuple[int, ...], torch.dtype]


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

    def forms(self, name: str, shape: tuple[int, ...]) -> tuple[Form, ...]:
        """Return the forms of what is kept of a source: codes and scales, or one tensor."""
        if not self.quantizes(name, shape):
            return ((shape, self.dtype),)
        if self.scheme == "int8":
            codes, scales = shape, shape[:1]
            return ((codes, torch.int8), (scales, torch.float32))
        n = prod(shape)
        return (((-(n // -2),), torch.uint8), ((-(n // -BLOCKSIZE),), torch.float32))

    def unit(self, name: str, shape: tuple[int, ...]) -> int:
        """Return how many elements share a scale: no part of a source may cut them, but the last."""
        if not self.quantizes(name, shape):
            return 1
        return prod(shape[1:]) if self.scheme == "int8" else BLOCKSIZE

    def write(self, name: str, shape: tuple[int, ...], start: int, part: Tensor, kept: Sequence[Tensor]) -> None:
        """Write what is kept of a part of a source into its place, bit for bit what the whole source would give.

        ``part``: ``[n]``, elements ``start`` to ``start + n`` of the source, whole units. If page-locked, it is to
        stay as it is until the device has done its work. ``kept``: tensors in `forms`, on the device.
        """
        stop, unit, device = start + part.numel(), self.unit(name, shape), kept[0].device
        if len(kept) == 1:
            # The host would do a cast of its own, and wait: so what is to be cast goes over first.
            moved = part if part.dtype == self.dtype else part.to(device, non_blocking=True)
            kept[0].view(-1)[start:stop].copy_(moved, non_blocking=True)
            return
        codes, scales = kept
        weight, mine = part.to(device, non_blocking=True).to(self.dtype), slice(start // unit, -(stop // -unit))
        of_codes = slice(start // 2, -(stop // -2))  # two a byte
        if self.scheme == "int8":
            weight, of_codes = weight.view(-1, *shape[1:]), mine
        codes[of_codes], scales[mine] = _quantize(weight, self.scheme)

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


def lay_out(forms: Mapping[str, tuple[torch.device, Sequence[Form]]]) -> dict[str, list[Tensor]]:
    """Return tensors of zeros in these forms, side by side in one buffer a device.

    The caching allocator takes blocks of 10 MiB and more in steps of 2 MiB, and has smaller ones share segments of 20
    MiB. With a block for each tensor that leaves 136 MiB of a 7B model in NF4 unused, with a block for all 2 MiB.
    """
    ends: Counter[torch.device] = Counter()
    places = []
    for name, (device, several) in forms.items():
        for shape, dtype in several:
            places.append((name, device, ends[device], shape, dtype))
            ends[device] += -(prod(shape) * dtype.itemsize // -ALIGNMENT) * ALIGNMENT
    buffers = {device: torch.zeros(end, dtype=torch.uint8, device=device) for device, end in ends.items()}
    laid: dict[str, list[Tensor]] = {name: [] for name in forms}
    for name, device, start, shape, dtype in places:
        mine = buffers[device][start : start + prod(shape) * dtype.itemsize]
        laid[name].append(mine.view(dtype).view(shape))
    return laid
