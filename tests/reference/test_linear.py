"""Products by a quantized weight: gradients as the dense layer has them, nothing saved but codes."""

from __future__ import annotations

import importlib
import shutil
import sys
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from repros.errors import UserError
from repros.reference.blockwise import dequantize_4bit, quantize_4bit
from repros.reference.int8 import dequantize_rowwise, matmul_int8, quantize_rowwise
from repros.reference.linear import linear_4bit, linear_8bit
from tests.reference.dense import dense_oracle

OUT, IN = 33, 65
COMPILERS = ("aot_eager", "aot_eager_decomp_partition", "inductor")


class Layer(NamedTuple):
    """One product, the weight that it stands for and what it may hold for backward."""

    run: Callable[..., Tensor]
    weight: Tensor
    held: tuple[Tensor, ...]


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def make(kind: str) -> Layer:
    w = randn(OUT, IN, seed=7) / 8
    if kind.startswith("int8"):
        codes, scale = quantize_rowwise(w)
        threshold = 2.0 if kind == "int8 with outliers" else 0.0
        run = partial(linear_8bit, codes=codes, scale=scale, threshold=threshold)
        return Layer(run, dequantize_rowwise(codes, scale), (codes, scale))
    q = quantize_4bit(w, "fp4" if kind == "fp4" else "nf4", double=kind == "nf4 double")
    return Layer(partial(linear_4bit, q=q), dequantize_4bit(q), q.tensors())


KINDS = ("nf4", "fp4", "nf4 double", "int8", "int8 with outliers")


