"""Controls that are tried once for several cells: what they lean on, and that it changes nothing."""

from __future__ import annotations

import io
import sys
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from repros import ROOT, cases
from repros.case import CONTROLS, Condition, held
from repros.cases import Entry, imports
from repros.cells.matrix import load_matrix
from repros.report import terminal
from repros.run.controls import EVERY_CELL, KERNELS, NOTHING, SHARED, Controls, Shared, lendings, way
from repros.run.record import Record
from repros.run.results import Run, load
from repros.run.server import Clock, pool
from repros.run.session import ReadyCell, Session
from repros.run.trial import Running, Trial
from repros.verdict import Observation, Verdict
from repros.worker.arm import ASKED_FOR
from tests.commands import errors
from tests.conftest import METERS
from tests.waiting import eventually

CELLS = load_matrix(ROOT / "matrix.yaml").tier("cpu")
STRIDED = next(entry for entry in cases.find() if entry.name == "gh1995_strided_tensor")
MACHINE = {"cores": 2}


def ready(at: int, **resolved: str) -> ReadyCell:
    """Return a cell that borrows this interpreter, which stands for the environments of all."""
    found = {"torch": "2.13.0+cpu", "bitsandbytes": "0.50.2", **resolved}
    environment: Any = SimpleNamespace(
        cell=CELLS[at], python=Path(sys.executable), resolved=found, build="cpu", lock_digest="", lock_committed=True,
        damage=lambda: "",
    )  # fmt: skip
    return ReadyCell(environment, Clock(), {STRIDED.module})


@pytest.fixture(scope="module", autouse=True)
def _little_ahead() -> Iterator[None]:
    """Import ahead what every arm needs, and no more: a dozen servers start here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            imports, "PRELOAD", {"cpu": ("torch", "torch._dynamo", "bitsandbytes", "repros.worker.arm", *METERS)}
        )
        yield


@pytest.fixture(scope="module")
def places() -> Iterator[list[ReadyCell]]:
    """Yield three cells, the last of another torch."""
    made = [ready(0), ready(1), ready(2, torch="2.11.0")]
    yield made
    for place in made:
        place.close()


def tried(
    entry: Entry, condition: str, place: ReadyCell, folder: Path, controls: Controls | None, machine: Any = MACHINE
) -> Record:
    """Try one condition in a cell, and let the run's controls know."""
    trial = Trial(entry, entry.condition(condition), place.cell)
    (folder / "logs").mkdir(exist_ok=True)
    ask = partial(controls.observe, place) if controls else None
    with pool(2) as arms:
        record = Running(trial, place, arms, folder / "logs", machine, controls=ask).record()
    if controls:
        controls.keep(record)
    return record


def leans(record: Record) -> dict[str, str]:
    """Return the cell that each control of a trial was tried in; ``asked`` where it was tried in the trial's own."""
    found = {}
    for arm in record.arms:
        if arm.arm in CONTROLS:
            found[arm.arm] = arm.evidence.get("tried_in") or ("asked" if ASKED_FOR in arm.evidence else "")
    return found


def said(record: Record) -> str:
    """Return what the terminal says of a trial."""
    text = io.StringIO()
    terminal.detail(record, terminal.console(file=text))
    return text.getvalue()


def by_arm(record: Record) -> Mapping[str, Observation]:
    """Return a trial's observations by the names of their arms."""
    return {arm.arm: arm for arm in record.arms}


def test_a_control_is_tried_once_and_the_verdicts_are_those_of_every_cell(
    places: list[ReadyCell], tmp_path: Path
) -> None:
    """The same figures too, but for bytes of the heap, which are another process's."""
    controls = Controls()
    for condition in STRIDED.case.conditions:
        if condition.device != "cpu":
            continue
        shared = [tried(STRIDED, condition.name, place, tmp_path, controls) for place in places[:2]]
        alone = tried(STRIDED, condition.name, places[0], tmp_path, None)
        first = places[0].cell
        wanted = {"reference": first} | ({} if condition.control else {"planted": first})
        assert [leans(record) for record in shared] == [wanted, wanted]
        for arm in wanted:
            assert by_arm(shared[0])[arm] == by_arm(shared[1])[arm]
        once = (
            f"{', '.join(wanted)}: tried once for all cells, in {first}, where no package under test can be imported\n"
        )
        assert [once in said(record) for record in (*shared, alone)] == [False, True, False]
        for record in shared:
            assert (record.verdict, record.readings) == (alone.verdict, alone.readings)
            for name, seen in by_arm(record).items():
                figures = {key: value for key, value in seen.figures.items() if "heap" not in key}
                assert figures == {key: by_arm(alone)[name].figures[key] for key in figures}, name


