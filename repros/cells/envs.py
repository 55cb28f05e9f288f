"""Cell -> interpreter: lock, install, check, and find again in milliseconds.

An environment is a folder ``<cell>-<key>`` in the cache, made by uv in a staging folder beside it
and renamed into place once its health check has passed: a folder in place is whole. Its key is a
digest of the lock, the Python, the platform, the build of torch, and the content of what an
override points at.

Each time it is handed out it is compared with what was installed (`repros.cells.integrity`); one that differs is built
again.

A warm environment is found without uv: the index maps what was asked for (pins, committed locks,
Python, platform, content of overrides) to the folder that answered it before.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import platform
import re
import shutil
import sys
import sysconfig
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout

from repros.cells.bytecode import lend
from repros.cells.health import Inspection, inspect, version_problem
from repros.cells.integrity import FINGERPRINT, contradicted, protect, seal, summary, true_bytecode, verify
from repros.cells.locks import FLAVOURS, Build, Flavour, Lock, choose_build, committed_lock, install_options
from repros.cells.locks import resolve_here as resolve
from repros.cells.matrix import HOST, Cell
from repros.cells.overrides import content_digest, given_path, looks_like_path
from repros.cells.uv import Progress, Uv, redact
from repros.errors import EnvError
from repros.machine import host_torch
from repros.machine.cache import cache_root
from repros.machine.host import gpu_kind, without_gpu
from repros.machine.host_torch import HostTorch

__all__ = ["EnvError", "Environment", "Store", "ensure"]

SCHEMA = 1
#: How uv begins where what it unpacked of a wheel cannot be one.
_BROKEN_WHEEL = re.compile(r"Failed to install: (?P<name>\w[\w.]*)-\S+\.whl")


@dataclass(frozen=True)
class Environment:
    """An interpreter that holds the pins of a cell, and how it came to be."""

    python: Path
    path: Path
    cell: Cell
    build: str
    """Build of torch and where it came from, such as ``cpu (find-links)`` or ``default``."""
    lock_digest: str
    lock_committed: bool
    """False where the pins were resolved here: `path` / ``lock.txt`` is then the only record."""
    seconds: float
    """What this call took."""
    warm: bool
    """True where it was found without starting uv."""
    resolved: Mapping[str, str]
    """Every installed distribution -> version."""
    inode: int
    """Of the folder: another one has it where the environment was built again."""

    def damage(self) -> str:
        """Return what happened to the environment since it was handed out; "" where nothing did."""
        removed: list[str] = []
        if _inode(self.path) != self.inode:
            return "another process built it again"
        return verify(self.path, self.python, self.cell.pins, removed.append) or "".join(removed[:1])


def ensure(
    cell: Cell,
    *,
    root: Path,
    progress: Progress | None = None,
    cache: Path | None = None,
    build: Literal["auto", "cpu", "default"] = "auto",
) -> Environment:
    """Return the environment of `cell`, made if need be.

    `root` is the checkout, whose ``fixtures/locks`` is read. `build` is the build of torch: with
    ``auto`` a CPU build where the host has no GPU and one is on offer, else the default build.
    Raises EnvError where the environment cannot be had, UserError for an override that points
    nowhere.
    """
    started = time.perf_counter()
    say = _once(progress or (lambda _: None))
    host = _torch_of_host(cell) if cell.pins.get("torch") == HOST else None
    store = Store(cache or cache_root())
    flavour: Flavour = ("default" if gpu_kind() else "cpu") if build == "auto" else build
    contents = _override_digests(cell)
    asked = _request(cell, root, flavour, contents, host)
    folder = store.find(asked, must_be="cpu" if build == "cpu" else "")
    wrong = _damage(folder, cell, say) if folder else ""
    warm = folder is not None and not wrong
    if folder is None or wrong:
        try:
            folder = _build(_plan(cell, root, flavour, contents, host, insist=build == "cpu", say=say), store)
            store.remember(asked, folder)
        except OSError as error:
            what = f"{cell.label}: {error.filename or store.envs}: {error.strerror or error}"
            raise EnvError("error", what, "check the disk, or set REPROS_CACHE to another folder") from None
        except EnvError as error:
            if not wrong:
                raise
            what = f"{cell.label}: {wrong}; building it again failed: {error.what.removeprefix(f'{cell.label}: ')}"
            raise EnvError("error", what, error.hint, error.words) from None
    return _environment(cell, folder, warm, time.perf_counter() - started)


def _once(say: Progress) -> Progress:
    """Let a line pass once: damage is met before the build, and again once its lock is held."""
    said: set[str] = set()

    def told(text: str) -> None:
        if text not in said:
            said.add(text)
            say(text)

    return told


def _damage(folder: Path, cell: Cell, say: Progress) -> str:
    """Return, and tell, why an environment must not be used; "" where it may be."""
    wrong = verify(folder, _python_in(folder), cell.pins, lambda text: say(f"{cell.label}: {text}"))
    if not wrong and (problem := version_problem((_read_record(folder) or {}).get("resolved", {}), cell.pins)):
        wrong = f"env.json says {problem}"
    if wrong:
        wrong = f"{folder.name} is damaged: {wrong}"
        say(f"{cell.label}: {wrong}: building it again")
    return wrong


def _torch_of_host(cell: Cell) -> HostTorch:
    """Return the host's torch; EnvError where there is none, or no GPU for it."""
    if error := without_gpu([cell.label]):
        raise EnvError("unsupported", error.what, error.hint)
    found = host_torch.find()
    if found is None:
        what = f"{cell.label}: `torch: host`, and no interpreter here has torch"
        raise EnvError("unsupported", what, f"set {host_torch.CHOSEN} to the interpreter that has it")
    return found


