"""What the page opens with: a row a report, which says what the README says."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from repros import ROOT
from repros.advisory import model
from repros.redaction.redact import Redactor
from repros.report import rows
from repros.report.page import answers, html
from repros.report.standing import by_report
from repros.run import results
from repros.run.results import Record
from tests.chromium import Chromium
from tests.factories import record
from tests.pages import EVIDENCE, KNOWN

#: In every release that was tried: no bisection has anything to find.
UNWALKED = ("bitsandbytes#2005", "bitsandbytes#2034")
ADVISORIES = {one.about.report: one for one in model.load(results.REPORTS / "advisories")}


@pytest.fixture(scope="module")
def made(records: list[Record]) -> list[dict[str, Any]]:
    return answers.answers(records, KNOWN, ADVISORIES, EVIDENCE)


@pytest.fixture(scope="module")
def opens(records: list[Record], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the page over one run, with what is known over all evidence."""
    path = tmp_path_factory.mktemp("answers") / "index.html"
    text = html.page(records, KNOWN, ["x"], Redactor(), place=EVIDENCE, advisories=ADVISORIES.values())
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture(params=[(390, 844), (768, 1024), (1440, 900)], ids=lambda size: str(size[0]))
def screen(opens: Path, request: pytest.FixtureRequest) -> Iterator[Any]:
    width, height = request.param
    with Chromium(viewport={"width": width, "height": height}) as (_, context):
        tab = context.new_page()
        tab.goto(opens.as_uri())
        yield tab


def test_a_row_a_report_says_what_is_known_of_it(made: list[dict[str, Any]], records: list[Record]) -> None:
    reports = {entries[0].case.report: entries for entries in by_report(KNOWN, records)}
    assert [one["name"] for one in made] == list(reports)
    for one in made:
        known = rows.row(reports[one["name"]], records)
        whole = ADVISORIES[one["name"]].about.lines
        assert one["title"] == known.title
        assert len(one["lines"]) == max(len(known.lines), len(whole))
        for line, best in zip(one["lines"], whole, strict=True):
            assert line["hit"] == best.hit
            for name in ("bad", "good"):
                assert (line[name]["all"] or line[name]["here"]) == getattr(best, name)
            assert (f"upgrade to {best.good}" in line["todo"]) == bool(best.upgrade)


def test_what_one_run_does_not_know_is_said_over_all_evidence(made: list[dict[str, Any]]) -> None:
    """The six cells of this run have one torch; others were tried elsewhere."""
    (one,) = [one for one in made if one["name"] == "bitsandbytes#1935"]
    (line,) = [line for line in one["lines"] if "torch" in line["bad"]["here"]]
    assert line["bad"]["here"] == "torch 2.13.0"
    assert line["bad"]["all"] == "torch 2.11.0 to 2.13.0"
    assert line["good"] == {"here": rows.NO_RELEASE, "all": "torch 2.14.0"}
    assert line["todo"][0] == "upgrade to torch 2.14.0"


def test_a_mechanism_that_this_run_did_not_reproduce_is_named_all_the_same() -> None:
    tried = [one for one in results.load(EVIDENCE)[0] if one.case.startswith("gh1995") and "0.50.2" in one.cell]
    ((line,),) = [one["lines"] for one in answers.answers(tried, KNOWN, ADVISORIES, None)]
    assert line["bad"]["here"] == "none in this run"
    assert line["bad"]["all"] == ADVISORIES["bitsandbytes#1995"].about.lines[0].bad
    ((alone,),) = [one["lines"] for one in answers.answers(tried, KNOWN, {}, None)]
    assert (alone["hit"], alone["bad"]) == (rows.NOBODY, {"here": "none", "all": ""})


def test_a_mechanism_that_this_run_did_not_try_is_named_all_the_same() -> None:
    tried = [one for one in results.load(EVIDENCE)[0] if one.case == "gh1935_int8"]
    (one,) = answers.answers(tried, KNOWN, ADVISORIES, None)
    whole = ADVISORIES["bitsandbytes#1935"].about.lines
    assert [line["hit"] for line in one["lines"]] == [line.hit for line in whole]
    here = {best.case: line["bad"]["here"] for line, best in zip(one["lines"], whole, strict=True)}
    assert here.pop("gh1935_int8") == "torch 2.13.0"
    assert set(here.values()) == {"not tried in this run"}


@pytest.mark.parametrize(
    ("newest", "said"),
    [
        ("reproduced in torch 2.15.0", "still bad in torch 2.15.0"),
        ("absent in torch 2.15.0", "good in torch 2.15.0"),
        ("", ""),
    ],
)
def test_the_newest_release_in_a_readers_words(newest: str, said: str) -> None:
    assert answers.state(newest) == said


