"""Gradients: those of a dense float64 layer on the dequantized weight, in every mode in which training runs."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from repros.reference.blockwise import dequantize_4bit, quantize_4bit
from repros.reference.linear import linear_4bit
from tests.properties.evidence import count, proven
from tests.properties.graphs import BACKENDS, compiled, tensors
from tests.properties.layers import KINDS, Product, product
from tests.properties.strategies import DTYPES, Weight, blocksizes, matrices, weights
from tests.reference.dense import Dense, dense_oracle

ORDINARY = ("normal", "zeros", "constant", "outlier")


@contextmanager
def copying_hooks() -> Iterator[None]:
    """Save copies in place of the tensors, as activation offloading does."""
    with torch.autograd.graph.saved_tensors_hooks(lambda t: (t.clone(), t.dtype), lambda kept: kept[0]):
        yield


MODES: dict[str, Callable[[Callable[[Tensor], Tensor], Tensor], Tensor]] = {
    "eager": lambda run, x: run(x),
    "reentrant": lambda run, x: checkpoint(run, x, use_reentrant=True),
    "non-reentrant": lambda run, x: checkpoint(run, x, use_reentrant=False),
    "checkpoint in a checkpoint": lambda run, x: checkpoint(
        lambda y: checkpoint(run, y, use_reentrant=False), x, use_reentrant=False
    ),
}
HOOKS: dict[str, Callable[[], Any]] = {
    "none": nullcontext,
    "copied": copying_hooks,
    "on the CPU": lambda: torch.autograd.graph.save_on_cpu(),
}


def assert_as_dense(kind: str, made: Product, x: Tensor, bias: Tensor | None, grad: Tensor, output: Tensor) -> None:
    """Compare output and gradients with float64, within the roundings that the dtype and float32 sums have.

    A sum of n products in float32 is off by at most n 2**-24 of the sum of magnitudes; weight, result and (for the
    bias) each partial sum are rounded to the dtype. Values too small for the dtype are off by its smallest one.
    """
    oracle: Dense = dense_oracle(x, made.weight, bias, grad)
    info = torch.finfo(x.dtype)
    unit = 2 * info.eps + max(made.weight.shape) * 2.0**-23
    magnitudes = made.weight.abs()
    least = info.smallest_normal * (1 + max(made.weight.shape))
    assert x.grad is not None
    assert (x.grad.dtype, x.grad.shape) == (x.dtype, x.shape)
    assert ((x.grad - oracle.grad_x).abs() <= unit * (grad.double().abs() @ magnitudes) + least).all()
    size = x.detach().double().abs() @ magnitudes.t()
    if bias is not None:
        assert bias.grad is not None and oracle.grad_bias is not None
        rows = grad.reshape(-1, grad.shape[-1]).double().abs()
        assert ((bias.grad - oracle.grad_bias).abs() <= (2 + len(rows)) * info.eps * rows.sum(0) + least).all()
        size = size + bias.detach().double().abs()
    bound = unit * size
    if kind.startswith("int8"):  # and half a code for every activation
        half = x.detach().double().abs().amax(dim=-1, keepdim=True) / 254
        bound = bound + (1 + unit) * half * magnitudes.sum(dim=1)
    assert ((output - oracle.output).abs() <= bound + least).all()


def rows() -> st.SearchStrategy[tuple[int, ...]]:
    return st.one_of(st.integers(1, 6).map(lambda n: (n,)), st.sampled_from([(), (0,), (2, 3), (1, 1, 1), (2, 0)]))


@given(
    kind=st.sampled_from(KINDS),
    weight=weights(matrices(40), families=ORDINARY),
    dtype=st.sampled_from(DTYPES),
    blocksize=blocksizes(),
    leading=rows(),
    seed=st.integers(0, 1 << 16),
    mode=st.sampled_from(list(MODES)),
    hooks=st.sampled_from(list(HOOKS)),
    with_bias=st.booleans(),
)
@proven
def test_gradients_are_those_of_the_dense_layer(
    kind: str, weight: Weight, dtype: torch.dtype, blocksize: int, leading: tuple[int, ...], seed: int, mode: str,
    hooks: str, with_bias: bool,
) -> None:  # fmt: skip
    made = product(kind, weight.make().float().clamp(-100, 100), blocksize)
    x, bias, grad = tensors(seed, leading, tuple(made.weight.shape), dtype)
    with HOOKS[hooks]():
        output = MODES[mode](lambda y: made.run(y, bias=bias if with_bias else None), x)
    torch.autograd.backward(output, grad)
    assert_as_dense(kind, made, x, bias if with_bias else None, grad, output)


@given(
    quant_type=st.sampled_from(["nf4", "fp4"]), double=st.booleans(), weight=weights(matrices(6), families=ORDINARY),
    blocksize=blocksizes(), count_of_rows=st.integers(1, 3), seed=st.integers(0, 1 << 16),
)  # fmt: skip
@proven
def test_gradcheck(
    quant_type: str, double: bool, weight: Weight, blocksize: int, count_of_rows: int, seed: int
) -> None:
    """`torch.autograd.gradcheck` itself, in float64: numerical against analytical Jacobian in ``x`` and bias."""
    w = weight.make().float().clamp(-8, 8)
    q = quantize_4bit(w, quant_type, blocksize, double)
    x, bias, _ = tensors(seed, (count_of_rows,), tuple(w.shape), torch.float64)
    assert torch.autograd.gradcheck(lambda y, b: linear_4bit(y, q, b), (x, bias), fast_mode=True)
    assert torch.equal(linear_4bit(x, q), x @ dequantize_4bit(q, torch.float64).t())


@pytest.mark.filterwarnings("ignore")  # of torch's own, while it compiles; they differ by release
@pytest.mark.parametrize("backend", BACKENDS)
def test_compiled_gradients_are_those_of_eager_mode(backend: str) -> None:
    if backend == "inductor" and shutil.which("g++") is None:
        pytest.skip("inductor needs a C++ compiler on a CPU")
    torch.compiler.reset()  # graphs of another backend count towards the limit of recompilations
    compiled.cache_clear()
    compiled_gradients(backend)


@given(
    kind=st.sampled_from(["nf4", "nf4 double", "int8 outliers"]),
    family=st.sampled_from(ORDINARY),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    seed=st.integers(0, 1 << 16),
    again=st.booleans(),
)
@proven
def compiled_gradients(backend: str, kind: str, family: str, dtype: torch.dtype, seed: int, again: bool) -> None:
    """Shapes are fixed, so that a graph is built once; ``again``: checkpointed inside of what is compiled."""
    made = product(kind, Weight((33, 65), torch.float32, family, seed).make(), 64)
    x, bias, grad = tensors(seed, (3,), (33, 65), dtype)
    run = compiled(backend, kind)
    output = run(x, bias, *made.parts.values())
    torch.autograd.backward(output, grad)
    assert_as_dense(kind, made, x, bias, grad, output)
    plain = x.detach().clone().requires_grad_()
    expected = made.run(plain, bias=bias.detach())
    torch.autograd.backward(expected, grad)
    assert torch.equal(output, expected)
    assert x.grad is not None and plain.grad is not None
    assert torch.equal(x.grad, plain.grad)
    if again:
        x.grad = None
        output = checkpoint(lambda y: run(y, bias, *made.parts.values()), x, use_reentrant=False)
        torch.autograd.backward(output, grad)
        assert x.grad is not None and torch.equal(x.grad, plain.grad)
    count("compiled_gradients", f"examples under {backend}")


def raises(run: Callable[[], object], text: str) -> bool:
    try:
        run()
    except RuntimeError as error:
        assert text in str(error), error
        return True
    return False


def changed_between(mode: str, run: Callable[[Tensor], Tensor], x: Tensor, part: Tensor) -> Callable[[], object]:
    """Run forward, change ``part`` in place, and return what runs backward."""
    output = MODES[mode](run, x)
    with torch.no_grad():
        part.add_(1)
    return lambda: torch.autograd.backward(output.sum())


@given(
    kind=st.sampled_from(KINDS), weight=weights(matrices(24), families=("normal", "outlier")),
    blocksize=blocksizes(), mode=st.sampled_from(list(MODES)), which=st.integers(0, 3), seed=st.integers(0, 1 << 16),
)  # fmt: skip
@proven
def test_a_weight_changed_in_place_is_noticed(
    kind: str, weight: Weight, blocksize: int, mode: str, which: int, seed: int
) -> None:
    """Raise where `torch.nn.functional.linear` does: in eager mode. A recompute takes the weight as it is by then."""
    text = "has been modified by an inplace operation"
    w = weight.make().float().clamp(-100, 100)
    made = product(kind, w, blocksize)
    x, _, _ = tensors(seed, (2,), tuple(w.shape), torch.float32)
    part = list(made.parts.values())[which % len(made.parts)]
    dense = w.clone()
    linear = torch.nn.functional.linear
    theirs = raises(changed_between(mode, lambda y: linear(y, dense), x.detach().requires_grad_(), dense), text)
    assert raises(changed_between(mode, made.run, x, part), text) == theirs
    assert theirs == (mode == "eager")
    if not theirs:
        after = torch.autograd.grad(made.run(y := x.detach().requires_grad_()).sum(), y)[0]
        assert x.grad is not None
        assert torch.equal(x.grad, after)


@given(
    kind=st.sampled_from(KINDS), weight=weights(matrices(24), families=("normal", "zeros", "outlier")),
    blocksize=blocksizes(), dtype=st.sampled_from(DTYPES), seed=st.integers(0, 1 << 16),
)  # fmt: skip
@proven
def test_a_second_derivative_is_refused(
    kind: str, weight: Weight, blocksize: int, dtype: torch.dtype, seed: int
) -> None:
    """Never a silent zero: the gradient's own operator has no formula, and torch says so by its name."""
    w = weight.make().float()
    x, _, _ = tensors(seed, (2,), tuple(w.shape), dtype)
    (grad,) = torch.autograd.grad(product(kind, w, blocksize).run(x).square().sum(), x, create_graph=True)
    name = "linear_8bit_grad" if kind.startswith("int8") else "linear_4bit_grad"
    with pytest.raises(RuntimeError, match=f"(?s)autograd.*{name}|{name}.*autograd"):
        torch.autograd.backward(grad.sum())
