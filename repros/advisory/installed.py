"""Which versions somebody has: of an interpreter, a file of requirements, a lock, `pip freeze`, or words."""

from __future__ import annotations

import json
import platform
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename
from packaging.version import InvalidVersion, Version

from repros.advisory import inside
from repros.advisory.decide import CPU, CUDA, Given
from repros.case import AXES, COMPANIONS, PACKAGES
from repros.errors import UserError, shortened
from repros.machine import cards, host
from repros.requirements import cpu_features

#: Seconds that another interpreter may take to say what it has.
ANSWER_S = 30
#: Bytes of a file that are read, and files that one may include.
MOST_BYTES, MOST_FILES = 32 << 20, 100
NAMES = {canonicalize_name(name): name for name in PACKAGES}
_PIN = re.compile(r"==([^*,;\s]+)")


@dataclass(frozen=True)
class Found:
    """Versions, and where they stand."""

    versions: dict[str, str]
    source: str
    """In words."""
    whole: bool = False
    """Whether what is not there is surely not installed."""
    here: bool = False
    """Whether it is of this machine, so that its card and CPU count."""
    places: dict[str, str] = field(default_factory=dict)
    """Package -> the file that names its version, and line: ``requirements.txt:3``."""
    notes: tuple[str, ...] = ()
    """What was left out, and why."""
    python: Path | None = None
    """The interpreter, where it is one."""


# --- interpreters --------------------------------------------------------------------------------


def of_interpreter(python: Path | None = None) -> Found:
    """Return what an interpreter has, the one that runs this by default; a folder is that of an environment."""
    if python is None:
        return _found(inside.installed(PACKAGES), platform.python_version(), Path(sys.executable))
    inner = (python / name for name in ("bin/python", "Scripts/python.exe"))
    path = next((one for one in inner if one.is_file()), python)
    if len(python.parts) == 1 and not python.exists() and (named := shutil.which(python.name)):
        path = Path(named)  # as a shell finds it
    if path.is_dir():
        raise UserError(f"{python}: no Python in that folder", "name an interpreter, or an environment's folder")
    script = Path(inside.__file__).read_text(encoding="utf-8")
    try:
        done = subprocess.run(
            [path.absolute(), "-c", script, *PACKAGES], capture_output=True, text=True, timeout=ANSWER_S, cwd="/",
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired, ValueError) as error:
        says = getattr(error, "strerror", None) or f"no answer after {ANSWER_S} s"
        raise UserError(f"{python}: {says}", "name a Python, such as `.venv/bin/python`") from None
    try:
        told = json.loads(done.stdout.splitlines()[-1])
        return _found({name: (v, p) for name, (v, p) in told["packages"].items()}, told["python"], path.absolute())
    except (IndexError, ValueError, KeyError, TypeError, AttributeError):
        words = (done.stderr.strip() or done.stdout.strip() or f"exit code {done.returncode}").splitlines()[-1]
        raise UserError(
            f"{python}: it does not say what is installed: {shortened(words)}", "name a Python from 3.8 on"
        ) from None


def _found(packages: dict[str, tuple[str, str]], python: str, path: Path) -> Found:
    versions = {name: version for name, (version, _) in packages.items()}
    places = {name: f"{where}/METADATA" for name, (_, where) in packages.items() if where}
    return Found(versions, f"{path} (Python {python})", whole=True, here=True, places=places, python=path)


# --- files ---------------------------------------------------------------------------------------


def of_file(path: Path) -> Found:
    """Return what a file pins: requirements, the output of `pip freeze` (``-``: stdin), or a lock such as ``uv.lock``.

    UserError for what cannot be read, is no such file, or pins one package twice in different ways.
    """
    text = _text(path)
    if path.suffix == ".lock" or text.startswith("version = ") or "\n[[package]]" in text:
        return _of_lock(path, text)
    found = _Requirements()
    found.read(path, text)
    return Found(found.versions, _name(path), places=found.places, notes=tuple(found.notes))