def saved(run: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Return the output and what autograd saved while it was computed."""
    packed: list[Tensor] = []

    def pack(tensor: Tensor) -> Tensor:
        packed.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        return run(x), packed


def assert_same_storages(got: list[Tensor], expected: tuple[Tensor, ...]) -> None:
    """Not one byte more than the weight itself holds already."""

    def key(tensor: Tensor) -> tuple[int, int, str]:
        return tensor.data_ptr(), tensor.untyped_storage().nbytes(), str(tensor.dtype)

    assert sorted(map(key, got)) == sorted(map(key, expected))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_equal_those_of_the_dense_layer(kind: str, dtype: torch.dtype) -> None:
    layer = make(kind)
    x = randn(4, 5, IN).to(dtype).requires_grad_()
    bias = randn(OUT, seed=1).to(dtype).requires_grad_()
    grad = randn(4, 5, OUT, seed=2).to(dtype)
    output = layer.run(x, bias=bias)
    torch.autograd.backward(output, grad)
    oracle = dense_oracle(x, layer.weight, bias, grad)
    assert x.grad is not None
    assert bias.grad is not None
    # Rounding of weight and result to the dtype, and of each of a row's sums in float32.
    unit = 2 * torch.finfo(dtype).eps + max(OUT, IN) * 2.0**-23
    grad_bound = unit * (grad.double().abs() @ layer.weight.double().abs())
    assert ((x.grad - oracle.grad_x).abs() <= grad_bound).all()
    assert oracle.grad_bias is not None
    bias_bound = (2 * torch.finfo(dtype).eps) * grad.double().abs().sum(dim=(0, 1))
    assert ((bias.grad - oracle.grad_bias).abs() <= bias_bound).all()
    size = x.detach().double().abs() @ layer.weight.double().abs().t() + bias.detach().abs()
    if kind.startswith("int8"):  # and half a code for every activation
        half = x.detach().double().abs().amax(dim=-1, keepdim=True) / 254
        size = size + half * layer.weight.double().abs().sum(dim=1) / unit
    assert ((output - oracle.output).abs() <= unit * size).all()


@pytest.mark.parametrize("kind", KINDS)
def test_eager_saves_the_packed_weight_alone(kind: str) -> None:
    layer = make(kind)
    _, got = saved(layer.run, randn(3, IN).requires_grad_())
    assert_same_storages(got, layer.held)


def test_the_hooks_see_a_weight_that_is_saved() -> None:
    """The control: dequantized outside the operator, the 16-bit weight is held."""
    q = quantize_4bit(randn(OUT, IN))
    x = randn(3, IN).requires_grad_()
    _, got = saved(lambda x: torch.nn.functional.linear(x, dequantize_4bit(q)), x)
    assert (OUT, IN) in {tuple(tensor.shape) for tensor in got} | {tuple(t.t().shape) for t in got}
    with pytest.raises(AssertionError):
        assert_same_storages(got, q.tensors())


@pytest.mark.parametrize("reentrant", [True, False], ids=["reentrant", "non-reentrant"])
@pytest.mark.parametrize("kind", KINDS)
def test_checkpointing_holds_the_input_alone(kind: str, reentrant: bool) -> None:
    layer = make(kind)
    x, plain = randn(3, IN).requires_grad_(), randn(3, IN).requires_grad_()
    torch.autograd.backward(layer.run(plain).sum())
    recomputed: list[Tensor] = []

    def run(x: Tensor) -> Tensor:
        if not (reentrant and torch.is_grad_enabled()):
            return layer.run(x)
        output, seen = saved(layer.run, x)
        recomputed.extend(seen)
        return output

    output, got = saved(lambda x: checkpoint(run, x, use_reentrant=reentrant), x)
    # The non-reentrant mode of older torch adds an empty tensor of its own.
    assert [tensor.data_ptr() for tensor in got if tensor.numel()] == [x.data_ptr()]
    torch.autograd.backward(output.sum())
    if reentrant:
        assert_same_storages(recomputed, layer.held)
    assert x.grad is not None
    assert plain.grad is not None
    assert torch.equal(x.grad, plain.grad)


@pytest.mark.filterwarnings("ignore")  # of torch's own, while it compiles; they differ by release
@pytest.mark.parametrize("backend", COMPILERS)
@pytest.mark.parametrize("kind", ["nf4", "nf4 double", "int8 with outliers"])
def test_compiled_graphs_save_the_packed_weight_alone(kind: str, backend: str) -> None:
    if backend == "inductor" and shutil.which("g++") is None:
        pytest.skip("inductor needs a C++ compiler on a CPU")
    torch.compiler.reset()
    layer = make(kind)
    x, plain = randn(3, IN).requires_grad_(), randn(3, IN).requires_grad_()
    expected = layer.run(plain)
    torch.autograd.backward(expected.sum())
    compiled = torch.compile(layer.run, backend=backend, fullgraph=True)
    output, got = saved(compiled, x)
    assert_same_storages(got, layer.held)
    torch.autograd.backward(output.sum())
    assert x.grad is not None
    assert plain.grad is not None
    assert torch.equal(output, expected)
    assert torch.equal(x.grad, plain.grad)


@pytest.mark.parametrize("shape", [(IN,), (0, IN), (2, 0, IN), (2, 3, 4, IN)], ids=str)
@pytest.mark.parametrize("kind", ["nf4", "int8 with outliers"])
def test_leading_dimensions_are_kept(kind: str, shape: tuple[int, ...]) -> None:
    x = randn(*shape).requires_grad_()
    output = make(kind).run(x)
    torch.autograd.backward(output.sum())
    assert output.shape == (*shape[:-1], OUT)
    assert x.grad is not None
    assert x.grad.shape == shape


@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_autocast_decides_the_dtype(kind: str) -> None:
    layer = make(kind)
    x, bias = randn(3, IN).requires_grad_(), randn(OUT, seed=1).requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = layer.run(x, bias=bias)
    assert output.dtype == torch.bfloat16
    torch.autograd.backward(output.sum())
    assert x.grad is not None
    assert (x.grad.dtype, bias.grad is not None) == (torch.float32, True)
    assert torch.equal(output, layer.run(x.bfloat16(), bias=bias))


@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_a_frozen_input_still_gives_the_bias_its_gradient(kind: str) -> None:
    bias = torch.zeros(OUT, requires_grad=True)
    torch.autograd.backward(make(kind).run(randn(3, IN), bias=bias).sum())
    assert torch.equal(bias.grad if bias.grad is not None else bias, torch.full((OUT,), 3.0))


@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_a_second_derivative_is_refused_and_not_zero(kind: str) -> None:
    x = randn(3, IN).requires_grad_()
    (grad,) = torch.autograd.grad(make(kind).run(x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="autograd"):
        torch.autograd.backward(grad.sum())


def test_the_operator_passes_everything_on() -> None:
    x, bias = randn(4, IN) * 3, randn(OUT, seed=1)
    codes, scale = quantize_rowwise(randn(OUT, IN, seed=7) / 8)
    for threshold in (0.0, 2.0):
        assert torch.equal(linear_8bit(x, codes, scale, bias, threshold), matmul_int8(x, codes, scale, bias, threshold))
    assert not torch.equal(linear_8bit(x, codes, scale, bias, 2.0), linear_8bit(x, codes, scale, bias))
    q = quantize_4bit(randn(OUT, IN, seed=7) / 8, double=True)
    assert torch.equal(linear_4bit(x, q, bias), torch.nn.functional.linear(x, dequantize_4bit(q), bias))


def test_operators_keep_their_promises() -> None:
    q = quantize_4bit(randn(OUT, IN), double=True)
    assert q.nested is not None
    x, bias = randn(2, 3, IN).requires_grad_(), randn(OUT).requires_grad_()
    weight = (q.packed, q.absmax, q.nested.absmax, q.nested.offset, OUT, IN, "nf4", 64)
    torch.library.opcheck(torch.ops.repros_reference.linear_4bit.default, (x, bias, *weight))
    codes, scale = quantize_rowwise(randn(OUT, IN))
    torch.library.opcheck(torch.ops.repros_reference.linear_8bit.default, (x, bias, codes, scale, 2.0))


def test_importing_the_operators_again_is_harmless() -> None:
    before = make("nf4").run(randn(2, IN))
    kept = {name: sys.modules.pop(name) for name in ("repros.reference.ops", "repros.reference.linear")}
    try:
        again = importlib.import_module("repros.reference.linear")
        assert again is not kept["repros.reference.linear"]
        q = quantize_4bit(randn(OUT, IN, seed=7) / 8)
        assert torch.equal(again.linear_4bit(randn(2, IN), q), before)
        assert torch.equal(make("nf4").run(randn(2, IN)), before)
    finally:
        sys.modules.update(kept)


def test_shapes_that_do_not_fit_are_named() -> None:
    layer = make("nf4")
    with pytest.raises(UserError) as caught:
        layer.run(randn(3, 64))
    assert str(caught.value) == (
        "linear_4bit: x of shape (3, 64) does not fit a weight of shape (33, 65)\n"
        "hint: the last dimension of x must be 65"
    )
    with pytest.raises(UserError) as caught:
        make("int8").run(randn(3, IN), bias=randn(4))
    assert str(caught.value) == (
        "linear_8bit: a bias of shape (4,) does not fit a weight of shape (33, 65)\n"
        "hint: the bias must have shape (33,)"
    )
    with pytest.raises(UserError) as caught:
        linear_4bit(randn(3), quantize_4bit(randn(3)))
    assert str(caught.value) == ("linear_4bit: a weight of shape (3,) is not a matrix\nhint: pass [out, in]")
