"""The mutants stand for the reference as it is now: each text that one takes out is there, once."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.mutants.table import MUTANTS, TESTS, Mutant

REFERENCE = Path(__file__).parents[1] / "repros" / "reference"


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: f"{mutant.file}: {mutant.bug}")
def test_a_mutant_changes_what_is_there(mutant: Mutant) -> None:
    text = (REFERENCE / f"{mutant.file}.py").read_text(encoding="utf-8")
    for search, replacement in mutant.swaps:
        assert text.count(search) == 1
        assert search != replacement
        text = text.replace(search, replacement)
    compile(text, mutant.file, "exec")


def test_every_file_with_mutants_says_what_tries_it() -> None:
    assert {mutant.file for mutant in MUTANTS} == TESTS.keys()
