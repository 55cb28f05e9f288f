"""Records as JUnit XML, for CI systems that show it: one suite a case, one test a condition and cell."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from xml.etree import ElementTree as Xml

from repros.redaction.redact import Redactor
from repros.report.clean import redacted
from repros.report.escape import line
from repros.run.results import Record
from repros.run.trial import two_lines
from repros.verdict import Outcome, Verdict


def document(records: Sequence[Record], redactor: Redactor) -> str:
    """Return the document: a failure is a verdict that differs from the record, an error one that was not settled."""
    top = Xml.Element("testsuites", name="repros")
    totals = dict.fromkeys(("tests", "failures", "errors", "skipped"), 0)
    seconds = 0.0
    clean = (redacted(record, redactor) for record in records)
    for case, rows in groupby(sorted(clean, key=lambda record: record.case), lambda record: record.case):
        suite = Xml.SubElement(top, "testsuite", name=line(case))
        counts = dict.fromkeys(totals, 0)
        spent = 0.0
        for record in rows:
            took = sum(arm.seconds.get("total", 0.0) for arm in record.arms)
            spent += took
            name = line(f"{record.condition}[{record.cell}]")
            test = Xml.SubElement(suite, "testcase", classname=line(case), name=name, time=f"{took:.3f}")
            properties = Xml.SubElement(test, "properties")
            for key in ("verdict", "outcome", "reason"):
                value = getattr(record, key)
                Xml.SubElement(properties, "property", name=key, value=line(getattr(value, "value", value)))
            if record.proposed:
                Xml.SubElement(properties, "property", name="proposed fix", value=line(record.proposed["effect"]))
            for arm, one in record.remedies.items():
                Xml.SubElement(properties, "property", name=line(arm), value=line(f"{one['text']}: {one['effect']}"))
            counts["tests"] += 1
            kind, tag = ending(record)
            if tag:
                counts[kind] += 1
                first, _, rest = two_lines(record).partition("\n")
                reason = line(record.reason) if tag == "skipped" else first
                Xml.SubElement(test, tag, message=reason).text = None if tag == "skipped" else f"{first}\n{rest}"
        suite.attrib.update({name: str(count) for name, count in counts.items()}, time=f"{spent:.3f}")
        totals = {name: totals[name] + counts[name] for name in totals}
        seconds += spent
    top.attrib.update({name: str(count) for name, count in totals.items()}, time=f"{seconds:.3f}")
    Xml.indent(top)
    return Xml.tostring(top, encoding="unicode", xml_declaration=True) + "\n"


def ending(record: Record) -> tuple[str, str]:
    """Return the count that a trial goes into and its element; neither for what is as expected."""
    if record.verdict is Verdict.UNSUPPORTED:
        return "skipped", "skipped"
    if record.outcome in (Outcome.REGRESSION, Outcome.FIXED):
        return "failures", "failure"
    return ("errors", "error") if record.failed else ("", "")
