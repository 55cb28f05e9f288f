"""Work folders of a run in the temp folder, and the clearing of those that a killed run left behind.

Each work folder holds an owner file, and the process that made the folder holds a lock on that file for as long as it
lives: the kernel gives the lock back however the process ends. So a folder whose lock can be had belongs to nobody,
whatever its age, and whatever process has the number of its maker by now.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import functools
import os
import re
import shutil
import signal
import stat
import tempfile
from pathlib import Path

from repros.machine.processes import working_below

PREFIX = "repros-"
OWNER = "owner"
#: First line of an owner file: a folder without it is not ours, whatever its name.
MARK = b"a work folder of repros\n"
#: What `tempfile.mkdtemp` makes of the prefix. An empty folder of such a name is one whose maker died at once.
SHAPE = re.compile(re.escape(PREFIX) + r"[a-z0-9_]{8}")
#: In the environment of every process that works in such a folder (see `CellServer.environment`).
WORKER_MARK = b"REPROS_PRELOAD="
#: A socket's path may have 108 bytes on Linux and 104 on macOS; below TMPDIR, multiprocessing's takes 33 of them.
SOCKET_FOLDER_LENGTH = 103 - 33
#: A temp folder of which that is true.
SHORT = Path("/tmp")  # noqa: S108 - what is made there is made by `mkdtemp`


class WorkFolder:
    """A folder in the temp folder that is this process's own until it is closed, or until the process ends."""

    def __init__(self, label: str, temp: Path | None = None) -> None:
        clear_once()
        self._short: WorkFolder | None = None
        while True:
            self.path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=temp))
            owner = _own(self.path, label)
            if owner is not None:
                self._owner: int | None = owner
                atexit.register(self.close)  # whoever was to close it may have been interrupted before it could
                return

    def scratch(self, label: str) -> Path:
        """Return a folder for temp files, sockets among them: one in /tmp where their paths would be too long."""
        path = self.path / "t"
        if len(os.fsencode(path)) > SOCKET_FOLDER_LENGTH:
            with contextlib.suppress(OSError):
                self._short = WorkFolder(label, SHORT)
                return self._short.path
        path.mkdir()
        return path

    def close(self) -> None:
        """End what still works in the folder, and remove it."""
        if self._owner is not None:
            atexit.unregister(self.close)
            _remove(self.path)
            os.close(self._owner)
            self._owner = None
        if self._short is not None:
            self._short.close()


def _own(folder: Path, label: str) -> int | None:
    """Return the locked owner file of a new folder; None where another process took the folder for a dead one's.

    That can only be between two of these lines, and the other process then removes the folder.
    """
    try:
        owner = os.open(folder / OWNER, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileNotFoundError:
        return None
    if _lock(owner, folder):
        os.write(owner, MARK + label.encode() + b"\n")
        return owner
    os.close(owner)
    return None


def _lock(owner: int, folder: Path) -> bool:
    """Return whether the lock is to be had, and the file is still the folder's.

    The descriptor is locked that the mark was read from: `filelock` would open whatever has its name by then.
    """
    try:
        fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.path.samestat(os.fstat(owner), (folder / OWNER).lstat())
    except OSError:
        return False


@functools.cache
def clear_once() -> None:
    """Clear what killed runs left, once a process."""
    for temp in {Path(tempfile.gettempdir()), SHORT}:
        clear(temp)


def clear(temp: Path) -> list[Path]:
    """Remove the work folders below a temp folder that no process owns, with what still works in them; return them.

    A folder of another user, a link, or a folder without our mark stays as it is.
    """
    return [path for path in sorted(temp.glob(f"{PREFIX}*")) if SHAPE.fullmatch(path.name) and _clear(path)]


def _clear(folder: Path) -> bool:
    try:
        found = folder.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
            return False
        owner = os.open(folder / OWNER, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        with contextlib.suppress(OSError):  # not empty: not ours
            folder.rmdir()
            return True
        return False
    except OSError:
        return False
    try:
        # A maker that died between creating and marking leaves an owner file without a byte.
        if not _lock(owner, folder) or os.pread(owner, len(MARK), 0) not in (MARK, b""):
            return False
        _remove(folder)
        return not folder.exists()
    finally:
        os.close(owner)


def _remove(folder: Path) -> None:
    """Remove a folder whose lock is held; its owner file goes last, for the next to know it by if this one is cut."""
    end_workers(folder)
    if not folder.is_dir():  # somebody removed it by hand
        return
    for entry in [entry for entry in os.scandir(folder) if entry.name != OWNER]:
        shutil.rmtree(entry.path, ignore_errors=True)
        with contextlib.suppress(OSError):
            os.unlink(entry.path)  # noqa: PTH108 - a file, or a link, which is not followed
    if os.listdir(folder) == [OWNER]:  # noqa: PTH208 - else something could not be removed: the next run tries again
        shutil.rmtree(folder, ignore_errors=True)


def end_workers(folder: Path) -> None:
    """Kill the processes of cells that work below a folder, known by working folder and environment (Linux).

    A shell that somebody left there is not one of them.
    """
    for process in working_below(folder):
        with contextlib.suppress(OSError):
            if WORKER_MARK in process.joinpath("environ").read_bytes():
                os.kill(int(process.name), signal.SIGKILL)
