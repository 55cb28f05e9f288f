"""The dense oracle: float64, and what autograd says of the same layer."""

from __future__ import annotations

import torch

from tests.reference.dense import dense_oracle


def test_it_is_what_autograd_says_in_float64() -> None:
    generator = torch.Generator().manual_seed(0)
    x, weight, bias, grad = (torch.randn(s, generator=generator) for s in ((2, 3, 5), (4, 5), (4,), (2, 3, 4)))
    leaves = [t.double().requires_grad_() for t in (x, weight, bias)]
    output = torch.nn.functional.linear(*leaves)
    for given in (grad, None):
        torch.autograd.backward(output, torch.ones_like(output) if given is None else given.double(), retain_graph=True)
        found = dense_oracle(x, weight, bias, given)
        for got, leaf in zip(found[1:], leaves, strict=True):
            assert got is not None and got.dtype == torch.float64
            assert torch.allclose(got, leaf.grad, rtol=1e-14, atol=1e-14)  # type: ignore[arg-type]
            leaf.grad = None
        assert torch.allclose(found.output, output, rtol=1e-14, atol=1e-14)
    assert dense_oracle(x, weight).grad_bias is None
