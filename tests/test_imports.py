"""What is imported before the first arm: all that a case uses, and nothing that only others use."""

from __future__ import annotations

import pytest

from repros import cases
from repros.cases.imports import LATE, PRELOAD, needed, uses

CASES = {e.name: e for e in cases.find()}


@pytest.mark.parametrize("name", CASES)
def test_a_package_that_a_case_imports_is_imported_ahead(name: str) -> None:
    module = CASES[name].module
    ahead = {one.partition(".")[0] for one in needed(PRELOAD["cpu"], [module])}
    known = {one.partition(".")[0] for one in PRELOAD["cpu"]}
    assert uses(module) & known <= ahead
    assert {"torch", "bitsandbytes", "repros"} <= ahead


def test_what_only_other_cases_use_is_not_imported() -> None:
    layer = needed(PRELOAD["cpu"], [CASES["gh1927_int8_recompute"].module])
    assert not {"transformers", "accelerate", "peft", "safetensors"} & {one.partition(".")[0] for one in layer}
    assert "torch._inductor.compile_fx" not in layer
    assert "torch._inductor.compile_fx" in needed(PRELOAD["cpu"], [CASES["gh1935_compiled"].module])
    loads = needed(PRELOAD["cpu"], [CASES["gh44387_reserved_memory"].module])
    assert {"transformers.modeling_utils", "accelerate.hooks"} <= {*loads}
    assert "peft" not in loads


def test_of_several_cases_all_is_imported_that_one_of_them_uses() -> None:
    both = needed(PRELOAD["cpu"], [CASES[name].module for name in ("gh1935_compiled", "gh1935_adapters")])
    assert {"peft", "transformers", "torch._inductor.compile_fx"} <= {*both}
    assert needed(PRELOAD["cpu"], None) == PRELOAD["cpu"]


def test_on_a_card_the_same_holds_for_what_each_arm_imports() -> None:
    assert needed(LATE["cuda"], [CASES["gh1935_saved_weight"].module]) == ("bitsandbytes",)
    assert needed(LATE["cuda"], [CASES["gh44387_int8"].module]) == LATE["cuda"]
