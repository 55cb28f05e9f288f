"""What the records say of a claim, of a proposed fix and of a remedy. Pure: from records alone."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from packaging.version import Version

from repros.case import Case, Claim, Needs
from repros.cases import Entry
from repros.cells import matrix
from repros.report.machine import rank
from repros.run.results import Record
from repros.verdict import SETTLED, Effect, Verdict

AXES = matrix.AXES[::-1]  # the package nearest to the report first
#: What may tell reproduced from absent: companions too, which differ where a trial was made with another release.
TELLING = (*AXES, "accelerate", "peft")


@dataclass(frozen=True)
class Standing:
    """A claim's standing and the sentence that says on what it rests."""

    word: str
    because: str


def by_case(records: Iterable[Record]) -> dict[str, list[Record]]:
    """Return case -> its records, cases in the order in which they come first."""
    found: dict[str, list[Record]] = {}
    for record in records:
        found.setdefault(record.case, []).append(record)
    return found


def by_report(known: Mapping[str, Entry], records: Iterable[Record]) -> list[list[Entry]]:
    """Return the cases of each report that has trials among the records."""
    tried = {record.case for record in records}
    entries = sorted((e for e in known.values() if e.name in tried), key=lambda e: (e.case.package, e.case.number))
    return [list(several) for _, several in itertools.groupby(entries, key=lambda e: e.case.report)]


def of_claim(case: Case, claim: Claim, records: Sequence[Record]) -> Standing:
    """Return the standing of a claim by the records of its case alone."""
    return of(speaking(case, claim, records))


def speaking(case: Case, claim: Claim, records: Iterable[Record]) -> list[Record]:
    """Return those of a case's records that speak to a claim."""
    conditions = case.speaking_to(claim)
    return [record for record in records if record.condition in conditions]


def of(records: Iterable[Record]) -> Standing:
    """Return what these records say together of the claim that they speak to, of one case or of several.

    It is untested, refuted, confirmed, confirmed under conditions, or fixed in a release.
    """
    spoken = [r for r in records if r.verdict in SETTLED]
    if not spoken:
        return Standing("untested", "no trial of it came to a verdict")
    bad = [r for r in spoken if r.verdict is Verdict.REPRODUCED]
    if not bad:
        return Standing("refuted", f"absent in all {len(spoken)} trials ({_spread(spoken)})")
    if len(bad) == len(spoken):
        return Standing("confirmed", f"reproduced in all {len(spoken)} trials ({_spread(spoken)})")
    found: dict[Edges, list[str]] = {}
    for condition in dict.fromkeys(r.condition for r in bad):
        found.setdefault(edges([r for r in spoken if r.condition == condition]), []).append(condition)
    sentences = [f"{edge.text}: {', '.join(conditions)}" for edge, conditions in found.items()]
    never = [c for c in dict.fromkeys(r.condition for r in spoken) if c not in {r.condition for r in bad}]
    if never:
        sentences.append(f"absent in every cell: {', '.join(never)}")
    if all(edge.fixed_in for edge in found):
        word = f"fixed in {_fixed([edge.fixed_in for edge in found])}"
    else:
        word = "confirmed under conditions"
    return Standing(word, "; ".join(sentences))


def claims_of(entries: Iterable[Entry]) -> dict[str, list[tuple[Entry, Claim]]]:
    """Return what a report claims -> the cases that speak to it: one claim may be of several."""
    found: dict[str, list[tuple[Entry, Claim]]] = {}
    for entry in entries:
        for claim in entry.case.claims:
            found.setdefault(claim.text, []).append((entry, claim))
    return found


def spoken(told: Iterable[tuple[Entry, Claim]], records: Sequence[Record]) -> list[Record]:
    """Return the records that speak to a claim, of each of its cases."""
    return [
        record
        for entry, claim in told
        for record in speaking(entry.case, claim, (r for r in records if r.case == entry.name))
    ]


