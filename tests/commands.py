"""The command line, as tests call it."""

from __future__ import annotations

import pytest

from repros.commands import cli


def errors(argv: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Run a command that must fail as bad input; return what it said."""
    assert cli.main(argv) == 2
    said = capsys.readouterr()
    assert said.err.count("\n") == 2, said.err
    assert "\nhint: " in said.err
    return said.err
