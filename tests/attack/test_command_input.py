"""Command lines built from the parser's own options, with values that no option can have."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import random
import re
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from repros.commands import cli
from repros.commands.arguments import MATRIX
from repros.errors import UserError
from repros.run.results import Run
from tests.attack.tally import at_the_door, part
from tests.factories import record

PARSER = cli.parser()
(SUB,) = (action for action in PARSER._actions if isinstance(action, argparse._SubParsersAction))
COMMANDS: Mapping[str, argparse.ArgumentParser] = SUB.choices

#: What ends each command that would build, fetch or write in the checkout before it begins: the last word of it wins.
REFUSED_BY: Mapping[str, tuple[str, ...]] = {
    "run": ("--cell", "no-such-cell"), "env": ("--cell", "no-such-cell"), "lock": ("--tier", "no_such_tier"),
    "wheelhouse": ("--tier", "no_such_tier"), "hunt": ("--cell", "no-such-cell"), "probe": ("--base", "no-such-cell"),
    "bisect": ("--base", "no-such-cell"), "try": ("--cell", "no-such-cell"),
    "bundle": ("--run", "run", "--cell", "no-such-cell"),
    "readme": ("--evidence", "no-such-run"), "stories": ("--to", "stories"), "new": (),
    "audit": ("--ignore", "nowhere"), "advisories": ("--to", "file"), "site": ("--to", "file"),
    "peer": ("--repo", "no/such/clone"), "merge": ("--out", "file"), "watch": ("--base", "no-such-cell"),
}  # fmt: skip
HOSTILE = (
    "", " ", "\0", "a\0b", "\ud800", "\x1b[31m", "\n", "\u202e", "a" * 300, "a" * 5000, "x/" * 2000 + "x",
    "~nosuchuser", "~nosuchuser/x", "-5", "0", "999999", "nan", "-1", "inf", "1e999", "-inf", "9" * 30, "9" * 5000,
    "２", "٣", "0x10", "1_0", "1.5", "True", "None", "*", "[", "[a", "a b", "gh1927", "gh1935", "gh1", "#", "gh",
    "1935", "/dev/zero", "/dev/stdin", "/dev/null", "/dev/null/x", "/proc/self/mem", "fifo", "folder", "file",
    "locked", "loop", "cut", "run", "run/results.jsonl", "nowhere/x", "cuda", "cpu", "gpu", "tpu", "smoke",
    "bitsandbytes", "torch", "numpy", "bitsandbytes=", "bitsandbytes==0.50.1", "bitsandbytes===1", "=", "==",
    "bitsandbytes=~nosuchuser/x", "bitsandbytes=/dev/zero", "bitsandbytes=>=" + "9" * 4400, "torch=git+https://x",
    "bitsandbytes=./" + "a" * 300, "3.12", "3", "python", "--", "--help", "--jobs", "-x", "--cell=", "nf4-eager",
    "nf4-eager*", "tf5.2.0-bnb0.49.2", "gpu-tf5.2.0-bnb0.49.2", "tests/selftest/st_harness.py", "x.py", "/x.py",
    "~nosuchuser.py", "repros/cases/__init__.py", "good", "auto", "HEAD", "$(id)", "'; rm x", "{0}", "%s",
    "%(prog)s", "@file",
)  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Stand in a folder that holds each kind of thing that a path can name, without a network."""
    here = tmp_path_factory.mktemp("commands")
    for name in ("folder", "locked"):
        (here / name).mkdir()
    (here / "file").write_text("not a run\n")
    os.mkfifo(here / "fifo")
    (here / "loop").symlink_to("loop")
    run = Run(here / "run")
    run.append(record(case="gh1935_saved_weight", condition="nf4-eager"))
    Run(here / "cut").path.write_text('{"schema": 1, "ki')
    (here / "locked").chmod(0)
    before = Path.cwd()
    os.chdir(here)
    yield here
    os.chdir(before)


@pytest.fixture(scope="module", autouse=True)
def no_network() -> Iterator[None]:
    """A command line that is refused asks nobody."""

    def refuse(*arguments: object, **named: object) -> None:
        raise AssertionError("a network was asked")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", refuse)
        yield


