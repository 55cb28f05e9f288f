"""What is made of each tensor of a checkpoint while it is loaded, and what is given back of it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from repros.reference.blockwise import dequantize_4bit, quantize_4bit
from repros.reference.converter import OPERATOR, Converter
from repros.reference.int8 import dequantize_rowwise, quantize_rowwise


def randn(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def matrices(name: str, shape: tuple[int, ...]) -> bool:
    return name.endswith("weight") and len(shape) == 2


def made(scheme: str = "nf4", dtype: torch.dtype = torch.bfloat16, copy: bool = True) -> Converter:
    return Converter(scheme, dtype, matrices, copy)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("scheme", ["nf4", "int8"])
def test_a_weight_is_cast_and_then_quantized_as_the_reference_does(scheme: str, dtype: torch.dtype) -> None:
    convert, source = made(scheme, dtype), randn(33, 64)
    codes, scales, shape = convert("a.weight", source)
    cast = source.to(dtype)
    assert shape == (33, 64)
    if scheme == "int8":
        want = quantize_rowwise(cast)
        whole = dequantize_rowwise(*want)
    else:
        quantized = quantize_4bit(cast)
        want, whole = (quantized.packed, quantized.absmax), dequantize_4bit(quantized).float()
    assert torch.equal(codes, want[0]) and torch.equal(scales, want[1])
    restored = convert.restore((codes, scales, shape))
    assert restored.dtype == torch.float32
    assert torch.equal(restored, whole)


@pytest.mark.parametrize(("name", "shape"), [("a.bias", (4, 4)), ("a.weight", (4,)), ("a.weight", (2, 4, 4))])
def test_what_is_not_to_be_quantized_is_cast(name: str, shape: tuple[int, ...]) -> None:
    convert, source = made(), randn(*shape)
    kept = convert(name, source)
    assert torch.equal(kept, source.bfloat16())
    assert torch.equal(convert.restore(kept), source.bfloat16().float())


@pytest.mark.parametrize("copy", [True, False])
def test_what_has_its_dtype_already_is_a_copy_only_where_asked(copy: bool) -> None:
    source = randn(4).bfloat16()
    kept = made(copy=copy)("a.norm", source)
    assert torch.equal(kept, source)
    assert (kept.data_ptr() != source.data_ptr()) is copy


def test_nothing_that_is_kept_of_a_quantized_weight_holds_its_source() -> None:
    source = randn(64, 64).bfloat16()
    codes, scales, _ = made()("a.weight", source)
    assert source.untyped_storage().data_ptr() not in {one.untyped_storage().data_ptr() for one in (codes, scales)}
    assert codes.nbytes + scales.nbytes == 64 * 64 // 2 + 4 * 64 * 64 // 64


@pytest.mark.parametrize("scheme", ["nf4", "int8"])
def test_a_gate_on_operators_can_name_the_quantization(scheme: str) -> None:
    """`Case.gate` waits at its first call; a meter sees one operator and not its arithmetic."""
    from torch.utils._python_dispatch import TorchDispatchMode

    seen: list[str] = []

    class Names(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            seen.append(func.name())
            return func(*args, **(kwargs or {}))

    convert = made(scheme)
    with Names():
        convert("a.weight", randn(8, 64).bfloat16())
    assert seen.count(OPERATOR) == 1
