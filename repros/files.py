"""What is written where the user says: whole files, in folders that are ours, over nothing that we did not make.

A folder of ours holds ``.repros``: its kind, and name -> SHA-256 of each file that was made there. Those of committed
evidence are in one table, ``reports/.repros``. A page on its own carries a digest of itself, in a comment after its
first line (a zip: in its comment). Either tells a file that was made here from one of the user's, and one that the user
edited since from both.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import stat
import uuid
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from io import BufferedReader
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from repros import ROOT
from repros.errors import UserError

MARKER = ".repros"
OWN_REPORTS = ROOT / "reports"
#: File -> kind of the folders that were begun before there was a marker. A folder of logs beside it makes it certain.
UNMARKED = {"results.jsonl": "run", "probes.jsonl": "probes"}
FORCE = "`--force` writes there: it replaces files of the names that are written, and leaves all others"
FORCED = "write over files of these names, whoever made or edited them; nothing else there is touched"

UNSIGNED = "made by repros " + 16 * "0"
_SIGNED = re.compile(rb"made by repros ([0-9a-f]{16})\b")
#: Where a signature may stand: behind the first line of a page, or at the end of a zip.
_HEAD, _TAIL = 4096, 64


# --- one file --------------------------------------------------------------------------------------


def write(path: Path, data: str | bytes) -> None:
    """Write a file whole or not at all; a pipe or a device is written to, a link is never followed."""
    raw = data.encode() if isinstance(data, str) else data
    with _told(path):
        if _is_stream(path):
            with open(os.open(path, os.O_WRONLY | os.O_APPEND), "wb") as file:  # `/dev/stdout` may be a file: add to it
                file.write(raw)
            return
        _no_link(path)
        beside = path.with_name(f"{MARKER}-{uuid.uuid4().hex[:12]}.part")
        try:
            with open(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666), "wb") as file:
                if path.exists():
                    os.fchmod(file.fileno(), stat.S_IMODE(path.stat().st_mode))
                file.write(raw)
            beside.replace(path)
        finally:
            beside.unlink(missing_ok=True)


def create(path: Path, text: str) -> None:
    """Write a file that is not there yet; FileExistsError where anything, a dangling link included, is."""
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666), "w", encoding="utf-8") as file:
        file.write(text)


def put(path: Path, data: str | bytes, *, force: bool = False) -> None:
    """Write a page or a zip of ours, signed; UserError over a file that is not ours or was edited."""
    check(path, force=force)
    write(path, data if _is_stream(path) else signed(data))


def check(path: Path, *, force: bool = False) -> None:
    """Raise UserError where `put` would: before the work is done that it is to keep."""
    with _told(path):
        if _is_stream(path):
            return
        _no_link(path)
        if path.is_dir():
            raise UserError(f"{path}: a folder, not a file", "name a file in it")
        if not force and path.exists() and (whose := owner(path)) != "ours":
            raise UserError(f"{path}: {_WHOSE[whose]}", f"name another file; {FORCE}")


_WHOSE = {"edited": "it was edited since it was made", "foreign": "there is a file that was not made here"}


def owner(path: Path, digests: Collection[str] | None = None) -> Literal["ours", "edited", "foreign"]:
    """Say whose a file is, from its folder's marker and from its own signature; an empty one is nobody's, so ours."""
    if path.stat().st_size == 0:
        return "ours"
    if digests is None:
        marker = Marker.of(path.parent)
        digests = marker.made().get(path.name, ()) if marker else ()
    if digests and digest(path) in digests:
        return "ours"
    with open_plain(path) as file:
        head = file.read(_HEAD)
        file.seek(max(0, path.stat().st_size - _TAIL))
        if not (_SIGNED.search(head) or _SIGNED.search(file.read())):
            return "edited" if digests else "foreign"
    data = path.read_bytes()
    return "ours" if signed(data) == data else "edited"


def signed(data: str | bytes) -> bytes:
    """Return a page with a digest of itself in a comment after its first line; what has its place gets the digest.

    Markdown, HTML and XML share the form of that comment, and none of them shows it.
    """
    raw = data.encode() if isinstance(data, str) else data
    if not (found := _place(raw)):
        first, _, rest = raw.partition(b"\n")
        raw = first + f"\n<!-- {UNSIGNED} -->\n".encode() + rest
        found = _place(raw)
    assert found is not None
    start, end = found
    total = hashlib.sha256(raw[:start] + raw[end:]).hexdigest()[: end - start]
    return raw[:start] + total.encode() + raw[end:]


def _place(raw: bytes) -> tuple[int, int] | None:
    if found := _SIGNED.search(raw[:_HEAD]):
        return found.span(1)
    at = max(0, len(raw) - _TAIL)
    found = _SIGNED.search(raw[at:])
    return (found.start(1) + at, found.end(1) + at) if found else None


def digest(path: Path) -> str:
    """Return the SHA-256 of a plain file."""
    with open_plain(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def open_plain(path: Path) -> BufferedReader:
    """Open a plain file for reading; OSError for a link, a pipe or a device."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(22, "not a plain file", str(path))
    return open(descriptor, "rb")


