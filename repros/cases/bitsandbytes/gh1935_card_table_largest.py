"""The largest model that trains on a card: models upward from the report's, until one does not fit.

The report, before its fix and after: a card of 12 GB trains 4B and 9B, one of 16 GB 7B and 13B, 24 GB 9B and 20B,
32 GB 13B and 20B. Each arm begins at the report's smaller model or one below it and trains one after another, as in
`repros.cases.bitsandbytes.gh1935_card_table` and on cards made as small, until one runs out of memory.

Budget: of the models named, as many may be too large as should take more than the card has, by
`repros.cases._qlora.predicted`.

Planted: autograd saves the dequantized weight of every layer, which is what the report says of the installed ones. By
the same sum not even 4B should train on 12 GB then.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from repros.case import Budget, Case
from repros.cases import _qlora
from repros.cases._qlora import Steps, upward
from repros.cases._saved_weight import PROPOSES

__all__ = ["CASE", "planted", "prepare", "proposed", "reference", "subject"]

#: GB of a card -> the report's models on it before the fix and after.
TABLE = {12: ("4b", "9b"), 16: ("7b", "13b"), 24: ("9b", "20b"), 32: ("13b", "20b")}

CASE = Case(
    package="bitsandbytes",
    number=1935,
    title="the card table, upward: the largest model that trains on a card",
    kind="pull request",
    status="closed unmerged, withdrawn by its author",
    claims=(_qlora.ladders(TABLE),),
    conditions=(
        upward(12, "4b 7b 9b 13b", without=()),
        upward(16, "4b 7b 9b 13b 20b"),
        upward(24, "7b 9b 13b 20b 34b"),
        upward(32, "9b 13b 20b 34b 50b", without=()),
    ),
    budget=Budget("too_large", _qlora.too_large),
    proposes=PROPOSES,
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


def proposed(i: Any) -> Steps:
    return (yield from _qlora.patched(i, _qlora.climb))
