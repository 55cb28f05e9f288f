"""Give the lookup tables of blockwise quantization, in the code order that bitsandbytes uses.

A code is an index into its table and a table is normalized to [-1, 1]; a stored value is
``table[code] * absmax_of_the_block``.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from repros.errors import UserError

QUANT_TYPES = ("nf4", "fp4")

# Quantiles of N(0, 1) at 8 evenly spaced probabilities on the negative side and 9 on the positive
# one (zero shared), scaled to [-1, 1]: QLoRA, arXiv:2305.14314, appendix E, and
# bitsandbytes.functional.create_normal_map(offset=0.9677083).  The published table is the
# specification, down to the last bit, so it is quoted; a test derives it again.
_NF4 = (
    -1.0,
    -0.6961928009986877,
    -0.5250730514526367,
    -0.39491748809814453,
    -0.28444138169288635,
    -0.18477343022823334,
    -0.09105003625154495,
    0.0,
    0.07958029955625534,
    0.16093020141124725,
    0.24611230194568634,
    0.33791524171829224,
    0.44070982933044434,
    0.5626170039176941,
    0.7229568362236023,
    1.0,
)

# One sign bit, two exponent bits, one mantissa bit, listed by the three lower bits and then again
# with the sign bit set; scaled by the largest, 12 (bitsandbytes.functional.get_4bit_type, "fp4").
# Both zeros are +0: the integer literal -0 upstream has no sign.
_FP4_MAGNITUDES = (0.0, 0.0625, 8.0, 12.0, 4.0, 6.0, 2.0, 3.0)


def table_4bit(quant_type: str, device: torch.device | str | None = None) -> Tensor:
    """Return the 16 values of a 4-bit type: float32 ``[16]``, indexed by code.

    Raises UserError for a name other than ``nf4`` and ``fp4``.
    """
    if quant_type == "nf4":
        return torch.tensor(_NF4, dtype=torch.float32, device=device)
    if quant_type == "fp4":
        negative = tuple(0.0 - value for value in _FP4_MAGNITUDES)
        table = torch.tensor(_FP4_MAGNITUDES + negative, dtype=torch.float32, device=device)
        return table / 12.0
    raise UserError(f"quant_type: `{quant_type}` is not a 4-bit type", f"write one of {', '.join(QUANT_TYPES)}")


@lru_cache(maxsize=1)
def _dynamic_values() -> tuple[float, ...]:
    """Derive the signed 8-bit dynamic type (arXiv:1511.04561) as ``create_dynamic_map`` does.

    Decade ``k`` of seven holds ``2**k`` evenly spaced fractions of (0.1, 1), each at the middle of
    its interval, times ``10**(k - 6)``, with both signs: 254 values, and 0 and 1 besides.
    Computed in float32, since the table is compared bit for bit.  The smallest is -0.99297 and not
    -1; the CPU kernel of bitsandbytes before 0.50 writes -1 over it, in the caller's table.
    """
    values = [0.0, 1.0]
    for decade in range(7):
        edges = torch.linspace(0.1, 1.0, 2**decade + 1, dtype=torch.float32, device="cpu")
        magnitudes = 10 ** (decade - 6) * ((edges[:-1] + edges[1:]) / 2)
        values += magnitudes.tolist() + (-magnitudes).tolist()
    return tuple(sorted(values))


def table_dynamic(device: torch.device | str | None = None) -> Tensor:
    """Return the 256 values of the signed 8-bit dynamic type: float32 ``[256]``, ascending."""
    return torch.tensor(_dynamic_values(), dtype=torch.float32, device=device)
