"""Facts of this host, and what they fall back to."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from repros.machine import host
from repros.machine.host import gpu_kind, probe_host


def test_facts_are_plain_and_plausible(tmp_path: Path) -> None:
    facts = probe_host(tmp_path / "not" / "made" / "yet")
    assert json.loads(json.dumps(facts.as_json())) == facts.as_json()
    assert facts.python == sys.version.split()[0]
    assert facts.cores >= 1
    assert facts.cpu_model
    assert facts.memory_bytes > 2**28
    assert facts.disk_free_bytes > 0
    assert bool(facts.gpus) == bool(facts.gpu_kind)


def test_a_gpu_without_its_tool_is_still_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(host, "gpu_kind", lambda: "cuda")
    assert probe_host().gpus == ("present, but `nvidia-smi` gives no name",)


def test_the_tool_without_a_device_is_no_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if any(Path("/dev").glob("nvidia[0-9]*")) or Path("/dev/kfd").exists():
        pytest.skip("this host has a GPU")
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'GPU 0: imaginary'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert gpu_kind() == ""


def test_a_card_that_the_driver_does_not_list_is_no_gpu_to_run_on(
    monkeypatch: pytest.MonkeyPatch, two_cards: None
) -> None:
    monkeypatch.setattr(host, "gpu_kind", lambda: "cuda")
    assert host.without_gpu(["gpu-a"]) is None
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    error = host.without_gpu(["gpu-a", "gpu-b", "gpu-c"])
    assert error is not None
    assert error.what == "gpu-a, gpu-b and 1 more: needs a GPU, `nvidia-smi` lists none that this process may use"
    assert "CUDA_VISIBLE_DEVICES" in error.hint


def test_cpu_flags_are_those_that_choose_kernels(tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("model name\t: A CPU\nflags\t: fpu avx512f avx512_bf16 amx_tile\n\nmodel name: second\n")
    block = host._first_block(cpuinfo)
    assert block["model name"] == "A CPU"
    assert host._cpu_flags(block) == ("avx512f", "avx512_bf16", "amx_tile")
    assert host._first_block(tmp_path / "none") == {}
