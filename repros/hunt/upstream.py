"""The steps of a life as the installed packages document them.

Each function needs the pinned packages alone: a finding's script is made of the sources of those it uses.
"""

from __future__ import annotations

from typing import Any


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


def step_train(layer: Any, s: Any) -> Any:
    return layer.train()


def step_eval(layer: Any, s: Any) -> Any:
    return layer.eval()


def step_to(layer: Any, s: Any) -> Any:
    import torch

    return layer.to(torch.device("cpu"))


def step_weight_to(layer: Any, s: Any) -> Any:
    import torch

    layer.weight = layer.weight.to(torch.device("cpu"))
    return layer


def step_deepcopy(layer: Any, s: Any) -> Any:
    import copy

    return copy.deepcopy(layer)


def step_pickle(layer: Any, s: Any) -> Any:
    import pickle

    return pickle.loads(pickle.dumps(layer))  # noqa: S301 - the round trip is the step


def step_torch_save(layer: Any, s: Any) -> Any:
    import io

    import torch

    file = io.BytesIO()
    torch.save(layer, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


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


def step_state_dict(layer: Any, s: Any) -> Any:
    return load_into_new(layer, s, {name: value.clone() for name, value in layer.state_dict().items()})


def step_safetensors(layer: Any, s: Any) -> Any:
    from safetensors.torch import load, save

    tensors = {name: value.clone().contiguous() for name, value in layer.state_dict().items()}
    return load_into_new(layer, s, load(save(tensors)))


def step_state_dict_meta(layer: Any, s: Any) -> Any:
    """Build on the meta device and assign what was saved."""
    from bitsandbytes.nn import Int8Params, Params4bit

    saved = {name: value.clone() for name, value in layer.state_dict().items()}
    new = build(s.spec, {}, "meta")
    if s.spec["kind"] == "int8":
        # As transformers does: codes and scale make the parameter, the layer is not moved afterwards.
        codes = saved["weight"]
        new.weight = Int8Params(codes, requires_grad=False, has_fp16_weights=False, SCB=saved["SCB"]).to(codes.device)
    else:
        stats = {name.removeprefix("weight."): value for name, value in saved.items() if name.startswith("weight.")}
        new.weight = Params4bit.from_prequantized(saved["weight"], stats, requires_grad=False, device="cpu")
    if "bias" in saved:
        new.load_state_dict({"bias": saved["bias"]}, strict=False, assign=True)
    return new.requires_grad_(False).train(layer.training)


def step_pretrained(layer: Any, s: Any) -> Any:
    """Take the layer out of a model that transformers loads, saves quantized and loads again."""
    import torch
    from transformers import BitsAndBytesConfig, LlamaConfig, LlamaForCausalLM

    spec, training = s.spec, layer.training
    if spec["kind"] != "int8" and spec["blocksize"] != 64:
        return layer  # the configuration has no size of blocks: the model's weight would be another one
    shape = {"hidden_size": spec["in"], "intermediate_size": spec["out"], "num_attention_heads": 2}
    config = LlamaConfig(vocab_size=64, num_key_value_heads=2, num_hidden_layers=1, mlp_bias=spec["bias"], **shape)
    dtype = torch.float16  # in which the weight is exact
    model: Any = LlamaForCausalLM(config)
    model.model.layers[0].mlp.gate_proj.load_state_dict(
        {name: s.t[name] for name in ("weight", "bias") if s.t[name] is not None}
    )
    model.to(dtype).save_pretrained("made")
    if spec["kind"] == "int8":
        quantization = BitsAndBytesConfig(load_in_8bit=True, llm_int8_threshold=spec["threshold"])
    else:
        quantization = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type=spec["kind"],
            bnb_4bit_use_double_quant=spec["double"],
            bnb_4bit_compute_dtype=getattr(torch, spec["dtype"]),
        )
    options: dict[str, Any] = {"device_map": {"": "cpu"}, "dtype": dtype}
    model = LlamaForCausalLM.from_pretrained("made", quantization_config=quantization, **options)
    model.save_pretrained("made_quantized")
    model = LlamaForCausalLM.from_pretrained("made_quantized", **options)
    return model.model.layers[0].mlp.gate_proj.requires_grad_(False).train(training)


def step_reset(layer: Any, s: Any) -> Any:
    layer.state.reset_grads()
    return layer


def step_zero_grad(layer: Any, s: Any) -> Any:
    layer.zero_grad()
    return layer


def step_tie(layer: Any, s: Any) -> Any:
    """Let another layer share the weight and run first."""
    other = build(s.spec, make_tensors(s.spec, seed=1))
    other.weight = layer.weight
    other(s.t["x"])
    return layer


def step_cast(layer: Any, s: Any, dtype: str = "float16") -> Any:
    import torch

    return layer.to(getattr(torch, dtype))


def step_offload(layer: Any, s: Any) -> Any:
    import accelerate
    import torch

    # A device object: accelerate takes the string "cpu" as an order to quantize on an accelerator first.
    weights = {name: tensor.clone() for name, tensor in layer.state_dict().items()}
    return accelerate.cpu_offload(layer, execution_device=torch.device("cpu"), state_dict=weights)


def step_unhook(layer: Any, s: Any) -> Any:
    from accelerate.hooks import remove_hook_from_module

    return remove_hook_from_module(layer)


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


def change(layer: Any) -> None:
    """Change the codes in place."""
    import torch

    with torch.no_grad():
        layer.weight.zero_()


def reset(layer: Any) -> None:
    """Reset what the layer keeps between forward and backward, if it keeps anything."""
    if hasattr(layer, "state"):
        layer.state.reset_grads()


def run(layer: Any, x: Any, mode: str) -> Any:
    """Run the layer as a training loop may."""
    import torch
    from torch.utils.checkpoint import checkpoint

    if mode == "compiled":
        return torch.compile(layer, backend="aot_eager")(x)
    if mode == "plain":
        return layer(x)
    return checkpoint(layer, x, use_reentrant=mode == "reentrant")
