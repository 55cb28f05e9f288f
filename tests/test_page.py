"""The page: from records alone, in one file."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from repros.advisory import model
from repros.meters.timeline import thinned
from repros.redaction.redact import Redactor
from repros.report.page import changes, html, pack
from repros.run import results
from repros.run.results import Record
from repros.verdict import Observation, Verdict
from tests.factories import record
from tests.pages import EVIDENCE, KNOWN, inflated, split


def test_every_trial_is_a_field_with_its_verdict(page: str, records: list[Record]) -> None:
    fields = re.findall(r'<td class="v-(\w+)[^>]*><button type="button" data-t="(\d+)"[^>]*aria-label="([^"]+)"', page)
    assert len(fields) == len(records)
    assert sorted(int(number) for _, number, _ in fields) == list(range(len(records)))
    wanted = sorted((r.verdict.value, r.condition, r.cell) for r in records)
    seen = [(verdict, *re.match(r"(\S+) in (.+?): ", label).groups()) for verdict, _, label in fields]  # type: ignore[union-attr]
    assert sorted(seen) == wanted


def test_the_blocks_hold_the_figures_of_the_records(page: str, records: list[Record]) -> None:
    ordered = html.ordered(records, KNOWN)
    blocks = re.findall(r'class="evidence">([^<]*)<', page)
    assert len(blocks) == -(-len(records) // pack.BLOCK)
    trials = [trial for block in split(inflated(page)) for trial in block["trials"]]
    assert len(trials) == len(records)
    for found, trial in zip(ordered, trials, strict=True):
        assert trial["reason"] == found.reason
        for arm, packed in zip(found.arms, trial["arms"], strict=True):
            assert {k: float(v) for k, v in packed["figures"].items()} == arm.figures


@pytest.mark.parametrize("path", sorted(results.REPORTS.glob("*/index.html")), ids=lambda path: path.parent.name)
def test_a_committed_page_is_what_its_results_make(path: Path) -> None:
    """But for the one-file scripts: they hold this project's sources, as those were when the page was made."""
    kept = path.with_name(results.RESULTS)
    found = results.load(kept)[0]
    advisories = model.load(results.REPORTS / "advisories")
    made = html.page(found, KNOWN, [results.shown(kept)], Redactor(), place=path.parent, advisories=advisories)
    text = path.read_text()
    folder = results.shown(path.parent)
    command = f"python -m repros report {folder} --commit-to {folder}"  # a page of `--html` is signed
    assert without_scripts(made) == without_scripts(text), f"make it again: {command}"
    blocks = re.compile(r'(class="evidence">|id="scripts">)[^<]*')  # deflated otherwise by another zlib
    assert blocks.sub(r"\1", made) == blocks.sub(r"\1", text), f"make it again: {command}"


def without_scripts(page: str) -> list[dict[str, Any]]:
    """Return the blocks of a page, whose trials have lost their scripts."""
    found = split(inflated(page))
    for block in found:
        for trial in block["trials"]:
            del trial["script"]
    return found


def test_the_pages_of_cards_print_every_reported_number_beside_the_measured_one() -> None:
    text = "".join((results.REPORTS / card / "index.html").read_text() for card in ("h200", "h100"))
    tables = "".join(re.findall(r'<table class="plain beside">.*?</table>', text, re.DOTALL))
    named = {name for entry in KNOWN.values() for claim in entry.case.claims for name in claim.readings}
    assert len(named) >= 12
    for name in named:
        found = re.findall(
            rf'<th scope="row">{re.escape(name)}</th><td>[^<]+</td><td>([^<]+)</td><td>([^<]+)</td>', tables
        )
        assert found, f"{name}: nothing was measured"
        assert any(re.match(r"[\d.]+", ratio) for _, ratio in found), name


def test_a_claim_is_illustrated_by_what_reproduced_it(records: list[Record]) -> None:
    """An arm that ran out of memory came to less than the budget; that is not what reproduced the report."""
    one = next(r for r in records if r.verdict is Verdict.ABSENT and r.figure("subject"))
    limit = float(one.budget["limit"])
    inside = replace(one, arms=(Observation("subject", "done", {one.budget["figure"]: limit * 0.9}),))
    cut = Observation("subject", "raised", {one.budget["figure"]: limit * 0.99}, reason="out of memory in phase step")
    ended = replace(one, condition="other", verdict=Verdict.REPRODUCED, arms=(cut,), reason=cut.reason)
    numbers = {inside.key: 0, ended.key: 1}
    assert html.worst([inside, ended], numbers) == {
        "number": 1, "text": "out of memory in phase step", "where": html.where(ended),
    }  # fmt: skip
    found = html.worst([inside], numbers)
    assert found and found["text"].startswith("at most 0.90× the budget")
    assert html.worst([], numbers) is None


def test_there_is_a_committed_page() -> None:
    assert (EVIDENCE / "index.html").exists()


