"""Records without what is private, for pages that escape afterwards: escaping may hide a secret's form."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from enum import Enum
from typing import Any, TypeVar

from repros.redaction.redact import Redactor
from repros.run.results import Record
from repros.verdict import Observation

#: The evidence that pages in Markdown tell of.
TOLD = ("alive_at_peak", "cuda_phases")

Kept = TypeVar("Kept", Record, Observation)


def redacted(record: Record, redactor: Redactor) -> Record:
    """Return a record whose words hold nothing private; of the evidence it keeps what a page in Markdown tells."""
    arms = tuple(
        replace(one, evidence={name: value for name, value in one.evidence.items() if name in TOLD})
        for one in record.arms
    )
    return replace(_words(record, redactor), arms=tuple(_words(one, redactor) for one in arms))


def _words(kept: Kept, redactor: Redactor) -> Kept:
    """Return what was kept with every text in it redacted; what is neither text nor a mapping stays."""
    found = ((field.name, getattr(kept, field.name)) for field in fields(kept))
    words: dict[str, Any] = {
        name: redactor.value(value)
        for name, value in found
        if isinstance(value, (str, Mapping)) and not isinstance(value, Enum)
    }
    return replace(kept, **words)
