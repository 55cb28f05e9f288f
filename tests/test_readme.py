"""The pages that a reader begins with: short, true to the evidence, and typed as they are printed."""

from __future__ import annotations

import importlib
import json
import re
import shlex
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from repros import ROOT, cases
from repros.commands import cli
from repros.errors import UserError
from repros.evidence import readme
from repros.report import markdown, rows
from repros.run import results
from repros.run.results import Record
from repros.verdict import Outcome, Verdict

EVIDENCE = sorted(path.parent for path in results.REPORTS.glob(f"*/{results.RESULTS}"))
KNOWN = {e.name: e for e in cases.find()}
README = ROOT / "README.md"
PAGES = ("README.md", "CONTRIBUTING.md", "reports/README.md", "reports/bisect/README.md")
#: What stands for a path or a name in a printed command -> one of this project.
EXAMPLES = {"CASE": "gh1927_meta_scb", "CELL": "tf5.2.0-bnb0.49.2", "RUN": "reports/cpu", "NAME": "mine"}


def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def commands(page: str) -> list[str]:
    """Return the command lines of a page, as they are typed after `python -m repros`.

    They are those in blocks, and those in the text that are more than a command's name.
    """
    text = re.sub(r"```python\n.*?```", "", text_of(page), flags=re.DOTALL).replace("\\\n", " ")
    found = re.findall(r"python -m repros (\w+ [^`\n]+)", text)
    plain = (re.split(r" #|\s>\s|&&", command)[0].strip() for command in found)
    return [re.sub(r"\b(CASE|CELL|RUN|NAME)\b", lambda word: EXAMPLES[word[0]], one) for one in plain]


# --- made from evidence --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made() -> dict[str, str]:
    from repros.evidence import oracle

    return {
        **readme.blocks(readme.committed(), KNOWN, rows.over_all().values()),
        "oracle": oracle.block(ROOT / "reports"),
    }


def test_there_is_evidence_of_both_kinds() -> None:
    found = readme.committed()
    assert sorted([*found.without, *found.cards]) == EVIDENCE
    assert [found.without[0].name, found.cards[0].name] == ["cpu", "h100"]


@pytest.mark.parametrize("page", readme.PAGES)
def test_the_blocks_are_what_the_evidence_makes(made: dict[str, str], page: str) -> None:
    assert readme.refreshed(page, text_of(page), made) == text_of(page), "make them again: python -m repros readme"


@pytest.mark.parametrize(("seconds", "trials"), [(100, 2), (98, 1), (3600, 3)])
def test_the_cost_told_is_that_of_the_last_run_and_of_how_many_trials(
    tmp_path: Path, seconds: float, trials: int
) -> None:
    dates = ("2026-01-02T09:30:00Z", "2026-01-02T10:00:00Z", "2026-01-02T10:01:40Z")
    found = results.load(ROOT / "reports" / "h200")[0]
    made = [replace(record, date=date).to_line() for record, date in zip(found, dates, strict=False)]
    times = [{"total": 9000, "arms": 900}, {"total": seconds, "arms": seconds / 2, "preload": seconds / 4}]
    lines = [*made, *(json.dumps({"schema": 1, "kind": "time", "seconds": time}) for time in times)]
    (tmp_path / results.RESULTS).write_text("".join(f"{line.strip()}\n" for line in lines), encoding="utf-8")
    took = f"The last run that went into it, {trials} of these, took {seconds:,} s: "
    split = f"arms {seconds // 2} s (50%), preload {seconds / 4:.0f} s (25%)."
    assert readme.spent(tmp_path).endswith(took + split)


def test_a_page_without_its_block_is_told() -> None:
    with pytest.raises(UserError, match=r"README\.md: no block `reports`\nhint: put `<!-- reports: … -->`"):
        readme.refreshed("README.md", "# repros\n", {"reports": "", "trial": ""})


def test_every_report_has_its_row(made: dict[str, str]) -> None:
    head, _, *rows = made["reports"].splitlines()
    assert head == "| report | who is hit | bad | good from | what to do |"
    reports = dict.fromkeys(e.case.report for e in KNOWN.values())
    assert [re.match(r"\| \[([^\]]+)\]", row)[1] for row in rows] == sorted(reports)  # type: ignore[index]
    for row in rows:
        (story,) = re.findall(r"\[what to do today\]\(([^)#]+)#what-to-do-today\)", row)
        assert "\n## What to do today\n" in text_of(story)


