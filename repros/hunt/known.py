"""Departures that are known: by what pattern a life shows them, and where they are reported.

A pattern is a life: its spec and its steps, in that order, are what the departure needs. `--hide-known` puts this
list away, so that the hunt has to find all of it by itself.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from repros.hunt.life import Departure, Life, matches


@dataclass(frozen=True)
class Known:
    """A departure that was found before; ``what`` is a regular expression over `Departure.what`."""

    title: str
    pattern: Life
    what: str
    #: The upstream issue, where there is one.
    number: int = 0
    package: str = "bitsandbytes"

    def covers(self, life: Life, departure: Departure) -> bool:
        """Return whether a departure of a life is this one."""
        upto = Life(life.spec, life.steps[: departure.at + 1])
        return bool(re.fullmatch(self.what, departure.what)) and matches(upto, self.pattern)


def _known(number: int, title: str, what: str, *steps: str, **spec: object) -> Known:
    parsed = []
    for step in steps:
        name, _, value = step.partition(":")
        key, _, text = value.partition("=")
        parsed.append((name, {key: text} if key else {}))
    return Known(title, Life.of(spec, parsed), what, number)


SILENT = "output|gradient"
WRONG = "output|gradient|raises .*(SCB|CB|NoneType).*"

LOST_CLASS = "raises AttributeError: 'Parameter' object has no attribute .*"

#: The first that covers a departure names it, so those that say most of what is seen come first.
KNOWN = (
    _known(0, "a pickled int8 parameter loses its class", LOST_CLASS, "pickle"),
    _known(0, "the same by torch.save", LOST_CLASS, "torch_save"),
    _known(1664, "a 4-bit weight that was moved is quantized again", "raises .*Blockwise .*", kind="nf4"),
    _known(1927, "a state that is reset loses the scale", WRONG, "reset"),
    _known(1927, "a state reset before backward loses the scale", WRONG, "step:between=reset"),
    _known(1927, "a weight that is moved alone loses its scale", WRONG, "weight_to"),
    _known(1927, "a shared weight loses its scale", WRONG, "tie"),
    _known(1927, "offload hooks lose the scale", WRONG, "offload"),
    _known(1927, "a weight moved twice loses its scale", WRONG, "to"),
    _known(1927, "a saved or converted model loses its scale", WRONG, "pretrained"),
    _known(1927, "a prepared int8 parameter loses its scale", WRONG, "state_dict_meta"),
    _known(2034, "tensors kept on ctx: an in-place change goes unnoticed", "unnoticed", "step:between=change"),
    _known(2034, "the same with 4 bits", "unnoticed", "step:between=change", kind="nf4"),
    _known(1935, "a compiled joint graph keeps the dequantized 4-bit weight", "held", "step:mode=compiled", kind="nf4"),
    _known(1935, "a compiled joint graph keeps the dequantized 8-bit weight", "held", "step:mode=compiled"),
    # Found by the hunt; described in reports/hunt, no upstream number recorded.
    _known(0, "CPU kernels take a row for whole blocks (rows of 96, blocks of 64)", WRONG, **{"kind": "nf4", "in": 96}),
    _known(0, "CPU kernels take a row for whole blocks (blocks of 128)", WRONG, kind="nf4", blocksize=128),
    _known(0, "an evaluation packs a 4-bit weight for the CPU for good", ".*", "eval", "forward", kind="nf4"),
    _known(0, "LoRA cannot be put on a 4-bit layer in eval mode on a CPU", "raises RuntimeError.*", "eval", kind="nf4"),
    _known(0, "a pickled int8 parameter loses its class, and a copy its scale", "raises .*", "pickle"),
    _known(0, "the same by torch.save", "raises .*", "torch_save"),
    _known(0, "a pickled 4-bit parameter loses its class", "raises .*", "pickle", kind="nf4"),
    _known(0, "the same by torch.save, 4 bits", "raises .*", "torch_save", kind="nf4"),
    _known(0, "a copy of it takes the scale of an earlier weight", SILENT, "pickle", "deepcopy", kind="nf4"),
    _known(0, "the same by torch.save, 4 bits, copied", SILENT, "torch_save", "deepcopy", kind="nf4"),
    _known(0, "a pickled and copied int8 layer is saved without a scale", SILENT, "pickle", "deepcopy"),
    _known(0, "the same by torch.save, copied", SILENT, "torch_save", "deepcopy"),
    _known(0, "a pickled 4-bit layer under offload hooks: a wrong gradient", WRONG, "pickle", "offload", kind="nf4"),
    _known(0, "the same by torch.save, 4 bits, offloaded", WRONG, "torch_save", "offload", kind="nf4"),
    _known(0, "offload hooks leave a 4-bit layer on the meta device", "raises .*", "offload", kind="nf4"),
    _known(0, "offload hooks leave an int8 layer on the meta device", "raises .*", "offload"),
)


def number_of(life: Life, departure: Departure) -> int:
    """Return the upstream number of a departure; 0 if it is not known."""
    return next((known.number for known in KNOWN if known.covers(life, departure)), 0)