def line(command: str, dice: random.Random, pool: tuple[str, ...]) -> list[str]:
    """Return a command with its positional words and some of its options, each with a value of the pool."""
    words = [command]
    actions = COMMANDS[command]._actions
    for action in actions:
        wanted = not action.option_strings or action.required or dice.random() < 0.3
        if not wanted or dice.random() < 0.05 or "--help" in action.option_strings:
            continue
        option = dice.choice(action.option_strings) if action.option_strings else ""
        values = [dice.choice(pool) for _ in range(0 if action.nargs == 0 else dice.choice((1, 1, 1, 2)))]
        if option and values and dice.random() < 0.3:
            words.append(f"{option}={values[0]}")
        else:
            words += [option, *values] if option else values
    if dice.random() < 0.1:
        words.insert(dice.randrange(len(words) + 1), dice.choice(pool))
    return [*words, *REFUSED_BY.get(command, ())]


def run(argv: list[str]) -> None:
    """Run one command line; what it says is two lines where it is refused. Its output goes where UTF-8 goes."""
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors=how) for how in ("strict", "backslashreplace"))
    with at_the_door("command lines"):
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                code = cli.main(argv)
            except SystemExit as error:  # --help
                assert error.code in (0, None), argv
                code = 0
        err.seek(0)
        says = err.read()
        assert code in ((0, 1, 125, 128, 130) if argv[:1] == ["probe"] else (0, 1, 2)), (argv, code, says)
        assert "Traceback" not in says, (argv, says)
        if code in (2, 128):
            lines = says.rstrip("\n").split("\n")
            assert valid(lines), (argv, says)
            raise UserError(lines[-2], lines[-1].removeprefix("hint: "))


def valid(lines: list[str]) -> bool:
    """Two lines; before them only what was noticed while reading."""
    return (
        len(lines) >= 2
        and lines[-1].startswith("hint: ")
        and all(re.search("line is cut off|this one counts", notice) for notice in lines[:-2])
    )


PURE = ("list", "show", "shard", "cells", "doctor", "report", "proxies", "fits", "findings")
assert {*PURE, *REFUSED_BY} == set(COMMANDS), "a new command: say which it is"


@part(1.1)
@given(seed=st.integers(0, 2**32), command=st.sampled_from(sorted(COMMANDS)))
def test_any_command_with_hostile_values(seed: int, command: str) -> None:
    argv = line(command, random.Random(seed), HOSTILE)
    if command == "new" and cannot_be(argv):
        return
    run(argv)


def cannot_be(argv: list[str]) -> bool:
    """Return whether `new` would write a case into the checkout."""
    return len(argv) == 4 and argv[2].isdecimal() and argv[3].isidentifier()


