"""A 35B mixture of experts loaded "in 4 bits" does not fit on two cards of 32 GB (bitsandbytes#1849).

The report: transformers 5 holds the experts of a layer in one parameter. The integration of bitsandbytes quantizes
linear layers alone, so the experts, nearly all of such a model, are passed over (``fused_experts.py`` counts them).

Run: what that means for a user. The whole of Qwen3.5-35B-A3B is loaded with ``device_map="auto"`` over two cards that
are given what a card of 32 GB has. Out of memory is the symptom; so is the loader's word beforehand that it would have
to put a part on the CPU or the disk.

Limit: what two cards of 32 GB leave beside their contexts. The quantized model is about a third of that.

Planted (must break the limit): the reference, but it leaves the experts as they are. It puts half of the
model's 16-bit bytes on either card, where the model fits with its experts quantized and does not without.
"""

from repros.case import Affected, Budget, Case, Claim, Condition, Needs, Symptom
from repros.cases._loading import load_installed, load_reference, published
from repros.cases.bitsandbytes.gh1849._report import REPORT
from repros.cases.bitsandbytes.gh1849._whole_model import bytes_of, installed_tensors, reference_tensors
from repros.worker.sizes import is_quantized
from repros.worker.small_card import allowed, shrink

CARDS, CARD_GB = 2, 32  # GiB
LIMIT = CARDS * allowed(CARD_GB)  # `allowed` is the card less a context

KNOWN = "Qwen3.5 with experts came to transformers with 5.2"
NEEDS = Needs({"transformers": ">=5.2"}, cards=CARDS, card_bytes=CARD_GB << 30, reason=KNOWN)
FROM_5 = Affected({"transformers": ">=5"}, "reports/h200")
NO_ROOM = Claim('not in the report: device_map="auto" does not put a 35B mixture "in 4 bits" on two cards of 32 GB')

CASE = Case(
    **REPORT,
    trigger='a mixture of experts that `device_map="auto"` is to spread over cards in 4 or 8 bits',
    claims=(NO_ROOM,),
    conditions=(
        Condition(
            "nf4-experts-fused-35b-two-cards-cuda",
            Budget("cuda_peak_reserved_bytes", LIMIT),
            {"scheme": "nf4", "dtype": "bfloat16"},
            NEEDS,
            affected=(FROM_5,),
            claims=(NO_ROOM,),
            device="cuda",
            checkpoint="qwen3.5-35b-a3b",
        ),
    ),
    symptoms=(Symptom("OutOfMemoryError"), Symptom("ValueError", "dispatched on the CPU or the disk")),
    timeout_s=300.0,
)

oracle = published  # some weights, in float64


def inputs(c, checkpoint):
    for card in range(CARDS):
        shrink(CARD_GB, card)
    return {"checkpoint": checkpoint}


def subject(c, checkpoint):
    found = yield from load_installed(c, checkpoint, max_memory=dict.fromkeys(range(CARDS), allowed(CARD_GB)))
    return {**found, **bytes_of(c, installed_tensors(found["model"]))}


def reference(c, checkpoint, quantizes=is_quantized):
    found = yield from load_reference(c, checkpoint, load=half_on_each_card, quantizes=quantizes)
    return {**found, **bytes_of(c, reference_tensors(found["model"]))}


def planted(c, checkpoint):
    """Leave the experts as they are."""
    return reference(c, checkpoint, quantizes=all_but_experts)


def all_but_experts(name, shape):
    return is_quantized(name, shape) and ".experts." not in name


def half_on_each_card(loader):
    """Put the tensors on the cards in the checkpoint's order, as many of their 16-bit bytes on each."""
    import torch

    card_of, done = {}, 0
    total = sum(entry.nbytes for entry in loader.entries)
    for entry in loader.entries:
        card_of[entry.name] = torch.device("cuda", CARDS * done // total)
        done += entry.nbytes
    loader.device_of = lambda entry: card_of[entry.name]
    return loader.load()
