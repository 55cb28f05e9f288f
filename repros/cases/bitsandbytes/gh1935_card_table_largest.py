"""The largest model that trains on a card: models upward from the report's, until one does not fit.

The report: without the fix a card of 12 GB trains 4B, and 9B with it; one of 32 GB 13B, and 20B with it. Each arm
begins at the report's smaller model or one below it and trains one after another, as in
`repros.cases.bitsandbytes.gh1935_card_table` and on cards made as small, until one runs out of memory.

Budget: of the models named, as many may be too large as should take more than the card has, by
`repros.cases._qlora.predicted`.

Planted: autograd saves the dequantized weight of every layer, which is what the report says of the installed ones. By
the same sum not even 4B should train on 12 GB then.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from repros.case import CONTEXT_BYTES, Budget, Case, Claim, Condition, Reading, Requires
from repros.cases import _qlora
from repros.cases._qlora import Steps

__all__ = ["CASE", "planted", "prepare", "reference", "subject"]

#: GB of a card -> the report's models on it without the fix and with it, and what is tried there.
TABLE = {12: ("4b", "9b", "4b 7b 9b 13b"), 32: ("13b", "20b", "9b 13b 20b 34b 50b")}


def upward(card_gb: int, models: str) -> Condition:
    """Declare that a card is tried with these models, the smallest first."""
    why = "transformers' release does not matter to a step, and older bitsandbytes is tried row by row"
    needs = Requires(
        {"transformers": ">=5.20", "bitsandbytes": ">=0.50"}, card_bytes=(card_gb << 30) + CONTEXT_BYTES, reason=why
    )
    params = {"models": models, "card_gb": card_gb, "mode": "eager", "tokens": 512, "device": "cuda"}
    return Condition(f"up-to-{card_gb}gb-cuda", params, needs)


def largest(card_gb: int, *arms: str) -> tuple[Reading, ...]:
    """Return where the largest model is measured, in the report's unit of 10**9 parameters."""
    return tuple(Reading("largest_parameters", f"up-to-{card_gb}gb-cuda", 10**9, arm) for arm in arms)


CASE = Case(
    package="bitsandbytes",
    number=1935,
    title="the card table, upward: the largest model that trains on a card",
    kind="pull request",
    status="closed unmerged, withdrawn by its author",
    claims=(
        Claim(
            "without the fix the largest model that trains on a card is a smaller one",
            {f"on {card} GB, without the fix": model.upper() for card, (model, _, _) in TABLE.items()}
            | {f"on {card} GB, with the fix": model.upper() for card, (_, model, _) in TABLE.items()},
            readings={f"on {card} GB, without the fix": largest(card, "subject", "planted") for card in TABLE}
            | {f"on {card} GB, with the fix": largest(card, "reference") for card in TABLE},
        ),
    ),
    conditions=tuple(upward(card, models) for card, (_, _, models) in TABLE.items()),
    budget=Budget("too_large", _qlora.too_large),
    timeout_s=180.0,
    url="https://github.com/bitsandbytes-foundation/bitsandbytes/pull/1935",
)


def prepare(p: Any, checkpoint: object) -> SimpleNamespace:
    return SimpleNamespace(p=p)


def subject(i: Any) -> Steps:
    return (yield from _qlora.installed(i, _qlora.climb))


def reference(i: Any) -> Steps:
    return (yield from _qlora.fixed(i, _qlora.climb))


def planted(i: Any) -> Steps:
    return (yield from _qlora.saving(i, _qlora.climb))
