"""`bundle SCRIPT`: the newest try of a script as an attachment, its comment, and what is refused."""

from __future__ import annotations

import json
import re
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from repros.bisect import committed, page
from repros.bisect.scripts import ScriptEntry
from repros.commands import cli
from repros.errors import printable
from repros.redaction.redact import Redactor
from repros.report import kept as keeping
from repros.report.attachment import packing, script, script_comment
from repros.report.attachment.comment import CHARACTERS, WORDS, words
from repros.report.attachment.tried import Bisected, Commit
from repros.report.kept import FILE, KeptTry
from repros.report.tries import Row, Tries
from repros.run import script as running
from repros.run import vote
from repros.run.script import Script
from tests.commands import errors
from tests.hostile import HOSTILE, try_of
from tests.searches import BASE, number
from tests.test_bisect_scripts import BAD, GOOD, searched, walk
from tests.test_page_tries import KEPT
from tests.test_strings import PARSER, active
from tests.test_tries import CELL, FOUND, row

HEADLINE = "### `repro.py`: bad in bitsandbytes 0.48.0, good from 0.49.0\n"


def of_votes(said: str, over: str = "bitsandbytes") -> Tries:
    rows = [row(f"0.{i}.0", one, output=f"{one}\n") for i, one in enumerate(said.split())]
    return Tries("repro.py", "exit", over, rows)


def comment(kept: KeptTry, *bisected: Bisected) -> str:
    return script_comment.comment(kept, kept.text, list(map(script.as_row, bisected)), "nothing private was found")


@pytest.fixture
def tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a script that was tried over some releases, with the folder `reports/` below the test's own."""
    source = tmp_path / "repro.py"
    source.write_text("import beside\nprint('err', 0.1)\n")
    (tmp_path / "beside.py").write_text("x = 1\n")
    monkeypatch.setattr("repros.run.results.REPORTS", tmp_path / "reports")
    home = tmp_path / "reports" / "runs" / "try-repro"
    (home / "logs").mkdir(parents=True)
    sources = keeping.sources_of(running.read(source))
    keeping.keep(replace(KEPT, files=sources, path=str(source), date="2026-01-01T00:00:00Z"), home)
    return source


# --- a real one


@pytest.mark.slow
def test_a_script_that_was_tried_is_attached_under_its_own_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "my repro.py"
    source.write_text("import sys\nprint('</details> @everyone', sys.argv[1:])\nraise KeyError('x|y')\n")
    words_ = ["try", str(source), "--cell", CELL, "--reports", str(tmp_path / "r"), "--", "--its", "own"]
    monkeypatch.setattr("sys.argv", ["repros", *words_])
    assert cli.main(words_) == 1
    capsys.readouterr()
    out = tmp_path / "b"
    words_ = ["bundle", str(source), "--run", str(tmp_path / "r" / "runs" / "try-my repro"), "--out", str(out)]
    assert cli.main(words_) == 0
    said = capsys.readouterr().out
    assert f"my repro.py: bad in cell {CELL}; no newer cell is good; newest tried: {CELL}\n" in said
    assert "MiB\n" in said and said.endswith(("found\n", "path\n", "name\n"))
    assert (out / "my repro.py").read_bytes() == source.read_bytes()
    assert "KeyError" in (out / "logs" / f"{CELL}.err").read_text()
    assert json.loads((out / "results.json").read_text())["rows"][0]["vote"] == "bad"
    text = (out / "comment.md").read_text()
    assert f"In cell {CELL}: `KeyError: 'x|y'`." in text
    assert f"```python\n{source.read_text()}```" in text
    assert "```\n</details> @everyone ['--its', 'own']\n```" in text
    assert f"python -m repros try 'my repro.py' --cell {CELL} -- --its own" in text
    assert active(PARSER.parse(text.replace("repro.py", "it"))) == []
    with zipfile.ZipFile(out.with_name("b.zip")) as zipped:
        names = {Path(name).relative_to("b").as_posix() for name in zipped.namelist()}
    assert {"my repro.py", "comment.md", "results.json", f"logs/{CELL}.out"} <= names
    assert cli.main(words_) == 0  # what is ours is written over
    (out / "comment.md").write_text("mine")
    assert "it was edited since it was made" in errors(words_, capsys)
    assert cli.main([*words_, "--force"]) == 0


