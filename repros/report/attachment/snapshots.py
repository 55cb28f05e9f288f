"""A snapshot of the allocator as it may leave this machine: plain data, redacted, still what torch's viewer opens."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

from repros.errors import UserError
from repros.files import open_plain
from repros.meters.snapshot import PROTOCOL, shortened
from repros.redaction.redact import Redactor


class PlainUnpickler(pickle.Unpickler):
    """Reads lists, mappings, texts and numbers, of which a snapshot of the allocator is made, and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        """Refuse whatever a pickle wants to import."""
        raise UserError(f"a snapshot holds {module}.{name}", "leave it out of the run's folder: it is not plain data")


def redacted(path: Path, redactor: Redactor) -> bytes:
    """Return the pickle of a snapshot without what is private; UserError where it cannot be read."""
    try:
        with open_plain(path) as file:
            snapshot = PlainUnpickler(file).load()
    except (pickle.UnpicklingError, EOFError, ValueError, IndexError, KeyError, AttributeError) as error:
        raise UserError(
            f"{path.name}: not a snapshot ({type(error).__name__}: {error})", "delete it, and make the bundle again"
        ) from error
    return pickle.dumps(Cleaner(redactor).value(snapshot), protocol=PROTOCOL)


class Cleaner:
    """Redacts nested data and keeps what several places share shared: thousands of events have the same frames."""

    def __init__(self, redactor: Redactor) -> None:
        self._redactor = redactor
        self._done: dict[int, Any] = {}

    def value(self, value: Any) -> Any:
        """Return a value without what is private; frames name their files from the package on."""
        if isinstance(value, str):
            return self._redactor.text(value)
        if not isinstance(value, (dict, list, tuple)):
            return value
        if id(value) not in self._done:  # the snapshot is alive, so no identity is used again
            self._done[id(value)] = self._made(value)
        return self._done[id(value)]

    def _made(self, value: Any) -> Any:
        if not isinstance(value, dict):
            return type(value)(self.value(one) for one in value)
        made = {self.value(name): self.value(one) for name, one in value.items()}
        if isinstance(value.get("filename"), str):
            made["filename"] = self._redactor.text(shortened(value["filename"]))
        return made
