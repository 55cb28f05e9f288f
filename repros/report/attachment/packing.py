"""An attachment on disk: a folder that is filled at once, and the zip of it, as large as GitHub takes."""

from __future__ import annotations

import os
import tempfile
import zipfile
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from repros import files
from repros.redaction.redact import Redactor

#: What GitHub takes of an attached zip.
ZIP_BYTES = 25 << 20


@dataclass(frozen=True)
class Bundle:
    """What was made: its folder and zip, and what was left out of the zip because of its size."""

    folder: Path
    zip: Path
    left_out: Sequence[str]


def write(
    folder: Path, fill: Callable[[files.Folder], None], needed: Collection[str], *, force: bool = False
) -> Bundle:
    """Write the folder that `fill` fills, and its zip, which has the files of the names ``needed`` whatever their size.

    UserError over files that are not ours or were edited, before any work is done.
    """
    out = files.Folder(folder, "bundle", force=force, prune=True)
    target = out.path.with_name(out.path.name + ".zip")
    files.check(target, force=force)
    with out:
        fill(out)
        data, left = pack(out.staging, out.path.name, needed)
    files.put(target, data, force=force)
    return Bundle(folder, folder.with_name(target.name) if folder.name else target, left)


def pack(folder: Path, name: str, needed: Collection[str]) -> tuple[bytes, list[str]]:
    """Zip a bundle; where it is too large for an attachment, the largest files that explain least stay outside."""
    kept = sorted(path for path in folder.rglob("*") if path.is_file())
    left: list[str] = []
    while True:
        with tempfile.TemporaryFile() as target:
            with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as file:
                file.comment = files.UNSIGNED.encode()
                for path in kept:
                    file.write(path, Path(name) / path.relative_to(folder))
            others = [path for path in kept if path.name not in needed]
            if target.seek(0, os.SEEK_END) <= ZIP_BYTES or not others:
                target.seek(0)
                return target.read(), left
        largest = max(others, key=lambda path: path.stat().st_size)
        kept.remove(largest)
        left.append(largest.relative_to(folder).as_posix())


def take_log(path: Path, target: Path, redactor: Redactor) -> None:
    """Copy a log into a bundle, redacted; OSError where it is a link or no plain file."""
    with files.open_plain(path) as file:
        text = file.read().decode(errors="replace")
    target.parent.mkdir(exist_ok=True)
    target.write_text(redactor.text(text), encoding="utf-8")
