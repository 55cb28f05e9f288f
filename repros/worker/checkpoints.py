"""Checkpoints with the shapes of real models and random weights, made once and kept.

A recipe (``fixtures/recipes.json``) names a real configuration (``fixtures/models/``) and says
what is cut from it: layers, vocabulary and experts, never the shape of one. ``ensure`` turns it into a
folder that ``from_pretrained`` loads: ``config.json``, safetensors shards and their index.

The folder is written to a staging place and renamed, under a lock, in the cache; its name carries
a digest of everything that decides its bytes. A shard is written as a stream: some chunks
are in memory, four a core.

Importing this needs the standard library alone; torch is imported where weights are made, so it
runs in a cell's interpreter: ``python -m repros.worker.checkpoints NAME`` prints the folder.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import cache, partial
from math import prod
from pathlib import Path
from typing import Any

from repros import ROOT
from repros.case import ITEMSIZE
from repros.errors import UserError
from repros.machine.cache import cache_root, locked

FIXTURES = ROOT / "fixtures"

#: Raised when the same recipe would give other bytes.
FORMAT = 1

#: Elements made at a time. A tensor's values depend on it.
CHUNK = 1 << 22

SAFETENSORS_DTYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}


@dataclass(frozen=True)
class Recipe:
    """How a checkpoint is made; ``layers``, ``vocab`` and ``experts`` are None where the model is whole."""

    name: str
    model: str
    dtype: str
    layers: int | None = None
    vocab: int | None = None
    experts: int | None = None
    shard_bytes: int = 5_000_000_000
    seed: int = 0
    note: str = ""


@dataclass(frozen=True)
class Spec:
    """One tensor of a checkpoint: what it is called and its shape and dtype."""

    name: str
    shape: tuple[int, ...]
    dtype: str

    @property
    def nbytes(self) -> int:
        """Return the tensor's size, which is its part of a shard."""
        return prod(self.shape) * ITEMSIZE[self.dtype]


@cache
def recipes(path: Path = FIXTURES / "recipes.json") -> Mapping[str, Recipe]:
    """Read every recipe; raise UserError naming the file and the key of one that is wrong."""
    table = _read_json(path)
    found = {}
    for name, fields in table.items():
        try:
            found[name] = recipe = Recipe(name=name, **fields)
        except TypeError as error:
            keys = ", ".join(Recipe.__dataclass_fields__)
            raise UserError(f"{path.name}: {name}: {error}", f"a recipe has {keys}") from None
        if recipe.dtype not in SAFETENSORS_DTYPES:
            raise UserError(
                f"{path.name}: {name}.dtype: `{recipe.dtype}` is not a dtype of a checkpoint",
                f"use one of {', '.join(SAFETENSORS_DTYPES)}",
            )
        if not (FIXTURES / "models" / f"{recipe.model}.json").is_file():
            raise UserError(
                f"{path.name}: {name}.model: there is no models/{recipe.model}.json beside it",
                f"use one of {', '.join(sorted(p.stem for p in (FIXTURES / 'models').glob('*.json')))}",
            )
        for key in ("layers", "vocab", "experts", "shard_bytes"):
            value = getattr(recipe, key)
            if value is not None and (type(value) is not int or value < 1):
                raise UserError(f"{path.name}: {name}.{key}: `{value}` is not a count", "write 1 or more")
    return found


def recipe_of(name: str) -> Recipe:
    """Return the recipe of that name."""
    if name not in recipes():
        raise UserError(f"there is no checkpoint recipe `{name}`", f"use one of {', '.join(recipes())}")
    return recipes()[name]


