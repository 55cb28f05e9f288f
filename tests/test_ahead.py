"""What a fork server does ahead of its arms: cases are imported, and are those of the files as they are."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from repros import ROOT, cases
from repros.cases import imports
from repros.cases.sources import own
from repros.machine.processes import ending

ENTRIES = cases.find()


def test_every_case_is_found_by_the_name_of_its_file() -> None:
    assert cases.everyone() == sorted(entry.module for entry in ENTRIES)


def test_a_case_is_imported_ahead_with_all_of_this_project_that_it_uses() -> None:
    module = "repros.cases.bitsandbytes.gh1946.state_dict"
    ahead = imports.ours([module])
    assert {module, "repros.cases.bitsandbytes.gh1946._today", "repros.reference.modules"} <= set(ahead)
    files = {name.replace(".", "/") + ".py" for name in ahead}
    assert files == {path for path in own(module) if path.endswith(".py")}
    assert imports.ours(None) == imports.ours(entry.module for entry in ENTRIES)


def test_a_strangers_case_is_imported_by_its_own_arms_alone() -> None:
    assert imports.ours(["reports.runs.x.hunt_y"]) == ()


def python(code: str, **environment: str) -> str:
    """Return what a new interpreter prints; it must end well."""
    ran = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": "", **environment},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr[-2000:]
    return ran.stdout


@pytest.mark.parametrize("edited", ["", "helper.py", "case.py"])
def test_a_file_that_is_edited_after_it_was_imported_is_imported_anew(tmp_path: Path, edited: str) -> None:
    """Also what took names from it: the case, where its helper was edited."""
    package = tmp_path / "some"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "helper.py").write_text("LIMIT = 1\n")
    (package / "case.py").write_text("from some.helper import LIMIT\nNAME = 'old'\n")
    edits = {"helper.py": "LIMIT = 2\n", "case.py": "from some.helper import LIMIT\nNAME = 'new'\n"}
    code = f"""
import os, sys
sys.path.insert(0, {str(tmp_path)!r})
sys.dont_write_bytecode = True
import some.case, some.helper
from repros.worker import ahead
for name in ("some.case", "some.helper"):
    ahead.note(name)
for name, text in { ({edited: edits[edited]} if edited else {})!r}.items():
    path = os.path.join({str(package)!r}, name)
    before = os.stat(path).st_mtime_ns
    with open(path, "w") as file:
        file.write(text)
    os.utime(path, ns=(before + 10**9, before + 10**9))
ahead.forget_edited()
import some.case
from some import helper
print(some.case.LIMIT, helper.LIMIT, some.case.NAME)
"""
    wanted = {"": "1 1 old", "helper.py": "2 2 old", "case.py": "1 1 new"}
    assert python(code).strip() == wanted[edited]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="threads are counted in /proc")
def test_a_graph_is_compiled_ahead_without_a_thread_and_forks_compile_and_go_backward() -> None:
    """Autograd's threads and a progress bar's could not be forked."""
    code = """
import os, sys
from repros.worker import preload
assert len(os.listdir("/proc/self/task")) == 1
assert "torch._inductor.fx_passes.joint_graph" in sys.modules
import torch
from repros.worker import arm
for _ in range(20):
    pid = os.fork()
    if not pid:
        arm.seed()
        x = torch.ones(4, 4, requires_grad=True)
        torch.compile(lambda x: (x @ x).sin(), backend="aot_eager")(x).sum().backward()
        os._exit(0 if x.grad is not None else 3)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""
    preload = ",".join(("torch", "torch._dynamo", "torch._inductor.compile_fx"))
    ends = [int(line) for line in python(code, REPROS_PRELOAD=preload, OMP_NUM_THREADS="1").split()]
    assert [ending(end) for end in ends if end] == []
    assert len(ends) == 20


def test_where_there_may_be_a_card_no_graph_is_compiled_ahead() -> None:
    """It would look for one, and no fork could use it after that."""
    code = """
import torch
compiled = []
torch.compile = lambda *args, **kwargs: compiled.append(args)
from repros.worker import preload
print(len(compiled))
"""
    preload = ",".join(("torch", "torch._dynamo", "torch._inductor.compile_fx"))
    assert python(code, REPROS_PRELOAD=preload, CUDA_VISIBLE_DEVICES="0").strip() == "0"
    assert python(code, REPROS_PRELOAD=preload).strip() == "1"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="threads are counted in /proc")
def test_operators_and_kernels_are_made_ready_without_a_thread() -> None:
    """What an arm meets for the first time costs it once more: it finds entries and kernels that are there."""
    code = """
import os, sys
from repros.worker import preload
assert len(os.listdir("/proc/self/task")) == 1
from torch._library.simple_registry import SimpleOperatorEntry
entered = []
before = SimpleOperatorEntry.__init__
SimpleOperatorEntry.__init__ = lambda self, name: (entered.append(name), before(self, name))[1]
import torch
from torch.utils._python_dispatch import TorchDispatchMode
class Eye(TorchDispatchMode):
    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        return op(*args, **(kwargs or {}))
with Eye():
    x = torch.ones(4, 4, requires_grad=True)
    torch.nn.functional.cross_entropy((x @ x).t().view(-1, 4), torch.ones(4, dtype=torch.long)).backward()
print([name for name in entered if name.startswith("aten::")], torch.is_grad_enabled())
"""
    assert python(code, REPROS_PRELOAD="torch", OMP_NUM_THREADS="1").strip() == "[] True"
