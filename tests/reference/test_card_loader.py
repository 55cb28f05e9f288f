"""The loader for cards, taken to the host's memory and to none at all: the same bits, and little beside the result.

A card's own allocator is tried by tests/benchmarks/reserve_on_card.py.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from repros.cases.transformers.gh44387._planted import read_everything_first
from repros.cases.transformers.gh44728._shared import keep_every
from repros.meters.ledger import Ledger
from repros.reference.checkpoint import CheckpointError, Entry
from repros.reference.converter import ALIGNMENT, Converter, Form, lay_out
from repros.reference.loader import CardLoader, StreamingLoader
from repros.worker.checkpoints import recipe_of, tensors
from repros.worker.sizes import is_quantized, sizes
from tests.reference.shards import write_shard, write_sharded

MIB = 1 << 20
PART = 256


def quantizes(name: str, shape: tuple[int, ...]) -> bool:
    return name.endswith("proj")


def made(scheme: str = "nf4", dtype: torch.dtype = torch.bfloat16) -> Converter:
    return Converter(scheme, dtype, quantizes, copy=False)


def randn(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def on_card(folder: Path, convert: Converter, **options: Any) -> CardLoader:
    """Return a loader whose card is the host, or what ``device`` says, with parts far smaller than the tensors."""
    loader = CardLoader(folder, convert, **{"prefetch_bytes": 2 * 2 * PART, "threads": 3, **options})
    loader.part_elements = PART
    return loader


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Return whether two loads kept the same bits, in the same forms and order."""
    pairs = [
        (a, b)
        for mine, theirs in zip(one.values(), other.values(), strict=True)
        for a, b in (zip(mine, theirs, strict=True) if isinstance(mine, tuple) else [(mine, theirs)])
    ]
    return list(one) == list(other) and all(
        a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b) if isinstance(a, Tensor) else a == b
        for a, b in pairs
    )


