"""Give both quantized layers a bias, buffers that keep their dtype, and a refusal on meta."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from repros.errors import UserError


class QuantizedLinear(nn.Module):
    """A layer whose weight is buffers alone; subclasses register them and say what they mean."""

    bias: Tensor | None

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        zeros = torch.zeros(out_features, device=device, dtype=dtype) if bias else None
        self.register_parameter("bias", None if zeros is None else nn.Parameter(zeros))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> QuantizedLinear:
        """Apply ``fn`` and take back what it cast: ``.half()`` must not touch codes or scale."""
        before = dict(self._buffers)
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, kept in before.items():
            moved = self._buffers[name]
            if kept is not None and moved is not None and moved.dtype != kept.dtype:
                self._buffers[name] = kept.to(moved.device)
        return self

    def set_bias(self, bias: Tensor | None) -> None:
        """Take a copy of ``bias``, trained only if the original requires grad."""
        if bias is not None:
            self.bias = nn.Parameter(bias.detach().clone(), requires_grad=bias.requires_grad)

    def refuse_meta(self) -> None:
        """Raise UserError if a part of the weight is on the meta device."""
        for name, tensor in {**self._buffers, **self._parameters}.items():
            if tensor is not None and tensor.is_meta:
                raise UserError(
                    f"{type(self).__name__}: `{name}` of a {self.out_features} x "
                    f"{self.in_features} weight is on the meta device and holds no values",
                    "call `.to_empty(device=...)` and load a state dict before the first forward",
                )

    def extra_repr(self) -> str:
        """Name the sizes as ``nn.Linear`` does."""
        return f"{self.in_features}, {self.out_features}, bias={self.bias is not None}"


def matrix_shape(weight: Tensor) -> tuple[int, int]:
    """Return ``(out, in)`` of a 2-D weight; raise UserError for any other."""
    if weight.dim() != 2:
        raise UserError(
            f"from_weight: a weight of shape {tuple(weight.shape)} is not a matrix",
            "pass [out, in]",
        )
    return weight.shape[0], weight.shape[1]
