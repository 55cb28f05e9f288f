"""One QLoRA training step, and the model that takes it.

The model is transformers' Llama in the shapes of a published one (`fixtures/qlora_models.json`), in bfloat16, of random
values. The weights of its decoder layers are frozen in 4 bits, each with a trained adapter beside it
(arXiv:2106.09685). Arms differ in ``make_layer``, which turns a 16-bit weight ``[out, in]`` into the frozen layer.
"""

import copy
import json

from repros import ROOT
from repros.reference.step_memory import RANK, predicted

MODELS = ROOT / "fixtures/qlora_models.json"
LENGTH = 512  # tokens of the one sequence in a step; the report says nothing of it
STEP = f"a step: one sequence of {LENGTH} tokens"


def llama(model):
    """Return the configuration of a model, by its name in the fixture."""
    from transformers import LlamaConfig

    shape = json.loads(MODELS.read_text(encoding="utf-8"))[model]
    del shape["comment"]
    return LlamaConfig(**shape, use_cache=False, attn_implementation="sdpa")


def token_ids(config, length, device):
    """Draw one sequence, int64 ``[1, length]``."""
    import torch

    return torch.randint(config.vocab_size, (1, length), device=device)


def eager(model):
    """Run the model as it is."""


def training_step(config, ids, run_as, make_layer, adamw=None):
    """Build the model, have it run as wanted, and train it by one step with AdamW: torch's, if none is given."""
    import torch

    yield "build"
    model = build(config, ids.device.type, make_layer)
    adapters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = (adamw or torch.optim.AdamW)(adapters, lr=1e-4)
    run_as(model)
    for parameter in adapters:
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()  # makes its state, so that the step is not the first one
    optimizer.zero_grad()
    yield "step"
    loss = model(input_ids=ids, labels=ids).loss
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    parts = predicted(config, ids.shape[1], model.is_gradient_checkpointing)
    return {
        "loss": float(loss.detach()),
        "graph_calls": torch._dynamo.utils.counters["stats"]["unique_graphs"],
        "predicted_bytes": float(sum(parts.values())),
        **{f"predicted_{name}_bytes": float(value) for name, value in parts.items()},
    }


def build(config, device, make_layer):
    """Return the model; one weight of each shape is drawn and quantized, since values do not matter to bytes."""
    import torch
    from transformers import LlamaForCausalLM

    class Adapted(torch.nn.Module):
        """A frozen layer and its adapter."""

        def __init__(self, weight):
            super().__init__()
            (n, k), kind = weight.shape, {"bias": False, "device": device, "dtype": weight.dtype}
            self.frozen = make_layer(weight)
            self.down, self.up = torch.nn.Linear(k, RANK, **kind), torch.nn.Linear(RANK, n, **kind)
            torch.nn.init.zeros_(self.up.weight)

        def forward(self, x):
            return self.frozen(x) + self.up(self.down(x))

    with torch.device("meta"):
        model = LlamaForCausalLM(config).to(torch.bfloat16).requires_grad_(False)
    adapted = {}
    for name, module in list(model.model.layers.named_modules()):
        if isinstance(module, torch.nn.Linear):
            shape = module.weight.shape
            if shape not in adapted:
                adapted[shape] = Adapted(torch.randn(shape, device=device, dtype=torch.bfloat16) * 0.02)
            model.model.layers.set_submodule(name, copy.deepcopy(adapted[shape]))
    adapted.clear()
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            if parameter.is_meta:  # a norm, the embedding, the head
                like = {"size": parameter.shape, "device": device, "dtype": parameter.dtype}
                value = torch.ones(**like) if parameter.dim() == 1 else torch.randn(**like).mul_(0.02)
                setattr(module, name, torch.nn.Parameter(value, requires_grad=False))
    if config.tie_word_embeddings:
        model.lm_head.weight = model.model.embed_tokens.weight
    with torch.device(device):
        model.model.rotary_emb = type(model.model.rotary_emb)(config)  # its table is a buffer that nothing saves
    return model.train()


def installed_layer(weight):
    """Return bitsandbytes' layer of a 16-bit weight ``[out, in]``, quantized where the weight lies."""
    from bitsandbytes.nn import Linear4bit, Params4bit

    (n, k), scheme = weight.shape, {"quant_type": "nf4", "compress_statistics": False}
    layer = Linear4bit(k, n, bias=False, compute_dtype=weight.dtype, device="meta", **scheme)
    layer.weight = Params4bit(weight, requires_grad=False, **scheme).to(weight.device)
    return layer