def test_a_claim_is_told_once_and_each_side_apart(made: dict[str, str]) -> None:
    rows = made["standings"].splitlines()
    (table,) = [row for row in rows if "| without the fix the card table's larger models do not train on" in row]
    assert table.endswith(" | - | **refuted** |")
    (suspicion,) = [row for row in rows if "the maintainer suspects a graph compiler" in row]  # of two cases
    assert "bitsandbytes" not in suspicion.split(" | ")[-2]
    assert suspicion.endswith(" | **fixed in bitsandbytes >0.49.2,<=0.50.2** |")
    (sources,) = [row for row in rows if "16-bit sources are still alive after loading" in row]
    assert sources.endswith(" | **refuted** | - |")
    (fix,) = [row for row in rows if "bitsandbytes#1935" in row and "proposed fix: " in row]  # of several cases
    assert fix.count("changes nothing in") == 2


# --- a row of the README, from invented verdicts -------------------------------------------------

NF4 = KNOWN["gh44387_reserved_memory"]
INT8 = KNOWN["gh44387_int8"]
BAD, GOOD = Verdict.REPRODUCED, Verdict.ABSENT


def tried(verdicts: dict[str, Verdict], entry: cases.Entry = NF4) -> list[Record]:
    """Return trials of a case's first condition in releases of transformers."""
    record = results.load(results.REPORTS / "cpu")[0][0]
    return [
        replace(
            record, case=entry.name, condition=entry.case.conditions[0].name, cell=f"tf{version}", verdict=verdict,
            environment={"packages": {"torch": "2", "transformers": version, "bitsandbytes": "1"}},
        )
        for version, verdict in verdicts.items()
    ]  # fmt: skip


def cells(verdicts: dict[str, Verdict]) -> list[str]:
    return readme.report_row(rows.row([NF4], tried(verdicts)))[1:4]


def test_bad_and_good_are_the_releases_that_were_tried() -> None:
    assert cells({"5.1": GOOD, "5.2": BAD, "5.3": BAD, "5.4": GOOD, "5.5": GOOD}) == [
        NF4.case.trigger, "transformers 5.2 to 5.3", "transformers 5.4",
    ]  # fmt: skip


def test_where_no_release_ends_it_none_is_named() -> None:
    assert cells({"5.1": GOOD, "5.2": BAD})[1:] == ["transformers 5.2", "none of those tried"]
    assert "upgrade" not in readme.report_row(rows.row([NF4], tried({"5.1": GOOD, "5.2": BAD})))[-1]


def test_a_gap_is_no_span() -> None:
    assert cells({"5.1": BAD, "5.2": GOOD, "5.3": BAD, "5.4": GOOD})[1:] == [
        "transformers 5.1, 5.3", "transformers 5.4"
    ]  # fmt: skip


def test_a_refuted_report_says_so() -> None:
    told, *rest = readme.report_row(rows.row([NF4], tried({"5.1": GOOD, "5.2": GOOD})))
    assert told.endswith("(**refuted**)")
    assert rest[:3] == ["nobody", "none", "every release tried"]


def test_nothing_is_said_of_what_was_not_tried() -> None:
    assert cells({"5.1": Verdict.UNSUPPORTED}) == ["unknown", "untested", "untested"]


def test_what_was_found_beside_a_report_hits_nobody_in_its_row() -> None:
    trials = [*tried({"5.1": GOOD}), *tried({"5.1": BAD}, INT8)]
    assert readme.report_row(rows.row([INT8, NF4], trials))[1] == "nobody"


# --- short, and right as printed -----------------------------------------------------------------


def test_the_readme_is_short_and_answers_first() -> None:
    lines = text_of("README.md").splitlines()
    assert len(lines) <= 120
    first = "\n".join(lines[:25])
    assert "\npython -m repros run " in first and ": reproduced (as expected)" in first


def test_the_readme_shows_the_two_commands() -> None:
    text = text_of("README.md")
    assert "python3 -m pip install nox uv && nox -s cpu" in text
    assert re.search(r"```\nnox -s tests\n```", text)


@pytest.mark.parametrize("page", PAGES)
def test_a_printed_command_is_one_that_the_command_line_takes(page: str) -> None:
    found = commands(page)
    assert len(found) >= 3
    for command in found:
        cli.parser().parse_args(shlex.split(command))


@pytest.mark.parametrize("page", PAGES)
def test_a_printed_command_names_what_there_is(page: str) -> None:
    from repros.cells.matrix import load_matrix

    known = {cell.name for cell in load_matrix(ROOT / "matrix.yaml").cells}
    for command in commands(page):
        words = shlex.split(command)
        options = cli.parser().parse_args(words)
        named = getattr(options, "case", None) or []
        for name in [named] if isinstance(named, str) else named:
            if name == "gh1828":  # the example of CONTRIBUTING.md, which is in no folder
                continue
            entries = cases.select(name, tuple(KNOWN.values()))
            condition = getattr(options, "condition", None)
            if condition and condition != "*":
                assert any(condition == c.name for e in entries for c in e.case.conditions), command
        for option in ("--cell", "--base"):
            if option in words:
                assert words[words.index(option) + 1] in known, command


