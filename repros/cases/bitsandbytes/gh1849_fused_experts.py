"""Fused experts stay 16-bit: a mixture of experts "in 4 bits" keeps most of its bytes.

The report: transformers 5 holds the experts of a layer in one parameter of three dimensions, where 4.x had a linear
layer for each. What is replaced by a quantized layer is ``nn.Linear``, so the experts, nearly all of such a model,
are passed over without a word. (Upstream's answer to come is a module for fused experts, bitsandbytes#1965.)

Two checkpoints of true layers: Qwen3-30B-A3B, a tensor each expert and projection as it is published, which 4.x loads
as it is and 5.x fuses; and Qwen3.5-35B-A3B, published fused, which 4.x does not know: it is the model of 67 GB that
fails on 32 GB in transformers#44728 and #44387.

Budget: what stays 16-bit by its nature (embedding, head, norms, convolutions, router), from the shapes. The ledger's
count at the end is held beside the sizes of the model's own tensors. On a GPU what is allocated at the end, beside the
same sizes: what stays, codes, scales, and the allocator's rounding. Figures named ``whole_*`` are the loaded model's
bytes taken to its true depth and number of experts, by layers and by experts. Over two cards (``*-two-cards-*``) the
whole model is loaded with ``device_map="auto"``, and each card is given what one of 32 GB has; the reference puts
half of the model's 16-bit bytes on either, where its quantized ones fit and the planted ones do not.

Planted: the reference leaves the experts as they are.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from math import prod
from typing import Any

from repros.case import Affected, Budget, Case, Claim, Condition, Params, Requires, Symptom, on_cards
from repros.cases import _loading
from repros.cases._loading import Arm, numbers, oracle, params
from repros.worker.checkpoints import config_of, recipe_of
from repros.worker.small_card import allowed, shrink

__all__ = ["CASE", "oracle", "planted", "prepare", "reference", "subject"]

ONE_LAYER, ONE_FUSED = "qwen3-30b-a3b-1l-2e", "qwen3.5-35b-a3b-1l-2e"
#: The cards of the reports on loading.
CARD_GB = 32
QWEN3, QWEN35 = "qwen3-30b-a3b-8l", "qwen3.5-35b-a3b-8l"
RECENT = Requires({"bitsandbytes": ">=0.49"}, reason="which modules become quantized is not bitsandbytes' to say")
KNOWN = Requires({"transformers": ">=5.2"}, reason="Qwen3.5 with experts came to transformers with 5.2")


def on_card(proxy: str, size: str, recipe: str, requires: Requires) -> Condition:
    """Return a condition with all experts and several layers, on a GPU."""
    condition = Condition(proxy, params("nf4"), replace(requires, card_bytes=_loading.card_bytes(recipe)))
    return replace(condition.on_cuda(recipe=recipe), name=f"{proxy}-{size}-cuda", budget=ALLOCATED)


def two_cards(condition: Condition) -> Condition:
    """Return the condition over two cards that are given what cards of the reports' size have."""
    requires = replace(condition.requires, cards=2, card_bytes=CARD_GB << 30)
    return replace(condition, requires=requires, params={**condition.params, "cards": 2}, budget=FITS)


def cards_limit(p: Params) -> int:
    """Return what the allocator may take of a condition's cards."""
    return int(str(p["cards"])) * allowed(CARD_GB)


