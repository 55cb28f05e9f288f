"""The output is wrong, and nothing says so.

python3 -m pip install torch==2.13.0 transformers==4.57.5 bitsandbytes==0.46.0 accelerate==1.15.0 peft==0.21.2
The shortest life that shows it: [kind=nf4] state_dict → pickle → deepcopy → forward
"""

from types import SimpleNamespace
from typing import Any


def build(spec: dict[str, Any], t: dict[str, Any], device: str = "cpu") -> Any:
    """Return a frozen quantized layer: load the weights, then move."""
    import torch
    from bitsandbytes.nn import Linear4bit, Linear8bitLt, Params4bit

    sizes = {"bias": spec["bias"], "device": device}
    layer: Any
    if spec["kind"] == "int8":
        layer = Linear8bitLt(spec["in"], spec["out"], has_fp16_weights=False, threshold=spec["threshold"], **sizes)
    else:
        dtype = getattr(torch, spec["dtype"])
        options = {"quant_type": spec["kind"], "compress_statistics": spec["double"]}
        layer = Linear4bit(spec["in"], spec["out"], compute_dtype=dtype, **options, **sizes)
        weight = layer.weight.data
        layer.weight = Params4bit(weight, requires_grad=False, blocksize=spec["blocksize"], module=layer, **options)
    layer.requires_grad_(False)
    if device == "meta":
        return layer
    layer.load_state_dict({name: t[name] for name in ("weight", "bias") if t[name] is not None})
    return layer.to(torch.device("cpu"))


def dequantized(spec: dict[str, Any], weight: Any) -> Any:
    """Return the weight that the codes stand for, by the definition, in float64."""
    import torch

    if spec["kind"] == "int8":
        scale = weight.double().abs().amax(dim=1, keepdim=True)
        return torch.round(weight.double() * 127 / scale) * scale / 127
    import bitsandbytes.functional

    table = bitsandbytes.functional.get_4bit_type(spec["kind"], device="cpu").double()
    blocks = weight.double().view(-1, spec["blocksize"])
    scale = blocks.abs().amax(dim=1, keepdim=True)
    nearest = (blocks / scale).unsqueeze(-1).sub(table).abs().argmin(dim=-1)
    return (table[nearest] * scale).view_as(weight)


def load_into_new(layer: Any, s: Any, saved: dict[str, Any]) -> Any:
    """Load a saved quantized layer into one that was made of other weights, as each class documents it."""
    from bitsandbytes.nn import Params4bit

    new = build(s.spec, make_tensors(s.spec, seed=1))
    if s.spec["kind"] == "int8":
        new.load_state_dict(saved)
    else:
        stats = {name.removeprefix("weight."): value for name, value in saved.items() if name.startswith("weight.")}
        new.weight = Params4bit.from_prequantized(saved["weight"], stats, requires_grad=False, device="cpu")
        if "bias" in saved:
            new.bias.data = saved["bias"].clone()
    return new.train(layer.training)


def make_tensors(spec: dict[str, Any], seed: int = 0) -> dict[str, Any]:
    """Draw weight and bias (exact in float16), an activation and a gradient of the output."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    dtype = getattr(torch, spec["dtype"])

    def randn(*shape: int) -> Any:
        return torch.randn(shape, generator=generator)

    weight = (randn(spec["out"], spec["in"]) * 0.02).half().float()
    bias = torch.round(randn(spec["out"]) * 8) / 64 if spec["bias"] else None
    x = randn(2, 8, spec["in"])
    if spec["threshold"]:
        x[..., :3] *= 10
    return {"weight": weight, "bias": bias, "x": x.to(dtype), "grad": randn(2, 8, spec["out"]).to(dtype)}


def step_deepcopy(layer: Any, s: Any) -> Any:
    import copy

    return copy.deepcopy(layer)


def step_pickle(layer: Any, s: Any) -> Any:
    import pickle

    return pickle.loads(pickle.dumps(layer))  # noqa: S301 - the round trip is the step


def step_state_dict(layer: Any, s: Any) -> Any:
    return load_into_new(layer, s, {name: value.clone() for name, value in layer.state_dict().items()})


spec = {'kind': 'nf4', 'in': 64, 'out': 32, 'dtype': 'float32', 'bias': False, 'threshold': 0.0, 'double': False, 'blocksize': 64}
t = make_tensors(spec)
s = SimpleNamespace(spec=spec, t=t)
weight = dequantized(spec, t['weight'])
exact = t['x'].double() @ weight.t() + (0 if t['bias'] is None else t['bias'].double())
exact_grad = t['grad'].double() @ weight


def show(name: str, got: Any, want: Any) -> None:
    error = (got.detach().double() - want).abs().max() / want.abs().max()
    print(f"{name}: relative error {float(error):.3g}")


layer = build(spec, t)
layer = step_state_dict(layer, s)
layer = step_pickle(layer, s)
layer = step_deepcopy(layer, s)
import torch

with torch.no_grad():
    show("output", layer(t["x"]), exact)
