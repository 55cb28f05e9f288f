"""The page: from records alone, in one file, whatever state the run is in; and, in a browser, what a reader can do."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from repros import ROOT, cases
from repros.case import unit_of
from repros.commands import cli
from repros.meters.timeline import thinned
from repros.redaction.redact import Redactor
from repros.report.page import changes, html, pack
from repros.run import results
from repros.run.results import Record, Run
from repros.verdict import Observation, Verdict, show
from tests.big_run import known, ten_thousand
from tests.chromium import Chromium
from tests.records import record
from tests.test_cli import errors
from tests.test_redact import inflated

EVIDENCE = results.REPORTS / "cpu"
KNOWN = {e.name: e for e in cases.find()}


@pytest.fixture(scope="module")
def records() -> list[Record]:
    return results.load(EVIDENCE)[0]


@pytest.fixture(scope="module")
def page(records: list[Record]) -> str:
    return html.page(records, KNOWN, ["reports/cpu"], Redactor())


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
    made, text = html.page(found, KNOWN, [results.shown(kept)], Redactor()), path.read_text()
    command = f"python -m repros report {results.shown(kept)} --html {results.shown(path)}"
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


def test_the_page_of_a_card_prints_every_reported_number_beside_the_measured_one() -> None:
    text = (results.REPORTS / "h200" / "index.html").read_text()
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


def split(text: str) -> list[dict[str, Any]]:
    """Return the objects of JSON texts written one after another."""
    decoder, found, at = json.JSONDecoder(), [], 0
    while at < len(text):
        one, at = decoder.raw_decode(text, at)
        found.append(one)
    return found


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


# -- runs in every state


def outputs(folder: Path) -> list[str]:
    return ["--html", str(folder / "p.html"), "--junit", str(folder / "j.xml"), "--summary", str(folder / "s.md")]


def test_an_empty_run_is_said_in_two_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = Run(tmp_path / "r")
    assert "no finished trial" in errors(["report", str(run.folder), *outputs(tmp_path)], capsys)


def test_a_run_cut_in_the_middle_makes_a_page_that_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = Run(tmp_path / "r")
    data = (EVIDENCE / results.RESULTS).read_bytes()
    run.path.write_bytes(data[: len(data) // 20])
    assert cli.main(["report", str(run.folder), *outputs(tmp_path)]) == 0
    assert "the last line is cut off" in (tmp_path / "p.html").read_text()
    assert "the last line is cut off" in capsys.readouterr().err


def test_a_run_of_an_older_schema(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without an upgrade it is refused in two lines; with one it makes a page."""
    old = ROOT / "fixtures" / "observations" / "schema0.jsonl"
    said = errors(["report", str(old), *outputs(tmp_path)], capsys)
    assert "schema0.jsonl:1: schema version 0, this version reads 1" in said
    monkeypatch.setitem(results.UPGRADES, 0, lambda line: {**line, "schema": 1})
    assert cli.main(["report", str(old), *outputs(tmp_path)]) == 0
    assert "gh1935_saved_weight" in (tmp_path / "p.html").read_text()


