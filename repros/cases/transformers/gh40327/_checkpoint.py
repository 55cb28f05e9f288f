"""A small Llama that was saved in 4 bits, and which shard each of its tensors lies in."""

import json
from dataclasses import replace
from pathlib import Path

SIZE = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 1, "num_attention_heads": 4}


def apart(name):
    """Put the states of all weights into a shard of their own."""
    return int(".weight." in name)


def together(name):
    """Put all tensors of a parameter into one shard: one of the attention, one of the rest."""
    return int("self_attn" in name)


def write(folder, c):
    """Write the checkpoint; return its quantized weights by name, as the reference has them."""
    import torch
    from bitsandbytes.functional import QuantState
    from safetensors.torch import save_file
    from transformers import BitsAndBytesConfig, LlamaConfig, LlamaForCausalLM

    from repros.reference.blockwise import NESTED_BLOCKSIZE, quantize_4bit
    from repros.reference.codebook import table_dynamic

    config = LlamaConfig(vocab_size=64, **SIZE)
    tensors, weights = LlamaForCausalLM(config).state_dict(), {}
    for name in [name for name in tensors if "_proj" in name]:
        weights[name] = q = quantize_4bit(tensors[name].to(c.device), double=c.double)
        nested = {}
        if c.double:
            scales = {"absmax": q.nested.absmax, "code": table_dynamic(c.device), "dtype": torch.float32}
            nested = {"offset": q.nested.offset, "state2": QuantState(blocksize=NESTED_BLOCKSIZE, **scales)}
        state = QuantState(q.absmax, q.shape, q.code, q.blocksize, q.quant_type, q.dtype, **nested)
        tensors[name] = q.packed.view(-1, 1)
        tensors |= {f"{name}.{item}": tensor for item, tensor in state.as_dict(packed=True).items()}
    nf4 = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=c.double)
    config.quantization_config = nf4.to_dict()
    config.save_pretrained(folder)
    places = {name: f"model-{c.shard(name)}.safetensors" for name in tensors}
    for place in set(places.values()):
        held = {name: tensors[name].clone() for name in places if places[name] == place}
        save_file(held, f"{folder}/{place}", {"format": "pt"})
    Path(folder, "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return weights


def read_shards(folder):
    """Read one shard after another."""
    from safetensors.torch import load_file

    return [load_file(path) for path in sorted(Path(folder).glob("*.safetensors"))]


def merge(folder):
    """Put the tensors of all shards into one file."""
    from safetensors.torch import save_file

    tensors = {name: tensor for shard in read_shards(folder) for name, tensor in shard.items()}
    Path(folder, "model.safetensors.index.json").unlink()
    save_file(tensors, f"{folder}/model.safetensors", {"format": "pt"})


def restored(shard, name, q):
    """Make a weight of what a dictionary has of it."""
    from repros.reference.blockwise import dequantize_4bit

    (_state,) = (each for each in shard if each.startswith(f"{name}.quant_state."))
    return dequantize_4bit(replace(q, packed=shard[name].flatten(), absmax=shard[f"{name}.absmax"]))
