"""A claim's standing follows from records, and from nothing else."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from packaging.version import Version

from repros.case import Case, Claim, Condition, Remedy
from repros.cases import Entry
from repros.report import standing
from repros.run.results import Record
from repros.verdict import Verdict
from tests.factories import BUDGET, record

CLAIM = Claim("it is held")
BAD, GOOD, NONE = Verdict.REPRODUCED, Verdict.ABSENT, Verdict.UNSUPPORTED


def case(speaking: dict[str, tuple[Claim, ...]]) -> Case:
    """Return a case of these conditions, by the claims that they speak to."""
    conditions = tuple(Condition(name, BUDGET, claims=claims) for name, claims in speaking.items())
    claims = {claim.text: claim for claims in speaking.values() for claim in claims}
    return Case("bitsandbytes#1", "x", "issue", "open", "memory", "x", tuple(claims.values()), conditions)


def of_claim(records: list[Record]) -> standing.Standing:
    """Return the standing of a claim that every condition speaks to."""
    return standing.of_claim(case({"c": (CLAIM,), **{r.condition: (CLAIM,) for r in records}}), CLAIM, records)


def one(condition: str, cell: str, verdict: Verdict, **packages: str) -> Record:
    """Make a record of these versions; the packages that are not named are those of the report's month."""
    others = {"torch": "2.13.0", "transformers": "5.2.0", "bitsandbytes": "0.49.2"}
    return record(condition=condition, cell=cell, verdict=verdict, packages=others | packages)


def rows(table: dict[str, dict[str, Verdict]], package: str = "bitsandbytes") -> list[Record]:
    """Make records from condition -> version -> verdict."""
    return [
        one(condition, f"cell-{version}", verdict, **{package: version})
        for condition, versions in table.items()
        for version, verdict in versions.items()
    ]


@pytest.mark.parametrize(
    ("table", "word", "because"),
    [
        ({}, "untested", "no trial of it came to a verdict"),
        ({"c": {"1": NONE}}, "untested", "no trial"),
        ({"c": {"1": GOOD, "2": GOOD}}, "refuted", "absent in all 2 trials (1 conditions, 2 cells)"),
        ({"c": {"1": BAD, "2": BAD}}, "confirmed", "reproduced in all 2 trials"),
        (
            {"c": {"1": BAD}, "d": {"1": GOOD}},
            "confirmed under conditions",
            "reproduced in every cell: c; absent in every cell: d",
        ),
        ({"c": {"1": BAD, "2": GOOD}}, "fixed in bitsandbytes >1,<=2", "bitsandbytes reproduced in 1, absent in 2: c"),
        ({"c": {"1": GOOD, "2": BAD}}, "confirmed under conditions", "bitsandbytes absent in 1, reproduced in 2"),
        (
            {"c": {"0.9": GOOD, "0.10": BAD, "0.11": BAD, "0.12": GOOD}},
            "fixed in bitsandbytes >0.11,<=0.12",
            "bitsandbytes absent in 0.9, reproduced in 0.10 to 0.11, absent in 0.12: c",
        ),
        (
            {"c": {"1": BAD, "2": GOOD}, "d": {"1": BAD, "2": BAD}},
            "confirmed under conditions",
            "reproduced in every cell: d",
        ),
    ],
)
def test_standing(table: dict[str, dict[str, Verdict]], word: str, because: str) -> None:
    found = of_claim(rows(table))
    assert found.word == word
    assert because in found.because


def test_edges_name_the_package_that_tells_them_apart() -> None:
    table = {"c": {"4.57.5": GOOD, "5.2.0": BAD, "5.23.0": GOOD}}
    found = of_claim(rows(table, "transformers"))
    assert found.word == "fixed in transformers >5.2.0,<=5.23.0"
    assert "transformers absent in 4.57.5, reproduced in 5.2.0, absent in 5.23.0" in found.because


def test_a_claim_speaks_of_its_own_conditions_only() -> None:
    table = {"nf4-eager": {"1": GOOD}, "nf4-compile": {"1": BAD}, "nf4-new": {"1": NONE}, "gone": {"1": BAD}}
    eager, compiled, new, none = map(Claim, ("eager", "compiled", "new", "none"))
    both = case({"nf4-eager": (eager, new), "nf4-compile": (compiled,), "nf4-new": (new,)})
    words = [standing.of_claim(both, claim, rows(table)).word for claim in (eager, compiled, new, none)]
    assert words == ["refuted", "confirmed", "refuted", "untested"]