def _is_stream(path: Path) -> bool:
    """Return whether something other than a file or a folder stands there, links to it (``/dev/stdout``) included."""
    if path.parent == Path("/dev"):
        return True
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def _no_link(path: Path) -> None:
    if path.is_symlink():
        raise UserError(f"{path}: a link to {path.readlink()}", "name what it leads to, or another place")


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """Make two lines of what the system refuses."""
    try:
        yield
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise UserError(f"{path}: cannot write: {why}", "name a place that is there and may be written to") from error


# --- a folder --------------------------------------------------------------------------------------


@dataclass
class Marker:
    """What ``.repros`` says of a folder: its kind, the files made there, and those that were about to replace them."""

    kind: str
    files: dict[str, str] = field(default_factory=dict)
    coming: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, folder: Path) -> Marker | None:
        """Read a folder's marker; None where there is none, or none that can be read."""
        try:
            found = _json(folder / MARKER)
        except FileNotFoundError:
            name = _committed(folder)
            found = _table().get(name) if name else None
        except (OSError, ValueError):
            return None
        try:
            tables = [
                {
                    str(k): str(v)
                    for k, v in found.get(table, {}).items()
                    if not {"", ".", ".."} & set(str(k).split("/"))
                }
                for table in ("files", "coming")
            ]  # a marker may be a stranger's: no name leads out of the folder
            return cls(str(found["kind"]), *tables)
        except (ValueError, TypeError, KeyError, AttributeError):
            return None

    def made(self) -> dict[str, set[str]]:
        """Return name -> digests of our files; after a death while they were replaced, either one is ours."""
        names = self.files.keys() | self.coming.keys()
        return {n: {d for d in (self.files.get(n), self.coming.get(n)) if d} for n in names}

    def write(self, folder: Path) -> None:
        """Put the marker into its folder."""
        found = {"kind": self.kind} | {k: v for k, v in (("files", self.files), ("coming", self.coming)) if v}
        name = _committed(folder)
        if name is None:
            write(folder / MARKER, json.dumps(found, indent=1, sort_keys=True) + "\n")
            return
        with _table_held():
            _write_table(_table() | {name: found})

    def remove(self, folder: Path) -> None:
        """Take the marker away from its folder."""
        name = _committed(folder)
        if name is None:
            (folder / MARKER).unlink()
            return
        with _table_held():
            _write_table({other: found for other, found in _table().items() if other != name})


def _json(path: Path) -> Any:
    with open_plain(path) as file:
        return json.load(file)


def _committed(folder: Path) -> str | None:
    """Return the name of a folder of committed evidence, below ``reports/``; None for any other folder."""
    with suppress(ValueError, OSError):
        name = folder.absolute().relative_to(OWN_REPORTS)
        if name.parts and name.parts[0] != "runs" and ".." not in name.parts:
            return name.as_posix()
    return None


def _table() -> dict[str, Any]:
    """Return folder of committed evidence -> its marker; nothing where the table is not there or cannot be read."""
    with suppress(OSError, ValueError):
        found = _json(OWN_REPORTS / MARKER)
        return dict(found["folders"]) if isinstance(found, dict) and isinstance(found.get("folders"), dict) else {}
    return {}


def _write_table(folders: Mapping[str, Any]) -> None:
    write(OWN_REPORTS / MARKER, json.dumps({"folders": folders}, indent=1, sort_keys=True) + "\n")


