"""What somebody chose to ignore, and why: lines such as ``bitsandbytes#1849  no mixture of experts here``."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from repros.advisory.decide import Answer, Finding
from repros.errors import UserError, shortened

_LINE = re.compile(r"([a-z_]+#[0-9]{1,9}|gh[0-9]+_\w+)(?:\s+(\S.*))?")


@dataclass(frozen=True)
class Ignored:
    """A report, or one case of it, and the reason."""

    name: str
    reason: str
    place: str

    def matches(self, finding: Finding) -> bool:
        """Return whether a finding is of this report or case."""
        return self.name in (finding.advisory.about.report, finding.mechanism.case)


def read(path: Path) -> list[Ignored]:
    """Return what a file ignores; ``#`` begins a comment. UserError for what is no report, or has no reason."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}", "name a file of lines such as `bitsandbytes#1849  why`") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: byte {error.start} is not UTF-8", "save it as UTF-8") from None
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        matched = _LINE.fullmatch(line)
        if matched is None:
            what = f"{path}:{number}: `{shortened(line)}` begins with no report or case"
            raise UserError(what, "write `bitsandbytes#1849  why it does not matter here`")
        if not matched[2]:
            raise UserError(
                f"{path}:{number}: {matched[1]} without a reason", "say after it why it does not matter here"
            )
        found.append(Ignored(matched[1], matched[2], f"{path}:{number}"))
    return found


def split(
    findings: Iterable[Finding], ignored: Sequence[Ignored]
) -> tuple[list[Finding], list[tuple[Finding, Ignored]], list[Ignored]]:
    """Return the findings that are left, those that are ignored, and what ignores nothing that hits or is unknown."""
    left: list[Finding] = []
    out: list[tuple[Finding, Ignored]] = []
    for finding in findings:
        by = [one for one in ignored if finding.answer is not Answer.NOT_HIT and one.matches(finding)]
        out += [(finding, one) for one in by[:1]]
        left += [] if by else [finding]
    used = {one for finding, _ in out for one in ignored if one.matches(finding)}
    return left, out, [one for one in ignored if one not in used]
