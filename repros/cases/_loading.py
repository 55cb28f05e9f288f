"""What the loading cases share: bytes by what becomes of each tensor, and how their arms load.

16-bit bytes alive while a checkpoint is quantized on the fly, if nothing is kept longer than it is used:

- *resident*: tensors that stay 16-bit (embedding, norms, an untied head), in the dtype that was asked for;
- *one source*, the largest, from its reading to the end of its quantization;
- *one copy* of it where a conversion makes one: a cast to another dtype than the checkpoint's, or the float16 that
  bitsandbytes' int8 quantization starts from. A cast copy replaces its source, so there are never two copies;
- where the dtype is cast, *the source of one that stays*, the largest: a loop may drop it only with its next round, as
  transformers before 4.57 does.

A source counts whether it lies on the heap or is a view of the mapped file: on an accelerator both are allocations.

On a GPU the whole is judged, as the reports do: what stays, quantized or not; one tensor on its way, the largest,
beside what it becomes; the copy that a conversion makes; and what the caching allocator rounds by (`allocated_limit`,
`reserved_limit`).
"""

from __future__ import annotations

import threading
from collections.abc import Generator
from dataclasses import replace
from math import prod
from types import SimpleNamespace
from typing import Any

from repros.case import ITEMSIZE, Condition, Params, Requires
from repros.worker.checkpoints import Spec, recipe_of, tensors

#: Of a number that a free-running loader makes.
RACE = "how far the loader's threads get ahead of the quantizer is a race, so it moves from run to run"
Arm = Generator[str, None, dict[str, Any]]

#: One layer for NF4, which bitsandbytes before 0.50 quantizes on a CPU at some 10 million elements a second.
RECIPES = {"nf4": "smollm2-135m-1l", "int8": "smollm2-135m-2l"}
BLOCKSIZE = 64

#: Where a loader that runs ahead must have done so: the first quantization, by bitsandbytes or by the reference.
GATE = ("bitsandbytes::quantize_4bit", "bitsandbytes::int8_vectorwise_quant", "repros_loading::quantize")

SYNC = {"HF_DEACTIVATE_ASYNC_LOAD": "1"}
POOL = Requires({"transformers": ">=5"}, reason="the loader has a thread pool, and the switch, from 5.0")

#: What one quantization may take for itself: the reference's chunk of 4 million elements, in float32, with ranks and
#: codes.
SCRATCH = 40 << 20

#: Threads that copy to a card.
READERS = 4

#: How the caching allocator of torch takes memory: c10/cuda/CUDACachingAllocator.h, kRoundLarge and kLargeBuffer.
SEGMENT_STEP, SHARED_SEGMENT = 2 << 20, 20 << 20

#: Half of the widest gap between two NF4 values (-1 and -0.696), and of one int8 step.
HALF_STEP = {"nf4": 0.152, "int8": 0.5 / 127}


def params(scheme: str, dtype: str = "bfloat16", recipe: str | None = None) -> Params:
    """Return the parameters of a condition; the recipes' checkpoints are in bfloat16."""
    return {"scheme": scheme, "dtype": dtype, "recipe": recipe or RECIPES[scheme]}


def sync(condition: Condition) -> Condition:
    """Return the same condition with asynchronous materialization switched off."""
    requires = replace(condition.requires, packages=POOL.packages, reason=POOL.reason)
    return replace(condition, name=f"{condition.name}-sync", requires=requires, env=SYNC)


def recipe(p: Params) -> str:
    return str(p["recipe"])


def specs(p: Params) -> tuple[Spec, ...]:
    return tensors(recipe_of(recipe(p)))


def is_quantized(name: str, shape: tuple[int, ...]) -> bool:
    """Return whether a tensor is to be quantized: a linear layer's weight, other than the head's, or its experts'.

    A router is left alone; transformers 4 has it quantized, which only takes less.
    """
    if ".experts." in name:
        return True
    return len(shape) == 2 and not name.startswith("lm_head") and "embed" not in name and "mlp.gate." not in name


def linear_elements(p: Params) -> list[int]:
    return [prod(s.shape) for s in specs(p) if is_quantized(s.name, s.shape)]


def resident_bytes(p: Params) -> int:
    """Return what finally stays 16-bit."""
    return ITEMSIZE[str(p["dtype"])] * sum(prod(s.shape) for s in specs(p) if not is_quantized(s.name, s.shape))


def largest_bytes(p: Params) -> int:
    """Return the largest source that is quantized."""
    return max(s.nbytes for s in specs(p) if is_quantized(s.name, s.shape))


