"""The largest model that trains on a server's card, as `repros.cases.bitsandbytes.gh1935_card_table_largest`.

The report, before its fix and after: a card of 48 GB trains 20B and 34B, one of 80 GB 34B and 50B. These are tried by
themselves since two of their arms fill a card of 141 GB.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from repros.case import Budget, Case
from repros.cases import _qlora
from repros.cases._qlora import Steps, upward

__all__ = ["CASE", "planted", "prepare", "reference", "subject"]

#: GB of a card -> the report's models on it before the fix and after.
TABLE = {48: ("20b", "34b"), 80: ("34b", "50b")}

CASE = Case(
    package="bitsandbytes",
    number=1935,
    title="the card table, upward: the largest model that trains on a server's card",
    kind="pull request",
    status="closed unmerged, withdrawn by its author",
    claims=(_qlora.ladders(TABLE),),
    conditions=(upward(48, "13b 20b 34b 50b 70b"), upward(80, "20b 34b 50b 70b 123b")),
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
