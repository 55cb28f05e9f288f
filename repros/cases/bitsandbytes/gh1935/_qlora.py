"""One QLoRA training step: the model that takes it, the memory that it should take, and the planted bug.

The model is transformers' Llama in the shapes of a published one (`fixtures/qlora_models.json`), in bfloat16, of random
values. The weights of its decoder layers are frozen in 4 bits, each with a trained adapter beside it
(arXiv:2106.09685). Arms differ in ``make_layer``, which turns a 16-bit weight ``[out, in]`` into the frozen layer.
"""

import copy
import json

from repros import ROOT

MODELS = ROOT / "fixtures/qlora_models.json"
RANK = 16  # of an adapter
BLOCKSIZE = 64  # weights that share a scale
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


def weight_shapes(config):
    """Return (out, in) of a decoder layer's weights: q, k, v and o of attention; gate, up and down."""
    hidden, inner = config.hidden_size, config.intermediate_size
    q, kv = config.num_attention_heads * config.head_dim, config.num_key_value_heads * config.head_dim
    return [(q, hidden), (kv, hidden), (kv, hidden), (hidden, q), (inner, hidden), (inner, hidden), (hidden, inner)]


def predicted(config, length, checkpointed=False):
    """Return the bytes that a step should take at its peak, by what they are for; no compiler is foreseen."""
    layers, hidden, inner = config.num_hidden_layers, config.hidden_size, config.intermediate_size
    vocab, shapes = config.vocab_size, weight_shapes(config)
    (q, _), (kv, _), *_ = shapes
    elements = sum(n * k for n, k in shapes)
    # What a decoder layer saves of each token for its backward:
    norms = 2 * 4 * hidden  # the inputs of both, in float32
    linears = 3 * 2 * hidden + 7 * 2 * RANK  # inputs: of q, k and v; of o; of gate and up; of half of each adapter
    attention = 2 * (2 * q + 2 * kv) + 4 * config.num_attention_heads  # q, k, v and output; a float32 for each head
    products = 4 * 2 * inner  # gate, its activation, up, their product
    saved = length * (norms + linears + attention + products)
    return {
        "base": layers * (elements // 2 + 4 * elements // BLOCKSIZE),  # 4 bits a weight, a float32 scale a block
        # In bfloat16: the embedding, the head unless it is the embedding, the norms.
        "embedding": 2 * vocab * hidden * (1 if config.tie_word_embeddings else 2) + 2 * hidden * (2 * layers + 1),
        "adapters": layers * RANK * sum(n + k for n, k in shapes) * (2 + 2 + 4),  # value, gradient, AdamW's two states
        # Checkpointed, a step saves the input of each layer, and the rest of one layer at a time.
        "activations": saved + layers * 2 * length * hidden if checkpointed else layers * saved,
        "logits": length * vocab * (2 + 4 + 4 + 4 + 2),  # bfloat16, float32, log-softmax, both gradients
        "workspace": 2 * 2 * max(n * k for n, k in shapes),  # two dequantized weights, the largest
    }


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


def saves_weight(cache=False):
    """Return what makes the reference's layers with the reported bug, that autograd saves the dequantized weight.

    With ``cache`` a layer keeps it too, whatever becomes of what autograd saved.
    """
    import torch

    from repros.reference.blockwise import Quantized4bit, dequantize_4bit
    from repros.reference.modules import FrozenLinear4bit

    scheme = "(Tensor packed, Tensor absmax, int n, int k) -> Tensor"

    # An operator that a compiler cannot open: else it might undo the bug and dequantize again in the backward.
    @torch.library.custom_op("repros_planted::whole", mutates_args=(), schema=scheme)
    def dequantize(packed, absmax, n, k):
        return dequantize_4bit(Quantized4bit(packed, absmax, (n, k), torch.bfloat16, "nf4", BLOCKSIZE))

    dequantize.register_fake(lambda packed, absmax, n, k: packed.new_empty((n, k), dtype=torch.bfloat16))

    class SavesItsWeight(FrozenLinear4bit):
        """Multiply by the dequantized weight, as any other layer does."""

        def forward(self, x):
            weight = dequantize(self.packed, self.absmax, self.out_features, self.in_features)
            self.cache = weight if cache else None
            return torch.nn.functional.linear(x, weight)

    return SavesItsWeight.from_weight
