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
