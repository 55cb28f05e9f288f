"""How an arm of a loading case loads a checkpoint: with the installed packages, or with the reference.

A condition's ``scheme`` is ``nf4`` or ``int8``, its ``dtype`` the one that the model is loaded in. The result of an arm
holds the model, since what an arm returns is still alive when the meters read the end; and some of the model's weights,
dequantized, which are compared with the checkpoint's.
"""

from __future__ import annotations

from repros.case import Needs, Remedy
from repros.worker.checkpoints import recipe_of, tensors
from repros.worker.sizes import is_quantized, sizes

#: The switch that has transformers 5 load without its thread pool.
SYNC = {"HF_DEACTIVATE_ASYNC_LOAD": "1"}
POOL = Needs({"transformers": ">=5"}, reason="the loader has a thread pool, and the switch, from 5.0")
SWITCH = Remedy("set `HF_DEACTIVATE_ASYNC_LOAD=1`", env=SYNC, recommended="transformers#44576", needs=POOL)
RACE = "how far the loader's threads get ahead of the quantizer is a race, so it moves from run to run"
#: The first of these waits until threads that read ahead are idle, so that no race decides a peak on a CPU.
GATE = ("bitsandbytes::quantize_4bit", "bitsandbytes::int8_vectorwise_quant", "repros_loading::quantize")


def load_installed(c, checkpoint, **options):
    """Load with the installed packages; ``options`` are further ones of ``from_pretrained``."""
    import torch
    import transformers
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig
    from transformers.utils import logging

    logging.disable_progress_bar()  # it would start a thread
    dtype = getattr(torch, c.dtype)
    config = BitsAndBytesConfig(load_in_8bit=True)
    if c.scheme == "nf4":
        config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype)
    release = tuple(int(part) for part in transformers.__version__.split(".")[:2])
    options["dtype" if release >= (4, 56) else "torch_dtype"] = dtype
    options["device_map"] = "auto" if c.device == "cuda" else {"": "cpu"}
    yield "load"
    model = AutoModelForCausalLM.from_pretrained(checkpoint, quantization_config=config, **options)
    yield "compare"
    return {"model": model, **{name: dequantized(model.get_parameter(name)) for name in compared(c)}}


def load_reference(c, checkpoint, load=lambda loader: loader.load(), quantizes=is_quantized):
    """Load with the reference. A planted bug is another way to ``load``, or another choice of what it ``quantizes``."""
    import torch

    from repros.reference.converter import Converter
    from repros.reference.loader import CardLoader, StreamingLoader

    convert = Converter(c.scheme, getattr(torch, c.dtype), quantizes, copy=c.device == "cpu")
    loader, threads = (CardLoader, 4) if c.device == "cuda" else (StreamingLoader, 1)
    yield "load"
    model = load(loader(checkpoint, convert, prefetch_bytes=ahead(c), threads=threads, device=c.device))
    yield "compare"
    return {"model": model, **{name: convert.restore(model[name]) for name in compared(c)}}


def ahead(c):
    """Return how many bytes of sources the reference may have alive; 0 is one at a time.

    For a GPU they wait in the host's memory. On a CPU a limit has room in int8 for a float16 copy of a bfloat16 source:
    the reference makes no such copy.
    """
    if c.device == "cuda":
        return 192 << 20
    return 2 * sizes(c.checkpoint).largest_quantized if c.scheme == "int8" and c.dtype == "bfloat16" else 0


def compared(c):
    """Return names of weights: of the first layer's two that are quantized, the smallest, and one that is not."""
    first = [s for s in tensors(recipe_of(c.checkpoint)) if ".layers.0." in s.name and s.name.endswith("weight")]
    first = [s for s in first if "expert" not in s.name]  # transformers renames those where it fuses them
    quantized = sorted((s for s in first if is_quantized(s.name, s.shape)), key=lambda s: s.nbytes)
    return (*(s.name for s in quantized[:2]), next(s.name for s in first if s not in quantized))


def published(c, checkpoint):
    """Return those weights as the checkpoint has them, in float64."""
    from repros.reference.checkpoint import read_tensor

    return {name: read_tensor(checkpoint, name).double() for name in compared(c)}


def dequantized(weight):
    """Return a parameter of the installed packages' model in float32."""
    import torch
    from bitsandbytes.functional import dequantize_4bit

    if weight.dtype == torch.uint8:
        return dequantize_4bit(weight.data, weight.quant_state).float()
    if weight.dtype == torch.int8:
        return weight.data.float() * weight.SCB.float().unsqueeze(1) / 127
    return weight.detach().float()
