"""The same steps on the reference: codes and scales are buffers of one module, so most steps are what torch does."""

from __future__ import annotations

from typing import Any

from repros.hunt import upstream


def build(spec: dict[str, Any], t: dict[str, Any], device: str = "cpu") -> Any:
    """Return the reference's layer of a spec."""
    from repros.reference.modules import FrozenLinear4bit, FrozenLinear8bit

    if device == "meta":
        if spec["kind"] == "int8":
            return FrozenLinear8bit(spec["in"], spec["out"], spec["bias"], threshold=spec["threshold"], device="meta")
        options = {"quant_type": spec["kind"], "blocksize": spec["blocksize"], "double": spec["double"]}
        return FrozenLinear4bit(spec["in"], spec["out"], spec["bias"], device="meta", **options)
    if spec["kind"] == "int8":
        return FrozenLinear8bit.from_weight(t["weight"], t["bias"], threshold=spec["threshold"]).requires_grad_(False)
    options = {"quant_type": spec["kind"], "blocksize": spec["blocksize"], "double": spec["double"]}
    return FrozenLinear4bit.from_weight(t["weight"], t["bias"], **options).requires_grad_(False)


def same(layer: Any, s: Any, **parameters: Any) -> Any:
    """Leave the layer as it is: the step concerns what the reference does not keep apart from its buffers."""
    return layer


def step_state_dict(layer: Any, s: Any) -> Any:
    new = build(s.spec, upstream.make_tensors(s.spec, seed=1))
    new.load_state_dict(layer.state_dict())
    return new.train(layer.training)


def step_safetensors(layer: Any, s: Any) -> Any:
    from safetensors.torch import load, save

    new = build(s.spec, upstream.make_tensors(s.spec, seed=1))
    new.load_state_dict(load(save(layer.state_dict())))
    return new.train(layer.training)


def step_state_dict_meta(layer: Any, s: Any) -> Any:
    new = build(s.spec, {}, "meta")
    new.load_state_dict(layer.state_dict(), assign=True)
    new.refuse_meta()  # what was saved under offload hooks holds no values
    return new.requires_grad_(False).train(layer.training)


def step_weight_to(layer: Any, s: Any) -> Any:
    """Move what the weight is made of, and not the layer; raises where offload hooks hold it, as a dense layer does."""
    for name, tensor in list(layer.named_buffers()):
        layer._buffers[name] = tensor.to("cpu")
    return layer


def step_tie(layer: Any, s: Any) -> Any:
    other = build(s.spec, upstream.make_tensors(s.spec, seed=1))
    for name, tensor in layer.named_buffers():
        other._buffers[name] = tensor
    other(s.t["x"])
    return layer


def step_offload(layer: Any, s: Any) -> Any:
    import accelerate
    import torch

    return accelerate.cpu_offload(layer, execution_device=torch.device("cpu"), offload_buffers=True)


def change(layer: Any) -> None:
    """Change the codes in place."""
    import torch

    with torch.no_grad():
        (layer.codes if hasattr(layer, "codes") else layer.packed).zero_()


def reset(layer: Any) -> None:
    """There is nothing to reset."""


step_train, step_eval, step_to = upstream.step_train, upstream.step_eval, upstream.step_to
step_deepcopy, step_pickle, step_torch_save = upstream.step_deepcopy, upstream.step_pickle, upstream.step_torch_save
step_zero_grad, step_cast, step_unhook, run = (
    upstream.step_zero_grad,
    upstream.step_cast,
    upstream.step_unhook,
    upstream.run,
)
step_pretrained = step_reset = step_lora = step_lora_merge = same
