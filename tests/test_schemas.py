"""Advisories are OSV, and `audit --format sarif` is SARIF 2.1.0, by the schemas as they were published."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from repros import ROOT
from repros.advisory import model
from repros.commands import cli

SCHEMAS = ROOT / "fixtures" / "schemas"
FORMATS = jsonschema.FormatChecker()


def validator(name: str) -> Any:
    schema = json.loads((SCHEMAS / name).read_text(encoding="utf-8"))
    return jsonschema.validators.validator_for(schema)(schema, format_checker=FORMATS)


def faults(name: str, document: object) -> list[str]:
    return [f"{error.json_path}: {error.message}" for error in validator(name).iter_errors(document)]


ADVISORIES = sorted(model.folder().glob("*.json"))


@pytest.mark.parametrize("path", ADVISORIES, ids=lambda path: path.stem)
def test_an_advisory_is_osv(path: Path) -> None:
    advisory = json.loads(path.read_text(encoding="utf-8"))
    assert faults("osv-1.7.5.json", advisory) == []
    assert advisory["id"] == f"x_repros-{path.stem}"
    for one in advisory["affected"]:
        assert {"ecosystem": "PyPI", "name": one["package"]["name"]} == one["package"]
        assert all(each["events"][0].keys() == {"introduced"} and len(each["events"]) == 2 for each in one["ranges"])
        assert one["versions"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"id": "repros-1"}, "$.id"),
        ({"modified": "2026-11-26"}, "$.modified"),
        ({"severity": "memory"}, "$.severity"),
        ({"affected": [{"package": {"ecosystem": "pip", "name": "torch"}}]}, "$.affected[0].package.ecosystem"),
        ({"mechanisms": []}, "$: Additional properties"),
    ],
)
def test_the_schema_of_osv_refuses_what_is_none(change: dict[str, object], says: str) -> None:
    advisory = json.loads(ADVISORIES[0].read_text(encoding="utf-8"))
    assert any(one.startswith(says) for one in faults("osv-1.7.5.json", {**advisory, **change}))


@pytest.mark.parametrize(
    "words",
    [
        ["torch==2.13.0", "transformers==5.2.0", "bitsandbytes==0.49.2"],
        ["bitsandbytes==9.0.0"],
        [],
        ["--requirement", "requirements.txt"],
    ],
    ids=["words", "none", "interpreter", "file"],
)
def test_an_audit_is_sarif(
    words: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("requirements.txt").write_text("transformers==4.57.5\nbitsandbytes==0.46.0\n")
    code = cli.main(["audit", "--format", "sarif", *words])
    found = json.loads(capsys.readouterr().out)
    assert faults("sarif-2.1.0.json", found) == []
    assert bool(found["runs"][0]["results"]) == bool(code)
    broken = {**found, "version": "2.0.0"}
    assert faults("sarif-2.1.0.json", broken)
