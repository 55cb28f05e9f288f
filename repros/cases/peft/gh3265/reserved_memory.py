"""prepare_model_for_kbit_training leaves on a GPU as much again as it adds, reserved and unused (peft#3265).

Report: with Mistral-7B-v0.3 in 4 bits reserved memory grows by 1,024 MB in the call, allocated memory by 500.

Mechanism: one parameter after another is cast, and its original freed. That of embedding and head is 256 MiB each; the
allocator keeps them, and a float32 copy of 512 MiB fits into neither. peft 0.20 empties the cache after the casts.

Limit: on a card what the parameters grow by, two bytes a number, and the 20 MiB of a segment. Nothing is reserved on a
CPU: there it is the peak of the heap, that growth, one original more, the largest, and 64 KiB. A vocabulary of 32 keeps
the largest small beside the 65 norms. That the peak is no higher says that no buffers but the originals are at work.

Planted (must break the limit): the originals are kept until all are cast, and are left in the cache.
"""

from functools import partial

from repros.case import SEGMENT_BYTES, Affected, Budget, Case, Claim, Condition, Needs, Reading, Remedy
from repros.cases.peft.gh3265._model import HIDDEN, REPORT, ROWS_7B, growth, model_of_ones, of, widen

MIB, ROWS = 1 << 20, 32
before = partial(Reading, condition="all-7b-cuda", per_unit=MIB, versions={"peft": "<0.20"})

RESERVED = Claim(
    "it adds about 1 GB of reserved memory, twice of what it allocates",
    reported={"reserved": "1,024 MB", "allocated": "500 MB"},
    readings={name: (before(f"cuda_end_{name}_bytes"),) for name in ("reserved", "allocated")},
)
BUFFERS = Claim("the casts take transient buffers, which a cast of one module after another would save (peft#3347)")
EMPTY = Remedy("call `torch.cuda.empty_cache()` after it", arm="remedy_empty", recommended="peft#3293")

PEAK = Budget("peak_heap_bytes", growth(2 * ROWS) + 2 * HIDDEN * ROWS + (64 << 10))
ALL, NORMS = (Budget("cuda_end_reserved_bytes", growth(rows) + SEGMENT_BYTES) for rows in (2 * ROWS_7B, 0))
OWN, KEPT = "minimal_reserved.py", (Affected({"peft": "<0.20"}, "reports/bisect/gh3265-peft-cuda"),)
on_card = partial(Condition, device="cuda", needs=Needs(card_bytes=4 << 30))
CASE = Case(
    **REPORT,
    trigger="`prepare_model_for_kbit_training` on a GPU",
    fix="peft#3293",
    claims=(RESERVED, BUFFERS),
    conditions=(
        Condition("peak", PEAK, of(ROWS), claims=(BUFFERS,), affected=()),
        on_card("all-7b-cuda", ALL, of(ROWS_7B), claims=(RESERVED,), affected=KEPT, remedies=(EMPTY,), witness=OWN),
        on_card("norms-alone-7b-cuda", NORMS, of(ROWS_7B, norms_alone=True), control=True),
    ),
)

inputs = model_of_ones


def subject(c, model):
    from peft import prepare_model_for_kbit_training

    yield "cast"
    prepare_model_for_kbit_training(model)
    return {}


def remedy_empty(c, model):
    import torch

    yield from subject(c, model)
    torch.cuda.empty_cache()
    return {}


def reference(c, model):
    import torch

    yield "cast"
    widen(model.parameters())
    torch.cuda.empty_cache()
    return {}


def planted(c, model):
    yield "cast"
    originals = [p.data for p in model.parameters()]
    widen(model.parameters())
    del originals
    return {}
