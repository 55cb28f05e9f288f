"""A plain script in the cell's interpreter, unchanged: what is seen of it from outside, written beside it.

Two processes: one that waits, and its child, which is the script; a script that kills its parent kills only that one.
The child has what `python SCRIPT` has (``__main__``, ``sys.argv``, ``sys.path``), prints what it prints and ends as it
ends. Nothing of torch is imported for it. What is written lies in a folder that the script is not told of; where it
ends without a word (`os._exit`, a signal) there are no figures, and the exit code is still the kernel's.

The second run is under the ledger and the saved-tensor hooks, which see every operator and cost it time.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import json
import os
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any

from repros.worker.arm import SEED, describe, end_with_parent, limit_memory

SEEN, ENDED = "seen.json", "ended.json"


def main() -> None:
    """Run the script that a request describes: ``python -c … ROOT REPORT``."""
    root, report = sys.argv[1], Path(sys.argv[2])
    request = json.loads((report / "request.json").read_text(encoding="utf-8"))
    sys.path.remove(root)
    end_with_parent()
    child = os.fork()
    if child:
        _, status, usage = os.wait4(child, 0)
        ended = {"exit": os.waitstatus_to_exitcode(status), "peak_rss_bytes": usage.ru_maxrss * 1024}
        _write(report / ENDED, ended)
        os._exit(0)
    end_with_parent()
    _run(request, report, root)


def _write(path: Path, found: Mapping[str, Any]) -> None:
    """Write a file so that a reader sees all of it or nothing."""
    part = path.with_suffix(".part")
    part.write_text(json.dumps(found), encoding="utf-8")
    part.rename(path)


def _run(request: Mapping[str, Any], report: Path, root: str) -> None:
    """Run the script as `__main__`; end as it ends."""
    limit_memory(request["memory_bytes"])
    random.seed(SEED)
    sys.meta_path.insert(0, _SeedsNumpy())
    path = request["script"]
    source = Path(path).read_bytes()
    module = ModuleType("__main__")
    module.__file__, module.__builtins__ = path, __builtins__  # type: ignore[attr-defined]
    module.__loader__ = importlib.machinery.SourceFileLoader("__main__", path)
    under = _metered(root) if request["metered"] else contextlib.nullcontext(dict[str, Any]())
    with under as figures:
        sys.argv, sys.path[:0] = [path, *request["args"]], [str(Path(path).parent)]
        sys.modules["__main__"] = module
        me, began = os.getpid(), time.monotonic()
        exception: dict[str, Any] | None = None
        try:
            exec(compile(source, path, "exec", dont_inherit=True), module.__dict__)  # noqa: S102 - what it is for
        except SystemExit:
            raise
        except BaseException as error:  # noqa: BLE001 - whatever ends a script is what was seen of it
            exception = describe(error, "")
            trace = error.__traceback__.tb_next if error.__traceback__ else None
            _say(error, trace)
            sys.exit(1)
        finally:
            if os.getpid() == me:  # a fork of the script's may come here too
                figures["seconds"] = time.monotonic() - began
                _note(report, figures, exception)


def _say(error: BaseException, trace: TracebackType | None) -> None:
    """Print an uncaught exception as the interpreter does, from the script's own first frame on."""
    sys.excepthook(type(error), error.with_traceback(trace), trace)


def _note(report: Path, figures: dict[str, Any], exception: Mapping[str, Any] | None) -> None:
    read = figures.pop("read", None)
    if read is not None:
        figures.update(read())
    torch = sys.modules.get("torch")
    with contextlib.suppress(Exception):  # it may have been imported in part
        if torch is not None and torch.cuda.is_initialized():
            stats = [torch.cuda.memory_stats(card) for card in range(torch.cuda.device_count())]
            for name in ("allocated", "reserved"):
                figures[f"cuda_peak_{name}_bytes"] = sum(s.get(f"{name}_bytes.all.peak", 0) for s in stats)
    _write(report / SEEN, {"exception": exception, "figures": figures, "torch": torch is not None})


@contextlib.contextmanager
def _metered(root: str) -> Iterator[dict[str, Any]]:
    """Count storages and what is saved for backward; ``read`` of what is yielded gives the figures."""
    sys.path.insert(0, root)
    meters = {name: importlib.import_module(f"repros.meters.{name}") for name in ("ledger", "saved", "heap")}
    sys.path.remove(root)

    class Ledger(meters["ledger"].Ledger):  # type: ignore[misc]
        """A ledger that keeps the whole of its peak, by dtype."""

        by_dtype: Mapping[str, int] = {}

        def _keep_peak(self) -> None:
            self.by_dtype = by_dtype(self.alive())
            super()._keep_peak()

    ledger = Ledger(heap=meters["heap"].open_heap())
    saved = meters["saved"].SavedTensors(ledger)

    def read() -> dict[str, float]:
        gc.collect()
        ledger.read_heap()
        ledger.close()
        found = {
            "peak_live_bytes": ledger.peak_live_bytes,
            "live_end_bytes": ledger.live_bytes,
            "saved_bytes": saved.saved_bytes,
            "peak_heap_bytes": ledger.peak_heap_bytes,
        }
        kinds = {"peak_live_bytes": ledger.by_dtype, "live_end_bytes": by_dtype(ledger.alive())}
        return found | {f"{name}.{dtype}": n for name, table in kinds.items() for dtype, n in table.items()}

    with ledger.open(), saved.open():
        ledger.start()
        ledger.enter("script")
        yield {"read": read}


def by_dtype(storages: Sequence[Any]) -> dict[str, int]:
    """Return dtype -> bytes of storages."""
    found: Counter[str] = Counter()
    for storage in storages:
        found[str(storage.dtype).removeprefix("torch.")] += storage.nbytes
    return dict(found)


class _SeedsNumpy(importlib.abc.MetaPathFinder):
    """Seeds numpy's generator as it is imported; torch's has a fixed seed of its own."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Find `numpy.random` as everybody does, and seed it once it stands."""
        if name != "numpy.random":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            stands: Callable[[ModuleType], None] = spec.loader.exec_module

            def exec_module(module: ModuleType) -> None:
                stands(module)
                module.seed(SEED)

            spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec
