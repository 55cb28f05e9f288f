"""What a reader copies stands whole on one line, on narrow terminals too: cases, conditions, cells, reports, paths."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable
from dataclasses import replace

import pytest
from rich.console import Console
from rich.table import Table

from repros import cases
from repros.cells.matrix import load_matrix
from repros.commands import cli
from repros.commands.arguments import MATRIX
from repros.evidence import advice
from repros.report import terminal, tries
from repros.report.terminal import layout
from repros.report.terminal.layout import Column
from repros.report.tries import Row, Tries
from repros.run import results
from repros.run.results import Record
from repros.run.vote import Seen
from repros.verdict import Verdict

EVIDENCE = results.REPORTS / "cpu"
WIDTHS = (80, 120)
KNOWN = {e.name: e for e in cases.find()}
CELLS = [cell.name for cell in load_matrix(MATRIX).cells]
#: A case with the longest names of conditions, and one with windows from a bisection.
LONGEST = max(KNOWN.values(), key=lambda e: max(len(c.name) for c in e.case.conditions)).name


def whole(text: str, width: int, wanted: Iterable[str]) -> None:
    """Fail where a name is not there, is cut, or is broken at the end of a line."""
    lines = text.splitlines()
    for name in wanted:
        assert re.search(rf"(?<![\w.#/-]){re.escape(name)}(?![\w/-]|\.\w)", text), f"`{name}` is nowhere whole"
    assert "…" not in text
    for line in lines:
        assert len(line.rstrip()) <= width or "python -m repros" in line, f"the terminal would break `{line}`"
    for before, after in itertools.pairwise(lines):
        pair = [word.strip("(),:;[]") for word in (*before.split()[-1:], *after.split()[:1])]
        assert "".join(pair) not in NAMES or len(pair) < 2 or pair[0] in NAMES, f"{pair} is broken"


NAMES = {
    *KNOWN,
    *CELLS,
    *(e.case.report for e in KNOWN.values()),
    *(c.name for e in KNOWN.values() for c in e.case.conditions),
}


def of_case(*names: str) -> list[str]:
    """Return what must stand whole where cases are shown."""
    found = []
    for e in map(KNOWN.__getitem__, names):
        found += [e.name, e.case.report, e.case.url, *e.case.also, *(c.name for c in e.case.conditions)]
        found += [window.source for c in e.case.conditions for window in c.affected or ()]
    return found


def of_evidence() -> list[str]:
    """Return what must stand whole where the committed evidence is shown."""
    records, _ = results.load(EVIDENCE)
    return list(
        dict.fromkeys(name for r in records for name in (r.case, r.condition, r.cell, KNOWN[r.case].case.report))
    )


#: Reports that are over in the versions of `HIT`, or not yet there.
SPARED = ("accelerate#4044", "bitsandbytes#1549", "bitsandbytes#1775", "bitsandbytes#1862", "transformers#40327")
#: Versions that all others hit: a command that exits with 1.
HIT = "audit torch==2.13.0 transformers==5.2.0 bitsandbytes==0.49.2"
#: Command -> what must stand whole in it.
COMMANDS: dict[str, Callable[[], list[str]]] = {
    "list": lambda: [name for e in KNOWN.values() for name in (e.name, e.case.report)],
    "list --search gradient": lambda: ["gh1927_int8_recompute", "gh1927_train_order"],
    "cells": lambda: CELLS,
    "cells --tier gpu": lambda: [name for name in CELLS if name.startswith("gpu")],
    "doctor": lambda: CELLS,
    f"show {LONGEST}": lambda: of_case(LONGEST),
    "show gh1935": lambda: of_case(*(name for name in KNOWN if name.startswith("gh1935_"))),
    f"report {EVIDENCE}": of_evidence,
    HIT: lambda: [e.case.report for e in KNOWN.values() if e.case.report not in SPARED],
}


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.replace(str(results.REPORTS), "reports"))
def test_a_command_cuts_no_name(
    command: str, width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    assert cli.main(command.split()) == (command == HIT)
    whole(capsys.readouterr().out, width, COMMANDS[command]())


def printed(width: int, show: Callable[[Console], None]) -> str:
    console = terminal.Plain(width=width, highlight=False, markup=False, emoji=False, force_terminal=False)
    with console.capture() as got:
        show(console)
    return got.get()


@pytest.mark.parametrize("width", WIDTHS)
def test_a_try_cuts_no_name(width: int) -> None:
    figures = {"seconds": 1.0, "peak_rss_bytes": 1 << 30, "peak_heap_bytes": 2 << 30, "peak_live_bytes": 3.0}
    rows = [
        Row(cell, "bad", "raises ValueError: a sentence of many words that goes on below",
            Seen(1, "exit 1", figures={name: value * at for name, value in figures.items()}, output=f"{at}"))
        for at, cell in enumerate(CELLS, 1)
    ]  # fmt: skip
    found = Tries("repro.py", "exit", "cell", rows)
    whole(printed(width, lambda console: tries.show_all(found, console)), width, CELLS)


@pytest.fixture(scope="module")
def records() -> list[Record]:
    return results.load(EVIDENCE)[0]


@pytest.mark.parametrize("width", WIDTHS)
def test_the_details_of_a_trial_cut_no_name(width: int, records: list[Record]) -> None:
    for record in {(r.case, r.condition): r for r in records if r.arms}.values():
        figures = [name for name in (record.budget["figure"], record.budget["second"]) if name]
        wanted = [record.case, record.condition, record.cell, *figures, *(arm.arm for arm in record.arms)]
        whole(printed(width, lambda console, r=record: terminal.detail(r, console)), width, wanted)  # type: ignore[misc]


@pytest.mark.parametrize("width", WIDTHS)
def test_a_run_ends_with_what_to_do_and_the_next_command(width: int, records: list[Record]) -> None:
    (bad,) = [r for r in records if r.key == ("gh1995_strided_tensor", "every-other-row", "tf5.2.0-bnb0.49.2")]
    folder = results.REPORTS / "runs" / "r"
    text = printed(width, lambda console: advice.after([bad], KNOWN, folder, console))
    release = advice.known_mechanisms()["gh1995_strided_tensor"].upgrade["bitsandbytes"]
    whole(text, width, ["bitsandbytes#1995", release, "reports/stories/bitsandbytes-1995.md"])
    assert f" upgrade to bitsandbytes {release}" in " ".join(text.split())
    commands = [line.partition("python -m repros ")[2] for line in text.splitlines() if "python -m repros" in line]
    assert commands == ["bundle gh1995_strided_tensor --condition every-other-row"]
    assert text.endswith("since which release: reports/bisect/gh1995-bitsandbytes/README.md\n")
    (unwalked,) = [r for r in records if r.key == ("gh2034_kept_input", "8bit", "tf5.2.0-bnb0.49.2")]
    commands += re.findall(
        "python -m repros (bisect .*)", printed(width, lambda c: advice.after([unwalked], KNOWN, folder, c))
    )
    assert commands[1:] == ["bisect gh2034_kept_input --package bitsandbytes --condition 8bit --base tf5.2.0-bnb0.49.2"]
    for command in commands:
        assert cli.parser().parse_args(command.split())
    elsewhere = printed(width, lambda console: advice.after([bad], KNOWN, folder.parent.parent / "x y", console))
    assert "every-other-row --run 'reports/x y'\n" in elsewhere
    assert (
        printed(width, lambda console: advice.after([replace(bad, verdict=Verdict.ABSENT)], KNOWN, folder, console))
        == ""
    )
    many = printed(width, lambda console: advice.after(records, KNOWN, folder, console))
    assert many == "next, what to do, a row a report: python -m repros report reports/runs/r\n"


def test_a_report_begins_with_a_row_a_report(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert cli.main(["report", str(EVIDENCE)]) == 0
    answer, _, rest = capsys.readouterr().out.partition("\nstories: ")
    rows = answer.split("\n")
    assert [row for row in rows if row and not row.startswith(" ") and "#" in row.split()[0]] == list(
        dict.fromkeys(e.case.report for e in KNOWN.values())
    )
    at = rows.index("bitsandbytes#1995")
    release = advice.known_mechanisms()["gh1995_strided_tensor"].upgrade["bitsandbytes"]
    over_all = "" if release == "0.50.2" else f"; over all evidence bitsandbytes {release}"
    assert rows[at + 3 : at + 5] == [
        "  bad: bitsandbytes 0.46.0 to 0.49.2", f"  good from: bitsandbytes 0.50.2{over_all}",
    ]  # fmt: skip
    assert rows[at + 5].startswith(f"  what to do: upgrade to bitsandbytes {release}")
    assert "good from: none here; over all evidence torch 2.14.0" in answer, "one run knows less than all of them"
    assert "unpacked-double" in rest


def test_a_docstring_is_wrapped_once(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for width in WIDTHS:
        monkeypatch.setenv("COLUMNS", str(width))
        for name, e in KNOWN.items():
            assert cli.main(["show", name]) == 0
            lines = capsys.readouterr().out.splitlines()
            paragraphs = [part.split() for part in re.split(r"\n(?=\n|[-*] )", e.doc) if part.strip()]
            assert len(paragraphs) > 1
            for words in paragraphs:
                at = next(i for i, line in enumerate(lines) if line and words[: len(line.split())] == line.split())
                while words:
                    got = lines[at].split()
                    assert got == words[: len(got)]
                    words = words[len(got) :]
                    assert not words or len(f"{lines[at]} {words[0]}") > min(width, layout.PROSE), lines[at]
                    at += 1


def test_doctor_says_a_reason_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor"]) == 0
    said = [line for line in capsys.readouterr().out.splitlines() if "cannot run: " in line]
    reasons = [line.partition("cannot run: ")[2] for line in said]
    assert len(reasons) > 3 and len(set(reasons)) == len(reasons)
    assert not any("the cell has" in reason for reason in reasons)


@pytest.mark.parametrize("how", ["fold", "ellipsis", "crop"])
def test_a_name_that_is_cut_is_seen(how: str) -> None:
    """The control: rich's own table, as narrow as a terminal makes it."""
    table = Table("case", "title")
    table.columns[0].overflow = how  # type: ignore[assignment]
    table.columns[0].no_wrap = how != "fold"
    table.add_row(LONGEST, "a title of some more words than there is room for")
    with pytest.raises(AssertionError):
        whole(printed(len(LONGEST) + 4, lambda console: console.print(table)), 80, [LONGEST])
    same = printed(40, lambda console: layout.table(console, [Column("case"), Column("title", text=True)],
                                                    [[LONGEST, "a title of some more words than fit"]]))  # fmt: skip
    whole(same, 40, [LONGEST])


def test_a_name_that_is_broken_is_seen() -> None:
    with pytest.raises(AssertionError, match="is broken"):
        whole("see gh1935_comp\n  iled, too: gh1935_compiled\n", 80, ["gh1935_compiled"])
    with pytest.raises(AssertionError, match="would break"):
        whole(f"{'x' * 81}\n", 80, [])
