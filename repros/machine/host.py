"""What this machine is, found without importing anything under test."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sysconfig
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from repros.errors import UserError
from repros.machine.cards import cards

_AVX512 = ("avx512f", "avx512bw", "avx512vl", "avx512_vnni", "avx512_bf16", "avx512_fp16")
_AMX = ("amx_tile", "amx_int8", "amx_bf16")


@dataclass(frozen=True)
class HostFacts:
    """Facts that a result is kept with. A figure that could not be read is 0 or empty."""

    python: str
    implementation: str
    system: str
    """Such as ``linux-x86_64``."""
    release: str
    libc: str
    cpu_model: str
    cores: int
    """Cores that this process may use, which a container can limit."""
    memory_bytes: int
    """Memory that this process may use: of the machine, or of its control group where smaller."""
    disk_free_bytes: int
    """Free space where environments are kept."""
    cxx: str
    """Path of a C++ compiler, which ``torch.compile`` with inductor needs on a CPU; or empty."""
    gpus: tuple[str, ...]
    """One line a GPU: name, memory and driver, as the driver's tool tells them."""
    gpu_kind: str
    """``cuda``, ``rocm`` or empty."""
    cpu_flags: tuple[str, ...]
    """The AVX-512 and AMX flags among those of the CPU: they choose kernels in bitsandbytes."""

    def as_json(self) -> dict[str, Any]:
        """Return plain values, lists in place of tuples."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}


def probe_host(folder: Path | None = None) -> HostFacts:
    """Read the facts of this host; `folder` is where free disk is asked (default: home).

    Takes some milliseconds, and up to 10 s where a GPU's driver is slow to answer.
    """
    cpuinfo = _first_block(Path("/proc/cpuinfo"))
    kind = gpu_kind()
    return HostFacts(
        python=platform.python_version(),
        implementation=platform.python_implementation(),
        system=sysconfig.get_platform(),
        release=platform.release(),
        libc=" ".join(part for part in platform.libc_ver() if part),
        cpu_model=cpuinfo.get("model name") or platform.processor() or platform.machine(),
        cores=_cores(),
        memory_bytes=_memory_bytes(),
        disk_free_bytes=_disk_free_bytes(folder or Path.home()),
        cxx=_cxx(),
        gpus=_gpu_names(kind),
        gpu_kind=kind,
        cpu_flags=_cpu_flags(cpuinfo),
    )


def gpu_kind() -> str:
    """Say in microseconds whether a GPU is present: ``cuda``, ``rocm`` or empty.

    Device nodes decide: the driver's tools can be installed on a machine that has no GPU.
    """
    if any(Path("/dev").glob("nvidia[0-9]*")):
        return "cuda"
    if Path("/dev/dxg").exists() and shutil.which("nvidia-smi"):
        return "cuda"  # a GPU that Windows lends to its Linux subsystem has no node of its own
    return "rocm" if Path("/dev/kfd").exists() else ""


def without_gpu(cells: Iterable[str]) -> UserError | None:
    """Return the error for cells that need a GPU on a machine that has none, or whose driver gives none; else None."""
    names, kind = list(cells), gpu_kind()
    few = ", ".join(names[:2]) + (f" and {len(names) - 2} more" if len(names) > 2 else "")
    if not kind:
        hint = "run them where a GPU is; here `nox -s cpu` tries the same cases, `--dry-run` lists what would be done"
        return UserError(f"{few}: needs a GPU, this machine has none", hint)
    if kind == "cuda" and not cards():
        hint = "see what `nvidia-smi` says, and whether CUDA_VISIBLE_DEVICES hides the cards"
        return UserError(f"{few}: needs a GPU, `nvidia-smi` lists none that this process may use", hint)
    return None


def _gpu_names(kind: str) -> tuple[str, ...]:
    query = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    command = {"cuda": query, "rocm": ["rocm-smi", "--showproductname"]}.get(kind)
    if command is None:
        return ()
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return (f"present, but `{command[0]}` gives no name",)
    return tuple(line.strip() for line in done.stdout.splitlines() if line.strip())


def _first_block(path: Path) -> Mapping[str, str]:
    """Read ``key: value`` lines up to the first empty one."""
    try:
        block = path.read_text(encoding="utf-8", errors="replace").split("\n\n", 1)[0]
    except OSError:
        return {}
    pairs = (line.partition(":") for line in block.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def _cpu_flags(cpuinfo: Mapping[str, str]) -> tuple[str, ...]:
    flags = set((cpuinfo.get("flags") or cpuinfo.get("Features") or "").split())
    return tuple(flag for flag in (*_AVX512, *_AMX) if flag in flags)


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 0


def _memory_bytes() -> int:
    try:
        machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 0
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii").strip()
    except OSError:
        return machine
    return min(machine, int(limit)) if limit.isdigit() else machine


def _disk_free_bytes(folder: Path) -> int:
    """Ask the nearest parent that exists, as the folder may not have been made yet."""
    for place in (folder, *folder.parents):
        if place.exists():
            return shutil.disk_usage(place).free
    return 0


def _cxx() -> str:
    names = (os.environ.get("CXX", ""), "c++", "g++", "clang++")
    return next((found for name in names if name and (found := shutil.which(name))), "")
