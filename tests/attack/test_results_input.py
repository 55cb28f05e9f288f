"""Damaged results: each line is refused with its place, or it is one that every reader can print.

A mutation that leaves a line readable must leave it consistent: what is taken goes through the terminal, both pages,
JUnit, the comment of an attachment and the exit code, and none may fail.
"""

from __future__ import annotations

import copy
import io
import json
import tempfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from repros import cases
from repros.bisect import probe
from repros.errors import UserError
from repros.evidence import fits, proxies, readme
from repros.redaction.redact import Redactor
from repros.report import junit, markdown, terminal
from repros.report.attachment import comment
from repros.report.page import html
from repros.run import ending, results
from repros.run.results import Record
from tests.attack.tally import at_the_door

KNOWN = {e.name: e for e in cases.find()}
#: One value of each kind, none of which belongs in most places.
STRANGE: list[Any] = [
    *(None, True, False, 0, -1, 2**63, 10**30, 1.5, "", "x", "nan", "inf", "-inf", "absent", "\x00", "\x1b[31m", "[/]"),
    *([], {}, [None], [[]], {"": None}, [[1, "x"]], "a\nb", "<b>", "|", "\u202e", "9" * 400, "bytes", ["subject"]),
]


@cache
def lines() -> list[dict[str, Any]]:
    """Return trials of each verdict and device, without the bulk of their timelines."""
    found: dict[tuple[str, str, str, bool], dict[str, Any]] = {}
    for folder in ("cpu", "h200"):
        for line in map(json.loads, (results.REPORTS / folder / "results.jsonl").read_bytes().splitlines()):
            if line["kind"] == "trial":
                key = (line["case"], line["verdict"], line["device"], line["proposed"] is None)
                found.setdefault(key, thinned(line))
    settled = [line for line in found.values() if line["arms"] and line["verdict"] in ("reproduced", "absent")]
    return [*found.values(), *map(new, settled[::4]), *map(control, settled[1::4])]


def new(line: dict[str, Any]) -> dict[str, Any]:
    """Return a trial as it would be if nothing were recorded of its condition."""
    return {**copy.deepcopy(line), "expected": None, "outcome": "new", "failed": False}


def control(line: dict[str, Any]) -> dict[str, Any]:
    """Return a trial as it would be if the report called its condition fine."""
    line = copy.deepcopy(line)
    bad = line["verdict"] == "reproduced"
    line["arms"] = [arm for arm in line["arms"] if arm["arm"] != "planted"]
    line["margins"]["planted_over_budget"] = None
    line["readings"].pop("planted", None)  # none where it is a control already
    return {
        **line,
        "control": True,
        "expected": False,
        "outcome": "regression" if bad else "as expected",
        "failed": bad,
    }