def quantized_bytes(p: Params) -> int:
    """Return what the quantized weights come to: codes and float32 scales, a block's or a row's."""
    if p["scheme"] == "nf4":
        return sum(n // 2 + 4 * -(n // -BLOCKSIZE) for n in linear_elements(p))
    rows = sum(s.shape[0] for s in specs(p) if is_quantized(s.name, s.shape))
    return sum(linear_elements(p)) + 4 * rows


def is_cast(p: Params) -> bool:
    """Return whether the model is loaded in another dtype than its checkpoint's."""
    return bool(p["dtype"] != recipe_of(recipe(p)).dtype)


def copies(p: Params) -> int:
    """Return how many copies of a source its conversion makes."""
    return int(is_cast(p) or (p["scheme"] == "int8" and p["dtype"] != "float16"))


def peak_limit(p: Params) -> int:
    """Return the 16-bit bytes that may be alive at once: see the head of this module."""
    staying = max(s.nbytes for s in specs(p) if not is_quantized(s.name, s.shape))
    return resident_bytes(p) + (1 + copies(p)) * largest_bytes(p) + is_cast(p) * staying


def compared(p: Params) -> tuple[str, ...]:
    """Return what is compared with the checkpoint: of the first layer two quantized weights and one that is not.

    Two of the smallest are chosen, and none of an expert: those are kept under another name where they are fused.
    """
    first = [s for s in specs(p) if ".layers.0." in s.name and s.name.endswith("weight") and "expert" not in s.name]
    quantized = sorted((s for s in first if is_quantized(s.name, s.shape)), key=lambda s: s.nbytes)
    return (*(s.name for s in quantized[:2]), next(s.name for s in first if s not in quantized))


def allocated_limit(p: Params) -> int:
    """Return the bytes of a card that tensors may take while a checkpoint is loaded, each rounded up to 512.

    Before it loads anything, a loader may take half of the 16-bit size and give it back, to have it reserved
    (`caching_allocator_warmup` of transformers does for quantized models); no source is in it.
    """
    on_its_way = max(s.nbytes for s in specs(p)) + copies(p) * largest_bytes(p)
    loading = resident_bytes(p) + quantized_bytes(p) + on_its_way + 2 * 512 * len(specs(p)) + SCRATCH
    return max(loading, model_bytes(p) // 2)


def reserved_limit(p: Params) -> int:
    """Return the bytes that the caching allocator may take for them.

    It takes segments in steps of 2 MiB, and a block of 10 MiB or more has one to itself: 2 MiB for each quantized
    weight. Blocks below share segments of 20 MiB; one of these may be begun by codes, one by scales, one by sources.
    """
    return allocated_limit(p) + len(linear_elements(p)) * SEGMENT_STEP + 3 * SHARED_SEGMENT


def card_bytes(recipe: str) -> int:
    """Return the memory that a card must have free: the planted bug holds the whole model and what it becomes."""
    return 2 * sum(s.nbytes for s in tensors(recipe_of(recipe)))


def model_bytes(p: Params) -> int:
    """Return the size of the model in 16 bits."""
    return ITEMSIZE[str(p["dtype"])] * sum(prod(s.shape) for s in specs(p))


def numbers(p: Params) -> float:
    """Return the largest error of a weight over its largest magnitude: half a step, and two roundings to bfloat16."""
    return HALF_STEP[str(p["scheme"])] + 2 * 2.0**-8


def prepare(p: Params, checkpoint: object) -> SimpleNamespace:
    import torch
    from transformers import BitsAndBytesConfig
    from transformers.utils import logging

    logging.disable_progress_bar()  # it would start a thread
    dtype = getattr(torch, str(p["dtype"]))
    if p["scheme"] == "nf4":
        config = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype, bnb_4bit_use_double_quant=False
        )
    else:
        config = BitsAndBytesConfig(load_in_8bit=True)
    device = p.get("device", "cpu")
    options = {"device_map": {"": "cpu"} if device == "cpu" else "auto"}
    return SimpleNamespace(p=p, checkpoint=checkpoint, dtype=dtype, config=config, device=device, options=options)


def oracle(i: Any) -> dict[str, Any]:
    """Return the compared weights as the checkpoint has them."""
    from safetensors import safe_open

    from repros.reference.checkpoint import list_entries

    shards = {entry.name: entry.path for entry in list_entries(i.checkpoint)}
    found = {}
    for name in compared(i.p):
        with safe_open(shards[name], framework="pt") as shard:
            found[name] = shard.get_tensor(name).double()
    return found


def load_installed(i: Any) -> Arm:
    """Load with the installed packages; return the compared weights, dequantized."""
    import torch
    import transformers
    from bitsandbytes.functional import dequantize_4bit
    from transformers import AutoModelForCausalLM

    release = tuple(int(part) for part in transformers.__version__.split(".")[:2])
    yield "load"
    i.model = AutoModelForCausalLM.from_pretrained(
        i.checkpoint,
        quantization_config=i.config,
        **i.options,
        **{"dtype" if release >= (4, 56) else "torch_dtype": i.dtype},
    )
    yield "compare"
    found = {}
    for name in compared(i.p):
        weight = i.model.get_parameter(name)
        if weight.dtype == torch.uint8:
            found[name] = dequantize_4bit(weight.data, weight.quant_state).float()
        elif weight.dtype == torch.int8:
            found[name] = weight.data.float() * weight.SCB.float().unsqueeze(1) / 127
        else:
            found[name] = weight.detach().float()
    return found


def load_reference(i: Any, ahead_bytes: int | None, keep_every: int = 0, left_alone: str = "") -> Arm:
    """Load with the reference; ``ahead_bytes`` of sources may be alive, None is no bound.

    With ``keep_every`` n every n-th source of a linear layer is kept for good, as a leak would. What has
    ``left_alone`` in its name is not quantized.
    """
    import torch

    from repros.reference.loader import StreamingLoader

    quantize = _register()
    kept: list[Any] = []
    ahead = threading.Semaphore(0)
    unread = [len(specs(i.p))]

    on = cards_of(i.p)

    class Loader(StreamingLoader):
        def device_of(self, entry: Any) -> Any:
            return torch.device(i.device, on[entry.name]) if on else self.device

        def read(self, entry: Any) -> Any:
            try:
                return super().read(entry)
            finally:
                ahead.release()  # also where it failed: who waits for it must come to hear of that

        def convert_one(self, name: str, tensor: Any) -> Any:
            if ahead_bytes is None:  # what may run ahead has done so before the first conversion: no race here
                for _ in range(unread.pop() if unread else 0):
                    ahead.acquire()
            return super().convert_one(name, tensor)

        def release(self, name: str, tensor: Any) -> None:
            if keep_every and is_quantized(name, tuple(tensor.shape)):
                kept.append(tensor if len(kept) % keep_every == 0 else None)

    def convert(name: str, tensor: Any) -> Any:
        if is_quantized(name, tuple(tensor.shape)) and not (left_alone and left_alone in name):
            return (*quantize(tensor.to(i.dtype), i.p["scheme"]), tuple(tensor.shape))
        return tensor.to(i.dtype, copy=i.device == "cpu")  # there the ledger tells a source from what is kept

    yield "load"
    threads = 1 if i.device == "cpu" else READERS
    loader = Loader(i.checkpoint, convert, prefetch_bytes=ahead_bytes, threads=threads, device=i.device)
    i.model, i.kept = loader.load(), kept
    yield "compare"
    return {name: _dequantize(i, i.model[name]) for name in compared(i.p)}


def cards_of(p: Params) -> dict[str, int]:
    """Return the card of each tensor where a condition has several: in the checkpoint's order, each its share."""
    cards, seen = int(str(p.get("cards", 1))), 0
    on = {}
    for spec in specs(p) if cards > 1 else ():
        on[spec.name] = min(cards - 1, cards * seen // model_bytes(p))
        seen += spec.nbytes
    return on


def ahead_bytes(p: Params) -> int:
    """Return how many bytes of sources the reference may have alive; 0 is one at a time.

    It quantizes to int8 without a float16 copy, so there it may read ahead into the room for one; on a GPU into the
    room for the largest tensor, which the budget has anyway.
    """
    if p.get("device") == "cuda":
        return max(s.nbytes for s in specs(p))
    return 2 * largest_bytes(p) if copies(p) > is_cast(p) else 0


def _dequantize(i: Any, weight: Any) -> Any:
    from repros.reference.blockwise import Quantized4bit, dequantize_4bit
    from repros.reference.int8 import dequantize_rowwise

    if not isinstance(weight, tuple):
        return weight.float()
    codes, scale, shape = weight
    if i.p["scheme"] == "int8":
        return dequantize_rowwise(codes, scale)
    return dequantize_4bit(Quantized4bit(codes, scale, shape, i.dtype, "nf4", BLOCKSIZE)).float()


def _register() -> Any:
    """Make one operator of the reference's quantizations, as bitsandbytes' are: a gate, and no sight of the inside."""
    import torch

    from repros.reference.blockwise import quantize_4bit
    from repros.reference.int8 import quantize_rowwise

    def quantize(w: Any, scheme: str) -> Any:
        if scheme == "int8":
            return quantize_rowwise(w)
        q = quantize_4bit(w, "nf4", BLOCKSIZE)
        return q.packed, q.absmax

    return torch.library.custom_op(
        "repros_loading::quantize", quantize, mutates_args=(), schema="(Tensor w, str scheme) -> (Tensor, Tensor)"
    )