def _environment(cell: Cell, folder: Path, warm: bool, seconds: float) -> Environment:
    record = _read_record(folder)
    if record is None:
        what = f"{cell.label}: {folder} vanished while it was used"
        raise EnvError("error", what, "run again; is something cleaning the cache?")
    return Environment(
        python=_python_in(folder),
        path=folder,
        cell=cell,
        build=record["build"],
        lock_digest=record["lock_digest"],
        lock_committed=record["lock_committed"],
        seconds=seconds,
        warm=warm,
        resolved=record["resolved"],
        inode=_inode(folder),
    )


def _inode(folder: Path) -> int:
    try:
        return folder.stat().st_ino
    except OSError:
        return 0


# --- the store: folders, index, locks, staging ---------------------------------------------------


class Store:
    """The folder of environments. Whatever is in place is whole; the rest is under ``.staging``."""

    def __init__(self, cache: Path) -> None:
        self.envs = cache / "envs"
        self.staging = self.envs / ".staging"
        self.locks = self.envs / ".locks"
        self.index = self.envs / ".index"

    def prepare(self) -> None:
        """Make the folders."""
        for folder in (self.envs, self.staging, self.locks, self.index):
            folder.mkdir(parents=True, exist_ok=True)

    def find(self, asked: str, must_be: str = "") -> Path | None:
        """Return the environment that answered this request before, if it is still whole.

        `must_be` is how its build of torch has to begin.
        """
        try:
            entry = json.loads((self.index / f"{asked}.json").read_text(encoding="utf-8"))
            folder = self.envs / str(entry["folder"])
        except (OSError, ValueError, KeyError, TypeError):
            return None
        record = _read_record(folder)
        return folder if record and str(record["build"]).startswith(must_be) else None

    def remember(self, asked: str, folder: Path) -> None:
        """Let `find` return `folder` for this request from now on."""
        _write_whole(self.index / f"{asked}.json", json.dumps({"folder": folder.name}))

    @contextlib.contextmanager
    def locked(self, name: str, say: Progress) -> Iterator[None]:
        """Hold the right to build `name`; the system takes it back from a process that dies."""
        lock = self._lock(name)
        try:
            lock.acquire(blocking=False)
        except Timeout:
            say(f"{name}: another process builds it, waiting")
            lock.acquire()
        try:
            yield
        finally:
            lock.release()

    def _lock(self, name: str) -> FileLock:
        return FileLock(self.locks / f"{name}.lock")

    def new_staging(self, name: str) -> Path:
        """Return a fresh place to build `name` in."""
        return self.staging / f"{name}~{uuid.uuid4().hex[:8]}"

    def sweep(self, held: str) -> None:
        """Remove what builders left that were killed; `held` is the lock the caller holds."""
        for folder in self.staging.iterdir():
            name, mark, number = folder.name.rpartition("~")
            if not (name and mark and len(number) == 8) or self.staging.is_symlink():
                continue  # no builder's: nothing of the user's is removed, whatever the cache was set to
            if name == held:
                shutil.rmtree(folder, ignore_errors=True)
                continue
            with contextlib.suppress(Timeout), self._lock(name).acquire(blocking=False):
                shutil.rmtree(folder, ignore_errors=True)


