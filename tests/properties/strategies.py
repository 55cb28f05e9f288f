"""What the properties draw: weights of every awkward shape, dtype and magnitude.

A weight is drawn as its recipe (shape, dtype, family, seed), so that a failing example prints as one line and shrinks
to a small shape of an early family.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import torch
from hypothesis import strategies as st
from torch import Tensor

from repros.reference.blockwise import BLOCKSIZES
from repros.reference.codebook import table_4bit

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
QUANT_TYPES = ("nf4", "fp4")

#: normal: what a model has. halves: values halfway between two of a table, where rounding decides. limit: up to the
#: largest float16. decades: a magnitude of its own for each element, 2**-40 to 2**15.
FAMILIES = ("normal", "zeros", "constant", "outlier", "decades", "limit", "subnormal", "halves")


@dataclass(frozen=True)
class Weight:
    """How a weight is made."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    family: str
    seed: int

    @property
    def numel(self) -> int:
        """Return the number of elements."""
        return prod(self.shape)

    def make(self) -> Tensor:
        """Return the weight; the same each time."""
        generator = torch.Generator().manual_seed(self.seed)
        draw = torch.randn(self.shape, generator=generator)
        uniform = torch.rand(self.shape, generator=generator)
        if self.family == "zeros":
            draw = torch.zeros(self.shape)
        elif self.family == "constant":
            draw = torch.full(self.shape, (-1) ** self.seed * (0.5 + self.seed % 997 / 7))
        elif self.family == "outlier" and self.numel:
            draw = draw * 0.01
            draw.view(-1)[self.seed % self.numel] = 100.0
        elif self.family == "decades":
            draw = draw.sign() * torch.exp2(uniform * 55 - 40)
        elif self.family == "limit":
            draw = draw.sign() * (65504 - 32 * torch.floor(uniform * 8))
        elif self.family == "subnormal":
            smallest = {torch.float16: 2.0**-24, torch.bfloat16: 2.0**-133, torch.float32: 2.0**-149}[self.dtype]
            draw = (draw * 4).round().double().mul(smallest).to(self.dtype)
        elif self.family == "halves":
            table = table_4bit(QUANT_TYPES[self.seed % 2]).sort().values
            halfway = torch.cat(((table[:-1] + table[1:]) / 2, torch.tensor([1.0, -1.0])))
            draw = halfway[(uniform * len(halfway)).long().clamp(max=len(halfway) - 1)] * 2.0 ** (self.seed % 5 - 2)
        return draw.to(self.dtype)


def shapes(most: int = 40) -> st.SearchStrategy[tuple[int, ...]]:
    """Return shapes of 0 to 3 dimensions: empty, one element, 1 x n, odd, and a few blocks long."""
    small = st.lists(st.integers(0, 9), min_size=0, max_size=3).map(tuple)
    rows = st.tuples(st.integers(1, 3), st.integers(1, most * 13))
    square = st.tuples(st.integers(1, most), st.integers(1, most))
    flat = st.tuples(st.sampled_from([1, 31, 32, 33, 63, 64, 65, 255, 256, 4095, 4096, 4097, 8191]))
    return st.one_of(square, rows, small, flat)


def weights(
    shape: st.SearchStrategy[tuple[int, ...]] | None = None,
    dtypes: tuple[torch.dtype, ...] = DTYPES,
    families: tuple[str, ...] = FAMILIES,
) -> st.SearchStrategy[Weight]:
    """Return recipes of weights."""
    return st.builds(
        Weight,
        shapes() if shape is None else shape,
        st.sampled_from(dtypes),
        st.sampled_from(families),
        st.integers(0, 1 << 20),
    )


def matrices(most: int = 40, least: int = 1) -> st.SearchStrategy[tuple[int, ...]]:
    """Return shapes ``[out, in]``, a single row or column among them."""
    side = st.one_of(st.integers(least, most), st.just(1))
    return st.tuples(side, side)


def blocksizes() -> st.SearchStrategy[int]:
    """Return the block sizes of the reference."""
    return st.sampled_from(BLOCKSIZES)
