"""The tables are what their papers and bitsandbytes say, in the same code order."""

from __future__ import annotations

from statistics import NormalDist

import pytest
import torch

from repros.errors import UserError
from repros.reference.codebook import table_4bit, table_dynamic


def test_nf4_is_the_quantiles_of_the_normal_distribution() -> None:
    # The recipe of bitsandbytes.functional.create_normal_map, which works on float32 probabilities:
    # an error of 6e-8 in p moves a quantile by at most 6e-8 / pdf(1.85) = 9e-7, here over 1.85.
    offset = 0.9677083
    ppf = NormalDist().inv_cdf
    positive = [ppf(offset + (0.5 - offset) * i / 8) for i in range(8)]
    negative = [-ppf(offset + (0.5 - offset) * i / 7) for i in range(7)]
    values = sorted([*positive, 0.0, *negative])
    expected = torch.tensor(values, dtype=torch.float64) / max(values)
    assert (table_4bit("nf4").double() - expected).abs().max() < 2e-6


def test_fp4_is_sign_exponent_mantissa() -> None:
    table = table_4bit("fp4")
    # 0b010 and 0b011 have the largest exponent, as bitsandbytes numbers the bit patterns.
    exponents = {0b01: 8.0, 0b10: 4.0, 0b11: 2.0}
    for code in range(2, 8):
        value = exponents[code >> 1] * (1.5 if code & 1 else 1.0)
        assert table[code] == torch.tensor(value) / 12
        assert table[code + 8] == -table[code]
    assert table[[0, 8]].tolist() == [0.0, 0.0]
    assert not table[[0, 8]].signbit().any()
    assert table[1] == torch.tensor(0.0625) / 12


def test_dynamic_table_is_sorted_and_has_256_distinct_values() -> None:
    table = table_dynamic()
    assert table.numel() == 256
    assert (table.diff() > 0).all()
    assert table[255] == 1.0
    assert table[0] == -(1.0 - 0.9 / 64 / 2)


def test_tables_equal_those_of_bitsandbytes() -> None:
    functional = pytest.importorskip("bitsandbytes.functional")
    for quant_type in ("nf4", "fp4"):
        upstream = functional.get_4bit_type(quant_type, device="cpu")
        assert torch.equal(table_4bit(quant_type), upstream), quant_type
    assert torch.equal(table_dynamic(), functional.create_dynamic_map())


def test_unknown_type_is_refused() -> None:
    with pytest.raises(UserError) as caught:
        table_4bit("int4")
    assert str(caught.value) == ("quant_type: `int4` is not a 4-bit type\nhint: write one of nf4, fp4")
