"""Searches as they are run: kept probes, shared environments, confirmation, and the page; histories are invented."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from repros import ROOT, cases
from repros.bisect import page as pages
from repros.bisect import probe as probing
from repros.bisect.bisection import Walk
from repros.bisect.probe import Kept, Probe, identity, load, signature, votes_of
from repros.bisect.search import Result, Search
from repros.cases import sources
from repros.cells.matrix import load_matrix
from repros.cells.uv import of_machine
from repros.commands import bisect, cli
from repros.commands.arguments import MATRIX
from repros.errors import EnvError, UserError
from repros.run import results
from repros.run.results import Record
from repros.verdict import Observation, Verdict
from tests.factories import record
from tests.searches import BASE, CASE, InventedWorkshop, hunts, monotone, number, revisions, work


def test_an_edge_is_found_and_confirmed_in_fresh_environments(tmp_path: Path) -> None:
    (hunt,) = found = hunts(16)
    workshop = work(found, tmp_path, monotone)
    (edge,) = hunt.answer().edges
    assert (edge.low, edge.high, edge.result) == (4, 5, Result.FOUND)
    assert hunt.confirmed(edge)
    assert workshop.fresh == ["0.4.0", "0.5.0"]
    assert [name for _, name, fresh in workshop.tried if fresh] == ["0.4.0", "0.5.0"]
    assert edge.probes <= edge.bound == 6


def test_asking_again_costs_nothing(tmp_path: Path) -> None:
    first, again = hunts(16), hunts(16)
    assert work(first, tmp_path, monotone).tried
    workshop = work(again, tmp_path, monotone)
    assert not workshop.tried and not workshop.prepared
    assert again[0].answer() == first[0].answer()


def test_kept_confirmations_count_where_no_further_ones_are_made(tmp_path: Path) -> None:
    (plain,) = found = hunts(16)
    work(found, tmp_path, monotone, confirm=False)
    assert not plain.confirmed(plain.answer().edges[0])
    work(hunts(16), tmp_path, monotone)
    (again,) = found = hunts(16)
    assert not work(found, tmp_path, monotone, confirm=False).tried
    assert again.confirmed(again.answer().edges[0])


def test_a_killed_bisection_goes_on_where_it_was(tmp_path: Path) -> None:
    tries = 0

    def dies(name: str, fresh: bool) -> str:
        nonlocal tries
        tries += 1
        if tries > 3:
            raise KeyboardInterrupt
        return monotone(name, fresh)

    with pytest.raises(KeyboardInterrupt):
        work(hunts(16), tmp_path, dies)
    with (tmp_path / "probes.jsonl").open("a") as file:
        file.write('{"schema":1,"kind":"pro')  # it died while it wrote
    (hunt,) = found = hunts(16)
    workshop = work(found, tmp_path, monotone)
    assert [edge.high for edge in hunt.answer().edges] == [5]
    assert len(workshop.tried) + 3 == len(load(tmp_path / "probes.jsonl")) == len(hunt.order)


def test_trouble_of_the_machine_ends_it_with_what_was_probed_kept(tmp_path: Path) -> None:
    def breaks(name: str, fresh: bool) -> str:
        if number(name) == 7:
            raise EnvError("error", "uv failed: dns error", "check network")
        return monotone(name, fresh)

    with pytest.raises(EnvError):
        work(hunts(16), tmp_path, breaks)
    assert len(load(tmp_path / "probes.jsonl")) == 2


@pytest.mark.parametrize(
    ("error", "wanted"),
    [
        (EnvError("error", "x: uv failed: dns error", "h"), True),
        (EnvError("error", "x: uv failed", "h", "Caused by: No space left on device"), True),
        (EnvError("error", "uv: not found", "h"), True),
        (EnvError("error", "x: uv failed: Failed to build `y`", "h"), False),  # of the revision: it is skipped
        (EnvError("unsupported", "x: no wheel for this platform; connection", "h"), False),
    ],
)
def test_only_trouble_of_the_machine_ends_it(error: EnvError, wanted: bool) -> None:
    assert of_machine(error) is wanted


def test_a_kept_probe_of_a_case_that_was_split_is_of_the_case_that_took_it_over(tmp_path: Path) -> None:
    one = InventedWorkshop(monotone).try_here(CASE, "nf4-eager", revisions(1)[0], None, False)
    kept = Kept(tmp_path)
    for condition in ("nf4-compile-mincut", "nf4-eager"):
        kept.add(replace(one, condition=condition))
    assert [probe.case for probe in load(kept.path)] == ["gh1935_compiled", "gh1935_saved_weight"]
    assert Kept(tmp_path).find("gh1935_compiled", "nf4-compile-mincut", one.identity, fresh=False)


def test_the_identity_of_a_probe_is_of_all_that_decides_its_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The case, what it imports, and the pins; but no comment, and no record of what is affected."""
    usual = identity(CASE, revisions(1)[0])
    monkeypatch.setattr(sources, "ROOT", tmp_path)
    (tmp_path / "mine" / "gh1").mkdir(parents=True)
    case, helper = tmp_path / "mine" / "gh1" / "x.py", tmp_path / "mine" / "gh1" / "_shared.py"
    entry = replace(CASE, module="mine.gh1.x")

    def identities(text: str, shared: str = "A = 1\n") -> tuple[str, ...]:
        case.write_text(f"from mine.gh1 import _shared\n{text}")
        helper.write_text(shared)
        probing.definition.cache_clear()
        return tuple(identity(entry, revision) for revision in revisions(2))

    first = identities("EVER = Affected({})\nONE = Condition(affected=(EVER,), b=2)\n")
    assert len(set(first)) == 2
    assert identities("SINCE = Affected({'a': '1'})\nONE = Condition(affected=(SINCE,), b=2)  # now\n") == first
    others = [identities("ONE = Condition(b=3)\n"), identities("ONE = Condition(b=2)\n", "A = 2\n")]
    assert not {*first}.intersection(*others)
    assert len({usual, *first, *others[0], *others[1]}) == 7
    probing.definition.cache_clear()


