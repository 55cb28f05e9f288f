"""What a stranger's script may reach: bubblewrap around its process, where that is installed.

Inside there is no network, no home, no temp folder of the user's and the file system is there to be read; the
script's own folder may be written to. What the environment holds is the caller's to say.
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

#: Folders of which nothing is seen inside: of users, and of what runs (sockets among them).
HIDDEN = ("/home", "/root", "/tmp", "/var/tmp", "/run", "/mnt", "/media")  # noqa: S108 - hidden, not written to
INSTALL = "bubblewrap is not installed"


@functools.cache
def missing() -> str:
    """Return why there can be no sandbox here; empty where there can."""
    tool = shutil.which("bwrap")
    if tool is None:
        return INSTALL
    command = [tool, "--ro-bind", "/", "/", "--unshare-all", "true"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.SubprocessError) as error:
        return f"bubblewrap does not start: {error}"
    says = (done.stderr.strip().splitlines() or [f"it ended with {done.returncode}"])[-1]
    return f"bubblewrap cannot work here: {says}" if done.returncode else ""


def wrapped(command: list[str], *, own: Iterable[Path], readable: Iterable[Path], here: Path) -> list[str]:
    """Return the command in a sandbox: ``own`` may be written to; ``readable`` is seen though it be in a home."""
    home = os.environ.get("HOME", "")
    among = (name for name in dict.fromkeys((*HIDDEN, home)) if name not in ("", "/"))
    hidden = [name for name in among if Path(name).is_dir() and not Path(name).is_symlink()]
    words = ["bwrap", "--unshare-all", "--die-with-parent", "--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc"]
    for name in hidden:
        words += ["--tmpfs", name]
    for device in sorted(Path("/dev").glob("nvidia*")):
        words += ["--dev-bind-try", str(device), str(device)]
    for path in _outermost(readable):
        words += ["--ro-bind", str(path), str(path)]
    for path in own:
        words += ["--bind", str(path), str(path)]
    for name in hidden:
        words += ["--remount-ro", name]
    return [*words, "--chdir", str(here), "--", *command]


def code(returncode: int) -> int:
    """Return the return code of what ran in a sandbox; bubblewrap ends as a shell does where a signal killed it."""
    return 128 - returncode if returncode > 128 else returncode


def _outermost(paths: Iterable[Path]) -> list[Path]:
    """Return these paths in the order in which they are laid over each other, each once."""
    return sorted({path for path in paths if path.exists()}, key=lambda path: len(path.parts))