@pytest.mark.parametrize(
    ("other", "shared"),
    [
        ({}, True),
        ({"transformers": "5.0.0"}, True),
        ({"bitsandbytes": "0.49.2"}, False),
        ({"torch": "2.11.0"}, False),
    ],
    ids=str,
)
def test_an_arm_that_uses_bitsandbytes_alone_is_tried_once_for_the_cells_that_agree_in_it(
    places: list[ReadyCell], tmp_path: Path, other: dict[str, str], shared: bool
) -> None:
    """Where nothing else under test can be imported, and with the verdict of every cell."""
    controls, name = Controls(), "every-other-row"
    first = tried(STRIDED, name, places[0], tmp_path, controls)
    place = ready(1, **other)
    try:
        second = tried(STRIDED, name, place, tmp_path, controls)
    finally:
        place.close()
    subject = by_arm(first)["subject"]
    assert (subject.evidence["tried_in"], subject.evidence["tried_with"]) == (places[0].cell, ["bitsandbytes"])
    assert (by_arm(second)["subject"] == subject) is shared
    once = f"subject: tried once, in {places[0].cell}, with bitsandbytes alone of the packages under test"
    assert (once in " ".join(said(second).split())) is shared
    alone = tried(STRIDED, name, places[1], tmp_path, None)
    assert "tried_in" not in by_arm(alone)["subject"].evidence
    assert alone.verdict is first.verdict is second.verdict


def test_what_may_be_lent_to_an_arm_is_what_its_case_uses() -> None:
    """A checkout in the place of bitsandbytes is not told by its version, and so is tried in each cell."""
    names = ("torch", "bitsandbytes", "transformers", "peft")
    environment = {"packages": dict.fromkeys(names, "1")}
    checkout = {**environment, "overrides": {"bitsandbytes": "/a/checkout"}}
    loading = next(entry for entry in cases.find() if entry.name == "gh44387_cast_dtype")
    strided, loads = imports.uses(STRIDED.module), imports.uses(loading.module)
    assert lendings("subject", strided, environment) == (KERNELS,)
    assert lendings("planted", strided, environment) == (NOTHING, KERNELS)
    assert lendings("subject", strided, checkout) == ()
    assert lendings("planted", strided, checkout) == (NOTHING,)
    assert lendings("subject", loads, environment) == ()
    assert lendings("reference", loads, environment) == (NOTHING,)


def test_what_comes_to_no_end_of_its_own_is_not_tried_with_more_packages_first(tmp_path: Path) -> None:
    """It would cost its timeout once more."""
    place, what = Waits(), Shared("c", "d", "reference", "s", (NOTHING, KERNELS), "m")
    place.may_end.set()
    place.state = "timeout"
    Controls().observe(place, what, {"arm": "reference"}, tmp_path / "log")
    assert place.tried == ["", "all"]


class Waits:
    """A place whose arms end when they are told to, and ask for what they are told to ask for."""

    cell: str = "a"
    facts: Mapping[str, Any] = {"packages": {"torch": "1", "bitsandbytes": "1"}}

    def __init__(self, *asks: str) -> None:
        self.asks, self.tried = list(asks), list[str]()
        self.may_end, self.state = threading.Event(), "done"
        self.reads, self.waits_in_cell = list[str](), False

    def observe_with(self, lent: tuple[str, ...], request: Any, log: Path, cards: int = 1) -> Observation:
        self.tried.append("+".join(lent))
        assert self.may_end.wait(60)
        asked = [name for name in self.asks if name not in lent]
        return Observation(request["arm"], self.state, evidence={"asked_for": asked} if asked else {})

    def observe(self, request: Any, log: Path, fresh: bool = False, cards: int = 1) -> Observation:
        self.tried.append("all")
        assert not self.waits_in_cell or self.may_end.wait(60)
        return Observation(request["arm"], self.state, evidence={"reads": self.reads} if self.reads else {})