def test_conditions_share_the_environments_that_they_ask_for(tmp_path: Path) -> None:
    found = hunts(16, "nf4-eager", "fp4-eager")
    workshop = work(found, tmp_path, monotone)
    assert {hunt.answer().edges[0].high for hunt in found} == {5}
    turns = [name for _, name, fresh in workshop.tried if not fresh]
    assert turns[::2] == turns[1::2]


def test_both_possible_next_probes_are_prepared(tmp_path: Path) -> None:
    workshop = work(hunts(16), tmp_path, monotone)
    # What the search asks for after either answer at 7, 3 and 5, by hand.
    answers = {"0.7.0": {"0.3.0", "0.11.0"}, "0.3.0": {"0.1.0", "0.5.0"}, "0.5.0": {"0.4.0", "0.6.0"}}
    for name, both in answers.items():
        assert both <= set(workshop.ready[name]), name


def test_a_confirmation_that_says_otherwise_is_voted_on(tmp_path: Path) -> None:
    """A stale environment said good at 0.4.0; made anew it is bad, and so is every further try."""
    tries: dict[str, int] = {}

    def stale(name: str, fresh: bool) -> str:
        tries[name] = tries.get(name, 0) + 1
        return "good" if number(name) < 4 or (number(name) == 4 and tries[name] == 1) else "bad: held_bytes"

    (hunt,) = found = hunts(16)
    work(found, tmp_path, stale)
    (edge,) = hunt.answer().edges
    assert (edge.low, edge.high) == (3, 4)
    assert edge.confidence < 0.999


def test_a_wrong_end_is_an_error(tmp_path: Path) -> None:
    (hunt,) = found = hunts(16)
    hunt.given = {0: "bad", 15: "good"}
    with pytest.raises(UserError, match=r"0\.0\.0 was given as bad and is good: .*\nhint: name other ends, or swap"):
        work(found, tmp_path, monotone)


def test_a_culprit_with_the_same_files_is_a_no_op(tmp_path: Path) -> None:
    (hunt,) = found = hunts(16)
    work(found, tmp_path, monotone)
    hunt.order = [(i, replace(probe, content="same")) for i, probe in hunt.order]
    assert hunt.answer().result is Result.NO_OP


@pytest.mark.parametrize("k", [2, 3])
def test_several_revisions_at_once(tmp_path: Path, k: int) -> None:
    found = [Walk(CASE, "nf4-eager", revisions(60), Search(60))]
    work(found, tmp_path, monotone, k=k)
    assert [edge.high for edge in found[0].answer().edges] == [5]


