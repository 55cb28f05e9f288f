"""Cases by words: what somebody knows who met a bug and not its number."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain

from repros.cases import Entry


def search(entries: Iterable[Entry], words: Sequence[str]) -> Iterator[tuple[Entry, str]]:
    """Yield the cases that have every word, in capitals or not, each with the line that has most of them."""
    wanted = [word.casefold() for word in words]
    for e in entries:
        lines = list(known(e))
        if all(any(word in line.casefold() for line in lines) for word in wanted):
            yield e, max(lines, key=lambda line: sum(word in line.casefold() for word in wanted))


def known(e: Entry) -> Iterator[str]:
    """Yield what is known of a case, a line each: numbers, title, trigger, claims, errors, conditions, docstring."""
    case = e.case
    yield from (f"{e.name} {case.report}", case.title, case.trigger, *case.also)
    yield from chain.from_iterable((claim.text, *claim.reported) for claim in case.claims)
    yield from (f"{symptom.type}: {symptom.text}".replace("\\", "") for symptom in case.symptoms)
    yield from (f"{c.name} {c.note}".strip() for c in case.conditions)
    yield from filter(None, (case.proposes, *sentences(e.doc)))


def sentences(doc: str) -> Iterator[str]:
    """Yield the sentences of a docstring, whose lines break inside them."""
    for paragraph in doc.split("\n\n"):
        yield from re.split(r"(?<=[.;:]) (?=[A-Z])", " ".join(paragraph.split()))
