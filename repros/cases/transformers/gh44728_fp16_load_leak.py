"""Quantizing while loading is said to keep every 16-bit source alive.

The report: in ``Bnb4bitQuantize.convert`` the local ``value``, the caller's ``input_dict`` and ``Params4bit``, which
shares its storage, hold the source while ``.to()`` quantizes it, so that 16-bit weights pile up and a model of 67 GB
fails on a card of 32 GB at 48 %. It proposes to drop both before ``.to()``. Two mechanisms would give the same curve:

- references: a source outlives its conversion. Then sources pile up also without a thread pool (the ``-sync``
  conditions, and transformers 4, which has none), or at least some are alive at the end (``nf4-after``);
- reading ahead: the pool has materialized sources that wait for their conversion (transformers#44387). Then they pile
  up only where the pool is on, and dropping references changes nothing.

Budgets, from ``repros.cases._loading``: at any time what stays 16-bit, one source and one copy where a conversion makes
one; at the end what stays 16-bit. ``nf4-report-test`` has the report's own limit, all bytes alive below the 16-bit size
of the model, and a planted bug that keeps *every* source. The other conditions plant one that keeps every third, which
the report's limit lets pass (``tests/test_loading.py`` does the sum) and the derived one does not.

The first quantization is held back until a thread pool, if there is one, is idle.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from repros.case import Affected, Budget, Case, Claim, Condition, Reading, on_cards
from repros.cases import _loading
from repros.cases._loading import POOL, Arm, numbers, oracle, params, prepare, sync
from repros.worker.small_card import allowed

__all__ = ["CASE", "oracle", "planted", "prepare", "proposed", "reference", "subject"]

UNPATCHED = ("proposed",)  # the patch is to the 4-bit operation of 5.x alone

NF4 = Condition("nf4", params("nf4"))
INT8 = Condition("int8", params("int8"), without=UNPATCHED)

REPORT_TEST = Condition(
    "nf4-report-test", {**NF4.params, "keep_every": 1}, budget=Budget("peak_live_bytes", _loading.model_bytes)
)
WHOLE = "opt-350m"


def _whole(condition: Condition) -> Condition:
    """Return a condition with the report's own model, on a GPU: what the allocator has given out at most."""
    limit = _loading.model_bytes if condition is REPORT_TEST else _loading.allocated_limit
    on_cuda = condition.on_cuda(recipe=WHOLE, dtype="float16")
    return replace(on_cuda, name=f"{condition.name}-350m-cuda", budget=Budget("cuda_peak_allocated_bytes", limit))


def _peak(arm: str, note: str = "", name: str = REPORT_TEST.name) -> Reading:
    """Read what the report's own test measures, in the releases that it speaks of."""
    affected = {"transformers": ">=5,<5.4"}
    return Reading("cuda_peak_allocated_bytes", f"{name}-350m-cuda", 10**6, arm, affected, note=note)


def _raced(arm: str) -> tuple[Reading, ...]:
    """Read the same load under both of its conditions, which differ in their budget and planted bug alone."""
    return tuple(_peak(arm, f"{_loading.RACE}; the two conditions load alike", c.name) for c in (REPORT_TEST, NF4))


def _whole_35b(per_unit: float, *arms: str, value: Callable[[], float] = float, note: str = "") -> tuple[Reading, ...]:
    """Read what the report's model comes to at its true depth, as another case's arms load it or as its shapes say."""
    where, case = "nf4-experts-fused-35b-cuda", "gh1849_fused_experts"
    return tuple(Reading("whole_bytes", where, per_unit, arm, case=case, note=note, value=value) for arm in arms)


def _model_35b() -> int:
    """Return the bytes of the report's model in 16 bits."""
    return _loading.model_bytes(params("nf4", recipe="qwen3.5-35b-a3b"))


def _share_35b() -> float:
    """Return how much of it a card of the report's size holds beside a context."""
    return allowed(32) / _model_35b()


TAKEN = "by arithmetic from eight of its layers"


