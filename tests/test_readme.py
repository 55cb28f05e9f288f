"""Documents say what committed evidence says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from repros import cases, results
from repros.report import markdown, readme

EVIDENCE = sorted(path.parent for path in results.REPORTS.glob(f"*/{results.RESULTS}"))
README = results.ROOT / "README.md"


def test_there_is_evidence() -> None:
    assert EVIDENCE


def test_the_readmes_figures_are_those_of_the_evidence() -> None:
    known = {e.name: e for e in cases.find()}
    card = results.REPORTS / "h200"
    made = [readme.blocks(folder, known, card) for folder in EVIDENCE if (folder / readme.BENCHMARKS).exists()]
    text = README.read_text()
    assert any(readme.refreshed(text, blocks) == text for blocks in made)


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
    for record in results.load(folder)[0]:
        assert record.verdict.value in ("reproduced", "absent", "unsupported"), record.key
        assert record.reason, record.key
        assert not record.failed, record.key


def test_the_readme_shows_the_two_commands() -> None:
    text = README.read_text()
    assert "python3 -m pip install nox uv && nox -s cpu" in text
    assert re.search(r"^nox -s tests$", text, re.MULTILINE)
