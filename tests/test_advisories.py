"""The committed advisories are as cases and evidence say."""

from __future__ import annotations

import pytest

from repros import cases
from repros.advisory import model
from repros.commands.advisories import evidence
from repros.evidence import advisories


@pytest.mark.slow
def test_the_committed_advisories_are_as_the_evidence_says() -> None:
    made = advisories.files(advisories.advisories(evidence(), {entry.name: entry for entry in cases.find()}))
    assert advisories.stale(model.folder(), made) == []