def test_a_claim_of_several_cases_stands_on_the_records_of_them_all() -> None:
    shared, own = Claim("shared", {"a": "1 GB"}), Claim("own")
    first, second = case({"c": (shared,), "d": (own,)}), case({"c": (Claim("shared", {"b": "2 GB"}),)})
    entries = [Entry(name, f"x.{name}", one, "", ()) for name, one in (("gh1_a", first), ("gh1_b", second))]
    told = standing.claims_of(entries)
    assert {text: [(e.name, *claim.reported) for e, claim in both] for text, both in told.items()} == {
        "shared": [("gh1_a", "a"), ("gh1_b", "b")],
        "own": [("gh1_a",)],
    }
    tried = rows({"c": {"1": BAD, "2": BAD}, "d": {"1": GOOD}})
    records = [
        *(replace(r, case="gh1_a") for r in tried), *(replace(r, case="gh1_b", verdict=GOOD) for r in tried),
        *(replace(r, case="gh2_x") for r in tried),
    ]  # fmt: skip
    assert [r.case for r in standing.spoken(told["shared"], records)] == ["gh1_a"] * 2 + ["gh1_b"] * 2
    assert standing.of(standing.spoken(told["shared"], records)).word == "confirmed under conditions"
    assert standing.of(standing.spoken(told["own"], records)).word == "refuted"


def test_fix() -> None:
    effects = ["cures", "changes nothing", "changes nothing"]
    found = rows({"c": {"1": BAD, "2": BAD}, "d": {"1": GOOD}})
    tried = [replace(r, proposed={"effect": e, "reason": ""}) for r, e in zip(found, effects, strict=True)]
    assert standing.of_fix(tried) == "changes nothing in 2 of 3 trials (c, d); cures in 1 of 3 trials (c)"
    assert standing.of_fix(rows({"c": {"1": BAD}})) == ""


def test_cells_that_differ_in_two_packages_name_both() -> None:
    """The two cells of a smoke run differ in transformers and bitsandbytes: neither may be named alone."""
    first, second = rows({"c": {"0.49.2": BAD, "0.50.2": GOOD}})
    packages = dict(second.environment["packages"]) | {"transformers": "5.23.0"}
    found = of_claim([first, replace(second, environment={"packages": packages})])
    assert found.word == "confirmed under conditions"
    assert (
        "bitsandbytes reproduced in 0.49.2, absent in 0.50.2 or transformers reproduced in 5.2.0, absent in 5.23.0"
        in (found.because)
    )


def grid(*cells: tuple[str, str, Verdict]) -> list[Record]:
    """Make records of one condition from (torch, bitsandbytes, verdict)."""
    return [
        one("c", f"torch{torch}-bnb{bitsandbytes}", verdict, torch=torch, bitsandbytes=bitsandbytes)
        for torch, bitsandbytes, verdict in cells
    ]


