"""The layers keep codes and scale together through everything that happens to a module."""

from __future__ import annotations

import copy
import gc
import io
import pickle
import weakref
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from repros.errors import UserError
from repros.reference.base import QuantizedLinear
from repros.reference.blockwise import dequantize_4bit, quantize_4bit
from repros.reference.int8 import dequantize_rowwise
from repros.reference.modules import FrozenLinear4bit, FrozenLinear8bit
from tests.reference.dense import dense_oracle

OUT, IN = 24, 40
KINDS = ("nf4", "fp4 double", "int8")


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def make(kind: str) -> QuantizedLinear:
    weight, bias = randn(OUT, IN), nn.Parameter(randn(OUT, seed=1))
    if kind == "int8":
        return FrozenLinear8bit.from_weight(weight, bias, threshold=2.0)
    quant_type, _, double = kind.partition(" ")
    return FrozenLinear4bit.from_weight(weight, bias, quant_type=quant_type, double=bool(double))


def empty(kind: str, device: str) -> QuantizedLinear:
    if kind == "int8":
        return FrozenLinear8bit(IN, OUT, threshold=2.0, device=device)
    quant_type, _, double = kind.partition(" ")
    return FrozenLinear4bit(IN, OUT, quant_type=quant_type, double=bool(double), device=device)


def through_state_dict(kind: str, device: str, assign: bool) -> Callable[[nn.Module], nn.Module]:
    def round_trip(layer: nn.Module) -> nn.Module:
        fresh = empty(kind, device)
        if device == "meta" and not assign:
            fresh.to_empty(device="cpu")
        fresh.load_state_dict(layer.state_dict(), assign=assign)
        return fresh

    return round_trip


