"""References in ``convert()`` are said to keep every 16-bit source alive while a model is loaded (transformers#44728).

A *source* is a 16-bit tensor as it was read. The report: in ``Bnb4bitQuantize.convert`` the local ``value``, the
caller's ``input_dict`` and the new ``Params4bit``, which shares its storage, hold the source while ``.to()`` quantizes
it. So sources pile up, until a model of 67 GB fails on a card of 32 GB. The proposed fix drops both before ``.to()``.

Another mechanism gives the same curve: a pool of threads reads sources ahead of their conversion (``reads_ahead.py``).
It is kept out here. In the ``-sync`` conditions `HF_DEACTIVATE_ASYNC_LOAD=1` switches the pool off: sources that pile
up then are held by references. ``nf4-after`` looks when loading has ended: a pool holds nothing then, a reference may.

Limit of 16-bit bytes alive at once: what stays 16-bit (embedding, norms) and one source, the largest; for int8 also a
float16 copy of it, from which bitsandbytes quantizes. At the end what stays is left.

Planted (must break the limit): the reference, but it keeps every third source of a quantized weight for good.
"""

from __future__ import annotations

from repros.case import Budget, Case, Claim, Condition
from repros.cases._loading import GATE, POOL, SYNC, load_installed, load_reference, published
from repros.cases.transformers.gh44728._shared import NF4_ERROR, PROPOSES, keep_every, load_with_proposed_fix
from repros.worker.sizes import sizes

# SmolLM2-135M, cut to one or two layers and a short embedding.
ONE_LAYER, TWO_LAYERS = sizes("smollm2-135m-1l"), sizes("smollm2-135m-2l")
NF4_PEAK = Budget("peak_live_16bit_bytes", ONE_LAYER.staying + ONE_LAYER.largest_quantized)
INT8_PEAK = Budget("peak_live_16bit_bytes", TWO_LAYERS.staying + 2 * TWO_LAYERS.largest_quantized)
NF4_END = Budget("live_end_16bit_bytes", ONE_LAYER.staying)
# On a GPU all bytes that are allocated at once. Before it reads, transformers may allocate half of the 16-bit size and
# free it (`caching_allocator_warmup`). That is more than the loading takes: what stays, codes, scales and one source.
NF4_ALLOCATED = Budget("cuda_peak_allocated_bytes", sizes("opt-350m").whole // 2)

ACCUMULATE = Claim("references in convert() keep 16-bit sources alive, so they accumulate while loading")
AT_END = Claim("16-bit sources are still alive after loading")

NF4 = {"scheme": "nf4", "dtype": "bfloat16"}
INT8 = {"scheme": "int8", "dtype": "bfloat16"}
NF4_OPT = {"scheme": "nf4", "dtype": "float16"}
ON_CARD = {"device": "cuda", "proxy": "nf4-sync", "witness": "minimal_convert.py"}


def without_pool(name, budget, params, checkpoint, **more):
    needs = {"needs": POOL, "env": SYNC}
    return Condition(name, budget, params, affected=(), claims=(ACCUMULATE,), checkpoint=checkpoint, **needs, **more)


CASE = Case(
    report="transformers#44728",
    title="Fix float16 memory leak during 4-bit quantized model loading",
    kind="pull request",
    status="closed in favour of #44576",
    severity="memory",
    trigger="a 16-bit checkpoint that is quantized while `from_pretrained` loads it",
    claims=(ACCUMULATE, AT_END),
    conditions=(
        without_pool("nf4-sync", NF4_PEAK, NF4, "smollm2-135m-1l", witness="minimal_convert.py"),
        without_pool("int8-sync", INT8_PEAK, INT8, "smollm2-135m-2l", proposed=False),
        Condition(
            "nf4-after", NF4_END, NF4, affected=(), claims=(AT_END,), checkpoint="smollm2-135m-1l", proposed=False
        ),
        without_pool("nf4-sync-350m-cuda", NF4_ALLOCATED, NF4_OPT, "opt-350m", **ON_CARD),
    ),
    numbers=NF4_ERROR,
    proposes=PROPOSES,
    proposed_needs=POOL,
    gate=GATE,
    timeout_s=120.0,
)


def oracle(c, checkpoint):
    return published(c, checkpoint)


def subject(c, checkpoint):
    return load_installed(c, checkpoint)


def reference(c, checkpoint):
    return load_reference(c, checkpoint)


def planted(c, checkpoint):
    """Keep every third source for good."""
    return load_reference(c, checkpoint, load=lambda loader: keep_every(3, loader))


def proposed(c, checkpoint):
    return load_with_proposed_fix(c, checkpoint)
