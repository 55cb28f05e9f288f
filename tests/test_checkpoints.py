"""Checkpoints: what recipes say, what is written, and that nothing half made is ever used."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from repros.errors import UserError
from repros.machine.cache import cache_root
from repros.worker import checkpoints
from repros.worker.checkpoints import Recipe, digest, ensure, recipe_of, recipes, shards, tensors

TINY = Recipe("tiny", "smollm2-135m", "bfloat16", layers=1, vocab=16, shard_bytes=1_500_000)


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> Iterator[Recipe]:
    monkeypatch.setattr(checkpoints, "recipes", lambda: {"tiny": TINY})
    yield TINY


@pytest.mark.parametrize(
    ("model", "dtype", "count", "parameters"),
    [
        ("qwen2.5-7b-instruct", "bfloat16", 339, 7_615_616_512),
        ("opt-350m", "float16", 388, 331_196_416),
        ("smollm2-135m", "bfloat16", 272, 134_515_008),
        ("qwen3-30b-a3b", "bfloat16", 18_867, 30_532_122_624),
    ],
)
def test_a_whole_model_has_the_published_number_of_parameters(
    model: str, dtype: str, count: int, parameters: int
) -> None:
    listed = tensors(Recipe("whole", model, dtype))
    assert len(listed) == count
    assert sum(spec.nbytes for spec in listed) == 2 * parameters


def test_the_model_of_44387_has_four_shards() -> None:
    assert len(shards(recipe_of("qwen2.5-7b"))) == 4


@pytest.mark.parametrize("name", list(recipes()))
def test_shards_hold_every_tensor_once_and_keep_to_their_size(name: str) -> None:
    recipe = recipe_of(name)
    cut = shards(recipe)
    assert [spec for specs in cut for spec in specs] == list(tensors(recipe))
    assert all(len(specs) == 1 or sum(s.nbytes for s in specs) <= recipe.shard_bytes for specs in cut)


def test_the_mixture_of_experts_has_35_billion_parameters_of_which_3_are_active() -> None:
    listed = tensors(Recipe("whole", "qwen3.5-35b-a3b", "bfloat16"))
    everything = sum(spec.nbytes for spec in listed) // 2
    experts = sum(spec.nbytes for spec in listed if ".experts." in spec.name) // 2
    assert 34e9 < everything < 36e9
    assert 2.5e9 < everything - experts + experts * 8 // 256 < 4e9


@pytest.mark.parametrize("name", [name for name, recipe in recipes().items() if recipe.layers])
def test_a_cut_leaves_every_layer_its_shape(name: str) -> None:
    recipe = recipe_of(name)
    whole = {spec.name: spec.shape for spec in tensors(replace(recipe, layers=None, vocab=None, experts=None))}
    cut = [spec for spec in tensors(recipe) if ".layers." in spec.name]
    assert len(cut) >= 5
    counts_experts = ("mlp.gate.weight", "mlp.experts.gate_up_proj", "mlp.experts.down_proj")
    for spec in cut:
        first = 1 if recipe.experts and spec.name.endswith(counts_experts) else 0
        assert spec.shape[first:] == whole[spec.name][first:]


@pytest.mark.parametrize("model", ["qwen2.5-7b-instruct", "opt-350m", "smollm2-135m", "qwen3.5-35b-a3b"])
def test_the_listing_is_the_model_that_transformers_builds(model: str) -> None:
    transformers = pytest.importorskip("transformers")
    import torch

    recipe = Recipe("x", model, "bfloat16", layers=4, vocab=64)
    config = transformers.AutoConfig.for_model(**checkpoints.config_of(recipe))
    with torch.device("meta"):
        built = transformers.AutoModelForCausalLM.from_config(config).state_dict()
    if config.tie_word_embeddings:
        built.pop("lm_head.weight")
    assert {name: tuple(tensor.shape) for name, tensor in built.items()} == {s.name: s.shape for s in tensors(recipe)}


def test_safetensors_reads_what_was_written(tiny: Recipe, tmp_path: Path) -> None:
    import torch
    from safetensors import safe_open

    folder = ensure("tiny", tmp_path)
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    assert len(set(index["weight_map"].values())) == len(shards(tiny)) > 2
    assert index["metadata"]["total_size"] == sum(spec.nbytes for spec in tensors(tiny))
    for spec in tensors(tiny):
        with safe_open(folder / index["weight_map"][spec.name], framework="pt") as shard:
            tensor = shard.get_tensor(spec.name)
        assert (tensor.dtype, tuple(tensor.shape)) == (torch.bfloat16, spec.shape)
        about = 1.0 if "norm" in spec.name else 0.0
        assert abs(tensor.float().mean().item() - about) < 0.01
        assert 0.015 < tensor.float().std().item() < 0.025


def test_the_same_recipe_gives_the_same_bytes_and_another_seed_others(tmp_path: Path) -> None:
    written = []
    for i, recipe in enumerate((TINY, TINY, replace(TINY, seed=1))):
        folder = tmp_path / str(i)
        folder.mkdir()
        checkpoints.write(recipe, folder)
        written.append(b"".join(path.read_bytes() for path in sorted(folder.glob("*.safetensors"))))
    assert written[0] == written[1] != written[2]


def test_the_digest_is_of_what_decides_the_bytes() -> None:
    assert digest(TINY) == digest(replace(TINY, name="other", note="said otherwise"))
    changed = [
        replace(TINY, seed=1), replace(TINY, vocab=17), replace(TINY, dtype="float16"),
        replace(TINY, layers=2), replace(TINY, shard_bytes=1_600_000), replace(TINY, model="opt-350m"),
    ]  # fmt: skip
    assert len({digest(recipe) for recipe in [TINY, *changed]}) == 7


def test_it_is_made_once(tiny: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = ensure("tiny", tmp_path)
    monkeypatch.setattr(checkpoints, "write", None)
    assert ensure("tiny", tmp_path) == folder


def test_a_shard_cut_short_is_written_again(tiny: Recipe, tmp_path: Path) -> None:
    folder = ensure("tiny", tmp_path)
    shard = max(folder.glob("*.safetensors"))
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-1])
    assert ensure("tiny", tmp_path) == folder
    assert shard.read_bytes() == whole


@pytest.mark.parametrize("count", [0, 1, 5, 500])
def test_chunks_drawn_side_by_side_come_in_their_order(count: int) -> None:
    """More of them than the window, of which the first takes longest."""
    began, most = [], 0

    def draw(number: int) -> int:
        began.append(number)
        time.sleep(0.05 if number == 0 else 0)
        return number

    window = 4 * (os.cpu_count() or 1)
    with ThreadPoolExecutor(4) as pool:
        for got, number in enumerate(checkpoints._ahead(pool, (partial(draw, i) for i in range(count)))):
            assert got == number
            most = max(most, len(began) - got)
    assert len(began) == count
    assert most <= window + 1


def test_an_interrupted_writer_leaves_nothing_that_is_used(
    tiny: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ahead = checkpoints._ahead
    written: list[int] = []

    def interrupted(*arguments: Any) -> Iterator[Any]:
        for values in ahead(*arguments):
            if len(written) == 5:
                raise KeyboardInterrupt
            written.append(len(values))
            yield values

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "_ahead", interrupted)
        with pytest.raises(KeyboardInterrupt):
            ensure("tiny", tmp_path)
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]
    # A writer that was killed cannot tidy up: what it left is in the way of nobody.
    staging = tmp_path / f".tiny-{digest(tiny)}.staging"
    staging.mkdir()
    (staging / "config.json").write_text("half")
    assert checkpoints.is_whole(ensure("tiny", tmp_path), tiny)
    assert not staging.exists()


def _ensure(root: Path) -> None:
    checkpoints.recipes = lambda: {"tiny": TINY}  # type: ignore[assignment]
    ensure("tiny", root)


def test_two_processes_at_once_make_one(tiny: Recipe, tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    both = [context.Process(target=_ensure, args=(tmp_path,)) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join(120)
    assert [process.exitcode for process in both] == [0, 0]
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == [f"tiny-{digest(TINY)}"]


def test_no_more_than_a_chunk_is_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(checkpoints, "CHUNK", 1 << 16)
    made = []
    empty = torch.empty

    def watched(n: int, **options: object) -> object:
        made.append(n)
        return empty(n, **options)  # type: ignore[call-overload]

    monkeypatch.setattr(torch, "empty", watched)
    checkpoints.write(TINY, tmp_path)
    assert max(made) == 1 << 16


def test_a_disk_without_room_is_said_before_anything_is_written(
    tiny: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = type("Usage", (), {"free": 1 << 20})()
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    with pytest.raises(UserError) as error:
        ensure("tiny", tmp_path)
    assert str(error.value) == (
        f"{tmp_path}: checkpoint `tiny` needs 0.0 GiB, 0.0 GiB are free\n"
        "hint: make room, or set REPROS_CACHE to a folder on a larger disk"
    )


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ('{"a": {"model": "smollm2-135m"}}', "recipes.json: a: "),
        ('{"a": {"model": "smollm2-135m", "dtype": "bfloat16", "colour": 1}}', "recipes.json: a: "),
        (
            '{"a": {"model": "smollm2-135m", "dtype": "int3"}}',
            "recipes.json: a.dtype: `int3` is not a dtype of a checkpoint",
        ),
        ('{"a": {"model": "nobody", "dtype": "float16"}}', "recipes.json: a.model: there is no models/nobody.json"),
        ('{"a": {"model": "opt-350m", "dtype": "float16", "layers": 0}}', "recipes.json: a.layers: `0` is not a count"),
        ("[]", "{path}: holds no object"),
        ("{", "{path}: "),
    ],
)
def test_a_wrong_recipe_is_named(content: str, says: str, tmp_path: Path) -> None:
    path = tmp_path / "recipes.json"
    path.write_text(content)
    with pytest.raises(UserError) as error:
        recipes(path)
    assert str(error.value).startswith(says.format(path=path))
    assert "\nhint: " in str(error.value)


def test_more_layers_than_the_model_has() -> None:
    says = r"recipes\.json: x\.layers: 31, but smollm2-135m has 30\nhint: keep fewer layers"
    with pytest.raises(UserError, match=says):
        tensors(Recipe("x", "smollm2-135m", "bfloat16", layers=31))


def test_the_command_prints_the_folder_and_two_lines_for_an_unknown_name(tmp_path: Path) -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "repros.worker.checkpoints", *arguments]
        environment = {"REPROS_CACHE": str(tmp_path), "PYTHONPATH": str(Path(checkpoints.__file__).parents[2])}
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    made = run("smollm2-135m-1l")
    assert made.returncode == 0, made.stderr
    assert Path(made.stdout.strip()).parent == tmp_path / "checkpoints"
    unknown = run("gpt-9")
    assert (unknown.returncode, unknown.stdout) == (2, "")
    assert unknown.stderr == (f"there is no checkpoint recipe `gpt-9`\nhint: use one of {', '.join(recipes())}\n")
    assert all(name in run().stdout for name in recipes())


def test_importing_it_needs_the_standard_library_alone() -> None:
    code = (
        "import sys, repros.worker.checkpoints as c; c.tensors(c.recipe_of('qwen2.5-7b'));"
        "assert not {'torch', 'yaml', 'numpy', 'packaging'} & set(sys.modules)"
    )
    root = str(Path(checkpoints.__file__).parents[2])
    subprocess.run([sys.executable, "-S", "-c", code], env={"PYTHONPATH": root}, check=True)


def test_the_place_of_the_cache() -> None:
    assert cache_root({"REPROS_CACHE": "/a", "XDG_CACHE_HOME": "/b"}) == Path("/a")
    assert cache_root({"XDG_CACHE_HOME": "/b"}) == Path("/b/repros")
    for passed_over in ({}, {"XDG_CACHE_HOME": ""}, {"XDG_CACHE_HOME": "b"}):
        assert cache_root(passed_over) == Path.home() / ".cache" / "repros"
