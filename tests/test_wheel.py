"""The wheel: what is in it, and that it works in an empty folder, home and environment, without the checkout."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from repros import ROOT, __version__, cases
from repros.cases import sources
from repros.cells.matrix import load_matrix
from repros.cells.uv import Uv
from repros.machine.cache import cache_root

pytestmark = pytest.mark.slow
CELL = load_matrix(ROOT / "matrix.yaml").tier("smoke")[-1].name
#: Of the checkout, what travels.
TRAVELS = ("repros", "fixtures", "matrix.yaml", "pyproject.toml", "reports/advisories")
#: What a script says of the wheel that it is run from.
DIGESTS = """
import json, repros
from repros import cases
from repros.bisect import probe
from repros.cases import sources
found = {e.name: [str(e.path.relative_to(repros.ROOT)), sources.digest(e.module), probe.definition(e.module)]
         for e in cases.find()}
print(json.dumps({"root": str(repros.ROOT), "found": found}))
"""


class Wheel:
    """A wheel that was built from this checkout, and an environment of its own that holds it."""

    def __init__(self, folder: Path) -> None:
        uv = Uv.find()
        self.built = folder / "dist"
        self._run([*uv.command, "build", "--quiet", "--out-dir", self.built, ROOT], uv.environ)
        self._run([*uv.command, "build", "--quiet", "--wheel", "--out-dir", folder / "again", ROOT], uv.environ)
        (self.file,) = self.built.glob("*.whl")
        (self.sdist,) = self.built.glob("*.tar.gz")
        self.again = folder / "again" / self.file.name
        self.bin = folder / "env" / "bin"
        self._run([*uv.command, "venv", "--quiet", "--python", sys.executable, folder / "env"], uv.environ)
        self._run([*uv.command, "pip", "install", "--quiet", "--python", self.bin / "python", self.file], uv.environ)
        self.home = folder / "home"
        self.home.mkdir()

    def _run(self, command: list[str | Path], environ: Mapping[str, str]) -> None:
        done = subprocess.run(command, env=environ, cwd=self.file.parent if hasattr(self, "file") else "/",
                              capture_output=True, text=True, check=False)  # fmt: skip
        assert done.returncode == 0, done.stderr

    def start(self, *words: str, here: Path, program: str = "repros") -> subprocess.CompletedProcess[str]:
        """Run it in a folder, with a home that holds nothing and the environments of cells that are there."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "XDG_"))}
        environ = {**kept, "HOME": str(self.home), "REPROS_CACHE": str(cache_root()), "COLUMNS": "100"}
        command = [str(self.bin / program), *words]
        return subprocess.run(command, env=environ, cwd=here, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Wheel:
    return Wheel(tmp_path_factory.mktemp("wheel"))


def travelling() -> dict[str, bytes]:
    """Return path -> content of what of this checkout travels."""
    tops = [ROOT / name for name in TRAVELS if (ROOT / name).exists()]
    files = [path for top in tops for path in ([top] if top.is_file() else top.rglob("*")) if path.is_file()]
    found = {path.relative_to(ROOT).as_posix(): path.read_bytes() for path in files}
    return {name: data for name, data in found.items() if "__pycache__" not in name}


def test_a_wheel_holds_the_checkout_without_tests_and_evidence(wheel: Wheel) -> None:
    with zipfile.ZipFile(wheel.file) as zipped:
        held = {name: zipped.read(name) for name in zipped.namelist()}
    wanted = {f"repros/root/{name}": data for name, data in travelling().items()}
    wanted["repros/__init__.py"] = (ROOT / "repros" / "__init__.py").read_bytes()
    assert {name: data for name, data in held.items() if ".dist-info/" not in name} == wanted
    for name in ("matrix.yaml", f"fixtures/locks/{CELL}.cpu.txt", "repros/cases/bitsandbytes/gh1995/minimal.py",
                 "repros/templates/comment.md.j2", "repros/report/page/page.css", "repros/redaction/forms.toml",
                 "repros/cases/bitsandbytes/gh1995/story.md", "reports/advisories/bitsandbytes-1995.json"):  # fmt: skip
        assert f"repros/root/{name}" in held
    assert wheel.file.stat().st_size < 5 << 20


def test_an_sdist_has_what_its_wheel_is_made_of(wheel: Wheel) -> None:
    assert wheel.file.read_bytes() == wheel.again.read_bytes()  # the first was made from the sdist
    with tarfile.open(wheel.sdist) as packed:
        names = {name.partition("/")[2] for name in packed.getnames()}
    assert {"noxfile.py", "tests/test_wheel.py", "LICENSE"} <= names
    assert not [name for name in names if name.startswith("reports/") and not name.startswith("reports/advisories/")]


AUDIT = ["audit", "torch==2.13.0", "transformers==5.2.0", "bitsandbytes==0.49.2"]


@pytest.mark.parametrize("words", [["list"], ["show", "gh1995"], ["cells"], AUDIT], ids=" ".join)
def test_it_says_what_the_checkout_says(wheel: Wheel, words: list[str], tmp_path: Path) -> None:
    done = wheel.start(*words, here=tmp_path)
    command = [sys.executable, "-m", "repros", *words]
    ours = subprocess.run(command, cwd=ROOT, env={**os.environ, "COLUMNS": "100"}, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (int(words is AUDIT), ours.stdout), done.stderr
    assert words is not AUDIT or "bitsandbytes#1995" in done.stdout
    assert not list(tmp_path.iterdir())


def test_it_starts_with_an_empty_home_and_writes_nothing_until_it_is_asked(wheel: Wheel, tmp_path: Path) -> None:
    assert wheel.start("--version", here=tmp_path).stdout == f"repros {__version__}\n"
    done = wheel.start("doctor", "--tier", "smoke", here=tmp_path)
    assert done.returncode == 0 and f" {CELL}\n" in done.stdout, done.stderr
    assert "hint: one of: list, " in wheel.start("lits", here=tmp_path).stderr
    assert not list(tmp_path.iterdir()) and not list(wheel.home.iterdir())


def test_sources_have_the_digests_that_they_have_in_the_checkout(wheel: Wheel, tmp_path: Path) -> None:
    from repros.bisect import probe

    done = wheel.start("-c", DIGESTS, here=tmp_path, program="python")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert Path(said["root"]).parts[-2:] == ("repros", "root") and not Path(said["root"]).is_relative_to(ROOT)
    assert said["found"] == {
        e.name: [e.path.relative_to(ROOT).as_posix(), sources.digest(e.module), probe.definition(e.module)]
        for e in cases.find()
    }


def test_a_trial_runs_and_its_results_are_below_the_current_folder(wheel: Wheel, tmp_path: Path) -> None:
    trial = ["gh1995_strided_tensor", "--condition", "every-other-row", "--cell", CELL]
    done = wheel.start("run", *trial, here=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"in {CELL}: absent (as expected)" in done.stdout and "votes good" in done.stdout
    said = next(line.removeprefix("results: ") for line in done.stdout.splitlines() if line.startswith("results: "))
    assert said.startswith("reports/runs/") and (tmp_path / said).is_file()
    assert "every-other-row" in wheel.start("report", here=tmp_path).stdout
    made = wheel.start("bundle", *trial, here=tmp_path)
    assert made.returncode == 0 and made.stdout.startswith("reports/bundles/gh1995_"), made.stderr
    (attached,) = (tmp_path / "reports" / "bundles").glob("*/full.py")
    assert str(tmp_path) not in attached.read_text()


def test_a_script_is_tried_and_sees_nothing_that_is_installed_beside_the_wheel(wheel: Wheel, tmp_path: Path) -> None:
    (tmp_path / "here.py").write_text(
        "import importlib.util, sys, torch\n"
        "print([name for name in ('msgspec', 'orjson') if importlib.util.find_spec(name)], sys.path)\n"
        "sys.exit(1)\n"
    )
    done = wheel.start("try", "here.py", "--cell", CELL, here=tmp_path)
    assert done.returncode == 1 and "what it printed: reports/runs/try-here/logs" in done.stdout, done.stderr
    (log,) = (tmp_path / "reports" / "runs" / "try-here" / "logs").glob(f"{CELL}.out")
    assert log.read_text().startswith("[] ") and str(wheel.bin.parent) not in log.read_text()


REFUSED = (["lock"], ["new", "torch", "1", "a", "--kind", "memory"], ["readme"], ["advisories"])


@pytest.mark.parametrize("words", REFUSED, ids=" ".join)
def test_what_needs_a_checkout_is_refused(wheel: Wheel, words: list[str], tmp_path: Path) -> None:
    done = wheel.start(*words, here=tmp_path)
    assert (done.returncode, done.stderr) == (2, (
        f"{words[0]}: it needs a checkout, and this package is installed from a wheel\n"
        "hint: clone the project and run it there\n"
    ))  # fmt: skip


def test_a_case_file_needs_a_checkout_and_somebody_elses_reports_are_left_alone(wheel: Wheel, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("CASE = 1\n")
    done = wheel.start("run", "mine.py", "--cell", CELL, here=tmp_path)
    assert done.returncode == 2
    assert done.stderr.endswith("cannot import it\nhint: clone the project and put it there, below reports/runs/\n")
    (tmp_path / "reports").mkdir()
    (tmp_path / "reports" / "budget.xlsx").touch()
    for words in (["run", "gh1995"], ["try", "mine.py"], ["bisect", "gh1995", "--package", "bitsandbytes"]):
        done = wheel.start(*words, *(["--cell", CELL] if words[0] != "bisect" else []), here=tmp_path)
        assert done.returncode == 2 and done.stderr == (
            f"{tmp_path}/reports: not a folder of reports: it holds `budget.xlsx` and no `runs`\n"
            "hint: name a new or an empty folder with `--reports`\n"
        ), words  # fmt: skip


def test_an_editable_install_is_the_checkout(tmp_path: Path) -> None:
    uv = Uv.find()
    for words in (["venv", "--python", sys.executable, "env"],
                  ["pip", "install", "--python", "env/bin/python", "--no-deps", "--editable", str(ROOT)]):  # fmt: skip
        subprocess.run([*uv.command, *words], env=uv.environ, cwd=tmp_path, check=True, capture_output=True)
    code = "import repros; print(repros.ROOT, repros.REPORTS, repros.INSTALLED)"
    command = ["env/bin/python", "-I", "-c", code]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == f"{ROOT} {ROOT / 'reports'} False\n"
