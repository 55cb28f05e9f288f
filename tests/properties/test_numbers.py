"""Codes, scales and values: those of the installed bitsandbytes to the bit where the definition fixes them.

Where a kernel rounds otherwise, the departure is bounded here, explained beside the bound, and counted.
"""

from __future__ import annotations

import dataclasses
from math import prod
from typing import Any

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

from repros.reference.blockwise import BLOCKSIZES, Quantized4bit, dequantize_4bit, dequantize_absmax, quantize_4bit
from repros.reference.codebook import table_4bit, table_dynamic
from repros.reference.int8 import dequantize_rowwise, matmul_int8, quantize_rowwise
from tests.properties.evidence import count, proven
from tests.properties.strategies import DTYPES, FAMILIES, QUANT_TYPES, Weight, blocksizes, matrices, weights
from tests.reference.dense import dense_oracle

functional: Any = pytest.importorskip("bitsandbytes.functional")

# Releases before 0.50 call what torch is about to remove; others compile their fallback and speak of it.
pytestmark = [
    pytest.mark.filterwarnings("ignore:_check_is_size:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*torch:UserWarning"),
]

VERSION = tuple(int(part) for part in pytest.importorskip("bitsandbytes").__version__.split(".")[:3])
EXACT_FROM = (0, 50, 2)  # from here on bitsandbytes encodes as the reference does, to the last bit
FP4_FROM = (0, 47, 0)  # its first fp4 kernel on a CPU
TINY = 1e-38  # an absmax below it is upstream's zero: it divides by this instead, or by the absmax itself
TYPES = QUANT_TYPES if VERSION >= FP4_FROM else ("nf4",)
ULP = 2.0**-23  # of a normalized value near 1: what division and product with a reciprocal may differ by


def unpack(packed: Tensor, n: int) -> Tensor:
    return torch.stack((packed >> 4, packed & 0xF), dim=1).view(-1)[:n].long()


def spread(absmax: Tensor, blocksize: int, n: int) -> Tensor:
    return absmax.repeat_interleave(blocksize)[:n]


def upstream(w: Tensor, quant_type: str, blocksize: int, double: bool = False) -> tuple[Tensor, Any]:
    """Quantize with the installed package; set aside what it refuses on a CPU: a cut block, before 0.50.2."""
    assume(w.numel() > 0 and (VERSION >= EXACT_FROM or w.numel() % blocksize == 0))
    packed, state = functional.quantize_4bit(
        w.clone(), blocksize=blocksize, compress_statistics=double, quant_type=quant_type
    )
    return packed.view(-1), state