CASE = Case(
    package="transformers",
    number=44728,
    title="Fix float16 memory leak during 4-bit quantized model loading",
    kind="pull request",
    status="closed in favour of #44576",
    claims=(
        Claim("references in convert() keep 16-bit sources alive, so they accumulate while loading", {}, "*-sync*"),
        Claim("16-bit sources are still alive after loading", conditions="nf4-after"),
        Claim(
            "16-bit weights accumulate while loading",
            {
                "35B in 16 bits": "~67 GB",
                "35B in 4 bits": "~17 GB",
                "a card on which 35B in 4 bits runs out": "32 GB",
                "how much of it is loaded by then": "about 48 %",
            },
            "nf4 nf4-350m-cuda",
            {
                "35B in 16 bits": _whole_35b(10**9, "arithmetic", value=_model_35b, note="from the shapes"),
                "35B in 4 bits": _whole_35b(10**9, "subject", "reference", note=TAKEN),
                "a card on which 35B in 4 bits runs out": _whole_35b(1 << 30, "subject", note=TAKEN),
                "how much of it is loaded by then": _whole_35b(
                    0.01, "arithmetic", value=_share_35b, note="a card less a context, over the 16-bit size"
                ),
            },
        ),
        Claim(
            "facebook/opt-350m peaks above its 16-bit size, and below it with the fix",
            {"before": "about 889 MB", "after": "about 611 MB", "16-bit size": "662 MB"},
            "nf4-report-test-350m-cuda",
            {
                "before": (*_raced("subject"), _peak("planted", "`planted` keeps every source")),
                "after": _raced("proposed"),
                "16-bit size": (_peak("budget"),),
            },
        ),
        Claim(
            "not in the report: where its threads are given their time, a load peaks above the 16-bit size",
            conditions="nf4-report-test",
        ),
        Claim("not in the report: int8 goes the same way", conditions="int8*"),
    ),
    conditions=(
        NF4,
        sync(NF4),
        Condition(
            "nf4-after", NF4.params, without=UNPATCHED, budget=Budget("live_end_16bit_bytes", _loading.resident_bytes)
        ),
        REPORT_TEST,
        INT8,
        sync(INT8),
        *(_whole(condition) for condition in (NF4, sync(NF4), REPORT_TEST, INT8)),
    ),
    budget=Budget("peak_live_16bit_bytes", _loading.peak_limit),
    numbers=numbers,
    proposes="in Bnb4bitQuantize.convert: take the target device, `del value`, `input_dict.clear()`, then `.to()`",
    proposed_requires=POOL,
    checkpoint=_loading.recipe,
    gate=_loading.GATE,
    # The report's own test lets the affected release pass on a card, where the pool gets less far ahead.
    affected=on_cards("reports/h200", transformers=(">=5.0,<5.4", "nf4-350m-cuda", "int8-350m-cuda"))
    + tuple(
        Affected({"transformers": versions}, name, source="reports/bisect/gh44387-gh44728-transformers")
        for versions, names in {
            ">=5.0,<5.4": ("nf4", "nf4-report-test", "int8"),
            ">=4.53,<4.57": ("int8",),  # 4.53.0 is the oldest that quantizes on a CPU
        }.items()
        for name in names
    ),
    url="https://github.com/huggingface/transformers/pull/44728",
)


def subject(i: Any) -> Arm:
    return (yield from _loading.load_installed(i))


def reference(i: Any) -> Arm:
    return (yield from _loading.load_reference(i, _loading.ahead_bytes(i.p)))


def planted(i: Any) -> Arm:
    """Keep a reference to every third source (or every one) after its conversion."""
    return (yield from _loading.load_reference(i, 0, keep_every=i.p.get("keep_every", 3)))


def proposed(i: Any) -> Arm:
    """Put the report's ``convert`` in place of the installed one."""
    from bitsandbytes.nn import Params4bit
    from transformers.integrations import bitsandbytes as integration
    from transformers.quantizers.quantizers_utils import get_module_from_name

    def convert(self: Any, input_dict: Any, full_layer_name: Any = None, model: Any = None, **kwargs: Any) -> Any:
        (value,) = input_dict.values()
        value = value[0] if isinstance(value, list) else value
        module, _ = get_module_from_name(model, full_layer_name)
        old_value = model.get_parameter_or_buffer(full_layer_name)
        new_value = Params4bit(value, requires_grad=False, **old_value.__dict__)
        target_device = value.device
        del value
        input_dict.clear()
        new_value = new_value.to(target_device)
        module._is_hf_initialized = True
        return {full_layer_name: new_value}

    integration.Bnb4bitQuantize.convert = convert
    return (yield from subject(i))
