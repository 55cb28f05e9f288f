"""What a cell's fork server imports once, so that no arm has to: what any case uses, or what the chosen ones use.

What the chosen cases do not use is left out: transformers and peft take longer to import than a trial of one 4-bit
layer takes.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable
from functools import lru_cache

from repros.cases import everyone
from repros.cases.sources import own

#: Imported once per cell. What is missing from an environment is noted, not fatal.
PRELOAD_CPU = (
    *("torch", "torch._dynamo", "torch._inductor.compile_fx", "torch.utils.checkpoint", "safetensors.torch"),
    *("bitsandbytes", "transformers", "transformers.modeling_utils", "transformers.quantizers.auto"),
    *("transformers.integrations.bitsandbytes", "transformers.models.auto.modeling_auto"),
    *("transformers.models.llama.modeling_llama", "transformers.models.mistral.modeling_mistral", "accelerate"),
    *("accelerate.hooks", "peft", "repros.worker.arm", "repros.meters.cpu", "repros.meters.numerics"),
    *("repros.reference.linear", "torch.distributed.tensor.experimental", "torch.export._trace", "sympy.tensor.tensor"),
)
#: bitsandbytes, and what imports it, asks the CUDA driver at once; after that no fork can use a card.
PRELOAD_CUDA = (
    *("torch", "torch._dynamo", "torch._inductor.compile_fx", "torch.utils.checkpoint", "safetensors.torch"),
    *("transformers", "transformers.modeling_utils", "transformers.models.auto.modeling_auto"),
    *("transformers.models.llama.modeling_llama", "transformers.models.qwen2.modeling_qwen2", "accelerate"),
    *("repros.worker.arm", "repros.meters.cuda", "repros.meters.numerics", "repros.reference.linear"),
)
PRELOAD = {"cpu": PRELOAD_CPU, "cuda": PRELOAD_CUDA}
#: So on a card each arm imports them, as it warms up and before anything of it is measured.
LATE = {
    "cpu": (),
    "cuda": ("bitsandbytes", "transformers.quantizers.auto", "transformers.integrations.bitsandbytes"),
}
#: Of those, what only cases need that use one of these (transformers imports accelerate, and peft imports both).
ONLY_FOR = {
    "transformers": ("transformers", "accelerate", "peft"),
    "safetensors": ("transformers", "safetensors"),
    "accelerate": ("transformers", "accelerate", "peft"),
    "peft": ("peft",),
    "torch._inductor": ("torch.compile",),
    "torch.export": ("torch.compile",),
}


def without(names: Iterable[str], packages: Iterable[str]) -> tuple[str, ...]:
    """Return those of some modules that are of none of these packages."""
    left_out = frozenset(packages)
    return tuple(name for name in names if name.partition(".")[0] not in left_out)


def needed(names: Iterable[str], cases: Iterable[str] | None) -> tuple[str, ...]:
    """Return those of some modules that cases use, given by their modules' names; all of them for None."""
    if cases is None:
        return tuple(names)
    used = frozenset[str]().union(*(uses(case) for case in cases))
    return tuple(
        name
        for name in names
        if all(used & set(users) for left_out, users in ONLY_FOR.items() if f"{name}.".startswith(f"{left_out}."))
    )


def ours(cases: Iterable[str] | None) -> tuple[str, ...]:
    """Return the modules of this project that cases are, and those that they use: helpers, the reference.

    For None those of all cases. A stranger's case is imported by its own arms alone: what its file does is no other
    case's affair.
    """
    shipped = everyone() if cases is None else [case for case in cases if case.startswith("repros.")]
    files = sorted(frozenset[str]().union(*map(own, shipped)))
    return tuple(file.removesuffix(".py").replace("/", ".") for file in files if file.endswith(".py"))


def uses(case: str) -> frozenset[str]:
    """Return what a case's own source imports, packages alone, and ``torch.compile`` where it compiles."""
    return frozenset[str]().union(*(_used(text) for path, text in own(case).items() if path.endswith(".py")))


@lru_cache(maxsize=1024)
def _used(text: str) -> frozenset[str]:
    found = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found |= {one.name.partition(".")[0] for one in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.partition(".")[0])
        elif isinstance(node, ast.Attribute) and ast.unparse(node) == "torch.compile":
            found.add("torch.compile")
    return frozenset(found)
