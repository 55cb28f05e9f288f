"""What GitHub shows of a run beside its summary: annotations of a job, and alerts by SARIF."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from repros import __version__
from repros.cases import Entry
from repros.redaction.redact import Redactor
from repros.report.clean import redacted
from repros.report.escape import line
from repros.run.record import Record
from repros.run.trial import two_lines
from repros.verdict import Outcome

SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
#: A change of a package is of no line: an alert stands at the head of the file that every checkout has.
PLACE = "pyproject.toml"
#: Annotations that GitHub keeps of one step.
MOST = 10


def workflow_commands(records: Sequence[Record], known: Mapping[str, Entry], redactor: Redactor) -> str:
    """Return workflow commands: an error a regression, a warning what else failed; what is beyond ten is counted."""
    failed = sorted(_failed(records, redactor), key=lambda one: one.outcome is not Outcome.REGRESSION)
    shown = failed if len(failed) <= MOST else failed[: MOST - 1]
    rows = []
    for one in shown:
        level = "error" if one.outcome is Outcome.REGRESSION else "warning"
        title = f"{_report(one, known)}: {one.outcome.value}"
        rows.append(f"::{level} title={_property(line(title))}::{_data(two_lines(one))}")
    if len(shown) < len(failed):
        rows.append(f"::warning title=repros::{len(failed) - len(shown)} more trials failed: see the job's summary")
    return "".join(f"{row}\n" for row in rows)


def sarif(records: Sequence[Record], known: Mapping[str, Entry], redactor: Redactor) -> str:
    """Return SARIF 2.1.0: a rule a report, a result a trial that failed."""
    failed = _failed(records, redactor)
    first = {_report(one, known): one for one in reversed(failed)}
    rules = list(dict.fromkeys(_report(one, known) for one in failed))
    driver = {
        "name": "repros",
        "version": __version__,
        "rules": [_rule(name, known.get(first[name].case)) for name in rules],
    }
    found = [
        {
            "ruleId": _report(one, known),
            "ruleIndex": rules.index(_report(one, known)),
            "level": "error" if one.outcome is Outcome.REGRESSION else "warning",
            "message": {"text": two_lines(one)},
            "locations": [
                {"physicalLocation": {"artifactLocation": {"uri": PLACE}, "region": {"startLine": 1}}},
            ],
            "partialFingerprints": {"trial/v1": f"{one.case}[{one.condition}]"},
            "properties": {"cell": one.cell, "verdict": one.verdict.value, "outcome": one.outcome.value},
        }
        for one in failed
    ]
    run = {"tool": {"driver": driver}, "results": found, "columnKind": "unicodeCodePoints"}
    return json.dumps({"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}, indent=1)


def _failed(records: Sequence[Record], redactor: Redactor) -> list[Record]:
    return [redacted(record, redactor) for record in records if record.failed]


def _report(record: Record, known: Mapping[str, Entry]) -> str:
    return known[record.case].case.report if record.case in known else record.case


def _rule(name: str, entry: Entry | None) -> dict[str, object]:
    if entry is None:
        return {"id": name, "shortDescription": {"text": name}}
    case = entry.case
    return {
        "id": name,
        "shortDescription": {"text": case.title},
        "fullDescription": {"text": f"hits {case.trigger}"},
        "helpUri": case.url,
    }


def _data(text: str) -> str:
    """Escape a message of a workflow command."""
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