@pytest.mark.parametrize(
    "part", [*(f"report/page/{name}" for name in ("page.html.j2", "page.css", "trial.js")), "templates/repro.py.j2"]
)
def test_a_missing_part_is_said_in_two_lines(
    part: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "installed"
    for folder in ("report/page", "templates"):
        shutil.copytree(ROOT / "repros" / folder, root / Path(folder).name)
    (root / part.removeprefix("report/")).unlink()
    monkeypatch.setattr("importlib.resources.files", lambda package: root)
    run = Run(tmp_path / "r")
    run.append(record(case="gh1935_saved_weight", condition="nf4-eager"))
    said = errors(["report", str(run.folder), "--html", str(tmp_path / "p.html")], capsys)
    assert f"repros/{part}: No such file or directory" in said


def test_a_page_that_cannot_be_written_is_said_in_two_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = Run(tmp_path / "r")
    run.append(record())
    said = errors(["report", str(run.folder), "--html", str(tmp_path / "no" / "p.html")], capsys)
    assert "cannot write: No such file or directory" in said


def test_a_cell_that_was_never_built_and_a_case_that_is_gone_have_their_place() -> None:
    rows = [
        replace(record(case="gh9_gone"), arms=(), environment={}, verdict=Verdict.UNSUPPORTED, reason="no wheel"),
        replace(record(cell="b"), arms=(), environment={}, verdict=Verdict.ERROR, failed=True),
    ]
    text = html.page(rows, KNOWN, ["x"], Redactor())
    assert "a case that this version of the suite does not have" in text
    assert "no wheel" in text
    assert "1 trial is not as recorded or not settled" in text


def test_junit_says_what_the_run_says(tmp_path: Path) -> None:
    run = Run(tmp_path / "r")
    failed = record(condition="worse", verdict=Verdict.REPRODUCED, expected=False)
    hostile = Observation("subject", "timeout", reason="\x1b[0m")
    lost = record(condition="lost", arms=(hostile, *record().arms[1:]))
    for one in (record(), failed, lost, record(condition="no", verdict=Verdict.UNSUPPORTED)):
        run.append(one)
    assert cli.main(["report", str(run.folder), *outputs(tmp_path)]) == 0
    top = ElementTree.parse(tmp_path / "j.xml").getroot()
    assert [top.get(name) for name in ("tests", "failures", "errors", "skipped")] == ["4", "1", "1", "1"]
    found = {case.get("name"): [child.tag for child in case] for case in top.iter("testcase")}
    assert found == {
        "c[a]": ["properties"], "worse[a]": ["properties", "failure"], "lost[a]": ["properties", "error"],
        "no[a]": ["properties", "skipped"],
    }  # fmt: skip
    summary = (tmp_path / "s.md").read_text()
    assert "2 trials are not as recorded, or not settled" in summary
    assert "hint: the record says that this version is not affected" in summary


@pytest.mark.slow
def test_ten_thousand_trials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The time is counted in readings of the same file by the standard library, for machines differ and are busy.

    For the same reason a filter's is the time for which the page's own thread worked. The seconds themselves are
    measured by `nox -s bench`.
    """
    run, entries = ten_thousand(tmp_path / "r"), known()
    monkeypatch.setattr(cases, "find", lambda: entries)
    text = run.path.read_text()
    before = os.times()
    for line in text.splitlines():
        json.loads(line)
    between = os.times()
    target = tmp_path / "p.html"
    assert cli.main(["report", str(run.folder), "--html", str(target)]) == 0
    after = os.times()
    assert used(between, after) < 10 * used(before, between)
    assert target.stat().st_size < 20 << 20
    with Chromium() as (chromium, context):
        tab = context.new_page()
        tab.goto(target.as_uri())
        assert tab.locator("#count").inner_text() == "10000 trials"
        session = context.new_cdp_session(tab)
        session.send("Performance.enable", {"timeDomain": "threadTicks"})
        words = ("dora 0.50.2", "", "eager", "") * 2
        took = [filtered(tab, session, word) for word in words]
        assert max(map(min, zip(took[:4], took[4:], strict=True))) < 0.5
        assert tab.locator("#count").inner_text() == "10000 trials"
        assert chromium.is_connected()


def filtered(tab: Any, session: Any, word: str) -> float:
    """Filter the tables by a word and return the seconds that the page's thread works until they are laid out again."""

    def worked() -> float:
        found = {one["name"]: one["value"] for one in session.send("Performance.getMetrics")["metrics"]}
        return float(found["TaskDuration"])

    before = worked()
    tab.evaluate(FILTER, word)
    count = str(tab.locator("#count").inner_text())
    assert ("of 10000" in count) == bool(word)
    return worked() - before


FILTER = """word => { const field = document.getElementById("find");
    field.value = word; field.dispatchEvent(new Event("input", { bubbles: true })); document.body.offsetHeight; }"""


def used(before: os.times_result, after: os.times_result) -> float:
    """Return the processor's seconds of this process and of the children that it waited for."""
    return sum(after[:4]) - sum(before[:4])


# -- in a browser


@pytest.fixture(scope="module")
def written(page: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "p.html"
    path.write_text(page, encoding="utf-8")
    return path


@pytest.fixture
def tab(written: Path) -> Iterator[Any]:
    """Return the page, opened from disk; whatever it asks for but itself, or complains of, fails the test."""
    with Chromium(viewport={"width": 1280, "height": 900}) as (_, context):
        one, asked, said = context.new_page(), [], []
        one.on("request", lambda request: asked.append(request.url))
        one.on("pageerror", lambda error: said.append(str(error)))
        one.on("console", lambda message: said.append(message.text) if message.type in ("error", "warning") else None)
        one.goto(written.as_uri())
        yield one
        assert {url for url in asked if not url.startswith(("data:", "blob:"))} <= {written.as_uri()}
        assert said == []


def field(tab: Any, records: list[Record], **wanted: str) -> tuple[Record, Any]:
    ordered = html.ordered(records, KNOWN)
    number = next(i for i, r in enumerate(ordered) if all(getattr(r, name) == value for name, value in wanted.items()))
    return ordered[number], tab.locator(f'.heat button[data-t="{number}"]')


DORA = {"case": "gh1935_saved_weight", "condition": "nf4-dora-eager", "cell": "tf5.2.0-bnb0.49.2"}


def test_filters_in_a_browser(tab: Any, records: list[Record]) -> None:
    from playwright.sync_api import expect

    def shown() -> int:
        return int(tab.evaluate("document.querySelectorAll('.heat tr:not([hidden]) td:not(.off) button').length"))

    assert shown() == len(records)
    tab.fill("#find", "gh1935 compile 0.50.2")
    wanted = [r for r in records if r.case.startswith("gh1935") and "compile" in r.condition and "0.50.2" in r.cell]
    assert tab.inner_text("#count") == f"{len(wanted)} of {len(records)} trials"
    tab.click("text=Clear")
    tab.uncheck("[name=verdict][value=absent]", force=True)
    tab.uncheck("[name=verdict][value=unsupported]", force=True)
    bad = sum(r.verdict is Verdict.REPRODUCED for r in records)
    expect(tab.locator("#count")).to_have_text(f"{bad} of {len(records)} trials")
    tab.click("text=Clear")
    expect(tab.locator("#count")).to_have_text(f"{len(records)} trials")
    tab.check("#differs")
    rows: dict[tuple[str, str], set[Verdict]] = {}
    for r in records:
        rows.setdefault((r.case, r.condition), set()).add(r.verdict)
    mixed = sum(len(rows[r.case, r.condition]) > 1 for r in records)
    assert tab.inner_text("#count") == f"{mixed} of {len(records)} trials"
    tab.uncheck("#differs")
    tab.select_option("#effect", label="cures")
    cured = sum(bool(r.proposed and r.proposed["effect"] == "cures") for r in records)
    assert tab.inner_text("#count") == f"{cured} of {len(records)} trials"


def test_a_browser_prints_a_figure_as_everything_else_does(tab: Any) -> None:
    """Among them halves of a last digit, which JavaScript rounds otherwise: 1152 bytes are 1.12 KiB."""
    values = [0, 1, 0.5, 2.5, 1023.5, 1152, 1408, -1152, 1536, 10**6, 123456.5, 13 * 10**9, 6.5e9, 2.125e9, 70.6e9,
              999_999.5, 1e-5, 0.00012345, 0.0625, 1.005, 3 << 30, 1e20, 2**53 - 1]  # fmt: skip
    rows = [
        (value, unit, more)
        for value in values
        for unit in ("bytes", "parameters", "ratio", "count", "times")
        for more in (0, 1, 5)
    ]
    shown = tab.evaluate("rows => rows.map(([value, unit, more]) => show(value, unit, more))", rows)
    assert dict(zip(rows, shown, strict=True)) == {row: show(*row) for row in rows}
    names = ["largest_parameters", "peak_bytes", "error", "bytes", "parameters", "saved_error", "calls"]
    assert tab.evaluate("names => names.map(unitOf)", names) == [unit_of(name) for name in names]


def test_a_trial_prints_parameters_by_the_billion(tmp_path: Path) -> None:
    one = record()
    arms = tuple(replace(arm, figures={**arm.figures, "largest_parameters": 13 * 10**9}) for arm in one.arms)
    path = tmp_path / "p.html"
    path.write_text(html.page([replace(one, arms=arms)], KNOWN, ["x"], Redactor()), encoding="utf-8")
    with Chromium() as (_, context):
        tab = context.new_page()
        tab.goto(f"{path.as_uri()}#trial-0")
        tab.wait_for_selector("dialog[open] .arms")
        tab.click("dialog summary:has-text('Every figure of every arm')")
        row = tab.locator("dialog details tr", has_text="largest_parameters")
        assert set(row.locator("td").all_inner_texts()) == {"13B"}


def test_a_trial_opens_and_closes_in_a_browser(tab: Any, records: list[Record]) -> None:
    one, button = field(tab, records, **DORA)
    button.click()
    tab.wait_for_selector("dialog[open] .arms")
    text = tab.inner_text("dialog")
    environment = one.environment
    parts = (
        *(one.reason, one.condition, one.cell, "reproduced", "confirmed under conditions", "0.48 GB"),
        *(environment["packages"]["torch"], environment["lock"][:16], one.repeat, "python -m repros bundle"),
        *("planted over budget", "changes nothing", "bitsandbytes::dequantize_4bit", "made by"),
    )
    for part in parts:
        assert part in text, part
    assert tab.locator("dialog svg path.line").count() == len(one.arms)
    assert tab.locator("dialog svg line.budget").count() == 1
    label = tab.get_attribute("dialog svg[role=img]", "aria-label")
    assert "forward, backward" in label
    assert "subject peaks at" in label
    tab.select_option("dialog select[aria-label='arm']", "planted")
    tab.keyboard.press("Escape")
    assert not tab.evaluate("document.getElementById('trial').open")
    assert tab.evaluate("document.activeElement.dataset.t") == button.get_attribute("data-t")


def test_the_keyboard_is_enough(tab: Any, records: list[Record]) -> None:
    from playwright.sync_api import expect

    one, button = field(tab, records, **DORA)
    button.focus()
    tab.keyboard.press("ArrowRight")
    moved = tab.evaluate("document.activeElement.getAttribute('aria-label')")
    assert moved.startswith("nf4-dora-eager in ")
    assert one.cell not in moved
    tab.keyboard.press("ArrowLeft")
    tab.keyboard.press("Enter")
    tab.wait_for_selector("dialog[open] .arms")
    assert tab.evaluate("document.activeElement.id") == "trial-head"
    here = tab.inner_text(".place")
    tab.keyboard.press("ArrowRight")
    expect(tab.locator(".place")).not_to_have_text(here)
    stops = tab.evaluate(
        "[...document.querySelectorAll('.heat tbody')].map(b => b.querySelectorAll('button[tabindex=\"0\"]').length)"
    )
    assert set(stops) == {1}


def test_a_link_opens_its_trial(written: Path, tab: Any, records: list[Record]) -> None:
    tab.goto(f"{written.as_uri()}#trial-5")
    tab.wait_for_selector("dialog[open] #trial-head")
    assert html.ordered(records, KNOWN)[5].condition in tab.inner_text("#trial-head")
    tab.goto(f"{written.as_uri()}#trial-99999")
    assert not tab.evaluate("document.getElementById('trial').open")


def test_a_browser_that_cannot_inflate_says_so(written: Path, records: list[Record]) -> None:
    with Chromium() as (_, context):
        context.add_init_script("delete window.DecompressionStream")
        tab = context.new_page()
        tab.goto(written.as_uri())
        assert tab.evaluate("typeof DecompressionStream") == "undefined"
        field(tab, records, **DORA)[1].click()
        tab.wait_for_selector("dialog[open] #trial-head")
        assert tab.inner_text("#trial-head") == "This trial cannot be opened"
        assert "it has no DecompressionStream; a newer one has" in tab.inner_text("dialog")


CONTRAST = (Path(__file__).parent / "contrast.js").read_text()


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_contrast_in_both_themes(tab: Any, records: list[Record], theme: str) -> None:
    tab.emulate_media(color_scheme="dark" if theme == "light" else "light")  # the button must win over the system
    for _ in range(3):
        if tab.evaluate("document.documentElement.dataset.theme") != theme:
            tab.click("#theme")
    assert tab.inner_text("#theme") == f"Theme: {theme}"
    paper = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    assert paper == ("rgb(255, 255, 255)" if theme == "light" else "rgb(20, 23, 26)")
    tab.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true; })")
    tab.add_style_tag(content=".case { content-visibility: visible !important; }")
    found = tab.evaluate(CONTRAST)
    assert len(found) > 1000
    assert found[0][0] >= 4.5, found[:5]
    field(tab, records, **DORA)[1].click()
    tab.wait_for_selector("dialog[open] .arms")
    assert (worst := tab.evaluate(CONTRAST))[0][0] >= 4.5, worst[:5]


