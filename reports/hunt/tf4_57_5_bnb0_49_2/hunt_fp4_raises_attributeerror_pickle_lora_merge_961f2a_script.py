"""It raises AttributeError: 'QuantState' object has no attribute 'SCB', where the reference goes on.

python3 -m pip install torch==2.13.0 transformers==4.57.5 bitsandbytes==0.49.2 accelerate==1.15.0 peft==0.21.2
The shortest life that shows it: [kind=fp4] pickle → lora_merge
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


def step_lora(layer: Any, s: Any, merge: bool = False) -> Any:
    """Wrap the layer in a fresh LoRA, whose delta is zero; run it; take it off again, or merge it."""
    import peft
    import torch

    class Holder(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.proj = layer

        def forward(self, x: Any) -> Any:
            return self.proj(x)

    holder: Any = Holder()
    holder.is_loaded_in_8bit = s.spec["kind"] == "int8"
    holder.is_loaded_in_4bit = s.spec["kind"] != "int8"
    training = layer.training
    wrapped: Any = peft.get_peft_model(holder, peft.LoraConfig(r=4, target_modules=["proj"]))
    wrapped.train(training)(s.t["x"])
    model: Any = wrapped.merge_and_unload() if merge else wrapped.unload()
    return model.proj.requires_grad_(False).train(training)


def step_lora_merge(layer: Any, s: Any) -> Any:
    return step_lora(layer, s, merge=True)


def step_pickle(layer: Any, s: Any) -> Any:
    import pickle

    return pickle.loads(pickle.dumps(layer))  # noqa: S301 - the round trip is the step


spec = {'kind': 'fp4', 'in': 64, 'out': 32, 'dtype': 'float32', 'bias': False, 'threshold': 0.0, 'double': False, 'blocksize': 64}
t = make_tensors(spec)
s = SimpleNamespace(spec=spec, t=t)
weight = dequantized(spec, t['weight'])
exact = t['x'].double() @ weight.t() + (0 if t['bias'] is None else t['bias'].double())
exact_grad = t['grad'].double() @ weight


def show(name: str, got: Any, want: Any) -> None:
    error = (got.detach().double() - want).abs().max() / want.abs().max()
    print(f"{name}: relative error {float(error):.3g}")


layer = build(spec, t)
layer = step_pickle(layer, s)
layer = step_lora_merge(layer, s)
import torch

with torch.no_grad():
    show("output", layer(t["x"]), exact)
