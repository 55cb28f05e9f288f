"""The README's figures of the oracle say what the committed results say, survivors and failures included."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from repros.errors import UserError
from repros.evidence import oracle


def put(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def test_figures_come_out_of_the_files(tmp_path: Path) -> None:
    proof = {
        "date": "2026-01-02",
        "packages": {"bitsandbytes": "0.50.2", "torch": "2.13.0"},
        "properties": {
            "a": {"examples": 10_000, "outcome": "passed", "counted": {"odd ones": 7, "examples eager": 3}},
            "b": {"examples": 12_000, "outcome": "failed"},
            "a_plain_test": {"outcome": "passed"},
        },
    }
    rows = [
        {"file": "int8", "bug": "x", "caught": True},
        {"file": "int8", "bug": "y", "caught": False, "reason": "it is equivalent"},
    ]
    life = {"life": {"spec": {}, "steps": []}, "at": 0, "detail": "", "lives": 1, "confirmed": True, "cells": {}}
    findings = [
        {**life, "number": 1927, "what": "output", "seconds": 7.2, "slug": "a"},
        {**life, "number": 0, "what": "output", "seconds": 3.4, "slug": "b"},
        {**life, "number": 0, "what": "held", "seconds": 1.0, "slug": "c"},
    ]
    hunt = {
        "cell": "c", "pins": {}, "date": "d", "seed": 0, "hidden": True, "lives": 5, "seconds": 9.6, "met": {},
        "cores": 2, "cpu_model": "", "command": "", "findings": findings,
    }  # fmt: skip
    put(tmp_path / "oracle" / "prove-c.json", proof)
    put(tmp_path / "oracle" / "mutants.json", {"date": "2026-01-02", "mutants": rows})
    attack = {
        "date": "2026-01-03", "tests": {"passed": 9, "failed": 0}, "inputs": 1500,
        "doors": {"matrix": {"refused": 900, "taken": 100}, "results": {"refused": 480, "taken": 20}},
        "counts": {"kills": {"runs killed": 200, "lines lost": 0}},
    }  # fmt: skip
    put(tmp_path / "oracle" / "attack.json", attack)
    put(tmp_path / "hunt" / "c" / "findings.json", hunt)
    lines = oracle.block(tmp_path).splitlines()
    assert "2 properties of 10,000 examples or more, 22,000 in all; 2 tests passed, 1 failed" in lines[0]
    assert lines[0].endswith("Counted of upstream: odd ones: 7.")
    assert "1 of 2 bugs put in are caught" in lines[1]
    assert lines[2] == "  - survives: int8, y: it is equivalent"
    assert (
        "5 lives in 10 s: 3 departures, 1 of them with an upstream number, the first silently wrong output after 3 s (["
    ) in lines[5]
    assert lines[3] == (
        "- **Attack**, 2026-01-03: 1,500 damaged inputs (matrix 1,000, results 500), 1,380 refused in two lines, the "
        "others read; 0 tests failed."
    )
    assert lines[4] == "  - kills: 200 runs killed, 0 lines lost"


def test_missing_results_name_the_command(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no results of the properties\nhint: run `nox -s prove`"):
        oracle.block(tmp_path)


def test_a_damaged_file_is_said_with_its_place(tmp_path: Path) -> None:
    proof = {"date": "2026-01-02", "packages": {}, "properties": {"a": {"examples": "many"}}}
    put(tmp_path / "oracle" / "prove-c.json", proof)
    with pytest.raises(
        UserError, match=r"prove-c.json: `properties\[...\].examples`: Expected `int`, got `str`\nhint: "
    ):
        oracle.block(tmp_path)
