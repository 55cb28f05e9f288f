"""What the cases of peft#3265 declare alike, and their model: Mistral-7B's embedding, head and norms, in bfloat16.

Its 32 layers are narrow, and quantized by bitsandbytes; where two weights are of one shape they are the same. No arm
computes with them.
"""

from typing import Any

from repros.reference.formats import FourBit

LAYERS, HIDDEN, ROWS_7B = 32, 4096, 32768  # as Mistral-7B-v0.3 has them
QUANT = FourBit("nf4", double=False)

REPORT: dict[str, Any] = {
    "report": "peft#3265",
    "title": "prepare_model_for_kbit_training adds ~1 GB CUDA reserved memory in 500 ms — undocumented cost that "
    "breaks memory-constrained training on 8 GB unified-memory devices",
    "kind": "issue",
    "status": "closed",
    "severity": "memory",
    "also": ("bitsandbytes#1569", "peft#3267", "peft#3293", "peft#3347"),
}


def growth(rows):
    """Return by how many bytes all norms and so many rows grow in float32: two a number."""
    return 2 * HIDDEN * (2 * LAYERS + 1 + rows)


def of(rows, norms_alone=False, tied=False):
    """Return parameters of a condition: a vocabulary of so many; norms as all that is left to cast."""
    return {"rows": rows, "norms_alone": norms_alone, "tied": tied, "quant": QUANT}


def model_of_ones(c: Any) -> dict[str, Any]:
    """Make the model on the condition's device, each weight in an allocation of its own, of ones."""
    import copy

    import torch
    from transformers import MistralConfig, MistralForCausalLM

    from repros.cases._frozen import installed_layer

    narrow = {"intermediate_size": 16, "num_attention_heads": 1, "num_key_value_heads": 1, "head_dim": 16}
    sizes = {"vocab_size": c.rows, "hidden_size": HIDDEN, "num_hidden_layers": 1, **narrow}
    with torch.device("meta"):
        model = MistralForCausalLM(MistralConfig(**sizes, tie_word_embeddings=c.tied)).bfloat16()
    model.to_empty(device=c.device).tie_weights()
    for weight in model.parameters():
        weight.data.fill_(1.0)
    (layer,) = model.model.layers
    made: dict[Any, Any] = {}
    for name, linear in [(name, m) for name, m in layer.named_modules() if isinstance(m, torch.nn.Linear)]:
        shape = linear.weight.shape
        made[shape] = made.get(shape) or installed_layer(c, linear.weight.data)
        layer.set_submodule(name, made[shape])
    quantized = {id(one): one for one in made.values()}  # a copy of the layer keeps them, and has norms of its own
    model.model.layers.extend(copy.deepcopy(layer, dict(quantized)) for _ in range(LAYERS - 1))
    if c.norms_alone:
        model.get_input_embeddings().float()
        model.get_output_embeddings().float()
    model.is_loaded_in_4bit = True  # as `from_pretrained` marks it
    return {"model": model}


def widen(parameters, most=4):
    """Cast one parameter after another to float32, and, where numbers may have 8 bytes, from there to float64."""
    for p in parameters:
        if p.is_floating_point() and p.itemsize < most:
            p.data = p.data.float() if p.itemsize == 2 else p.data.double()
