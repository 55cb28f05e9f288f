"""Environments, built by the real uv from tiny wheels made here; nothing is fetched."""

from __future__ import annotations

import base64
import fcntl
import hashlib
import importlib.util
import json
import marshal
import os
import shutil
import signal
import struct
import subprocess
import sys
import textwrap
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from repros.cells import envs, uv
from repros.cells.envs import EnvError, Environment, ensure
from repros.cells.health import inspect
from repros.cells.integrity import FINGERPRINT, Fingerprint, look
from repros.cells.locks import committed_lock, write_locks
from repros.cells.matrix import PACKAGES, Cell, load_matrix
from repros.cells.uv import Uv, install_error, parse_pip_config, pip_settings, redact, uv_environ
from repros.errors import UserError
from repros.machine.cache import cache_root
from tests.waiting import eventually

ROOT = Path(__file__).parent.parent
PIP_COMMANDS = uv.pip_commands


def make_wheel(
    folder: Path,
    name: str,
    version: str,
    code: str = "",
    *,
    requires: str = "",
    tag: str = "py3-none-any",
    extra: Mapping[str, str] | None = None,
) -> Path:
    """Write a wheel of one module; the same call with other code makes another file."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-{version}-{tag}.whl"
    info = f"{name}-{version}.dist-info"
    needs = f"Requires-Dist: {requires}\n" if requires else ""
    files = {
        f"{name}.py": code,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needs}",
        f"{info}/WHEEL": f"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: {tag}\n",
        **(extra or {}),
    }
    record = "".join(f"{file},{sha256(text)},{len(text)}\n" for file, text in files.items()) + f"{info}/RECORD,,\n"
    with zipfile.ZipFile(path, "w") as wheel:
        for file, text in {**files, f"{info}/RECORD": record}.items():
            wheel.writestr(file, text)
    return path


def sha256(text: str) -> str:
    """Hash as a RECORD does."""
    return "sha256=" + base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()


@dataclass
class World:
    """A checkout, a cache and a find-links folder of their own."""

    root: Path
    cache: Path
    wheels: Path

    def ensure(self, cell: Cell, **options: object) -> Environment:
        return ensure(cell, root=self.root, cache=self.cache, **options)  # type: ignore[arg-type]

    def places(self) -> list[str]:
        """Names of the environments in place."""
        return sorted(p.name for p in (self.cache / "envs").glob("[!.]*"))

    def staged(self) -> list[str]:
        return sorted(p.name for p in (self.cache / "envs/.staging").glob("*"))

    def lock(self, name: str, text: str) -> None:
        path = self.root / "fixtures/locks" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


@pytest.fixture(scope="module")
def uv_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("uv-cache")


@pytest.fixture(autouse=True)
def world(tmp_path: Path, uv_cache: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """Point pip, not uv, at the wheels made here: what reaches uv went through pip's settings."""
    here = World(tmp_path / "root", tmp_path / "cache", tmp_path / "wheels")
    for name in [n for n in os.environ if n.startswith(("UV_", "PIP_"))]:
        monkeypatch.delenv(name)
    monkeypatch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_FIND_LINKS", str(here.wheels))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("UV_CACHE_DIR", str(uv_cache))
    monkeypatch.setattr(envs, "gpu_kind", lambda: "")
    monkeypatch.setattr(uv, "pip_commands", tuple)  # asking the real one costs half a second
    make_wheel(here.wheels, "alpha", "1.0.0", "who = 'alpha 1.0.0'", requires="beta")
    make_wheel(here.wheels, "alpha", "1.1.0", "who = 'alpha 1.1.0'", requires="beta")
    make_wheel(here.wheels, "beta", "1.0.0")
    make_wheel(here.wheels, "beta", "2.0.0")
    return here


CELL = Cell("tiny", "cpu", {"alpha": "1.0.0"})


