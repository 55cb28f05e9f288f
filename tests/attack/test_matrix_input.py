"""`matrix.yaml` damaged: bytes flipped, lines and tokens moved, values replaced, the parsed tree bent."""

from __future__ import annotations

import random
import time
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from repros.cells.matrix import PACKAGES, Matrix, load_matrix
from repros.errors import UserError
from tests.attack.tally import at_the_door, part

SHIPPED = (Path(__file__).parents[2] / "matrix.yaml").read_text(encoding="utf-8")
BARE = "\n".join(line for line in SHIPPED.splitlines() if not line.startswith("#"))
DUMPER = getattr(yaml, "CDumper", yaml.Dumper)
TREE = yaml.load(SHIPPED, Loader=yaml.BaseLoader)

#: Each of these ended in a traceback, or took long, before it was refused.
HOSTILE = (
    "２.9.0", "٣", "2.٣.0", "9" * 5000, f"1.{'9' * 5000}.0", f">={'9' * 5000}", "1." * 200 + "0", "1!2.0.0",
    "2.9.0+cpu", "\0", "\ud800", '"\\ud800"', "\ufeff", "\u202e0.1.2", "a\tb", "\tx", "&a [*a]", "*a", "<<: *a",
    "!!python/name:os.x", "!!python/object/apply:os.system [id]", "!!binary aGk=", "[" * 3000, "{" * 3000,
    "- " * 2000, "{[a]: b}", "? [a]\n: b", "null", "~", "", "{}", "[]", "[[]]", "{a: {b: {c: d}}}", "true", "yes",
    "1e400", ".nan", "-0", "0x1F", "1_000", "---", "...", "%YAML 9.9", "|\n  a\n  b", ">=5,<4", "===x", "===2.13.0",
    "==1.*", "~=2", "!=*", "host", "../../x", "a" * 70_000,
)  # fmt: skip


def load(folder: Path, content: bytes) -> Matrix | None:
    path = folder / "matrix.yaml"
    path.write_bytes(content)
    with at_the_door("matrix"):
        matrix = load_matrix(path)
        check(matrix)
        return matrix
    return None


def check(matrix: Matrix) -> None:
    """What is taken is whole: every pin is there, every text prints, names are distinct, no exclude hits a cell."""
    assert len({cell.name for cell in matrix.cells}) == len(matrix.cells) > 0
    for cell in matrix.cells:
        assert tuple(cell.pins) == PACKAGES
        texts = (cell.name, cell.note, cell.device, *cell.pins.values(), *cell.tiers)
        assert "".join(texts).isprintable() and "".join(texts).encode()
        assert matrix.excluded_by(cell.pins, cell.device) is None
        assert set(cell.tiers) <= set(matrix.tiers)
        assert all(pin in matrix.axes.get(name, (pin,)) or pin == "host" for name, pin in cell.pins.items())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("matrix")


@part(4)
@given(seed=st.integers(0, 2**32), cuts=st.integers(1, 8))
def test_bytes_lines_and_tokens(folder: Path, seed: int, cuts: int) -> None:
    """Flip bits, drop, double and swap bytes, lines and words of the shipped file."""
    dice = random.Random(seed)
    data = bytearray(BARE.encode())
    for _ in range(cuts):
        kind, at = dice.randrange(6), dice.randrange(len(data))
        if kind == 0:
            data[at] ^= 1 << dice.randrange(8)
        elif kind == 1:
            data[at : at + 1] = bytes([dice.randrange(256)])
        elif kind == 2:
            del data[at : at + dice.randrange(1, 40)]
        else:
            parts = data.split(b"\n" if kind < 5 else b" ")
            i, j = dice.randrange(len(parts)), dice.randrange(len(parts))
            if kind == 3:
                del parts[i]
            else:
                parts[i], parts[j] = parts[j], parts[i]
            data = bytearray((b"\n" if kind < 5 else b" ").join(parts))
    load(folder, bytes(data))


@part(4)
@given(seed=st.integers(0, 2**32), hostile=st.sampled_from(HOSTILE) | st.text(max_size=20))
def test_a_value_or_a_key_is_replaced(folder: Path, seed: int, hostile: str) -> None:
    """Put a hostile text in the place of one scalar, as it is written in the file."""
    dice = random.Random(seed)
    lines = BARE.splitlines()
    i = dice.choice([i for i, line in enumerate(lines) if ":" in line])
    key, _, value = lines[i].partition(":")
    indent = key[: len(key) - len(key.lstrip(" -"))]
    lines[i] = f"{key}: {hostile}" if dice.random() < 0.7 else f"{indent}{hostile}:{value}"
    load(folder, "\n".join(lines).encode("utf-8", "surrogatepass"))


values = st.recursive(
    st.sampled_from(HOSTILE).filter(lambda text: text.isprintable()) | st.none() | st.booleans() | st.integers()
    | st.floats() | st.dates() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8) | st.integers(), inner, max_size=4),
    max_leaves=8,
)  # fmt: skip


