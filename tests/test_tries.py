"""``try``: what its table, pages and exit code say of runs; what it refuses; and a few real ones in one cell."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from xml.etree import ElementTree as Xml

import pytest

from repros.bisect import releases as listing
from repros.cells import overlay
from repros.cells.envs import Environment, ensure
from repros.cells.matrix import load_matrix, overridden
from repros.commands import cli
from repros.commands import tries as command
from repros.commands.arguments import MATRIX, with_rest
from repros.errors import EnvError, UserError
from repros.redaction.redact import Redactor
from repros.report import terminal, tries
from repros.report.kept import load
from repros.report.tries import Row, Tries
from repros.run.vote import Seen
from tests.commands import errors


def row(
    name: str, vote: str = "good", /, output: str = "a\n", figures: Mapping[str, float] | None = None, **more: float
) -> Row:
    seen = (
        Seen(None, "no wheel")
        if vote == "skip"
        else Seen(0, "exit 0", figures={**(figures or {}), **more}, output=output)
    )
    return Row(name, vote, seen.ending, seen)


ROWS = (
    row("0.46.0", output="err 0.1\nsame\n", seconds=1, peak_live_bytes=100, peak_rss_bytes=300 << 20),
    row("0.46.1", output="err 0.1\nsame\n", seconds=2, peak_live_bytes=100, peak_rss_bytes=301 << 20),
    row("0.47.0", "skip"),
    row("0.48.0", "bad", output="err 9.9\nsame\n", seconds=3, peak_live_bytes=900, peak_rss_bytes=302 << 20),
    row("0.49.0", output="err 0.1\nsame\n", seconds=4, peak_live_bytes=100, peak_rss_bytes=300 << 20),
)
FOUND = Tries("repro.py", "exit", "bitsandbytes", ROWS, "base")


def printed(found: Tries, width: int) -> str:
    console = terminal.Plain(width=width, highlight=False, markup=False, emoji=False, force_terminal=False)
    with console.capture() as got:
        tries.show_all(found, console)
    return got.get()


def test_releases_of_equal_output_are_one_group_and_the_others_say_what_differs() -> None:
    text = printed(FOUND, 80)
    assert "output A: 0.46.0 to 0.46.1, 0.49.0\n" in text
    assert "output B: 0.48.0; against A:\n  -err 0.1\n  +err 9.9\n" in text
    assert "same" not in text.split("output B")[1]


def test_only_figures_that_differ_are_shown_and_noise_does_not() -> None:
    assert tries.differing(ROWS) == ["peak_live_bytes"]
    assert "peak_rss" not in printed(FOUND, 200)
    more = (*ROWS, row("0.50.0", seconds=1, peak_live_bytes=100, peak_rss_bytes=600 << 20))
    assert tries.differing(more) == ["peak_live_bytes", "peak_rss_bytes"]


@pytest.mark.parametrize("over", ["cell", "bitsandbytes"])
def test_no_name_is_cut_at_80_columns(over: str) -> None:
    names = [f"torch2.11.0-tf5.2.0-bnb0.49.{i}-and-longer" for i in range(3)]
    figures = ("peak_live_bytes", "live_end_bytes", "saved_bytes", "peak_heap_bytes", "cuda_peak_reserved_bytes")
    rows = [row(name, seconds=1.0, figures=dict.fromkeys(figures, (i + 1.0) * 2**30)) for i, name in enumerate(names)]
    text = printed(Tries("repro.py", "exit", over, rows), 80)
    assert all(name in text for name in names)
    assert max(map(len, text.split("these differ too")[0].splitlines())) <= 80
    left = (
        text.split("these differ too, see --markdown or --json: ")[1]
        .partition("\nrepro.py")[0]
        .replace("\n ", "")
        .split(", ")
    )
    assert left and all(name in figures for name in left)
    page = tries.page(Tries("repro.py", "exit", over, rows), "x")
    assert all(name.removesuffix("_bytes") in page for name in left)


@pytest.mark.parametrize(
    ("votes", "code"), [("good good", 0), ("good bad", 1), ("good skip", 0), ("skip skip", 125), ("bad skip", 1)]
)
def test_the_exit_code_is_a_vote(votes: str, code: int) -> None:
    assert tries.code_of([row(str(i), vote) for i, vote in enumerate(votes.split())]) == code


def test_junit_counts_what_the_table_says() -> None:
    suite = Xml.fromstring(tries.junit(FOUND))[0]
    assert [suite.get(name) for name in ("tests", "failures", "skipped", "errors")] == ["5", "1", "1", "0"]
    assert [test.get("name") for test in suite if test.find("failure") is not None] == ["bitsandbytes 0.48.0"]


def test_json_holds_all_that_was_seen() -> None:
    found = json.loads(tries.as_json(FOUND))
    assert [one["output_group"] for one in found["rows"]] == ["A", "A", "", "B", "A"]
    assert found["rows"][3]["seen"]["figures"]["peak_live_bytes"] == 900


def test_a_page_shows_what_a_script_prints_as_text() -> None:
    hostile = Tries("a|b`c.py", "exit", "cell", [row("x|y", output="```\n<b>|\n"), row("y", output="@user\n")])
    page = tries.page(hostile, "python -m repros try x.py")
    assert page.count("````") == 2 and r"\|" in page


def test_private_words_are_taken_out() -> None:
    clean = Redactor({"host": ["secret-host"]})
    one = Row("x", "bad", "at secret-host", Seen(1, "exit 1", text="secret-host", output="secret-host"))
    assert "secret-host" not in tries.as_json(tries.redacted(Tries("secret-host", "exit", "cell", [one]), clean))


# -- words of the command line


@pytest.mark.parametrize(
    ("words", "says", "hint"),
    [
        (["try", "nowhere.py"], "nowhere.py: no such file", "give the path"),
        (["try", "SCRIPT", "--from", "1.0"], "--from without --package", "--package transformers"),
        (["try", "SCRIPT", "--package", "torch", "--cell", "x"], "--package with --cell or --tier", "--base"),
        (["try", "SCRIPT", "--bad-if", "peak_live_bytes > 1.5 * tf4.57.5"], "no cell `tf4.57.5`", "tf4.57.5-bnb"),
        (["try", "SCRIPT", "--bad-if", "x"], "`x` is no rule", "write exit"),
        (["run", "SCRIPT"], "a script, not a case file: it assigns no CASE", "python -m repros try SCRIPT"),
        (["show", "SCRIPT"], "a script, not a case file: it assigns no CASE", "python -m repros try SCRIPT"),
    ],
)
def test_bad_words_are_two_lines(
    words: list[str], says: str, hint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script = tmp_path / "it is.py"
    script.write_text("raise SystemExit('it ran in the process of the suite')")
    shown = [str(script) if word == "SCRIPT" else word for word in words]
    more = ["--reports", str(tmp_path / "reports")] if words[0] == "try" else []
    said = errors([*shown, *more], capsys)
    assert says in said.splitlines()[0]
    assert hint.replace("SCRIPT", shlex.quote(str(script))) in said.splitlines()[1]


def test_what_follows_two_dashes_is_the_scripts() -> None:
    assert with_rest(["try", "x.py", "--", "--tier", "--"]) == (["try", "x.py"], ["--tier", "--"])
    assert with_rest(["run", "x", "--"]) == (["run", "x", "--"], ())


def test_the_command_on_a_page_names_no_path_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["try", "/home/me/a b.py", "--json", "/home/me/x", "--force", "--package", "torch", "--", "--json", "y"]
    monkeypatch.setattr("sys.argv", ["repros", *words])
    assert command._asked(Path("/home/me/a b.py")) == ["try", "a b.py", "--package", "torch", "--", "--json", "y"]


# -- the packages that follow


def test_what_must_follow_an_override_is_left_to_the_resolver() -> None:
    cell = load_matrix(MATRIX).cell("tf5.2.0-bnb0.49.2")
    changed = overridden(cell, ["transformers=5.23.0"])
    assert (changed.pins["tokenizers"], changed.pins["huggingface_hub"]) == (">=0", ">=0")
    assert changed.label == "tf5.2.0-bnb0.49.2 with transformers=5.23.0"
    own = overridden(cell, ["transformers=5.23.0", "tokenizers=0.23.3"])
    assert (own.pins["tokenizers"], own.pins["huggingface_hub"]) == ("0.23.3", ">=0")
    assert overridden(cell, []) is cell


def test_a_release_of_any_package_takes_its_place_in_a_cell() -> None:
    from packaging.version import Version

    from repros.bisect.revisions import any_package, of_script

    base = load_matrix(MATRIX).cell("tf5.2.0-bnb0.49.2")
    old, new = of_script(
        "numpy", [listing.Release(Version("2.0.0")), listing.Release(Version("2.1.0"), yanked=True)], base
    )
    assert (old.cell.pins["numpy"], old.name, new.date) == ("2.0.0", "2.0.0", "no date, yanked")
    assert any_package("Huggingface-Hub") == "huggingface_hub" and any_package("NumPy") == "numpy"


# -- script metadata

HEAD = "# /// script\n# dependencies = [{}]\n# requires-python = '>=3.11'\n# ///\n"


def test_metadata_of_a_script_is_read() -> None:
    assert overlay.declared("x.py", HEAD.format("'iniconfig>=2', 'torch'"), "3.11.7") == ("iniconfig>=2", "torch")
    assert overlay.declared("x.py", "print(1)", "3.11.7") == ()


@pytest.mark.parametrize(
    ("text", "python", "says"),
    [
        (HEAD.format("'a'"), "3.10.1", "it requires Python >=3.11, the cells have 3.10.1"),
        (HEAD.format("'a ! b'"), "3.11.7", "its script metadata"),
        (HEAD.format("'a"), "3.11.7", "its script metadata"),
        (HEAD.format("'a'") + "x = 1\n" + HEAD.format("'b'"), "3.11.7", "2 blocks"),
    ],
)
def test_metadata_that_cannot_be_met_is_two_lines(text: str, python: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        overlay.declared("x.py", text, python)


# -- in a real cell

CELL = "tf5.23.0-bnb0.50.2"


@pytest.fixture(scope="module")
def environment() -> Environment:
    from repros import ROOT

    return ensure(load_matrix(MATRIX).cell(CELL), root=ROOT)


@pytest.mark.slow
def test_what_an_environment_has_is_asked_of_no_index(
    environment: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Around the torch of a host it may have a release that no index offers."""

    def asked() -> None:
        raise AssertionError("the installer was started")

    monkeypatch.setattr("repros.cells.overlay.Uv.find", asked)
    assert overlay.lay(environment, ("torch", "transformers>=5", "torch<99"), "x.py") is None
    for lacking in ("iniconfig", "torch>=99", "transformers[torch]"):
        with pytest.raises(AssertionError):
            overlay.lay(environment, ("torch", lacking), "x.py")