@dataclass(frozen=True, order=True)
class Fix:
    """Releases of a package of which one ended a symptom: the first that was tried without it, after the last with."""

    package: str
    after: Version
    by: Version

    def __str__(self) -> str:
        return f"{self.package} >{self.after},<={self.by}"


def _fixed(conditions: Sequence[Sequence[Fix]]) -> str:
    """Return what ends a symptom under all conditions; else all that end it under one, and that it is so."""
    merged = _merged(itertools.chain(*conditions))
    each = [{merged[fix] for fix in several} for several in conditions]
    of_all = set.intersection(*each)
    if of_all:
        return " or ".join(map(str, sorted(of_all)))
    return " or ".join(map(str, sorted(set.union(*each)))) + ", by condition"


def by_condition(records: Iterable[Record]) -> dict[tuple[str, str], list[Record]]:
    """Return case and condition -> the records of both, in the order in which they come first."""
    found: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        found.setdefault((record.case, record.condition), []).append(record)
    return found


def good_from(records: Sequence[Record]) -> tuple[Fix, ...]:
    """Return the releases, one a package, from which no condition of these trials has the symptom any more.

    The fewest packages that will do; empty where nothing was reproduced, and where a condition has no end.
    """
    settled = by_condition(r for r in records if r.verdict in SETTLED).values()
    ends = [edges(rows).fixed_in for rows in settled if any(r.verdict is Verdict.REPRODUCED for r in rows)]
    merged = _merged(itertools.chain(*ends))
    each = [{merged[fix] for fix in several} for several in ends]
    fixes = sorted(set().union(*each))
    for size in range(1, len(fixes) + 1):
        for chosen in itertools.combinations(fixes, size):
            if all(several.intersection(chosen) for several in each):
                return tuple({fix.package: fix for fix in chosen}.values())  # of one package the newest
    return ()


def deciding(records: Sequence[Record], fallback: str) -> str:
    """Return the package whose releases tell reproduced from absent under the most conditions; else the fallback."""
    counts: Counter[str] = Counter()
    for rows in by_condition(r for r in records if r.verdict in SETTLED).values():
        good, bad = ([r for r in rows if r.verdict is verdict] for verdict in (Verdict.ABSENT, Verdict.REPRODUCED))
        if good and bad:
            counts.update(axis for axis in TELLING if _tells(_versions(bad, axis), _versions(good, axis)))
    return counts.most_common(1)[0][0] if counts else fallback


def bad_releases(records: Sequence[Record], package: str) -> str:
    """Return in words which tried releases of a package have the symptom.

    What one condition has on both sides of a release is no gap, though another was tried in it and is without it.
    """
    settled = [r for r in records if r.verdict in SETTLED]
    spans = [span for rows in by_condition(settled).values() for span in _bad_spans(rows, package)]
    tried = _versions(settled, package)
    within = [any(first <= release <= last for first, last in spans) for release in tried]
    runs = itertools.groupby(zip(within, tried, strict=True), lambda one: one[0])
    return ", ".join(_span([release for _, release in several]) for is_bad, several in runs if is_bad)


def _bad_spans(records: Sequence[Record], package: str) -> list[tuple[Version, Version]]:
    """Return the first and last release of each run of releases that have the symptom of one condition."""
    bad = _versions((r for r in records if r.verdict is Verdict.REPRODUCED), package)
    runs = [(is_bad, list(each)) for is_bad, each in itertools.groupby(_versions(records, package), bad.__contains__)]
    return [(several[0], several[-1]) for is_bad, several in runs if is_bad]


def _merged(fixes: Iterable[Fix]) -> dict[Fix, Fix]:
    """Return each fix as what it and those that overlap with it say together, where one release can be all of them.

    That is after the last release that had the symptom, by the last that was the first without it.
    """
    groups: list[list[Fix]] = []
    for fix in sorted(set(fixes)):
        if groups and groups[-1][0].package == fix.package and fix.after < min(other.by for other in groups[-1]):
            groups[-1].append(fix)
        else:
            groups.append([fix])
    return {
        fix: Fix(fix.package, max(other.after for other in group), max(other.by for other in group))
        for group in groups
        for fix in group
    }


