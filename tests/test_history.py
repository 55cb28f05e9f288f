"""Commits of a clone as revisions: a small repository made by git itself."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from repros.bisect import commits
from repros.bisect.revisions import Source
from repros.cells.matrix import Cell
from repros.errors import UserError

PINS = {"torch": "2.13.0", "bitsandbytes": "0.49.2", "huggingface_hub": "1.0.0", "tokenizers": "0.22.2"}
CELL = Cell("here", "cpu", PINS)


class Clone:
    """A repository of a package with a native part, released twice, with a merge between."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir()
        self.git("init", "-q", "-b", "main")
        self.shas: dict[str, str] = {}

    def git(self, *args: str) -> str:
        who = {f"GIT_{role}_{what}": "x@y" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
        env = {**os.environ, **who, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
        done = subprocess.run(["git", *args], cwd=self.path, env=env, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    def commit(self, name: str, **files: str) -> None:
        for file, text in files.items():
            path = self.path / file.replace("__", "/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        self.git("add", "-A")
        self.git("commit", "-q", "--allow-empty", "-m", f"{name} subject")
        self.shas[name] = self.git("rev-parse", "HEAD")


@pytest.fixture
def clone(tmp_path: Path) -> Clone:
    made = Clone(tmp_path / "clone")
    made.commit("one", bitsandbytes__ops="1", csrc__kernels="1", setup="1")
    made.git("tag", "0.49.2")
    made.commit("two", bitsandbytes__ops="2")
    made.git("checkout", "-q", "-b", "side")
    made.commit("aside", bitsandbytes__ops="3")
    made.git("checkout", "-q", "main")
    made.git("merge", "-q", "--no-ff", "-m", "three subject", "side")
    made.shas["three"] = made.git("rev-parse", "HEAD")
    made.commit("four", csrc__kernels="2")
    made.commit("five", csrc__other="1")
    made.commit("six", bitsandbytes__ops="6")
    made.git("tag", "0.50.0")
    return made


def test_first_parent_history_with_merges_named(clone: Clone) -> None:
    found = commits.commits(clone.path, "bitsandbytes", "0.49.2", "0.50.0", CELL)
    assert [revision.subject for revision in found] == [
        f"{n} subject" for n in ("one", "two", "three", "four", "five", "six")
    ]
    assert [revision.merge for revision in found] == ["", "", clone.shas["aside"][:10], "", "", ""]
    assert found[0].name == clone.shas["one"][:10]


def test_the_bad_end_may_be_the_older_one(clone: Clone) -> None:
    there = commits.commits(clone.path, "bitsandbytes", "0.50.0", "0.49.2", CELL)
    assert there == commits.commits(clone.path, "bitsandbytes", "0.49.2", "0.50.0", CELL)


def test_the_library_is_of_the_nearest_release_and_says_how_near(clone: Clone) -> None:
    found = commits.commits(clone.path, "bitsandbytes", "0.49.2", "0.50.0", CELL)
    assert [revision.native.partition("; ")[::2] for revision in found] == [
        ("library of bitsandbytes 0.49.2", "the same native sources"),
        ("library of bitsandbytes 0.49.2", "the same native sources"),
        ("library of bitsandbytes 0.49.2", "the same native sources"),
        ("library of bitsandbytes 0.49.2", "1 native file(s) differ from it"),
        ("library of bitsandbytes 0.50.0", "the same native sources"),
        ("library of bitsandbytes 0.50.0", "the same native sources"),
    ]
    assert [revision.cell.pins["bitsandbytes"] for revision in found] == ["0.49.2"] * 4 + ["0.50.0"] * 2


@pytest.mark.parametrize(
    ("good", "bad", "words"),
    [
        ("0.49.2", "0.49.2", "`0.49.2` and `0.49.2` are the same commit"),
        ("0.49.2", "0.99.0", "git rev-parse"),
        ("side", "0.50.0", "neither of `side` and `0.50.0` is on the first-parent history of the other"),
    ],
)
def test_ends_that_cannot_be(clone: Clone, good: str, bad: str, words: str) -> None:
    with pytest.raises(UserError) as caught:
        commits.commits(clone.path, "bitsandbytes", good, bad, CELL)
    assert words in caught.value.what
    assert str(caught.value).count("\n") == 1


def test_a_folder_that_is_no_clone(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"git rev-parse in .*not a git repository.*\nhint: give the folder of a clone"):
        commits.commits(tmp_path, "bitsandbytes", "a", "b", CELL)


def test_a_clone_of_another_package(clone: Clone) -> None:
    with pytest.raises(UserError, match="no folder of transformers at"):
        commits.commits(clone.path, "transformers", "0.49.2", "0.50.0", CELL)


def test_sources_of_a_commit_with_the_installed_library(clone: Clone, tmp_path: Path) -> None:
    installed = tmp_path / "site-packages" / "bitsandbytes"
    installed.mkdir(parents=True)
    (installed / "libbitsandbytes_cpu.so").write_bytes(b"native")
    (installed / "ops").write_text("installed")
    source = Source(clone.path, clone.shas["two"], "bitsandbytes")
    folder = commits.extract(source, "bitsandbytes", tmp_path / "out", installed)
    assert folder == tmp_path / "out" / "bitsandbytes"
    assert (folder / "ops").read_text() == "2"
    assert (folder / "libbitsandbytes_cpu.so").read_bytes() == b"native"
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["bitsandbytes"]
    assert clone.git("status", "--porcelain") == ""


def test_a_worktree_as_it_lies_there(clone: Clone, tmp_path: Path) -> None:
    (clone.path / "bitsandbytes" / "ops").write_text("edited")
    revision = commits.worktree(clone.path, "bitsandbytes", CELL)
    assert revision.source is not None and revision.source.dirty
    folder = commits.extract(revision.source, "bitsandbytes", tmp_path / "out", tmp_path)
    assert (folder / "ops").read_text() == "edited"


def test_nothing_of_the_clone_is_written(clone: Clone, tmp_path: Path) -> None:
    """A user's clone keeps every byte and every time, its index and what is not committed included."""
    (clone.path / "bitsandbytes" / "ops").write_text("not committed")
    (clone.path / "notes.txt").write_text("not added")

    def state() -> dict[str, tuple[int, bytes]]:
        paths = [path for path in clone.path.rglob("*") if path.is_file()]
        return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in paths}

    before = state()
    rows = commits.commits(clone.path, "bitsandbytes", clone.shas["one"], clone.shas["six"], CELL)
    installed = tmp_path / "installed"
    installed.mkdir()
    (installed / "lib.so").write_text("native")
    for number, revision in enumerate((*rows[-2:], commits.worktree(clone.path, "bitsandbytes", CELL))):
        assert revision.source
        made = commits.extract(revision.source, "bitsandbytes", tmp_path / f"sources{number}", installed)
        (made / "ops").write_text("an arm writes here")
    assert state() == before
