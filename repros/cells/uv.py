"""The installer: uv, told all that pip is configured with, and its failures in its own words."""

from __future__ import annotations

import ast
import contextlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from repros.errors import EnvError
from repros.redaction.redact import credentials as redact

__all__ = ["Progress", "Uv", "install_error", "parse_pip_config", "pip_settings", "redact", "tail", "uv_environ"]

_PROBE_SECONDS = 30
_TAIL_LINES = 12

Progress = Callable[[str], None]
"""Takes one line for a person to read."""

_FROM_PIP = {
    "index-url": "UV_DEFAULT_INDEX",
    "extra-index-url": "UV_INDEX",
    "find-links": "UV_FIND_LINKS",
    "trusted-host": "UV_INSECURE_HOST",
    "cert": "SSL_CERT_FILE",
    "client-cert": "SSL_CLIENT_CERT",
    "default-timeout": "UV_HTTP_TIMEOUT",
    "timeout": "UV_HTTP_TIMEOUT",
    "retries": "UV_HTTP_RETRIES",
}
_NOT_FOR_UV = ("VIRTUAL_ENV", "CONDA_PREFIX", "PYTHONHOME", "PYTHONPATH", "UV_SYSTEM_PYTHON")


@dataclass(frozen=True)
class Uv:
    """The installer, with pip's settings passed on through its environment.

    Credentials of an index stand in that environment only: in no argument, file or message.
    """

    command: tuple[str, ...]
    environ: Mapping[str, str]
    options: tuple[str, ...]
    version: str

    @classmethod
    def find(cls) -> Uv:
        """Return uv from the path or from this interpreter; EnvError where neither has it."""
        settings = pip_settings()
        no_index = settings.get("no-index", "").lower() in ("1", "true", "yes", "on")
        for command in _uv_commands():
            with contextlib.suppress(OSError, subprocess.SubprocessError):
                done = subprocess.run([*command, "--version"], capture_output=True, text=True, timeout=60, check=True)
                version = done.stdout.removeprefix("uv ").split(" ")[0].strip()
                options = ("--no-index",) if no_index else ()
                return cls(command, uv_environ(settings, os.environ), options, version)
        raise EnvError("error", "uv: not found", "install it with `python3 -m pip install uv`")

    def run(self, *args: str, label: str, text: str | None = None) -> str:
        """Run and return stdout; EnvError with uv's own words where it fails."""
        done = self._start(args, text, None)
        if done.returncode:
            raise install_error(label, done.stderr)
        return done.stdout

    def ask(self, *args: str, text: str) -> str | None:
        """Run with short patience and return stdout, or None for no as for no answer."""
        hurry = {"UV_HTTP_RETRIES": "0", "UV_HTTP_TIMEOUT": "10"}
        try:
            done = self._start(args, text, _PROBE_SECONDS, hurry)
        except subprocess.TimeoutExpired:
            return None
        return None if done.returncode else done.stdout

    def source_of(self, url: str) -> str:
        """Say whether a distribution came from a find-links place or from an index."""
        places = self.environ.get("UV_FIND_LINKS", "").split(",")
        bare = url.removeprefix("file://").rstrip("/")
        return "find-links" if bare in {p.removeprefix("file://").rstrip("/") for p in places} else "index"

    def _start(
        self,
        args: Iterable[str],
        text: str | None,
        timeout: float | None,
        extra: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        args = tuple(args)
        options = self.options if args[0] == "pip" else ()
        with tempfile.TemporaryDirectory() as neutral:  # no project's [tool.uv] is to be read
            return subprocess.run(
                [*self.command, *args[:2], *options, *args[2:]],
                input=text,
                stdin=None if text is not None else subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                cwd=neutral,
                env={**self.environ, **(extra or {})},
                timeout=timeout,
                check=False,
            )


def _uv_commands() -> Iterator[tuple[str, ...]]:
    if found := shutil.which("uv"):
        yield (found,)
    if importlib.util.find_spec("uv"):
        yield (sys.executable, "-m", "uv")


def uv_environ(settings: Mapping[str, str], base: Mapping[str, str]) -> dict[str, str]:
    """Return the environment for uv: `base`, with pip's settings where uv has none of its own.

    Every index is looked at for every package, as pip does; uv by itself would stop at the first
    that knows the name.
    """
    environ = {name: value for name, value in base.items() if name not in _NOT_FOR_UV}
    for option, name in _FROM_PIP.items():
        if value := settings.get(option):
            environ.setdefault(name, _in_uv_form(option, value))
    if proxy := settings.get("proxy"):
        environ.setdefault("ALL_PROXY", proxy)
    environ.setdefault("UV_INDEX_STRATEGY", "unsafe-best-match")
    environ |= {"UV_PYTHON_DOWNLOADS": "never", "NO_COLOR": "1", "UV_NO_PROGRESS": "1"}
    return environ


def _in_uv_form(option: str, value: str) -> str:
    """Turn pip's blank-separated list into uv's; folders become absolute, as uv runs elsewhere."""
    if option != "find-links":
        return " ".join(value.split())
    return ",".join(v if "://" in v else str(_home(v).absolute()) for v in value.split())


def _home(text: str) -> Path:
    """Return a path with `~` put in full; one of a user who is not there stays as it is, for uv to complain of."""
    with contextlib.suppress(RuntimeError):
        return Path(text).expanduser()
    return Path(text)


def pip_settings() -> dict[str, str]:
    """Return what pip is configured with, option -> value; ``PIP_*`` alone where pip is missing."""
    for command in pip_commands():
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            done = subprocess.run([*command, "config", "list"], capture_output=True, text=True, timeout=60, check=True)
            return parse_pip_config(done.stdout)
    given = ((k, v) for k, v in os.environ.items() if k.startswith("PIP_"))
    return {k.removeprefix("PIP_").lower().replace("_", "-"): v for k, v in given}


def pip_commands() -> Iterator[tuple[str, ...]]:
    """Yield where pip may be: an environment made by uv has none, its base interpreter may."""
    yield (sys.executable, "-m", "pip")
    base = str(getattr(sys, "_base_executable", None) or sys.executable)
    if base != sys.executable:
        yield (base, "-m", "pip")
    if found := shutil.which("pip"):
        yield (found,)


def parse_pip_config(listing: str) -> dict[str, str]:
    """Read ``pip config list``: the install section beats global, and ``PIP_*`` beats both."""
    ranked: dict[str, tuple[int, str]] = {}
    for line in listing.splitlines():
        key, _, shown = line.partition("=")
        section, _, option = key.rpartition(".")
        rank = {"global": 0, "install": 1, ":env:": 2}.get(section)
        try:
            value = ast.literal_eval(shown)
        except (ValueError, SyntaxError):
            continue
        if rank is not None and rank >= ranked.get(option, (-1, ""))[0]:
            ranked[option] = (rank, str(value))
    return {option: value for option, (_, value) in ranked.items()}


#: What fails for reasons of the machine: the network, the disk.
_MACHINE = (
    r"failed to fetch|error sending request|network was disabled|dns error|timed out|timeout|connection"
    r"|no space left|permission denied|read-only file system|certificate|status (?:client|server) error"
)
_FAILED = re.compile(
    rf"{_MACHINE}|failed to (?:build|extract|read|write|download|install|unzip|prepare)", re.IGNORECASE
)
_OF_MACHINE = re.compile(rf"{_MACHINE}|not found$", re.IGNORECASE)
_NO_SOLUTION = re.compile(r"no solution found|has no wheels|not compatible|no matching", re.IGNORECASE)


def install_error(label: str, stderr: str) -> EnvError:
    """Turn uv's words into an EnvError: what the packages forbid is ``unsupported``."""
    words = tail(redact(stderr))
    if _NO_SOLUTION.search(words) and not _FAILED.search(words):
        what = f"{label}: these pins cannot be installed together here: {_reason(words)}"
        hint = "change a pin, or replace it with `--with`, once for each package that must follow"
        return EnvError("unsupported", what, hint, words)
    hint = "check network, index and disk, then run again"
    return EnvError("error", f"{label}: uv failed: {_reason(words)}", hint, words)


def of_machine(error: EnvError) -> bool:
    """Return whether an environment failed for reasons of the machine, and so says nothing about its pins."""
    return error.kind == "error" and bool(_OF_MACHINE.search(f"{error.what}\n{error.words}"))


def _reason(words: str) -> str:
    """Return the line that says most: the deepest cause, or the resolver's conclusion."""
    lines = [line.strip() for line in words.splitlines() if line.strip()]
    because = [line for line in lines if "Because" in line]
    causes = [line for line in lines if line.startswith(("cause:", "Caused by:"))]
    chosen = (because or causes[-1:] or lines[:1] or ["no words"])[0]
    return re.sub(r"^(cause|error|Caused by):\s*|^\W+(?=Because)", "", chosen)


def tail(text: str) -> str:
    """Return the last lines that say something; a resolver's long line is kept whole."""
    lines = [line.rstrip() for line in text.splitlines() if line.strip()]
    lines = [line for line in lines if not line.startswith("Using Python")]
    return "\n".join(lines[-_TAIL_LINES:])