@pytest.mark.parametrize(
    ("asks", "tried", "tried_with"),
    [((), [""], None), (("bitsandbytes",), ["", "bitsandbytes"], ["bitsandbytes"]), (("peft",), ["", "all"], None)],
)
def test_a_control_is_lent_no_more_than_it_asks_for_and_two_cells_at_once_try_it_once(
    tmp_path: Path, asks: tuple[str, ...], tried: list[str], tried_with: list[str] | None
) -> None:
    place, controls = Waits(*asks), Controls()
    what = Shared("c", "d", "reference", "s", (NOTHING, KERNELS), "m")
    with ThreadPoolExecutor(2) as both:
        ask = partial(controls.observe, place, what, {"arm": "reference"}, tmp_path / "log")
        futures = [both.submit(ask) for _ in range(2)]
        eventually(lambda: place.tried, 10, "the first to ask")
        place.may_end.set()
        first, second = (future.result(60) for future in futures)
    in_each = tried[-1] == "all"
    assert place.tried == tried + ["all"] * in_each
    assert first.evidence == second.evidence
    assert first.evidence.get("tried_in") == (None if in_each else "a")
    assert first.evidence.get("tried_with") == tried_with
    assert first.evidence.get("asked_for") == (list(asks) or None)


def test_what_no_other_cell_of_the_run_could_share_is_tried_in_its_own(tmp_path: Path) -> None:
    """And interpreters that lend less are started ahead in the first cell of several that share what is tried there."""
    both = {"torch": "1", "bitsandbytes": "1"}
    of_run = {"a": both, "b": both, "c": {"torch": "1", "bitsandbytes": "2"}, "d": {"torch": "2", "bitsandbytes": "1"}}
    for cells, asks, tried in (
        (of_run, (), [""]),
        (of_run, ("bitsandbytes",), ["", "bitsandbytes"]),
        ({name: of_run[name] for name in "ac"}, ("bitsandbytes",), ["", "all"]),
        ({name: of_run[name] for name in "ad"}, (), ["all"]),
        ({"a": both}, (), [""]),  # later calls may try others
    ):
        place, what = Waits(*asks), Shared("c", "d", "reference", "s", (NOTHING, KERNELS), "m")
        place.may_end.set()
        Controls((), cells).observe(place, what, {"arm": "reference"}, tmp_path / "log")
        assert place.tried == tried, cells
    first_of = {cell: Controls((), of_run).first_of(cell) for cell in (*of_run, "unknown")}
    assert first_of == {"a": [NOTHING, KERNELS], "b": [], "c": [], "d": [], "unknown": []}


def test_one_cell_of_several_starts_the_interpreter_that_lends_less(tmp_path: Path) -> None:
    """An arm that this one could not try is tried in the cell that can: an interpreter more costs 200 such arms."""
    both = {"torch": "1", "bitsandbytes": "1"}
    controls, places = Controls((), {"a": both, "b": both}), [Waits(), Waits(), Waits()]
    for place, cell, arm in zip(places, "aba", ("reference", "planted", "planted"), strict=True):
        place.cell = cell
        place.may_end.set()
        what = Shared("c", "d", arm, "s", (NOTHING,), "m")
        controls.observe(place, what, {"arm": arm}, tmp_path / "log")
    assert [place.tried for place in places] == [[""], ["all"], [""]]
    controls.forget("a")  # its environment was not what it says
    place = Waits()
    place.cell = "b"
    place.may_end.set()
    controls.observe(place, Shared("c", "e", "planted", "s", (NOTHING,), "m"), {"arm": "planted"}, tmp_path / "log")
    assert place.tried == [""]


