"""An audit as JSON, Markdown and SARIF 2.1.0."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from repros import __version__
from repros.advisory.decide import Answer, Finding
from repros.advisory.result import Result, feet, good, todo, trigger, useless

SARIF = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
LEVELS = {"wrong numbers": "error", "memory": "warning", "raises": "warning"}


def as_json(result: Result) -> str:
    """Return all that was found."""
    found = {
        "source": result.found.source,
        "versions": result.found.versions,
        "devices": list(result.devices),
        "findings": [_row(one, result) for one in result.findings],
        "ignored": [{**_row(one, result), "reason": by.reason} for one, by in result.ignored],
        "notes": list(result.found.notes),
        "version": __version__,
    }
    return json.dumps(found, indent=1)


def _row(one: Finding, result: Result) -> dict[str, Any]:
    about, mechanism = one.advisory.about, one.mechanism
    return {
        "report": about.report,
        "case": mechanism.case,
        "answer": str(one.answer),
        "why": one.why,
        "severity": mechanism.severity,
        "trigger": mechanism.trigger,
        "devices": {device: str(answer) for device, (answer, _) in one.by_device.items()},
        "own": one.own,
        "remedies": [remedy.text for remedy in mechanism.remedies],
        "useless": useless(one),
        "upgrade": one.upgrade,
        "conditions": {each.condition.name: str(each.answer) for each in one.decisions},
        "url": about.url,
        "advisory": one.advisory.id,
        "proofs": _proofs(one, result),
    }


def _proofs(one: Finding, result: Result) -> dict[str, dict[str, str]]:
    return {name: {"vote": vote, "says": says} for name, (vote, says) in result.proofs_of(one).items()}


def as_markdown(result: Result) -> str:
    """Return the table, for an issue or a job's summary."""
    head = ["severity", "report", "what triggers it", "what to do", *(["here"] if result.proofs else [])]
    lines = [f"`repros audit` of {_cell(result.found.source)}: {_cell(versions(result))}", ""]
    for title, rows in (("", result.claimed), ("Found beside these reports:", result.beside)):
        if rows:
            lines += [title, ""] if title else []
            lines += [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
        for one in rows:
            link = f"[{one.advisory.about.report}]({one.advisory.about.url})"
            cells = [
                one.mechanism.severity,
                link,
                _cell(trigger(one, result.devices)),
                "<br>".join(map(_cell, todo(one))),
            ]
            if result.proofs:
                cells.append(", ".join(vote for vote, _ in result.proofs_of(one).values()) or "no witness")
            lines.append(f"| {' | '.join(cells)} |")
        lines += [""] if rows else []
    if not result.of(Answer.HIT):
        lines += ["No report hits.", ""]
    return "\n".join([*lines, *(f"- {_cell(line.strip())}" for line in feet(result))])


def _cell(text: str) -> str:
    return re.sub(r"([|<>])", r"\\\1", text)


def versions(result: Result) -> str:
    """Return the versions in a line."""
    return ", ".join(f"{package} {version}" for package, version in result.found.versions.items())


def as_sarif(result: Result) -> str:
    """Return SARIF 2.1.0: a rule a report, a result a finding that hits, placed where the version is pinned."""
    hits = result.of(Answer.HIT)
    rules = list(dict.fromkeys(one.advisory.about.report for one in hits))
    first = {report: next(one for one in hits if one.advisory.about.report == report) for report in rules}
    driver = {
        "name": "repros",
        "version": __version__,
        "rules": [_rule(first[report]) for report in rules],
    }
    run = {
        "tool": {"driver": driver},
        "results": [_result(one, rules, result) for one in hits],
        "columnKind": "unicodeCodePoints",
    }
    return json.dumps({"$schema": SARIF, "version": "2.1.0", "runs": [run]}, indent=1)


def _rule(one: Finding) -> dict[str, Any]:
    about = one.advisory.about
    return {
        "id": about.report,
        "shortDescription": {"text": one.advisory.summary},
        "fullDescription": {"text": one.advisory.details},
        "helpUri": about.url,
        "defaultConfiguration": {"level": LEVELS[one.mechanism.severity]},
    }


def _result(one: Finding, rules: list[str], result: Result) -> dict[str, Any]:
    report = one.advisory.about.report
    text = f"{one.mechanism.severity}: {trigger(one, result.devices)}. {'; '.join(todo(one))}. {one.why}."
    return {
        "ruleId": report,
        "ruleIndex": rules.index(report),
        "level": LEVELS[one.mechanism.severity],
        "message": {"text": text},
        "locations": [{"physicalLocation": _location(one, result)}],
        "partialFingerprints": {"case/v1": one.mechanism.case},
        "properties": {"case": one.mechanism.case, "own": one.own, "good": good(one), "proofs": _proofs(one, result)},
    }


def _location(one: Finding, result: Result) -> dict[str, Any]:
    """Return where the version that decides is pinned: of the packages that windows name, else any that has a part."""
    named = [package for each in one.of_answer for window in each.condition.windows for package in window]
    places = result.found.places
    place = next((places[package] for package in [*named, *one.mechanism.packages] if package in places), "versions")
    file, line = (found[1], int(found[2])) if (found := re.fullmatch(r"(.+):(\d+)", place)) else (place, 1)
    path = Path(file)
    uri = path.as_uri() if path.is_absolute() else path.as_posix()
    return {"artifactLocation": {"uri": uri}, "region": {"startLine": line}}
