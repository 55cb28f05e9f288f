"""Which model trains on which card under gradient checkpointing, where most people train.

The table of `repros.cases.bitsandbytes.gh1935_card_table` with each decoder layer checkpointed. A weight that autograd
saves would then be held for one layer at a time, and what fits is decided by the base: each model goes on a card that
the report gives to a smaller one, and the planted bug is a cache of the dequantized weight in every layer. Model, step,
budget and prediction are that case's.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from repros.case import Budget, Case, Claim, Symptom
from repros.cases import _qlora
from repros.cases._qlora import Steps, on
from repros.cases._saved_weight import PROPOSES

__all__ = ["CASE", "planted", "prepare", "proposed", "reference", "subject"]

CASE = Case(
    package="bitsandbytes",
    number=1935,
    title="the card table, checkpointed: which model trains on which card",
    kind="pull request",
    status="closed unmerged, withdrawn by its author",
    claims=(Claim("not in the report: under gradient checkpointing larger models still do not train on those cards"),),
    conditions=(
        on("13b", 12, "checkpoint", length=2048),
        on("34b", 24, "checkpoint", without=("proposed",)),
    ),
    budget=Budget("cuda_peak_reserved_bytes", _qlora.limit),
    symptoms=(Symptom("OutOfMemoryError"),),
    proposes=PROPOSES,
    timeout_s=180.0,
    url="https://github.com/bitsandbytes-foundation/bitsandbytes/pull/1935",
)


def prepare(p: Any, checkpoint: object) -> SimpleNamespace:
    return _qlora.inputs(p)


def subject(i: Any) -> Steps:
    return (yield from _qlora.installed(i))


def reference(i: Any) -> Steps:
    return (yield from _qlora.fixed(i))


def planted(i: Any) -> Steps:
    return (yield from _qlora.caching(i))


def proposed(i: Any) -> Steps:
    return (yield from _qlora.patched(i))