def _name(path: Path) -> str:
    return "stdin" if str(path) == "-" else str(path)


def _text(path: Path) -> str:
    try:
        raw = sys.stdin.buffer.read(MOST_BYTES + 1) if str(path) == "-" else _bytes(path)
        if len(raw) > MOST_BYTES:
            raise UserError(
                f"{_name(path)}: more than {MOST_BYTES >> 20} MiB", "name a file of requirements, or a lock"
            )
        text = raw.decode("utf-16" if raw[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")  # PowerShell's `>`
    except OSError as error:
        hint = "name a file of requirements, uv.lock, or `-` for what `pip freeze` prints"
        raise UserError(f"{path}: {error.strerror}", hint) from None
    except UnicodeDecodeError as error:
        raise UserError(f"{_name(path)}: byte {error.start} is not UTF-8", "save it as UTF-8") from None
    if "\0" in text:
        raise UserError(f"{_name(path)}: not a text", "name a file of requirements, or a lock")
    return text


def _bytes(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(MOST_BYTES + 1)


class _Requirements:
    """What files of requirements pin, those that they include counted in."""

    def __init__(self) -> None:
        self.versions: dict[str, str] = {}
        self.places: dict[str, str] = {}
        self.notes: list[str] = []
        self._read: set[Path] = set()

    def read(self, path: Path, text: str) -> None:
        self._read.add(path.absolute())
        if len(self._read) > MOST_FILES:
            raise UserError(f"{path}: more than {MOST_FILES} files include each other", "name one without `-r`")
        for number, line in enumerate(text.splitlines(), 1):
            self._line(path, number, line)

    def _line(self, path: Path, number: int, raw: str) -> None:
        line = re.sub(r"(^|\s)#.*", "", raw).strip().rstrip("\\").strip()
        if included := re.match(r"(?:-r|-c|--requirement|--constraint)[\s=]*(\S.*)", line):
            other = path.parent / included[1].strip("\"'")
            if other.absolute() not in self._read:
                self.read(other, _text(other))
            return
        line = re.sub(r"\s+--(?:hash|config-settings|global-option)\b.*", "", line)
        if not line or line.startswith(("-", "--")):
            if line.startswith(("-e", "--editable")) and (name := _named(line)):
                self.notes.append(f"{_name(path)}:{number}: {name} is a checkout, not a release")
            return
        try:
            one = Requirement(line)
        except InvalidRequirement as error:
            if re.match(r"(\.|/|\w+://|[\w.-]+\.whl)", line):
                return  # a path or an address without a name
            says = str(error).splitlines()[0]
            raise UserError(
                f"{_name(path)}:{number}: `{shortened(line)}` is not a requirement: {says}",
                "give a file of requirements, uv.lock, or what `pip freeze` prints",
            ) from None
        package = NAMES.get(canonicalize_name(one.name))
        if package is None or (one.marker is not None and not one.marker.evaluate()):
            return
        version = pinned(one)
        if version is None:
            self.notes.append(f"{_name(path)}:{number}: `{shortened(line)}` is not a pin, so {package} is not named")
        elif self.versions.get(package, version) != version:
            first = f"{self.versions[package]} at {self.places[package]}"
            raise UserError(f"{_name(path)}:{number}: {package} {version}, and {first}", "leave one of them in")
        else:
            self.versions[package] = version
            self.places[package] = f"{_name(path)}:{number}"


def _named(line: str) -> str:
    """Return the package of ours that an editable line is of."""
    found = re.search(r"#egg=([\w.-]+)|/([\w.-]+?)(?:\.git)?(?:@|$)", line)
    return NAMES.get(canonicalize_name((found[1] or found[2]) if found else ""), "")


def pinned(one: Requirement) -> str | None:
    """Return the version that a requirement pins, of a wheel's address too; None where it pins none."""
    if one.url:
        try:
            return str(parse_wheel_filename(one.url.partition("#")[0].rpartition("/")[2].replace("%2B", "+"))[1])
        except InvalidWheelFilename:
            return None
    exact = [
        spec.version for spec in one.specifier if spec.operator in ("==", "===") and not spec.version.endswith("*")
    ]
    try:
        return str(Version(exact[0])) if exact else None
    except InvalidVersion:
        return None


def _of_lock(path: Path, text: str) -> Found:
    try:
        rows = tomllib.loads(text).get("package")
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise UserError(f"{_name(path)}: not TOML: {error}", "make the lock anew: `uv lock`") from None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise UserError(f"{_name(path)}: no `[[package]]` in it", "name a lock such as uv.lock, or requirements")
    found: dict[str, set[str]] = {}
    for row in rows:
        package = NAMES.get(canonicalize_name(str(row.get("name", ""))))
        if package and row.get("version"):
            found.setdefault(package, set()).add(str(row["version"]))
    return Found(
        {package: each.pop() if len(each) == 1 else " or ".join(sorted(each)) for package, each in found.items()},
        _name(path),
        whole=True,
        places={package: _name(path) for package in found},
    )


# --- words ---------------------------------------------------------------------------------------


def with_words(found: Found | None, words: Iterable[str]) -> Found:
    """Return what words such as ``torch==2.13.0`` say, in place of what was found; UserError for other words."""
    versions: dict[str, str] = {}
    for word in words:
        try:
            one = Requirement(word)
        except InvalidRequirement:
            one = None
        version = pinned(one) if one else None
        if one is None or version is None:
            what = f"`{shortened(word)}` is not a version"
            raise UserError(what, "write it as `torch==2.13.0`; a file goes after `--requirement`")
        package = NAMES.get(canonicalize_name(one.name))
        if package is None:
            raise UserError(f"`{shortened(word)}`: no report is about {one.name}", f"packages: {', '.join(PACKAGES)}")
        if versions.get(package, version) != version:
            raise UserError(f"{package} {versions[package]} and {version}", "name one release of a package")
        versions[package] = version
    if found is None:
        return Found(versions, "the versions named")
    places = {name: place for name, place in found.places.items() if name not in versions}
    source = f"{found.source} with {' '.join(words)}" if versions else found.source
    return replace(found, versions={**found.versions, **versions}, places=places, source=source)


def check(found: Found) -> None:
    """Raise UserError where nothing can be said of what was found: no package under test, or two releases of one."""
    for package, version in found.versions.items():
        if " or " in version:
            hint = f"name yours: `{package}=={version.split()[0]}`"
            raise UserError(f"{found.source}: {package} {version}, each for some machines", hint)
    if not any(package in found.versions for package in (*AXES, *COMPANIONS)):
        what = f"{found.source}: names none of {', '.join(AXES)}"
        hint = "`--python PATH`, `--requirement FILE`, or name versions: `repros audit bitsandbytes==0.49.2`"
        raise UserError(what.replace("names none", "has none") if found.whole else what, hint)


# --- the host ------------------------------------------------------------------------------------


def given(found: Found, device: str = "") -> Given:
    """Return what is asked about: these versions, on this machine where they are of it.

    ``device`` is ``cpu``, ``cuda`` or ``any``; by default what an interpreter's machine and its torch have, and any for
    versions of elsewhere.
    """
    devices = {"cpu": (CPU,), "cuda": (CUDA,), "any": (CPU, CUDA)}.get(device) or _devices(found)
    if not found.here:
        return Given(found.versions, whole=found.whole, devices=devices)
    return Given(
        found.versions,
        whole=found.whole,
        devices=devices,
        compiler=bool(shutil.which("g++") or shutil.which("clang++")),
        cpu=cpu_features(),
        cards=len(cards.cards()) if CUDA in devices and host.gpu_kind() else None,
    )


def _devices(found: Found) -> Sequence[str]:
    if found.versions.get("torch", "").endswith("+cpu") or (found.here and host.gpu_kind() != "cuda"):
        return (CPU,)
    return (CPU, CUDA)
