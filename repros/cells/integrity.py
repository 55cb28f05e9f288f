"""Is an environment still what was installed? All its files, each time it is handed out.

A fingerprint, written when an environment is built, keeps of each file what `stat` says (size, mtime, ctime, inode) and
its SHA-256. A file whose four numbers are as they were is taken to be the same: whoever restores size and mtime cannot
restore ctime. A file with other numbers is hashed. So a cache that was copied, or whose files were linked into one more
environment, is hashed once and not built again. Small packages under test are hashed each time.

At build, and where an earlier version built and left no fingerprint, the hashes are those of the wheels' RECORD. A file
without a hash in RECORD is then taken as it is found.

Bytecode that is not in the fingerprint was written by an arm, or by somebody else. Python believes it by the time and
size of its source, so it is compared with what its source compiles to, and removed where it differs.

Not looked at: the base interpreter and its standard library; what arms compile (`inductor`); and the host's torch in a
cell with `torch: host`, which is not ours to build again and is known by version and folder.
"""

from __future__ import annotations

import base64
import contextlib
import csv
import hashlib
import os
import posixpath
import re
import stat
import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import orjson

from repros.cells.bytecode import false_bytecode

FINGERPRINT = "integrity.json"
SCHEMA = 1
#: A package under test of at most so many modules has them hashed each time, in 0.1 ms each.
ALWAYS_FILES = 100

_COMPILED_BY_ARMS = "inductor"
_OWN = (FINGERPRINT, f".{FINGERPRINT}")
#: Python writes bytecode beside its place and renames it.
_BEING_WRITTEN = re.compile(r"\.pyc\.\d+$")
_BYTECODE = re.compile(r"/__pycache__/[^/]+\.pyc$")
#: What pytest writes of a module whose assertions it rewrites: no interpreter looks for bytecode of that name.
_REWRITTEN = re.compile(r"/__pycache__/[^/]+-pytest-[^/]+\.pyc$")
#: What lies in site-packages and no RECORD needs to name: written by uv, by pip, or by us.
_UNLISTED = re.compile(r"_virtualenv\.(py|pth)|host-torch\.pth|[^/]+\.dist-info/(RECORD|INSTALLER|REQUESTED|\w+\.json)")

Look = int
"""Size, mtime, ctime and inode of a file, made one number: `hash` of four integers is the same in every process."""


@dataclass(frozen=True)
class Damage:
    """A file that is not what was installed, and the distribution that installs it where that is known."""

    path: str
    what: str
    distribution: str = ""

    def __str__(self) -> str:
        return f"{self.path} {self.what}"


@dataclass(frozen=True)
class Fingerprint:
    """What is known of an environment's files, by their paths in it."""

    looks: Mapping[str, Look] = field(default_factory=dict)
    hashes: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def load(cls, folder: Path) -> Fingerprint | None:
        """Read the fingerprint of an environment; None where it has none that can be read."""
        try:
            kept = orjson.loads((folder / FINGERPRINT).read_bytes())
            looks, hashes = (dict(zip(kept["paths"], kept[what], strict=True)) for what in ("looks", "hashes"))
            return cls(looks, hashes) if kept["schema"] == SCHEMA else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def write(self, folder: Path) -> None:
        """Keep it in the environment, so that a reader sees all of it or nothing."""
        beside = folder / f".{FINGERPRINT}.{uuid.uuid4().hex[:8]}"
        paths = sorted(self.looks)
        columns = {"looks": [self.looks[path] for path in paths], "hashes": [self.hashes[path] for path in paths]}
        beside.write_bytes(orjson.dumps({"schema": SCHEMA, "paths": paths, **columns}))
        beside.replace(folder / FINGERPRINT)


def summary(damage: Collection[Damage]) -> str:
    """Say which file is damaged and how, and how many more are."""
    more = f", and {len(damage) - 1} more files" if len(damage) > 1 else ""
    return f"{next(iter(damage))}{more}"


# --- at build ------------------------------------------------------------------------------------


def protect(folder: Path) -> None:
    """Make installed files read-only: one linked from the installer's cache is one file for every environment."""
    for path in look(folder):
        file = folder / path
        mode = file.lstat().st_mode
        if path.startswith("lib/") and stat.S_ISREG(mode) and mode & 0o222:
            with contextlib.suppress(PermissionError):  # linked from the cache of another user
                file.chmod(stat.S_IMODE(mode) & ~0o222)