def _python_in(folder: Path) -> Path:
    return folder / "bin" / "python"


def _read_record(folder: Path) -> dict[str, Any] | None:
    """Return ``env.json`` of a whole environment whose interpreter still exists."""
    try:
        record = json.loads((folder / "env.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    usable = isinstance(record, dict) and record.get("schema") == SCHEMA
    return record if usable and _python_in(folder).exists() else None


def _write_whole(path: Path, text: str) -> None:
    """Write a file so that a reader sees all of it or nothing."""
    beside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    beside.write_text(text, encoding="utf-8")
    beside.replace(path)


# --- identity ------------------------------------------------------------------------------------


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _interpreter(host: HostTorch | None = None) -> dict[str, str]:
    """Return what an environment depends on besides its packages."""
    if host is not None:
        return {
            "python": host.python_version,
            "platform": sysconfig.get_platform(),
            "host_torch": f"{host.version} in {host.folder}",
        }
    return {
        "python": f"{sys.implementation.name} {platform.python_version()}",
        "platform": sysconfig.get_platform(),
    }


def _request(
    cell: Cell, root: Path, flavour: Flavour, contents: Mapping[str, str], host: HostTorch | None = None
) -> str:
    """Digest all that decides the environment and is known without resolving."""
    locks = {f: committed_lock(cell, root, f) for f in FLAVOURS}
    asked = {
        "schema": SCHEMA,
        "cell": cell.name,
        "pins": dict(cell.pins),
        "contents": dict(contents),
        "locks": {f: lock.digest if lock else "" for f, lock in locks.items()},
        "flavour": flavour,
        **_interpreter(host),
    }
    return _sha256(json.dumps(asked, sort_keys=True))


def _override_digests(cell: Cell) -> dict[str, str]:
    """Return package -> digest of the wheel or checkout that stands in for its pin."""
    return {
        package: content_digest(given_path(package, spec))
        for package, spec in cell.overrides.items()
        if looks_like_path(spec)
    }


# --- building ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Job:
    """One environment to build, with all that decides what it holds."""

    cell: Cell
    uv: Uv
    build: Build
    lock: Lock
    contents: Mapping[str, str]
    say: Progress
    host: HostTorch | None = None

    @property
    def name(self) -> str:
        """Name of the folder: two jobs share it only where they would build the same."""
        parts = {"lock": self.lock.digest, "build": self.build.flavour, **_interpreter(self.host)}
        text = json.dumps({**parts, "contents": dict(self.contents)}, sort_keys=True)
        return f"{self.cell.name}-{_sha256(text)[:12]}"


def _plan(
    cell: Cell,
    root: Path,
    flavour: Flavour,
    contents: Mapping[str, str],
    host: HostTorch | None,
    *,
    insist: bool,
    say: Progress,
) -> _Job:
    """Choose the build of torch and find the lock, resolving only where none is committed."""
    uv = Uv.find()
    build = Build("host", host.version) if host else choose_build(uv, cell, flavour)
    if insist and build.flavour != flavour:
        what = f"{cell.label}: no CPU build of torch {cell.pins.get('torch')} is on offer"
        raise EnvError("unsupported", what, "add a find-links folder or an index that has one")
    lock = committed_lock(cell, root, build.flavour) or resolve(uv, cell, root, build)
    return _Job(cell, uv, build, lock, contents, say, host)


def _build(job: _Job, store: Store) -> Path:
    """Build under the lock of the job's name, unless another process was faster."""
    store.prepare()
    folder = store.envs / job.name
    with store.locked(job.name, job.say):
        store.sweep(job.name)
        if _read_record(folder) is None or _damage(folder, job.cell, job.say):
            staging = store.new_staging(job.name)
            try:
                _fill(job, staging)
                _put_in_place(staging, folder, store)
            finally:
                shutil.rmtree(staging, ignore_errors=True)
    return folder


def _put_in_place(staging: Path, folder: Path, store: Store) -> None:
    if folder.exists():  # its interpreter is gone, its record is of another schema, or it is damaged
        aside = store.new_staging(folder.name)
        folder.rename(aside)
        shutil.rmtree(aside, ignore_errors=True)
    staging.rename(folder)


def _fill(job: _Job, staging: Path) -> None:
    """Install the lock into `staging`, check the result and write its record."""
    started = time.perf_counter()
    label = job.cell.label
    job.say(f"{label}: installing, torch build {job.build}, {job.lock.origin}")
    _install_whole(job, staging)
    lend(Store(cache_root()).envs, staging, true_bytecode, FINGERPRINT)
    installed = time.perf_counter()
    job.say(f"{label}: installed in {installed - started:.1f} s, importing the pins once")
    seen = inspect(_python_in(staging), job.cell.pins)
    if seen.problem:
        what = f"{label}: the environment is not healthy: {seen.problem}"
        hint = "read its words; another pin or `--with` may help"
        raise EnvError("error", what, hint, redact(seen.words))
    _check_kernels(job, staging, seen.resolved)
    seconds = {"install": installed - started, "health": time.perf_counter() - installed}
    record = json.dumps(_record(job, seen, seconds), indent=1)
    (staging / "env.json").write_text(record + "\n", encoding="utf-8")
    seal(staging)
    job.say(f"{label}: ready in {sum(seconds.values()):.1f} s")


def _install_whole(job: _Job, staging: Path) -> None:
    """Install, and once more without uv's cache of those wheels that come out of it damaged.

    uv does not look at what it unpacked before: an edit in an environment that is linked to it would come back.
    """
    label = job.cell.label
    names, problem = _install_and_compare(job, staging)
    if problem:
        job.say(f"{label}: {problem}: uv's cache of {', '.join(names)} is damaged, fetching anew")
        shutil.rmtree(staging)
        job.uv.run("cache", "clean", *names, label=label)
        _, problem = _install_and_compare(job, staging)
    if problem:
        what = f"{label}: {problem}, though it was fetched anew"
        raise EnvError("error", what, "its RECORD is wrong or the disk fails: take another wheel")


def _install_and_compare(job: _Job, staging: Path) -> tuple[list[str], str]:
    """Install; return the distributions that are not what their RECORD says, and one line about it."""
    try:
        _install(job, staging)
    except EnvError as error:
        wheel = _BROKEN_WHEEL.search(error.words)
        if wheel is None or "os error" in error.words:
            raise
        return [wheel["name"]], error.what.removeprefix(f"{job.cell.label}: ")
    protect(staging)
    damage = contradicted(staging)
    return sorted({one.distribution for one in damage}), summary(damage) if damage else ""


def _install(job: _Job, staging: Path) -> None:
    label = job.cell.label
    python = str(job.host.python) if job.host else sys.executable
    job.uv.run("venv", "--quiet", "--relocatable", "--python", python, str(staging), label=label)
    lock = staging / "lock.txt"
    lock.write_text(job.lock.text, encoding="utf-8")
    into = ("--python", str(_python_in(staging)), "--requirements", str(lock))
    options = install_options(job.cell, job.build, staging)
    if job.uv.environ.get("UV_LINK_MODE") == "symlink":  # the files would not be the environment's
        options += ["--link-mode", "copy"]
    job.uv.run("pip", "install", "--quiet", "--no-deps", *into, *options, label=label)
    if job.host:  # behind the cell's own packages on the path, so that only what it lacks comes from there
        line = f"import site; site.addsitedir({str(job.host.folder)!r})\n"
        (_site_packages(staging) / "host-torch.pth").write_text(line, encoding="utf-8")


def _site_packages(folder: Path) -> Path:
    return next((folder / "lib").glob("python3*/site-packages"))


def _check_kernels(job: _Job, staging: Path, resolved: Mapping[str, str]) -> None:
    """Raise EnvError where bitsandbytes has no kernels for the CUDA of the host's torch."""
    if job.host is None:
        return
    libraries = (_site_packages(staging) / "bitsandbytes").glob("libbitsandbytes_cuda*")
    has = sorted(path.stem.removeprefix("libbitsandbytes_") for path in libraries)
    if job.host.kernels not in has:
        version = resolved.get("bitsandbytes", "")
        what = f"{job.cell.label}: bitsandbytes {version} has no kernels for the host's CUDA {job.host.cuda}"
        raise EnvError("unsupported", what, f"it has {', '.join(has) or 'none'}; take another release or another torch")


def _record(job: _Job, seen: Inspection, seconds: Mapping[str, float]) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "cell": job.cell.name,
        "pins": dict(job.cell.pins),
        "overrides": dict(job.cell.overrides),
        "contents": dict(job.contents),
        **_interpreter(job.host),
        "build": str(job.build),
        "lock_digest": job.lock.digest,
        "lock_committed": job.lock.committed,
        "uv": job.uv.version,
        "seconds": {step: round(value, 3) for step, value in seconds.items()},
        "resolved": dict(seen.resolved),
    }
