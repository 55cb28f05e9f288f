"""Read what a safetensors checkpoint holds, from its headers alone.

Format: https://github.com/huggingface/safetensors#format; eight bytes of little-endian header
length, a JSON header, then the tensors' bytes without a gap.  Everything that can be wrong with a
shard is found here, before a byte of its tensors is read.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch

from repros.errors import UserError

INDEX_NAME = "model.safetensors.index.json"
SINGLE_NAME = "model.safetensors"

_HEADER_LIMIT_BYTES = 100_000_000  # what the safetensors package refuses to go beyond
_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


class CheckpointError(UserError):
    """A checkpoint that is missing, cut short or does not say what it holds."""


@dataclass(frozen=True)
class Entry:
    """One tensor of a checkpoint: ``nbytes`` bytes of ``path`` from ``offset`` on."""

    name: str
    path: Path
    dtype: torch.dtype
    shape: tuple[int, ...]
    offset: int
    nbytes: int


def list_entries(checkpoint_dir: Path | str) -> list[Entry]:
    """List every tensor, shard after shard, in the order in which the bytes lie.

    The folder holds either an index and its shards or one file.  Raises CheckpointError for a
    shard that is missing, truncated or corrupted, and for an index that names what is not there.
    """
    folder = Path(checkpoint_dir)
    index_path = folder / INDEX_NAME
    if not index_path.exists():
        return read_header(folder / SINGLE_NAME)
    places = _read_index(index_path)
    entries = [
        entry
        for shard in dict.fromkeys(places.values())
        for entry in read_header(folder / shard)
        if places.get(entry.name) == shard
    ]
    absent = places.keys() - {entry.name for entry in entries}
    if absent:
        name = min(absent)
        raise CheckpointError(
            f"{index_path}: weight_map: `{name}` is not in {places[name]}",
            "write the checkpoint again; index and shards are of different models",
        )
    return entries


def read_tensor(checkpoint_dir: Path | str, name: str) -> torch.Tensor:
    """Return one tensor as the safetensors package reads it; KeyError if there is none of that name."""
    from safetensors import safe_open

    shards = {entry.name: entry.path for entry in list_entries(checkpoint_dir)}
    with safe_open(shards[name], framework="pt") as shard:
        tensor: torch.Tensor = shard.get_tensor(name)
        return tensor


def read_header(path: Path) -> list[Entry]:
    """Return the tensors of one file, by offset; raise CheckpointError if it is not whole."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= min(size - 8, _HEADER_LIMIT_BYTES):
                raise _corrupted(path, f"a header of {length} bytes in a file of {size}")
            header = json.loads(file.read(length))
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}", "fetch or write this shard again") from error
    except ValueError as error:
        raise _corrupted(path, f"the header is not JSON: {error}") from error
    try:
        fields = [(name, value) for name, value in header.items() if name != "__metadata__"]
        entries = [_entry(path, 8 + length, name, value) for name, value in fields]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise _corrupted(path, f"the header does not describe tensors: {error!r}") from error
    entries.sort(key=lambda entry: (entry.offset, entry.nbytes))
    position = 8 + length
    for entry in entries:
        if entry.offset != position or prod(entry.shape) * entry.dtype.itemsize != entry.nbytes:
            raise _corrupted(path, f"`{entry.name}` does not fit its place in the file")
        position += entry.nbytes
    if position != size:
        raise _corrupted(path, f"{size} bytes where the header describes {position}")
    return entries


def _read_index(path: Path) -> dict[str, str]:
    try:
        weight_map = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
        if all(isinstance(shard, str) and Path(shard).name == shard for shard in weight_map.values()):
            return dict(weight_map)
        problem = "weight_map names something other than a file of this folder"
    except OSError as error:
        problem = f"cannot be read: {error.strerror}"
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        problem = f"is not an index: {error!r}"
    raise CheckpointError(f"{path}: {problem}", "fetch or write the index again")


def _entry(path: Path, base: int, name: str, value: dict[str, Any]) -> Entry:
    start, stop = (int(offset) for offset in value["data_offsets"])
    shape = tuple(int(size) for size in value["shape"])
    if min((start, *shape), default=0) < 0 or value["dtype"] not in _DTYPES:
        raise ValueError(f"{name}: {value}")
    return Entry(name, path, _DTYPES[value["dtype"]], shape, base + start, stop - start)


def _corrupted(path: Path, what: str) -> CheckpointError:
    return CheckpointError(f"{path}: truncated or corrupted: {what}", "fetch or write this shard again")