@cache
def config_of(recipe: Recipe) -> Mapping[str, Any]:
    """Return the real configuration with the recipe's cuts in it.

    Token ids beyond a cut vocabulary become its last id: an embedding refuses others.
    """
    config = _read_json(FIXTURES / "models" / f"{recipe.model}.json")
    config["torch_dtype"] = recipe.dtype
    for what, key in (("layers", "num_hidden_layers"), ("experts", "num_experts")):
        kept = getattr(recipe, what)
        if kept is not None:
            if kept > config.get(key, 0):
                raise UserError(
                    f"recipes.json: {recipe.name}.{what}: {kept}, but {recipe.model} has {config.get(key, 0)}",
                    f"keep fewer {what}",
                )
            config[key] = kept
    if recipe.experts is not None:
        config["num_experts_per_tok"] = min(config["num_experts_per_tok"], recipe.experts)
    if recipe.vocab is not None:
        config["vocab_size"] = recipe.vocab
        for key in ("bos_token_id", "eos_token_id", "pad_token_id"):
            if config.get(key) is not None:
                config[key] = min(config[key], recipe.vocab - 1)
    return config


@cache
def tensors(recipe: Recipe) -> tuple[Spec, ...]:
    """Return every tensor of the checkpoint, in the order of the model."""
    config = config_of(recipe)
    listing = _LISTINGS.get(config["model_type"])
    if listing is None:
        raise UserError(
            f"models/{recipe.model}.json: tensors of model type `{config['model_type']}` are not known",
            f"use one of {', '.join(_LISTINGS)}, or add its listing to repros/worker/checkpoints.py",
        )
    return tuple(Spec(name, shape, recipe.dtype) for name, shape in listing(config))


Shapes = Iterator[tuple[str, tuple[int, ...]]]


def _decoder(config: Mapping[str, Any]) -> Shapes:
    """List the tensors of Llama and of Qwen2, which adds biases to query, key and value.

    Source: transformers' ``LlamaForCausalLM`` and ``Qwen2ForCausalLM``.
    """
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    kv = hidden // config["num_attention_heads"] * config["num_key_value_heads"]
    biased = config["model_type"] == "qwen2"
    yield "model.embed_tokens.weight", (config["vocab_size"], hidden)
    for i in range(config["num_hidden_layers"]):
        layer = f"model.layers.{i}"
        for part, out in (("q", hidden), ("k", kv), ("v", kv)):
            yield f"{layer}.self_attn.{part}_proj.weight", (out, hidden)
            if biased:
                yield f"{layer}.self_attn.{part}_proj.bias", (out,)
        yield f"{layer}.self_attn.o_proj.weight", (hidden, hidden)
        yield f"{layer}.mlp.gate_proj.weight", (inner, hidden)
        yield f"{layer}.mlp.up_proj.weight", (inner, hidden)
        yield f"{layer}.mlp.down_proj.weight", (hidden, inner)
        yield f"{layer}.input_layernorm.weight", (hidden,)
        yield f"{layer}.post_attention_layernorm.weight", (hidden,)
    yield "model.norm.weight", (hidden,)
    if not config["tie_word_embeddings"]:
        yield "lm_head.weight", (config["vocab_size"], hidden)


def _opt(config: Mapping[str, Any]) -> Shapes:
    """List the tensors of OPT with a tied head. Source: transformers' ``OPTForCausalLM``."""
    hidden, inner = config["hidden_size"], config["ffn_dim"]
    embedded = config["word_embed_proj_dim"]
    decoder = "model.decoder"
    yield f"{decoder}.embed_tokens.weight", (config["vocab_size"], embedded)
    yield f"{decoder}.embed_positions.weight", (config["max_position_embeddings"] + 2, hidden)
    if embedded != hidden:
        yield f"{decoder}.project_out.weight", (embedded, hidden)
        yield f"{decoder}.project_in.weight", (hidden, embedded)
    if config["do_layer_norm_before"]:
        yield f"{decoder}.final_layer_norm.weight", (hidden,)
        yield f"{decoder}.final_layer_norm.bias", (hidden,)
    for i in range(config["num_hidden_layers"]):
        layer = f"{decoder}.layers.{i}"
        for part in ("k", "v", "q", "out"):
            yield f"{layer}.self_attn.{part}_proj.weight", (hidden, hidden)
            yield f"{layer}.self_attn.{part}_proj.bias", (hidden,)
        for norm in ("self_attn_layer_norm", "final_layer_norm"):
            yield f"{layer}.{norm}.weight", (hidden,)
            yield f"{layer}.{norm}.bias", (hidden,)
        yield f"{layer}.fc1.weight", (inner, hidden)
        yield f"{layer}.fc1.bias", (inner,)
        yield f"{layer}.fc2.weight", (hidden, inner)
        yield f"{layer}.fc2.bias", (hidden,)