@pytest.mark.parametrize(
    ("cells", "word", "because"),
    [
        (  # came with one package, went with the other
            [("2.13", "0.47", GOOD), ("2.13", "0.49", BAD), ("2.11", "0.50", BAD), ("2.15", "0.50", GOOD)],
            "fixed in torch >2.13,<=2.15",
            "reproduced with bitsandbytes 0.49 to 0.50 and torch 2.11 to 2.13, "
            "absent with bitsandbytes 0.47 or torch 2.15: c",
        ),
        (  # gone in the newer of either
            [("2.11", "0.49", BAD), ("2.13", "0.50", GOOD), ("2.15", "0.49", GOOD), ("2.13", "0.49", BAD)],
            "fixed in bitsandbytes >0.49,<=0.50 or torch >2.13,<=2.15",
            "reproduced with bitsandbytes 0.49 and torch 2.11 to 2.13, absent with bitsandbytes 0.50 or torch 2.15: c",
        ),
        (  # came with the newer of both
            [("2.11", "0.50", GOOD), ("2.13", "0.49", GOOD), ("2.13", "0.50", BAD)],
            "confirmed under conditions",
            "reproduced with bitsandbytes 0.50 and torch 2.13, absent with bitsandbytes 0.49 or torch 2.11: c",
        ),
        (  # the newest torch was tried with an older bitsandbytes alone, which never had it
            [("2.11", "0.50", GOOD), ("2.15", "0.47", GOOD), ("2.13", "0.50", BAD), ("2.13", "0.49", GOOD)],
            "confirmed under conditions",
            "reproduced with bitsandbytes 0.50 and torch 2.13, "
            "absent with bitsandbytes 0.47 to 0.49 or torch 2.11 or torch 2.15: c",
        ),
        (  # of two newer ones the first counts, and what is older of the other package does not
            [
                *(("2.13", "0.47", GOOD), ("2.13", "0.49", BAD), ("2.14", "0.47", GOOD)),
                *(("2.15", "0.49", GOOD), ("2.16", "0.49", GOOD)),
            ],
            "fixed in torch >2.13,<=2.15",
            "reproduced with bitsandbytes 0.49 and torch 2.13, absent with bitsandbytes 0.47 or torch 2.14 to 2.16: c",
        ),
        (  # both changed at once
            [("2.11", "0.47", GOOD), ("2.11", "0.49", BAD), ("2.13", "0.50", GOOD)],
            "confirmed under conditions",
            "bitsandbytes absent in 0.47, reproduced in 0.49, absent in 0.50: c",
        ),
        (  # two ranges of one package: nothing simple says it
            [("2.11", "0.49", BAD), ("2.13", "0.49", GOOD), ("2.15", "0.49", BAD), ("2.13", "0.50", BAD)],
            "confirmed under conditions",
            "reproduced in torch2.11-bnb0.49, torch2.15-bnb0.49, torch2.13-bnb0.50; absent in 1 other cells: c",
        ),
    ],
)
def test_two_packages_may_take_part(cells: list[tuple[str, str, Verdict]], word: str, because: str) -> None:
    found = of_claim(grid(*cells))
    assert (found.word, found.because) == (word, because)


def test_what_ends_every_condition_is_said_alone() -> None:
    """One condition is gone in the newer of either package, one in the newer torch alone, one in the newer other."""

    def condition(name: str, *verdicts: Verdict, newest: str = "0.50") -> list[Record]:
        cells = zip(("2.13", "2.13", "2.15"), ("0.49", newest, "0.49"), verdicts, strict=True)
        return [replace(tried, condition=name) for tried in grid(*cells)]

    either = condition("c", BAD, GOOD, GOOD)
    torch, other = condition("d", BAD, BAD, GOOD), condition("e", BAD, GOOD, BAD, newest="0.50.2")
    assert of_claim(either).word == "fixed in bitsandbytes >0.49,<=0.50 or torch >2.13,<=2.15"
    assert of_claim(either + torch).word == "fixed in torch >2.13,<=2.15"
    assert of_claim(either + other).word == "fixed in bitsandbytes >0.49,<=0.50.2"
    by_condition = "fixed in bitsandbytes >0.49,<=0.50.2 or torch >2.13,<=2.15, by condition"
    assert of_claim(torch + other).word == by_condition
    assert of_claim(torch + either + other).word == by_condition


@pytest.mark.parametrize(
    ("other", "word"),
    [
        ({"5.2": BAD, "5.4": GOOD}, "transformers >5.3,<=5.4"),
        ({"5.2": BAD, "5.3": GOOD}, "transformers >5.2,<=5.3 or transformers >5.3,<=5.4, by condition"),
        ({"5.3": BAD, "5.5": GOOD}, "transformers >5.3,<=5.5"),
        ({"5.0": BAD, "5.3": GOOD, "5.4": GOOD}, "transformers >5.0,<=5.3 or transformers >5.3,<=5.4, by condition"),
    ],
)
def test_a_release_that_one_condition_was_not_tried_in_is_no_second_fix(other: dict[str, Verdict], word: str) -> None:
    tried = {"c": {"5.2": BAD, "5.3": BAD, "5.4": GOOD}, "d": other}
    assert of_claim(rows(tried, "transformers")).word == f"fixed in {word}"


def test_a_condition_that_fits_two_fixes_does_not_make_them_one() -> None:
    tried = {"c": {"1": BAD, "2": GOOD}, "d": {"1": BAD, "4": GOOD}, "e": {"3": BAD, "4": GOOD}}
    assert of_claim(rows(tried)).word == ("fixed in bitsandbytes >1,<=4 or bitsandbytes >3,<=4, by condition")


PACKAGES = ("torch", "transformers", "bitsandbytes")