@part(4)
@given(seed=st.integers(0, 2**32), value=values, edits=st.integers(1, 3))
def test_the_tree_is_bent(folder: Path, seed: int, value: Any, edits: int) -> None:
    """Replace, delete, double and move parts of the parsed tree, and write it as YAML again."""
    dice = random.Random(seed)
    tree = deepcopy(TREE)
    for _ in range(edits):
        places = list(containers(tree))
        parent, key = dice.choice(places)
        other, place = dice.choice(places)
        kind = dice.randrange(4)
        if kind == 0:
            parent[key] = deepcopy(value)
        elif kind == 1:
            del parent[key]
        elif kind == 2:
            parent[key] = deepcopy(other[place])
        elif isinstance(parent, list):
            parent.append(deepcopy(parent[key]))
        else:
            parent[value if isinstance(value, str | int) else str(value)[:30]] = deepcopy(parent[key])
        if not tree:
            break
    dumped = yaml.dump(tree, Dumper=DUMPER, allow_unicode=dice.random() < 0.5, default_flow_style=dice.random() < 0.5)
    load(folder, dumped.encode("utf-8", "surrogatepass"))


def containers(tree: Any) -> Any:
    """Yield every (parent, key) of the tree."""
    for key, value in enumerate(tree) if isinstance(tree, list) else tree.items():
        yield tree, key
        if isinstance(value, list | dict):
            yield from containers(value)


@part(4)
@given(st.binary(max_size=200) | st.text(max_size=200).map(lambda text: text.encode("utf-8", "surrogatepass")))
@example(b"\xef\xbb\xbf" + SHIPPED.encode())
@example(b"")
@example(b"--- a\n--- b\n")
@example(b"&a [" + b"*a, " * 1000 + b"]")
def test_anything(folder: Path, content: bytes) -> None:
    load(folder, content)


def test_the_shipped_matrix_is_taken_with_and_without_a_byte_order_mark(folder: Path) -> None:
    """The door is not shut."""
    plain, marked = (load(folder, mark + SHIPPED.encode()) for mark in (b"", b"\xef\xbb\xbf"))
    assert plain == marked is not None


LAUGHS = "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 40))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("a: " + "[" * 100_000, "matrix.yaml: line 1, column 20: values nested more than 16 deep"),
        (LAUGHS, "matrix.yaml: line 2, column 10: the alias `*a0`: each value is written out here"),
        ("tiers: !!python/name:os.system x", "line 1, column 8: the tag `tag:yaml.org,2002:python/name:os.system`"),
        ("? {a: b}\n: c\n", "matrix.yaml: line 1, column 3: a list or a mapping where a key belongs"),
        ("a: b\nc: \0\n", "matrix.yaml: line 2: the character U+0000 cannot stand in YAML\nhint: delete it"),
        (SHIPPED.replace("2.9.1", "2.９.0", 1), "axes.torch[0]: `2.９.0` is not an exact pin\nhint: write `2.0.0`"),
        (SHIPPED.replace("2.9.1", "9" * 900, 1), f"`{'9' * 80}…` is not an exact pin\nhint: write `999999999.0.0`"),
        (SHIPPED.replace("2.9.1", "9" * 5000, 1), "matrix.yaml: axes.torch[0]: 5000 characters, at most 1000 are read"),
        (SHIPPED.replace("[2.9.1,", "[" + "".join(f"2.9.{i}, " for i in range(2, 2000)), 1),
         "matrix.yaml: axes: 40020 combinations, at most"),
        (SHIPPED.replace("smoke: two cells for CI", 'smoke: "\\ud800" #', 1), "tiers.smoke: the character U+D800 in a"),
        (SHIPPED.replace("note: newest of both", 'note: "\\u202Egnp"', 1), "note: the character U+202E in a text"),
    ],
)  # fmt: skip
def test_what_used_to_be_a_traceback_is_told(folder: Path, content: str, says: str) -> None:
    path = folder / "matrix.yaml"
    path.write_bytes(content.encode("utf-8", "surrogatepass"))
    with pytest.raises(UserError) as caught:
        load_matrix(path)
    assert says in str(caught.value)


def test_a_file_of_50_mb_is_refused_before_it_is_read(folder: Path) -> None:
    path = folder / "matrix.yaml"
    path.write_text(SHIPPED + "# a\n" * 12_500_000)
    began = time.monotonic()
    with pytest.raises(UserError, match=r"matrix.yaml: 50,0\d\d,\d{3} bytes, at most 262,144 are read\nhint: keep "):
        load_matrix(path)
    assert time.monotonic() - began < 0.5
    path.unlink()


def test_a_device_is_no_matrix() -> None:
    with pytest.raises(UserError, match=r"/dev/zero: not a file\nhint: name a matrix file"):
        load_matrix(Path("/dev/zero"))