def _qwen3_moe(config: Mapping[str, Any]) -> Shapes:
    """List the tensors of Qwen3 with experts, one tensor an expert and projection as they are published.

    Source: transformers' ``Qwen3MoeForCausalLM`` of 4.x; 5.x fuses the experts of a layer while it loads them.
    """
    hidden, inner = config["hidden_size"], config["moe_intermediate_size"]
    yield "model.embed_tokens.weight", (config["vocab_size"], hidden)
    for i in range(config["num_hidden_layers"]):
        layer = f"model.layers.{i}"
        yield from _full_attention(config, layer, config["num_attention_heads"])
        yield f"{layer}.mlp.gate.weight", (config["num_experts"], hidden)
        for expert in range(config["num_experts"]):
            yield from _gated(f"{layer}.mlp.experts.{expert}", hidden, inner)
        yield f"{layer}.input_layernorm.weight", (hidden,)
        yield f"{layer}.post_attention_layernorm.weight", (hidden,)
    yield "model.norm.weight", (hidden,)
    yield "lm_head.weight", (config["vocab_size"], hidden)


def _qwen3_5_moe(config: Mapping[str, Any]) -> Shapes:
    """List the tensors of the text model of Qwen3.5 with fused experts: every fourth layer has full attention.

    Source: transformers' ``Qwen3_5MoeForCausalLM``.
    """
    hidden, inner, experts = config["hidden_size"], config["moe_intermediate_size"], config["num_experts"]
    heads, width = config["linear_num_value_heads"], config["linear_value_head_dim"]
    keys = config["linear_num_key_heads"] * config["linear_key_head_dim"]
    values = heads * width
    yield "model.embed_tokens.weight", (config["vocab_size"], hidden)
    for i in range(config["num_hidden_layers"]):
        layer = f"model.layers.{i}"
        if (i + 1) % 4:
            linear = f"{layer}.linear_attn"
            yield f"{linear}.dt_bias", (heads,)
            yield f"{linear}.A_log", (heads,)
            yield f"{linear}.conv1d.weight", (2 * keys + values, 1, config["linear_conv_kernel_dim"])
            yield f"{linear}.norm.weight", (width,)
            yield f"{linear}.out_proj.weight", (hidden, values)
            yield f"{linear}.in_proj_qkv.weight", (2 * keys + values, hidden)
            yield f"{linear}.in_proj_z.weight", (values, hidden)
            yield f"{linear}.in_proj_b.weight", (heads, hidden)
            yield f"{linear}.in_proj_a.weight", (heads, hidden)
        else:
            yield from _full_attention(config, layer, 2 * config["num_attention_heads"])  # half of q is a gate
        yield f"{layer}.mlp.gate.weight", (experts, hidden)
        yield f"{layer}.mlp.experts.gate_up_proj", (experts, 2 * inner, hidden)
        yield f"{layer}.mlp.experts.down_proj", (experts, hidden, inner)
        yield from _gated(f"{layer}.mlp.shared_expert", hidden, config["shared_expert_intermediate_size"])
        yield f"{layer}.mlp.shared_expert_gate.weight", (1, hidden)
        yield f"{layer}.input_layernorm.weight", (hidden,)
        yield f"{layer}.post_attention_layernorm.weight", (hidden,)
    yield "model.norm.weight", (hidden,)
    yield "lm_head.weight", (config["vocab_size"], hidden)


