"""A stranger's case file, read in a process of its own: the suite gets its declaration as data and runs nothing of it.

Where bubblewrap is installed, the process sees this project and its interpreter, writes nowhere and has no network.
"""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import sys
import time
from pathlib import Path
from typing import IO

from repros import ROOT
from repros.case import DeclarationError, place_of
from repros.cases import importing
from repros.cases.data import contents
from repros.cases.importing import DECLARES, Contents
from repros.errors import MOST, shortened
from repros.machine import sandbox
from repros.machine.processes import ending, kill_group, runs

#: Seconds from the start of the process to the end of its answer. The process gives up by itself after
#: `importing.PATIENCE_S`, with the line at which the file is busy, if the file lets it.
LIMIT_S = 20.0
#: How often its end is looked for, once it has said all.
LOOK_S = 0.005
#: Bytes of an answer; the longest of the suite's own cases takes a fiftieth.
MOST_BYTES = 4 << 20
_START = "import sys; sys.path.insert(0, sys.argv[1]); from repros.cases.reader import main; main()"


def read(file: Path, module: str) -> Contents:
    """Read a case file in a process of its own; UserError with file and line where it cannot be or says no contents."""
    answer, code = heard(file, module)
    if not answer:
        raise _refused(file, f"it ended the process that reads it: {ending(code)}")
    try:
        data = json.loads(answer)
        if isinstance(data, dict) and data.keys() == {"error"}:
            raise _told(data["error"])
        return contents(data, module, file)
    except (ValueError, RecursionError) as error:
        says = shortened(answer[-300:].decode("utf-8", "replace").strip())
        raise _refused(file, f"what came of it is no declaration ({shortened(str(error))}): `{says}`") from None


def _told(error: object) -> DeclarationError:
    """Return the error that the process tells: two lines of text."""
    if not (isinstance(error, list) and len(error) == 2 and all(isinstance(one, str) and one.strip() for one in error)):
        raise ValueError("an error is two lines")
    return DeclarationError(*(shortened(one, MOST) for one in error))


def _refused(file: Path, what: str) -> DeclarationError:
    return DeclarationError(f"{place_of(file, 1)}: {what}", DECLARES)


def heard(file: Path, module: str) -> tuple[bytes, int]:
    """Return what the process says, all of it, and its return code."""
    command = [sys.executable, "-I", "-S", "-B", "-c", _START, str(ROOT), module, str(file), str(importing.PATIENCE_S)]
    boxed = not sandbox.missing()
    if boxed:
        command = sandbox.wrapped(command, own=(), readable=[ROOT, *_interpreter()], here=ROOT)
    environ = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}
    process = subprocess.Popen(
        command, env={**environ, "LANG": "C.UTF-8"}, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        until = time.monotonic() + LIMIT_S
        with process.stdout as out:
            answer = _all_of(out, until, file)
        while runs(process.pid):
            if time.monotonic() > until:
                raise _late(file)
            time.sleep(LOOK_S)
    finally:
        kill_group(process.pid)
        process.wait()
    return answer, sandbox.code(process.returncode) if boxed else process.returncode


def _all_of(out: IO[bytes], until: float, file: Path) -> bytes:
    heard = bytearray()
    with selectors.DefaultSelector() as selector:
        selector.register(out, selectors.EVENT_READ)
        while selector.select(max(0.0, until - time.monotonic())):
            part = os.read(out.fileno(), 1 << 16)
            if not part:
                return bytes(heard)
            heard += part
            if len(heard) > MOST_BYTES:
                raise _refused(file, f"it declares more than {MOST_BYTES >> 20} MiB")
    raise _late(file)


def _late(file: Path) -> DeclarationError:
    return _refused(file, f"no declaration after {LIMIT_S:g} s")


def _interpreter() -> list[Path]:
    """Return the folders of this interpreter, which may be below a home."""
    return [Path(sys.prefix), Path(sys.base_prefix), Path(sys.executable).resolve().parent.parent]
