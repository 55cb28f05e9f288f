"""What is ready to file: a witness and an issue in each folder, which say the same, and the vote of the table."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

import pytest
from packaging.version import Version

from repros import ROOT
from repros.cells.envs import ensure
from repros.cells.matrix import load_matrix
from repros.machine.host import probe_host

FOLDER = ROOT / "reports" / "hunt" / "to-file"
CELL = load_matrix(ROOT / "matrix.yaml").tier("smoke")[-1]
ROW = re.compile(r"^\| ([a-z-]+) \| .+ \| (.+) \| (.+) \| (.+) \|$", re.MULTILINE)
ROWS = {name: rest for name, *rest in ROW.findall((FOLDER.parent / "README.md").read_text(encoding="utf-8"))}
#: Of bitsandbytes' `.github/ISSUE_TEMPLATE/bug-report.yml`.
SECTIONS = ["System Info", "Reproduction", "Expected behavior"]
MOST_LINES, MOST_WORDS = 50, 250
TIMEOUT_S = 120

of_each = pytest.mark.parametrize("name", sorted(ROWS))


def text(name: str, file: str) -> str:
    return (FOLDER / name / file).read_text(encoding="utf-8")


def within(release: str, spans: str) -> bool:
    """Say whether a release is in `A to B`; nothing is in `none`."""
    if spans == "none":
        return False
    low, high = (Version(one) for one in spans.split(" to "))
    return low <= Version(release) <= high


def test_the_table_names_the_folders() -> None:
    assert ROWS
    assert {path.parent.name for path in FOLDER.glob("*/*")} == ROWS.keys()


@of_each
def test_a_folder_has_a_witness_and_an_issue(name: str) -> None:
    assert sorted(path.name for path in (FOLDER / name).iterdir()) == ["issue.md", "minimal.py"]


@of_each
def test_a_witness_is_short_and_says_what_it_is(name: str) -> None:
    script = text(name, "minimal.py")
    assert len(script.splitlines()) <= MOST_LINES
    compile(script, name, "exec")
    said = ast.get_docstring(ast.parse(script)) or ""
    assert said.startswith("bitsandbytes: ")
    assert "\nFigure: " in said
    assert "Limit: " in said


@of_each
def test_an_issue_has_the_form_of_the_template_and_holds_the_witness(name: str) -> None:
    issue, script = text(name, "issue.md"), text(name, "minimal.py")
    before, _, after = issue.partition(f"```python\n{script}```\n")
    assert after, "the script of the issue is not the witness"
    assert re.match(r"# \S.*\n\n", before)
    assert re.findall(r"^### (.+)$", before + after, re.MULTILINE) == SECTIONS
    assert len((before + after).split()) <= MOST_WORDS


@of_each
def test_an_issue_names_the_ends_of_the_table(name: str) -> None:
    before = text(name, "issue.md").partition("```python")[0]
    _, bad, good = ROWS[name]
    ends = {release for spans in (bad, good) for release in spans.split(" to ")} - {"none"}
    assert ends <= set(re.findall(r"\d+\.\d+\.\d+", before))


def test_a_release_is_looked_up_among_others() -> None:
    assert within("0.50.2", "0.49.0 to 0.50.2")
    assert within("0.49.0", "0.49.0 to 0.50.2")
    assert not within("0.48.2", "0.49.0 to 0.50.2")
    assert not within("0.48.2", "none")


@of_each
def test_a_witness_votes_as_the_table_says(name: str, tmp_path: Path) -> None:
    """In the newest cell of smoke; on a CPU that lacks the flag of the row, any vote but a skip will do."""
    flag, bad, good = ROWS[name]
    release = CELL.pins["bitsandbytes"]
    assert within(release, bad) != within(release, good), "the table does not say"
    done = subprocess.run(
        [str(ensure(CELL, root=ROOT).python), "-I", str(FOLDER / name / "minimal.py")],
        cwd=tmp_path, env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)},
        capture_output=True, text=True, check=False, timeout=TIMEOUT_S,
    )  # fmt: skip
    applies = flag == "any" or flag.strip("`") in probe_host().cpu_flags
    votes = {int(within(release, bad))} if applies else {0, 1}
    assert done.returncode in votes, done.stdout + done.stderr
    if applies:
        (printed,) = re.findall(r"^bad: .+$|^good: .+$", done.stdout, re.MULTILINE)
        assert f"\n{printed}\n```\n" in text(name, "issue.md")
