"""The loader on every checkpoint that Hypothesis makes: bytes right, peak within the formula, bad shards refused."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

from repros.meters.ledger import Ledger
from repros.reference.blockwise import Quantized4bit, quantize_4bit
from repros.reference.checkpoint import CheckpointError, list_entries
from repros.reference.loader import StreamingLoader
from tests.properties.evidence import count, proven
from tests.reference.shards import write_sharded

TYPES = (torch.float32, torch.float16, torch.bfloat16, torch.int64)


@dataclass(frozen=True)
class Made:
    """How a checkpoint is made: by shard, the dtype and size of each tensor, or the name that it is tied to."""

    shards: tuple[tuple[tuple[torch.dtype, int] | int, ...], ...]

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """Return the tensors of each shard; one that is tied has the values of an earlier one of its shard."""
        made: dict[str, dict[str, Tensor]] = {}
        for i, shard in enumerate(self.shards):
            mine = made[f"s{i}.safetensors"] = {}
            for j, what in enumerate(shard):
                if isinstance(what, int):
                    others = list(mine.values())
                    mine[f"t{i}.{j}"] = others[what % len(others)].clone() if others else torch.zeros(0)
                else:
                    dtype, n = what
                    values = torch.arange(n) * (7 * i + j + 1) % 251
                    mine[f"t{i}.{j}"] = values.to(dtype).view(2, -1) if n % 2 == 0 else values.to(dtype)
        return made


tensor_sizes = st.one_of(st.integers(0, 40), st.sampled_from([64, 333, 2048]))
shards = st.lists(st.one_of(st.tuples(st.sampled_from(TYPES), tensor_sizes), st.integers(0, 5)), max_size=5).map(tuple)
checkpoints = st.builds(Made, st.lists(shards, min_size=1, max_size=4).map(tuple))


def keep(name: str, tensor: Tensor) -> Any:
    return tensor.clone()


def halve(name: str, tensor: Tensor) -> Any:
    return tensor.half() if tensor.dtype == torch.float32 else None


def quantize(name: str, tensor: Tensor) -> Any:
    return quantize_4bit(tensor) if tensor.is_floating_point() else tensor.clone()


CONVERSIONS = {"keep": keep, "halve": halve, "quantize": quantize}


def kept_bytes(kept: Any) -> int:
    if isinstance(kept, Quantized4bit):
        return sum(t.nbytes for t in kept.tensors())
    return 0 if kept is None else int(kept.nbytes)


def transient_bytes(convert: Any, tensors: list[Tensor], ledger: Ledger) -> int:
    """Return the most that converting one tensor takes for itself, beyond source and result."""
    most = 0
    for tensor in tensors:
        ledger.peak_live_bytes = before = ledger.live_bytes
        kept = convert("", tensor)
        most = max(most, ledger.peak_live_bytes - before - kept_bytes(kept))
        del kept
    return most


@given(
    made=checkpoints,
    how=st.sampled_from(list(CONVERSIONS)),
    prefetch_bytes=st.one_of(st.integers(0, 3000), st.sampled_from([0, 1, 1 << 20])),
    threads=st.integers(1, 4),
)
@proven
def test_peak_is_final_and_the_sources_that_may_be_alive(
    ledger: Ledger, made: Made, how: str, prefetch_bytes: int, threads: int
) -> None:
    """Peak of storages <= what is kept + max(allowance, largest source) + what one conversion takes for itself.

    Tighter than final + largest + allowance: the source being converted counts against the allowance. Storages are
    those of every thread; a source is allocated by its reader and dropped by the converter.
    """
    tensors = made.tensors()
    everything = {name: t for shard in tensors.values() for name, t in shard.items()}
    largest = max((t.nbytes for t in everything.values()), default=0)
    transient = transient_bytes(CONVERSIONS[how], list(everything.values()), ledger)
    with TemporaryDirectory() as folder:
        write_sharded(Path(folder), tensors)
        loader = StreamingLoader(folder, CONVERSIONS[how], prefetch_bytes=prefetch_bytes, threads=threads)
        ledger.peak_live_bytes = before = ledger.live_bytes
        loaded = loader.load()
        peak = ledger.peak_live_bytes - before
        final = ledger.live_bytes - before
    assert final == sum(map(kept_bytes, loaded.values()))
    assert final <= peak <= final + max(prefetch_bytes, largest) + transient
    assert list(loaded) == [entry.name for entry in loader.entries]
    assert loaded.keys() == everything.keys()
    for name, tensor in everything.items():
        expected = CONVERSIONS[how](name, tensor)
        got = loaded[name]
        if isinstance(expected, Quantized4bit):
            assert all(torch.equal(a, b) for a, b in zip(got.tensors(), expected.tensors(), strict=True))
        elif expected is None:
            assert got is None
        else:
            assert got.dtype == expected.dtype and torch.equal(got, expected)
    count("test_peak_is_final_and_the_sources_that_may_be_alive", f"checkpoints converted by {how}")


@given(
    made=checkpoints,
    which=st.integers(0, 3),
    how=st.sampled_from(["missing", "cut", "longer", "length", "header"]),
    at=st.floats(0, 1, exclude_max=True),
    byte=st.integers(1, 255),
)
@proven
def test_a_bad_shard_is_refused_before_memory_is_spent(
    ledger: Ledger, made: Made, which: int, how: str, at: float, byte: int
) -> None:
    """A shard that is missing, cut anywhere, too long or has another header never gives wrong tensors.

    A byte of the header can be changed to another valid header (a letter of a name, a blank): what is then listed
    still tiles the file exactly, or names tensors that the index does not know.
    """
    name = "test_a_bad_shard_is_refused_before_memory_is_spent"
    tensors = made.tensors()
    with TemporaryDirectory() as folder:
        write_sharded(Path(folder), tensors)
        referenced = [shard for shard, content in tensors.items() if content]
        assume(referenced)  # an empty checkpoint has no shard to spoil
        path = Path(folder) / referenced[which % len(referenced)]
        whole = path.read_bytes()
        length = int.from_bytes(whole[:8], "little")
        place = {"length": int(8 * at), "header": 8 + int(length * at)}.get(how, int(len(whole) * at))
        if how == "missing":
            path.unlink()
        elif how == "cut":
            path.write_bytes(whole[:place])
        elif how == "longer":
            path.write_bytes(whole + bytes(byte))
        else:
            path.write_bytes(whole[:place] + bytes([whole[place] ^ byte]) + whole[place + 1 :])
        before = ledger.peak_live_bytes = ledger.live_bytes
        try:
            loader = StreamingLoader(folder, keep, prefetch_bytes=0)
        except CheckpointError as error:
            assert ledger.peak_live_bytes == before
            what, hint = str(error).split("\n")
            assert what.startswith(str(folder)) and hint.startswith("hint: ")
            count(name, "shards refused")
            return
        assert how == "header", "only a header can be changed to another that is one"
        size = {entry.path: 0 for entry in loader.entries}
        for entry in loader.entries:
            size[entry.path] += entry.nbytes
        assert size[path] == len(whole) - 8 - length
        loader.load()
        count(name, "headers changed to another that is valid")


def test_an_index_names_its_shard(tmp_path: Path) -> None:
    """A control of the property above: an untouched checkpoint is not refused."""
    made = Made((((torch.float32, 4), 0), ((torch.int64, 3),)))
    write_sharded(tmp_path, made.tensors())
    assert [entry.name for entry in list_entries(tmp_path)] == ["t0.0", "t0.1", "t1.0"]
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    index["weight_map"]["t1.0"] = "s0.safetensors"
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=r"`t1\.0` is not in s0\.safetensors"):
        list_entries(tmp_path)