def whole_or_any(numel_of: int) -> st.SearchStrategy[tuple[int, ...]] | None:
    """Return shapes of whole blocks of that many elements for a package that refuses others."""
    if VERSION >= EXACT_FROM:
        return None
    return st.sampled_from(
        [(numel_of // 32, 32), (2, numel_of), (numel_of,), (3, numel_of // 4, 4), (numel_of // 2, 2)]
    )


#: By block size; made once, for Hypothesis takes longer to make a strategy than to draw from it.
WHOLE = {blocksize: weights(whole_or_any(blocksize)) for blocksize in BLOCKSIZES}


@st.composite
def quantizable(draw: st.DrawFn) -> tuple[Weight, int]:
    """Draw a weight and a block size that the installed package takes together."""
    blocksize = draw(blocksizes())
    return draw(WHOLE[blocksize]), blocksize


@given(pair=quantizable(), quant_type=st.sampled_from(TYPES))
@proven
def test_4bit_codes_and_scales_equal_upstream(pair: tuple[Weight, int], quant_type: str) -> None:
    """Equal, but for three kinds of element.

    - A cut block of less than 1e-38 (0.50.2): upstream stores 1e-38 as its absmax; each value is below 1e-38 in both.
    - A block of zeros before 0.47: 0 / 0 makes NaN, whose code is 0, the value -0.
    - Before 0.50.2 division and not the reciprocal (nf4), and a code book of four digits (fp4): values within an ulp
      of halfway, or within 5e-5, go the other way; and a block below 1e-38 is divided by its own absmax.
    """
    (weight, blocksize), name = pair, "test_4bit_codes_and_scales_equal_upstream"
    w = weight.make()
    theirs, state = upstream(w, quant_type, blocksize)
    ours, n = quantize_4bit(w, quant_type, blocksize), w.numel()
    tiny = ours.absmax < TINY
    lifted = ours.absmax != state.absmax
    if n % blocksize:
        assert not lifted[:-1].any()
        assert not lifted[-1] or (tiny[-1] and state.absmax[-1] == torch.tensor(TINY))
    else:
        assert not lifted.any()
    count(name, "upstream stores an absmax of 1e-38 for a smaller one", int(lifted.sum()))
    mine, other = unpack(ours.packed, n), unpack(theirs, n)
    differs = mine != other
    if VERSION >= EXACT_FROM:
        assert torch.equal(ours.packed, theirs)
        return
    small = spread(tiny, blocksize, n)
    count(name, "codes of blocks below 1e-38", int((differs & small).sum()))
    differs &= ~small
    normalized = w.reshape(-1)[differs].double() / spread(ours.absmax, blocksize, n)[differs].double()
    table = ours.code.double()
    worse = (table[other[differs]] - normalized).abs() - (table[mine[differs]] - normalized).abs()
    assert (worse.abs() <= (2 * ULP if quant_type == "nf4" else 2 * 5e-5)).all()
    count(name, "codes of values that lie halfway", int(differs.sum()))


@given(weight=weights(), blocksize=blocksizes(), quant_type=st.sampled_from(QUANT_TYPES), double=st.booleans())
@proven
def test_every_element_takes_the_nearest_value(weight: Weight, blocksize: int, quant_type: str, double: bool) -> None:
    """By the definition alone, in float64: largest magnitude of the block, nearest of the table, high nibble first.

    A normalized value is two float32 roundings away from the exact quotient, so the value taken may be farther than
    the nearest by 2 * 2**-23 of it, doubled for the two distances that are compared.
    """
    w = weight.make()
    q, n = quantize_4bit(w, quant_type, blocksize, double), w.numel()
    blocks = -(n // -blocksize)
    assert (q.packed.dtype, q.packed.shape) == (torch.uint8, (-(n // -2),))
    assert (q.absmax.dtype, q.absmax.shape) == (torch.uint8 if double else torch.float32, (blocks,))
    assert (q.shape, q.dtype) == (w.shape, w.dtype)
    assert q.nested is None or bool(q.nested.offset.isfinite())  # the mean of no scales is zero
    flat = w.reshape(-1).double()
    padded = torch.nn.functional.pad(flat, (0, -n % blocksize)).view(-1, blocksize)
    largest = padded.abs().amax(dim=1)
    plain = q if not double else quantize_4bit(w, quant_type, blocksize)
    assert torch.equal(plain.absmax.double(), largest)
    assert torch.equal(plain.packed, q.packed)
    normalized = flat / spread(largest, blocksize, n).clamp(min=TINY)
    nearest = (normalized.unsqueeze(1) - q.code.double()).abs().min(dim=1).values
    taken = (normalized - q.code.double()[unpack(q.packed, n)]).abs()
    assert (taken - nearest <= 4 * ULP).all()
    if n % 2:
        # What pads a block encodes zero, as upstream's does.
        assert table_4bit(quant_type)[int(q.packed[-1] & 0xF)] == 0


@given(pair=quantizable(), quant_type=st.sampled_from(TYPES), dtype=st.sampled_from(DTYPES))
@proven
def test_dequantized_values_equal_upstream(pair: tuple[Weight, int], quant_type: str, dtype: torch.dtype) -> None:
    """Upstream's own codes and scales, read by both: equal where upstream reads a block where it lies.

    From 0.48.2 a CPU with AVX-512 reads them row by row, a row being taken for a whole number of blocks: where it is
    not, values of every row but the first get another block's scale. Those examples are counted; that the reference
    is right in them is the property below. The same kernel drops subnormal values of bfloat16 and float16, and
    multiplies in the order (scale, value) without another rounding.

    A weight of one or two elements is one byte, which upstream takes for a row that somebody transposed: it gives the
    weight transposed, and raises where that has no meaning. Counted as well.
    """
    (weight, blocksize), name = pair, "test_dequantized_values_equal_upstream"
    w = weight.make()
    theirs, state = upstream(w, quant_type, blocksize)
    state.dtype = dtype
    assume(w.dim() > 0)  # 0.50.2 raises IndexError
    transposed = len(theirs) == 1
    count(name, "weights of one byte, which upstream transposes", int(transposed))
    with torch.compiler.set_stance("force_eager"):  # for odd widths 0.50.2 compiles a fallback anew
        if transposed and w.dim() > 2:
            with pytest.raises(RuntimeError, match=r"t\(\) expects a tensor with <= 2 dimensions"):
                functional.dequantize_4bit(theirs.view(-1, 1), state)
            return
        expected = functional.dequantize_4bit(theirs.view(-1, 1), state)
    # But for sizes of one: a vector may come back as a row.
    assert [size for size in expected.shape if size > 1] == [size for size in w.shape if size > 1]
    expected = expected.reshape(-1)
    got = dequantize_4bit(Quantized4bit(theirs, state.absmax, tuple(w.shape), dtype, quant_type, blocksize)).view(-1)
    if torch.equal(got, expected):
        return
    kernel = VERSION >= (0, 48, 0) and w.shape[-1] % 2 == 0
    if kernel and w.shape[-1] % blocksize:
        count(name, "upstream gives rows the scale of another block")
        assume(False)  # there is nothing to compare
    small = got.double().abs() < torch.finfo(torch.float32).tiny
    differs = got != expected
    count(name, "values below the smallest normal float32 that upstream drops", int((differs & small).sum()))
    differs &= ~small
    if not differs.any():
        return
    # fp4 before 0.50.2 holds its values to four digits; everything else is one rounding to the dtype.
    relative = (got[differs].double() - expected[differs].double()).abs() / got[differs].double().abs()
    assert kernel or (quant_type == "fp4" and VERSION < EXACT_FROM), (weight, blocksize)
    assert (relative <= torch.finfo(dtype).eps + (1e-4 if quant_type == "fp4" else 0.0)).all(), (weight, blocksize)
    count(name, "values one rounding apart", int(differs.sum()))


@given(
    weight=weights(),
    blocksize=blocksizes(),
    quant_type=st.sampled_from(QUANT_TYPES),
    double=st.booleans(),
    dtype=st.sampled_from((*DTYPES, torch.float64)),
)
@proven
def test_dequantized_values_follow_the_definition(
    weight: Weight, blocksize: int, quant_type: str, double: bool, dtype: torch.dtype
) -> None:
    """Table value times the scale of the block that the element lies in: float32, then rounded once."""
    w = weight.make()
    q, n = quantize_4bit(w, quant_type, blocksize, double), w.numel()
    back = dequantize_4bit(q, dtype)
    assert (back.shape, back.dtype) == (w.shape, dtype)
    scales = dequantize_absmax(q.absmax, q.nested)
    of_element = torch.arange(n) // blocksize
    assert torch.equal(back.view(-1), (q.code[unpack(q.packed, n)] * scales[of_element]).to(dtype))
    if not double and n:
        # Half of the widest gap of the table, times the block's scale; and one rounding to the dtype.
        gap = table_4bit(quant_type).sort().values.diff().max().double() / 2
        scale = scales[of_element].double()
        bound = scale * gap * (1 + 8 * ULP) + scale * torch.finfo(dtype).eps + TINY + torch.finfo(dtype).tiny
        # Read as float16, a block of bfloat16 or float32 may hold values that are infinite there, also where the
        # element that they stand for was not: 65,472 beside 65,536 takes the latter's value.
        fits = (q.code[unpack(q.packed, n)] * scales[of_element]).abs() <= torch.finfo(dtype).max
        assert ((back.view(-1).double() - w.reshape(-1).double()).abs() <= bound)[fits].all()


def nested_scales(w: Tensor, blocksize: int) -> Tensor:
    """Return the largest magnitude of each 256 scales less their mean."""
    absmax = quantize_4bit(w, "nf4", blocksize).absmax
    centred = (absmax - absmax.mean()).abs()
    return torch.nn.functional.pad(centred, (0, -len(absmax) % 256)).view(-1, 256).amax(dim=1)


#: What double quantization is tried on: as many blocks as make a whole and a cut block of 256 scales.
NESTED = st.sampled_from([(4, 32), (96, 32), (257, 64), (300, 32), (512, 64)])


@given(weight=weights(NESTED, families=("normal", "zeros", "constant", "outlier", "decades")))
@proven
def test_double_quantization_equals_upstream(weight: Weight) -> None:
    """Equal offset and scales; codes equal, but for the kernel's own coarseness, which is reproduced here.

    From 0.50 the CPU kernel looks a value up on a grid of 65,536 points over [-1, 1], so its codes are those of the
    value moved to the nearest point. Before, it takes the lowest table value for -1. Both divide a cut block, and the
    older ones every block, so a value at the edge of a grid point may fall to either side.
    """
    name, blocksize = "test_double_quantization_equals_upstream", 32
    w = weight.make()
    if VERSION < EXACT_FROM and not nested_scales(w, blocksize).all():
        # 0 / 0 is an index out of range in the kernel: the process is killed by SIGSEGV.
        count(name, "weights on which upstream ends the process")
        assume(False)
    _, state = upstream(w, "nf4", blocksize, double=True)
    ours = quantize_4bit(w, "nf4", blocksize, double=True)
    assert ours.nested is not None
    plain = quantize_4bit(w, "nf4", blocksize).absmax
    assert torch.equal(ours.nested.offset, state.offset)
    centred, blocks, largest = plain - ours.nested.offset, len(plain), nested_scales(w, blocksize)
    assert torch.equal(ours.nested.absmax, largest)
    lifted = ours.nested.absmax != state.state2.absmax
    assert (~lifted | (largest < TINY)).all()
    count(name, "upstream stores an absmax of 1e-38 for a smaller one", int(lifted.sum()))
    live = spread(largest, 256, blocks) >= TINY
    normalized = (centred.double() / spread(largest, 256, blocks).clamp(min=TINY).double())[live]
    table = table_dynamic().double()
    if VERSION < EXACT_FROM:
        table[0] = -1.0
    mine, other = ours.absmax.long()[live], state.absmax.long()[live]
    distance = (table_dynamic().double()[mine] - normalized).abs()
    nearest = (table_dynamic().double() - normalized.unsqueeze(1)).abs().min(dim=1).values
    assert (distance - nearest <= 4 * ULP).all()
    coarseness = 1 / 65535 if VERSION >= EXACT_FROM else 0.0
    theirs_nearest = (table - normalized.unsqueeze(1)).abs().min(dim=1).values
    assert ((table[other] - normalized).abs() - theirs_nearest <= 2 * coarseness + 4 * ULP).all()
    count(name, "scales whose code differs by the kernel's grid", int((mine != other).sum()))


@given(weight=weights(matrices(64)))
@proven
def test_int8_codes_and_scales_equal_upstream(weight: Weight) -> None:
    """Equal, but for rows below 127 / 3.4e38: there 127 / scale is infinite, and upstream's 0 * inf is no number."""
    name = "test_int8_codes_and_scales_equal_upstream"
    w = weight.make()
    codes, scale = quantize_rowwise(w)
    theirs, their_scale, _ = functional.int8_vectorwise_quant(w.clone())
    assert torch.equal(scale, their_scale)
    rows = w.double()
    exact = rows * 127 / scale.double().clamp(min=TINY).unsqueeze(1)
    normal = scale > 127 / torch.finfo(torch.float32).max
    assert torch.equal(codes[normal], theirs[normal])
    # Two float32 roundings of a quotient of at most 127.
    assert ((codes.double() - exact).abs()[normal] <= 0.5 + 127 * 2 * ULP).all()
    assert not codes[scale == 0].any()
    assert (codes.abs().amax(dim=1)[normal] == 127).all()
    count(name, "rows too small to scale", int((~normal & (scale > 0)).sum()))
    back = dequantize_rowwise(codes, scale)
    assert torch.equal(back.double().sign()[normal], codes.double().sign()[normal])
    half_code = scale.double().unsqueeze(1) / 127 * (0.5 + 127 * 4 * ULP)
    assert ((back.double() - rows).abs() <= half_code)[normal].all()
    expected = functional.int8_vectorwise_dequant(codes, scale)
    # Upstream multiplies by 7.874015718698502e-3, 1/127 in float32: three roundings against two of 2**-24.
    assert ((back - expected).abs() <= 6 * 2.0**-24 * expected.abs() + 2.0**-148).all()


#: Made once, as `WHOLE` is.
FACTORS = weights(matrices(48), families=("normal", "zeros", "constant", "outlier"))
ROWS, THRESHOLDS, BIAS = st.integers(0, 5), st.sampled_from([0.0, 0.5, 2.0, 6.0]), st.booleans()


@st.composite
def products(draw: st.DrawFn) -> tuple[Weight, Weight, float, bool]:
    """Draw activations, a weight, a threshold and whether there is a bias."""
    w = draw(FACTORS)
    x = dataclasses.replace(draw(FACTORS), shape=(draw(ROWS), w.shape[1]))
    return x, w, draw(THRESHOLDS), draw(BIAS)


@given(drawn=products())
@proven
def test_the_int8_product_is_within_the_rounding_of_the_activations(drawn: tuple[Weight, Weight, float, bool]) -> None:
    """Against float64 on the dequantized weight, outlier columns left out of the codes.

    An activation that is quantized is off by half a code of its row, a column with an outlier not at all; the rest is
    a rounding to the dtype and a few of float32.
    """
    name = "test_the_int8_product_is_within_the_rounding_of_the_activations"
    x_of, w_of, threshold, with_bias = drawn
    x, w = x_of.make(), w_of.make()
    codes, scale = quantize_rowwise(w)
    weight = dequantize_rowwise(codes, scale)
    bias = torch.linspace(-1, 1, w.shape[0]).to(x.dtype) if with_bias else None
    got = matmul_int8(x, codes, scale, bias, threshold)
    assert (got.shape, got.dtype) == ((x.shape[0], w.shape[0]), x.dtype)
    exact = dense_oracle(x, weight, bias).output
    kept = x.double().abs()
    if threshold:
        kept = kept.masked_fill((kept >= threshold).any(dim=0), 0.0)
    half_codes = kept.amax(dim=-1, keepdim=True) / 254 * (kept > 0)
    bound = half_codes @ weight.double().abs().t()
    size = x.double().abs() @ weight.double().abs().t() + (0 if bias is None else bias.double().abs())
    fits = size.amax(dim=-1).amax() <= torch.finfo(x.dtype).max if size.numel() else True
    if fits:
        slack = 2 * torch.finfo(x.dtype).eps * (size + bound) + 4 * x.shape[1] * 2.0**-24 * size
        assert ((got.double() - exact).abs() <= bound + slack + torch.finfo(x.dtype).tiny).all()
    if threshold == 0.0 and not with_bias and x.dtype == torch.float16 and x.numel() and bool(x.abs().amax(1).all()):
        their_x, their_scale, _ = functional.int8_vectorwise_quant(x.clone())
        theirs = functional.int8_mm_dequant(functional.int8_linear_matmul(their_x, codes), their_scale, scale)
        close = torch.isclose(got, theirs, rtol=2**-10, atol=2.0**-24) | ~got.isfinite()
        if x.shape[1] == 1 and not close.all():
            count(name, "torch._int_mm leaves its result unwritten for an inner size of 1")
        else:
            assert close.all()


@given(
    weight=weights(matrices(40), (torch.float32,), tuple(f for f in FAMILIES if f != "subnormal")),
    blocksize=blocksizes(),
    quant_type=st.sampled_from(QUANT_TYPES),
)
@proven
def test_what_was_quantized_quantizes_to_itself(weight: Weight, blocksize: int, quant_type: str) -> None:
    """Values of the table times float32 scales are their own nearest: codes twice and codes once are the same."""
    once = quantize_4bit(weight.make(), quant_type, blocksize)
    twice = quantize_4bit(dequantize_4bit(once), quant_type, blocksize)
    assert torch.equal(twice.absmax, once.absmax)
    values = dequantize_4bit(once), dequantize_4bit(dataclasses.replace(twice, absmax=once.absmax))
    assert torch.equal(*values)


def test_every_family_is_what_it_says() -> None:
    """The control of the strategies: each family has what makes it hard."""
    for dtype in DTYPES:
        made = {family: Weight((40, 40), dtype, family, 3).make() for family in FAMILIES}
        assert all(w.isfinite().all() and w.dtype == dtype for w in made.values())
        assert not made["zeros"].any()
        assert made["constant"].unique().numel() == 1
        assert (made["outlier"] == 100).sum() == 1
        assert made["limit"].abs().min() > 65000
        assert 0 < made["subnormal"].double().abs().max() < torch.finfo(dtype).tiny
        table = table_4bit("fp4").sort().values
        halfway = ((table[:-1] + table[1:]) / 2).to(dtype) * 2
        assert (made["halves"].view(-1, 1) == halfway).any() and prod(made["halves"].shape) == 1600