def contradicted(folder: Path) -> list[Damage]:
    """Return the files that are not what the RECORD of their distribution says."""
    looks = look(folder)
    listed = _listed(folder)
    return _against_records(looks, _hash_all(folder, {path: looks[path] for path in looks if path in listed}), listed)


def seal(folder: Path) -> None:
    """Write the fingerprint of an environment that is as it should be."""
    looks = look(folder)
    Fingerprint(looks, _hash_all(folder, looks)).write(folder)


# --- when it is handed out -----------------------------------------------------------------------


def verify(
    folder: Path, python: Path, pins: Collection[str] = (), say: Callable[[str], None] = lambda text: None
) -> str:
    """Return what is wrong with an environment in one line, "" for nothing; `pins` are the packages under test.

    A file that is the same under another look is remembered by that. Bytecode that is false is removed, and told.
    """
    try:
        return _verify(folder, python, pins, say)
    except OSError as error:
        return f"{error.filename or folder}: {error.strerror or error}"


def _verify(folder: Path, python: Path, pins: Collection[str], say: Callable[[str], None]) -> str:
    looks = look(folder)
    kept = Fingerprint.load(folder)
    known = kept or Fingerprint()
    changed = {path: seen for path, seen in looks.items() if known.looks.get(path) != seen}
    hashes = _hash_all(folder, changed)
    hashes |= _hash_each(folder, _small(looks, pins, _site(folder)))
    damage = _against_fingerprint(looks, hashes, known) if kept else _first_look(folder, looks, hashes)
    if damage:
        return summary(damage)
    unknown = [path for path in changed if _BYTECODE.search(path) and known.hashes.get(path) != hashes[path]]
    if false := false_bytecode(folder, python, unknown):
        for path in false:
            (folder / path).unlink(missing_ok=True)
            del looks[path]
        removed = [Damage(path, "is not what its source compiles to") for path in false]
        say(f"{folder.name}: {summary(removed)}: removed")
    if changed or len(looks) != len(known.looks):
        with contextlib.suppress(OSError):  # what cannot be written is hashed again the next time
            Fingerprint(looks, {path: hashes.get(path) or known.hashes[path] for path in looks}).write(folder)
    return ""


def true_bytecode(folder: Path) -> set[str]:
    """Return the bytecode of an environment that its fingerprint vouches for."""
    known = Fingerprint.load(folder) or Fingerprint()
    compiled = [path for path in known.hashes if _BYTECODE.search(path)]
    return {path for path, found in _hash_each(folder, compiled).items() if found == known.hashes[path]}


def look(folder: Path) -> dict[str, Look]:
    """Return the looks of all files and links, without what arms compile and what is being written."""
    found: dict[str, Look] = {}
    folders = [""]
    root = os.open(folder, os.O_RDONLY)  # names below an open folder cost less than whole paths
    try:
        while folders:
            _look_into(root, folders.pop(), found, folders)
    finally:
        os.close(root)
    return found


def _look_into(root: int, at: str, found: dict[str, Look], folders: list[str]) -> None:
    descriptor = os.open(at or ".", os.O_RDONLY, dir_fd=root)
    try:
        with os.scandir(descriptor) as entries:
            for entry in entries:
                path = at + entry.name
                if entry.is_dir(follow_symlinks=False):
                    if path != _COMPILED_BY_ARMS:
                        folders.append(f"{path}/")
                elif path[-1] == "c" and _REWRITTEN.search(path):
                    continue
                elif not (path[-1].isdigit() and _BEING_WRITTEN.search(path)) and (at or not path.startswith(_OWN)):
                    with contextlib.suppress(FileNotFoundError):
                        seen = entry.stat(follow_symlinks=False)
                        found[path] = hash((seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns, seen.st_ino))
    finally:
        os.close(descriptor)