def _full_attention(config: Mapping[str, Any], layer: str, q_heads: int) -> Shapes:
    hidden, head = config["hidden_size"], config["head_dim"]
    kv = head * config["num_key_value_heads"]
    for part, out in (("q", head * q_heads), ("k", kv), ("v", kv)):
        yield f"{layer}.self_attn.{part}_proj.weight", (out, hidden)
    yield f"{layer}.self_attn.o_proj.weight", (hidden, head * config["num_attention_heads"])
    yield f"{layer}.self_attn.q_norm.weight", (head,)
    yield f"{layer}.self_attn.k_norm.weight", (head,)


def _gated(name: str, hidden: int, inner: int) -> Shapes:
    yield f"{name}.gate_proj.weight", (inner, hidden)
    yield f"{name}.up_proj.weight", (inner, hidden)
    yield f"{name}.down_proj.weight", (hidden, inner)


_LISTINGS = {
    "llama": _decoder,
    "qwen2": _decoder,
    "opt": _opt,
    "qwen3_moe": _qwen3_moe,
    "qwen3_5_moe_text": _qwen3_5_moe,
}


def shards(recipe: Recipe) -> list[list[Spec]]:
    """Cut the tensors into shards of at most ``shard_bytes``, or of one tensor that is larger."""
    cut: list[list[Spec]] = []
    room = 0
    for spec in tensors(recipe):
        if not cut or spec.nbytes > room:
            cut.append([])
            room = recipe.shard_bytes
        cut[-1].append(spec)
        room -= spec.nbytes
    return cut


def digest(recipe: Recipe) -> str:
    """Return 16 hexadecimal digits that differ wherever the bytes of the checkpoint may."""
    decides = asdict(recipe) | {"name": "", "note": "", "config": config_of(recipe)}
    decides |= {"format": FORMAT, "chunk": CHUNK, "tensors": [asdict(s) for s in tensors(recipe)]}
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:16]


def there(name: str, root: Path | None = None) -> Path | None:
    """Return the folder of the recipe's checkpoint where it is there whole; UserError for an unknown recipe."""
    recipe = recipe_of(name)
    folder = _folder(recipe, root or _root())
    return folder if is_whole(folder, recipe) else None


def ensure(name: str, root: Path | None = None) -> Path:
    """Return the folder of the recipe's checkpoint; write it first where it is not there whole.

    Raises UserError for an unknown recipe and where the disk has no room for it.
    """
    recipe = recipe_of(name)
    root = root or _root()
    folder = _folder(recipe, root)
    if is_whole(folder, recipe):
        return folder
    with locked(root / f".{folder.name}.lock"):
        if is_whole(folder, recipe):
            return folder  # another process has made it meanwhile
        staging = root / f".{folder.name}.staging"
        for leftover in (staging, folder):
            shutil.rmtree(leftover, ignore_errors=True)
        needed = sum(spec.nbytes for spec in tensors(recipe))
        if (free := shutil.disk_usage(root).free) < needed * 1.02:
            raise UserError(
                f"{root}: checkpoint `{name}` needs {needed / 2**30:.1f} GiB, {free / 2**30:.1f} GiB are free",
                "make room, or set REPROS_CACHE to a folder on a larger disk",
            )
        staging.mkdir()
        try:
            write(recipe, staging)
            staging.rename(folder)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    return folder


def _root() -> Path:
    return cache_root() / "checkpoints"


def _folder(recipe: Recipe, root: Path) -> Path:
    return root / f"{recipe.name}-{digest(recipe)}"


def is_whole(folder: Path, recipe: Recipe) -> bool:
    """Return whether the folder holds every shard at its full size."""
    cut = shards(recipe)
    for i, specs in enumerate(cut):
        path = folder / _shard_name(i, len(cut))
        header = len(_header(specs))
        if not path.is_file() or path.stat().st_size != header + sum(s.nbytes for s in specs):
            return False
    return (folder / "config.json").is_file()


