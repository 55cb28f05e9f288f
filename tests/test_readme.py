"""Documents say what committed evidence says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from repros import ROOT, cases
from repros.evidence import readme
from repros.report import markdown
from repros.run import results
from repros.verdict import Verdict

EVIDENCE = sorted(path.parent for path in results.REPORTS.glob(f"*/{results.RESULTS}"))
README = ROOT / "README.md"


def test_there_is_evidence() -> None:
    assert EVIDENCE


def test_the_readmes_figures_are_those_of_the_evidence() -> None:
    known = {e.name: e for e in cases.find()}
    without_a_gpu = [folder for folder in EVIDENCE if folder.name.startswith("cpu")]
    made = readme.blocks(without_a_gpu, known, [results.REPORTS / name for name in ("h200", "h200-x2")])
    text = README.read_text()
    assert readme.refreshed(text, made) == text
    assert all(f"[reports/{folder.name}](reports/{folder.name}/README.md)" in text for folder in EVIDENCE)


def test_standings_are_told_of_runs_without_a_gpu_and_on_a_card_apart() -> None:
    known = {e.name: e for e in cases.find()}
    without, on_cards = (results.load(results.REPORTS / name)[0] for name in ("cpu", "h200"))
    rows = readme.standings(without, on_cards, known).splitlines()
    (table,) = [row for row in rows if "the card table's larger models do not train on their cards (" in row][:1]
    assert table.endswith(" | - | **refuted** |")
    (suspicion,) = [row for row in rows if "the maintainer suspects a graph compiler" in row]
    assert "bitsandbytes" not in suspicion.split(" | ")[-2]
    assert suspicion.endswith(" | **fixed in bitsandbytes >0.49.2,<=0.50.2** |")
    (sources,) = [row for row in rows if "16-bit sources are still alive after loading" in row]
    assert sources.endswith(" | **refuted** | - |")
    (fix,) = [row for row in rows if "bitsandbytes#1935" in row and "proposed fix: " in row]  # one, of five cases
    assert fix.count("changes nothing in") == 2


@pytest.mark.parametrize("folder", EVIDENCE, ids=lambda folder: folder.name)
def test_a_committed_page_is_what_its_results_make(folder: Path) -> None:
    known = {e.name: e for e in cases.find()}
    records, notice = results.load(folder)
    assert notice == ""
    assert (folder / "README.md").read_text() == markdown.page(
        records, known, [results.shown(folder / results.RESULTS)]
    )


@pytest.mark.parametrize("folder", EVIDENCE, ids=lambda folder: folder.name)
def test_committed_evidence_is_conclusive_and_names_its_reasons(folder: Path) -> None:
    records = results.load(folder)[0]
    assert records
    for record in records:
        assert record.verdict.value in ("reproduced", "absent", "unsupported"), record.key
        assert record.reason, record.key
        assert not record.failed, record.key


def test_torch_matters_where_something_is_compiled_and_nowhere_else() -> None:
    records, _ = results.load(results.REPORTS / "cpu-torch")
    verdicts: dict[tuple[str, ...], set[Verdict]] = {}
    for record in records:
        pins = (record.condition, *(record.versions[package] for package in ("transformers", "bitsandbytes")))
        verdicts.setdefault(pins, set()).update({record.verdict} & {Verdict.REPRODUCED, Verdict.ABSENT})
    differ = {condition for (condition, *_), found in verdicts.items() if len(found) > 1}
    assert differ
    assert all("-compile-" in condition for condition in differ), differ


def test_the_readme_shows_the_two_commands() -> None:
    text = README.read_text()
    assert "python3 -m pip install nox uv && nox -s cpu" in text
    assert re.search(r"^nox -s tests$", text, re.MULTILINE)