@pytest.mark.parametrize("other", ["another torch", "another machine", "another source", "a damaged environment"])
def test_what_a_control_could_depend_on_is_the_same_or_it_is_tried_again(
    places: list[ReadyCell], tmp_path: Path, other: str
) -> None:
    controls = Controls()
    name = next(one.name for one in STRIDED.case.conditions if one.device == "cpu" and not one.control)
    first = tried(STRIDED, name, places[0], tmp_path, controls)
    place, machine = places[1], dict(MACHINE)
    if other == "another torch":
        place = places[2]
    elif other == "another machine":
        machine["cores"] = 64
    elif other == "another source":
        controls = Controls([replace(first, source="0" * 64)])
    else:
        controls.forget(places[0].cell)
    again = tried(STRIDED, name, place, tmp_path, controls, machine)
    assert set(leans(first).values()) == {places[0].cell}
    assert set(leans(again).values()) == {place.cell}


@pytest.mark.parametrize(
    ("condition", "arm", "package", "verdict"),
    [
        ("reference-imports-a-package", "reference", "tokenizers", Verdict.ABSENT),
        ("planted-asks-for-a-version", "planted", "huggingface_hub", Verdict.REPRODUCED),
    ],
)
def test_a_control_that_asks_for_a_package_is_tried_in_each_cell(
    places: list[ReadyCell], harness: Entry, tmp_path: Path, condition: str, arm: str, package: str, verdict: Verdict
) -> None:
    """Whatever it does when it is refused; the second cell does not try it alone again."""
    controls = Controls()
    records = [tried(harness, condition, place, tmp_path, controls) for place in places[:2]]
    other = next(one for one in CONTROLS if one != arm)
    for record in records:
        assert record.verdict is verdict
        assert leans(record) == {arm: "asked", other: places[0].cell}
        assert by_arm(record)[arm].evidence[ASKED_FOR] == [package]
    assert by_arm(records[0])[arm].started != by_arm(records[1])[arm].started


def test_a_control_that_dies_alone_is_tried_in_the_cell(
    places: list[ReadyCell], harness: Entry, tmp_path: Path
) -> None:
    record = tried(harness, "planted-crashes", places[0], tmp_path, Controls())
    assert record.verdict is Verdict.INCONCLUSIVE
    assert leans(record) == {"reference": places[0].cell, "planted": ""}


