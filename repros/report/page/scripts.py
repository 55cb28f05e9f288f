"""The one-file scripts of a page's trials: each text that several of them share is in the page once.

A trial's script is a list of its own texts and of numbers, which name entries of one table; an entry is a text or
again a list of numbers. Put one behind the other they are the file that `repros.report.onefile` writes, to the letter.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from repros.cases import Entry
from repros.errors import UserError
from repros.redaction.redact import Redactor
from repros.report import onefile
from repros.run.results import Record

#: The texts and numbers of a script; or in words why there is none.
Pieces = Sequence[int | str] | str


def dumps(value: Any) -> bytes:
    """Return JSON, also of a text with a lone surrogate, which UTF-8 cannot hold and JSON's own escapes can."""
    try:
        return orjson.dumps(value)
    except TypeError:
        return json.dumps(value, separators=(",", ":"), allow_nan=False).encode()


class Scripts:
    """Collects the scripts of trials, and the table that they name."""

    def __init__(self, known: Mapping[str, Entry], redactor: Redactor) -> None:
        self.table: list[str | list[int]] = []
        self._known = known
        self._redactor = redactor
        self._writer = onefile.Writer(redactor)
        self._numbers: dict[str | tuple[str, ...], int] = {}
        self._frames: dict[onefile.Frame, tuple[int, int, int]] = {}

    def of(self, record: Record) -> Pieces:
        """Return the pieces of a trial's script, or why there is none."""
        entry = self._known.get(record.case)
        if entry is None:
            return "this version of the suite does not have the case"
        try:
            made = self._writer.of(record, entry)
        except UserError as error:
            return self._redactor.text(error.what)
        before, between, after = self._frame(made.frame)
        return [before, made.sentence, between, made.settings, after]

    def block(self) -> str:
        """Return the table as the page keeps it: JSON, deflated, in base64."""
        return base64.b64encode(zlib.compress(dumps(self.table), 9)).decode()

    def _frame(self, frame: onefile.Frame) -> tuple[int, int, int]:
        if frame not in self._frames:
            before, between, after = map(self._enter, (frame.before, frame.between, frame.after))
            self._frames[frame] = before, between, after
        return self._frames[frame]

    def _enter(self, texts: tuple[str, ...] | str) -> int:
        """Return the number of a text, or of several that follow each other."""
        if not isinstance(texts, str) and len(texts) == 1:
            (texts,) = texts
        if texts not in self._numbers:
            entry = texts if isinstance(texts, str) else [self._enter(one) for one in texts]
            self._numbers[texts] = len(self.table)
            self.table.append(entry)
        return self._numbers[texts]