def test_the_page_says_what_was_found_from_the_probes(tmp_path: Path) -> None:
    found = hunts(16, "nf4-eager", "fp4-eager")
    work(found, tmp_path / "run", monotone)
    pages.write(found, "bitsandbytes", BASE, tmp_path / "page", "the command")
    text = (tmp_path / "page" / "README.md").read_text()
    for words in (
        "`the command`",
        "first bad: 0.5.0 (2026-01-06); last good: 0.4.0 (2026-01-05); confirmed in fresh environments",
        "at most 6 allowed",
        "https://github.com/bitsandbytes-foundation/bitsandbytes/compare/0.4.0...0.5.0",
        "`git diff 0.4.0 0.5.0 -- bitsandbytes`",
        "| 0.5.0 (fresh) |",
        "1.0 s | 2.0 s | 0.5 s | 3.0 s",
        "signature at 0.5.0: `held_bytes`",
    ):
        assert words in text, words
    assert {path.name for path in (tmp_path / "page").iterdir()} == {".repros", "README.md", "probes.jsonl"}
    assert len(load(tmp_path / "page" / "probes.jsonl")) == sum(len(hunt.order) for hunt in found)


def test_a_page_without_an_edge_says_so(tmp_path: Path) -> None:
    found = hunts(6)
    work(found, tmp_path / "run", lambda name, fresh: "good")
    pages.write(found, "bitsandbytes", BASE, tmp_path / "page", "c")
    assert (
        "not reproduced in any of 6 revisions tried from 0.0.0 to 0.5.0"
        in (tmp_path / "page" / "README.md").read_text()
    )


# --- votes and signatures ------------------------------------------------------------------------


def subject(**fields: Any) -> Observation:
    return Observation("subject", "done", **fields)


def tried(verdict: Verdict, *arms: Observation, reason: str = "r") -> Record:
    made = replace(record(), verdict=verdict, arms=arms, reason=reason)
    return replace(made, budget={"figure": "held_bytes", "second": None, "limit": 500_000, "unit": "bytes"})


HELD = {"held": [{"dtype": "int8", "shape": [2, 2], "bytes": 4}, {"dtype": "bfloat16", "shape": [8, 8], "bytes": 128}]}


@pytest.mark.parametrize("verdict", [Verdict.INCONCLUSIVE, Verdict.UNSUPPORTED, Verdict.ERROR, Verdict.TIMEOUT])
def test_what_settles_nothing_is_a_skip(verdict: Verdict) -> None:
    assert votes_of(CASE, tried(verdict, subject(figures={"held_bytes": 600_000}))) == ("skip",)


def test_one_vote_for_each_repeat() -> None:
    over = subject(figures={"held_bytes": 600_000}, evidence=HELD)
    inside = subject(figures={"held_bytes": 1})
    bad = "bad: held_bytes: bfloat16 (8, 8)"
    assert votes_of(CASE, tried(Verdict.REPRODUCED, over)) == (bad,)
    split = tried(Verdict.INCONCLUSIVE, over, inside, over, reason="split vote: over the budget in 2 of 3 repeats")
    assert votes_of(CASE, split) == (bad, "good", bad)


def test_another_exception_and_another_tensor_have_other_signatures() -> None:
    int8 = cases.select("gh1927_int8_recompute", cases.find())[0]

    def raised(text: str) -> Observation:
        return Observation("subject", "raised", exception={"types": ["AttributeError"], "text": text})

    one = signature(int8, raised("'Int8Params' object has no attribute 'SCB'"), "error", 0.1)
    assert one == "AttributeError: 'Int8Params' object has no attribute 'SCB'"
    assert one != signature(int8, raised("'NoneType' object has no attribute 'dtype'"), "error", 0.1)
    wrong = subject(figures={"error": 9.0}, evidence={"errors": {"output": 0.01, "grad_input": "inf"}})
    assert signature(int8, wrong, "error", 0.1) == "error of grad_input"
    held = signature(CASE, subject(evidence=HELD), "held_bytes", 1)
    assert held == "held_bytes: bfloat16 (8, 8)"


