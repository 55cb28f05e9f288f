"""One plain script in one environment: started in a process of its own, watched, ended, and what was seen of it.

It has the timeout, the memory cap, the settings and seeds of an arm, a folder of its own, and a log: what it prints to
stdout and stderr. The script and the modules beside it that it imports are copied there.
"""

from __future__ import annotations

import ast
import contextlib
import hashlib
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from repros import ROOT
from repros.cells.envs import Environment
from repros.errors import UserError
from repros.machine import sandbox
from repros.machine.cards import Card
from repros.machine.processes import ending, kill_group, runs
from repros.machine.turns import CardLostError, Want, turn
from repros.machine.workdir import WorkFolder
from repros.run.server import MEMORY_BYTES, SETTINGS
from repros.run.vote import Seen
from repros.worker.script import ENDED, SEEN
from repros.worker.supervisor import LOG_LIMIT_BYTES, kill_strays, trim

#: How often the end of a script is looked for.
LOOK_S = 0.05
#: Bytes of a script, and of the modules beside it.
MOST_BYTES = 16 << 20
_START = "import sys; sys.path[0] = sys.argv[1]; from repros.worker.script import main; main()"


@dataclass(frozen=True)
class Script:
    """A user's script and how it is to be run."""

    name: str
    """The name of its file."""
    files: Mapping[str, bytes] = field(repr=False)
    """The script itself, and the modules beside it that it imports: path -> content."""
    args: tuple[str, ...] = ()
    timeout_s: float = 60.0
    memory_bytes: int = MEMORY_BYTES
    sandboxed: bool = True

    @property
    def text(self) -> str:
        """Return the script's source."""
        return self.files[self.name].decode("utf-8", "replace")

    @property
    def digest(self) -> str:
        """Digest its source, that of the modules beside it, and its arguments: what another run must have alike."""
        return digest(self.files, self.args)


def digest(files: Mapping[str, bytes], args: Sequence[str]) -> str:
    """Return the SHA-256 of a script's files and arguments, shortened."""
    total = hashlib.sha256(json.dumps(list(args)).encode())
    for name, content in sorted(files.items()):
        total.update(f"{name}\0{hashlib.sha256(content).hexdigest()}\0".encode())
    return total.hexdigest()[:16]


def read(path: Path, args: Sequence[str] = (), **how: Any) -> Script:
    """Read a script and what it imports from beside it; UserError where there is none."""
    if not path.is_file():
        raise UserError(f"{path}: no such file", "give the path of a Python script")
    files: dict[str, bytes] = {}
    waiting = [path.name]
    while waiting:
        name = waiting.pop()
        file = path.parent / name
        if name not in files and file.is_file():
            files[name] = file.read_bytes()
            waiting += _beside(path.parent, files[name])
        if sum(map(len, files.values())) > MOST_BYTES:
            raise UserError(f"{path}: more than {MOST_BYTES >> 20} MiB of source", "give a smaller script")
    return Script(path.name, files, tuple(args), **how)


def _beside(folder: Path, source: bytes) -> Iterator[str]:
    """Yield the files beside a script that belong to modules which a source imports."""
    try:
        nodes = list(ast.walk(ast.parse(source)))
    except (SyntaxError, ValueError, RecursionError):
        return  # Python will say so
    names = [one.name for node in nodes if isinstance(node, ast.Import) for one in node.names]
    names += [node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module and not node.level]
    for top in {name.partition(".")[0] for name in names}:
        if (folder / f"{top}.py").is_file():
            yield f"{top}.py"
        elif (folder / top / "__init__.py").is_file():
            yield from (str(file.relative_to(folder)) for file in (folder / top).rglob("*.py"))


def log_name(label: str) -> str:
    """Return how the logs of a run are called, before ``.out``, ``.err``, and ``.metered`` of the second run."""
    return re.sub(r"[^\w.+-]", "_", label)


