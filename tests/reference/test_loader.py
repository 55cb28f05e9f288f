"""The streaming loader: every byte right, the sources alive bounded, a bad shard refused early."""

from __future__ import annotations

import io
import json
import threading
import time
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from repros.reference.blockwise import Quantized4bit, quantize_4bit
from repros.reference.checkpoint import CheckpointError, Entry, list_entries
from repros.reference.loader import StreamingLoader
from tests.reference.shards import write_shard, write_sharded


def halves(sizes: list[int]) -> dict[str, Tensor]:
    return {
        f"w{i}": torch.randn(size // 2, generator=torch.Generator().manual_seed(i)).half()
        for i, size in enumerate(sizes)
    }


class Watched(StreamingLoader):
    """Count the bytes of source alive, and hold the first conversion back until readers stall."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.lock = threading.RLock()
        self.alive_bytes = self.peak_bytes = self.reads = 0
        self.held_back = False

    def read(self, entry: Entry) -> Tensor:
        with self.lock:
            self.reads += 1
            self.alive_bytes += entry.nbytes
            self.peak_bytes = max(self.peak_bytes, self.alive_bytes)
        tensor = super().read(entry)
        weakref.finalize(tensor, self.dropped, entry.nbytes)
        return tensor

    def dropped(self, nbytes: int) -> None:
        with self.lock:
            self.alive_bytes -= nbytes

    def convert_one(self, name: str, tensor: Tensor) -> Any:
        if not self.held_back:
            self.held_back = True
            seen = -1
            while seen != self.reads:  # no reader has begun anything for a while
                seen = self.reads
                time.sleep(0.05)
        return super().convert_one(name, tensor)


def total(name: str, tensor: Tensor) -> float:
    return float(tensor.float().sum())


@pytest.mark.parametrize("threads", [1, 3])
def test_every_tensor_arrives_whole_and_in_order(tmp_path: Path, threads: int) -> None:
    shards = {
        "a.safetensors": {
            "matrix": torch.randn(5, 7).bfloat16(),
            "scalar": torch.tensor(3.5),
            "empty": torch.zeros(0, 4),
        },
        "b.safetensors": {"ids": torch.arange(9), "half": torch.randn(3).half()},
    }
    write_sharded(tmp_path, shards)
    loader = StreamingLoader(tmp_path, lambda name, t: t, prefetch_bytes=64, threads=threads)
    loaded = loader.load()
    assert set(loaded) == {name for tensors in shards.values() for name in tensors}
    assert list(loaded)[-2:] == ["ids", "half"]
    for tensors in shards.values():
        for name, tensor in tensors.items():
            assert loaded[name].dtype == tensor.dtype
            assert torch.equal(loaded[name], tensor), name


def test_files_of_the_safetensors_package_are_read(tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors.torch")
    tensors = {"a": torch.randn(3, 5), "b": torch.randn(7).bfloat16(), "c": torch.tensor([True])}
    safetensors.save_file(tensors, tmp_path / "model.safetensors")
    loaded = StreamingLoader(tmp_path, lambda name, t: t, prefetch_bytes=0).load()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in tensors.items())
    assert loaded.keys() == tensors.keys()


def test_quantized_as_it_streams(tmp_path: Path) -> None:
    weights = {f"w{i}": torch.randn(32, 32).bfloat16() for i in range(4)}
    write_shard(tmp_path / "model.safetensors", weights)
    loader = Watched(tmp_path, lambda name, t: quantize_4bit(t), prefetch_bytes=4096)
    loaded = loader.load()
    for name, weight in weights.items():
        assert isinstance(loaded[name], Quantized4bit)
        assert torch.equal(loaded[name].packed, quantize_4bit(weight).packed)
    assert loader.alive_bytes == 0
    assert loader.peak_bytes == 4096


@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize("prefetch_bytes", [0, 1000, 2500, 4000])
def test_sources_alive_are_bounded(tmp_path: Path, threads: int, prefetch_bytes: int) -> None:
    sizes = [1000] * 6 + [3000] + [1000] * 3
    write_shard(tmp_path / "model.safetensors", halves(sizes))
    loader = Watched(tmp_path, total, prefetch_bytes=prefetch_bytes, threads=threads)
    loader.load()
    assert loader.peak_bytes <= max(prefetch_bytes, max(sizes))
    # The bound is used, and is not met by never reading ahead.
    assert loader.peak_bytes >= max(prefetch_bytes // 1000 * 1000, max(sizes))
    assert loader.alive_bytes == 0


def test_without_a_bound_everything_is_read_ahead(tmp_path: Path) -> None:
    """The control: the same watch, with what transformers#44387 reports in place of the bound."""
    write_shard(tmp_path / "model.safetensors", halves([1000] * 10))
    loader = Watched(tmp_path, total, prefetch_bytes=None)
    loader.load()
    assert loader.peak_bytes == 10_000


def test_a_release_that_keeps_sources_is_seen(tmp_path: Path) -> None:
    """The control: what transformers#44728 reports, sources kept past their conversion."""

    class Keeping(Watched):
        def release(self, name: str, tensor: Tensor) -> None:
            kept.append(tensor)

    kept: list[Tensor] = []
    write_shard(tmp_path / "model.safetensors", halves([1000] * 10))
    loader = Keeping(tmp_path, total, prefetch_bytes=1000)
    loader.load()
    assert loader.alive_bytes == loader.peak_bytes == 10_000


def test_a_failed_conversion_stops_the_readers(tmp_path: Path) -> None:
    def fail(name: str, tensor: Tensor) -> None:
        raise ZeroDivisionError(name)

    write_shard(tmp_path / "model.safetensors", halves([1000] * 10))
    threads = threading.active_count()
    loader = Watched(tmp_path, fail, prefetch_bytes=2000, threads=2)
    with pytest.raises(ZeroDivisionError) as caught:
        loader.load()
    assert threading.active_count() == threads
    assert loader.reads <= 3  # what the allowance let in, and no more after the failure
    del caught  # its traceback holds the source that failed
    assert loader.alive_bytes == 0


def test_a_shard_cut_while_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    write_shard(path, halves([1000, 1000]))
    loader = StreamingLoader(tmp_path, total, prefetch_bytes=0, threads=2)
    path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(CheckpointError) as caught:
        loader.load()
    assert str(caught.value) == (
        f"{path}: ended 700 bytes into `w1`, which has 1000\n"
        "hint: leave the shard alone while it is read, or fetch it again"
    )


def test_a_read_may_come_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One call of read gives 2 GiB at most on Linux, and less on a network's file system."""

    read: list[int] = []

    class Pieces(io.FileIO):
        def readinto(self, buffer: Any) -> int:
            read.append(super().readinto(memoryview(buffer)[:300]) or 0)
            return read[-1]

    written = halves([1000, 700])
    write_shard(tmp_path / "model.safetensors", written)
    loader = StreamingLoader(tmp_path, lambda name, t: t, prefetch_bytes=0)
    monkeypatch.setattr(Path, "open", lambda self, *args, **kwargs: Pieces(self))
    pieces = loader.load()
    assert read == [300, 300, 300, 100, 300, 300, 100]
    assert pieces.keys() == written.keys()
    assert all(torch.equal(pieces[name], written[name]) for name in written)


def test_a_name_in_two_shards_is_read_where_the_index_says(tmp_path: Path) -> None:
    write_sharded(tmp_path, {"a.safetensors": {"w": torch.zeros(3)}, "b.safetensors": {"w": torch.ones(3)}})
    index = {"weight_map": {"w": "a.safetensors", "v": "b.safetensors"}}
    write_shard(tmp_path / "b.safetensors", {"w": torch.ones(3), "v": torch.ones(2)})
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    loaded = StreamingLoader(tmp_path, lambda name, t: t, prefetch_bytes=0).load()
    assert loaded["w"].tolist() == [0.0, 0.0, 0.0]
    assert list(loaded) == ["w", "v"]


def corrupt(path: Path, how: str) -> None:
    whole = path.read_bytes()
    length = int.from_bytes(whole[:8], "little")
    header = whole[8 : 8 + length]
    body = whole[8 + length :]

    def put(text: bytes, data: bytes = body) -> None:
        path.write_bytes(len(text).to_bytes(8, "little") + text + data)

    if how == "missing":
        path.unlink()
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "cut header":
        path.write_bytes(whole[: 8 + length // 2])
    elif how == "cut body":
        path.write_bytes(whole[:-1])
    elif how == "trailing bytes":
        path.write_bytes(whole + b"x")
    elif how == "not json":
        put(b"\xff" * length)
    elif how == "a list":
        put(b"[1, 2]")
    elif how == "no offsets":
        put(header.replace(b"data_offsets", b"data_offset"))
    elif how == "unknown dtype":
        put(header.replace(b"F16", b"Q16"))
    elif how == "wrong shape":
        put(header.replace(b"[500]", b"[501]"))
    elif how == "overlap":
        put(header.replace(b"[1000, 2000]", b"[500, 1500]"))
    elif how == "negative":
        put(header.replace(b"[0, 1000]", b"[-1000, 0]"))


PROBLEMS = {
    "missing": "cannot be read: No such file or directory",
    "empty": "truncated or corrupted: a header of 0 bytes in a file of 0",
    "cut header": "truncated or corrupted: a header of",
    "cut body": "truncated or corrupted: 2178 bytes where the header describes 2179",
    "trailing bytes": "truncated or corrupted: 2180 bytes where the header describes 2179",
    "not json": "truncated or corrupted: the header is not JSON",
    "a list": "truncated or corrupted: the header does not describe tensors",
    "no offsets": "truncated or corrupted: the header does not describe tensors",
    "unknown dtype": "truncated or corrupted: the header does not describe tensors",
    "wrong shape": "truncated or corrupted: `w0` does not fit its place in the file",
    "overlap": "truncated or corrupted: `w1` does not fit its place in the file",
    "negative": "truncated or corrupted: the header does not describe tensors",
}


@pytest.mark.parametrize("how", PROBLEMS)
def test_a_bad_shard_is_refused_before_anything_is_read(tmp_path: Path, how: str) -> None:
    write_sharded(tmp_path, {"a.safetensors": {}, "b.safetensors": halves([1000, 1000])})
    shard = tmp_path / "b.safetensors"
    corrupt(shard, how)
    with pytest.raises(CheckpointError) as caught:
        Watched(tmp_path, total, prefetch_bytes=0)
    what, hint = str(caught.value).split("\n")
    assert what.startswith(f"{shard}: {PROBLEMS[how]}")
    assert hint == "hint: fetch or write this shard again"


def test_an_index_that_names_what_is_not_there(tmp_path: Path) -> None:
    write_sharded(tmp_path, {"a.safetensors": halves([4])})
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(index.read_text().replace('"w0"', '"v0"'))
    with pytest.raises(CheckpointError) as caught:
        list_entries(tmp_path)
    assert str(caught.value) == (
        f"{index}: weight_map: `v0` is not in a.safetensors\n"
        "hint: write the checkpoint again; index and shards are of different models"
    )


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{", "is not an index: JSONDecodeError"),
        ('{"metadata": {}}', "is not an index: KeyError('weight_map')"),
        ("[]", "is not an index: TypeError"),
        ('{"weight_map": {"w": 3}}', "weight_map names something other than a file of this folder"),
        ('{"weight_map": {"w": "../a"}}', "weight_map names something other than a file of this folder"),
    ],
)
def test_an_index_that_is_none(tmp_path: Path, text: str, problem: str) -> None:
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(text)
    with pytest.raises(CheckpointError) as caught:
        list_entries(tmp_path)
    what, hint = str(caught.value).split("\n")
    assert what.startswith(f"{index}: {problem}")
    assert hint == "hint: fetch or write the index again"


def test_no_checkpoint_at_all(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError) as caught:
        StreamingLoader(tmp_path, total, prefetch_bytes=0)
    assert str(caught.value) == (
        f"{tmp_path / 'model.safetensors'}: cannot be read: No such file or directory\n"
        "hint: fetch or write this shard again"
    )


@pytest.mark.parametrize("stage", [2, 5, 64, 4096])
def test_a_device_is_filled_stage_by_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: int) -> None:
    """The way to a card, taken here to the host's memory: stages cut an element and do not divide the tensor."""
    written = {"w": torch.randn(7, 9, generator=torch.Generator().manual_seed(1)), "one": torch.tensor(3.0)}
    write_shard(tmp_path / "model.safetensors", written)
    monkeypatch.setattr("repros.reference.loader.STAGE_BYTES", stage)
    loader = StreamingLoader(tmp_path, lambda name, t: t, prefetch_bytes=0)
    assert [entry.name for entry in loader.entries] == list(written)
    for entry in loader.entries:
        found = torch.full(entry.shape, float("nan"), dtype=entry.dtype)
        with entry.path.open("rb", buffering=0) as file:
            file.seek(entry.offset)
            loader._stage(file, entry, found)
        assert torch.equal(found, written[entry.name])
