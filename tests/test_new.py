"""The three scaffolds: each says what is to be filled in, gives no verdict before that, and one after it."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

from repros.cases import declared
from repros.commands import new
from repros.errors import UserError

#: What fills each `...` of a scaffold, kind by kind: a body for each arm, then the texts.
SUBJECT = {
    "memory": "return train(lambda x: x @ weight.t(), x)",
    "numbers": 'yield "forward"\n    return {"output": x @ weight.t()}',
    "exception": 'yield "forward"\n    return {"output": x @ weight.t()}',
}
PLANTED = {
    "memory": "return train(lambda x: (x * 1.0).square().sqrt().copysign(x) @ weight.t(), x)",
    "numbers": 'yield "forward"\n    return {"output": x @ weight.t() * 1.01}',
    "exception": 'yield "forward"\n    return {"output": x @ weight}',
}


def module_of(path: Path) -> ModuleType:
    """Import a file as a module, its declaration included."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def refusal(path: Path) -> str:
    """Return the two lines that a case file is refused with."""
    with pytest.raises(UserError) as caught:
        declared.declaration(module_of(path))
    return str(caught.value)


@pytest.mark.parametrize("kind", new.KINDS)
def test_an_untouched_scaffold_is_refused_by_file_and_line_until_nothing_is_left(kind: str, tmp_path: Path) -> None:
    path = new.write_case("bitsandbytes", 1995, "try_me", kind, tmp_path)
    assert path.relative_to(tmp_path).as_posix() == "bitsandbytes/gh1995/try_me.py"
    said = []
    while "..." in (text := path.read_text()):
        said.append(refusal(path))
        place, line, what = re.fullmatch(r"(.*):(\d+): (.*)\nhint: .*", said[-1]).groups()  # type: ignore[union-attr]
        assert place.endswith("try_me.py")
        assert "not filled in" in what
        rows = text.splitlines(keepends=True)
        at = next(n for n in range(int(line) - 1, len(rows)) if "..." in rows[n])
        name = what.partition("`")[2].partition("`")[0]
        body = {"subject": SUBJECT, "reference": SUBJECT, "planted": PLANTED}.get(name)
        rows[at] = rows[at].replace("...", body[kind] if body else filled(rows[at]), 1)
        path.write_text("".join(rows))
    assert len(said) >= 8
    case = declared.declaration(module_of(path))
    assert case.report == "bitsandbytes#1995"
    assert case.conditions[0].affected is None


def filled(row: str) -> str:
    """Return what stands for `...` in a row: a text in code, words in a docstring."""
    if "Symptom(..." in row:
        return '"RuntimeError"'
    return '"mat1 and mat2 shapes"' if re.search(r"[(=:,] ?\.\.\.[,)}]", row) else "said."


@pytest.mark.parametrize("name", ["Two Words", "x-y", "", "9lives"])
def test_a_name_that_no_module_can_have_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a valid name\nhint: write lower-case words"):
        new.write_case("bitsandbytes", 1995, name, "memory", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_existing_file_is_kept_and_a_second_mechanism_joins_the_folder(tmp_path: Path) -> None:
    first = new.write_case("peft", 3265, "one", "memory", tmp_path)
    first.write_text("mine")
    with pytest.raises(UserError, match=r"gh3265/one\.py exists already\nhint: choose another name"):
        new.write_case("peft", 3265, "one", "numbers", tmp_path)
    assert first.read_text() == "mine"
    second = new.write_case("peft", 3265, "two", "numbers", tmp_path)
    assert sorted(path.name for path in second.parent.iterdir()) == ["__init__.py", "one.py", "two.py"]
