"""bitsandbytes' own tests over the reference: a stand-in for its clone, with tests of ours over the real package."""

from __future__ import annotations

import contextlib
import io
import subprocess
from pathlib import Path
from typing import Any

import pytest

from repros.cells.matrix import load_matrix
from repros.commands import cli
from repros.commands.arguments import MATRIX
from repros.evidence import oracle, peer
from repros.run.schema import Peer, document
from tests.commands import errors

CELL = load_matrix(MATRIX).tier("smoke")[-1]
RELEASE = CELL.pins["bitsandbytes"]
TESTS = """
import pytest
import torch
from bitsandbytes import functional as F
from bitsandbytes.nn import Linear8bitLt


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("kind", ["nf4", "fp4"])
def test_a_weight_comes_back(kind, double):
    weight = torch.randn(64, 128)
    packed, state = F.quantize_4bit(weight, quant_type=kind, compress_statistics=double)
    assert (F.dequantize_4bit(packed, state) - weight).abs().max() < 1.8


def test_rows():
    weight = torch.randn(4, 32)
    codes, scale, _ = F.int8_vectorwise_quant(weight)
    assert (F.int8_vectorwise_dequant(codes, scale) - weight).abs().max() < 0.03


def test_no_kernel():
    assert torch.ones(1) == 1


def test_compiled():
    raise RuntimeError("left out by its name: compile")


@pytest.mark.skip
def test_skipped():
    raise RuntimeError
"""


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a clone at a tag whose tests are these."""
    path = tmp_path_factory.mktemp("clone")
    (path / "tests").mkdir()
    (path / "bitsandbytes").mkdir()
    (path / "bitsandbytes" / "__init__.py").write_text("raise ImportError('the sources, without a library')\n")
    (path / "tests" / "__init__.py").touch()
    (path / "tests" / "test_ops.py").write_text(TESTS)
    who = ("-c", "user.name=n", "-c", "user.email=e@example.org")
    for words in (("init", "-q"), ("add", "."), (*who, "commit", "-q", "-m", "a"), ("tag", RELEASE)):
        subprocess.run(["git", "-C", str(path), *words], check=True)
    return path


@pytest.fixture(scope="module")
def found(clone: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    out = tmp_path_factory.mktemp("found") / f"peer-{RELEASE}-cpu.json"
    with contextlib.redirect_stdout(io.StringIO()) as said:
        code = cli.main(["peer", "--repo", str(clone), "--file", "ops", "--cell", CELL.name, "--out", str(out)])
    assert code == 0, said.getvalue()
    assert "with every scale spoiled 5 of 6 fail" in said.getvalue()
    return document(out, Peer, "")


def test_tests_end_alike_over_the_reference_which_was_reached(found: dict[str, Any]) -> None:
    assert found["outcomes"] == {"passed, passed": 6, "skipped, skipped": 1}
    assert found["differ"] == []
    assert found["calls"]["quantize_4bit"] == found["calls"]["dequantize_4bit"] == 4
    assert found["calls"]["int8_vectorwise_quant"] == found["calls"]["int8_vectorwise_dequant"] == 1
    assert found["packages"]["bitsandbytes"] == found["release"] == RELEASE


def test_a_reference_that_is_spoiled_is_noticed_where_it_is_used(found: dict[str, Any]) -> None:
    assert found["spoiled"] == {"tests": 6, "failed": 5}


def test_the_line_of_the_readme(found: dict[str, Any]) -> None:
    (line,) = oracle.by_peer(found)
    assert "6 pass over its kernels and over the reference" in line
    assert "(10 calls reached it), 1 end alike in another way, 0 differ" in line


def test_what_differs_is_named_and_is_no_success(found: dict[str, Any]) -> None:
    other = {"test": "tests/test_ops.py::test_rows", "installed": "passed", "reference": "failed"}
    differs = {**found, "differ": [other]}
    assert peer.holds(found)
    assert not peer.holds(differs)
    assert not peer.holds({**found, "calls": {}}), "a reference that was not reached proves nothing"
    assert not peer.holds({**found, "spoiled": {"tests": 6, "failed": 0}})
    assert "test_rows: passed over its kernels, failed over the reference" in oracle.by_peer(differs)[1]


def test_bad_input_is_two_lines(clone: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def refused(repo: Path, *words: str) -> str:
        return errors(["peer", "--repo", str(repo), *words], capsys)

    assert "not a git repository" in refused(tmp_path)
    other = next(cell.name for cell in load_matrix(MATRIX).tier("cpu") if cell.pins["bitsandbytes"] != RELEASE)
    assert f"the tests are of {RELEASE}" in refused(clone, "--cell", other)
    assert "no test ran: " in refused(clone, "--cell", CELL.name, "--file", "autograd")
    copy = tmp_path / "copy"
    subprocess.run(["git", "clone", "-q", str(clone), str(copy)], check=True)
    (copy / "tests" / "test_ops.py").write_text("")
    assert f"its tests are not those of {RELEASE}" in refused(copy)
    subprocess.run(["git", "-C", str(copy), "checkout", "-q", "."], check=True)
    subprocess.run(["git", "-C", str(copy), "tag", "-d", RELEASE], check=True, capture_output=True)
    assert "has no tag" in refused(copy)
