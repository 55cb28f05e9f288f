"""The three scaffolds: each says what is to be filled in, gives no verdict before that, and one after it."""

from __future__ import annotations

import functools
import importlib.util
import os
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from repros import ROOT, cases
from repros.bisect import committed
from repros.bisect.probe import Probe
from repros.case import Affected
from repros.commands import cli, new
from repros.errors import UserError
from repros.run.consistency import contradiction
from repros.run.results import REPORTS
from repros.verdict import Outcome, Verdict
from tests.commands import errors
from tests.conftest import Bench

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
        cases.entry(module_of(path))
    return str(caught.value)


def fill(path: Path, kind: str, subject: str) -> list[str]:
    """Fill in a scaffold, one refusal after another, and return what was said."""
    bodies = {"subject": subject, "reference": SUBJECT[kind], "planted": PLANTED[kind]}
    said = []
    while "..." in (text := path.read_text()):
        said.append(refusal(path))
        place, line, what = re.fullmatch(r"(.*):(\d+): (.*)\nhint: .*", said[-1]).groups()  # type: ignore[union-attr]
        assert place.endswith(path.name)
        assert "not filled in" in what
        rows = text.splitlines(keepends=True)
        at = next(n for n in range(int(line) - 1, len(rows)) if "..." in rows[n])
        name = what.partition("`")[2].partition("`")[0]
        rows[at] = rows[at].replace("...", bodies.get(name) or filled(rows[at]), 1)
        path.write_text("".join(rows))
    return said


@pytest.mark.parametrize("kind", new.KINDS)
def test_an_untouched_scaffold_is_refused_by_file_and_line_until_nothing_is_left(kind: str, tmp_path: Path) -> None:
    path = new.write_case("bitsandbytes", 1995, "try_me", kind, tmp_path)
    assert path.relative_to(tmp_path).as_posix() == "bitsandbytes/gh1995/try_me.py"
    assert len(fill(path, kind, SUBJECT[kind])) >= 8
    case = cases.entry(module_of(path)).case
    assert case.report == "bitsandbytes#1995"
    assert case.conditions[0].affected is None


