"""Put the reference in the place of bitsandbytes' kernels, so that bitsandbytes' own tests try it.

Each function takes and returns what the operator of its name does (``bitsandbytes/_ops.py``); an operator that a
release does not have is left alone.  Checks, fakes and autograd around the operators stay bitsandbytes' own.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear

from repros.reference import blockwise, int8
from repros.reference.blockwise import Nested, Quantized4bit

#: What stands in for a bug: every scale that is written or read, times this.
SPOILED = 1.5
#: The registrations live as long as this object.
_LIBRARIES: list[torch.library.Library] = []


class Kernels:
    """The operators; ``factor`` is 1, or `SPOILED` for a reference that is wrong on purpose."""

    def __init__(self, factor: float = 1.0) -> None:
        self.factor = factor

    def quantize_4bit(self, x: Tensor, blocksize: int, quant_type: str, quant_storage: Any) -> tuple[Tensor, Tensor]:
        """Return codes, ``quant_storage`` ``[bytes, 1]``, and float32 scales ``[blocks]``."""
        q = blockwise.quantize_4bit(x, quant_type, blocksize)
        return q.packed.view(quant_storage).unsqueeze(1), q.absmax * self.factor

    def dequantize_4bit(
        self, packed: Tensor, absmax: Tensor, blocksize: int, quant_type: str, shape: Sequence[int], dtype: torch.dtype
    ) -> Tensor:
        """Return the weight, ``shape`` in ``dtype``."""
        codes = packed.contiguous().view(torch.uint8).reshape(-1)
        q = Quantized4bit(codes, absmax * self.factor, tuple(shape), dtype, quant_type, blocksize)
        return blockwise.dequantize_4bit(q)

    def gemv_4bit(
        self, x: Tensor, packed: Tensor, shape: Sequence[int], absmax: Tensor, code: Tensor, blocksize: int
    ) -> Tensor:
        """Multiply rows by a weight ``[out, in]``; the second value of the table tells its type."""
        quant_type = "fp4" if code[1] > 0 else "nf4"
        return linear(x, self.dequantize_4bit(packed, absmax, blocksize, quant_type, shape, x.dtype))

    def gemm_4bit(
        self, x: Tensor, packed: Tensor, shape: Sequence[int], absmax: Tensor, blocksize: int, quant_type: str,
        bias: Tensor | None = None, absmax_8bit: Tensor | None = None, absmax_code: Tensor | None = None,
        absmax_offset: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """Multiply rows by a weight ``[out, in]`` whose scales may be quantized too."""
        if absmax_8bit is not None and absmax_offset is not None:
            absmax = blockwise.dequantize_absmax(absmax_8bit, Nested(absmax, absmax_offset))
        return linear(x, self.dequantize_4bit(packed, absmax, blocksize, quant_type, shape, x.dtype), bias)

    def int8_vectorwise_quant(self, x: Tensor, threshold: float = 0.0) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return codes of the shape of ``x``, float32 scales ``[rows]``, and the columns that have an outlier."""
        rows, columns = x.reshape(-1, x.shape[-1]), None
        if threshold > 0.0:
            outliers = rows.abs() >= threshold
            columns = outliers.any(dim=0).nonzero().view(-1)
            rows = rows.masked_fill(outliers, 0.0)
        codes, scale = int8.quantize_rowwise(rows)
        if columns is not None and len(rows) > 1:
            codes[:, columns] = 0
        return codes.view(x.shape), scale * self.factor, columns

    def int8_vectorwise_dequant(self, codes: Tensor, stats: Tensor) -> Tensor:
        """Return float32 of the shape of ``codes``."""
        return int8.dequantize_rowwise(codes.reshape(-1, codes.shape[-1]), stats.reshape(-1) * self.factor).view(
            codes.shape
        )


#: On a CPU with AVX512-BF16 this one takes weights in a layout of its own, which the reference does not have.
NOT_ON_CPU = ("gemv_4bit",)
#: Operators that take an `out` have a second form, which returns nothing.
OPERATORS = (
    "quantize_4bit", "dequantize_4bit", "gemv_4bit", "gemm_4bit", "int8_vectorwise_quant", "int8_vectorwise_dequant",
)  # fmt: skip


def install(device: str, spoiled: bool = False) -> Counter[str]:
    """Register the reference for ``cpu`` or ``cuda``, in this process; return what counts the calls of each operator.

    bitsandbytes must have been imported.  ``spoiled`` makes every scale wrong.
    """
    kernels, calls = Kernels(SPOILED if spoiled else 1.0), Counter[str]()
    library = torch.library.Library("bitsandbytes", "IMPL")  # type: ignore[no-untyped-call]
    _LIBRARIES.append(library)
    for name in OPERATORS if device != "cpu" else [name for name in OPERATORS if name not in NOT_ON_CPU]:
        operator = getattr(torch.ops.bitsandbytes, name, None)
        for form in operator.overloads() if operator else ():
            function = _counted(name, getattr(kernels, name), calls)
            full = name if form == "default" else f"{name}.{form}"
            kernel = function if form == "default" else _into(function)
            library.impl(full, kernel, device.upper(), allow_override=True)  # type: ignore[no-untyped-call]
    return calls


def _counted(name: str, function: Callable[..., Any], calls: Counter[str]) -> Callable[..., Any]:
    @functools.wraps(function)
    def counted(*args: Any, **named: Any) -> Any:
        calls[name] += 1
        return function(*args, **named)

    return counted


def _into(function: Callable[..., Tensor]) -> Callable[..., None]:
    """Return the form of an operator that writes into `out`."""

    def into(*args: Any, out: Tensor | None = None) -> None:
        *given, last = args if out is None else (*args, out)
        last.copy_(function(*given))

    return into
