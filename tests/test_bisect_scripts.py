"""A user's script in the place of a case: the same search over invented histories, its words, and one real probe."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from repros.bisect import page as pages
from repros.bisect.bisection import Walk
from repros.bisect.probe import Probe, identity
from repros.bisect.scripts import ScriptEntry
from repros.bisect.search import Result, Search
from repros.commands import bisect, cli
from repros.run import vote
from repros.run.script import Script
from repros.run.vote import EXIT, Seen
from tests.commands import errors
from tests.searches import BASE, InventedWorkshop, number, revisions

ENTRY = ScriptEntry(Script("repro.py", {"repro.py": b"print(1)\n"}), EXIT)
GOOD = Seen(0, "exit 0")
BAD = Seen(1, "exit 1", exception=("KeyError",), text="'x'")


def walk(n: int, entry: ScriptEntry = ENTRY, **more: Any) -> Walk:
    return Walk(entry, entry.rule.text, revisions(n), Search(n, scan=2), **more)


class Invented(InventedWorkshop):
    """Answers with what was seen of a script."""

    def __init__(self, seen: Any) -> None:
        super().__init__(lambda name, fresh: "good")
        self._seen = seen

    def try_here(self, entry: Any, condition: str, revision: Any, future: Any, fresh: bool) -> Probe:
        found = super().try_here(entry, condition, revision, future, fresh)
        plain = replace(found, figure="", unit="", limit=None, values={}, margins={})
        return replace(plain, **entry.told(self._seen(revision.name)))


def searched(found: Walk, folder: Path, seen: Any) -> str:
    from repros.bisect.bisection import Bisection
    from repros.bisect.probe import Kept

    Bisection([found], Kept(folder), Invented(seen)).run()
    return pages.summary([found], "bitsandbytes", BASE)


def test_a_script_has_the_search_of_a_case_and_says_that_it_has_no_controls(tmp_path: Path) -> None:
    found = walk(16)
    text = searched(found, tmp_path, lambda name: BAD if number(name) >= 5 else GOOD)
    assert [edge.high for edge in found.answer().edges] == [5]
    assert "repro.py [exit]: found (no controls: the script's own word)" in text
    assert "first bad: 0.5.0" in text and "confirmed in fresh environments" in text
    page = pages.page([found], "bitsandbytes", BASE, "python -m repros bisect --script repro.py")
    assert "There are no controls: the script's own word." in page
    assert "| script | bad if |" in page and "KeyError: 'x'" in page


@pytest.mark.parametrize(
    ("seen", "verdict"),
    [(GOOD, "absent"), (BAD, "reproduced"), (Seen(125, "exit 125"), "error"), (Seen(None, "late", True), "timeout")],
)
def test_asking_again_reads_what_was_kept(tmp_path: Path, seen: Seen, verdict: str) -> None:
    """Every kind of vote is one that the file of probes can hold."""
    first, again = walk(2), walk(2)
    searched(first, tmp_path, lambda name: seen if name == "0.1.0" else GOOD)
    searched(again, tmp_path, lambda name: pytest.fail(f"{name} was run again"))
    assert again.answer() == first.answer()
    assert {probe.verdict for i, probe in again.order if i == 1} == {verdict}


def test_a_failure_of_another_kind_is_an_edge_of_another_kind(tmp_path: Path) -> None:
    other = Seen(1, "exit 1", exception=("AttributeError",), text="no attribute 'y'")
    text = searched(walk(8), tmp_path, lambda name: BAD if number(name) >= 5 else other)
    assert "another signature: 0.5.0" in text
    assert "0.4.0: AttributeError: no attribute 'y'; 0.5.0: KeyError: 'x'" in text


def test_what_does_not_reproduce_names_what_was_not_tried(tmp_path: Path) -> None:
    out = (replace(revisions(1)[0], name="9.9.9"), "no wheel")
    found = walk(9, ruled_out=(out,))
    text = searched(found, tmp_path, lambda name: Seen(None, "it does not import") if name == "0.4.0" else GOOD)
    assert found.answer().result is Result.NOT_REPRODUCED
    tried = set(found.answer().labels)
    assert {0, 8} <= tried and len(tried) < 9
    (said,) = (line for line in text.splitlines() if "not reproduced in any" in line)
    names = said.split("; not tried: ")[1].split(";")[0].split(", ")
    told = {i for name in names for i in range(number(name.split(" to ")[0]), number(name.split(" to ")[-1]) + 1)}
    assert told == set(range(9)) - tried
    assert said.endswith("; no answer: 0.4.0; cannot be installed: 9.9.9")


def test_a_figure_is_on_the_page_with_its_limit(tmp_path: Path) -> None:
    entry = ScriptEntry(ENTRY.script, vote.parse("peak_live_bytes > 2 * good"), against=Seen(0, figures={
        "peak_live_bytes": 1 << 20}))  # fmt: skip
    found = walk(8, entry)
    text = searched(
        found, tmp_path, lambda name: Seen(0, "exit 0", figures={"peak_live_bytes": (number(name) + 1) * 2**19})
    )
    assert "first bad: 0.4.0" in text
    page = pages.page([found], "bitsandbytes", BASE, "x")
    assert "peak_live_bytes 512.00 KiB to 2.00 MiB | 2.00 MiB" in page


def test_kept_probes_are_of_the_same_script_arguments_and_rule() -> None:
    revision = revisions(1)[0]
    others = [
        replace(ENTRY, rule=vote.parse("output: x")),
        replace(ENTRY, script=replace(ENTRY.script, args=("--x",))),
        replace(ENTRY, script=replace(ENTRY.script, files={"repro.py": b"print(2)\n"})),
        replace(ENTRY, script=replace(ENTRY.script, sandboxed=False)),
        replace(ENTRY, script=replace(ENTRY.script, timeout_s=1.0)),
    ]
    assert len({identity(one, revision) for one in (ENTRY, *others)}) == 6
    assert identity(replace(ENTRY), revision) == identity(ENTRY, revision)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["bisect", "--package", "torch"], "neither a case nor a script"),
        (["bisect", "gh1935", "--script", "SCRIPT", "--package", "torch"], "--script with a case or a condition"),
        (["bisect", "--script", "SCRIPT", "--package", "auto"], "--script with --package auto"),
        (["bisect", "--script", "SCRIPT", "--package", "torch", "--bad-if", "x"], "`x` is no rule"),
        (["bisect", "--script", "SCRIPT", "--package", "torch", "--base", "x"], "no cell `x`"),
    ],
)
def test_bad_words_are_two_lines(
    words: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "repro.py").write_text("raise SystemExit('it ran in the process of the suite')")
    shown = [str(tmp_path / "repro.py") if word == "SCRIPT" else word for word in words]
    assert says in errors(shown, capsys).splitlines()[0]


def test_the_command_on_a_page_names_no_path_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["repros", "bisect", "--script", "/home/me/a b.py", "--repo", "/home/me/clone"])
    assert bisect._asked() == ["bisect", "--script", "'a b.py'", "--repo", "PATH"]


@pytest.mark.slow
def test_a_commit_of_a_clone_is_probed_with_a_script(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clone = tmp_path / "clone"
    (clone / "src" / "peft").mkdir(parents=True)
    script = tmp_path / "repro.py"
    script.write_text("import peft, sys\nsys.exit(peft.WORD == sys.argv[1])")
    names = {"GIT_CONFIG_GLOBAL": "/dev/null", "PATH": "/usr/bin:/bin"}
    who = {f"GIT_{role}_{what}": "x@y" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    (clone / "src" / "peft" / "__init__.py").write_text("WORD = 'bug'\n")
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", "x"]):
        subprocess.run(["git", *command], cwd=clone, env={**names, **who}, check=True)
    words = ["probe", "--script", str(script), "--package", "peft", "--source", str(clone), "--", "bug"]
    assert cli.main(words) == 1
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["signature"] == "exit 1"
    (clone / "src" / "peft" / "__init__.py").write_text("WORD = 'none'\n")
    assert cli.main(words) == 0
    (clone / "src" / "peft" / "__init__.py").write_text("import no_such_thing\n")
    assert cli.main(words) == 125