def through_file(layer: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(layer, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    assert isinstance(loaded, nn.Module)
    return loaded


def after_a_step(layer: nn.Module) -> nn.Module:
    for reentrant in (True, False):
        x = randn(3, IN).requires_grad_()
        checkpoint(layer, x, use_reentrant=reentrant).sum().backward()
    layer.zero_grad()
    return layer.to("cpu").eval().train()


SURVIVALS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "half": lambda layer: layer.half(),
    "bfloat16": lambda layer: layer.bfloat16(),
    "double": lambda layer: layer.double(),
    "type": lambda layer: layer.type(torch.float16),
    "to dtype": lambda layer: layer.to(torch.bfloat16),
    "to device and dtype": lambda layer: layer.to("cpu", torch.float16),
    "to twice": lambda layer: layer.to("cpu").to("cpu"),
    "half in a model": lambda layer: nn.Sequential(layer).half()[0],
    "deepcopy": copy.deepcopy,
    "pickle": lambda layer: pickle.loads(pickle.dumps(layer)),
    "file": through_file,
    "share_memory": lambda layer: layer.share_memory(),
    "step under checkpointing": after_a_step,
}


def dense(layer: QuantizedLinear) -> Tensor:
    """Return the weight that a layer stands for."""
    if isinstance(layer, FrozenLinear8bit):
        return dequantize_rowwise(layer.codes, layer.scale)
    assert isinstance(layer, FrozenLinear4bit)
    return dequantize_4bit(layer.quantized)


def assert_same_weight(layer: nn.Module, expected: dict[str, Tensor]) -> None:
    buffers = dict(layer.named_buffers())
    assert buffers.keys() == expected.keys()
    for name, value in expected.items():
        assert buffers[name].dtype == value.dtype, name
        assert torch.equal(buffers[name], value), name


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("survival", SURVIVALS)
def test_weight_and_scale_survive(kind: str, survival: str) -> None:
    layer = make(kind)
    expected = {name: value.clone() for name, value in layer.named_buffers()}
    after = SURVIVALS[survival](layer)
    assert_same_weight(after, expected)
    assert isinstance(after.bias, nn.Parameter)
    dtype = after.bias.dtype
    x = randn(3, IN).to(dtype).requires_grad_()
    output = after(x)
    output.sum().backward()
    if dtype == torch.float32:
        assert torch.equal(output, make(kind)(x.detach()))
    assert output.dtype == dtype
    weight = dense(make(kind))
    oracle = dense_oracle(x.detach(), weight, after.bias.detach())
    # Rounding of weight and result to the dtype, and of the sums in float32, as in test_linear.py.
    unit, size = 2 * torch.finfo(dtype).eps + IN * 2.0**-23, x.detach().double().abs() @ weight.double().abs().t()
    bound = unit * (size + after.bias.detach().double().abs())
    if kind == "int8":  # and half a code for every activation
        half = x.detach().double().abs().amax(dim=-1, keepdim=True) / 254
        bound = bound + (1 + unit) * half * weight.double().abs().sum(dim=1)
    assert ((output - oracle.output).abs() <= bound).all()
    assert x.grad is not None
    assert ((x.grad - oracle.grad_x).abs() <= unit * weight.double().abs().sum(dim=0)).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("assign", [True, False], ids=["assign", "copy"])
def test_a_state_dict_carries_everything(kind: str, device: str, assign: bool) -> None:
    layer = make(kind)
    after = through_state_dict(kind, device, assign)(layer)
    assert_same_weight(after, dict(layer.named_buffers()))
    x = randn(3, IN)
    assert torch.equal(after(x), layer(x))


@pytest.mark.parametrize("kind", KINDS)
def test_a_state_dict_without_the_scale_is_refused(kind: str) -> None:
    state = make(kind).state_dict()
    del state["scale" if kind == "int8" else "absmax"]
    with pytest.raises(RuntimeError, match="Missing key"):
        empty(kind, "cpu").load_state_dict(state)


@pytest.mark.parametrize("kind", KINDS)
def test_meta_layers_have_the_shapes_of_real_ones(kind: str) -> None:
    with torch.device("meta"):
        built = empty(kind, "meta").half()
    real = dict(make(kind).named_buffers())
    assert {name: (b.shape, b.dtype) for name, b in built.named_buffers()} == {
        name: (b.shape, b.dtype) for name, b in real.items()
    }
    assert all(tensor.is_meta for tensor in built.state_dict().values())


@pytest.mark.parametrize("kind", KINDS)
def test_the_default_device_is_honoured(kind: str) -> None:
    with torch.device("meta"):
        built = FrozenLinear8bit(IN, OUT) if kind == "int8" else FrozenLinear4bit(IN, OUT)
    assert all(tensor.is_meta for tensor in built.state_dict().values())


@pytest.mark.parametrize(("kind", "name"), [("nf4", "packed"), ("int8", "codes")])
def test_a_call_on_meta_says_what_is_missing(kind: str, name: str) -> None:
    layer = make(kind).to("meta")
    with pytest.raises(UserError) as caught:
        layer(randn(3, IN))
    assert str(caught.value) == (
        f"{type(layer).__name__}: `{name}` of a 24 x 40 weight is on the meta device and holds no values\n"
        "hint: call `.to_empty(device=...)` and load a state dict before the first forward"
    )


@pytest.mark.parametrize("kind", KINDS)
def test_a_layer_is_the_dense_layer_of_its_weight_and_bias(kind: str) -> None:
    """Of zeros it gives the bias, to the bit; of a unit vector a column of the weight more, within its quantization."""
    layer, weight, bias = make(kind), randn(OUT, IN), randn(OUT, seed=1)
    assert torch.equal(layer(torch.zeros(3, IN)), bias.expand(3, OUT))
    exact = dense_oracle(torch.eye(IN), weight, bias).output
    # Half of the widest gap of a table is 0.17 of a block's largest magnitude (fp4), which here is below 4.
    assert (layer(torch.eye(IN)) - exact).abs().max() < 0.17 * 4


@pytest.mark.parametrize("kind", KINDS)
def test_a_new_layer_is_a_weight_of_zeros(kind: str) -> None:
    assert torch.equal(empty(kind, "cpu")(randn(3, IN)), torch.zeros(3, OUT))


@pytest.mark.filterwarnings("ignore")  # of torch's own, while it compiles; they differ by release
@pytest.mark.parametrize("kind", KINDS)
def test_a_layer_compiles_in_one_graph(kind: str) -> None:
    torch.compiler.reset()
    layer = make(kind)
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    assert torch.equal(compiled(randn(3, IN)), layer(randn(3, IN)))


@pytest.mark.parametrize("make_layer", [FrozenLinear4bit.from_weight, FrozenLinear8bit.from_weight])
def test_nothing_of_the_source_is_kept(make_layer: Callable[..., nn.Module]) -> None:
    weight = randn(OUT, IN)
    alive = weakref.ref(weight)
    layer = make_layer(weight)
    assert all(b.data_ptr() != weight.data_ptr() for b in layer.buffers())
    assert layer.bias is None
    del weight
    gc.collect()
    assert alive() is None


def test_a_bias_trains_only_if_it_did() -> None:
    for requires_grad in (True, False):
        bias = nn.Parameter(randn(OUT), requires_grad=requires_grad)
        layer = FrozenLinear8bit.from_weight(randn(OUT, IN), bias)
        assert layer.bias is not None
        assert layer.bias.requires_grad == requires_grad
        assert layer.bias.data_ptr() != bias.data_ptr()


@pytest.mark.parametrize("kind", KINDS)
def test_offload_hooks_take_the_layer_for_what_it_is(kind: str) -> None:
    """accelerate knows bitsandbytes' layers by the name of their class; under one of those a bias ends in an error."""
    accelerate = pytest.importorskip("accelerate")
    layer, x = make(kind), randn(3, IN)
    expected = layer(x)
    held = accelerate.cpu_offload(copy.deepcopy(layer), torch.device("cpu"), offload_buffers=True)
    assert all(tensor.is_meta for tensor in (*held.buffers(), *held.parameters()))
    assert torch.equal(held(x), expected)


def test_the_quantized_view_shares_the_buffers() -> None:
    weight = randn(OUT, IN).bfloat16()
    layer = FrozenLinear4bit.from_weight(weight, quant_type="fp4", blocksize=32, double=True)
    q = layer.quantized
    assert [t.data_ptr() for t in q.tensors()] == [b.data_ptr() for b in layer.buffers()]
    assert torch.equal(dequantize_4bit(q), dequantize_4bit(quantize_4bit(weight, "fp4", 32, True)))


def test_a_weight_that_is_no_matrix_is_refused() -> None:
    for from_weight in (FrozenLinear4bit.from_weight, FrozenLinear8bit.from_weight):
        with pytest.raises(UserError) as caught:
            from_weight(torch.zeros(2, 3, 4))
        assert str(caught.value) == ("from_weight: a weight of shape (2, 3, 4) is not a matrix\nhint: pass [out, in]")