@pytest.fixture(scope="module")
def apart(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """Return a cell that looks for modules in its own folder as well: a scaffold is written there."""
    made = Bench(tmp_path_factory.mktemp("apart"))
    usual = made.server.environment()
    places = os.pathsep.join([str(made.folder), usual["PYTHONPATH"]])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(made.server, "environment", lambda: {**usual, "PYTHONPATH": places})
        patch.syspath_prepend(made.folder)
        yield made
    made.server.close()


@pytest.mark.parametrize("kind", new.KINDS)
@pytest.mark.parametrize(("does", "verdict"), [("right", Verdict.ABSENT), ("wrong", Verdict.REPRODUCED)])
def test_a_scaffold_that_is_filled_in_comes_to_a_verdict(apart: Bench, kind: str, does: str, verdict: Verdict) -> None:
    """Both controls hold, and since nothing is recorded of a new case its outcome is `new`, whichever verdict it is."""
    path = new.write_case("bitsandbytes", 1995, f"{does}_{kind}", kind, apart.folder / "scaffolded")
    fill(path, kind, SUBJECT[kind] if does == "right" else PLANTED[kind])
    found = cases.load(f"scaffolded.bitsandbytes.gh1995.{path.stem}")
    assert found.name == f"gh1995_{does}_{kind}"
    made = apart.run(found, "eager")
    assert made.verdict is verdict, made.reason
    assert made.readings == {
        "subject": "over" if does == "wrong" else "inside",
        "reference": "inside",
        "planted": "over",
    }
    assert (made.expected, made.outcome, made.failed) == (None, Outcome.NEW, False)
    assert contradiction(made) == ""


def filled(row: str) -> str:
    """Return what stands for `...` in a row: a text in code, words in a docstring."""
    if "Symptom(..." in row:
        return '"RuntimeError"'
    return '"mat1 and mat2 shapes"' if re.search(r"[(=:,] ?\.\.\.[,)}]", row) else "said."


def probes(folder: Path, **votes: str) -> Path:
    """Write the probes of a bisection over these releases, given as ``b0_9_0="bad"``."""
    folder.mkdir()
    one = Probe("s.py", "nonzero", "bitsandbytes", "", "", False, "inconclusive", (), "")
    made = [
        replace(one, revision=name[1:].replace("_", "."), votes=tuple(vote.split("+"))) for name, vote in votes.items()
    ]
    (folder / "probes.jsonl").write_bytes(b"".join(probe.to_line() for probe in made))
    return folder


@pytest.mark.parametrize(
    ("votes", "windows"),
    [
        ({"b0_50_0": "good", "b0_9_0": "good", "b0_49_0": "bad"}, [">=0.49.0,<0.50.0"]),
        ({"b0_46_0": "bad", "b0_47_0": "good", "b0_48_1": "bad", "b0_50_0": "bad"}, [">=0.46.0,<0.47.0", ">=0.48.1"]),
        ({"b0_46_0": "good", "b0_47_0": "skip", "b0_48_0": "bad"}, [">=0.48.0"]),
        ({"b0_46_0": "good", "b0_47_0": "bad: raises X+good", "b0_48_0": "bad: raises X"}, [">=0.48.0"]),
        ({"b0_46_0": "good", "b0_48_0": "good"}, []),
    ],
)
def test_the_windows_of_a_bisection_are_those_of_what_was_tried(
    votes: dict[str, str], windows: list[str], tmp_path: Path
) -> None:
    assert committed.windows(probes(tmp_path / "b", **votes)) == ("bitsandbytes", windows)


def test_a_folder_that_is_no_bisection_of_one_script_over_releases_is_refused(tmp_path: Path) -> None:
    for folder in (tmp_path, REPORTS / "bisect" / "gh1935-bitsandbytes", probes(tmp_path / "b", b0_1="skip")):
        with pytest.raises(UserError, match=r"\d searches, \d+ releases with a vote\nhint: name the folder of a bis"):
            committed.windows(folder)


@pytest.mark.parametrize("kind", new.KINDS)
def test_a_script_becomes_the_witness_and_its_windows_the_record(kind: str, tmp_path: Path) -> None:
    """What is left is filling in: the condition names the witness, and what a bisection found is recorded."""
    script = tmp_path / "fails.py"
    script.write_text("raise SystemExit(1)\n")
    walk = "reports/bisect/gh1935-auto"
    path = new.write_case("bitsandbytes", 1995, "one", kind, tmp_path, start=new.started(script, ROOT / walk))
    assert path.with_name("minimal.py").read_text() == script.read_text()
    fill(path, kind, SUBJECT[kind])
    condition = cases.entry(module_of(path)).case.conditions[0]
    assert condition.witness == "minimal.py"
    assert condition.affected == (Affected({"bitsandbytes": ">=0.49.2,<0.50.0"}, walk),)
    assert cases.witness_of(path, condition) == path.with_name("minimal.py")
    second = new.write_case("bitsandbytes", 1995, "two", kind, tmp_path, start=new.started(script, None))
    fill(second, kind, SUBJECT[kind])
    condition = cases.entry(module_of(second)).case.conditions[0]
    assert (condition.witness, condition.affected) == ("minimal_two.py", None)
    assert path.with_name("minimal.py").read_text() == script.read_text()


def test_the_command_takes_a_script_and_says_what_it_cannot_take(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(new, "write_case", functools.partial(new.write_case, root=tmp_path / "cases"))
    (tmp_path / "s.py").write_text("raise SystemExit(1)\n")
    argv = ["new", "peft", "3265", "one", "--kind", "memory"]
    assert cli.main([*argv, "--from", str(tmp_path / "s.py")]) == 0
    assert (tmp_path / "cases" / "peft" / "gh3265" / "minimal.py").is_file()
    (tmp_path / "latin").write_bytes(b"\xff")
    refused = {
        ("--from", str(tmp_path / "none.py")): "none.py: No such file or directory\nhint: name a script in Python",
        ("--from", str(tmp_path / "latin")): "latin: not a text in UTF-8\nhint: name a script in Python",
        ("--from", str(tmp_path / "s.py"), "--bisection", str(tmp_path)): "not below this project, so no record",
        ("--bisection", str(tmp_path)): "`--bisection` without a script\nhint: name the script that was bisected",
    }
    capsys.readouterr()
    for more, says in refused.items():
        assert says in errors([*argv, *more], capsys)


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


def test_the_command_says_what_is_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(new, "write_case", functools.partial(new.write_case, root=tmp_path))
    assert cli.main(["new", "peft", "3265", "one", "--kind", "memory"]) == 0
    assert capsys.readouterr().out.split() == (
        f"wrote {tmp_path}/peft/gh3265/one.py; next: fill in each `...`, then `python -m repros run gh3265`".split()
    )
    assert (tmp_path / "peft" / "gh3265" / "one.py").is_file()
