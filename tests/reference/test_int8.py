"""LLM.int8: codes as bitsandbytes stores them, products within the rounding of the activations."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from repros.errors import UserError
from repros.reference.int8 import dequantize_rowwise, matmul_int8, quantize_rowwise
from tests.reference.dense import dense_oracle


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", [(64, 128), (33, 65), (1, 7)], ids=str)
def test_codes_and_scale_equal_upstream(dtype: torch.dtype, shape: tuple[int, int]) -> None:
    functional = pytest.importorskip("bitsandbytes.functional")
    for seed in range(10):
        w = randn(*shape, seed=seed).to(dtype)
        theirs, their_scale, _ = functional.int8_vectorwise_quant(w)
        codes, scale = quantize_rowwise(w)
        assert torch.equal(codes, theirs)
        assert torch.equal(scale, their_scale)


def test_dequantized_rows_equal_upstream() -> None:
    functional = pytest.importorskip("bitsandbytes.functional")
    codes, scale = quantize_rowwise(randn(20, 30))
    expected = functional.int8_vectorwise_dequant(codes, scale)
    # Upstream multiplies by 7.874015718698502e-3, which is 1/127 to float32's precision: three
    # roundings against two of ours, each of 2**-24.
    assert torch.allclose(dequantize_rowwise(codes, scale), expected, rtol=6 * 2**-24, atol=0)


@pytest.mark.parametrize("shape", [(40, 50), (2, 1 << 20), (3000, 700)], ids=str)
def test_every_code_is_the_nearest(shape: tuple[int, int]) -> None:
    w = randn(*shape)
    codes, scale = quantize_rowwise(w)
    assert torch.equal(scale, w.abs().amax(dim=1))
    error = (dequantize_rowwise(codes, scale) - w).abs()
    assert (error <= scale.unsqueeze(1) / 254 * 1.0001).all()


def test_rows_of_zeros_and_empty_weights() -> None:
    codes, scale = quantize_rowwise(torch.tensor([[0.0, 0.0], [1.0, -2.0]]))
    assert codes.tolist() == [[0, 0], [64, -127]]
    assert scale.tolist() == [0.0, 2.0]
    for shape in ((0, 3), (3, 0)):
        codes, scale = quantize_rowwise(torch.zeros(shape))
        assert (codes.shape, scale.tolist()) == (torch.Size(shape), [0.0] * shape[0])


@pytest.mark.parametrize("threshold", [0.0, 2.5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_product_is_within_the_rounding_of_the_activations(threshold: float, dtype: torch.dtype) -> None:
    x, w, bias = randn(6, 5, 1500).to(dtype), randn(40, 1500, seed=1), randn(40, seed=2).to(dtype)
    codes, scale = quantize_rowwise(w)
    weight = dequantize_rowwise(codes, scale)
    exact = dense_oracle(x, weight, bias).output
    got = matmul_int8(x, codes, scale, bias, threshold).double()
    kept = x.abs().float()
    if threshold:
        kept = kept.masked_fill((kept >= threshold).flatten(0, 1).any(dim=0), 0.0)
    # Each quantized activation is off by at most half a code of its row; the rest is one rounding
    # to the dtype and a few float32 ones.
    half_codes = kept.amax(dim=-1, keepdim=True) / 254 * (kept > 0)
    bound = half_codes.double() @ weight.double().abs().t()
    eps = torch.finfo(dtype).eps
    assert ((got - exact).abs() <= bound + eps * exact.abs() + 1e-5 * (1 + bound)).all()
    assert (got - exact).abs().max() > 0


def test_integer_activations_are_multiplied_exactly() -> None:
    """Sums of 16,384 products of codes pass 2**24 many times over, and are rounded to float32 once, at the end.

    A float32 sum rounds on its way, wherever it is cut into parts, which differs by machine: some of 64 such sums then
    differ from the integer one, as the control shows.
    """
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(100, 128, (8, 16384), generator=generator).float()
    w = torch.randint(100, 128, (8, 16384), generator=generator).float()
    x[:, 0] = w[:, 0] = 127.0  # scale and factor of each row are 127 and 1
    exact = (x.long() @ w.long().t()).float()
    assert torch.equal(matmul_int8(x, *quantize_rowwise(w)), exact)
    assert not torch.equal(x @ w.t(), exact)


def test_outliers_are_not_rounded_to_codes() -> None:
    x = torch.full((4, 32), 0.01)
    x[:, 3] = 60.0
    w = randn(8, 32)
    codes, scale = quantize_rowwise(w)
    exact = dense_oracle(x, dequantize_rowwise(codes, scale)).output
    errors = [(matmul_int8(x, codes, scale, None, t) - exact).abs().max() for t in (0.0, 6.0)]
    assert errors[1] < errors[0] / 50


@pytest.mark.parametrize("outlier", [6.0, -6.0, 60.0, -60.0])
def test_an_outlier_is_one_from_the_threshold_on_whatever_its_sign(outlier: float) -> None:
    """At exactly the threshold too, as upstream's `A.abs() >= threshold`: the column is multiplied as it is."""
    x = torch.full((1, 32), 2.0**-6)
    x[0, 3] = outlier
    codes, scale = quantize_rowwise(torch.ones(2, 32))
    exact = dense_oracle(x, dequantize_rowwise(codes, scale)).output
    assert torch.allclose(matmul_int8(x, codes, scale, None, 6.0).double(), exact, rtol=1e-6, atol=0)
    assert not torch.allclose(matmul_int8(x, codes, scale, None, 61.0).double(), exact, rtol=1e-3, atol=0)


def test_large_bfloat16_activations_stay_finite() -> None:
    x = torch.full((2, 8), 1e5, dtype=torch.bfloat16)
    codes, scale = quantize_rowwise(torch.full((3, 8), 0.5))
    assert torch.equal(matmul_int8(x, codes, scale), x.new_full((2, 3), 4e5))


def test_product_equals_upstream() -> None:
    functional = pytest.importorskip("bitsandbytes.functional")
    x, w = randn(5, 64).half(), randn(16, 64, seed=1).half()
    codes, scale = quantize_rowwise(w)
    their_x, their_scale, _ = functional.int8_vectorwise_quant(x)
    sums = functional.int8_linear_matmul(their_x, codes)
    expected = functional.int8_mm_dequant(sums, their_scale, scale)
    # Both round float32 products to float16; upstream's 1/127**2 is written to seven digits, so
    # the value before rounding may fall on the other side of a halfway point.
    assert torch.allclose(matmul_int8(x, codes, scale), expected, rtol=2**-10, atol=0)


def test_only_a_matrix_has_rows() -> None:
    with pytest.raises(UserError) as caught:
        quantize_rowwise(torch.zeros(3))
    assert str(caught.value) == ("quantize_rowwise: a weight of shape (3,) has no rows to scale\nhint: pass [out, in]")