def of_three(*cells: tuple[tuple[int, int, int], Verdict]) -> list[Record]:
    """Make records of one condition from releases of (torch, transformers, bitsandbytes), and a verdict."""
    return [
        one("c", "-".join(map(str, releases)), verdict, **dict(zip(PACKAGES, map(str, releases), strict=True)))
        for releases, verdict in cells
    ]


def test_what_two_pairs_of_packages_would_explain_is_told_by_cells() -> None:
    """What is newer in one cell is so in two packages."""
    tried = of_three(((1, 1, 1), GOOD), ((2, 1, 2), GOOD), ((2, 2, 1), BAD), ((1, 2, 2), GOOD))
    found = of_claim(tried)
    assert found == standing.Standing("confirmed under conditions", "reproduced in 2-2-1; absent in 3 other cells: c")


def test_a_fix_is_said_where_a_cell_shows_it() -> None:
    said: list[standing.Fix] = []
    every_fix_has_its_cell(said)
    assert len(said) > 10, "of so many histories some have a fix"


@given(cells=st.dictionaries(st.tuples(*[st.integers(1, 3)] * 3), st.sampled_from([BAD, GOOD]), min_size=2))
def every_fix_has_its_cell(said: list[standing.Fix], cells: dict[tuple[int, int, int], Verdict]) -> None:
    """A cell is without the symptom there whose other packages are where it was seen; no newer one has it."""
    bad, good = ([r for r in of_three(*cells.items()) if r.verdict is v] for v in (BAD, GOOD))
    fixes = standing.edges([*bad, *good]).fixed_in if bad else ()
    said.extend(fixes)
    for fix in fixes:
        others = set(PACKAGES) - {fix.package}
        spans = {p: sorted(Version(r.versions[p]) for r in bad) for p in others}
        assert max(Version(r.versions[fix.package]) for r in bad) == fix.after
        assert any(
            Version(r.versions[fix.package]) == fix.by
            and all(spans[p][0] <= Version(r.versions[p]) <= spans[p][-1] for p in others)
            for r in good
        )


SAID = {"recommended": "the report", "reason": ""}


def with_remedies(condition: str, verdict: Verdict, **effects: str) -> Record:
    """Return a record of a trial in which remedies, named by their texts, had these effects."""
    remedies = {
        f"remedy-{n}": {"text": text, "effect": effect, **SAID} for n, (text, effect) in enumerate(effects.items())
    }
    return replace(one(condition, "1", verdict), remedies=remedies)


def test_a_remedy_works_only_where_the_bug_is_and_it_never_did_anything_else() -> None:
    texts = ("works", "nothing", "sometimes", "elsewhere", "never_tried")
    declared = tuple(Remedy(text, arm=f"remedy_{text}", recommended="the report") for text in texts)
    of_two = case({"c": (), "d": ()})
    conditions = tuple(replace(c, remedies=declared) for c in of_two.conditions)
    both = replace(of_two, conditions=conditions)
    records = [
        with_remedies("c", BAD, works="cures", nothing="changes nothing", sometimes="cures"),
        with_remedies("d", BAD, works="cures", nothing="changes nothing", sometimes="unsettled", gone="cures"),
        with_remedies("c", GOOD, works="changes nothing", elsewhere="changes nothing"),
        with_remedies("c", NONE, works="unsettled", elsewhere="unsettled"),
    ]
    found = {one.text: one for one in standing.of_remedies(both, records)}
    assert {text: one.word for text, one in found.items()} == {
        "works": "works",
        "nothing": "changes nothing",
        "sometimes": "unsettled",
    }
    assert [one.text for one in found.values() if one.works] == ["works"]
    assert found["works"].because == "cures in 2 of 2 trials with the bug (c, d)"
    assert found["sometimes"].because == "cures in 1, unsettled in 1 of 2 trials with the bug (c, d)"
    assert found["works"].said == "works (recommended by the report)"


def test_a_release_that_another_condition_tried_is_no_gap() -> None:
    table = {"c": {"0.46.0": BAD, "0.49.2": BAD, "0.50.0": GOOD}, "d": {"0.46.1": GOOD, "0.49.0": GOOD}}
    assert standing.bad_releases(rows(table), "bitsandbytes") == "0.46.0 to 0.49.2"
    assert standing.bad_releases(rows({"c": table["c"] | {"0.49.0": GOOD}}), "bitsandbytes") == "0.46.0, 0.49.2"