def test_packing_shared_out_over_cores_is_packing(records: list[Record], monkeypatch: pytest.MonkeyPatch) -> None:
    secret = replace(records[0], reason="to mira.voss@example.org")
    several = [secret, *records[1:]]
    alone, together = Redactor(), Redactor()
    wanted = pack.blocks(several, alone)
    monkeypatch.setattr(pack, "MANY", 1)
    monkeypatch.setattr(pack.threading, "active_count", lambda: 1)  # type: ignore[attr-defined]
    assert pack.blocks(several, together) == wanted
    assert alone.removed == together.removed == {"e-mail address": 1}


def test_a_timeline_is_kept_where_it_is_short_and_keeps_its_peak_where_it_is_long() -> None:
    points = [[i / 1000, (i * 7919) % 1000, i] for i in range(1000)]
    kept = thinned(points, 100)
    assert len(kept) <= 101
    assert max(point[1] for point in kept) == max(point[1] for point in points)
    assert kept[-1] == points[-1]
    assert thinned(points, 1000) == points
    assert pack.steps([5, 7, 4]) == [5, 2, -3]


def test_figures_and_evidence_of_other_meters_go_in_under_their_own_names(records: list[Record]) -> None:
    one = records[0]
    arm = replace(
        one.arms[0],
        figures={**one.arms[0].figures, "cuda_peak_reserved_bytes": 7 << 30},
        evidence={"cuda_timeline": [[0.0, 1, 2], [0.5, 3, 4]], "cuda_timeline_columns": ["allocated", "reserved"],
                  "cuda_segments": [{"bytes": 9, "stream": 3}], "driver": "580"},
    )  # fmt: skip
    text = html.page([replace(one, arms=(arm,), device="cuda")], KNOWN, ["x"], Redactor())
    (block,) = split(inflated(text))
    packed = block["trials"][0]["arms"][0]
    assert packed["figures"]["cuda_peak_reserved_bytes"] == 7 << 30
    assert block["kept"][packed["timelines"]["cuda_timeline"]["columns"]] == ["allocated", "reserved"]
    assert packed["timelines"]["cuda_timeline"]["steps"] == [[0, 5000], [1, 2], [2, 2]]
    assert block["kept"][packed["lists"]["cuda_segments"][0]] == {"bytes": 9, "stream": 3}
    assert packed["rest"] == {"driver": "580"}


def test_the_page_asks_no_network_for_anything(page: str) -> None:
    assert "default-src 'none'" in page
    written = page[: page.index('<script type="application/json"')]
    assert not re.search(r"(src|@import|url\()\s*=?\s*[\"']?https?:", written)
    assert re.findall(r'<link[^>]*href="([^"]*)"', page) == ["data:,"]


def test_what_a_record_says_cannot_end_the_page(records: list[Record]) -> None:
    evil = '</script><script>alert(1)</script> & "quoted" \x00'
    text = html.page([replace(records[0], reason=evil, cell=evil, condition=evil)], KNOWN, [evil], Redactor())
    assert "<script>alert" not in text
    assert text.count("</script>") == 3 + 1


def test_against_another_run(records: list[Record]) -> None:
    records = sorted(records, key=lambda record: record.verdict is not Verdict.ABSENT)
    before = [replace(records[0], verdict=Verdict.REPRODUCED), *records[1:-1]]
    found = changes.between(before, records)
    assert set(found) == {records[0].key, records[-1].key}
    assert found[records[0].key].what == (("verdict", "reproduced", "absent"),)
    assert found[records[-1].key].what == (("trial", "not tried", records[-1].verdict.value),)
    text = html.page(records, KNOWN, ["x"], Redactor(), against=("before", before))
    assert "What changed against before" in text
    assert "1 verdict differs" in text
    assert "1 trials are in this run only, 0 in the other only" in text
    assert {change.lone for change in found.values()} == {"", "after"}
    assert text.count(' changed"><button') == 2
    assert changes.between(records, records) == {}


def test_a_figure_that_moved_is_a_change_of_its_own(records: list[Record]) -> None:
    one = next(r for r in records if r.budget["unit"] == "bytes" and r.arms)
    subject = one.arms[0]
    name = one.budget["figure"]
    for factor, moves in ((1.04, False), (1.2, True)):
        figures = {**subject.figures, name: subject.figures[name] * factor}
        now = replace(one, arms=(replace(subject, figures=figures), *one.arms[1:]))
        found = changes.between([one], [now])
        assert bool(found) is moves
        assert all(not change.settles for change in found.values())


def test_every_sign_is_told_apart_without_colour() -> None:
    """Of a trial of each verdict: what stands in its field is what no other has."""
    text = html.page([record(condition=one.value, verdict=one) for one in Verdict], KNOWN, ["x"], Redactor())
    seen = dict(re.findall(r'<td class="v-(\w+)[^>]*><button[^>]*><i>([^<]+)</i>', text))
    assert seen.keys() == {verdict.value for verdict in Verdict}
    assert len(set(seen.values())) == len(Verdict)
