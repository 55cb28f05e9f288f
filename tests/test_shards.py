"""A tier in parts, and runs as one."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from repros import ROOT
from repros.cells.matrix import load_matrix
from repros.commands import cli
from repros.commands.run import every_trial
from repros.errors import UserError
from repros.evidence import merging
from repros.run import results, shards
from repros.run.consistency import contradiction
from repros.run.record import Record
from repros.run.results import Run
from repros.verdict import Verdict
from tests.commands import errors
from tests.factories import record

MATRIX = load_matrix(ROOT / "matrix.yaml")
SMOKE = every_trial(MATRIX.tier("smoke"))


def cost(items: list[tuple[str, float]]) -> float:
    return sum(took for _, took in items) + shards.READY_S * len({cell for cell, _ in items})


# --- cutting -------------------------------------------------------------------------------------


@given(st.data())
def test_the_longest_part_is_as_short_as_any_cut_makes_it(data: st.DataObject) -> None:
    trials = SMOKE[80:90] + SMOKE[-6:]
    parts = data.draw(st.integers(1, 4))
    known = {trial.key: data.draw(st.floats(0, 100)) for trial, _ in trials}
    found = shards.shards(trials, known, parts)
    assert [trial for shard in found for trial in shard.trials] == trials
    assert len(found) == parts
    assert all(shard.trials for shard in found)
    items = [(cell.label, known[trial.key]) for trial, cell in trials]
    every = (
        [items[a:b] for a, b in itertools.pairwise([0, *ends, len(items)])]
        for ends in itertools.combinations(range(1, len(items)), parts - 1)
    )
    best = min(max(map(cost, cut)) for cut in every)
    assert max(shard.seconds for shard in found) == pytest.approx(best)


def test_a_trial_without_a_record_is_estimated() -> None:
    (first, _), (second, _) = SMOKE[:2]
    elsewhere = {(*first.key[:2], "a"): 4.0, (*first.key[:2], "b"): 8.0, ("x", "y", "z"): 1.0}
    assert shards.seconds(SMOKE[:2], elsewhere) == {first.key: 6.0, second.key: 4.0}
    assert shards.seconds(SMOKE[:2], elsewhere | {first.key: 2.0})[first.key] == 2.0


def test_more_parts_than_trials_are_refused() -> None:
    with pytest.raises(UserError, match="5 shards of 2 trials"):
        shards.shards(SMOKE[:2], {}, 5)


@pytest.mark.parametrize("tier", ["cpu", "gpu"])
def test_four_shards_of_a_tier_are_balanced(tier: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["shard", "--tier", tier, "--shards", "4", "--json"]) == 0
    jobs = json.loads(capsys.readouterr().out)["include"]
    assert [job["shard"] for job in jobs] == ["1/4", "2/4", "3/4", "4/4"]
    assert sum(job["trials"] for job in jobs) == len(every_trial(MATRIX.tier(tier)))
    took = [job["seconds"] for job in jobs]
    assert max(took) <= 1.2 * sum(took) / 4
    assert jobs[1]["command"] == f"python -m repros run --tier {tier} --shard 2/4"


def test_a_child_pipeline_names_a_job_a_shard(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["shard", "--tier", "smoke", "--shards", "2", "--gitlab"]) == 0
    jobs = json.loads(capsys.readouterr().out)
    assert list(jobs) == ["shard 1/2", "shard 2/2"]
    assert jobs["shard 2/2"]["extends"] == ".shard"
    assert jobs["shard 2/2"]["variables"]["SHARD"] == "2/2"
    assert all(isinstance(value, str) for job in jobs.values() for value in job["variables"].values())


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["run", "--tier", "smoke", "--shard", "5/4"], "--shard: `5/4` is not a part, such as `2/4`"),
        (["run", "--tier", "smoke", "--shard", "0/4"], "--shard: `0/4` is not a part"),
        (["run", "--tier", "smoke", "--shard", "٣/4"], "--shard: `٣/4` is not a part"),
        (["run", "gh1946", "--cell", "tf5.23.0-bnb0.50.2", "--shard", "1/900"], "900 shards of "),
        (["run"], "run: no case\nhint: name one, or a tier for every case: `--tier smoke`"),
        (["shard", "--tier", "smoek", "--shards", "2"], "no tier `smoek`\nhint: one of: smoke"),
        (["merge", "nowhere", "--out", "new"], "nowhere: No such file or directory"),
        (["merge", "--out", "new"], "the following arguments are required: run"),
    ],
)
def test_bad_words_are_two_lines(
    words: list[str], says: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(words) == 2
    err = capsys.readouterr().err
    assert says in err
    assert len(err.splitlines()) == 2
    assert list(tmp_path.iterdir()) == []


# --- joining -------------------------------------------------------------------------------------

A, B, C = (record(condition=name) for name in "abc")
BAD = record(condition="b", verdict=Verdict.REPRODUCED)


def run(folder: Path, *records: Record, **plan: Any) -> Path:
    """Write a run of these records."""
    made = Run(folder)
    if plan:
        made.note("plan", **{"tier": "", "shard": "", "trials": len(records)} | plan)
    for one in records:
        made.append(one)
    return folder


def merged(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = cli.main(["merge", *words])
    out, err = capsys.readouterr()
    return code, " ".join(out.split()), err


def test_runs_become_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, two = run(tmp_path / "one", A, B), run(tmp_path / "two", B, C)
    (one / "logs" / "a.log").write_text("of one")
    (two / "logs" / "c.log").write_text("of two")
    code, out, _ = merged(capsys, str(one), str(two), "--out", str(tmp_path / "all"))
    assert code == 0
    assert "3 trials: 3 absent" in out
    assert "in several runs, with one verdict, and kept once: 1" in out
    assert "no run says what it set out to try" in out
    assert results.load(tmp_path / "all")[0] == [A, B, C]
    assert sorted(path.name for path in (tmp_path / "all" / "logs").iterdir()) == ["a.log", "c.log"]


def test_results_that_disagree_are_kept_and_settle_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, two = run(tmp_path / "one", A, B), run(tmp_path / "two", BAD)
    code, out, _ = merged(capsys, str(one), str(two), "--out", str(tmp_path / "all"))
    assert code == 1
    assert "gh1_x[b] in a: 2 results disagree: absent in one, reproduced in two" in out
    found = results.load(tmp_path / "all")[0][1]
    assert found.verdict is Verdict.INCONCLUSIVE
    assert [Record.from_json(rival["record"]) for rival in found.rivals] == [B, BAD]
    # A third run settles nothing either, nor does a run that was joined from others hide what they said.
    three = run(tmp_path / "three", B)
    again = merging.merge([tmp_path / "all", three])
    assert again.rivals == [B.key]
    assert again.records[1].reason == (
        "3 results disagree: absent in all: one, reproduced in all: two, absent in three"
    )
    assert contradiction(again.records[1]) == ""


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"verdict": "absent", "outcome": "as expected", "failed": False}, "`absent` of 0 arms, and results that"),
        ({"reason": "one is right"}, "the reason is `one is right`, its results say: 2 results disagree"),
        ({"condition": "c"}, "a result of gh1_x[b] in a among those that disagree"),
    ],
)
def test_a_record_of_rivals_that_contradicts_itself_is_refused(
    tmp_path: Path, change: dict[str, Any], says: str
) -> None:
    joined = merging.merge([run(tmp_path / "one", B), run(tmp_path / "two", BAD)]).records[0]
    path = tmp_path / "results.jsonl"
    path.write_text(json.dumps(json.loads(joined.to_line()) | change) + "\n")
    with pytest.raises(UserError) as told:
        results.load(path)
    assert says in str(told.value)


def test_rivals_of_one_verdict_are_refused(tmp_path: Path) -> None:
    joined = merging.merge([run(tmp_path / "one", B), run(tmp_path / "two", BAD)]).records[0]
    twice = replace(joined, rivals=(joined.rivals[0], joined.rivals[0]))
    assert contradiction(twice) == "results that disagree, of one verdict"


def test_an_error_gives_way_to_a_verdict(tmp_path: Path) -> None:
    broken = record(condition="b", verdict=Verdict.ERROR)
    for order in ([B, broken], [broken, B]):
        places = [run(tmp_path / f"{at}-{order[0].verdict}", one) for at, one in enumerate(order)]
        assert merging.merge(places).records == [B]


def test_runs_of_two_suites_are_refused(tmp_path: Path) -> None:
    one = run(tmp_path / "one", replace(A, source="1" * 8))
    two = run(tmp_path / "two", replace(B, source="2" * 8))
    with pytest.raises(UserError) as told:
        merging.merge([one, two])
    assert "two: the source of gh1_x is not that of one: 22222222, 11111111 there" in str(told.value)


def test_runs_in_other_environments_are_refused(tmp_path: Path) -> None:
    one = run(tmp_path / "one", A)
    two = run(tmp_path / "two", record(condition="b", packages={"torch": "2.9.1"}))
    with pytest.raises(UserError, match=r"two: the set of packages of a is not that of one: torch 2\.9\.1"):
        merging.merge([one, two])


def test_a_run_of_another_schema_is_refused(tmp_path: Path) -> None:
    one, two = run(tmp_path / "one", A), run(tmp_path / "two")
    (two / "results.jsonl").write_text(json.dumps(json.loads(B.to_line()) | {"schema": 2}) + "\n")
    with pytest.raises(UserError, match="schema version 2, this version reads 1"):
        merging.merge([one, two])


def test_runs_of_one_name_are_told_apart_and_one_run_is_no_two(tmp_path: Path) -> None:
    one, two = run(tmp_path / "x" / "run", B), run(tmp_path / "y" / "run", BAD)
    assert merging.merge([one, two]).records[0].reason == ("2 results disagree: absent in x/run, reproduced in y/run")
    with pytest.raises(UserError, match="named twice"):
        merging.merge([one, one / "results.jsonl"])


def test_what_is_missing_is_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trials = SMOKE[:5]
    tried = [record(trial.entry.name, trial.condition.name, trial.cell) for trial, _ in trials]
    one = run(tmp_path / "one", *tried, tier="smoke", shard="1/3")
    three = run(tmp_path / "three", A, tier="smoke", shard="3/3")
    code, out, _ = merged(capsys, str(one), str(three), "--out", str(tmp_path / "all"))
    assert code == 1
    assert "shard 2/3 is not among these runs" in out
    for cell in MATRIX.tier("smoke"):
        count = sum(trial.cell == cell.label for trial, _ in SMOKE) - sum(one.cell == cell.label for one in tried)
        assert f"missing in {cell.label}: {count}: gh" in out
    assert results.notes(tmp_path / "all")[0]["shard"] == "1/3"


def test_a_run_is_not_written_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = run(tmp_path / "one", A)
    before = (one / "results.jsonl").read_bytes()
    code, _, err = merged(capsys, str(one), "--out", str(one))
    assert (code, err.splitlines()[0]) == (2, f"{one}: there is a run already")
    assert (one / "results.jsonl").read_bytes() == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    code, _, err = merged(capsys, str(one), "--out", str(tmp_path / "mine"))
    assert code == 2
    assert "not a folder of this suite: it holds `letter.txt`" in err


def test_tiers_are_not_mixed_without_a_word(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, two = run(tmp_path / "one", A, tier="cpu"), run(tmp_path / "two", B, tier="smoke")
    code, _, err = merged(capsys, str(one), str(two), "--out", str(tmp_path / "all"))
    assert (code, err.splitlines()[0]) == (2, "runs of the tiers cpu, smoke")


def test_one_trial_a_report_is_its_witness_s_and_fits_the_card() -> None:
    """What does not fit, what the cell's packages do not allow, and a control are not it."""
    cells = MATRIX.tier("gpu_smoke")
    every = every_trial(cells)
    brief = shards.one_a_report(every, 12 << 30)
    assert [pair for pair in every if pair in brief] == brief
    for cell in cells:
        here = [trial for trial, of in brief if of is cell]
        reports = [trial.entry.case.report for trial in here]
        assert len(reports) == len(set(reports)) > 10
        for trial in here:
            needs = trial.condition.needs
            assert needs.card_bytes <= 12 << 30 and needs.cards == 1 and not trial.condition.control
            if not trial.condition.witness:
                same = [one for one, of in every if of is cell and one.entry.case.report == trial.entry.case.report]
                witnessed = [one.condition.needs for one in same if one.condition.witness]
                assert all(other.packages or other.card_bytes > 12 << 30 for other in witnessed)
    small = {trial.entry.case.report for trial, _ in shards.one_a_report(every, 1)}
    large = {trial.entry.case.report for trial, _ in shards.one_a_report(every, 78 << 30)}
    assert small < {trial.entry.case.report for trial, _ in brief} < large


def test_a_card_that_no_trial_fits_is_two_lines(capsys: pytest.CaptureFixture[str]) -> None:
    said = errors(["run", "--tier", "smoke", "--one-a-report", "12"], capsys)
    assert said.startswith("--one-a-report 12: none of these trials runs on a card of 12 GB\n")
    assert errors(["run", "gh1995", "--one-a-report", "0"], capsys).startswith("--one-a-report: ")