SHARDS = {
    "a.safetensors": {
        "embed": randn(33, 40).bfloat16(),
        "q_proj": randn(64, 40).bfloat16(),
        "odd_proj": randn(37, 9).bfloat16(),  # neither parts nor blocks divide it, and its elements are odd in number
        "wide_proj": randn(3, 3 * PART).bfloat16(),  # a row is more than a part
        "one_proj": randn(1, 1).bfloat16(),
    },
    "b.safetensors": {
        "half_proj": randn(20, 64).half(),
        "float_proj": randn(20, 64),
        "no_rows_proj": torch.zeros(0, 4).bfloat16(),
        "no_columns_proj": torch.zeros(4, 0).bfloat16(),
        "norm": randn(1000),
        "ids": torch.arange(9),
        "scalar": torch.tensor(3.5),
        "empty": torch.zeros(0, 4),
    },
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_sharded(tmp_path, SHARDS)
    return tmp_path


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("scheme", ["nf4", "int8"])
@pytest.mark.parametrize(("threads", "prefetch_bytes"), [(1, 0), (3, 1 << 14), (2, None)])
def test_both_loaders_keep_the_same_bits(
    folder: Path, scheme: str, dtype: torch.dtype, threads: int, prefetch_bytes: int | None
) -> None:
    whole = StreamingLoader(folder, made(scheme, dtype), prefetch_bytes=0).load()
    loader = on_card(folder, made(scheme, dtype), threads=threads, prefetch_bytes=prefetch_bytes)
    assert len(loader._parts()) > 20
    loaded = loader.load()
    assert len(loaded) == 13
    assert same(loaded, whole)


def test_another_bit_would_be_seen(folder: Path) -> None:
    """The control of the comparison above."""
    one, other = (on_card(folder, made()).load() for _ in range(2))
    assert same(one, other)
    other["odd_proj"][0][-1] ^= 1
    assert not same(one, other)


class OnDevice(TorchDispatchMode):
    """Count bytes of storages of the meta device that this thread makes, as a card's memory.

    ``mixed``: the operators that were given tensors of it and of the host, which on a card would fail; copies may be.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live_bytes = self.peak_bytes = 0
        self.mixed: list[str] = []
        self._known: set[int] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        out = func(*args, **(kwargs or {}))
        devices = {one.device.type for one in tree_leaves((args, kwargs)) if isinstance(one, Tensor)}
        if len(devices) > 1 and func.name() != "aten::copy_":
            self.mixed.append(func.name())
        for tensor in out if isinstance(out, (tuple, list)) else (out,):
            storage = tensor.untyped_storage() if isinstance(tensor, Tensor) else None
            if storage is not None and storage.device.type == "meta" and storage._cdata not in self._known:
                self._known.add(storage._cdata)
                self.live_bytes += storage.nbytes()
                self.peak_bytes = max(self.peak_bytes, self.live_bytes)
                weakref.finalize(storage, self._dropped, storage._cdata, storage.nbytes())
        return out

    def _dropped(self, known: int, nbytes: int) -> None:
        self._known.discard(known)
        self.live_bytes -= nbytes


@pytest.mark.parametrize("scheme", ["nf4", "int8"])
def test_nothing_that_is_computed_on_the_card_lies_on_the_host(folder: Path, scheme: str) -> None:
    with OnDevice() as device:
        loaded = on_card(folder, made(scheme, torch.float16), device="meta").load()
    assert device.peak_bytes and not device.mixed
    whole = StreamingLoader(folder, made(scheme, torch.float16), prefetch_bytes=0).load()
    for name, kept in loaded.items():
        theirs = whole[name] if isinstance(kept, tuple) else (whole[name],)
        for mine, other in zip(kept[:2] if isinstance(kept, tuple) else (kept,), theirs, strict=False):
            assert (mine.device.type, mine.shape, mine.dtype) == ("meta", other.shape, other.dtype), name


def test_a_part_is_read_into_memory_of_the_host(folder: Path) -> None:
    loader = on_card(folder, made(), device="meta")
    for part in loader._parts():
        buffer = loader._read_part(part)
        assert buffer.device.type == "cpu"
        source = SHARDS["a.safetensors"].get(part.entry.name, SHARDS["b.safetensors"].get(part.entry.name))
        assert source is not None
        assert torch.equal(part.of(buffer), source.view(-1)[part.start : part.stop])


class Slow(Converter):
    """Begin with the first part only when the readers have read all that they may."""

    waited = False

    def write(self, *args: Any) -> None:
        if not self.waited:
            self.waited = True
            time.sleep(0.3)
        super().write(*args)


@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize(("buffers", "prefetch_bytes"), [(1, 0), (2, 4 * PART), (3, 6 * PART + 1), (17, None)])
def test_the_allowance_bounds_memory_of_the_host(
    tmp_path: Path, threads: int, buffers: int, prefetch_bytes: int | None
) -> None:
    """A buffer has 2 * PART bytes. One that was made is in the pool at the end; without a bound there is one a part."""
    write_shard(tmp_path / "model.safetensors", {"q_proj": randn(16, PART).bfloat16(), "norm": randn(4, 1).bfloat16()})
    convert = Slow("nf4", torch.bfloat16, quantizes, copy=False)
    loader = on_card(tmp_path, convert, threads=threads, prefetch_bytes=prefetch_bytes)
    assert [part.nbytes for part in loader._parts()] == 17 * [2 * PART]
    loader.load()
    pool = [loader._buffers.get() for _ in range(loader._buffers.qsize())]
    assert len(pool) == buffers
    assert {buffer.nbytes for buffer, _ in pool} == {2 * PART}


@pytest.fixture
def ledger() -> Iterator[Ledger]:
    found = Ledger()
    with found.open():
        found.start()
        found.enter("load")
        yield found


@pytest.mark.parametrize("scheme", ["nf4", "int8"])
def test_beside_what_is_kept_there_is_a_part_and_what_its_quantization_takes(
    tmp_path: Path, ledger: Ledger, scheme: str
) -> None:
    """Bytes of every thread, the host's buffers among them: here both are one memory. The sources have 1 MiB each."""
    sources = {f"{i}_{kind}": randn(512, 1024 + i).bfloat16() for i, kind in enumerate(4 * ["embed", "proj"])}
    write_shard(tmp_path / "model.safetensors", sources)
    above = {}
    for kind in (CardLoader, StreamingLoader):
        loader = kind(tmp_path, made(scheme), prefetch_bytes=1 << 17, threads=2)
        if isinstance(loader, CardLoader):
            loader.part_elements = 1 << 13
        ledger.peak_live_bytes = before = ledger.live_bytes
        loaded = loader.load()
        above[kind] = ledger.peak_live_bytes - before - kept_bytes(loaded)
        del loader, loaded
    # 15 bytes an element: a part in float32, once more as it is scaled, ranks in 32 bits or codes, a cast.
    assert above[CardLoader] <= (1 << 17) + 15 * (1 << 13) + 2 * ALIGNMENT * len(sources)
    assert above[StreamingLoader] > MIB


@pytest.mark.parametrize("scheme", ["nf4", "int8"])
def test_on_the_device_alone_there_are_thirteen_bytes_an_element_of_a_part(tmp_path: Path, scheme: str) -> None:
    """Part, float32 of it twice, in place of one of them ranks, then codes, and what is made of them.

    All but the first and the last are of a chunk, which a part has two of: some 60 MiB for 8 million elements.
    """
    sources = {f"{i}_{kind}": randn(512, 1024).bfloat16() for i, kind in enumerate(2 * ["embed", "proj"])}
    write_shard(tmp_path / "model.safetensors", sources)
    loader = on_card(tmp_path, made(scheme), device="meta")
    loader.part_elements = 1 << 16
    with OnDevice() as device:
        loaded = loader.load()
    assert 0 <= device.live_bytes - kept_bytes(loaded) < 4096  # and NF4's table
    assert 8 * (1 << 16) < device.peak_bytes - device.live_bytes <= 13 * (1 << 16)


def test_a_source_that_a_planted_bug_reads_is_whole_on_the_device(folder: Path) -> None:
    loader = on_card(folder, made(), device="meta")
    with OnDevice() as device:
        sources = {entry: loader.read(entry) for entry in loader.entries}
    assert device.live_bytes == sum(entry.nbytes for entry in sources)
    assert all(source.shape == entry.shape for entry, source in sources.items())


def kept_bytes(loaded: dict[str, Any]) -> int:
    return sum(one.nbytes for kept in loaded.values() for one in (kept[:2] if isinstance(kept, tuple) else (kept,)))


@pytest.mark.parametrize("scheme", ["nf4", "int8"])
def test_what_a_7b_model_has_reserved_is_its_sizes_and_three_hundredths(scheme: str) -> None:
    """One buffer, in a step of 2 MiB. A part has a segment of 16 MiB, float32 of a chunk twice as much; the rest is
    in two segments of 20 MiB and two small ones: a simulation of the allocator came to these.
    """
    convert, specs = Converter(scheme, torch.bfloat16, is_quantized, copy=False), tensors(recipe_of("qwen2.5-7b"))
    meta = torch.device("meta")
    laid = lay_out({spec.name: (meta, convert.forms(spec.name, spec.shape)) for spec in specs})
    assert len({one.untyped_storage()._cdata for several in laid.values() for one in several}) == 1
    held = laid["lm_head.weight"][0].untyped_storage().nbytes()
    model = sizes("qwen2.5-7b")
    wanted = model.staying + getattr(model, scheme)
    assert wanted <= held <= wanted + 2 * ALIGNMENT * model.tensors
    assert held + (2 + 3 * 16 + 2 * 20 + 2 * 2) * MIB <= 1.03 * held


def test_tensors_that_are_laid_out_do_not_touch() -> None:
    cpu = torch.device("cpu")
    forms: dict[str, tuple[torch.device, list[Form]]] = {
        "a": (cpu, [((3,), torch.uint8), ((2, 5), torch.float32)]),
        "b": (torch.device("meta"), [((7,), torch.int8)]),
        "none": (cpu, [((0, 4), torch.int64)]),
        "c": (cpu, [((), torch.bfloat16)]),
    }
    laid = lay_out(forms)
    assert {name: [(tuple(one.shape), one.dtype) for one in several] for name, several in laid.items()} == {
        name: several for name, (_, several) in forms.items()
    }
    assert laid["b"][0].device.type == "meta"
    on_host = [one for name in "ac" for one in laid[name]]
    assert [one.data_ptr() - on_host[0].data_ptr() for one in on_host] == [0, ALIGNMENT, 2 * ALIGNMENT]
    for i, one in enumerate(on_host, 1):
        one.fill_(i)
    assert [one.unique().tolist() for one in on_host] == [[1], [2], [3]]


def test_a_planted_bug_that_reads_everything_first_has_whole_sources(folder: Path) -> None:
    whole = StreamingLoader(folder, made(), prefetch_bytes=0).load()
    loader, seen = on_card(folder, made()), []

    class Seen(Converter):
        def __call__(self, name: str, source: Tensor) -> Any:
            seen.append((name, tuple(source.shape)))
            return super().__call__(name, source)

    loader.convert = Seen("nf4", torch.bfloat16, quantizes, copy=False)
    assert same(read_everything_first(loader), whole)
    assert seen == [(entry.name, entry.shape) for entry in loader.entries]
    assert not loader._buffers.qsize()


def test_a_planted_bug_that_keeps_sources_keeps_whole_ones(folder: Path) -> None:
    class Proj(CardLoader):
        device_asked = 0

        def device_of(self, entry: Entry) -> torch.device:
            self.device_asked += 1
            return super().device_of(entry)

    loader = Proj(folder, Converter("nf4", torch.bfloat16, is_quantized, copy=False), prefetch_bytes=1 << 12)
    kept = keep_every(1, loader)["kept"]
    assert loader.device_asked == 13  # once a source: what is read lies where it says
    shapes = [entry.shape for entry in loader.entries if is_quantized(entry.name, entry.shape)]
    assert [tuple(source.shape) for source in kept] == shapes


@pytest.mark.parametrize("step", ["read", "convert_one", "release"])
def test_a_step_that_is_overridden_is_shown_every_whole_source(folder: Path, step: str) -> None:
    seen: list[Any] = []

    def override(self: CardLoader, *args: Any) -> Any:
        seen.append(args[-1])
        return getattr(StreamingLoader, step)(self, *args)

    kind = type("Overridden", (CardLoader,), {step: override})
    kind(folder, made(), prefetch_bytes=0).load()
    entries = CardLoader(folder, made(), prefetch_bytes=0).entries
    assert [tuple(one.shape) for one in seen] == [entry.shape for entry in entries]


def test_tensors_lie_on_the_devices_that_are_asked_for(folder: Path) -> None:
    """As two cards share a model: what a device has is in one buffer, and parts go where their tensor lies."""
    loader = on_card(folder, made(), device="meta")
    cpu = torch.device("cpu")
    loader.device_of = lambda entry: cpu if entry.name < "h" else loader.device  # type: ignore[method-assign]
    loaded, whole = loader.load(), StreamingLoader(folder, made(), prefetch_bytes=0).load()
    on_cpu = {name: kept for name, kept in loaded.items() if name < "h"}
    assert same(on_cpu, {name: whole[name] for name in on_cpu})
    firsts = {name: kept[0] if isinstance(kept, tuple) else kept for name, kept in loaded.items()}
    assert {name for name, kept in firsts.items() if kept.device.type == "meta"} == loaded.keys() - on_cpu.keys()


def test_a_failed_part_stops_the_readers(folder: Path) -> None:
    class Failing(Converter):
        def write(self, name: str, *args: Any) -> None:
            raise ZeroDivisionError(name)

    threads = threading.active_count()
    with pytest.raises(ZeroDivisionError, match="embed"):
        on_card(folder, Failing("nf4", torch.bfloat16, quantizes, copy=False)).load()
    assert threading.active_count() == threads


def test_a_shard_cut_while_its_parts_are_read(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    write_shard(path, {"w0": randn(500).half(), "w1": randn(500).half()})
    loader = on_card(tmp_path, made(), threads=2)
    path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(CheckpointError) as caught:
        loader.load()
    assert str(caught.value) == (
        f"{path}: ended 700 bytes into `w1`, which has 1000\n"
        "hint: leave the shard alone while it is read, or fetch it again"
    )


def test_int8_refuses_what_has_no_rows_as_it_does_with_a_whole_source(tmp_path: Path) -> None:
    write_shard(tmp_path / "model.safetensors", {"experts_proj": randn(2, 3, 4).bfloat16()})
    said = []
    for loader in (on_card(tmp_path, made("int8")), StreamingLoader(tmp_path, made("int8"), prefetch_bytes=0)):
        with pytest.raises(Exception, match="has no rows to scale") as caught:
            loader.load()
        said.append(str(caught.value))
    assert len(said) == 2
