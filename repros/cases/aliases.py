"""What cases were called: records name a case as it was when they were made, and conditions keep their names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

#: A case as it is called now -> as it was -> the conditions that it took over.
WAS: Mapping[str, Mapping[str, str]] = {
    "gh1935_compiled": {
        "gh1935_saved_weight": "nf4-compile-default nf4-compile-mincut nf4-compile-inductor nf4-eval-compile-mincut "
        "fp4-double-compile-mincut nf4-compile-mincut-layer-cuda nf4-compile-mincut-32-layers-cuda "
        "nf4-compile-inductor-layer-cuda",
    },
    "gh1935_int8": {
        "gh1935_saved_weight": "int8-eager int8-outlier-eager int8-eval-eager int8-checkpoint-reentrant "
        "int8-checkpoint-nonreentrant int8-compile-mincut int8-compile-inductor int8-eager-layer-cuda "
        "int8-compile-inductor-layer-cuda",
    },
    "gh1935_card_table": {
        "gh1935_card_table_compiled": "9b-on-12gb-compile-cuda 20b-on-24gb-compile-cuda 50b-on-80gb-compile-cuda",
        "gh1935_card_table_checkpointed": "13b-on-12gb-checkpoint-2048-cuda 34b-on-24gb-checkpoint-cuda",
    },
    "gh1935_largest": {
        "gh1935_card_table_largest": "up-to-12gb-cuda up-to-16gb-cuda up-to-24gb-cuda up-to-32gb-cuda",
        "gh1935_card_table_largest_server": "up-to-48gb-cuda up-to-80gb-cuda",
    },
    "gh1935_adapters": {"gh1935_saved_weight": "nf4-lora-eager nf4-dora-eager nf4-dora-eager-weight-cuda"},
    "gh1935_custom_op": {"gh1935_saved_weight": "nf4-customop-eager nf4-customop-compile-mincut"},
    "gh1849_two_cards": {"gh1849_fused_experts": "nf4-experts-fused-35b-two-cards-cuda"},
    "gh44387_int8": {"gh44387_reserved_memory": "int8 int8-7b-cuda int8-sync"},
    "gh44387_cast_dtype": {
        "gh44387_reserved_memory": "int8-cast int8-cast-sync nf4-cast nf4-cast-heap nf4-cast-sync",
    },
    "gh44728_reads_ahead": {"gh44728_fp16_load_leak": "int8 int8-350m-cuda nf4 nf4-350m-cuda"},
    "gh44728_report_test": {"gh44728_fp16_load_leak": "nf4-report-test nf4-report-test-350m-cuda"},
    "gh1927_prequantized_weight": {
        "gh1927_int8_recompute": "codes-scale-after-move codes-scale-before-move codes-scale-module-move "
        "codes-no-scale codes-scale-after-move-cuda",
    },
    "gh1927_moved_weight": {
        "gh1927_int8_recompute": "second-to to-after-forward weight-to-after-forward tied-weight "
        "weight-to-after-forward-cuda tied-weight-cuda",
    },
    "gh1927_cleared_state": {
        "gh1927_int8_recompute": "reset-grads-between clear-cb-between reset-grads-no-checkpoint "
        "reset-grads-between-cuda",
    },
    "gh1927_offload_hooks": {
        "gh1927_int8_recompute": "offload offload-no-checkpoint offload-map-without-scale offload-eval offload-cuda",
    },
    "gh1927_large_activations": {"gh1927_int8_recompute": "large-bfloat16-train large-bfloat16-eval"},
    "gh1927_saved_model": {
        "gh1927_int8_recompute": "state-dict-reload state-dict-reload-then-to from-pretrained from-pretrained-reload",
    },
    "gh1927_loader_pops_scb": {"gh1927_meta_scb": "loader-pops loader-pops-tied"},
    "gh1927_remade_weight": {
        "gh1927_meta_scb": "to-empty assign-16bit assign-int8 make-subclass skip-modules-tied",
    },
    "gh1927_held_state": {
        "gh1927_train_order": "held-enable-train-default-8bit held-train-enable-default-8bit "
        "held-enable-only-default-8bit held-enable-train-reentrant-8bit held-enable-train-nonreentrant-8bit "
        "held-enable-train-reentrant-4bit held-enable-train-nonreentrant-4bit held-enable-train-default-8bit-cuda "
        "held-train-enable-default-8bit-cuda held-enable-train-nonreentrant-8bit-cuda "
        "held-enable-train-reentrant-4bit-cuda",
    },
    "gh2005_experts": {"gh1935_saved_weight": "nf4-experts-checkpoint-nonreentrant nf4-experts-eager"},
}
_NOW = {
    (was, condition): now
    for now, several in WAS.items()
    for was, conditions in several.items()
    for condition in conditions.split()
}


def now(case: str, condition: str) -> str:
    """Return what the case of a condition is called now."""
    return _NOW.get((case, condition), case)


def renamed(record: dict[str, Any]) -> dict[str, Any]:
    """Return a line of results or probes with its case, and the command that repeats it, as they are called now."""
    case = record.get("case")
    name = now(case, record["condition"]) if isinstance(case, str) else case
    if name == case:
        return record
    return {**record, "case": name, "repeat": str(record.get("repeat", "")).replace(f" {case} ", f" {name} ")}