@pytest.mark.slow
def test_dependencies_are_laid_over_a_cell_and_contradict_none_of_its_pins(environment: Environment) -> None:
    assert overlay.lay(environment, ("torch", "transformers>=5"), "x.py") is None
    folder = overlay.lay(environment, ("iniconfig",), "x.py")
    assert folder is not None and (folder / "iniconfig").is_dir() and not (folder / "torch").exists()
    with pytest.raises(EnvError, match="what the script declares contradicts the cell") as caught:
        overlay.lay(environment, ("transformers<5",), "x.py")
    assert caught.value.kind == "unsupported"


@pytest.mark.slow
def test_a_script_is_tried_in_a_cell(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "repro.py"
    script.write_text("import sys, bitsandbytes\nprint(bitsandbytes.__version__, sys.argv[1:])\nraise KeyError('x')")
    out, html = tmp_path / "found.json", tmp_path / "found.html"
    words = ["try", str(script), "--cell", CELL, "--json", str(out), "--reports", str(tmp_path / "reports")]
    monkeypatch.setattr("sys.argv", ["repros", *words, f"--html={html}", "--", "--its own"])
    assert cli.main([*words, f"--html={html}", "--", "--its own"]) == 1
    (one,) = json.loads(out.read_text())["rows"]
    assert (one["name"], one["vote"], one["reason"]) == (CELL, "bad", "KeyError: 'x'")
    assert one["seen"]["output"] == "VERSION ['--its own']\n"
    assert "No controls: the script's own word." in " ".join(capsys.readouterr().out.split())
    shown = html.read_text()
    assert "KeyError: &#39;x&#39;" in shown and "import sys, bitsandbytes" in shown
    assert f"python -m repros try repro.py --cell {CELL} -- &#39;--its own&#39;</pre>" in shown
    kept = load(tmp_path / "reports" / "runs" / "try-repro")
    assert (kept.text, kept.path, kept.tries.rows[0].vote) == (script.read_text(), str(script), "bad")
    assert kept.tries.rows[0].packages["bitsandbytes"] == "0.50.2" and kept.machine["cpu_model"]
    assert cli.main([*words, "--force", "--bad-if", "raises ValueError"]) == 125
    script.write_text(HEAD.format("'bitsandbytes<0.50'"))
    capsys.readouterr()
    assert cli.main([*words, "--force"]) == 2
    said = capsys.readouterr().err
    assert f"repro.py in {CELL}: what the script declares contradicts the cell: " in said
    assert said.endswith("\nhint: change its `dependencies`\n")