@part(6)
@given(st.lists(st.sampled_from((*COMMANDS, *HOSTILE)), max_size=5).filter(lambda w: not {*w[:1]} & {*REFUSED_BY}))
def test_any_words(argv: list[str]) -> None:
    run(argv)


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["show", "a\0b"], "the character U+0000 in the argument `a\\x00b`"),
        (["show", "\ud800"], "the character U+D800 in the argument `\\ud800`"),
        (["show", "a" * 5000], f"an argument of 5,000 characters: `{'a' * 80}…`"),
        (["report", "a" * 300], "File name too long"),
        (["report", "~nosuchuser"], "run: `~nosuchuser`: Could not determine home directory."),
        (["report", "/dev/zero"], "run: `/dev/zero` is neither a folder nor a file"),
        (["report", "fifo"], "run: `fifo` is neither a folder nor a file"),
        (["report", "loop"], "run: `loop`: Too many levels of symbolic links"),
        (["report", ""], "run: nothing is written there"),
        (["report", "run", "--commit-to", "file"], "--commit-to: `file` is not a folder"),
        (["report", "run", "--html", "folder"], "--html: `folder` is not a file"),
        (["stories", "run", "--to", "file/x"], "--to: `file/x` cannot be a folder: "),
        (["run", "gh1935", "--jobs", "-5"], "--jobs: `-5` is not a whole number from 1 to 1,024"),
        (["run", "gh1935", "--jobs", "0"], "--jobs: `0` is not a whole number"),
        (["run", "gh1935", "--jobs", "999999"], "--jobs: `999999` is not a whole number"),
        (["run", "gh1935", "--jobs", "٣"], "--jobs: `٣` is not a whole number"),
        (["run", "gh1935", "--with", "bitsandbytes=~nosuchuser/x", "--cell", "x"], "no cell `x`"),
        (["run", "gh1935", "--condition", "nf4-eager-layer-cuda"], "1 condition(s) for cuda, cells for cpu"),
        (["run", "gh1935_card_table"], "condition(s) for cuda, cells for cpu"),
        (["hunt", "--cell", "x", "--minutes", "nan"], "--minutes: `nan` is not a number above 0, up to 10,080"),
        (["hunt", "--cell", "x", "--minutes", "-1"], "--minutes: `-1` is not a number above 0"),
        (["hunt", "--cell", "x", "--minutes", "inf"], "--minutes: `inf` is not a number above 0"),
        (["hunt", "--cell", "x", "--seed", "9" * 30], "--seed: `999999999999999999999999999999` is not a whole number"),
        (["bisect", "gh1935", "--package", "torch", "--scan", "-1"], "--scan: `-1` is not a whole number from 0"),
        (["bisect", "gh1935", "--package", "torch", "--at-once", "0"], "--at-once: `0` is not a whole number from 1"),
        (["bisect", "gh1935", "--package", "torch", "--ahead", "-1"], "--ahead: `-1` is not a whole number from 0"),
        (["bisect", "gh1935", "--package", "torch", "--racy", "nan"], "--racy: `nan` is not a number above 0, up to 1"),
        (["bisect", "gh1935", "--package", "torch", "--repo", "file"], "--repo: `file` is not a folder"),
        (
            ["readme", "--evidence", "cut", "--card", "cut", "--benchmarks", "/proc/self/mem"],
            "/proc/self/mem: Input/output error",
        ),
        (
            ["readme", "--evidence", "cut", "--card", "cut", "--benchmarks", "file"],
            "file: not JSON: ",
        ),
        (["wheelhouse", "--out", "w", "--python", "python"], "--python: `python` is not a Python, such as `3.12`"),
        (["wheelhouse", "--out", "w", "--tier", "nope"], "no tier `nope`"),
        (["nope"], "command: there is no `nope`"),
        ([], "the following arguments are required: COMMAND"),
        (["show"], "the following arguments are required: case"),
        (["show", "gh1935", "--nope"], "unrecognized arguments: --nope"),
    ],
)
def test_what_was_tried_is_told(argv: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(argv) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 2
    assert says in err.split("\n")[0]
    assert err.split("\n")[1].startswith("hint: ")


def test_a_probe_that_is_refused_casts_no_vote(capsys: pytest.CaptureFixture[str]) -> None:
    moved = "gh1935_saved_weight: the condition `nf4-experts-eager` is of gh2005_experts now\nhint: name gh2005_experts"
    for argv, says in (
        (["--nope"], "unrecognized arguments: --nope"),
            (["gh1935"], "a case, --condition and --base are needed"), (["\0"], "the character U+0000"),
        (["gh1935", "--condition", "nf4-eager", "--base", "nope"], "no cell `nope`"),
        (["gh1935", "--condition", "nope", "--base", "nope"], "no condition of gh1935_adapters, "),
        (["gh1935_saved_weight", "--condition", "nf4-experts-eager", "--base", "nope"], moved),
    ):  # fmt: skip
        assert cli.main(["probe", *argv]) == 128
        said = capsys.readouterr().err
        assert said.count("\n") == 2
        assert says in said


def test_a_probe_takes_a_pin_as_the_other_commands_do(capsys: pytest.CaptureFixture[str]) -> None:
    """`--with bitsandbytes==0.50.1` is the version 0.50.1, in every command."""
    from repros.cells.matrix import load_matrix, overridden

    cell = load_matrix(MATRIX).cell("tf5.2.0-bnb0.49.2")
    for word in ("bitsandbytes=0.50.1", "bitsandbytes==0.50.1", "bitsandbytes=bitsandbytes==0.50.1"):
        assert overridden(cell, [word]).pins["bitsandbytes"] == "0.50.1"
    argv = ["probe", "gh2005", "--condition", "nf4-experts-eager", "--base", cell.name]
    assert cli.main([*argv, "--with", "bitsandbytes==0.47.0"]) == 125
    said = capsys.readouterr()
    assert json.loads(said.out)["revision"] == "0.47.0", said.err


def test_the_commands_are_whole(capsys: pytest.CaptureFixture[str]) -> None:
    """The door is not shut."""
    for argv in (
        ["list"],
        ["show", "gh1935"],
        ["cells", "--tier", "cpu"],
        ["report", "run"],
        ["--version"],
        ["run", "--help"],
    ):
        try:
            assert cli.main(argv) == 0
        except SystemExit as error:
            assert error.code == 0
        assert capsys.readouterr().out
