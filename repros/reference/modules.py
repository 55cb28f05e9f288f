"""Linear layers whose whole weight is registered buffers, so that no part of it can be left behind.

bitsandbytes keeps the scale of an int8 weight in an attribute of the parameter, moves it into a
state object at the first forward and loses it when either is replaced (bitsandbytes#1927).  Here
codes and scale travel together through ``.to``, ``deepcopy``, pickle, ``state_dict`` and
``to_empty``, and a cast of the module's dtype leaves both alone.

No class here has the name of one of bitsandbytes: accelerate's hooks know those by ``__name__`` alone, and would ask a
layer of that name for the parameter that it does not have.
"""

from __future__ import annotations

import torch
from torch import Tensor

from repros.reference.base import QuantizedLinear, matrix_shape
from repros.reference.blockwise import Nested, Quantized4bit, quantize_4bit
from repros.reference.int8 import quantize_rowwise
from repros.reference.linear import linear_4bit_parts, linear_8bit


class FrozenLinear4bit(QuantizedLinear):
    """``nn.Linear`` over a frozen 4-bit weight ``[out, in]``.

    Buffers: ``packed`` uint8 ``[ceil(out * in / 2)]``; ``absmax`` float32 ``[blocks]``, or uint8
    with ``nested_absmax`` and ``nested_offset`` beside it when ``double``.  A new layer stands for
    a weight of zeros.  ``dtype`` is that of the bias; the product takes the dtype of ``x``.
    """

    packed: Tensor
    absmax: Tensor
    nested_absmax: Tensor | None
    nested_offset: Tensor | None

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        quant_type: str = "nf4",
        blocksize: int = 64,
        double: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(in_features, out_features, bias, device, dtype)
        weight = torch.empty(out_features, in_features, dtype=dtype, device="meta")
        self._hold(quantize_4bit(weight, quant_type, blocksize, double))
        target = torch.empty(0, device=device).device  # None may mean one that a context has set
        self._apply(lambda tensor: torch.zeros_like(tensor, device=target))

    @classmethod
    def from_weight(
        cls,
        weight: Tensor,
        bias: Tensor | None = None,
        *,
        quant_type: str = "nf4",
        blocksize: int = 64,
        double: bool = False,
    ) -> FrozenLinear4bit:
        """Quantize ``weight`` ``[out, in]`` where it lies; the layer keeps no part of it.

        ``bias`` is cloned and trained only if it requires grad.  Raises UserError as
        ``quantize_4bit`` does, and for a weight that is not 2-D.
        """
        matrix_shape(weight)
        return cls.from_quantized(quantize_4bit(weight, quant_type, blocksize, double), bias)

    @classmethod
    def from_quantized(cls, q: Quantized4bit, bias: Tensor | None = None) -> FrozenLinear4bit:
        """Return the layer of a quantized ``[out, in]`` weight, whose tensors it takes as they are."""
        out_features, in_features = q.shape
        layer = cls.__new__(cls)  # a new layer's weight of zeros would be quantized for nothing
        QuantizedLinear.__init__(layer, in_features, out_features, bias=False)
        layer._hold(q)
        layer.set_bias(bias)
        return layer

    @property
    def quantized(self) -> Quantized4bit:
        """Return the weight as ``repros.reference.blockwise`` has it, sharing the buffers."""
        nested = None
        if self.nested_absmax is not None and self.nested_offset is not None:
            nested = Nested(self.nested_absmax, self.nested_offset)
        shape = (self.out_features, self.in_features)
        return Quantized4bit(
            self.packed,
            self.absmax,
            shape,
            self.weight_dtype,
            self.quant_type,
            self.blocksize,
            nested,
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return ``[..., out]`` for ``x`` ``[..., in]``; raise UserError on the meta device."""
        self.refuse_meta()
        return linear_4bit_parts(
            x,
            self.bias,
            self.packed,
            self.absmax,
            self.nested_absmax,
            self.nested_offset,
            (self.out_features, self.in_features),
            self.quant_type,
            self.blocksize,
        )

    def _hold(self, q: Quantized4bit) -> None:
        self.quant_type, self.blocksize, self.weight_dtype = q.quant_type, q.blocksize, q.dtype
        names = ("packed", "absmax", "nested_absmax", "nested_offset")
        for name, tensor in zip(names, (*q.tensors(), None, None), strict=False):
            self.register_buffer(name, tensor)


class FrozenLinear8bit(QuantizedLinear):
    """``nn.Linear`` over a frozen int8 weight, by LLM.int8 with ``threshold`` for outliers.

    Buffers: ``codes`` int8 ``[out, in]`` and ``scale`` float32 ``[out]``.  A new layer stands for
    a weight of zeros.  ``dtype`` is that of the bias; the product takes the dtype of ``x``.
    """

    codes: Tensor
    scale: Tensor

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        threshold: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(in_features, out_features, bias, device, dtype)
        self.threshold = threshold
        codes = torch.zeros(out_features, in_features, dtype=torch.int8, device=device)
        self.register_buffer("codes", codes)
        scale = torch.zeros(out_features, dtype=torch.float32, device=device)
        self.register_buffer("scale", scale)

    @classmethod
    def from_weight(cls, weight: Tensor, bias: Tensor | None = None, *, threshold: float = 0.0) -> FrozenLinear8bit:
        """Quantize ``weight`` ``[out, in]`` where it lies; the layer keeps no part of it.

        ``bias`` is cloned and trained only if it requires grad.  Raises UserError for a weight
        that is not 2-D.
        """
        matrix_shape(weight)
        return cls.from_quantized(*quantize_rowwise(weight), bias, threshold=threshold)

    @classmethod
    def from_quantized(
        cls, codes: Tensor, scale: Tensor, bias: Tensor | None = None, *, threshold: float = 0.0
    ) -> FrozenLinear8bit:
        """Return the layer of codes, int8 ``[out, in]``, and scale, float32 ``[out]``, which it takes as they are."""
        out_features, in_features = codes.shape
        layer = cls(in_features, out_features, bias=False, threshold=threshold, device="meta")
        layer.codes, layer.scale = codes, scale
        layer.set_bias(bias)
        return layer

    def forward(self, x: Tensor) -> Tensor:
        """Return ``[..., out]`` for ``x`` ``[..., in]``; raise UserError on the meta device."""
        self.refuse_meta()
        return linear_8bit(x, self.codes, self.scale, self.bias, self.threshold)