def test_every_sign_is_told_apart_without_colour(page: str) -> None:
    assert len(set(html.SIGNS.values())) == len(Verdict)
    for verdict, sign in html.SIGNS.items():
        for classes, seen in re.findall(r'<td class="v-([\w ]+)"><button[^>]*><i>([^<]+)</i>', page):
            if classes.split()[0] == verdict.value:
                assert seen == sign


@pytest.mark.parametrize("width", [360, 390, 768])
def test_nothing_is_wider_than_a_phone(written: Path, width: int) -> None:
    with Chromium(viewport={"width": width, "height": 800}) as (_, context):
        tab = context.new_page()
        tab.goto(written.as_uri())
        assert tab.evaluate("document.documentElement.scrollWidth") <= width
        tab.goto(f"{written.as_uri()}#trial-3")
        tab.wait_for_selector("dialog[open] .arms")
        assert tab.evaluate("document.getElementById('trial').scrollWidth") <= width


def test_names_and_roles(tab: Any) -> None:
    assert tab.evaluate("document.documentElement.lang") == "en"
    assert tab.locator("h1").count() == 1
    nameless = """[...document.querySelectorAll("button, input, select")].filter(
        (e) => !(e.getAttribute("aria-label") || e.textContent.trim() || e.closest("label"))).length"""
    assert tab.evaluate(nameless) == 0
    levels = tab.evaluate("[...document.querySelectorAll('h1, h2, h3')].map(h => Number(h.tagName[1]))")
    assert all(after - before <= 1 for before, after in pairwise(levels))
    assert tab.evaluate(
        "[...document.querySelectorAll('table')].every(t => t.querySelector('caption') && t.querySelector('th[scope]'))"
    )


def test_it_prints(tab: Any, tmp_path: Path) -> None:
    tab.emulate_media(media="print")
    assert not tab.locator(".filters").is_visible()
    assert tab.locator(".heat button").first.is_visible()
    data = tab.pdf(path=str(tmp_path / "p.pdf"), print_background=True)
    assert data.startswith(b"%PDF")
