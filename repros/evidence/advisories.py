"""Advisories, made of cases and committed evidence: no release in them was typed."""

from __future__ import annotations

import ast
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from urllib.parse import quote

import msgspec
from packaging.version import Version

from repros import ROOT
from repros.advisory import model
from repros.case import AXES, COMPANIONS, REPOSITORIES
from repros.case import Condition as Declared
from repros.cases import Entry, sources
from repros.errors import UserError
from repros.evidence import story
from repros.report import rows, standing
from repros.run.results import Record
from repros.verdict import SETTLED, Verdict

#: What can have a part in a bug: a package under test, or one that goes with it and that arms import themselves.
PACKAGES = (*AXES, *COMPANIONS)


@dataclass(frozen=True)
class Evidence:
    """What is committed: trials, each once; every record of a trial or of a bisection's probe of a release; fixes."""

    trials: Sequence[Record]
    every: Sequence[Record]
    fixes: Mapping[tuple[str, str], str] = field(default_factory=dict)
    """Case and condition -> address of the commit that ended it."""


def advisories(evidence: Evidence, known: Mapping[str, Entry]) -> list[model.Advisory]:
    """Return the advisory of each report that has trials."""
    return [_advisory(entries, evidence) for entries in standing.by_report(known, evidence.trials)]


def files(made: Iterable[model.Advisory]) -> dict[str, str]:
    """Return file name -> text."""
    return {model.file_name(one.about.report): model.text(one) for one in made}


def stale(where: Path, wanted: Mapping[str, str]) -> list[str]:
    """Return the names of the files in a folder that are not as they are to be: missing, other, or of no report."""
    found = {path.name: path.read_text(encoding="utf-8") for path in where.glob("*.json")}
    return sorted(name for name in {*found, *wanted} if found.get(name) != wanted.get(name))


def _advisory(entries: Sequence[Entry], evidence: Evidence) -> model.Advisory:
    names = {entry.name for entry in entries}
    trials = [record for record in evidence.trials if record.case in names]
    every = [record for record in evidence.every if record.case in names and record.verdict in SETTLED]
    row, case = rows.row(entries, every), entries[0].case
    path = rows.reading_path(entries[0])
    short = story.parts(path, story.Results(evidence.trials, path, entries))["in short"]
    dates = sorted(record.date for record in every if record.date)
    fixes = [url for (name, _), url in evidence.fixes.items() if name in names]
    return model.Advisory(
        schema_version=model.OSV,
        id=model.PREFIX + case.report.replace("#", "-"),
        modified=dates[-1],
        published=dates[0],
        summary=row.title,
        details=_details(row, short),
        aliases=[case.report],
        related=sorted({other for entry in entries for other in entry.case.also}),
        affected=affected(row, [record for entry in entries for record in rows.own_records(entry, every)], entries),
        references=[model.Reference("REPORT", row.url), *_references(entries, fixes)],
        database_specific=model.Specific(
            report=case.report,
            url=row.url,
            kind=case.kind,
            status=case.status,
            story=(Path("reports/stories") / model.file_name(case.report)).with_suffix(".md").as_posix(),
            claims=row.claims,
            refuted=row.refuted,
            lines=msgspec.convert([asdict(line) for line in row.lines], list[model.Line]),
            mechanisms=[_mechanism(entry, trials, every) for entry in entries],
        ),
    )


def _details(row: rows.Row, short: str) -> str:
    """Return what the story has in short, and who is hit."""
    hit = "\n".join(f"- {line.hit}: {line.bad}; good from: {line.good}" for line in row.lines if line.case)
    return f"{' '.join(short.split())}\n\nWho is hit:\n\n{hit}" if hit else " ".join(short.split())


def _references(entries: Sequence[Entry], fixes: Iterable[str]) -> list[model.Reference]:
    """Return the links to the fix: the commit that a bisection found, and the pull request that the report names."""
    urls = list(fixes)
    for case in (entry.case for entry in entries if entry.case.fix):
        package, kind, name = re.split("([#@])", case.fix)
        urls.append(f"https://github.com/{REPOSITORIES[package]}/{'pull' if kind == '#' else 'commit'}/{name}")
    return [model.Reference("FIX", quote(url, safe=":/#")) for url in dict.fromkeys(urls)]


# --- releases ------------------------------------------------------------------------------------


def affected(row: rows.Row, every: Sequence[Record], entries: Sequence[Entry]) -> list[model.Affected]:
    """Return the affected releases of the packages whose releases decide, over what the report claims itself."""
    blamed = {entry.name: entry.case.blamed for entry in entries}
    found: dict[str, list[Record]] = {}
    for line in row.lines:
        mine = [record for record in every if record.case == line.case]
        for package in line.upgrade or ([standing.deciding(mine, blamed[line.case])] if mine else ()):
            found.setdefault(package, []).extend(mine)
    return [_affected(package, records) for package, records in found.items()]


