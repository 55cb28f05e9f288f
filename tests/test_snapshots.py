"""The allocator's snapshot: kept where it is asked for, and in a bundle still what torch's viewer opens."""

from __future__ import annotations

import base64
import json
import pickle
import pickletools
import re
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from repros import cases
from repros.cases import Entry
from repros.errors import UserError
from repros.meters import snapshot as meter
from repros.meters.cuda import CudaMeters, replay
from repros.redaction.redact import Redactor
from repros.report.attachment import bundle, snapshots
from repros.run import results
from repros.run.trial import Running, Trial
from repros.verdict import Observation
from repros.worker import arm
from tests.commands import errors

KNOWN = {entry.name: entry for entry in cases.find()}
#: What `MemoryViz.js` of pytorch/pytorch reads of a pickle; any other opcode ends the viewer.
READ_BY_THE_VIEWER = (
    "APPENDS BINGET BININT BININT1 BININT2 EMPTY_DICT EMPTY_LIST FRAME LONG1 LONG_BINGET MARK MEMOIZE PROTO SETITEMS "
    "SHORT_BINUNICODE STOP TUPLE2 APPEND NEWFALSE BINPUT BINUNICODE EMPTY_TUPLE NEWTRUE NONE BINFLOAT TUPLE TUPLE1 "
    "TUPLE3 LONG_BINPUT LIST DICT SETITEM"
)
BASE = 0x7F3A_0000_0000


def snapshot(times: int = 1) -> dict[str, Any]:
    """Return a snapshot of one card, made by hand in the form documented at `torch.cuda.memory._snapshot` (2.13).

    One segment of 2 MiB with a block in use and the free rest; its history says how that came to be, ``times`` over.
    Frames are shared between events, as torch's are.
    """
    frames = [
        {"filename": "/home/miravoss/venv/lib/python3.11/site-packages/torch/nn/modules/linear.py", "line": 134,
         "name": "forward"},
        {"filename": "/scratch/violet/train.py", "line": 12, "name": "main"},
    ]  # fmt: skip
    shared = {"stream": 0, "compile_context": "N/A", "user_metadata": "", "pool_id": (0, 0)}

    def event(action: str, size: int, at: int, **place: int) -> dict[str, Any]:
        return {"action": action, **place, "size": size, "time_us": at, "frames": frames, **shared}

    events = [event("segment_alloc", 2 << 20, 1, addr=BASE)]
    for at in range(times):
        events += [
            event("alloc", 1 << 20, 10 * at + 2, addr=BASE),
            event("alloc", 4096, 10 * at + 3, addr=BASE + (1 << 20)),
            event("free_requested", 4096, 10 * at + 4, addr=BASE + (1 << 20)),
            event("free_completed", 4096, 10 * at + 5, addr=BASE + (1 << 20)),
            event("free_requested", 1 << 20, 10 * at + 6, addr=BASE),
            event("free_completed", 1 << 20, 10 * at + 7, addr=BASE),
        ]
    events += [
        event("alloc", 1 << 20, 10 * times + 2, addr=BASE),
        event("oom", 1 << 40, 10 * times + 3, device_free=1 << 30),
        event("snapshot", 0, 10 * times + 4, addr=0),
    ]
    blocks = [
        {"address": BASE, "size": 1 << 20, "requested_size": (1 << 20) - 24, "state": "active_allocated",
         "frames": frames},
        {"address": BASE + (1 << 20), "size": 1 << 20, "requested_size": 0, "state": "inactive", "frames": []},
    ]  # fmt: skip
    segment = {
        "device": 0, "address": BASE, "total_size": 2 << 20, "allocated_size": 1 << 20, "active_size": 1 << 20,
        "requested_size": (1 << 20) - 24, "stream": 0, "segment_type": "large", "segment_pool_id": (0, 0),
        "is_expandable": False, "frames": frames, "blocks": blocks,
    }  # fmt: skip
    settings = {"PYTORCH_CUDA_ALLOC_CONF": "", "max_split_size": -1, "garbage_collection_threshold": 0.0,
                "expandable_segments": False}  # fmt: skip
    return {"segments": [segment], "device_traces": [events, []], "allocator_settings": settings,
            "external_annotations": []}  # fmt: skip