def _small(looks: Mapping[str, Look], pins: Collection[str], site: str) -> list[str]:
    """Return the modules of the packages under test that are small, and the METADATA of all of them."""
    names = [pin.replace("-", "_") for pin in pins]
    folders = tuple(f"{site}/{name}/" for name in names)
    infos = tuple(f"{site}/{name}-" for name in names)
    modules = [path for path in looks if path.startswith(folders) and path.endswith(".py")]
    few = tuple(f for f in folders if sum(path.startswith(f) for path in modules) <= ALWAYS_FILES)
    found = [path for path in modules if path.startswith(few)] if few else []
    return found + [path for path in looks if path.endswith(".dist-info/METADATA") and path.startswith(infos)]


def _against_fingerprint(looks: Mapping[str, Look], hashes: Mapping[str, str], known: Fingerprint) -> list[Damage]:
    lost = [path for path in known.looks if path not in looks]
    damage = [Damage(path, "is missing") for path in lost]
    for path, found in hashes.items():
        if known.hashes.get(path) != found:
            what = "is not what was installed" if path in known.hashes else "was added after the installation"
            damage.append(Damage(path, what))
    return [seen for seen in damage if not _BYTECODE.search(seen.path)]


def _first_look(folder: Path, looks: Mapping[str, Look], hashes: Mapping[str, str]) -> list[Damage]:
    """Compare with RECORD what has no fingerprint; what no RECORD names may have been added since."""
    listed, site = _listed(folder), _site(folder)
    added = [
        Damage(path, "belongs to no distribution")
        for path in looks
        if path.startswith("lib/")
        and path not in listed
        and not _BYTECODE.search(path)
        and not _UNLISTED.fullmatch(path.removeprefix(f"{site}/"))
    ]
    return _against_records(looks, hashes, listed) + added


# --- RECORD and hashes ---------------------------------------------------------------------------


@dataclass
class _Listed:
    distribution: str
    hashes: set[str]
    """More than one where distributions share a file: what was installed last has it. Empty where RECORD has none."""


def _against_records(
    looks: Mapping[str, Look], hashes: Mapping[str, str], listed: Mapping[str, _Listed]
) -> list[Damage]:
    damage = []
    for path, entry in listed.items():
        if path not in looks and not _BYTECODE.search(path):
            damage.append(Damage(path, "is missing", entry.distribution))
        elif path in looks and entry.hashes and hashes[path] not in entry.hashes:
            damage.append(Damage(path, f"is not what {entry.distribution} installs", entry.distribution))
    return damage


def _listed(folder: Path) -> dict[str, _Listed]:
    """Read every RECORD: path in the environment -> what it says of the file."""
    found: dict[str, _Listed] = {}
    site = _site(folder)
    for record in sorted((folder / site).glob("*.dist-info/RECORD")):
        distribution = record.parent.name.partition("-")[0]
        # Where one cannot be read, its files belong to no distribution.
        with contextlib.suppress(csv.Error), record.open(encoding="utf-8", errors="replace", newline="") as file:
            for path, digest, *_ in (row for row in csv.reader(file) if len(row) >= 2):
                entry = found.setdefault(posixpath.normpath(f"{site}/{path}"), _Listed(distribution, set()))
                if digest.startswith("sha256="):
                    entry.hashes.add(digest.removeprefix("sha256=").rstrip("="))
    return found


def _site(folder: Path) -> str:
    """Return where packages lie in the environment."""
    return next((str(path.relative_to(folder)) for path in folder.glob("lib/python3*/site-packages")), "lib")


#: Look -> hash, of what this process hashed: environments share most of their files.
_hashed: dict[Look, str] = {}


def _hash_all(folder: Path, looks: Mapping[str, Look]) -> dict[str, str]:
    """Hash these files, but for those that this process has hashed under the same look."""
    todo = [path for path, seen in looks.items() if seen not in _hashed]
    workers = min(8, os.cpu_count() or 1, 1 + len(todo) // 100)
    with ThreadPoolExecutor(workers) as pool:
        for part in pool.map(_hash_each, [folder] * workers, (todo[n::workers] for n in range(workers))):
            _hashed.update((looks[path], found) for path, found in part.items())
    return {path: _hashed[seen] for path, seen in looks.items()}


def _hash_each(folder: Path, paths: Sequence[str]) -> dict[str, str]:
    """Hash files as RECORD does; a link counts by where it points to."""
    return {path: _hash(folder / path) for path in paths}


def _hash(path: Path) -> str:
    try:
        if path.is_symlink():
            return f"to {path.readlink()}"
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").digest()
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
