"""What a mixture that was loaded in part comes to at its true depth and number of experts."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from repros.worker.checkpoints import config_of, recipe_of


def installed_tensors(model):
    """Yield name and tensor of each parameter of an installed model, and of the scales of quantized ones."""
    for name, parameter in model.named_parameters():
        state = getattr(parameter, "quant_state", None)  # of 4 bits
        scales = [state.absmax] if state is not None else [parameter.SCB] if hasattr(parameter, "SCB") else []
        yield from ((name, tensor) for tensor in (parameter, *scales))


def reference_tensors(model):
    """Yield the same of a model of the reference, where a quantized weight is codes, scales and a shape."""
    for name, kept in model.items():
        yield from ((name, tensor) for tensor in (kept[:2] if isinstance(kept, tuple) else (kept,)))


def bytes_of(c, named_tensors):
    """Return bytes as loaded (``model_*``), and as the true model would have them (``whole_*``)."""
    recipe = recipe_of(c.checkpoint)
    cut, true = config_of(recipe), config_of(replace(recipe, layers=None, vocab=None, experts=None))
    layers, experts, vocab = (true[key] / cut[key] for key in ("num_hidden_layers", "num_experts", "vocab_size"))
    found = Counter()
    for name, tensor in named_tensors:
        size, is_expert = tensor.numel() * tensor.element_size(), ".experts." in name
        of_layers = layers * (experts if is_expert else 1)
        of_vocabulary = vocab if tensor.dim() == 2 else 1
        whole = size * (of_layers if ".layers." in name else of_vocabulary)
        is_16bit = str(tensor.dtype) in ("torch.bfloat16", "torch.float16")
        found.update(model_bytes=size, model_16bit_bytes=size * is_16bit)
        found.update(whole_bytes=whole, whole_16bit_bytes=whole * is_16bit, whole_experts_bytes=whole * is_expert)
    return found
