"""The comment of an attachment: at its head what a maintainer reads first, behind ``<details>`` how it is known."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from repros import cases
from repros.cases import Entry
from repros.errors import shortened
from repros.redaction.redact import Redactor
from repros.report import escape, onefile, standing
from repros.report.attachment import tried
from repros.report.attachment.tried import Evidence
from repros.run.results import Record
from repros.verdict import Effect, Verdict, apart, multiple, show

#: What GitHub takes of a comment.
CHARACTERS = 65_536
#: Words before the first `<details>`, without the script.
WORDS = 200
#: Characters of a text at the head; an exception may be a page.
MOST = 160
#: Rows of the list of tensors.
TENSORS = 8
WHAT = {
    "subject": "the installed packages, untouched",
    "reference": "a fixed implementation, plain torch",
    "planted": "the reference with the reported bug put in on purpose",
    "proposed": "the subject with the proposed fix",
}
NOTHING = Evidence()


def comment(
    record: Record,
    mine: Sequence[Record],
    entry: Entry,
    redactor: Redactor,
    *,
    plotted: bool = False,
    histories: Sequence[str] = (),
    evidence: Evidence = NOTHING,
    witness: Path | None = None,
    script: str = "",
) -> str:
    """Return the comment of a trial, among the records ``mine`` of its case: as many characters as GitHub takes.

    ``script`` is the text of the ``witness``.
    """
    condition = entry.condition(record.condition)
    values = {
        **top(record, mine, entry, evidence),
        "own_witness": witness is not None and cases.is_own(witness, entry.path, condition),
        "plot": plotted,
        "histories": list(histories),
    }
    text = ""
    for tensors, elsewhere, doc in ((TENSORS, 60, entry.doc), (TENSORS, 20, entry.doc), (0, 10, entry.doc[:4000])):
        further = arms(record, mine, replace(entry, doc=doc), tensors, elsewhere)
        text = _within_words({**values, **further}, redactor, script)
        if len(text) < CHARACTERS:
            return text
    return escape.cut(text, CHARACTERS - 1, "(cut)\n")


def _within_words(values: Mapping[str, Any], redactor: Redactor, script: str) -> str:
    """Render; where the head is too long, with one row for neighbours that voted alike, then without the reason."""
    clean = redactor.value(dict(values))
    for name in ("reason", "headline", "versions"):  # now: half of a secret is not known for one
        clean[name] = shortened(clean[name], MOST)
    clean["witness"] = {name: shortened(str(said), MOST) for name, said in clean["witness"].items()}
    says = redactor.says().capitalize()
    together = {"rows": clean["together"]}
    return shortest(
        "comment.md.j2", {**clean, "script": script, "redacted": says}, together, {**together, "reason": ""}
    )


def shortest(name: str, values: Mapping[str, Any], *shorter: Mapping[str, Any]) -> str:
    """Render a template, with what makes its head shorter as far as that is too long."""
    template = onefile.template(name)
    text = template.render(**values)
    for less in shorter:
        if words(text) <= WORDS:
            break
        text = template.render(**{**values, **less})
    return text


def words(text: str) -> int:
    """Return how many words a comment has before its first ``<details>``, without the script."""
    return len(re.findall(r"\S*\w\S*", without_script(text).partition("<details>")[0]))


def without_script(text: str) -> str:
    """Return Markdown without its blocks of Python."""
    return re.sub(r"(?ms)^(`{3,})python\n.*?^\1$", "", text)


def top(record: Record, mine: Sequence[Record], entry: Entry, evidence: Evidence) -> dict[str, Any]:
    """Return what the head of the comment says: headline, sentence, table, remedy, fixing commit, link."""
    case, condition = entry.case, entry.condition(record.condition)
    found = tried.of([*tried.alike(record, mine), *evidence.records], condition.affected, case.package)
    package = found.package
    versions = ", ".join(f"{name} {record.versions[name]}" for name in standing.AXES if name in record.versions)
    if not found.rows:
        headline = f"{record.verdict.value} with {versions}"
    elif found.bad is None:
        headline = f"absent in every release tried, {package} {found.span}"
    elif found.good is None:
        newest = found.rows[-1][0]
        headline = f"bad in {package} {found.bad}; no good release is known; newest tried: {newest}"
    else:
        headline = f"bad in {package} {found.bad}, good from {found.good}"
    return {
        "headline": headline,
        "lead": {Verdict.REPRODUCED: "Hits", Verdict.ABSENT: "Does not hit"}.get(record.verdict, "Could not tell for"),
        "trigger": case.trigger,
        "condition": record.condition,
        "versions": versions,
        "reason": record.reason,
        "note": condition.note,
        "package": package,
        "bad": found.bad is not None,
        "rows": tried.rows(found.rows, together=False),
        "together": tried.rows(found.rows, together=True),
        "fixes": " or ".join(f"{fix.package} {fix.by}" for fix in found.fixes),
        "good_with": f"{package} {found.good} is good as tried" if found.good and not found.fixes else "",
        "cure": case.proposes if record.proposed and record.proposed["effect"] == Effect.CURES else "",
        "commit": {name: getattr(evidence.fixed_by, name) for name in ("name", "subject", "url")}
        if evidence.fixed_by
        else None,
        "url": case.url,
        "folders": list(evidence.folders),
        "today": evidence.today,
    }


def arms(record: Record, mine: Sequence[Record], entry: Entry, tensors: int, most: int) -> dict[str, Any]:
    """Return what stands behind ``<details>``: arms, budget, system, at most so many tensors and other cells."""
    case, budget = entry.case, record.budget
    unit, figure, second = str(budget["unit"]), str(budget["figure"]), budget.get("second")
    subject = record.arm("subject")
    same = [other for other in mine if other.condition == record.condition]
    lists = dict(subject.evidence) if subject else {}
    shown = "held" if figure.startswith("held") and lists.get("held") else "alive_at_peak"
    judged = [name for name in (figure, second) if name]
    figures = [arm.reached(name) for arm in record.arms for name in judged]
    more = apart((*figures, *(other.figure("subject") for other in same)), float(budget["limit"]), unit)
    limit = show(float(budget["limit"]), unit, more)
    return {
        "report": case.report,
        "case": entry.name,
        "cell": record.cell,
        "verdict": record.verdict.value,
        "full_reason": record.reason,
        "witness": dict(record.witness),
        "claims": [
            {
                "text": claim.text,
                "reported": "; ".join(f"{name}: {value}" for name, value in claim.reported.items()),
                "standing": standing.of_claim(case, claim, mine).word,
            }
            for claim in case.claims
            if record.condition in case.speaking_to(claim)
        ],
        "system": "\n".join(f"- {escape.line(name)}: {escape.line(value)}" for name, value in system(record)),
        "figure": figure,
        "head": ["arm", "what runs", "reading", *judged, "error"],
        "arms": [
            [
                *(arm.arm, what_of(record, arm.arm), record.readings.get(arm.arm, arm.state)),
                show(reached, unit, more) if (reached := arm.reached(figure)) is not None else arm.state,
                *([show(arm.reached(second), unit, more)] if second else []),
                show(arm.figures.get("error"), "ratio"),
            ]
            for arm in record.arms
        ]
        + [["budget", "", "", *[limit] * len(judged), ""]],
        "control": record.control,
        "margins": [multiple(record.margins.get(name)) for name in ("planted_over_budget", "budget_over_reference")],
        "tensors_of": shown.replace("_", " "),
        "tensors": [
            [
                *(str(row.get(name) or "-") for name in ("shape", "dtype")),  # on a card, owners alone
                *(str(row.get("count", 1)), show(row["bytes"], "bytes"), str(row.get("made_by") or "-")),
            ]
            for row in list(lists.get(shown) or [])[:tensors]
        ],
        "phase": str(subject.exception.get("phase", "")) if subject and subject.exception else "",
        "exception": told(subject.exception) if subject and subject.exception else "",
        "expected": f"{figure} stays within {limit}: the budget is a formula over shapes and dtypes, derived below, "
        "and the reference keeps to it.",
        "elsewhere": [
            [
                *(other.cell, other.verdict.value, show(other.figure("subject"), unit, more)),
                other.proposed["effect"] if other.proposed else "",
            ]
            for other in same[:most]
        ],
        "proposes": case.proposes,
        "remedies": [f"{one.said}: {one.word}; {one.because}" for one in standing.of_remedies(case, mine)],
        "effect": f"{record.proposed['effect']} here ({record.proposed['reason']}); {standing.of_fix(mine, False)}"
        if record.proposed
        else "not tried under this condition",
        "mechanism": entry.doc,
        "date": record.date,
        "command": f"python -m repros bundle {entry.name} --cell {record.cell} --condition {record.condition}",
        "lock": str(record.environment.get("lock", ""))[:16] or "none",
        "source": f"source {record.source[:16]}"
        if record.source
        else "source not noted: it could not be compared with that of `full.py`",
    }


def what_of(record: Record, arm: str) -> str:
    """Return what an arm runs."""
    remedy = record.remedies.get(arm)
    return f"the subject with what a user can do: {remedy['text']}" if remedy else WHAT.get(arm, "")


def told(exception: Mapping[str, Any]) -> str:
    """Return an exception as Python prints it, without its sources."""
    return "\n".join(
        [f"{exception['types'][0]}: {exception['text']}", *(f"  at {frame}" for frame in exception.get("frames", ()))]
    )


def system(record: Record) -> list[tuple[str, str]]:
    """Return the lines that upstream's issue form asks for (``transformers env``), and the packages beside them."""
    packages: Mapping[str, str] = record.environment.get("packages", {})
    machine = record.machine
    gpus = ", ".join(machine.get("gpus") or [])
    rows = [
        ("`transformers` version", packages.get("transformers", "none")),
        ("Platform", f"{machine.get('system', '?')}, {machine.get('libc', '?')}"),
        ("Python version", str(machine.get("python", "?"))),
        ("Huggingface_hub version", packages.get("huggingface_hub", "none")),
        ("Tokenizers version", packages.get("tokenizers", "none")),
        ("Accelerate version", packages.get("accelerate", "none")),
        ("PEFT version", packages.get("peft", "none")),
        ("PyTorch version (accelerator?)", f"{packages.get('torch', 'none')} ({record.device if gpus else 'NA'})"),
        ("bitsandbytes version", packages.get("bitsandbytes", "none")),
        ("GPU type", gpus or "none"),
        ("CPU", f"{machine.get('cpu_model', '?')}, {machine.get('cores', '?')} cores"),
        ("CPU flags", " ".join(machine.get("cpu_flags") or []) or "none of AVX-512 and AMX"),
        ("Using distributed or parallel set-up in script?", "no"),
    ]
    return [*rows, *(("in place of a pin", f"{k}={v}") for k, v in record.environment.get("overrides", {}).items())]