@contextmanager
def _table_held() -> Iterator[None]:
    """Hold the table while it is read and written: two bisections may be committed at a time."""
    held = os.open(OWN_REPORTS, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield
    finally:
        os.close(held)


def claim(folder: Path, kind: str, *, force: bool | None = None) -> None:
    """Make a folder ours, or go on with one that is; UserError for any other. ``force=None``: there is no `--force`."""
    marker = _marker(folder, kind, force)
    with _told(folder):
        folder.mkdir(parents=True, exist_ok=True)
        if Marker.of(folder) is None:
            marker.write(folder)


def _marker(folder: Path, kind: str, force: bool | None) -> Marker:
    """Return what is known of a folder that may be written into; UserError for one that may not."""
    other = "name a new or an empty folder"
    with _told(folder):
        _no_link(folder)
        if folder.exists() and not folder.is_dir():
            raise UserError(f"{folder}: a file, not a folder", other)
        if found := Marker.of(folder):
            if found.kind != kind:
                raise UserError(f"{folder}: a folder of kind `{found.kind}`, not `{kind}`", other)
            return found
        inside = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
        ours = [name for name in inside if name.startswith(MARKER)]
        if len(ours) == len(inside) or (begun := _begun(folder)) == kind:
            return Marker(kind)
        if begun and (folder / "logs").is_dir():
            raise UserError(f"{folder}: a folder of kind `{begun}`, not `{kind}`", other)
        if not force:
            damaged = f"{MARKER} cannot be read and it" if MARKER in inside else "it"
            first = next(name for name in inside if name not in ours)
            says = f"{folder}: not a folder of this suite: {damaged} holds `{first}`"
            raise UserError(says, other if force is None else f"{other}; {FORCE}")
        return Marker(kind)


def _begun(folder: Path) -> str:
    """Return the kind of an older folder without a marker, from the first line of its file; empty if it is not ours."""
    for name, kind in UNMARKED.items():
        try:
            with open_plain(folder / name) as file:
                line = file.readline()
            record = json.loads(line) if line.strip() else {"schema": (folder / "logs").is_dir() or None}
        except (OSError, ValueError, RecursionError):
            continue
        if isinstance(record, dict) and record.get("schema"):
            return kind
    return ""


def check_root(folder: Path) -> None:
    """Raise UserError for a folder in place of ``reports/`` that holds other things: a run would be put among them."""
    with _told(folder):
        _no_link(folder)
        if folder.exists() and not folder.is_dir():
            raise UserError(f"{folder}: a file, not a folder", "name a new or an empty folder")
        names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
        if names and "runs" not in names and folder.resolve() != OWN_REPORTS:
            raise UserError(f"{folder}: not a folder of reports: it holds `{names[0]}` and no `runs`",
                            "name a new or an empty folder with `--reports`")  # fmt: skip


class Folder:
    """A folder of ours that is filled aside and put in place at once.

    Files that we made and that nobody touched are replaced, and removed where they are no longer made and ``prune`` is
    set. Files of others stay. With ``force`` a file of a name that is written is replaced whoever made it.
    """

    def __init__(self, path: Path, kind: str, *, force: bool = False, prune: bool = False) -> None:
        self.path = path.absolute()
        self._force, self._prune = force, prune
        self._marker = _marker(self.path, kind, force)
        if prune:
            self._look(self._marker.made())
        self._stack = ExitStack()

    def __enter__(self) -> Folder:
        new = not self.path.exists()
        claim(self.path, self._marker.kind, force=self._force)
        with _told(self.path), ExitStack() as stack:
            if new:
                stack.callback(self._unclaim)
            # The folder itself is locked: `filelock` wants a file, which would stay among the user's.
            held = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
            stack.callback(os.close, held)
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UserError(f"{self.path}: another process writes there", "wait for its end") from None
            self._marker = Marker.of(self.path) or self._marker
            self.staging = self.path / f"{MARKER}.part"
            shutil.rmtree(self.staging, ignore_errors=True)  # of a death before this: the name is ours
            self.staging.mkdir()
            stack.callback(shutil.rmtree, self.staging, ignore_errors=True)
            self._stack = stack.pop_all()
        return self

    def write(self, name: str, data: str | bytes) -> None:
        """Write a file of this name."""
        place = self.staging / name
        with _told(self.path / name):
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(data.encode() if isinstance(data, str) else data)

    def made(self) -> list[str]:
        """Return the names of the files there that we made and that nobody touched."""
        found = self._marker.made()
        return [n for n in sorted(found) if (self.path / n).is_file() and owner(self.path / n, found[n]) == "ours"]

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with self._stack:
            if kind is None:
                with _told(self.path):
                    self._put_in_place()
            elif isinstance(error, OSError):
                with _told(self.path):
                    raise error

    def _put_in_place(self) -> None:
        staged = sorted(path for path in self.staging.rglob("*") if path.is_file())
        new = {path.relative_to(self.staging).as_posix(): digest(path) for path in staged}
        made = self._marker.made()
        self._look(new.keys())
        gone = made.keys() - new.keys() if self._prune else set()
        # Before anything moves: whoever finds this half done knows both for ours.
        Marker(self._marker.kind, self._marker.files, new).write(self.path)
        for name in new:
            (self.path / name).parent.mkdir(parents=True, exist_ok=True)
            (self.staging / name).replace(self.path / name)
        for name in sorted(gone):
            self._remove(name, made)
        files = {name: value for name, value in self._marker.files.items() if name not in gone}
        Marker(self._marker.kind, files | new).write(self.path)

    def _look(self, names: Iterable[str]) -> None:
        """Raise UserError where one of these names is another's file, an edited one, or leads out of the folder."""
        made = self._marker.made()
        for name in sorted(names):
            path = self.path / name
            for part in (path, *path.parents):
                if part == self.path:
                    break
                _no_link(part)
            if path.is_dir():
                raise UserError(f"{path}: a folder where a file goes", "move it elsewhere")
            if self._force or not path.exists():
                continue
            if (whose := owner(path, made.get(name, ()))) != "ours":
                raise UserError(f"{path}: {_WHOSE[whose]}", f"move it elsewhere; {FORCE}")

    def _remove(self, name: str, made: Mapping[str, set[str]]) -> None:
        path = self.path / name
        if path.exists() and owner(path, made[name]) == "ours":
            path.unlink()
        parent = path.parent
        if parent != self.path and parent.is_dir() and not any(parent.iterdir()):
            parent.rmdir()

    def _unclaim(self) -> None:
        """Remove a folder that was made for nothing: nothing was put into it."""
        marker = Marker.of(self.path) or self._marker
        if all(path.name == MARKER for path in self.path.iterdir()) and not marker.files:
            marker.remove(self.path)
            self.path.rmdir()