def fixed_in(package: str, records: Sequence[Record]) -> Fix | None:
    """Return in which newer release of a package the symptom of one condition is gone; None where none is known.

    That release was tried with the other packages at releases that have the symptom.
    """
    bad, good = ([r for r in records if r.verdict is verdict] for verdict in (Verdict.REPRODUCED, Verdict.ABSENT))
    return next(iter(_fixes(package, bad, good)), None) if bad else None


@dataclass(frozen=True)
class Edges:
    """Between which tried releases a symptom came and went.

    Each of ``fixed_in`` ends it: a cell whose other packages are of releases that had it is without it there. There is
    none while the newest releases have it.
    """

    text: str
    fixed_in: tuple[Fix, ...] = ()


def edges(group: Sequence[Record]) -> Edges:
    """Find the package whose tried versions tell reproduced from absent apart, and its edges; else the two together."""
    bad = [r for r in group if r.verdict is Verdict.REPRODUCED]
    good = [r for r in group if r.verdict is Verdict.ABSENT]
    if not good:
        return Edges("reproduced in every cell")
    found = []
    for package in TELLING:
        with_it, without = _versions(bad, package), _versions(good, package)
        if not _tells(with_it, without):
            continue
        versions = sorted(with_it + without)
        runs = [(is_bad, list(several)) for is_bad, several in itertools.groupby(versions, with_it.__contains__)]
        parts = [f"{'reproduced' if is_bad else 'absent'} in {_span(several)}" for is_bad, several in runs]
        found.append(Edges(f"{package} {', '.join(parts)}", _fixes(package, bad, good)))
    if len(found) == 1:
        return found[0]
    if found:  # these cells cannot tell which of the packages it was
        return Edges(" or ".join(edge.text for edge in found))
    pairs = [together for pair in itertools.combinations(AXES, 2) if (together := _together(pair, bad, good))]
    if len(pairs) == 1:
        return pairs[0]
    cells = ", ".join(r.cell for r in bad)
    return Edges(f"reproduced in {cells}; absent in {len(good)} other cells")


def _tells(bad: Sequence[Version], good: Sequence[Version]) -> bool:
    """Return whether the releases of a package tell trials apart: both sides have some, and none in common."""
    return bool(bad and good) and not set(bad) & set(good)


def _together(pair: tuple[str, str], bad: Sequence[Record], good: Sequence[Record]) -> Edges | None:
    """Return the edges of a symptom that takes a range of one package and a range of another; None if it does not.

    Every cell with both in their ranges has it, and no other cell.
    """
    ranges = {package: _versions(bad, package) for package in pair}
    if any(all(_within(r, package, ranges[package]) for package in pair) for r in good):
        return None
    needs = " and ".join(f"{package} {_span(versions)}" for package, versions in ranges.items())
    absent = []
    for package, versions in ranges.items():
        others = _versions(good, package)
        beyond = [v for v in others if v < versions[0]], [v for v in others if v > versions[-1]]
        absent += [f"{package} {_span(part)}" for part in beyond if part]
    fixed = (*_fixes(pair[0], bad, good), *_fixes(pair[1], bad, good))
    return Edges(f"reproduced with {needs}, absent with {' or '.join(absent)}", fixed)


def _fixes(package: str, bad: Sequence[Record], good: Sequence[Record]) -> tuple[Fix, ...]:
    """Return in which newer release of a package it is gone, if that was tried with nothing else out of its range."""
    last = _versions(bad, package)[-1]
    others = {axis: _versions(bad, axis) for axis in AXES if axis != package}
    alone = [r for r in good if all(_within(r, axis, versions) for axis, versions in others.items())]
    newer = [version for version in _versions(alone, package) if version > last]
    return (Fix(package, last, newer[0]),) if newer else ()


