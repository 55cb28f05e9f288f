"""What an audit found, and what is said of it in words: the one source of table, JSON, Markdown and SARIF."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from repros.advisory.decide import CPU, CUDA, Answer, Finding
from repros.advisory.ignore import Ignored
from repros.advisory.installed import Found

ON = {CPU: "on a CPU", CUDA: "on a GPU"}


@dataclass(frozen=True)
class Result:
    """Findings about one set of versions, and what was ignored."""

    found: Found
    devices: Sequence[str]
    findings: Sequence[Finding]
    ignored: Sequence[tuple[Finding, Ignored]] = ()
    unused: Sequence[Ignored] = ()
    proofs: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Script of a witness -> its vote and last words."""

    def of(self, answer: Answer) -> list[Finding]:
        """Return the findings of one answer."""
        return [one for one in self.findings if one.answer is answer]

    def proofs_of(self, one: Finding) -> dict[str, tuple[str, str]]:
        """Return script -> vote and last words, of the witnesses of what a finding says."""
        mine = {each.condition.witness for each in one.of_answer}
        return {name: proof for name, proof in self.proofs.items() if name in mine}

    @property
    def claimed(self) -> list[Finding]:
        """Return the hits that the reports claim themselves."""
        return [one for one in self.of(Answer.HIT) if one.own]

    @property
    def beside(self) -> list[Finding]:
        """Return the hits that were found beside the reports, but for what a report's own row says already."""
        said = {(one.advisory.id, one.mechanism.trigger) for one in self.claimed}
        found = [one for one in self.of(Answer.HIT) if not one.own]
        return [one for one in found if (one.advisory.id, one.mechanism.trigger) not in said]


def trigger(finding: Finding, devices: Sequence[str]) -> str:
    """Return what must be in use, and on which device where it is known not to hit on the other."""
    answers = {device: answer for device, (answer, _) in finding.by_device.items()}
    hit = [device for device in devices if answers.get(device) is Answer.HIT]
    not_hit = [device for device in devices if answers.get(device) is Answer.NOT_HIT]
    text = finding.mechanism.trigger
    if hit and not_hit and ON[hit[0]] not in text:
        return f"{text}, {ON[hit[0]]}"
    return f"{text}, {ON[CUDA]}" if hit == [CUDA] and len(devices) > 1 and CPU not in answers else text


def todo(finding: Finding) -> list[str]:
    """Return what to do: remedies that a trial shows, then the release that is good."""
    mechanism = finding.mechanism
    return [*(remedy.text for remedy in mechanism.remedies), good(finding)]


def useless(finding: Finding) -> list[str]:
    """Return what is recommended and does not help, with what it does."""
    return [f"{remedy.text} ({remedy.standing})" for remedy in finding.mechanism.useless]


def good(finding: Finding) -> str:
    """Return the release to upgrade to."""
    releases = " and ".join(f"{package} {release}" for package, release in finding.upgrade.items())
    return f"upgrade to {releases}" if releases else "no release that was tried is good"


def feet(result: Result) -> list[str]:
    """Return the lines below the findings: what does not hit, what is unknown, what was left out."""
    not_hit, unknown = result.of(Answer.NOT_HIT), result.of(Answer.UNKNOWN)
    lines = [f"{len(not_hit)} not hit"] if not_hit else []
    absent = [one for one in not_hit if one.why.endswith("is not installed")]
    lines += [f"  {why}: {_reports(each)}" for why, each in _by_reason(absent).items()]
    if unknown:
        lines.append(f"{len(unknown)} unknown")
        lines += [f"  {why}: {_reports(each)}" for why, each in _by_reason(unknown).items()]
    for device in result.devices if len(result.devices) > 1 else ():
        lines += _unknown_on(device, result)
    lines += [f"ignored: {one.advisory.about.report} ({one.mechanism.case}): {by.reason}" for one, by in result.ignored]
    lines += [f"{one.place}: {one.name} is ignored, and hits nothing here" for one in result.unused]
    lines += result.found.notes
    return lines


def _unknown_on(device: str, result: Result) -> list[str]:
    """Return of which hits it is unknown whether they hit on that device too."""
    found: dict[str, list[Finding]] = {}
    for one in result.of(Answer.HIT):
        answer, why = one.by_device.get(device, (Answer.HIT, ""))
        if answer is Answer.UNKNOWN:
            found.setdefault(why, []).append(one)
    return [f"{len(each)} of those that hit: unknown {ON[device]}: {why}" for why, each in found.items()]


def _by_reason(findings: Sequence[Finding]) -> dict[str, list[Finding]]:
    found: dict[str, list[Finding]] = {}
    for one in findings:
        found.setdefault(one.why, []).append(one)
    return found


def _reports(findings: Sequence[Finding]) -> str:
    return ", ".join(dict.fromkeys(one.advisory.about.report for one in findings))
