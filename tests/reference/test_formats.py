"""Formats behind one interface: the right layers keep nothing, the planted ones the weight, and the oracle is dense."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from repros import ROOT
from repros.meters.numerics import relative_error
from repros.reference.blockwise import dequantize_4bit, quantize_4bit
from repros.reference.formats import (
    EightBit,
    Format,
    FourBit,
    chain,
    exact_chain,
    layers,
    layers_that_save_their_weight,
    module_that_saves_its_weight,
)
from repros.reference.int8 import dequantize_rowwise, quantize_rowwise
from repros.reference.linear import linear_4bit, linear_8bit
from repros.reference.modules import FrozenLinear4bit
from tests.reference.dense import dense_oracle

FORMATS: tuple[Format, ...] = (
    FourBit(), FourBit("fp4"), FourBit("nf4", double=True), EightBit(), EightBit(threshold=2.0),
)  # fmt: skip
WIDTHS = (64, 33, 128, 65)
EACH = pytest.mark.parametrize("how", FORMATS, ids=repr)


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def drawn() -> list[Tensor]:
    """Return the weights of a chain whose layers differ in shape."""
    return [randn(n, k, seed=k) * k**-0.5 for k, n in pairwise(WIDTHS)]


def saved(run: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Return the output and what autograd saved of it that is no input."""
    packed: list[Tensor] = []

    def pack(tensor: Tensor) -> Tensor:
        packed.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        return run(x), packed


def whole(tensors: list[Tensor]) -> list[tuple[int, ...]]:
    """Return the shapes of those that are floating matrices of a whole weight, either way round."""
    shapes = {(n, k) for k, n in pairwise(WIDTHS)}
    found = [tuple(t.shape) if tuple(t.shape) in shapes else tuple(t.t().shape)
             for t in tensors if t.dim() == 2 and t.is_floating_point()]  # fmt: skip
    return sorted(shape for shape in found if shape in shapes)


