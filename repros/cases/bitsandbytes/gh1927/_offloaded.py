"""What a user who offloads int8 layers while they train can do today."""

from repros.case import Remedy
from repros.cases.bitsandbytes.gh1927 import _int8
from repros.cases.bitsandbytes.gh1927._training import train


def in_16_bits(frozen):
    import torch

    layer = torch.nn.Linear(_int8.IN, _int8.OUT, device=frozen.device)
    layer.load_state_dict({"weight": frozen.weight, "bias": frozen.bias})
    return layer.requires_grad_(False).bfloat16()


KEEP = Remedy("keep int8 layers on the device: offload the others alone", arm="remedy_keep")
IN_16_BITS = Remedy(
    "leave what is offloaded in 16 bits, as `llm_int8_enable_fp32_cpu_offload=True` does",
    params={"make": in_16_bits},
    recommended="the documentation of transformers",
)


def remedy_keep(c, frozen, batch):
    yield "offload"
    return (yield from train(_int8.installed_layer(frozen), batch, recompute=c.recompute, training=c.training))
