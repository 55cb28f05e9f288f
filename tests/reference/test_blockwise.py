"""4-bit quantization: the bytes that bitsandbytes stores, and the nearest value to each weight."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from repros.errors import UserError
from repros.reference.blockwise import (
    _PARTS,
    Quantized4bit,
    _nearest_of,
    dequantize_4bit,
    dequantize_absmax,
    quantize_4bit,
)
from repros.reference.codebook import table_4bit, table_dynamic

# Releases before 0.50 call what torch is about to remove.
pytestmark = pytest.mark.filterwarnings("ignore:_check_is_size:FutureWarning")

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
EXACT_FROM = (0, 50, 2)  # from here on bitsandbytes encodes as this module does, to the last bit


def version() -> tuple[int, ...]:
    bitsandbytes = pytest.importorskip("bitsandbytes")
    return tuple(int(part) for part in bitsandbytes.__version__.split(".")[:3])


def upstream(w: Tensor, quant_type: str, blocksize: int, double: bool) -> tuple[Tensor, Any]:
    functional = pytest.importorskip("bitsandbytes.functional")
    if quant_type == "fp4" and version() < (0, 47):
        pytest.skip("bitsandbytes encodes fp4 on a CPU from 0.47")
    packed, state = functional.quantize_4bit(w, blocksize=blocksize, compress_statistics=double, quant_type=quant_type)
    return packed.view(-1), state


def unpack(packed: Tensor, n: int) -> Tensor:
    return torch.stack((packed >> 4, packed & 0xF), dim=1).view(-1)[:n].long()


@pytest.mark.parametrize("quant_type", ["nf4", "fp4"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(64, 128), (33, 65), (7, 13), (300,)], ids=str)
@pytest.mark.parametrize("blocksize", [64, 4096])
def test_codes_and_absmax_equal_upstream(
    quant_type: str, dtype: torch.dtype, shape: tuple[int, ...], blocksize: int
) -> None:
    if version() < EXACT_FROM and torch.Size(shape).numel() % blocksize:
        pytest.skip("before 0.50.2 bitsandbytes cannot encode a cut block on a CPU")
    for seed in range(5):
        w = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)
        theirs, state = upstream(w, quant_type, blocksize, double=False)
        ours = quantize_4bit(w, quant_type, blocksize)
        assert torch.equal(ours.absmax, state.absmax)
        if version() >= EXACT_FROM or quant_type == "nf4":
            assert torch.equal(ours.packed, theirs)
        else:
            assert_nearly_halfway(w, ours, theirs)


def assert_nearly_halfway(w: Tensor, ours: Quantized4bit, theirs: Tensor) -> None:
    """Older CPU kernels hold fp4 values to four digits, so halfway points are off by 5e-5."""
    n = w.numel()
    spread = ours.absmax.repeat_interleave(ours.blocksize)[:n]
    normalized = w.reshape(-1).float() / spread
    errors = [(ours.code[unpack(p, n)] - normalized).abs() for p in (ours.packed, theirs)]
    assert (errors[1] - errors[0]).max() <= 2 * 5e-5


@pytest.mark.parametrize("quant_type", ["nf4", "fp4"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_dequantized_weight_equals_upstream(quant_type: str, dtype: torch.dtype) -> None:
    functional = pytest.importorskip("bitsandbytes.functional")
    w = torch.randn(96, 64, generator=torch.Generator().manual_seed(1)).to(dtype)
    theirs, state = upstream(w, quant_type, 64, double=False)
    ours = quantize_4bit(w, quant_type)
    expected = functional.dequantize_4bit(theirs.view(-1, 1), state)
    got = dequantize_4bit(ours)
    assert got.dtype == dtype
    if version() >= EXACT_FROM or quant_type == "nf4":
        assert torch.equal(got, expected)


def test_double_quantization_equals_upstream() -> None:
    """Equal offset and scales; codes equal, but for the kernel's own coarseness.

    From 0.50 the CPU kernel looks a value up on a grid of 65,536 points over [-1, 1], so its codes
    are those of the value moved to the nearest point.  Before, it takes the lowest table value for
    -1; a CUDA kernel does neither.
    """
    w = torch.randn(512, 1024, generator=torch.Generator().manual_seed(2)).bfloat16()
    theirs, state = upstream(w, "nf4", 64, double=True)
    ours = quantize_4bit(w, "nf4", 64, double=True)
    assert ours.nested is not None
    assert torch.equal(ours.packed, theirs)
    assert torch.equal(ours.nested.offset, state.offset)
    assert torch.equal(ours.nested.absmax, state.state2.absmax)
    absmax = quantize_4bit(w, "nf4", 64).absmax - ours.nested.offset
    normalized = absmax * (1 / ours.nested.absmax).repeat_interleave(256)
    table = table_dynamic()
    if version() >= EXACT_FROM:
        normalized = torch.floor((normalized.clamp(-1, 1) + 1) * 0.5 * 65535 + 0.5) / 32767.5 - 1
        assert (ours.absmax != state.absmax).float().mean() < 0.01
    else:
        table[0] = -1.0
    nearest = torch.bucketize(normalized, (table[:-1] + table[1:]) / 2)
    assert torch.equal(nearest.to(torch.uint8), state.absmax)


def test_double_quantized_absmax_is_within_half_a_step() -> None:
    w = torch.randn(256, 256, generator=torch.Generator().manual_seed(3))
    plain, double = quantize_4bit(w), quantize_4bit(w, double=True)
    assert double.nested is not None
    error = (dequantize_absmax(double.absmax, double.nested) - plain.absmax).abs()
    widest = table_dynamic().diff().max() / 2
    bound = double.nested.absmax.repeat_interleave(256) * widest
    assert (error <= bound * 1.0001).all()
    assert error.max() > 0


@pytest.mark.parametrize("name", ["nf4", "fp4", "dynamic"])
def test_a_value_takes_the_code_of_as_many_halfway_points_as_are_below_it(name: str) -> None:
    """At each halfway point, at the float above and below it, at both ends of each part, and anywhere between."""
    table = table_dynamic() if name == "dynamic" else table_4bit(name)
    ranked, order = torch.sort(table, stable=True)
    halfway = (ranked[:-1] + ranked[1:]) / 2
    ends = torch.arange(_PARTS + 1) / (_PARTS / 2) - 1
    points = torch.cat((halfway, ends, torch.tensor([0.0, -0.0, 1e-38, -1e-38])))
    beside = [torch.nextafter(points, torch.tensor(end)) for end in (-2.0, 2.0)]
    drawn = torch.rand(1 << 16, generator=torch.Generator().manual_seed(5)) * 2 - 1
    values = torch.cat((points, *beside, drawn)).clamp(-1, 1)
    counted = order[(values[:, None] > halfway).sum(1)]
    assert torch.equal(_nearest_of(table)(values.clone()).long(), counted)


def test_an_infinite_element_spoils_its_own_block_alone() -> None:
    w = torch.randn(4, 64, generator=torch.Generator().manual_seed(6))
    clean = quantize_4bit(w)
    w[1, 3] = float("inf")
    q = quantize_4bit(w)
    others = [0, 2, 3]
    assert torch.equal(q.packed.view(4, 32)[others], clean.packed.view(4, 32)[others])
    codes = unpack(q.packed, w.numel()).view(4, 64)[1]
    assert codes[3] == 15  # NaN, as all that is divided by infinity is 0
    assert (codes[torch.arange(64) != 3] == 7).all()
    assert not dequantize_4bit(q)[1].isfinite().any()


def test_a_weight_larger_than_a_chunk_is_one_weight() -> None:
    w = torch.randn(1025, 1031, generator=torch.Generator().manual_seed(4)).half()
    q = quantize_4bit(w)
    head = quantize_4bit(w.view(-1)[: 1 << 20])
    tail = quantize_4bit(w.view(-1)[1 << 20 :])
    assert torch.equal(q.packed, torch.cat((head.packed, tail.packed)))
    assert torch.equal(q.absmax, torch.cat((head.absmax, tail.absmax)))
    back = torch.cat((dequantize_4bit(head), dequantize_4bit(tail)))
    assert torch.equal(dequantize_4bit(q).view(-1), back)


def test_zero_blocks_stay_zero() -> None:
    for double in (False, True):
        q = quantize_4bit(torch.zeros(100), double=double)
        assert torch.equal(dequantize_4bit(q), torch.zeros(100))


def test_an_empty_weight_has_an_offset_of_zero() -> None:
    q = quantize_4bit(torch.zeros(0, 4), double=True)
    assert q.nested is not None
    assert (q.nested.offset.item(), q.nested.absmax.numel()) == (0.0, 0)
    assert dequantize_4bit(q).shape == (0, 4)


def test_a_view_is_quantized_by_its_values() -> None:
    w = torch.randn(48, 32, generator=torch.Generator().manual_seed(5), requires_grad=True)
    ours, theirs = quantize_4bit(w.t()), quantize_4bit(w.t().contiguous())
    assert torch.equal(ours.packed, theirs.packed)
    assert not ours.absmax.requires_grad


def test_codes_are_those_of_the_table() -> None:
    for quant_type in ("nf4", "fp4"):
        table = table_4bit(quant_type)
        q = quantize_4bit(table.repeat(2), quant_type, 32)
        assert torch.equal(q.code[unpack(q.packed, 32)], table.repeat(2))
        assert q.packed[0] == (unpack(q.packed, 32)[0] << 4 | unpack(q.packed, 32)[1])


def test_errors_name_the_value_and_the_mend() -> None:
    with pytest.raises(UserError) as caught:
        quantize_4bit(torch.zeros(4), blocksize=48)
    assert str(caught.value) == (
        "blocksize: 48 is not supported\nhint: use one of 32, 64, 128, 256, 512, 1024, 2048, 4096"
    )
    with pytest.raises(UserError) as caught:
        quantize_4bit(torch.zeros(4, dtype=torch.float64))
    assert str(caught.value) == (
        "quantize_4bit: a weight of torch.float64 cannot be quantized\nhint: pass float16, bfloat16 or float32"
    )