@pytest.fixture
def bundled(tmp_path: Path) -> Path:
    """Return the snapshot in a bundle of a trial on a card, whose run kept one."""
    records = results.load(results.REPORTS / "h200")[0]
    record = bundle.choose(records, KNOWN["gh1935_saved_weight"], None, None, "evidence")
    logs = tmp_path / "run" / "logs"
    logs.mkdir(parents=True)
    stem = f"{record.cell}.{record.case}.{record.condition}.subject"
    meter.keep(snapshot(), logs / f"{stem}.pickle")
    redactor = Redactor.here({"HOME": "/home/miravoss", "USER": "miravoss"}, {})
    made = bundle.make(record, records, KNOWN[record.case], tmp_path / "b", redactor, tmp_path / "run")
    assert f"`logs/{stem}.pickle`" in (made.folder / "comment.md").read_text()
    return made.folder / "logs" / f"{stem}.pickle"


@pytest.mark.parametrize("plot", ["trace_plot", "segment_plot"])
def test_torchs_viewer_makes_a_page_of_the_snapshot_in_a_bundle(plot: str, bundled: Path, tmp_path: Path) -> None:
    target = tmp_path / "viewer.html"
    done = subprocess.run(
        [sys.executable, "-m", "torch.cuda._memory_viz", plot, str(bundled), "-o", str(target)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    text = target.read_text()
    (held,) = re.findall(r'"base64":\s*"([^"]+)"', text)
    assert "MemoryViz.js" in text
    seen = pickle.loads(base64.b64decode(held))
    assert len(seen["device_traces"][0]) == len(snapshot()["device_traces"][0])
    assert not re.search("miravoss|violet|scratch", repr(seen) + text)


def test_a_snapshot_in_a_bundle_has_lost_its_paths_and_nothing_else(bundled: Path) -> None:
    seen, was = pickle.loads(bundled.read_bytes()), snapshot()
    frames = seen["device_traces"][0][0]["frames"]
    assert [frame["filename"] for frame in frames] == ["torch/nn/modules/linear.py", "train.py"]
    names = {
        frame["filename"]: now["filename"] for frame, now in zip(was["segments"][0]["frames"], frames, strict=True)
    }
    text = repr(was)
    for old, new in names.items():
        text = text.replace(old, new)
    assert repr(seen) == text
    assert len({id(event["frames"]) for event in seen["device_traces"][0]}) == 1  # still shared


def test_the_viewer_reads_every_opcode_of_the_file(bundled: Path, tmp_path: Path) -> None:
    meter.keep(snapshot(200), tmp_path / "kept.pickle")
    for path in (bundled, tmp_path / "kept.pickle"):
        used = {opcode.name for opcode, _, _ in pickletools.genops(path.read_bytes())}
        assert used <= set(READ_BY_THE_VIEWER.split())


def test_a_large_snapshot_loses_its_oldest_events_alone(tmp_path: Path) -> None:
    whole, path = snapshot(1000), tmp_path / "s.pickle"
    size = len(pickle.dumps(whole, protocol=meter.PROTOCOL))
    said = meter.keep(whole, path, size // 3)
    kept = pickle.loads(path.read_bytes())
    events = kept["device_traces"][0]
    assert path.stat().st_size == said["bytes"] <= size // 3
    assert size // 3 < 2 * said["bytes"] + 10_000  # no more than needed, to a halving
    assert events == whole["device_traces"][0][-len(events) :]
    assert said == {"file": "s.pickle", "bytes": said["bytes"],
                    "left_out_events": len(whole["device_traces"][0]) - len(events)}  # fmt: skip
    assert kept["segments"] == whole["segments"]
    assert meter.keep(whole, tmp_path / "none.pickle", 100)["file"] == ""
    assert not (tmp_path / "none.pickle").exists()


@pytest.mark.parametrize(("over", "left_out"), [(0, 0), (-1, 1)])
def test_the_bound_of_a_snapshot_is_to_the_byte(over: int, left_out: int, tmp_path: Path) -> None:
    size = len(meter.dumped(snapshot(), 100))
    said = meter.keep(snapshot(), tmp_path / "s.pickle", size + over)
    assert (said["left_out_events"] > 0) == bool(left_out)


def test_an_arm_that_ran_out_of_memory_has_a_history() -> None:
    """Torch gives `oom` the free bytes of the card in place of an address."""
    found = replay(snapshot()["device_traces"][0])
    assert max(allocated for _, allocated, _ in found["timeline"]) == (1 << 20) + 4096
    assert found["timeline"][-1][1:] == (1 << 20, 2 << 20)


def test_the_meters_keep_a_snapshot_where_one_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On torch's functions in name alone: no card is here."""
    stopped: list[Any] = []
    monkeypatch.setattr(torch.cuda.memory, "_snapshot", snapshot)
    monkeypatch.setattr(torch.cuda.memory, "_record_memory_history", stopped.append)
    path = tmp_path / "arm.pickle"
    found = CudaMeters(snapshot=path)._history()
    assert found["snapshot"] == {"file": "arm.pickle", "bytes": path.stat().st_size, "left_out_events": 0}
    assert pickle.loads(path.read_bytes()) == snapshot()
    assert "snapshot" not in CudaMeters()._history()
    assert stopped == [None, None]
    assert json.dumps(found)


def test_the_worker_names_the_file_beside_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Path | None] = []

    def meters_of(device: str, gate: Any, shared: bool = False, snapshot: Path | None = None) -> arm.Meters:
        assert device == "cuda"
        asked.append(snapshot)
        raise RuntimeError("no card here")

    monkeypatch.setattr(arm, "meters_of", meters_of)
    entry = KNOWN["gh1935_saved_weight"]
    condition = next(c.name for c in entry.case.conditions if c.device == "cuda")
    request = {"module": entry.module, "arm": "subject", "condition": condition, "log": "/x/a.b-0.49.2.c.log"}
    for more in ({"snapshot": True}, {"snapshot": False}, {}):
        with pytest.raises(RuntimeError, match="no card here"):
            arm.Driver().run({**request, **more})
    assert asked == [Path("/x/a.b-0.49.2.c.pickle"), None, None]


class Card:
    """A cell for a GPU, or none, that takes requests down and runs nothing."""

    cell = "here"
    versions: Mapping[str, str] = {"torch": "2.13.0"}
    facts: Mapping[str, Any] = {"packages": {}}

    def __init__(self, device: str) -> None:
        self.device = device
        self.asked: list[bool] = []

    def observe(self, request: Any, log: Path, fresh: bool = False, cards: int = 1) -> Observation:
        self.asked.append(request["snapshot"])
        return Observation(arm=request["arm"], state="crashed", reason="no card here")

    def checkpoint(self, recipe: str) -> str:
        raise AssertionError(recipe)


@pytest.mark.parametrize(
    ("device", "wanted", "asks"), [("cuda", True, True), ("cuda", False, False), ("cpu", True, False)]
)
def test_a_snapshot_is_asked_for_on_a_card_alone(
    device: str, wanted: bool, asks: bool, harness: Entry, tmp_path: Path
) -> None:
    card = Card(device)
    with ThreadPoolExecutor(1) as arms:
        Running(Trial(harness, harness.case.conditions[0], "here"), card, arms, tmp_path, {}, wanted).record()
    assert card.asked
    assert set(card.asked) == {asks}


def test_snapshots_without_a_gpu_are_refused_in_two_lines(capsys: pytest.CaptureFixture[str]) -> None:
    said = errors(["run", "gh1935", "--cell", "tf5.2.0-bnb0.49.2", "--snapshots"], capsys)
    assert said.splitlines()[0].endswith("--snapshots: none of these cells is for a GPU: tf5.2.0-bnb0.49.2")


@pytest.mark.parametrize("data", [b"", b"\x80\x04garbage", b"text"])
def test_what_is_no_snapshot_is_said_in_two_lines(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "s.pickle").write_bytes(data)
    with pytest.raises(UserError, match=r"^s\.pickle: not a snapshot \(.*\)\nhint: delete it"):
        snapshots.redacted(tmp_path / "s.pickle", Redactor())