def test_what_helps_is_said_and_what_does_not_help_is_said_to_do_so(records: list[Record]) -> None:
    known = ADVISORIES["transformers#44387"]
    remedy: Any = model.Remedy
    helps, useless = remedy("set `A=1`", "works", "a trial"), remedy("wait <b>", "changes nothing", "another")
    told = [
        msgspec.structs.replace(one, remedies=[helps], useless=[useless]) for one in known.about.mechanisms
    ]  # fmt: skip
    known = msgspec.structs.replace(known, database_specific=msgspec.structs.replace(known.about, mechanisms=told))
    tried = [one for one in records if KNOWN[one.case].case.report == known.about.report]
    text = html.page(tried, KNOWN, ["x"], Redactor(), advisories=[known])
    (said,) = re.findall(r'<td data-name="what to do">(.*?)</td>', text, re.DOTALL)
    words = ("upgrade to transformers 5.4.0<", "or set <code>A=<wbr>1</code>", "does not help: wait &lt;b&gt;")
    assert sorted(words, key=said.index) == list(words)


def test_links_lead_to_files_that_are_there(made: list[dict[str, Any]]) -> None:
    """To story, bisection, witness: from the page of a run as it is committed; to upstream's fix by its address."""
    for one in made:
        names = [link["text"] for link in one["links"]]
        assert {"story", "bisection", "minimal.py"} <= set(names) or one["name"] in UNWALKED
        for link in (*one["links"], one["today"]):
            path, _, heading = link["href"].partition("#")
            if link["text"].startswith("fix "):
                assert path.startswith("https://github.com/")
                continue
            assert (EVIDENCE / path).resolve() == ROOT / link["path"]
            text = (EVIDENCE / path).read_text(encoding="utf-8")
            assert not heading or heading in re.sub(r"[^\w\n-]", "", text.lower().replace(" ", "-"))
    fixes = {link["text"] for one in made for link in one["links"] if link["text"].startswith("fix ")}
    assert {"fix #1729", "fix 5453368"} <= fixes


def test_elsewhere_a_page_names_files_and_links_to_none(records: list[Record], tmp_path: Path) -> None:
    for place in (None, tmp_path):
        for one in answers.answers(records, KNOWN, ADVISORIES, place):
            assert {link["href"] for link in one["links"] if not link["text"].startswith("fix ")} == {""}


def test_what_stands_in_backticks_is_code_and_does_nothing() -> None:
    assert html.code("a `b<i>` <b>") == "a <code>b&lt;i&gt;</code> &lt;b&gt;"
    assert html.code("`a.b_c(d=1)`") == "<code>a.<wbr>b_<wbr>c(<wbr>d=<wbr>1)</code>"
    assert html.code("`\x1b`") == "<code>\\x1b</code>"


def test_a_report_without_a_case_has_no_row_and_hides_none() -> None:
    text = html.page([record(case="gh9_gone")], KNOWN, ["x"], Redactor())
    assert 'class="plain answer"' not in text
    assert "gh9_gone" in text


# --- in a browser ----------------------------------------------------------------------------------


def test_the_answer_is_in_sight_and_the_machine_is_not(screen: Any) -> None:
    """The first report's releases and what to do, on the first screen of each size; machine facts at the foot."""
    height = screen.viewport_size["height"]
    for name in ("bad", "good from", "what to do"):
        box = screen.locator(f".answer td[data-name='{name}']").first.bounding_box()
        assert box["y"] + box["height"] <= height, name
    foot = screen.locator("footer .facts").bounding_box()
    assert foot["y"] > screen.locator(".report").last.bounding_box()["y"]


def test_no_row_is_wider_than_the_screen(screen: Any) -> None:
    width = screen.viewport_size["width"]
    assert screen.evaluate("document.documentElement.scrollWidth") <= width
    beyond = "width => [...document.querySelectorAll('.answer *')].filter(e => e.getBoundingClientRect().right > width)"
    assert screen.evaluate(f"width => ({beyond})(width).length", width) == 0


def test_on_a_phone_a_row_is_a_card_with_labels(screen: Any) -> None:
    labels = screen.evaluate(
        """[...document.querySelectorAll(".answer tbody:first-of-type tr:first-child td")].map(
        (td) => [td.dataset.name, getComputedStyle(td, "::before").content, getComputedStyle(td).display])"""
    )
    names = ["who is hit", "bad", "good from", "what to do", "newest tried"]
    assert [name for name, _, _ in labels] == names
    narrow = screen.viewport_size["width"] < 1440
    assert all((name in content) == narrow for name, content, _ in labels)
    assert screen.locator(".answer thead").is_visible() is not narrow


def test_the_newest_release_is_the_first_column_and_in_sight(screen: Any, records: list[Record]) -> None:
    newest = max({r.versions["bitsandbytes"] for r in records if r.versions})
    for table in screen.locator(".heat").all():
        table.scroll_into_view_if_needed()
        head = table.locator("tr", has=screen.locator("th", has_text="bitsandbytes")).locator("th").nth(1)
        assert head.inner_text() == newest
        box = head.bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= screen.viewport_size["width"]


def test_no_column_of_six_is_hidden_on_any_screen(screen: Any) -> None:
    hidden = """width => [...document.querySelectorAll(".heat td")].filter(
        (td) => td.getBoundingClientRect().right > width || td.getBoundingClientRect().left < 0).length"""
    assert screen.evaluate(hidden, screen.viewport_size["width"]) == 0


def test_the_ratio_is_explained_before_the_first_map(screen: Any) -> None:
    says = screen.locator(".key strong")
    assert says.inner_text().endswith("above 1× it is over its budget.")
    assert says.bounding_box()["y"] < screen.locator(".heat").first.bounding_box()["y"]
