"""A model of transformers and a step of its training: what the case of bitsandbytes#1569 runs."""

from repros.cases.bitsandbytes.gh1569._limit import RANK


def load(c, checkpoint, ids, nf4):
    """Load the model in bfloat16, and call it once: at its first call a library takes memory that it keeps for good."""
    import torch
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig
    from transformers.utils import logging

    logging.disable_progress_bar()  # it would start a thread
    kind = {"bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": torch.bfloat16}
    options = {"quantization_config": BitsAndBytesConfig(load_in_4bit=True, **kind)} if nf4 else {}
    place = {"": 0 if c.device == "cuda" else "cpu"}
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.bfloat16, device_map=place, **options)
    with torch.no_grad():
        model(input_ids=ids[:, :2])
    return model


def step(model, ids):
    logits = model(input_ids=ids).logits
    yield "backward"
    logits.sum().backward()
    return {}


def frozen(model):
    """Put layers of the reference in place of the linear ones below the head, and return the model."""
    import torch

    from repros.reference.modules import FrozenLinear4bit

    model.requires_grad_(False)
    for name, layer in list(model.model.layers.named_modules()):
        if isinstance(layer, torch.nn.Linear):
            model.model.layers.set_submodule(name, FrozenLinear4bit.from_weight(layer.weight, layer.bias))
    return model


def adapt(model):
    """Add a LoRA adapter (arXiv:2106.09685) to each `v_proj`; it is in float32, as PEFT's is."""
    import torch

    class Adapted(torch.nn.Module):
        def __init__(self, base, device):
            super().__init__()
            self.base = base
            self.down = torch.nn.Linear(base.in_features, RANK, bias=False, device=device)
            self.up = torch.nn.Linear(RANK, base.out_features, bias=False, device=device)

        def forward(self, x):
            base = self.base(x)
            return base + self.up(self.down(x.float())).to(base.dtype)

    for layer in model.model.layers:
        layer.self_attn.v_proj = Adapted(layer.self_attn.v_proj, model.device)
    return model.train()