# --- the command line ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["gh1953", "--package", "torch"], "no case of a report `gh1953`"),
        (["gh1935", "--package", "numpy"], "unknown package `numpy`"),
        (["gh1935", "--package", "auto"], "--package auto without --good and --bad"),
        (["gh1935", "--package", "bitsandbytes", "--repo", "."], "--repo without --good"),
        (["gh1935", "--package", "bitsandbytes", "--racy", "3"], "--racy: `3` is not a number above 0, up to 1"),
        (["gh1935", "--package", "bitsandbytes", "--base", "nowhere"], "matrix.yaml: no cell `nowhere`"),
    ],
)
def test_bad_input(argv: list[str], says: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert cli.main(["bisect", *argv, "--reports", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert says in said.splitlines()[0]
    assert said.count("\n") == 2 and "\nhint: " in said


def test_no_network_is_two_lines(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UV_DEFAULT_INDEX", "http://127.0.0.1:9/simple")
    assert cli.main(["bisect", "gh1935", "--package", "bitsandbytes", "--reports", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert said.startswith("http://127.0.0.1:9/simple/bitsandbytes/: ")
    assert said.count("\n") == 2


@pytest.mark.parametrize("argv", [["gh1"], ["gh1935", "--condition", "x", "--base", "y"], ["gh1927", "--nonsense"], []])
def test_a_probe_that_cannot_be_made_aborts_in_place_of_voting(
    argv: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results, "REPORTS", tmp_path)  # where a probe keeps its logs
    assert cli.main(["probe", *argv]) >= 128
    assert capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "condition", "says"),
    [
        (
            "gh1935_saved_weight", "nf4-compile-mincut",
            "the condition `nf4-compile-mincut` is of gh1935_compiled now\nhint: name gh1935_compiled",
        ),
        ("gh1935", "nf4-eagre", r"no condition of gh1935_\w+, gh1935_.* `nf4-eagre`\nhint: one of: nf4-eager, "),
    ],
)  # fmt: skip
def test_a_condition_that_a_case_has_not_is_told_with_where_it_went(name: str, condition: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        bisect.only(name, condition)


def test_gits_codes() -> None:
    assert [bisect.as_probe(code) for code in (0, 1, 125)] == [0, 1, 125]
    assert all(bisect.as_probe(code) >= 128 for code in (2, 3, 130))


def test_a_probe_that_is_ruled_out_skips_with_one_json_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results, "REPORTS", tmp_path)
    argv = ["probe", "gh1935", "--condition", "fp4-eager", "--base", "tf4.57.5-bnb0.46.0"]
    assert cli.main(argv) == 125
    said = capsys.readouterr().out
    assert said.count("\n") == 1
    assert json.loads(said)["probe"] == "skip"
    assert "fp4 has a CPU kernel" in json.loads(said)["reason"]


# --- the revisions in their order ----------------------------------------------------------------


def test_neighbours_that_answered_alike_are_one_row_of_the_walk(tmp_path: Path) -> None:
    (hunt,) = found = hunts(16)
    work(found, tmp_path / "run", monotone)
    pages.write(found, "bitsandbytes", BASE, tmp_path / "page", "c")
    low, high = (sum(bad == (i >= 5) for i in hunt.answer().labels) for bad in (False, True))
    assert (
        "| revisions | tried | vote | figure | budget |\n|---|---|---|---|---|\n"
        f"| 0.0.0 to 0.4.0 | {low} | good | held_bytes 100 B | 500 B |\n"
        f"| 0.5.0 to 0.15.0 | {high} | bad | held_bytes 1000 B | 500 B |\n\n"
    ) in (tmp_path / "page" / "README.md").read_text()


def test_a_row_of_the_walk_says_what_its_probes_came_to() -> None:
    one = InventedWorkshop(lambda name, fresh: "good").try_here(CASE, "nf4-eager", revisions(1)[0], None, False)

    def probe(value: Any, vote: str = "good", reason: str = "r") -> Probe:
        return replace(one, values={"subject": value}, votes=(vote,), reason=reason)

    assert pages.walked([
        ("a", "good", [probe(100), probe(499.9)]), ("b", "good", [probe(7)]),
        ("c", "bad: x", [probe("inf", "bad: x")]), ("d", "bad: y", [probe(None, "bad: y", "raised E")]),
        ("e", "skip", [probe(0, "skip", "no control")]), ("f", "good", [probe(None), probe(3)]),
    ])[2:] == [
        "| a to b | 2 | good | held_bytes 7.0 B to 499.9 B | 500.0 B |",
        "| c | 1 | bad | held_bytes non-finite | 500 B |",
        "| d | 1 | bad | raised E | 500 B |",
        "| e | 1 | skip: no control | held_bytes 0 B | 500 B |",
        "| f | 1 | good | held_bytes 3 B | 500 B |",
    ]  # fmt: skip


# --- the page for upstream CI --------------------------------------------------------------------


def test_the_documented_workflow_is_yaml_and_its_probe_one_that_the_command_line_takes() -> None:
    text = (ROOT / "reports" / "bisect" / "README.md").read_text()
    workflow = yaml.safe_load(text.partition("```yaml\n")[2].partition("\n```\n")[0])
    (job,) = workflow["jobs"].values()
    (command,) = [step["run"] for step in job["steps"] if step.get("id") == "probe"]
    words = shlex.split(command.replace("\\\n", "").partition("-m repros ")[2].partition(" > ")[0])
    options = cli.parser().parse_args(words)
    assert bisect.only(options.case, options.condition).condition(options.condition)
    assert load_matrix(MATRIX).cell(options.base)