def test_a_later_call_on_the_same_run_leans_on_what_the_first_tried(
    tmp_path: Path, harness: Entry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the sessions of one tier do, each in a process of its own."""
    for at in range(2):
        session = Session(Run(tmp_path / "run"), jobs=2, controls=SHARED)
        place = ready(at)
        monkeypatch.setattr(session, "ready", lambda cell, place=place: place)
        session.finish(Trial(harness, harness.condition("passes"), place.cell), CELLS[at])
        session.close()
        place.close()
    found = {record.cell: leans(record) for record in load(tmp_path / "run")[0]}
    first = CELLS[0].label
    assert found == {CELLS[at].label: {"reference": first, "planted": first} for at in range(2)}


def test_one_cell_shares_nothing_unless_it_is_asked_to() -> None:
    assert [way(None, 1), way(None, 2), way(EVERY_CELL, 2), way(SHARED, 1)] == [EVERY_CELL, SHARED, EVERY_CELL, SHARED]


def test_bad_input_is_two_lines(capsys: pytest.CaptureFixture[str]) -> None:
    run = ["run", "gh1995", "--cell", CELLS[0].label]
    assert errors([*run, "--controls", "none"], capsys).startswith("--controls: there is no `none`\n")
    assert errors([*run, "--executor", "dask", "--controls", "shared"], capsys).startswith("--executor dask: ")


# --- conditions that agree


def agreeing(*conditions: Condition, asks: tuple[str, ...] = ("device", "rows"), state: str = "done") -> list[Any]:
    """Try a control under several conditions in one cell, one after the other; return what is told of each."""
    controls, place = Controls(), Waits()
    place.may_end.set()
    place.reads, place.state = list(asks), state
    told = []
    for condition in conditions:
        what = Shared("c", condition.name, "reference", "s", (), "m", condition)
        seen = controls.observe(place, what, {"arm": "reference", "condition": condition.name}, Path("log"))
        told.append(seen.evidence.get("tried_as", "itself"))
    assert len(place.tried) == told.count("itself")
    return told


ONE = Condition("one", held(1), {"rows": 1, "mode": "a"})


def test_a_control_is_tried_once_for_conditions_that_agree_in_what_it_asks_for() -> None:
    same, other = replace(ONE, name="same", params={"rows": 1, "mode": "b"}), replace(ONE, name="x", params={"rows": 2})
    assert agreeing(ONE, same, other, replace(other, name="y")) == ["itself", "one", "itself", "x"]
    assert agreeing(ONE, same, asks=("rows", "mode")) == ["itself", "itself"]


def test_what_asks_for_all_of_its_condition_is_tried_under_each() -> None:
    again = replace(ONE, name="again")
    for asks in (("rows", "name"), ("rows", "but"), ("rows", "__dict__")):
        assert agreeing(ONE, again, asks=asks) == ["itself", "itself"], asks


def test_an_attribute_that_is_not_there_is_not_one_that_is_none() -> None:
    """As for `getattr(c, "mode", 0)`."""
    without = replace(ONE, name="without", params={"rows": 1})
    assert agreeing(without, replace(ONE, params={"rows": 1, "mode": None}), asks=("mode",)) == ["itself", "itself"]


def test_a_control_that_came_to_no_end_of_its_own_serves_no_other_condition() -> None:
    assert agreeing(ONE, replace(ONE, name="again"), state="crashed") == ["itself", "itself"]


def test_another_environment_or_checkpoint_is_another_trial() -> None:
    controls, place = Controls(), Waits()
    place.may_end.set()
    place.reads = ["rows"]
    for name, more in (("a", {}), ("b", {"env": {"X": "1"}}), ("c", {"checkpoint": "/x"}), ("d", {})):
        what = Shared("c", name, "reference", "s", (), "m", replace(ONE, name=name))
        seen = controls.observe(place, what, {"arm": "reference", "condition": name, **more}, Path("log"))
        assert seen.evidence.get("tried_as") == ("a" if name == "d" else None)
    assert len(place.tried) == 3


def test_conditions_that_may_agree_wait_for_one_another_and_those_that_cannot_do_not(tmp_path: Path) -> None:
    controls, first = Controls(), Waits()
    first.reads = ["rows"]

    def ask(name: str, rows: int, place: Waits) -> Observation:
        given = replace(ONE, name=name, params={"rows": rows})
        what = Shared("c", name, "reference", "s", (), "m", given)
        return controls.observe(place, what, {"arm": "reference", "condition": name}, tmp_path / "log")

    first.may_end.set()
    ask("known", 0, first)
    slow, quick = Waits(), Waits()
    slow.reads = quick.reads = ["rows"]
    slow.waits_in_cell = True
    quick.may_end.set()
    with ThreadPoolExecutor(3) as pool_of_three:
        begun = pool_of_three.submit(ask, "slow", 1, slow)
        eventually(lambda: slow.tried, 10, "the slow one to begin")
        agrees = pool_of_three.submit(ask, "agrees", 1, quick)
        assert ask("differs", 2, quick).evidence.get("tried_as") is None
        assert not agrees.done()
        slow.may_end.set()
        assert begun.result(60).evidence.get("tried_as") is None
        assert agrees.result(60).evidence["tried_as"] == "slow"


def test_an_arm_says_what_it_asked_of_its_condition_and_the_terminal_as_which_it_was_tried(
    places: list[ReadyCell], tmp_path: Path
) -> None:
    """Under a real case: the layout decides what a layer gets, and no control looks at how it is called."""
    entry = next(one for one in cases.find() if one.name == "gh1862_transposed_weight")
    controls = Controls()
    names = ("out-in", "one-row")
    records = [tried(entry, name, places[0], tmp_path, controls) for name in names]
    alone = [tried(entry, name, places[0], tmp_path, None) for name in names]
    first, second = (by_arm(record)["reference"] for record in records)
    assert {"k", "n", "rows"} <= set(first.evidence["reads"])
    assert not {"name", "__dict__", "params"} & set(first.evidence["reads"])
    for seen, record, own in zip((first, second), records, alone, strict=True):
        assert (record.verdict, record.readings) == (own.verdict, own.readings)
        assert "reads" not in by_arm(own)["reference"].evidence
        assert seen.figures.keys() == by_arm(own)["reference"].figures.keys()
    if "tried_as" in second.evidence:
        assert "reference: tried once, under out-in, which gives it all that it asks for alike" in said(records[1])
        assert second.figures == first.figures