def allocated_limit(p: Params) -> int:
    """Return the bytes that the loaded model may have allocated.

    The allocator rounds a tensor up to 512 bytes, and of one of 1 MiB or more it leaves less than 1 MiB unsplit.
    """
    specs = _loading.specs(p)
    sizes = (prod(s.shape) // 2 if _loading.is_quantized(s.name, s.shape) else s.nbytes for s in specs)
    large = sum(size >= 1 << 20 for size in sizes)
    return _loading.resident_bytes(p) + _loading.quantized_bytes(p) + 2 * 512 * len(specs) + (large << 20)


FITS = Budget("cuda_peak_reserved_bytes", cards_limit)
#: Where the model is there to be looked at; over two cards the loader may refuse before it has read a byte.
LOADED = "nf4-experts nf4-experts-fused nf4-experts-30b-* nf4-experts-fused-35b-cuda"
ALLOCATED = Budget("cuda_end_allocated_bytes", allocated_limit, second="model_bytes")

CASE = Case(
    package="bitsandbytes",
    number=1849,
    title="Failed to quant MoE models with fused expert weights in transformers v5",
    kind="issue",
    status="open",
    claims=(
        Claim("from transformers 5 on the experts of a mixture are not quantized to 4 bits", conditions=LOADED),
        Claim("not in the report: nor to 8 bits", conditions="int8-*"),
        Claim(
            'not in the report: device_map="auto" does not put a 35B mixture "in 4 bits" on two cards of 32 GB',
            conditions="*-two-cards-*",
        ),
    ),
    conditions=(
        Condition("nf4-experts", params("nf4", recipe=ONE_LAYER)),
        Condition("nf4-experts-fused", params("nf4", recipe=ONE_FUSED), KNOWN),
        Condition("int8-experts", params("int8", recipe=ONE_LAYER)),
        on_card("nf4-experts", "30b", QWEN3, RECENT),
        on_card("nf4-experts-fused", "35b", QWEN35, KNOWN),
        two_cards(on_card("nf4-experts-fused", "35b-two-cards", "qwen3.5-35b-a3b", KNOWN)),
    ),
    budget=Budget("live_end_16bit_bytes", _loading.resident_bytes, second="model_16bit_bytes"),
    numbers=numbers,
    affected=tuple(
        Affected({"transformers": ">=5"}, name, source="reports/bisect/gh1849-transformers")
        for name in ("nf4-experts", "nf4-experts-fused", "int8-experts")
    )
    + on_cards("reports/h200", transformers=(">=5", "nf4-experts-*-cuda")),
    # Over two cards: there is no room, or the loader sees beforehand that there is none.
    symptoms=(Symptom("OutOfMemoryError"), Symptom("ValueError", "dispatched on the CPU or the disk")),
    checkpoint=_loading.recipe,
    timeout_s=300.0,
    url="https://github.com/bitsandbytes-foundation/bitsandbytes/issues/1849",
)


def prepare(p: Params, checkpoint: object) -> Any:
    made = _loading.prepare(p, checkpoint)
    if "cards" in p:
        cards = range(int(str(p["cards"])))
        for card in cards:
            shrink(CARD_GB, card)
        made.options["max_memory"] = dict.fromkeys(cards, allowed(CARD_GB))
    return made


def subject(i: Any) -> Arm:
    found = yield from _loading.load_installed(i)
    states = ((name, value.quant_state) for name, value in i.model.named_parameters() if hasattr(value, "quant_state"))
    scales = [(f"{name}.absmax", state.absmax) for name, state in states if state is not None]
    scales += [(f"{name}.SCB", value.SCB) for name, value in i.model.named_parameters() if hasattr(value, "SCB")]
    return {**found, **made_of(i, [*i.model.named_parameters(), *scales])}


def reference(i: Any) -> Arm:
    return (yield from _load(i))


def planted(i: Any) -> Arm:
    """Leave the experts as they are."""
    return (yield from _load(i, left_alone=".experts."))


def _load(i: Any, left_alone: str = "") -> Arm:
    found = yield from _loading.load_reference(i, _loading.ahead_bytes(i.p), left_alone=left_alone)
    parts = ((name, value if isinstance(value, tuple) else (value,)) for name, value in i.model.items())
    tensors = ((name, one) for name, several in parts for one in several if hasattr(one, "dtype"))
    return {**found, **made_of(i, tensors)}


def made_of(i: Any, tensors: Iterable[tuple[str, Any]]) -> dict[str, float]:
    """Return what a loaded model's bytes are made of, as loaded and at its true depth and number of experts."""
    recipe = recipe_of(_loading.recipe(i.p))
    cut, true = config_of(recipe), config_of(replace(recipe, layers=None, vocab=None, experts=None))
    deeper = true["num_hidden_layers"] / cut["num_hidden_layers"]
    more = true["num_experts"] / cut["num_experts"]
    wider = true["vocab_size"] / cut["vocab_size"]
    found = dict.fromkeys(
        ("model_bytes", "model_16bit_bytes", "whole_bytes", "whole_16bit_bytes", "whole_experts_bytes"), 0.0
    )
    for name, tensor in tensors:
        size = tensor.numel() * tensor.element_size()
        is_16bit = str(tensor.dtype).rpartition(".")[2] in ("bfloat16", "float16")
        expert = ".experts." in name
        times = deeper * (more if expert else 1) if ".layers." in name else (wider if tensor.dim() == 2 else 1)
        found["model_bytes"] += size
        found["whole_bytes"] += size * times
        found["whole_experts_bytes"] += size * times * expert
        if is_16bit:
            found["model_16bit_bytes"] += size
            found["whole_16bit_bytes"] += size * times
    return found