def said_by(environment: Environment, code: str) -> str:
    done = subprocess.run([environment.python, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


# --- cold, warm, committed -----------------------------------------------------------------------


def test_cold_build_then_warm_without_uv(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    cold = world.ensure(CELL, progress=said.append)
    assert (cold.warm, cold.build, cold.lock_committed) == (False, "default", False)
    assert cold.resolved == {"alpha": "1.0.0", "beta": "2.0.0"}
    assert said_by(cold, "import alpha, sys; print(alpha.who, sys.prefix)") == (f"alpha 1.0.0 {cold.path}")
    assert said[0] == ("tiny: installing, torch build default, lock not committed, resolved here")
    assert said[-1].startswith("tiny: ready in ")
    assert world.places() == [cold.path.name]
    assert world.staged() == []

    monkeypatch.setattr(Uv, "find", lambda: pytest.fail("a warm environment needs no uv"))
    warm = world.ensure(CELL)
    assert warm.warm
    assert warm.seconds < 3
    assert (warm.path, warm.resolved, warm.lock_digest) == (
        cold.path,
        cold.resolved,
        cold.lock_digest,
    )


def test_record_says_what_was_built(world: World) -> None:
    environment = world.ensure(CELL)
    record = json.loads((environment.path / "env.json").read_text())
    assert record["pins"] == {"alpha": "1.0.0"}
    assert record["python"] == f"cpython {sys.version.split()[0]}"
    assert record["lock_digest"] == environment.lock_digest
    assert set(record["seconds"]) == {"install", "health"}
    assert (environment.path / "lock.txt").read_text() == "alpha==1.0.0\nbeta==2.0.0\n"


def test_committed_lock_is_installed_to_the_letter(world: World) -> None:
    world.lock("tiny.default.txt", "# old on purpose\nalpha==1.0.0\nbeta==1.0.0\n")
    environment = world.ensure(CELL)
    assert environment.lock_committed
    assert environment.resolved == {"alpha": "1.0.0", "beta": "1.0.0"}
    world.lock("tiny.default.txt", "# other words\nalpha==1.0.0\nbeta==1.0.0\n")
    assert world.ensure(CELL).warm, "a comment changes nothing"
    world.lock("tiny.default.txt", "alpha==1.0.0\nbeta==2.0.0\n")
    assert world.ensure(CELL).resolved["beta"] == "2.0.0"
    assert len(world.places()) == 2


def test_committed_lock_that_misses_a_pin_is_an_error(world: World) -> None:
    world.lock("tiny.default.txt", "alpha==1.1.0\nbeta==1.0.0\n")
    with pytest.raises(EnvError) as caught:
        world.ensure(CELL)
    assert str(caught.value) == (
        "fixtures/locks/tiny.default.txt: alpha is 1.1.0 where the cell pins 1.0.0\n"
        "hint: make it again with `python -m repros lock`"
    )


@pytest.mark.parametrize("damage", ["no python", "no record", "cut record", "cut index", "gone"])
def test_damaged_environment_is_built_again(world: World, damage: str) -> None:
    path = world.ensure(CELL).path
    index = next((world.cache / "envs/.index").glob("*.json"))
    if damage == "no python":
        (path / "bin/python").unlink()
    elif damage == "no record":
        (path / "env.json").unlink()
    elif damage == "cut record":
        (path / "env.json").write_text('{"schema": 1, "ce')
    elif damage == "cut index":
        index.write_text('{"fol')
    else:
        shutil.rmtree(path)
    again = world.ensure(CELL)
    assert said_by(again, "import alpha; print(alpha.who)") == "alpha 1.0.0"
    assert again.path == path
    assert world.staged() == []


# --- damaged in place ----------------------------------------------------------------------------

SITE = f"lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages"


def in_place(path: Path, change: Callable[[bytes], bytes]) -> None:
    """Edit the very file, not another of its name; its size and time are put back where the size is the same."""
    before = path.stat()
    path.chmod(0o644)
    with path.open("r+b") as file:
        data = change(file.read())
        file.seek(0)
        file.truncate()
        file.write(data)
    if len(data) == before.st_size:
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def planted(path: Path) -> None:
    path.write_text("raise SystemExit('planted')\n")


def elsewhere(python: Path) -> None:
    python.unlink()
    python.symlink_to("/bin/true")


Spoil = Callable[[Path], None]


def edit(old: str, new: str) -> Spoil:
    return lambda path: in_place(path, lambda data: data.replace(old.encode(), new.encode()))


DAMAGE: dict[str, tuple[str, Spoil, str]] = {
    "line added": (f"{SITE}/alpha.py", lambda path: in_place(path, lambda data: data + b"\nx = 1"), "is not what"),
    "same size and time": (f"{SITE}/alpha.py", edit("0", "9"), "is not what"),
    "METADATA": (f"{SITE}/alpha-1.0.0.dist-info/METADATA", edit("1.0.0", "1.0.1"), "is not what"),
    "RECORD": (f"{SITE}/alpha-1.0.0.dist-info/RECORD", edit("sha256", "sha265"), "is not what"),
    "flipped byte": (f"{SITE}/libalpha.so", edit("x end", "y end"), "is not what"),
    "truncated": (f"{SITE}/libalpha.so", lambda path: in_place(path, lambda data: data[:100]), "is not what"),
    "deleted": (f"{SITE}/libalpha.so", Path.unlink, "is missing"),
    "added module": (f"{SITE}/sitecustomize.py", planted, "was added"),
    "added library": (f"{SITE}/beta.cpython-311-x86_64-linux-gnu.so", planted, "was added"),
    "added path file": (f"{SITE}/more.pth", planted, "was added"),
    "record of the environment": ("env.json", edit("1.0.0", "1.0.1"), "is not what"),
    "settings of the environment": ("pyvenv.cfg", edit("false", "true "), "is not what"),
    "another python": ("bin/python", elsewhere, "is not what"),
}
LIBRARY = "x" * 4096 + " end"


@pytest.fixture
def alpha(world: World) -> Environment:
    """Return an environment with a library in it."""
    make_wheel(world.wheels, "alpha", "1.0.0", "who = 'alpha 1.0.0'", requires="beta", extra={"libalpha.so": LIBRARY})
    return world.ensure(CELL)


@pytest.mark.parametrize("damage", DAMAGE)
def test_what_is_not_what_was_installed_is_told_and_built_again(world: World, alpha: Environment, damage: str) -> None:
    file, spoil, what = DAMAGE[damage]
    spoil(alpha.path / file)
    assert what in alpha.damage(), "met where it came while the environment was used"
    said: list[str] = []
    again = world.ensure(CELL, progress=said.append)
    (told,) = [line for line in said if "damaged: " in line and what in line]
    assert told.startswith(f"tiny: {alpha.path.name} is damaged: {file} {what}")
    assert told.endswith(": building it again")
    assert (again.path, again.warm, again.resolved) == (alpha.path, False, {"alpha": "1.0.0", "beta": "2.0.0"})
    assert said_by(again, "import alpha; print(alpha.who)") == "alpha 1.0.0"
    assert (again.path / SITE / "libalpha.so").read_text() == LIBRARY
    assert again.damage() == "" and world.ensure(CELL).warm
    assert alpha.damage() == "another process built it again"
    assert world.staged() == []


@pytest.mark.parametrize("file", [f"{SITE}/alpha.py", f"{SITE}/sitecustomize.py"])
def test_damage_is_met_where_there_is_no_fingerprint_yet(world: World, alpha: Environment, file: str) -> None:
    (alpha.path / FINGERPRINT).unlink()
    assert world.ensure(CELL).warm, "what is whole is not built again"
    assert (alpha.path / FINGERPRINT).exists()
    (alpha.path / FINGERPRINT).write_text('{"cut')
    (alpha.path / file).unlink(missing_ok=True)
    planted(alpha.path / file)
    again = world.ensure(CELL)
    assert not again.warm
    assert said_by(again, "import alpha; print(alpha.who)") == "alpha 1.0.0"


@pytest.mark.parametrize("file", ["gamma/core.py", "gamma-1.0.0.dist-info/METADATA"])
def test_a_small_package_under_test_is_hashed_whatever_its_files_look_like(world: World, file: str) -> None:
    """A disk that changes a bit, or a clock that was set back, shows in no `stat`."""
    make_wheel(world.wheels, "gamma", "1.0.0", extra={"gamma/core.py": "size = 100"})
    cell = Cell("tiny", "cpu", {"gamma": "1.0.0"})
    first = world.ensure(cell)
    in_place(first.path / SITE / file, lambda data: data.replace(b"1", b"7"))
    known = Fingerprint.load(first.path)
    assert known is not None
    Fingerprint(look(first.path), known.hashes).write(first.path)
    again = world.ensure(cell)
    assert not again.warm
    assert said_by(again, f"print(open({str(again.path / SITE / file)!r}).read().count('7'))") == "0"


def test_a_record_that_cannot_be_read_is_damage(world: World, alpha: Environment) -> None:
    (alpha.path / FINGERPRINT).unlink()
    in_place(alpha.path / SITE / "alpha-1.0.0.dist-info/RECORD", lambda data: b"\xff\x00," * 9)
    assert not world.ensure(CELL).warm


def test_files_are_the_environments_own_where_uv_is_set_to_link_by_name(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UV_LINK_MODE", "symlink")
    assert not (world.ensure(CELL).path / SITE / "alpha.py").is_symlink()


def test_an_edit_in_place_is_met_in_every_environment_and_in_the_cache_of_uv(world: World, alpha: Environment) -> None:
    other = Cell("other", "cpu", {"alpha": "1.0.0", "beta": "1.0.0"})
    second = world.ensure(other)
    assert (second.path / SITE / "alpha.py").samefile(alpha.path / SITE / "alpha.py"), "or this tries nothing"
    assert world.ensure(CELL).warm, "a further link to a file is no damage"
    assert not (alpha.path / SITE / "alpha.py").stat().st_mode & 0o222
    in_place(alpha.path / SITE / "alpha.py", lambda b: b.replace(b"0", b"9"))
    said: list[str] = []
    for cell in (CELL, other):
        again = world.ensure(cell, progress=said.append)
        assert not again.warm
        assert said_by(again, "import alpha; print(alpha.who)") == "alpha 1.0.0"
    told = [line for line in said if "uv's cache" in line]
    assert told == [f"tiny: {SITE}/alpha.py is not what alpha installs: uv's cache of alpha is damaged, fetching anew"]


def test_a_cache_that_was_copied_is_hashed_and_not_built_again(
    world: World, alpha: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = world.cache.with_name("copy")
    shutil.copytree(world.cache, copy, symlinks=True, copy_function=shutil.copyfile)
    (copy / "envs" / alpha.path.name / "bin/python").chmod(0o755)
    monkeypatch.setattr(Uv, "find", lambda: pytest.fail("nothing is to be built"))
    for _ in range(2):
        moved = ensure(CELL, root=world.root, cache=copy)
        assert moved.warm and moved.path.is_relative_to(copy)
    (moved.path / SITE / "alpha.py").write_text("who = 'edited'\n")
    with pytest.raises(pytest.fail.Exception):
        ensure(CELL, root=world.root, cache=copy)


def compiled(source: Path, code: str) -> bytes:
    """Return bytecode that Python takes for that of `source`."""
    seen = source.stat()
    return (
        importlib.util.MAGIC_NUMBER
        + struct.pack("<III", 0, int(seen.st_mtime), seen.st_size)
        + marshal.dumps(compile(code, str(source), "exec"))
    )


@pytest.mark.parametrize("damage", ["planted", "cut", "unchecked", "no source"])
def test_false_bytecode_is_removed_and_true_bytecode_kept(world: World, alpha: Environment, damage: str) -> None:
    source = alpha.path / SITE / "alpha.py"
    place = Path(importlib.util.cache_from_source(str(source)))
    data = compiled(source, "who = 'planted'")
    if damage == "cut":
        data = place.read_bytes()[:30]
    elif damage == "unchecked":
        data = data[:4] + struct.pack("<I", 1) + data[8:]
    elif damage == "no source":
        place = place.with_name(place.name.replace("alpha", "omega"))
    place.unlink(missing_ok=True)
    place.write_bytes(data)
    before = {"planted": "planted", "unchecked": "planted"}.get(damage)
    assert before is None or said_by(alpha, "import alpha; print(alpha.who)") == before, "Python believes it"
    true = Path(importlib.util.cache_from_source(str(alpha.path / SITE / "beta.py")))
    said_by(alpha, "import beta")
    assert true.exists()
    said: list[str] = []
    again = world.ensure(CELL, progress=said.append)
    assert again.warm and not place.exists()
    assert said == [
        f"tiny: {alpha.path.name}: {place.relative_to(alpha.path)} is not what its source compiles to: removed"
    ]
    assert said_by(again, "import alpha; print(alpha.who)") == "alpha 1.0.0"
    assert true.exists()


def test_what_pytest_rewrites_in_an_environment_is_no_change(world: World, alpha: Environment) -> None:
    """It did so beside a trial, and no interpreter takes bytecode of such a name."""
    source = alpha.path / SITE / "alpha.py"
    plain = Path(importlib.util.cache_from_source(str(source)))
    rewritten = plain.with_name(plain.name.replace(".pyc", "-pytest-9.2.0.pyc"))
    rewritten.parent.mkdir(exist_ok=True)
    rewritten.write_bytes(compiled(source, "who = 'planted'"))
    said: list[str] = []
    again = world.ensure(CELL, progress=said.append)
    assert again.warm and not said and rewritten.exists()
    assert said_by(again, "import alpha; print(alpha.who)") == "alpha 1.0.0"


def test_a_wheel_that_contradicts_its_record_is_never_put_in_place(world: World) -> None:
    wheel = make_wheel(world.wheels, "wrong", "1.0.0", "who = 'right'")
    with zipfile.ZipFile(wheel) as source:
        files = {name: source.read(name) for name in source.namelist()}
    with zipfile.ZipFile(wheel, "w") as target:
        for name, data in {**files, "wrong.py": b"who = 'wrong'"}.items():
            target.writestr(name, data)
    error = failure(world, Cell("tiny", "cpu", {"wrong": "1.0.0"}))
    assert str(error) == (
        f"tiny: {SITE}/wrong.py is not what wrong installs, though it was fetched anew\n"
        "hint: its RECORD is wrong or the disk fails: take another wheel"
    )


def test_damage_that_cannot_be_mended_here_is_named(
    world: World, alpha: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    (alpha.path / SITE / "libalpha.so").unlink()
    monkeypatch.setattr(uv, "_uv_commands", lambda: [("/nowhere/uv",)])
    for _ in range(2):
        with pytest.raises(EnvError) as caught:
            world.ensure(CELL)
        assert str(caught.value) == (
            f"tiny: {alpha.path.name} is damaged: {SITE}/libalpha.so is missing; "
            "building it again failed: uv: not found\n"
            "hint: install it with `python3 -m pip install uv`"
        )


def test_an_environment_of_other_pins_is_not_taken_for_this_one(world: World, alpha: Environment) -> None:
    newer = world.ensure(CELL.with_override("alpha", "1.1.0"))
    for index in (world.cache / "envs/.index").glob("*.json"):
        index.write_text(json.dumps({"folder": newer.path.name}))
    assert world.ensure(CELL).resolved["alpha"] == "1.0.0"


# --- failures ------------------------------------------------------------------------------------


def failure(world: World, cell: Cell) -> EnvError:
    """Return what `ensure` raises, having checked that it left nothing behind."""
    with pytest.raises(EnvError) as caught:
        world.ensure(cell)
    assert world.places() == []
    assert world.staged() == []
    return caught.value


@pytest.mark.parametrize(
    ("pins", "reason"),
    [
        ({"alpha": "9.0.0"}, "Because there is no version of alpha==9.0.0 and you require"),
        ({"no-such-package": "1.0.0"}, "Because no-such-package was not found in the provided"),
        ({"alpha": "1.0.0", "beta": "3.0.0"}, "Because there is no version of beta==3.0.0"),
        ({"gamma": "1.0.0"}, "Because gamma==1.0.0 has no wheels with a matching"),
    ],
)
def test_what_the_packages_forbid_is_unsupported(world: World, pins: dict[str, str], reason: str) -> None:
    make_wheel(world.wheels, "gamma", "1.0.0", tag="cp27-cp27m-win32")
    error = failure(world, Cell("tiny", "cpu", pins))
    assert error.kind == "unsupported"
    assert error.what.startswith(f"tiny: these pins cannot be installed together here: {reason}")
    assert error.hint == "change a pin, or replace it with `--with`, once for each package that must follow"
    assert "No solution found" in error.words


def test_unreachable_index_is_an_error_and_keeps_the_password(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", "http://user:secret@127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    error = failure(world, CELL)
    assert error.kind == "error"
    assert error.what.startswith("tiny: uv failed: ")
    assert error.hint == "check network, index and disk, then run again"
    assert "http://127.0.0.1:9/simple" in error.words.replace("***@", "")
    assert "secret" not in str(error) + error.words + repr(error)


@pytest.mark.parametrize(
    ("code", "problem"),
    [
        ("raise OSError('no such library')", "`import bad` raises OSError: no such library"),
        ("raise SystemExit(0)", "`import bad` raises SystemExit: 0"),
        (
            "import os; os.kill(os.getpid(), 11)",
            "its interpreter was killed by signal 11 at `import bad`",
        ),
        ("import os; os._exit(7)", "its interpreter ended with 7 at `import bad`"),
    ],
)
def test_unhealthy_environment_is_never_put_in_place(world: World, code: str, problem: str) -> None:
    make_wheel(world.wheels, "bad", "1.0.0", code)
    error = failure(world, Cell("tiny", "cpu", {"bad": "1.0.0"}))
    assert error.kind == "error"
    assert error.what == f"tiny: the environment is not healthy: {problem}"


def test_the_health_check_compares_versions(world: World) -> None:
    make_wheel(world.wheels, "local", "1.2.0+cpu", "print('{noise')")

    def problem(pins: dict[str, str]) -> str:
        return inspect(python, pins).problem

    python = world.ensure(Cell("tiny", "cpu", {"local": "1.2.0", "alpha": "1.0.0"})).python
    assert problem({"local": "1.2.0", "alpha": "1.0.0"}) == ""
    assert problem({"local": "1.2.0+cpu", "alpha": ">=1,<2"}) == ""
    assert problem({"alpha": "1.1.0"}) == ("alpha 1.0.0 is installed where 1.1.0 is pinned")
    assert problem({"local": "1.2.0+cu130"}) == ("local 1.2.0+cpu is installed where 1.2.0+cu130 is pinned")
    assert problem({"json": "1.0.0"}) == "json is not installed"
    assert inspect(world.root / "none", {}).problem == "its interpreter does not start: No such file or directory"


def test_cache_that_cannot_be_written_names_the_mend(world: World) -> None:
    world.cache.write_text("a file")
    with pytest.raises(EnvError, match="Not a directory\nhint: check the disk, or set REPROS_CACHE to"):
        world.ensure(CELL)


def test_uv_missing_names_the_mend(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uv, "_uv_commands", lambda: [("/nowhere/uv",)])
    with pytest.raises(EnvError) as caught:
        world.ensure(CELL)
    assert str(caught.value) == ("uv: not found\nhint: install it with `python3 -m pip install uv`")


def test_host_torch_is_unsupported_here(world: World) -> None:
    with pytest.raises(EnvError, match="needs a GPU, this machine has none") as caught:
        world.ensure(Cell("gpu", "cuda", {"torch": "host"}))
    assert caught.value.kind == "unsupported"


# --- killed and concurrent builds ----------------------------------------------------------------

BUILD = """
import sys
from pathlib import Path
from repros.cells import envs
from repros.cells.matrix import Cell
envs.gpu_kind = lambda: ""
cell = Cell("tiny", "cpu", {"slow": "1.0.0"})
env = envs.ensure(cell, root=Path(sys.argv[1]), cache=Path(sys.argv[2]))
print(env.path.name, env.warm)
"""

SLOW = """
import os, pathlib, time
log = pathlib.Path(os.environ["SLOW_LOG"])
with log.open("a") as out:
    out.write("import\\n")
time.sleep(float(os.environ["SLOW_SECONDS"]))
"""


def start_build(world: World, seconds: float) -> subprocess.Popen[str]:
    make_wheel(world.wheels, "slow", "1.0.0", SLOW)
    return subprocess.Popen(
        [sys.executable, "-c", BUILD, str(world.root), str(world.cache)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        start_new_session=True,
        env={
            **os.environ,
            "SLOW_LOG": str(world.root.with_name("log")),
            "SLOW_SECONDS": str(seconds),
        },
    )


def test_killed_build_is_never_used_and_is_swept(world: World) -> None:
    log = world.root.with_name("log")
    first = start_build(world, 60)
    eventually(log.exists, 20, "the import of the slow package")
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate()
    assert world.places() == []
    assert len(world.staged()) == 1

    second = start_build(world, 0)
    name, warm = second.communicate(timeout=30)[0].split()
    assert warm == "False"
    assert world.places() == [name]
    assert world.staged() == []


def test_concurrent_builds_make_one_environment(world: World) -> None:
    builders = [start_build(world, 0.5) for _ in range(3)]
    outputs = [builder.communicate(timeout=30)[0].split() for builder in builders]
    assert [builder.returncode for builder in builders] == [0, 0, 0]
    assert {name for name, _ in outputs} == set(world.places())
    assert len(world.places()) == 1
    assert world.root.with_name("log").read_text().splitlines() == ["import"]


def test_sweep_leaves_what_a_living_builder_holds(world: World) -> None:
    world.ensure(CELL)
    envs_folder = world.cache / "envs"
    for name in ("dead-000000000000", "alive-111111111111"):
        (envs_folder / f".staging/{name}~01234567").mkdir()
    with (envs_folder / ".locks/alive-111111111111.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        world.ensure(CELL.with_override("alpha", "1.1.0"))
        assert world.staged() == ["alive-111111111111~01234567"]


# --- overrides -----------------------------------------------------------------------------------


def test_override_by_version_stays_near_the_committed_lock(world: World) -> None:
    world.lock("tiny.default.txt", "alpha==1.0.0\nbeta==1.0.0\n")
    environment = world.ensure(CELL.with_override("alpha", ">1.0"))
    assert environment.resolved == {"alpha": "1.1.0", "beta": "1.0.0"}
    assert not environment.lock_committed
    assert not world.ensure(CELL).warm, "the cell itself is another environment"


def test_override_by_wheel_is_known_by_its_content(world: World, tmp_path: Path) -> None:
    wheel = make_wheel(tmp_path, "alpha", "5.0.0", "who = 'first'")
    cell = CELL.with_override("alpha", str(wheel))
    first = world.ensure(cell)
    assert said_by(first, "import alpha; print(alpha.who)") == "first"
    assert first.resolved["alpha"] == "5.0.0"
    assert world.ensure(cell).warm
    make_wheel(tmp_path, "alpha", "5.0.0", "who = 'second'")
    second = world.ensure(cell)
    assert said_by(second, "import alpha; print(alpha.who)") == "second"
    assert said_by(first, "import alpha; print(alpha.who)") == "first"


CHECKOUT_BACKEND = """
import pathlib, zipfile
INFO = "alpha-6.0.0.dist-info"
META = "Metadata-Version: 2.1\\nName: alpha\\nVersion: 6.0.0\\n"
TAGS = "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n"
def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    name = "alpha-6.0.0-py3-none-any.whl"
    with zipfile.ZipFile(pathlib.Path(wheel_directory, name), "w") as wheel:
        wheel.write("src/alpha.py", "alpha.py")
        wheel.writestr(f"{INFO}/METADATA", META)
        wheel.writestr(f"{INFO}/WHEEL", TAGS)
        wheel.writestr(f"{INFO}/RECORD", "")
    return name
"""


def make_checkout(folder: Path, code: str) -> Path:
    """Write a project whose build backend lies in it and needs nothing."""
    (folder / "src").mkdir(parents=True, exist_ok=True)
    (folder / "src/alpha.py").write_text(code)
    (folder / "backend.py").write_text(CHECKOUT_BACKEND)
    (folder / "pyproject.toml").write_text(
        textwrap.dedent(
            """
            [build-system]
            requires = []
            build-backend = "backend"
            backend-path = ["."]
            """
        )
    )
    return folder


def test_override_by_checkout_sees_every_edit(world: World, tmp_path: Path) -> None:
    """uv keeps a wheel built from a folder while its pyproject.toml is unchanged: not here."""
    checkout = make_checkout(tmp_path / "checkout", "who = 'first'")
    cell = CELL.with_override("alpha", str(checkout))
    first = world.ensure(cell)
    assert said_by(first, "import alpha; print(alpha.who)") == "first"
    (checkout / "__pycache__").mkdir(exist_ok=True)
    (checkout / "__pycache__/alpha.pyc").write_text("left by a tool")
    assert world.ensure(cell).warm
    make_checkout(tmp_path / "checkout", "who = 'second'")
    second = world.ensure(cell)
    assert said_by(second, "import alpha; print(alpha.who)") == "second"
    assert said_by(first, "import alpha; print(alpha.who)") == "first"


def test_override_by_checkout_that_does_not_build_is_an_error(world: World, tmp_path: Path) -> None:
    checkout = make_checkout(tmp_path / "checkout", "")
    (checkout / "backend.py").write_text("raise RuntimeError('no compiler here')")
    error = failure(world, CELL.with_override("alpha", str(checkout)))
    assert error.kind == "error"
    assert "no compiler here" in error.words


def test_override_that_points_nowhere_is_a_user_error(world: World, tmp_path: Path) -> None:
    wheel = make_wheel(tmp_path, "beta", "1.0.0")
    (tmp_path / "renamed.whl").write_bytes(b"")
    empty = tmp_path / "empty"
    empty.mkdir()
    table = {
        "./nowhere": "does not exist\nhint: check the path; it is read from here",
        f"{empty}": "holds neither pyproject.toml nor setup.py\nhint: give the folder at the root",
        f"{wheel}": f"is a wheel of beta\nhint: write `--with beta={wheel}`",
        f"{tmp_path}/renamed.whl": "is not named like a wheel\nhint: give a file called",
    }
    for spec, text in table.items():
        with pytest.raises(UserError) as caught:
            world.ensure(CELL.with_override("alpha", spec))
        assert str(caught.value).startswith(f"--with alpha: `{spec}` {text}")


# --- which build of torch ------------------------------------------------------------------------

TORCH = Cell("tiny", "cpu", {"torch": "2.13.0"})


def test_cpu_build_is_taken_where_it_is_on_offer(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    make_wheel(world.wheels, "torch", "2.13.0")
    make_wheel(world.wheels, "torch", "2.13.0+cpu")
    cpu = world.ensure(TORCH)
    assert (cpu.build, cpu.resolved["torch"]) == ("cpu (find-links)", "2.13.0+cpu")
    default = world.ensure(TORCH, build="default")
    assert (default.build, default.resolved["torch"]) == ("default", "2.13.0")
    monkeypatch.setattr(envs, "gpu_kind", lambda: "cuda")
    assert world.ensure(TORCH).build == "default"
    assert world.ensure(TORCH, build="cpu").warm


def test_default_lock_installs_the_default_build_beside_a_cpu_build(world: World) -> None:
    make_wheel(world.wheels, "torch", "2.13.0")
    make_wheel(world.wheels, "torch", "2.13.0+cpu")
    world.lock("tiny.default.txt", "torch==2.13.0\n")
    world.lock("tiny.cpu.txt", "torch==2.13.0+cpu\n")
    default = world.ensure(TORCH, build="default")
    assert (default.resolved["torch"], default.lock_committed) == ("2.13.0", True)
    cpu = world.ensure(TORCH, build="cpu")
    assert (cpu.resolved["torch"], cpu.lock_committed) == ("2.13.0+cpu", True)


def test_default_build_where_no_cpu_build_is_on_offer(world: World) -> None:
    make_wheel(world.wheels, "torch", "2.13.0")
    assert world.ensure(TORCH).build == "default"
    with pytest.raises(EnvError) as caught:
        world.ensure(TORCH, build="cpu")
    assert caught.value.kind == "unsupported"
    assert str(caught.value) == (
        "tiny: no CPU build of torch 2.13.0 is on offer\nhint: add a find-links folder or an index that has one"
    )


# --- locks ---------------------------------------------------------------------------------------

MATRIX = """\
tiers: {cpu: all}
axes: {torch: [2.13.0], transformers: [5.2.0], bitsandbytes: [0.49.2]}
companions:
  5.2.0: {accelerate: 1.0.0, peft: 1.0.0, huggingface_hub: 1.0.0, tokenizers: 1.0.0}
cells:
  - {name: one, tiers: [cpu], torch: 2.13.0, transformers: 5.2.0, bitsandbytes: 0.49.2}
"""


def test_locks_are_written_for_both_builds_and_stay_put(world: World) -> None:
    world.root.mkdir()
    (world.root / "matrix.yaml").write_text(MATRIX)
    matrix = load_matrix(world.root / "matrix.yaml")
    pins = matrix.cell("one").pins
    for package in PACKAGES:
        needs = "beta" if package == "peft" else ""
        make_wheel(world.wheels, package, pins[package], requires=needs)
    make_wheel(world.wheels, "torch", "2.13.0+cpu")
    world.lock("gone.cpu.txt", "# made by `python -m repros lock` with uv 1\nalpha==1.0.0\n")  # one to stay near to
    world.lock("notes.cpu.txt", "my own notes\n")

    changed = write_locks(matrix.cells, root=world.root)
    names = {path.name: is_new for path, is_new in changed.items()}
    assert names == {"one.default.txt": True, "one.cpu.txt": True}
    folder = world.root / "fixtures/locks"
    assert {p.name for p in folder.iterdir()} == {*names, "gone.cpu.txt", "notes.cpu.txt"}
    assert (folder / "notes.cpu.txt").read_text() == "my own notes\n"
    texts = {p.name: p.read_text() for p in folder.glob("one.*")}
    assert "\ntorch==2.13.0+cpu\n" in texts["one.cpu.txt"]
    assert "\ntorch==2.13.0\n" in texts["one.default.txt"]
    assert "\nbeta==2.0.0\n" in texts["one.cpu.txt"]
    assert texts["one.cpu.txt"].startswith("# cell: one\n# build of torch: cpu\n# pins: torch==2.1")
    assert str(world.wheels) not in "".join(texts.values())

    make_wheel(world.wheels, "beta", "3.0.0")
    assert set(write_locks(matrix.cells, root=world.root).values()) == {False}, "what fits stays"
    assert world.ensure(matrix.cell("one")).resolved["beta"] == "2.0.0"
    for path in folder.iterdir():
        path.unlink()
    assert set(write_locks(matrix.cells, root=world.root).values()) == {True}
    assert "\nbeta==3.0.0\n" in (folder / "one.cpu.txt").read_text()


def test_shipped_locks_fit_the_shipped_matrix() -> None:
    matrix = load_matrix(ROOT / "matrix.yaml")
    for cell in matrix.tier("full"):
        assert committed_lock(cell, ROOT, "default") is not None
    for cell in matrix.tier("cpu"):
        assert committed_lock(cell, ROOT, "cpu") is not None
    for path in (ROOT / "fixtures/locks").iterdir():
        assert matrix.cell(path.name.rsplit(".", 2)[0]), "a lock of no cell"
        text = path.read_text(encoding="utf-8")
        assert "://" not in text
        assert "/" not in "".join(line for line in text.splitlines() if line[0] != "#")


# --- pip's settings, and what is told ------------------------------------------------------------


@pytest.mark.parametrize("has_pip", [True, False])
def test_pip_settings_come_from_pip_or_else_the_environment(
    world: World, monkeypatch: pytest.MonkeyPatch, has_pip: bool
) -> None:
    commands = PIP_COMMANDS() if has_pip else [("/nowhere/python", "-m", "pip")]
    monkeypatch.setattr(uv, "pip_commands", lambda: commands)
    settings = pip_settings()
    assert settings["find-links"] == str(world.wheels)
    assert settings["no-index"] == "1"


def test_pip_config_precedence() -> None:
    listing = """\
:env:.find-links='/env'
global.find-links='/global'
global.extra-index-url='https://a/simple https://b/simple'
global.index-url='https://global/simple'
install.index-url='https://install/simple'
download.cert='/elsewhere'
not a setting
"""
    assert parse_pip_config(listing) == {
        "find-links": "/env",
        "extra-index-url": "https://a/simple https://b/simple",
        "index-url": "https://install/simple",
    }


def test_uv_is_told_what_pip_knows_unless_it_knows_better() -> None:
    settings = {
        "find-links": "/wheels https://host/list",
        "index-url": "https://a/simple",
        "extra-index-url": "https://b/simple\nhttps://c/simple",
        "cert": "/cert.pem",
        "proxy": "http://proxy:1",
    }
    base = {"UV_DEFAULT_INDEX": "https://mine/simple", "VIRTUAL_ENV": "/x", "HOME": "/h"}
    assert uv_environ(settings, base) == {
        "HOME": "/h",
        "UV_FIND_LINKS": "/wheels,https://host/list",
        "UV_DEFAULT_INDEX": "https://mine/simple",
        "UV_INDEX": "https://b/simple https://c/simple",
        "SSL_CERT_FILE": "/cert.pem",
        "ALL_PROXY": "http://proxy:1",
        "UV_INDEX_STRATEGY": "unsafe-best-match",
        "UV_PYTHON_DOWNLOADS": "never",
        "UV_NO_PROGRESS": "1",
        "NO_COLOR": "1",
    }


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("at https://user:pass@host/simple/", "at https://***@host/simple/"),
        ("at https://token@host/", "at https://***@host/"),
        ("at https://host/simple/@scope", "at https://host/simple/@scope"),
        ("https://host/x?token=abc&a=1", "https://host/x?token=***&a=1"),
        ("mail me@host", "mail me@host"),
    ],
)
def test_redaction(text: str, safe: str) -> None:
    assert redact(text) == safe


@pytest.mark.parametrize(
    ("stderr", "kind", "reason"),
    [
        (
            "error: Failed to install: x.whl\n  cause: failed to copy\n  cause: No space left on device (os error 28)",
            "error",
            "No space left on device (os error 28)",
        ),
        (
            "  x No solution found when resolving dependencies:\n"
            "  `-> Because there is no version of a==9 and you require a==9, no.",
            "unsupported",
            "Because there is no version of a==9 and you require a==9, no.",
        ),
        (
            "error: No solution found when resolving dependencies\n"
            "  cause: Because a==1 needs to be downloaded from a registry, no.\n\n"
            "hint: Packages were unavailable because the network was disabled.",
            "error",
            "Because a==1 needs to be downloaded from a registry, no.",
        ),
        ("", "error", "no words"),
    ],
)
def test_failures_are_told_apart_by_their_words(stderr: str, kind: str, reason: str) -> None:
    error = install_error("cell", stderr)
    assert error.kind == kind
    assert error.what.endswith(f": {reason}")


def test_the_cache_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/h")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("REPROS_CACHE", raising=False)
    assert cache_root() == Path("/h/.cache/repros")
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert cache_root() == Path("/x/repros")
    monkeypatch.setenv("REPROS_CACHE", "~/mine")
    assert cache_root() == Path("/h/mine")