def write(recipe: Recipe, folder: Path) -> None:
    """Write configuration, shards, index and the recipe itself into an empty folder."""
    cut = shards(recipe)
    places: dict[str, str] = {}
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # torch draws without the interpreter's lock
        for i, specs in enumerate(cut):
            path = folder / _shard_name(i, len(cut))
            with path.open("wb") as file:
                file.write(_header(specs))
                for values in _ahead(pool, _draws(specs, recipe.seed)):
                    file.write(values)
            places |= {spec.name: path.name for spec in specs}
    total = sum(spec.nbytes for specs in cut for spec in specs)
    index = {"metadata": {"total_size": total}, "weight_map": places}
    if len(cut) > 1:
        _write_json(folder / "model.safetensors.index.json", index)
    _write_json(folder / "recipe.json", asdict(recipe) | {"digest": digest(recipe)})
    _write_json(folder / "config.json", dict(config_of(recipe)))


def _shard_name(i: int, count: int) -> str:
    return "model.safetensors" if count == 1 else f"model-{i + 1:05}-of-{count:05}.safetensors"


def _header(specs: list[Spec]) -> bytes:
    """Return what comes before the tensors: a length of 8 bytes and JSON, padded to 8 bytes.

    Source: the format's description in huggingface/safetensors.
    """
    table: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    begin = 0
    for spec in specs:
        table[spec.name] = {
            "dtype": SAFETENSORS_DTYPES[spec.dtype],
            "shape": list(spec.shape),
            "data_offsets": [begin, begin := begin + spec.nbytes],
        }
    text = json.dumps(table, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _draws(specs: list[Spec], seed: int) -> Iterator[Callable[[], Any]]:
    """Yield what draws each chunk of the tensors: normal values of deviation 0.02, about 1 for a norm's weight, else 0.

    Each chunk is seeded by the recipe's seed, the tensor's name and its place, so that a tensor does not depend on
    those before it and chunks can be drawn side by side.
    """
    import torch

    def draw(spec: Spec, i: int) -> Any:
        key = hashlib.sha256(f"{seed}/{spec.name}/{i}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(key[:8], "little") >> 1)
        mean = float("norm" in spec.name and spec.name.endswith("weight"))
        values = torch.empty(min(CHUNK, prod(spec.shape) - i * CHUNK), dtype=getattr(torch, spec.dtype))
        return values.normal_(mean, 0.02, generator=generator).view(torch.uint8).numpy().data

    for spec in specs:
        for i in range(-(prod(spec.shape) // -CHUNK)):
            yield partial(draw, spec, i)


def _ahead(pool: Executor, calls: Iterator[Callable[[], Any]]) -> Iterator[Any]:
    """Yield what the calls return, in their order, with a few of them under way: a shard would not fit beside itself.

    A tensor of its own for every expert makes chunks small, so the window reaches over tensors.
    """
    window = 4 * (os.cpu_count() or 1)
    waiting: deque[Future[Any]] = deque()
    for call in calls:
        waiting.append(pool.submit(call))
        if len(waiting) >= window:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}", "restore the file from version control") from None
    except ValueError as error:
        raise UserError(f"{path}: {error}", "fix the JSON at that line") from None
    if not isinstance(found, dict):
        raise UserError(f"{path}: holds no object", "write a JSON object")
    return found


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def main(arguments: list[str]) -> int:
    """Make the checkpoints of the named recipes and print their folders, or list the recipes."""
    try:
        for name in arguments:
            print(ensure(name))
        if not arguments:
            for recipe in recipes().values():
                size = sum(spec.nbytes for spec in tensors(recipe)) / 2**20
                print(f"{recipe.name:<20} {size:>9.1f} MiB  {recipe.note}")
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    return os.EX_OK


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