def test_the_trial_of_the_readme_is_the_one_that_it_asks_for() -> None:
    command = next(one for one in commands("README.md") if one.startswith("run "))
    options = cli.parser().parse_args(shlex.split(command))
    assert (*options.case, options.condition, *options.cell) == readme.EXAMPLE


@pytest.mark.parametrize("page", PAGES)
def test_a_link_leads_somewhere(page: str) -> None:
    text = re.sub(r"```.*?```", "", text_of(page), flags=re.DOTALL)
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", text) if not link.startswith("http")]
    assert links
    for link in links:
        path, _, anchor = link.partition("#")
        target = (ROOT / page).parent / path if path else ROOT / page
        assert target.exists(), link
        if anchor:
            heads = re.findall(r"(?m)^#+ (.+)$", target.read_text(encoding="utf-8"))
            assert anchor in {re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in heads}, link


def test_every_folder_of_reports_has_its_line() -> None:
    table = text_of("reports/README.md").partition("## What is known")[0]
    folders = {path.name for path in results.REPORTS.iterdir() if path.is_dir()} - {"runs", "bundles"}
    assert set(re.findall(r"(?m)^\| \[([\w-]+)\]", table)) == folders
    assert set(re.findall(r"(?m)^\| \[([\w-]+)\]", text_of("reports/bisect/README.md"))) == {
        path.name for path in (results.REPORTS / "bisect").iterdir() if path.is_dir()
    }


def test_every_room_is_in_the_layout() -> None:
    rooms = {path.stem for path in (ROOT / "repros").iterdir() if not path.name.startswith(("_", "."))} - {"templates"}
    table = text_of("CONTRIBUTING.md").partition("\n# Layout\n")[2]
    named = re.findall(r"`(\w+)/?`", "".join(re.findall(r"(?m)^\| (`[^|]+) \|", table)))
    assert sorted(named) == sorted(rooms)


def test_the_example_of_a_case_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (text,) = re.findall(r'```python\n(""".*?)```\n', text_of("CONTRIBUTING.md"), re.DOTALL)
    folder = tmp_path / "example" / "gh1828"
    folder.mkdir(parents=True)
    for place in (folder.parent, folder):
        (place / "__init__.py").touch()
    (folder / "row_scales.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    entry = cases.load("example.gh1828.row_scales")
    assert (entry.name, entry.case.report) == ("gh1828_row_scales", "bitsandbytes#1828")
    assert [(c.name, entry.arms_of(c)) for c in entry.case.conditions] == [
        ("half-a-large-block", ("subject", "reference", "planted")),
        ("one-and-a-half-blocks", ("subject", "reference", "planted")),
        ("two-blocks", ("subject", "reference")),
    ]
    assert all(c.affected is None for c in entry.case.conditions)  # as `new` leaves it
    for name in [name for name in sys.modules if name.partition(".")[0] == "example"]:
        monkeypatch.delitem(sys.modules, name)


# --- committed evidence --------------------------------------------------------------------------


@pytest.mark.parametrize("folder", EVIDENCE, ids=lambda folder: folder.name)
def test_a_committed_page_is_what_its_results_make(folder: Path) -> None:
    records, notice = results.load(folder)
    assert notice == ""
    assert (folder / "README.md").read_text() == markdown.page(
        records, KNOWN, [results.shown(folder / results.RESULTS)]
    )


@pytest.mark.parametrize("folder", EVIDENCE, ids=lambda folder: folder.name)
def test_committed_evidence_is_conclusive_and_names_its_reasons(folder: Path) -> None:
    records = results.load(folder)[0]
    assert records
    for record in records:
        assert record.verdict.value in ("reproduced", "absent", "unsupported"), record.key
        assert record.reason, record.key
        assert not record.failed, record.key
        assert record.outcome is not Outcome.NEW, record.key


def test_torch_matters_where_something_is_compiled_and_nowhere_else() -> None:
    records, _ = results.load(results.REPORTS / "cpu-torch")
    verdicts: dict[tuple[str, ...], set[Verdict]] = {}
    for record in records:
        pins = (record.condition, *(record.versions[package] for package in ("transformers", "bitsandbytes")))
        verdicts.setdefault(pins, set()).update({record.verdict} & {Verdict.REPRODUCED, Verdict.ABSENT})
    differ = {condition for (condition, *_), found in verdicts.items() if len(found) > 1}
    assert differ
    assert all("-compile-" in condition for condition in differ), differ