def test_a_format_is_declared_without_torch() -> None:
    code = (
        "import sys; from repros.reference.formats import EightBit, FourBit; FourBit('fp4', double=True);"
        "EightBit(6.0); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("quant_type", ["nf4", "fp4"])
def test_four_bits_are_the_blockwise_arithmetic(quant_type: str, double: bool) -> None:
    how, weight, x = FourBit(quant_type, double), randn(64, 512), randn(3, 512, seed=1)
    quantized, same = how.quantize(weight), quantize_4bit(weight, quant_type, double=double)
    assert (quantized.blocksize, quantized.quant_type, quantized.nested is not None) == (64, quant_type, double)
    assert all(torch.equal(one, other) for one, other in zip(quantized.tensors(), same.tensors(), strict=True))
    for dtype in (torch.bfloat16, torch.float64):
        assert torch.equal(how.dequantize(quantized, dtype), dequantize_4bit(same, dtype))
    assert torch.equal(how.multiply(x, quantized), linear_4bit(x, same))
    assert how.codes(quantized) is quantized.packed


@pytest.mark.parametrize("threshold", [0.0, 2.0])
def test_eight_bits_are_the_rowwise_arithmetic(threshold: float) -> None:
    how, weight, x = EightBit(threshold), randn(64, 512), randn(3, 512, seed=1)
    (codes, scale), same = how.quantize(weight), quantize_rowwise(weight)
    assert torch.equal(codes, same[0]) and torch.equal(scale, same[1])
    for dtype in (torch.bfloat16, torch.float64):
        assert torch.equal(how.dequantize((codes, scale), dtype), dequantize_rowwise(*same, dtype))
    product = how.multiply(x, (codes, scale))
    assert torch.equal(product, linear_8bit(x, *same, threshold=threshold))
    assert torch.equal(product, linear_8bit(x, *same)) is (threshold == 0)
    assert how.codes((codes, scale)) is codes


@EACH
def test_a_chain_of_layers_keeps_no_weight_and_is_as_right_as_its_format(how: Format) -> None:
    weights, x, grad = drawn(), randn(5, WIDTHS[0]).requires_grad_(), randn(5, WIDTHS[-1], seed=1)
    output, kept = saved(chain(layers(how, weights)), x)
    assert kept and whole(kept) == []
    output.backward(grad)
    exact = exact_chain(how, x, weights, grad)
    assert x.grad is not None
    for value, want in ((output, exact["output"]), (x.grad, exact["grad_input"])):
        # Eight bits quantize the input too; what four bits round is float32 alone.
        assert relative_error(value, want) < (0.03 if isinstance(how, EightBit) else 1e-5)


@EACH
def test_a_planted_chain_saves_each_weight_and_differs_in_nothing_else(how: Format) -> None:
    weights, x, grad = drawn(), randn(5, WIDTHS[0]).requires_grad_(), randn(5, WIDTHS[-1], seed=1)
    output, kept = saved(chain(layers_that_save_their_weight(how, weights)), x)
    assert whole(kept) == sorted(tuple(weight.shape) for weight in weights)
    output.backward(grad)
    exact = exact_chain(how, x, weights, grad)
    assert x.grad is not None
    for value, want in ((output, exact["output"]), (x.grad, exact["grad_input"])):
        assert relative_error(value, want) < 1e-5


@EACH
def test_a_planted_layer_multiplies_in_the_dtype_of_its_input_and_keeps_a_cache_only_where_asked(how: Format) -> None:
    weights, x = drawn(), randn(5, WIDTHS[0]).bfloat16()
    cache: dict[int, Tensor] = {}
    with torch.no_grad():  # nothing is saved: what is kept is in the cache
        chain(layers_that_save_their_weight(how, weights, cache))(x)
    assert list(cache) == [0, 1, 2]
    for which, weight in enumerate(weights):
        assert torch.equal(cache[which], how.dequantize(how.quantize(weight), torch.bfloat16))


MINCUT = "aot_eager_decomp_partition"


@pytest.mark.filterwarnings("ignore")  # of torch's own, while it compiles; they differ by release
@pytest.mark.parametrize("how", [FourBit(), EightBit()], ids=repr)
@pytest.mark.parametrize("plants", [False, True])
def test_a_compiled_chain_saves_its_weights_where_that_is_planted_and_not_else(how: Format, plants: bool) -> None:
    """A compiler that could open the planted operator might dequantize again in the backward: the bug would be gone."""
    torch.compiler.reset()
    weights, x = drawn(), randn(5, WIDTHS[0]).requires_grad_()
    make = layers_that_save_their_weight if plants else layers
    output, kept = saved(torch.compile(chain(make(how, weights)), backend=MINCUT), x)
    assert whole(kept) == (sorted(tuple(weight.shape) for weight in weights) if plants else [])
    output.sum().backward()


@EACH
def test_the_oracle_of_a_chain_is_dense_and_in_float64(how: Format) -> None:
    weights, x, grad = drawn(), randn(5, WIDTHS[0]).bfloat16().requires_grad_(), randn(5, WIDTHS[-1], seed=1)
    exact = exact_chain(how, x, weights, grad)
    assert {value.dtype for value in exact.values()} == {torch.float64}
    assert not any(value.requires_grad for value in exact.values())
    dense = [how.dequantize(how.quantize(weight), torch.float64) for weight in weights]
    inputs = [x.detach().double()]
    for weight in dense:
        inputs.append(dense_oracle(inputs[-1], weight).output)
    back = grad.double()
    for weight, given in zip(reversed(dense), reversed(inputs[:-1]), strict=True):
        back = dense_oracle(given, weight, grad_output=back).grad_x
    assert torch.equal(exact["output"], inputs[-1])
    assert torch.equal(exact["grad_input"], back)


def test_the_oracle_takes_the_weight_that_the_codes_stand_for() -> None:
    """Not the one that was quantized, from which it is off by a code; nor one that was rounded to 16 bits."""
    weight, x = randn(33, 64), torch.eye(64)
    for how in FORMATS:
        quantized = how.quantize(weight)
        found = exact_chain(how, x, [weight], torch.ones(64, 33))["output"].t()
        assert torch.equal(found, how.dequantize(quantized, torch.float64))
        assert not torch.equal(found, weight.double())
        assert not torch.equal(found, how.dequantize(quantized, torch.bfloat16).double())


def test_functions_of_a_chain_are_applied_in_their_order() -> None:
    assert torch.equal(chain([lambda x: x + 1, lambda x: x * 10])(torch.ones(1)), torch.tensor([20.0]))
    x = torch.ones(1)
    assert chain([])(x) is x


@pytest.mark.parametrize("cache", [False, True])
def test_a_planted_module_is_the_references_but_for_the_weight_that_is_saved(cache: bool) -> None:
    weight = randn(33, 64).bfloat16()
    right, planted = FrozenLinear4bit.from_weight(weight), module_that_saves_its_weight(cache)(weight)
    assert isinstance(planted, FrozenLinear4bit)
    for (name, mine), (other, theirs) in zip(planted.named_buffers(), right.named_buffers(), strict=True):
        assert name == other and torch.equal(mine, theirs)
    seen: list[Any] = []
    for layer in (right, planted):
        x = randn(5, 64).bfloat16().requires_grad_()
        output, kept = saved(layer, x)
        output.backward(torch.ones_like(output))
        seen.append((output, x.grad, whole(kept)))
    (output, grad, kept), (of_planted, grad_of_planted, kept_by_planted) = seen
    assert torch.equal(output, of_planted) and torch.equal(grad, grad_of_planted)
    assert (kept, kept_by_planted) == ([], [(33, 64)])
    assert (planted.cache is not None) is cache
    if cache:
        kept_weight: Any = planted.cache
        assert torch.equal(kept_weight, dequantize_4bit(right.quantized, torch.bfloat16))