def thinned(line: dict[str, Any]) -> dict[str, Any]:
    for arm in line["arms"]:
        for name, value in arm["evidence"].items():
            if isinstance(value, list):
                arm["evidence"][name] = value[:6]
    return line


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of every value below."""
    steps = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for step, inner in steps:
        yield (*path, step)
        yield from places(inner, (*path, step))


def strange(draw: Callable[[Any], Any]) -> Any:
    """Return a value of another kind, one that no other line has a part of."""
    return copy.deepcopy(draw(st.sampled_from(STRANGE)))


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """Return the bytes of a results file that was damaged in one way or several."""
    several = [copy.deepcopy(draw(st.sampled_from(lines()))) for _ in range(draw(st.integers(1, 2)))]
    several.append({"schema": 1, "kind": "time", "seconds": {"total": 1.0, "arms": 0.5}})
    for _ in range(draw(st.integers(1, 3))):
        line = draw(st.sampled_from(several))
        path = draw(st.sampled_from(list(places(line))))
        inner = line
        for step in path[:-1]:
            inner = inner[step]
        how = draw(st.integers(0, 3))
        if how == 0:
            del inner[path[-1]]
        elif how == 1:
            inner[path[-1]] = strange(draw)
        elif how == 2:
            other = draw(st.sampled_from(list(places(line))))
            try:
                value: Any = line
                for step in other:
                    value = value[step]
                inner[path[-1]] = copy.deepcopy(value)
            except (KeyError, IndexError, TypeError):
                continue
        elif isinstance(inner, dict):
            inner[str(draw(st.sampled_from(STRANGE)))] = strange(draw)
        if not list(places(line)):
            break
    data = b"".join(json.dumps(line).encode() + b"\n" for line in several)
    if draw(st.integers(0, 3)) == 0:  # and bytes on the way
        for _ in range(draw(st.integers(1, 3))):
            at = draw(st.integers(0, len(data) - 1))
            data = data[:at] + draw(st.binary(max_size=3)) + data[at + draw(st.integers(0, 4)) :]
    return data


def read_by_all(folder: Path) -> None:
    """Do with a run what the commands do."""
    records, _ = ending.judged([folder], KNOWN)
    console = terminal.console(file=io.StringIO())
    terminal.matrix(records, console)
    terminal.summary(records, console)
    ending.code(records)
    redactor, sources = Redactor(), [results.shown(folder)]
    for record in records:
        terminal.detail(record, console)
        if record.case in KNOWN and any(c.name == record.condition for c in KNOWN[record.case].case.conditions):
            comment.comment(record, records, KNOWN[record.case], redactor)
    markdown.page(records, KNOWN, sources)
    markdown.summary(records, KNOWN, sources, ("other", records[:1]))
    junit.document(records, redactor)
    html.page(records, KNOWN, sources, redactor)
    fits.page(records, [folder])
    proxies.page(records, records, KNOWN, [folder])
    readme.standings(records, records, KNOWN)
    readme.spent(folder)
    results.settled(folder)
    results.keep([folder], folder / "kept.jsonl", records)
    assert {one.key for one in results.load(folder / "kept.jsonl")[0]} == {one.key for one in records}


@given(data=damaged())
def test_a_damaged_run_is_refused_or_printed_by_all(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as place:
        (Path(place) / results.RESULTS).write_bytes(data)
        with at_the_door("results"):
            read_by_all(Path(place))


@given(number=st.integers(0, 10**6), data=st.data())
def test_no_contradiction_is_taken(number: int, data: st.DataObject) -> None:
    """A verdict, reading, figure, margin or ending that the rest of the record does not bear out is refused."""
    line = copy.deepcopy(lines()[number % len(lines())])
    kept = Record.from_json(line)
    judged = [arm for arm in line["arms"] if arm["state"] == "done" and line["budget"]["figure"] in arm["figures"]]
    ways = ["verdict", "outcome", "failed", "expected", "recorded"]
    ways += ["readings", "limit", "margins", "control"] if line["arms"] else []
    way = data.draw(st.sampled_from(ways + (["figure"] if judged else [])))
    if way == "verdict":
        line["verdict"] = data.draw(st.sampled_from(["reproduced", "absent", "inconclusive"]))
    elif way == "outcome":
        line["outcome"] = data.draw(st.sampled_from(["as expected", "regression", "fixed", "unsettled", "new"]))
    elif way in ("failed", "expected"):
        line[way] = not line[way]
    elif way == "recorded":
        line["expected"] = None if line["expected"] is not None else data.draw(st.booleans())
    elif way == "control":
        line["control"] = not line.get("control", False)
    elif way == "readings":
        name = data.draw(st.sampled_from(sorted(line["readings"])))
        line["readings"][name] = data.draw(st.sampled_from(["inside", "over", "error", "timeout"]))
    elif way == "limit":
        line["budget"]["limit"] = data.draw(st.sampled_from([0, 1e18]))
    elif way == "margins":
        line["margins"]["budget_over_reference"] = data.draw(st.sampled_from([0.1, 77.7]))
    else:
        arm = data.draw(st.sampled_from(judged))
        inside = line["readings"][arm["arm"]] == "inside"
        arm["figures"][line["budget"]["figure"]] = data.draw(st.sampled_from([10**15, "nan"] if inside else [0, -1]))
    same = Record.from_json(line)
    # What settles nothing may be expected or not: `unsettled` either way.
    if same == kept or (way in ("expected", "recorded") and kept.outcome.value == "unsettled" and not kept.control):
        return
    with tempfile.TemporaryDirectory() as place:
        (Path(place) / results.RESULTS).write_text(json.dumps(line) + "\n")
        with at_the_door("contradictions"):
            pytest.fail(f"{way}: {results.load(Path(place))[0]}")


@given(data=st.data())
def test_damaged_probes_are_refused_or_read(data: st.DataObject) -> None:
    kept = (results.REPORTS / "bisect" / "gh1849-transformers" / "probes.jsonl").read_bytes().splitlines()
    line = json.loads(data.draw(st.sampled_from(kept)))
    path = data.draw(st.sampled_from(list(places(line))))
    inner = line
    for step in path[:-1]:
        inner = inner[step]
    inner[path[-1]] = strange(data.draw)
    with tempfile.TemporaryDirectory() as place:
        file = Path(place) / "probes.jsonl"
        file.write_text(json.dumps(line) + "\n")
        with at_the_door("probes"):
            for one in probe.load(file):
                assert probe.Kept(Path(place)).find(*one.key) == [one]


def test_what_nothing_is_recorded_of_and_what_is_a_control_are_taken(tmp_path: Path) -> None:
    """The door is not shut."""
    kinds = {
        (line["outcome"], line["verdict"], line["device"], line["expected"], bool(line.get("control"))): line
        for line in lines()
        if line["expected"] is None or line.get("control")
    }
    assert {kind[0] for kind in kinds} == {"new", "as expected", "regression"}
    for line in kinds.values():
        (tmp_path / results.RESULTS).write_text(json.dumps(line) + "\n")
        read_by_all(tmp_path)
        (tmp_path / "kept.jsonl").unlink()


def test_the_tally_tells_a_traceback_from_two_lines() -> None:
    with pytest.raises(KeyError), at_the_door("nothing"):
        raise KeyError("x")
    with pytest.raises(AssertionError), at_the_door("nothing"):
        raise UserError("what", "")