def test_it_takes_the_modules_beside_the_script_and_no_older_log(
    tried: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import os

    logs = tmp_path / "reports" / "runs" / "try-repro" / "logs"
    for name in ("0.46.0.out", "0.48.0.err", "0.48.0.err.other", "0.99.0.out"):
        (logs / name).write_text("x")
    os.utime(logs / "0.46.0.out", (0, 0))
    assert cli.main(["bundle", str(tried)]) == 0
    out = tmp_path / "reports" / "bundles" / "try-repro"
    assert {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()} == {
        ".repros", "repro.py", "beside.py", "comment.md", "results.json", "logs/0.48.0.err"
    }  # fmt: skip
    assert (out / "comment.md").read_text().startswith(HEADLINE)
    assert "repro.py: bad in bitsandbytes 0.48.0, good from 0.49.0\n" in capsys.readouterr().out


# --- what is refused


def test_a_script_that_was_edited_is_refused_with_both_dates(tried: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tried.parent / "beside.py").write_text("x = 2\n")
    first, second = errors(["bundle", str(tried)], capsys).splitlines()
    found = re.fullmatch(r"repro\.py: tried (\S+), and it was edited since: beside\.py is of (\S+Z)", first)
    assert found and found[1] == "2026-01-01T00:00:00Z" and found[2] > found[1]
    assert f"`python -m repros try {tried} --package bitsandbytes`" in second
    tried.write_text("print('err', 0.1)\n")
    assert "edited since: repro.py is of" in errors(["bundle", str(tried)], capsys)


def test_a_script_that_was_never_tried_is_refused(
    tried: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other one.py"
    other.write_text("")
    first, second = errors(["bundle", str(other)], capsys).splitlines()
    assert first.startswith(f"{other}: never tried: nothing of it in ")
    assert second == f"hint: try it: python -m repros try '{other}'"
    namesake = tmp_path / "elsewhere" / "repro.py"
    namesake.parent.mkdir()
    namesake.write_text("")
    assert "try-repro is of another script of that name\n" in errors(["bundle", str(namesake)], capsys)
    assert "nowhere.py: no such file" in errors(["bundle", "nowhere.py"], capsys)
    assert "--cell with a script" in errors(["bundle", str(tried), "--cell", "x"], capsys)


@pytest.mark.parametrize(
    ("was", "becomes", "says"),
    [
        ('"schema": 1', '"schema": 2', "schema version 2, this version reads 1"),
        ('"schema": 1', '"schema": "x"', "not a kept try: `schema` is `x`"),
        ('"vote": "bad"', '"vote": "<b>"', "`tries.rows[3].vote`: `<b>` is no vote"),
        ('"seconds": 3', '"seconds": "x"', "`tries.rows[3].seen.figures[...]`: Expected `float`, got `str`"),
        ('"beside.py":', '"../beside.py":', "`../beside.py` is no path below a folder"),
        ('"script": "repro.py"', '"script": "x.py"', "the script is not among them"),
        ('"cores": 2', '"cores": []', "`cores`: Expected `int`, got `array`"),
        ('"date": "2026', '"date": "', "`date`: "),
        ("{", "", "not JSON"),
    ],
)
def test_a_try_that_is_damaged_or_of_another_version_is_refused(
    was: str, becomes: str, says: str, tried: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tried.parent / "reports" / "runs" / "try-repro" / FILE
    text = file.read_text()
    assert was in text
    file.write_text(text.replace(was, becomes, 1))
    first, second = errors(["bundle", str(tried)], capsys).splitlines()
    assert f"try-repro/{FILE}: " in first and says in first
    assert second == "hint: try the script again: it writes the file anew"


def test_a_secret_in_the_script_is_refused_and_in_what_it_printed_taken_out(tried: Path, tmp_path: Path) -> None:
    home = tmp_path / "reports" / "runs" / "try-repro"
    kept = keeping.load(home)
    secret = Redactor({"secret": ["plain-words-token"]})
    rows = [replace(one, reason="plain-words-token") for one in kept.tries.rows]
    made = script.make(replace(kept, tries=replace(kept.tries, rows=rows)), home, tmp_path / "b", secret)
    assert all("plain-words-token" not in path.read_text() for path in made.folder.iterdir())
    with pytest.raises(Exception, match=r"beside\.py: it would put something private into the script"):
        script.make(replace(kept, files={**kept.files, "beside.py": "plain-words-token"}), home, tmp_path / "c", secret)
    assert not (tmp_path / "c").exists()


def test_large_logs_stay_out_of_the_zip_and_the_script_does_not(
    tried: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "reports" / "runs" / "try-repro" / "logs" / "0.48.0.out").write_bytes(bytes(range(256)) * 40)
    monkeypatch.setattr(packing, "ZIP_BYTES", 500)
    assert cli.main(["bundle", str(tried)]) == 0
    assert "left out of the zip, which may have 25 MiB: logs/0.48.0.out\n" in capsys.readouterr().out
    with zipfile.ZipFile(tmp_path / "reports" / "bundles" / "try-repro.zip") as zipped:
        assert {Path(name).name for name in zipped.namelist()} == {"repro.py", "beside.py", "comment.md"}


def test_a_source_that_is_no_utf_8_comes_back_as_it_was(tmp_path: Path) -> None:
    raw = b"# -*- coding: latin-1 -*-\r\nx = '\xe9\xff'\r\n"
    kept = replace(KEPT, files=keeping.sources_of(Script("repro.py", {"repro.py": raw})))
    keeping.keep(kept, tmp_path)
    back = keeping.load(tmp_path)
    assert keeping.as_bytes(back.files["repro.py"]) == raw
    assert "\r" not in back.text and "\ufffd" in back.text
    assert back.tries.rows == list(FOUND.rows)


# --- the comment


@pytest.mark.parametrize(
    ("said", "headline"),
    [
        ("good bad bad good good", "bad in bitsandbytes 0.2.0, good from 0.3.0"),
        ("bad good bad skip good", "bad in bitsandbytes 0.2.0, good from 0.4.0"),
        ("good bad skip", "bad in bitsandbytes 0.1.0; no newer release is good; newest tried: 0.2.0"),
        ("good good", "good in every release tried, bitsandbytes 0.0.0 to 0.1.0"),
        ("good skip", "bad in no release tried, bitsandbytes 0.0.0 to 0.1.0"),
        ("skip", "no answer in every release tried, bitsandbytes 0.0.0"),
    ],
)
def test_it_is_led_by_the_newest_bad_release_beside_the_first_good_one_above(said: str, headline: str) -> None:
    assert comment(replace(KEPT, tries=of_votes(said))).startswith(f"### `repro.py`: {headline}\n")


def test_a_comment_has_what_a_maintainer_reads_first() -> None:
    text = comment(KEPT)
    assert text.startswith(HEADLINE)
    head, details = text.split("<details>", 1)
    assert f"```python\n{KEPT.text}```" in head and vote.NO_CONTROLS in head
    assert "| 0.46.0 to 0.46.1 | good |\n| 0.47.0 | skip |\n| 0.48.0 | bad |\n| 0.49.0 | good |\n" in head
    assert "output B" not in head
    for part in ("output B: 0.48.0; against A:", "-err 0.1\n+err 9.9", "a CPU", KEPT.command, KEPT.date):
        assert part in details
    assert "![" not in text


def test_a_long_script_is_not_shown_and_one_of_80_lines_is() -> None:
    for lines, inline in ((80, True), (81, False)):
        text = comment(replace(KEPT, files={"repro.py": "x = 1\n" * lines}))
        assert ("x = 1" in text) is inline
        assert ("`repro.py` is attached: 81 lines." in text) is not inline


@pytest.mark.parametrize("source", ["x = 1  # \u202e\n", "`" * 90, "\x1b[31m", "::error::x\n", ""])
def test_a_script_of_which_a_comment_would_not_show_all_is_attached_alone(source: str) -> None:
    text = comment(replace(KEPT, files={"repro.py": source}))
    assert "is attached: a comment would not show all of its characters." in text
    assert text == printable(text, keep="\n")


def test_few_words_stand_before_the_details() -> None:
    many = of_votes(" ".join(["good bad"] * 200))
    found = Bisected("first fixed", Commit("bitsandbytes", "abcdef0", "a " * 90, "https://github.com/x/y"), "0.1.0")
    rows = [replace(one, reason="a reason " * 60) for one in many.rows]
    fenced = "print('''\n```\n<details>\n''')\n" * 20
    for one in (replace(KEPT, tries=replace(many, rows=rows)), replace(KEPT, files={"repro.py": fenced})):
        text = comment(one, *[found] * 4)
        assert 20 < words(text) <= WORDS
        assert len(text) < CHARACTERS
    assert words(comment(replace(KEPT, files={"repro.py": fenced}))) == words(comment(KEPT))


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_a_comment_of_hostile_texts_is_as_short_as_any(text: str) -> None:
    found = Bisected("first bad", Commit(text, text, text), text)
    for source in ("print(1)\n", text):
        made = comment(replace(try_of(text), files={text: source}), found)
        assert len(made) < CHARACTERS
        assert words(made) <= WORDS


def test_large_outputs_are_cut_to_what_github_takes() -> None:
    rows = [Row(f"0.{i}.0", "bad", "x" * 900, vote.Seen(1, "exit 1", output=f"{i}\n" * 4000)) for i in range(200)]
    text = comment(replace(KEPT, tries=replace(FOUND, rows=rows)))
    assert len(text) < CHARACTERS and words(text) <= WORDS


# --- what a bisection found


def test_a_bisection_of_the_same_source_is_told_and_of_another_is_not(tmp_path: Path) -> None:
    found = walk(16)
    searched(found, tmp_path, lambda name: BAD if 5 <= number(name) < 9 else GOOD)
    (tmp_path / "README.md").write_text(page.page([found], "bitsandbytes", BASE, "x"))
    assert isinstance(found.entry, ScriptEntry)
    mine = found.entry.script
    told = committed.of_script([tmp_path], "repro.py", "exit", mine.digest)
    assert [(one.kind, one.at.name, one.after) for one in told] == [
        ("first bad", "0.5.0", "0.4.0"), ("first fixed", "0.9.0", "0.8.0")
    ]  # fmt: skip
    assert ("A bisection of the script: first bad 0.5.0 of bitsandbytes (after 0.4.0); "
            "first fixed 0.9.0 of bitsandbytes (after 0.8.0).\n") in comment(KEPT, *told)  # fmt: skip
    edited = replace(mine, files={"repro.py": b"print(2)\n"})
    for other in (edited, replace(mine, args=("x",))):
        assert committed.of_script([tmp_path], "repro.py", "exit", other.digest) == []
    assert committed.of_script([tmp_path], "repro.py", "timeout", mine.digest) == []
    assert committed.of_script([tmp_path], "epro.py", "exit", mine.digest) == []
