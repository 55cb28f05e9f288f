"""What committed bisections say of a condition: their probes as records, and the commit that ended it."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from repros.bisect.probe import PROBES, Probe, load
from repros.bisect.search import BAD, GOOD
from repros.case import REPOSITORIES
from repros.cases import aliases
from repros.errors import UserError
from repros.report.attachment.tried import Bisected, Commit
from repros.report.escape import cell
from repros.report.machine import rank
from repros.run.results import Record, shown
from repros.run.vote import NO_CONTROLS
from repros.verdict import Outcome, Verdict

#: Of a bisection's page: over what it walked, and a search's row of the overview with the first fixed revision.
_WALKED = re.compile(r"(?m)^Walked: (\w+), (commits|releases) ")
_EDGE = re.compile(
    r"(first bad|first fixed) \*\*`?([\w.+!-]+)`?\*\*(?: \(after `?([\w.+!-]+)`?\)|, after `?([\w.+!-]+)`?)"
)
_FIXED = re.compile(r"(?m)^\| `?(\w+)`? \| `?([\w.+-]+)`? \| found \| .*first fixed \*\*`?([0-9a-f]{7,40})`?\*\*")


def records(folder: Path, case: str, condition: str) -> list[Record]:
    """Return the probes of releases of a condition; of commits none, whose version says nothing of a release."""
    return [record for record in of_releases(folder) if (record.case, record.condition) == (case, condition)]


def of_releases(folder: Path) -> list[Record]:
    """Return the probes of releases of a bisection, of all its cases and conditions."""
    return [
        _record(probe)
        for probe in load(folder / PROBES)
        if probe.packages.get(probe.package, "").partition("+")[0] == probe.revision
    ]


def _record(probe: Probe) -> Record:
    package = probe.package
    return Record(
        probe.case, probe.condition, f"{package} {probe.revision}", "cpu", Verdict(probe.verdict), Outcome.NEW, False,
        None, probe.reason, {}, environment={"packages": dict(probe.packages)}, date=probe.date,
    )  # fmt: skip


def fixed_by(folder: Path, case: str, condition: str) -> Commit | None:
    """Return the commit that a bisection's page names as the first without the symptom; None if it names none."""
    page = folder / "README.md"
    text = page.read_text(encoding="utf-8") if page.is_file() else ""
    walked = _WALKED.search(text)
    for was, name, commit in _FIXED.findall(text):
        if walked and walked[2] == "commits" and (aliases.now(was, name), name) == (case, condition):
            return _commit(text, walked[1], commit)
    return None


def _commit(page: str, package: str, commit: str) -> Commit:
    """Return a commit that a page names, with what the page says of it."""
    subject = re.search(rf"(?m)^  - `?{commit}`?: (.*?)(?: \[library of .*)?$", page)
    home = REPOSITORIES.get(package)
    url = f"https://github.com/{home}/commit/{commit}" if home else ""
    return Commit(package, commit, subject[1].strip("`") if subject else "", url)


def of_script(places: Iterable[Path], name: str, rule: str, digest: str) -> list[Bisected]:
    """Return where bisections found that a script began or ceased to be bad; of this source alone, under this rule."""
    found: list[Bisected] = []
    for folder in places:
        page = folder / "README.md"
        text = page.read_text(encoding="utf-8", errors="replace") if page.is_file() else ""
        walked = _WALKED.search(text)
        rows = [one for one in text.splitlines() if one.startswith(f"| {cell(name)} | {cell(rule)} | ")]
        if walked is None or not rows or f"\nThere are {NO_CONTROLS}. Its source: `{digest}`.\n" not in text:
            continue
        for kind, revision, after, before in _EDGE.findall(rows[0]):
            commit = _commit(text, walked[1], revision) if walked[2] == "commits" else Commit(walked[1], revision)
            found.append(Bisected(kind, commit, after or before, exact=bool(after)))
    return list(dict.fromkeys(found))


def windows(folder: Path) -> tuple[str, list[str]]:
    """Return the package that a bisection walked and, as PEP 440 specifiers, in which of its releases a script is bad.

    UserError where the folder has no bisection over releases, or several.
    """
    probes = load(folder / PROBES) if (folder / PROBES).is_file() else []
    searches = {(probe.case, probe.condition, probe.package) for probe in probes}
    votes = {rank(probe.revision): vote for probe in probes if (vote := _vote(probe))}
    votes.pop(rank(""), None)  # a commit is no release
    if len(searches) != 1 or not votes:
        what = f"{len(searches)} searches, {len(votes)} releases with a vote"
        raise UserError(
            f"{shown(folder)}: {what}", "name the folder of a bisection of this script alone, over releases"
        )
    edges = [next(run) for _, run in itertools.groupby(sorted(votes.items()), key=lambda one: one[1])]
    ends = [release for release, _ in edges[1:]]
    specifiers = [
        f">={release}" + (f",<{end}" if end else "")
        for (release, vote), end in itertools.zip_longest(edges, ends)
        if vote == BAD
    ]
    return next(iter(searches))[2], specifiers


def _vote(probe: Probe) -> str:
    """Return good or bad, of a trial or of a script; empty where the votes were others, or split."""
    words = {vote.partition(":")[0] for vote in probe.votes}
    return words.pop() if words in ({GOOD}, {BAD}) else ""


def folders(reports: Path) -> Iterator[Path]:
    """Yield the folders of committed bisections."""
    yield from sorted(path.parent for path in (reports / "bisect").glob(f"*/{PROBES}"))


def runs(reports: Path) -> Iterator[Path]:
    """Yield the folders of bisections that are kept and not committed."""
    yield from sorted(path.parent for path in (reports / "runs").glob(f"*/{PROBES}"))
