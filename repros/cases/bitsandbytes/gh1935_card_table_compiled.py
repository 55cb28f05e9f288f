"""Which model trains on which card under ``torch.compile``, where the report's bug is real.

The table of `repros.cases.bitsandbytes.gh1935_card_table`, three cards of it, with each decoder layer compiled by the
backend that partitions by min-cut. There bitsandbytes before 0.50 has the compiler save the dequantized weight of every
layer. Model, step, budget, planted bug and prediction are that case's; the prediction knows no compiler.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from repros.case import Budget, Case, Symptom, on_cards
from repros.cases import _qlora
from repros.cases._qlora import Steps, on
from repros.cases._saved_weight import PROPOSES

__all__ = ["CASE", "planted", "prepare", "proposed", "reference", "subject"]

TABLE = (("9b", 12), ("20b", 24), ("50b", 80))

CASE = Case(
    package="bitsandbytes",
    number=1935,
    title="the card table, compiled: which model trains on which card",
    kind="pull request",
    status="closed unmerged, withdrawn by its author",
    claims=(
        _qlora.table(
            "not in the report: under torch.compile the card table's larger models do not train on their cards",
            {(model, card): f"{model}-on-{card}gb-compile-cuda" for model, card in TABLE},
        ),
    ),
    conditions=tuple(on(model, card, "mincut", without=() if card == 12 else ("proposed",)) for model, card in TABLE),
    budget=Budget("cuda_peak_reserved_bytes", _qlora.limit),
    symptoms=(Symptom("OutOfMemoryError"),),
    affected=on_cards("reports/h200", bitsandbytes=("<0.50", "*-compile-cuda")),
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
    return (yield from _qlora.saving(i))


def proposed(i: Any) -> Steps:
    return (yield from _qlora.patched(i))