def _versions(records: Iterable[Record], package: str) -> list[Version]:
    """Return the releases of a package that were tried, each once, from the oldest."""
    return sorted({_version(r, package) for r in records})


def _within(record: Record, package: str, versions: Sequence[Version]) -> bool:
    return versions[0] <= _version(record, package) <= versions[-1]


def _span(versions: Sequence[Version]) -> str:
    return str(versions[0]) if len(versions) == 1 else f"{versions[0]} to {versions[-1]}"


def _version(record: Record, package: str) -> Version:
    return rank(record.versions.get(package, ""))


def _spread(records: Iterable[Record]) -> str:
    rows = list(records)
    conditions, cells = {r.condition for r in rows}, {r.cell for r in rows}
    return f"{len(conditions)} conditions, {len(cells)} cells"


def of_fix(records: Sequence[Record], conditions: bool = True) -> str:
    """Return what the proposed fix does, counted over the trials in which it was tried; empty if it never was."""
    tried = [r for r in records if r.proposed]
    parts = []
    counts = Counter(r.proposed["effect"] for r in tried if r.proposed)
    for kind, count in counts.most_common():
        where = dict.fromkeys(r.condition for r in tried if r.proposed and r.proposed["effect"] == kind)
        names = ", ".join(list(where)[:4]) + (f" and {len(where) - 4} more" if len(where) > 4 else "")
        parts.append(f"{kind} in {count} of {len(tried)} trials" + (f" ({names})" if conditions else ""))
    return "; ".join(parts)


@dataclass(frozen=True)
class RemedyStanding:
    """What a remedy does where the bug is reproduced, over all trials that tried it there.

    ``word`` is ``works`` where it cured every one of them; else what it did most often beside curing: ``changes
    nothing``, ``makes numbers wrong``, ``makes it worse``, ``fails`` or ``unsettled``. Only one that works is advice.
    ``effects`` maps each effect to its trials, the conditions are those of these trials.
    """

    text: str
    recommended: str
    needs: Needs
    word: str
    effects: Mapping[str, int]
    conditions: tuple[str, ...]

    @property
    def works(self) -> bool:
        """Return whether a user may be told to do it."""
        return self.word == WORKS

    @property
    def said(self) -> str:
        """Return what a user does, and who recommends it."""
        return self.text + (f" (recommended by {self.recommended})" if self.recommended else "")

    @property
    def because(self) -> str:
        """Return what it did in how many trials."""
        trials = sum(self.effects.values())
        parts = ", ".join(f"{effect} in {count}" for effect, count in self.effects.items())
        return f"{parts} of {trials} trial{'s' * (trials != 1)} with the bug ({', '.join(self.conditions)})"


#: The standing of a remedy that cures wherever it was tried and the bug is.
WORKS = "works"


def of_remedies(case: Case, records: Iterable[Record]) -> list[RemedyStanding]:
    """Return the standing of each remedy of a case that was tried where the bug is reproduced, as the case lists them.

    ``records`` are the case's own. What was not tried in such a trial is no remedy, and is left out; what a record says
    of a remedy that the case has no more is too.
    """
    found = []
    bad = [record for record in records if record.verdict is Verdict.REPRODUCED]
    for remedy in {one.text: one for condition in case.conditions for one in condition.remedies}.values():
        tried = [(r.condition, one["effect"]) for r in bad for one in r.remedies.values() if one["text"] == remedy.text]
        effects = Counter(effect for _, effect in tried)
        others = [effect for effect, _ in effects.most_common() if effect != Effect.CURES]
        if tried:
            word, conditions = next(iter(others), WORKS), tuple(dict.fromkeys(name for name, _ in tried))
            told = dict(effects.most_common())
            found.append(RemedyStanding(remedy.text, remedy.recommended, remedy.needs, word, told, conditions))
    return found