class Runner:
    """Runs a script in environments; each run has a new folder."""

    def __init__(self, script: Script, logs: Path) -> None:
        self.script = script
        self._logs = logs
        self._stopped = threading.Event()

    def stop(self) -> None:
        """End what runs, from another thread."""
        self._stopped.set()

    def run(self, environment: Environment, label: str, *, paths: Sequence[Path] = (), meters: bool = False) -> Seen:
        """Run it, and once more under meters where it imported torch; ``paths`` come before what is installed."""
        log = self._logs / log_name(label)
        seen, torch = self._once(environment, log, paths, metered=False)
        if not (meters and torch and seen.exit is not None):
            return seen
        again, _ = self._once(environment, log.with_name(f"{log.name}.metered"), paths, metered=True)
        if (again.exit, again.exception) != (seen.exit, seen.exception):
            return seen  # the meters changed what it does: what they read is of another run
        return replace(seen, figures={**again.figures, **seen.figures})

    def _once(self, environment: Environment, log: Path, paths: Sequence[Path], *, metered: bool) -> tuple[Seen, bool]:
        """Run it once, on a GPU that is its own; return what was seen, and whether it imported torch."""
        with contextlib.ExitStack() as stack:
            try:
                cards = stack.enter_context(turn(Want())) if environment.cell.device == "cuda" else ()
            except CardLostError as error:
                return Seen(None, str(error)), False
            work = WorkFolder("script")
            try:
                return self._in(work.path, environment, log, paths, metered, cards)
            finally:
                kill_strays(work.path)
                work.close()

    def _in(
        self, work: Path, environment: Environment, log: Path, paths: Sequence[Path], metered: bool,
        cards: Sequence[Card],
    ) -> tuple[Seen, bool]:  # fmt: skip
        script = self.script
        own, report = work / "own", work / "report"
        for folder in (own, own / "tmp", report):
            folder.mkdir()
        for name, content in script.files.items():
            (own / name).parent.mkdir(parents=True, exist_ok=True)
            (own / name).write_bytes(content)
        request = {
            "script": str(own / script.name), "args": script.args, "metered": metered,
            "memory_bytes": script.memory_bytes,
        }  # fmt: skip
        (report / "request.json").write_text(json.dumps(request), encoding="utf-8")
        environ = self._environ(environment, own, paths)
        if cards:  # by name: where a card is lost, those after it are numbered anew
            environ["CUDA_VISIBLE_DEVICES"] = ",".join(card.uuid for card in cards)
        command = [str(environment.python), "-c", _START, str(ROOT), str(report)]
        if script.sandboxed:
            readable = [ROOT / "repros", environment.path, *paths, *_interpreter(environment)]
            command = sandbox.wrapped(command, own=(own, report), readable=readable, here=own)
        out, err = log.with_name(f"{log.name}.out"), log.with_name(f"{log.name}.err")
        with out.open("wb") as stdout, err.open("wb") as stderr:
            process = subprocess.Popen(
                command, env=environ, cwd=own, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr,
                start_new_session=True,
            )  # fmt: skip
        try:
            killed, late = self._watch(process, (out, err))
        finally:
            kill_group(process.pid)
            process.wait()
        for path in (out, err):
            trim(str(path))
        if not killed and not (report / ENDED).exists():
            words = err.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:]
            how = ending(sandbox.code(process.returncode) if script.sandboxed else process.returncode)
            killed = ": ".join([f"no word from the process that runs it ({how})", *words])
        return _seen(report, own, environment, out, killed, late)

    def _watch(self, process: subprocess.Popen[bytes], logs: Sequence[Path]) -> tuple[str, bool]:
        """Wait for the end; return why it is not waited for any longer, and whether that is its time."""
        until = time.monotonic() + self.script.timeout_s
        while runs(process.pid):
            if self._stopped.wait(LOOK_S):
                return "the run ended", False
            if time.monotonic() > until:
                return f"no end after {self.script.timeout_s:g} s", True
            if any(log.stat().st_size > LOG_LIMIT_BYTES for log in logs):
                return f"printed more than {LOG_LIMIT_BYTES >> 20} MiB", False
        return "", False

    def _environ(self, environment: Environment, own: Path, paths: Sequence[Path]) -> dict[str, str]:
        """Return the script's environment: in a sandbox nothing of the user's, else the user's own."""
        settings = dict(SETTINGS[environment.cell.device])
        if self.script.sandboxed:
            base = {"PATH": "/usr/bin:/bin", "HOME": str(own), "LANG": "C.UTF-8"}
        else:
            base = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PYTEST_"))}
            settings.pop("HF_HUB_OFFLINE")
        found = {**base, **settings, "TMPDIR": str(own / "tmp"), "TORCHINDUCTOR_CACHE_DIR": str(own / "tmp")}
        return found | ({"PYTHONPATH": os.pathsep.join(map(str, paths))} if paths else {})


def _interpreter(environment: Environment) -> Iterator[Path]:
    """Yield the folders that the environment's interpreter needs, which may be below a home."""
    yield Path(sys.base_prefix)
    yield environment.python.resolve().parent.parent
    for path in environment.path.glob("lib/python*/site-packages/host-torch.pth"):
        yield from (Path(found) for found in re.findall(r"'([^']+)'", path.read_text(encoding="utf-8")))


def _seen(report: Path, own: Path, environment: Environment, out: Path, killed: str, late: bool) -> tuple[Seen, bool]:
    """Read what the two processes wrote, and what was printed."""
    seen, ended = _read(report / SEEN), _read(report / ENDED)
    output = _plain(out.read_text(encoding="utf-8", errors="replace"), own, environment)
    figures = dict(seen.get("figures", {}))
    exception = seen.get("exception") or {}
    text = _plain(exception.get("text", ""), own, environment)
    types = tuple(exception.get("types", ()))
    torch = bool(seen.get("torch"))
    if killed:
        return Seen(None, killed, late, output=output), torch
    figures["peak_rss_bytes"] = ended["peak_rss_bytes"]
    code = ended["exit"]
    return Seen(code, ending(code), exception=types, text=text, figures=figures, output=output), torch


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _plain(text: str, own: Path, environment: Environment) -> str:
    """Return an output without what differs from run to run by itself: folders, addresses, the versions of the pins."""
    for path, name in ((own, "."), (environment.path, "ENV")):
        text = text.replace(str(path), name)
    text = re.sub(r"\b0x[0-9a-f]{6,}\b", "0xN", text)
    for package in environment.cell.pins:
        version = environment.resolved.get(package) or environment.resolved.get(package.replace("_", "-"))
        for one in dict.fromkeys((version, version.partition("+")[0])) if version else ():
            text = re.sub(rf"(?<![\w.]){re.escape(one)}(?![\w.]*\d)", "VERSION", text)
    return text
