"""The 5.x loader reads the whole 16-bit model before it has quantized a part of it.

The report: Qwen2.5-7B-Instruct in NF4 reserves 13.83 GB under 5.2.0 and 6.70 GB under 4.57.5, with the same 5.46 GB
allocated at the end. Mechanism tried: ``convert_and_load_state_dict_in_model`` submits every tensor to a thread pool
that materializes it on the device, while the main thread quantizes one after another; what the pool is ahead by is
alive in 16 bits. ``HF_DEACTIVATE_ASYNC_LOAD=1`` takes the pool away inside an affected release: the ``-sync`` control.

Proxy: on a CPU nothing is reserved, so what is judged is the peak of 16-bit bytes alive, which the allocator of an
accelerator would have had to reserve. How far a free-running pool gets is a race, so the first quantization is held
back until the pool is idle (``gate``): the peak is then the most that the loader permits.

Budget (``repros.cases._loading.peak_limit``): what stays 16-bit, the largest source, one copy of it where its
conversion makes one, and where the dtype is cast one source of what stays. There sources become heap copies, and
``nf4-cast-heap`` judges the same load by the C library's count instead: that sees no mapped file but everything else,
so its budget adds the quantized weights and 1 MiB for large objects of Python.

On a GPU (``*-7b-cuda``): the report's own model and figure, what is reserved when loading has ended, with the driver as
second instrument; budget: ``repros.cases._loading.reserved_limit``.

Planted: the reference's reader runs ahead without a bound.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from repros.case import Affected, Budget, Case, Claim, Condition, Params, Reading, Requires, on_cards
from repros.cases import _loading
from repros.cases._loading import Arm, numbers, oracle, params, peak_limit, prepare, sync

__all__ = ["CASE", "oracle", "planted", "prepare", "reference", "subject"]


def heap_limit(p: Params) -> int:
    """Return the heap bytes that may be taken at once while loading."""
    return peak_limit(p) + _loading.quantized_bytes(p) + (1 << 20)


NF4 = Condition("nf4", params("nf4"))
NF4_CAST = Condition("nf4-cast", params("nf4", "float16"), note="bfloat16 checkpoint, loaded as float16")
INT8 = Condition("int8", params("int8"))
WHOLE = "qwen2.5-7b"
#: bitsandbytes has no part in the loading, which takes 20 s of a card in 8 bits: older releases add nothing.
RECENT = Requires({"bitsandbytes": ">=0.49"}, reason="bitsandbytes has no part in it; a recent one is enough")
RESERVED = Budget("cuda_end_reserved_bytes", _loading.reserved_limit, second="cuda_end_driver_bytes")
INT8_CAST = Condition("int8-cast", params("int8", "float16"), note="bfloat16 checkpoint, loaded as float16")


def _whole(condition: Condition) -> Condition:
    """Return a condition with the report's own model, on a GPU."""
    on_cuda = condition.on_cuda(recipe=WHOLE)
    requires = RECENT if condition is INT8 else condition.requires
    requires = replace(requires, card_bytes=_loading.card_bytes(WHOLE))
    if condition.env:
        inside = {"transformers": ">=5,<5.4"}
        requires = replace(requires, packages=inside, reason="the switch tells something inside the affected releases")
    return replace(on_cuda, name=f"{condition.name}-7b-cuda", requires=requires, budget=RESERVED)


CASE = Case(
    package="transformers",
    number=44387,
    title="Increased CUDA reserved memory in transformers 5.x under int4 quantization",
    kind="issue",
    status="closed, fix named: #44576",
    claims=(
        Claim(
            "5.x reserves twice as much as 4.57.5 while it loads in 4 bits",
            {
                "reserved, 5.2.0": "13.83 GB",
                "reserved, 4.57.5": "6.70 GB",
                "allocated, 5.2.0": "5.46 GB",
                "allocated, 4.57.5": "5.46 GB",
            },
            "nf4*",
            {
                f"{what}, {version}": (
                    Reading(
                        *(f"cuda_end_{what}_bytes", "nf4-7b-cuda", 1 << 30),
                        versions={"transformers": f"=={version}"},
                        note=_loading.RACE if (what, version) == ("reserved", "5.2.0") else "",
                    ),
                )
                for what in ("reserved", "allocated")
                for version in ("5.2.0", "4.57.5")
            },
        ),
        Claim("not in the report: int8 goes the same way", conditions="int8*"),
    ),
    conditions=(
        NF4,
        sync(NF4),
        NF4_CAST,
        sync(NF4_CAST),
        Condition(
            "nf4-cast-heap", params("nf4", "float16", "smollm2-135m-2l"), budget=Budget("peak_heap_bytes", heap_limit)
        ),
        INT8,
        sync(INT8),
        INT8_CAST,
        sync(INT8_CAST),
        _whole(NF4),
        _whole(sync(NF4)),
        _whole(INT8),
    ),
    budget=Budget("peak_live_16bit_bytes", peak_limit),
    numbers=numbers,
    checkpoint=_loading.recipe,
    gate=_loading.GATE,
    timeout_s=180.0,
    affected=on_cards("reports/h200", transformers=(">=5.0,<5.4", "nf4-7b-cuda", "int8-7b-cuda"))
    + tuple(
        Affected({"transformers": versions}, name, source="reports/bisect/gh44387-gh44728-transformers")
        for versions, names in {
            ">=5.0,<5.4": ("nf4", "nf4-cast", "nf4-cast-heap", "int8", "int8-cast"),
            ">=4.53,<4.57": ("int8", "int8-cast"),  # 4.53.0 is the oldest that quantizes on a CPU
        }.items()
        for name in names
    ),
    url="https://github.com/huggingface/transformers/issues/44387",
)


def subject(i: Any) -> Arm:
    return (yield from _loading.load_installed(i))


def reference(i: Any) -> Arm:
    return (yield from _loading.load_reference(i, _loading.ahead_bytes(i.p)))


def planted(i: Any) -> Arm:
    """Let the reader run ahead of the conversion without a bound."""
    return (yield from _loading.load_reference(i, None))
