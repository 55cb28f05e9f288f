"""What a `try` found, as it is kept beside its logs: one JSON file, from which a page or an attachment is made."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from repros import files
from repros.errors import UserError
from repros.redaction.redact import Redactor
from repros.report.tries import Tries, redacted
from repros.run.folders import shown
from repros.run.schema import Machine, MisfitError, converted, fit, version_of
from repros.run.script import Script
from repros.run.vote import BAD, GOOD, SKIP

#: Version of the file. Raise it when a field changes its meaning.
SCHEMA = 1
FILE = "try.json"


@dataclass(frozen=True)
class KeptTry:
    """A script over cells or releases: the rows, the script as it was run, and how it was asked for."""

    tries: Tries
    files: Mapping[str, str]
    """The script and the modules beside it that it imports: path -> source. Bytes that are no UTF-8 are surrogates."""
    args: Sequence[str]
    """The script's own."""
    path: str
    """Where the script was on this machine."""
    words: Sequence[str]
    """The command after ``python -m repros``, the script by its name alone."""
    date: str
    """When it began, in UTC: ``2026-11-26T18:06:19Z``."""
    machine: Mapping[str, Any]

    @property
    def text(self) -> str:
        """Return the script's own source as text to show, in lines that end as ours do."""
        shown = re.sub("[\ud800-\udfff]", "\ufffd", self.files[self.tries.script])
        return re.sub(r"\r\n?", "\n", shown)

    @property
    def command(self) -> str:
        """Return the command, to copy."""
        return shlex.join(["python", "-m", "repros", *self.words])


def sources_of(script: Script) -> dict[str, str]:
    """Return a script's files as `KeptTry.files` holds them."""
    return {name: content.decode("utf-8", "surrogateescape") for name, content in script.files.items()}


def as_bytes(source: str) -> bytes:
    """Return a source as it stood on disk."""
    return source.encode("utf-8", "surrogateescape")


def redacted_try(kept: KeptTry, clean: Redactor) -> KeptTry:
    """Return it with nothing private in any word, and without the script's place on this machine."""
    texts = {clean.text(name): clean.text(source) for name, source in kept.files.items()}
    args, words = ([clean.text(word) for word in several] for several in (kept.args, kept.words))
    machine = clean.value(dict(kept.machine))
    found = redacted(kept.tries, clean)
    return replace(kept, tries=found, files=texts, args=args, path="", words=words, machine=machine)


def keep(kept: KeptTry, folder: Path) -> None:
    """Write it into its folder."""
    files.write(folder / FILE, as_json(kept))


def as_json(kept: KeptTry) -> str:
    """Return the file's text; ASCII, so that no text is beyond it."""
    return json.dumps({"schema": SCHEMA, "kind": "try", **asdict(kept)}, indent=1, allow_nan=False) + "\n"


def load(folder: Path) -> KeptTry:
    """Read what `keep` wrote; UserError where it is damaged or of another version, FileNotFoundError where none is."""
    path = folder / FILE
    again = "try the script again: it writes the file anew"
    try:
        with files.open_plain(path) as file:
            found = json.load(file)
        version = version_of(found)
        if version == SCHEMA:
            return _checked(converted(found, KeptTry))
    except FileNotFoundError:
        raise
    except (OSError, ValueError, RecursionError, MisfitError) as error:
        says = (
            "not JSON" if isinstance(error, (ValueError, RecursionError)) else getattr(error, "strerror", "") or error
        )
        raise UserError(f"{shown(path)}: not a kept try: {says}", again) from error
    raise UserError(f"{shown(path)}: schema version {version}, this version reads {SCHEMA}", again)


def _checked(kept: KeptTry) -> KeptTry:
    """Return it; MisfitError where its parts do not go together."""
    for number, one in enumerate(kept.tries.rows):
        if one.vote not in (GOOD, BAD, SKIP):
            raise MisfitError(f"`tries.rows[{number}].vote`: `{one.vote[:40]}` is no vote")
    fit(kept.machine, Machine)
    if not kept.tries.rows:
        raise MisfitError("`tries.rows`: none")
    if not re.fullmatch(r"[0-9]{4}(-[0-9]{2}){2}T[0-9]{2}(:[0-9]{2}){2}Z", kept.date):
        raise MisfitError(f"`date`: `{kept.date[:40]}` is none")
    if kept.tries.script not in kept.files:
        raise MisfitError("`files`: the script is not among them")
    for name, source in kept.files.items():
        if name.startswith("/") or {"", ".", ".."} & set(name.split("/")):
            raise MisfitError(f"`files`: `{name[:40]}` is no path below a folder")
        if re.search("[\ud800-\udc7f\udd00-\udfff]", source):
            raise MisfitError(f"`files`: `{name[:40]}` holds what no file can")
    return kept