def _affected(package: str, records: Sequence[Record]) -> model.Affected:
    bad = releases((r for r in records if r.verdict is Verdict.REPRODUCED), package)
    merged: list[dict[str, str]] = []
    each = [run for mine in standing.by_condition(records).values() for run in _runs(package, mine)]
    for events in sorted(each, key=lambda run: _at(run, "introduced")):
        if merged and _at(events, "introduced") <= max(map(Version, merged[-1].values())):
            merged[-1] = _longer(merged[-1], events)
        else:
            merged.append(events)
    ranges = [model.Range("ECOSYSTEM", [{name: release} for name, release in one.items()]) for one in merged]
    return model.Affected(model.Package("PyPI", package), ranges, bad)


def _runs(package: str, records: Sequence[Record]) -> Iterator[dict[str, str]]:
    """Yield each run of releases with the symptom of one condition: its first, then ``fixed`` or ``last_affected``."""
    bad = set(releases((r for r in records if r.verdict is Verdict.REPRODUCED), package))
    runs = [(is_bad, list(each)) for is_bad, each in itertools.groupby(releases(records, package), bad.__contains__)]
    for (is_bad, several), after in itertools.zip_longest(runs, runs[1:]):
        if is_bad:
            yield {"introduced": several[0], **({"fixed": after[1][0]} if after else {"last_affected": several[-1]})}


def _longer(one: dict[str, str], other: dict[str, str]) -> dict[str, str]:
    """Return the run that two overlapping ones make together: the end is the later, of two alike the affected one."""
    ends = [(Version(release), name, release) for run in (one, other) for name, release in list(run.items())[1:]]
    _, name, release = max(ends, key=lambda end: (end[0], end[1] == "last_affected"))
    return {"introduced": one["introduced"], name: release}


def _at(run: Mapping[str, str], name: str) -> Version:
    return Version(run[name])


def releases(records: Iterable[Record], package: str) -> list[str]:
    """Return the releases of a package that were tried, each once, the oldest first."""
    found = {record.versions.get(package, "") for record in records}
    return sorted(filter(None, found), key=Version)


# --- mechanisms ----------------------------------------------------------------------------------


def _mechanism(entry: Entry, trials: Sequence[Record], every: Sequence[Record]) -> model.Mechanism:
    case, imports = entry.case, imported(entry)
    own = rows.own_conditions(entry)
    by_condition = standing.by_condition(every)
    conditions = [
        _condition(entry, one, one.name in own, imports, by_condition.get((entry.name, one.name), []))
        for one in case.conditions
        if not one.control
    ]
    mine = [record for record in every if record.case == entry.name]
    sides = [[record for record in mine if (record.condition in own) is claimed] for claimed in (True, False)]
    good, good_beside = ({fix.package: str(fix.by) for fix in standing.good_from(side)} for side in sides)
    return model.Mechanism(
        case=entry.name,
        severity=case.severity,  # type: ignore[arg-type]  # a declaration is checked to be one of them
        trigger=case.trigger,
        packages=[package for package in PACKAGES if any(package in one.tried for one in conditions)],
        conditions=[one for one in conditions if one.tried],
        upgrade=good,
        upgrade_beside=good_beside,
        **_remedies(entry, mine),
    )


def _remedies(entry: Entry, every: Sequence[Record]) -> dict[str, list[model.Remedy]]:
    """Return what a user can do today, and what is recommended and does not cure."""
    tried = standing.of_remedies(entry.case, every)
    found: dict[str, list[model.Remedy]] = {"remedies": [], "useless": []}
    for one in tried:
        found["remedies" if one.works else "useless"].append(model.Remedy(one.said, one.word, one.because))
    return found


def _condition(
    entry: Entry, declared: Declared, own: bool, imports: frozenset[str], records: Sequence[Record]
) -> model.Condition:
    windows = [dict(window.versions) for window in declared.affected or ()]
    named = {package for window in windows for package in window}
    # Of a need that no window names, the package has no part in the bug: one of its releases was enough for the trial.
    part = (imports | named) - (set(declared.needs.packages) - named)
    needs = model.Needs(
        packages={package: spec for package, spec in declared.needs.packages.items() if package in named},
        compiler=declared.needs.compiler,
        cpu=list(declared.needs.cpu),
        cards=declared.needs.cards,
        card_bytes=declared.needs.card_bytes,
        reason=declared.needs.reason,
    )
    verdicts = [record.verdict for record in records]
    tried = {package: found for package in PACKAGES if package in part and (found := releases(records, package))}
    return model.Condition(
        name=declared.name,
        device=declared.device,  # type: ignore[arg-type]  # a declaration is checked to be one of them
        own=own,
        windows=windows,
        tried=tried,
        reproduced=verdicts.count(Verdict.REPRODUCED),
        absent=verdicts.count(Verdict.ABSENT),
        needs=needs,
        witness=entry.path.with_name(declared.witness).relative_to(ROOT).as_posix() if declared.witness else "",
    )


def imported(entry: Entry) -> frozenset[str]:
    """Return the packages that a case's arms import, in its own file or in helpers."""
    found: set[str] = set()
    for path, source in sources.own(entry.module).items():
        if not path.endswith(".py") or path.startswith("repros/reference/"):
            continue
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Import):
                found |= {one.name.partition(".")[0] for one in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                found.add(node.module.partition(".")[0])
    if not found & set(AXES):
        what = f"{entry.path.name}: its arms import no package under test"
        raise UserError(what, "an advisory cannot say which releases it depends on")
    return frozenset(found) & frozenset(PACKAGES)
