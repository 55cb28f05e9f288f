"""What a checkpoint comes to in bytes when its linear layers are quantized: sums over a recipe's shapes, for budgets.

A *source* is a tensor as the checkpoint has it, in 16 bits. Importing this needs the standard library alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from math import prod

from repros.worker.checkpoints import recipe_of, tensors


@dataclass(frozen=True)
class Sizes:
    """A recipe's tensors by what becomes of them: bytes, and two counts."""

    whole: int
    """All of the sources."""
    staying: int
    """What stays in 16 bits: embedding, norms, biases, an untied head, routers."""
    nf4: int
    """What the quantized weights come to in NF4: half a byte an element, and a float32 scale a block of 64."""
    int8: int
    """The same in int8: a byte an element, and a float32 scale a row."""
    largest: int
    """The largest source."""
    largest_quantized: int
    """The largest source that is quantized."""
    largest_staying: int
    """The largest source that stays."""
    tensors: int
    """How many tensors there are."""
    quantized: int
    """How many of them are quantized."""


@cache
def sizes(recipe: str) -> Sizes:
    """Return what the checkpoint of a recipe comes to; UserError for an unknown one."""
    specs = tensors(recipe_of(recipe))
    quantized = [s for s in specs if is_quantized(s.name, s.shape)]
    staying = [s for s in specs if not is_quantized(s.name, s.shape)]
    elements = [prod(s.shape) for s in quantized]
    return Sizes(
        whole=sum(s.nbytes for s in specs),
        staying=sum(s.nbytes for s in staying),
        nf4=sum(n // 2 + 4 * -(n // -64) for n in elements),
        int8=sum(elements) + 4 * sum(s.shape[0] for s in quantized),
        largest=max(s.nbytes for s in specs),
        largest_quantized=max(s.nbytes for s in quantized),
        largest_staying=max(s.nbytes for s in staying),
        tensors=len(specs),
        quantized=len(quantized),
    )


def is_quantized(name: str, shape: tuple[int, ...]) -> bool:
    """Return whether a tensor is to be quantized: a linear layer's weight, other than the head's, or experts.

    A router is left alone. transformers 4 has it quantized, which only takes less.
    """
    if ".experts." in name:
        return True
    return len(shape) == 2 and not name.startswith("lm_head") and "embed" not in name and "mlp.gate." not in name
