"""Hostile strings in every text of a record, through every output: they are seen, and do nothing."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, TypeVar
from xml.etree import ElementTree

import pytest
from markdown_it import MarkdownIt
from markdown_it.token import Token

from repros import cases
from repros.bisect import page
from repros.bisect.bisection import Walk
from repros.case import NOTHING
from repros.commands import cli
from repros.errors import UserError, printable
from repros.evidence import committed, fits, proxies, story
from repros.hunt import write
from repros.hunt.life import Departure, Life
from repros.hunt.search import Finding
from repros.redaction.redact import Redactor
from repros.report import escape, junit, markdown, onefile, standing, tries
from repros.report import terminal as screen
from repros.report.attachment import comment, plot, script, script_comment
from repros.report.attachment.tried import Bisected, Commit
from repros.report.clean import redacted
from repros.report.machine import machines
from repros.report.page import html
from repros.report.rows import Line
from repros.run import ending
from repros.run.results import Record, Run
from repros.run.trial import two_lines
from repros.verdict import Observation, Verdict
from tests.chromium import Chromium, until
from tests.factories import record
from tests.hostile import HOSTILE, made_of, try_of
from tests.searches import BASE, hunts, monotone, work

T = TypeVar("T")


class Idle(Redactor):
    """Redacts nothing: what is tried here are texts that are no secrets, of a megabyte too."""

    def text(self, text: str) -> str:
        return text

    def value(self, value: T) -> T:
        return value


ENTRY = cases.select("gh1935_saved_weight", cases.find())[0]
KNOWN = {ENTRY.name: ENTRY}
every = pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)


def trial(text: str) -> Record:
    return made_of(text, ENTRY.name)


def entry_of(text: str) -> Any:
    """Return the case with a condition of that name."""
    condition = replace(ENTRY.case.conditions[0], note="")
    for name in ("name", "proxy"):
        object.__setattr__(condition, name, text)  # no case file may be read that has such a condition
    return replace(ENTRY, case=replace(ENTRY.case, conditions=(condition,)))


def test_every_text_of_a_record_is_made_hostile() -> None:
    found = trial("\0")
    parts: list[Record | Observation] = [found, *found.arms]
    for part in parts:
        for field in fields(part):
            value = getattr(part, field.name)
            if type(value) is str and field.name not in ("state", "date", "case", "arm"):
                assert value == "\0", field.name
            assert value or field.name in (
                "figures",
                "expected",
                "started",
                "ended",
                "evidence",
                "exception",
                "date",
                "control",
                "rivals",  # it has no arms then, and its reason is all that is shown of them
            ), field.name


# --- Markdown ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def walk(tmp_path_factory: pytest.TempPathFactory) -> list[Walk]:
    found = hunts(16)
    work(found, tmp_path_factory.mktemp("walk"), monotone)
    return found


def pages(text: str, walk: list[Walk]) -> dict[str, str]:
    """Return every page in Markdown that a record of this text gets onto."""
    one = trial(text)
    unsupported = replace(one, verdict=Verdict.UNSUPPORTED, condition=f"{text} ")
    other = replace(one, verdict=Verdict.ABSENT, proposed=None)
    entry, redactor = entry_of(text), Idle()
    clean = [redacted(record, redactor) for record in (one, unsupported)]
    made = clean, KNOWN, [text]
    poisoned(walk, text)
    return {
        "page": markdown.page(*made, against=(text, [other])),
        "summary": markdown.summary(*made),
        "comment": comment.comment(one, [one], entry, redactor, plotted=True, histories=[text]),
        "bisection": page.page(walk, "bitsandbytes", BASE, f"x {text}"),
        "fits": fits.page([figures(one)], [Path("x")]),
        "proxies": proxies.page(clean, clean, {ENTRY.name: entry}, [Path("x")]),
        "hunt": hunted(text),
        "try": tries.page(try_of(text).tries, f"x {text}"),
        "script": script_comment.comment(try_of(text), "print(1)\n", [script.as_row(bisected(text))] * 2, text),
        "row": escape.table(["a", "b"], [[text, text]]),
        "story": onefile.template("story.md.j2").render(
            **dict.fromkeys(("report", "title", "kind", "status"), "word"),
            **dict.fromkeys(("command", "reading", "example"), text),
            url="https://github.com/huggingface/",
            parts=dict.fromkeys(story.PARTS, "word"),
            lines=[Line(text, text, text, text, {text: text}, text)],
            remedies={text: [remedy_of("works"), remedy_of("changes nothing")]},
            claims=[["word", "word", text]],
            figures=[*map(story.figures, story.conditions(clean[:1]))],
            releases=story.releases(clean[:1]),
            fixes=[{"case": text, "proposes": "word", "does": text}],
            machines=machines(clean),
            cells=[text],
        ),
    }


def remedy_of(word: str) -> standing.RemedyStanding:
    """Return a remedy of our own words, as a case declares it, that does this."""
    return standing.RemedyStanding("set `X=1`", "the report", NOTHING, word, {word: 1}, ("word",))


def bisected(text: str) -> Bisected:
    """Return a change that a bisection found at a commit of that subject."""
    return Bisected("first fixed", Commit(text, text, text, "https://github.com/huggingface/x"), text)


def hunted(text: str) -> str:
    """Return the page of a hunt in which a package said this, in a cell of that name."""
    life = Life.of({"kind": "nf4"}, [("step", {"mode": "compiled"})])
    found = [Finding(life, Departure(what, 0, text), 1, 1.0, False, {text: text}) for what in (text, f"raises {text}")]
    about: dict[str, Any] = dict.fromkeys(("cell", "date", "cpu_model", "command"), text)
    about |= {"lives": 1, "seconds": 1.0, "cores": 2, "seed": 0, "hidden": True, "met": {text: 1}}
    commands = {finding.slug: (text, text) for finding in found}
    return write.page(found, about, text, text, commands)


def figures(one: Record) -> Record:
    """Return a record that says what it should need, as those of cards do."""
    arms = [replace(arm, figures={**arm.figures, "predicted_bytes": 5 << 30}) for arm in one.arms]
    return replace(one, arms=tuple(arms))


def poisoned(found: Sequence[Walk], text: str) -> None:
    """Put a text into the probes of searches."""
    words: dict[str, Any] = dict.fromkeys(("reason", "figure", "build", "native", "date"), text)
    for hunt in found:
        hunt.order[:] = [
            (at, replace(probe, **words, packages={text: text, "tokenizers": text}, machine={"cpu_model": text}))
            for at, probe in hunt.order
        ]
        hunt.revisions = tuple(replace(one, subject=text, merge=text, native=text, date=text) for one in hunt.revisions)


PARSER = MarkdownIt("gfm-like", {"html": True, "linkify": True})
#: Markdown of our own that is active: what a comment is laid out with, and links to the packages' own pages.
OURS = re.compile(
    r"</?(details|summary|sub)>\n?|"
    r"<details><summary>(Arms, budget and system|Mechanism and derivation of the budget|"
    r"Outputs, packages, machine and command)</summary>\n?"
)
LINKS = re.compile(r"https://(github\.com/(bitsandbytes-foundation|huggingface)/|pytorch\.org/memory_viz)")
#: What GitHub makes of text, beyond Markdown.
GITHUB = re.compile(r"(?<![\w/])@[a-z0-9]|(?<!bitsandbytes)#\d|\bGH-\d|:[a-z+]+:|\$", re.IGNORECASE)


def skeleton(tokens: Sequence[Token]) -> list[str]:
    """Return what a page is made of, without what it says."""
    return [token.type for token in tokens]


def active(tokens: Sequence[Token]) -> list[str]:
    """Return what is more than text on a page and none of ours."""
    found = []
    for token in tokens:
        if token.type == "html_block" and not OURS.fullmatch(token.content):
            found.append(token.content)
        for part in token.children or ():
            link = str(part.attrs.get("href") or part.attrs.get("src") or "")
            if part.type == "html_inline" and not OURS.fullmatch(part.content):
                found.append(part.content)
            elif link and not LINKS.match(link):
                found.append(link)
            elif part.type == "text" and GITHUB.search(part.content):
                found.append(part.content)
    return found


def test_what_is_private_is_taken_out_before_it_is_escaped() -> None:
    """An escape may come between a secret and what its form begins or ends with."""
    secret = "mira.voss@example.org"
    one = replace(trial(f"a|\x1b[1m{secret}` <b>"), condition="c", failed=True)
    outputs = committed.Outputs([one], KNOWN, [Path(secret)])
    outputs.__dict__["redactor"] = Redactor()
    for text in (outputs.markdown(), outputs.summary(), outputs.junit()):
        assert "voss" not in text
        assert "[e-mail address removed]" in text


_innocent: dict[str, str] = {}


def innocent(walk: list[Walk]) -> dict[str, str]:
    """Return the pages of a record that says nothing but a word."""
    if not _innocent:
        _innocent.update(pages("word", walk))
    return _innocent


@every
def test_markdown_shows_a_text_and_its_page_stays_as_it_is(text: str, walk: list[Walk]) -> None:
    harmless = innocent(walk)
    for name, made in pages(text, walk).items():
        tokens = PARSER.parse(made)
        assert active(tokens) == [], name
        assert skeleton(tokens) == skeleton(PARSER.parse(harmless[name])), name
        assert max(map(len, made.split("\n"))) < 60_000, name
        assert made == printable(made, keep="\n\t"), name
        assert "`" * 10 not in made, "cmark takes a border of more than 80 backticks for text"
        if len(text) < 100 and "|" not in text and "`" * 9 not in text:
            said = [part.content for token in tokens for part in token.children or ()]
            assert any(printable(text).strip() in part for part in said) or not text.strip(), name


@every
def test_a_comment_that_is_cut_is_cut_between_lines(text: str) -> None:
    one = trial(text)
    many = [replace(one, cell=f"{number} {text}") for number in range(60)]
    arms = tuple(replace(one.arms[1], arm=f"{number} {text}") for number in range(200))
    said = comment.comment(replace(one, arms=(one.arms[0], *arms)), many, entry_of(text), Idle())
    assert len(said) <= comment.CHARACTERS
    assert active(PARSER.parse(said)) == []


def test_a_block_of_code_that_is_cut_is_closed() -> None:
    text = "\n".join(["a", "````", "```", *"bcdefgh" * 20, "````", "after"])
    found = escape.cut(text, 60, "(cut)")
    assert len(found) <= 60
    assert skeleton(PARSER.parse(found)) == skeleton(PARSER.parse("a\n\n```\n```\n\n(cut)"))
    assert escape.cut("a\nb", 60, "(cut)") == "a\nb\n\n(cut)"


@pytest.mark.parametrize(
    "text",
    [
        "2.13.0+cpu", "nf4-eager", "gh1935_saved_weight", "tf5.2.0-bnb0.49.2 with torch=2.14.0",
        "the arm has no figure `x`",
        "held_bytes 2.00 MiB against 1.25 MiB allowed", "needs torch >=2.14,<3, the cell has 2.13.0", "a & b", "[1, 2]",
        "2026-11-21T19:05:28Z", "Intel(R) Xeon(R) Processor, 2 cores", "∞", "≥ 3.71×, ≥ 1.00×", "", ", ",
    ],
)  # fmt: skip
def test_what_is_only_text_stays_as_it_is(text: str) -> None:
    assert escape.markdown(text) == escape.cell(text) == text
    assert escape.line(text) == escape.visible(text) == text


# --- terminal ------------------------------------------------------------------------------------

#: Commands of GitHub Actions, Azure Pipelines and TeamCity, as their runners find them in a log.
ORDER = re.compile(r"^\s*::[a-z-]+(\s[^:]*)?::|##\w*\[", re.IGNORECASE)


@pytest.mark.parametrize("is_terminal", [True, False])
@every
def test_a_terminal_gets_no_character_that_it_would_follow(text: str, is_terminal: bool) -> None:
    file = io.StringIO()
    console = screen.console(file=file, force_terminal=is_terminal, color_system=None, legacy_windows=False)
    one = trial(text)
    unsupported = replace(one, verdict=Verdict.UNSUPPORTED, condition=f"{text}2", failed=False)
    screen.matrix([one, unsupported], console)
    screen.detail(one, console)
    screen.summary([one, unsupported], console)
    console.print(text[:10_000])
    said = file.getvalue()
    assert said == printable(said, keep="\n")
    assert not [line for line in said.split("\n") if ORDER.search(line)]
    assert len(said) < 200_000 or len(text) > 200_000
    if len(text) < 60 and text.strip():
        assert "".join(printable(text).split()) in "".join(said.split())


@every
def test_two_lines_are_two(text: str) -> None:
    said = two_lines(trial(text))
    assert len(said.splitlines()) == 2
    assert said == printable(said, keep="\n")


#: Nothing is recorded of these cells, so that what is reproduced fails; what cannot run never does.
PASSES = (Verdict.UNSUPPORTED, Verdict.ABSENT)


@pytest.mark.parametrize("verdict", list(Verdict))
def test_the_command_line_prints_a_run_of_hostile_texts(
    verdict: Verdict, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Run(tmp_path / "run")
    texts = [text for name, text in HOSTILE.items() if name != "half a pair" and len(text) < 1000]
    for number, text in enumerate(texts):
        subject, *controls = record(verdict=verdict).arms
        seen = subject.exception and {**subject.exception, "types": [text], "text": text}
        arms = (replace(subject, reason=text, exception=seen, log=text), *controls)
        made = record(ENTRY.name, f"{number} {text}", text, arms=arms, expected=False)
        assert made.verdict is verdict
        packages = {"accelerate": text, "transformers": "5.2.0", "bitsandbytes": "0.49.2"}
        run.append(replace(made, environment={"packages": packages}, machine={"cpu_model": text}, repeat=text))
    assert cli.main(["report", str(run.folder)]) == (ending.AS_EXPECTED if verdict in PASSES else ending.FAILED)
    out = capsys.readouterr().out
    assert out == printable(out, keep="\n")
    assert not [line for line in out.split("\n") if ORDER.search(line)]


def test_a_condition_that_looks_like_markup_is_printed() -> None:
    file = io.StringIO()
    screen.matrix([replace(trial("x"), condition="[/]", cell="[bold]:smile:")], screen.console(file=file))
    assert "[/]" in file.getvalue()
    assert "[bold]:smile:" in file.getvalue()


def test_an_error_of_the_users_shows_what_was_given() -> None:
    error = str(UserError("x\x1b[2J\u202e\n::error::y", "z\u3164"))
    assert error == "x\\x1b[2J\\u202e\\n\\x3a:error::y\nhint: z\\u3164"


# --- XML -----------------------------------------------------------------------------------------


@every
def test_junit_is_read_back_as_it_was_shown(text: str) -> None:
    one = replace(trial(text), case=text)
    root = ElementTree.fromstring(junit.document([one, replace(one, verdict=Verdict.UNSUPPORTED)], Idle()))
    shown = escape.line(text)
    assert {element.tag for element in root.iter()} == {
        "testsuites", "testsuite", "testcase", "properties", "property", "failure", "skipped"
    }  # fmt: skip
    assert {p.get("value") for p in root.iter("property") if p.get("name") in ("reason", "proposed fix")} == {shown}
    assert {case.get("classname") for case in root.iter("testcase")} == {shown}
    assert {skipped.get("message") for skipped in root.iter("skipped")} == {shown}
    (failure,) = root.iter("failure")
    assert (failure.text or "").rstrip() == two_lines(one)


@pytest.mark.filterwarnings("ignore:Glyph")
@pytest.mark.parametrize("name", [
    "mathematics", "unbalanced mathematics", "a drawing", "a comment", "colours", "what XML cannot hold", "half a pair",
    "bidirectional controls", "long", "marks", "a name that begins with a line",
])  # fmt: skip
def test_the_plot_of_a_trial_is_drawn(name: str, tmp_path: Path) -> None:
    text = HOSTILE[name]
    one = trial(text)
    arms = [
        replace(arm, evidence={"timeline": [[0.0, 1 << 20, 2], [1.0, 3 << 20, 4]], "marks": [[0.0, text], [0.5, text]],
                               "timeline_columns": [text, text]}, arm=text)
        for arm in one.arms
    ]  # fmt: skip
    drawn = plot.draw(replace(one, arms=tuple(arms)), tmp_path, Idle())
    assert [path.name for path in drawn] == ["timeline.svg", "timeline.png"]
    root = ElementTree.fromstring(drawn[0].read_text())
    assert not [
        element.tag for element in root.iter() if element.tag.endswith(("script", "image", "foreignObject", "}a"))
    ]


# --- a browser -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tab() -> Any:
    with Chromium(viewport={"width": 1200, "height": 900}) as (_, context):
        yield context.new_page()


def opened(tab: Any, file: Path) -> list[str]:
    """Open a file; return what it did of its own: requests, dialogs, new windows."""
    did: list[str] = []
    for listener, say in (("request", lambda one: one.url), ("dialog", lambda one: one.message), ("popup", str)):
        tab.on(listener, lambda one, say=say: did.append(say(one)))
    tab.goto(file.as_uri())
    tab.wait_for_timeout(50)
    return [url for url in did if url != file.as_uri() and not url.startswith("data:")]


def test_a_browser_runs_and_asks_nothing_of_rendered_markdown(tab: Any, walk: list[Walk], tmp_path: Path) -> None:
    parts = []
    for text in HOSTILE.values():
        parts += [PARSER.render(page) for page in pages(text, walk).values()]
    body = re.sub(r'<img src="[^"]*" alt="memory[^>]*>', "", "\n".join(parts))  # ours lie beside the page
    file = tmp_path / "page.html"
    file.write_text(f"<!doctype html><meta charset=utf-8><link rel=icon href='data:,'>{body}", encoding="utf-8")
    assert opened(tab, file) == []
    assert tab.evaluate("window.ran === undefined && !document.querySelector('img, script, svg, iframe')")


def test_a_browser_shows_the_page_of_hostile_trials_and_runs_nothing(tab: Any, tmp_path: Path) -> None:
    texts = [text[:5000] for text in HOSTILE.values()]
    records = [replace(trial(text), condition=f"{number} {text}") for number, text in enumerate(texts)]
    before = [replace(one, verdict=Verdict.ABSENT, proposed=None) for one in records]
    file = tmp_path / "index.html"
    file.write_text(html.page(records, KNOWN, texts, Idle(), ("|".join(texts), before), texts), encoding="utf-8")
    assert opened(tab, file) == []
    hidden = "[...document.body.innerText].filter(one => /[^\\P{C}\\n\\t]|[\\p{Zl}\\p{Zp}]/u.test(one)).join()"
    ordered = html.ordered(records, KNOWN)
    for number, one in enumerate(ordered):
        tab.evaluate(f"location.hash = '#trial-{number}'")
        until(tab, f"document.querySelector('.place')?.textContent.startsWith('{number + 1} of ')")
        until(tab, "!document.getElementById('trial-head').textContent.includes('cannot be opened')")
        assert tab.evaluate(f"window.ran === undefined && ({hidden}) === ''"), one.condition
        shown = tab.locator("#panel .lead").text_content()
        assert "\\x1b" in shown if "\x1b" in one.reason else "\x1b" not in shown
        commands = tab.locator("#panel .copy code").all_text_contents()
        assert commands and not any("\n" in command for command in commands)
    assert tab.evaluate("window.ran === undefined && document.scripts.length") == tab.evaluate(
        "document.querySelectorAll('body > script').length"
    )
    assert not tab.evaluate("document.querySelectorAll('img, iframe, object, embed, form[action]').length")


def test_the_page_of_a_trial_tells_a_figure_from_its_limit(tab: Any, tmp_path: Path) -> None:
    near = Observation("subject", "done", {"held_bytes": (16 << 20) + 1, "error": 0.5}, seconds={"total": 1.0})
    budget = {"figure": "held_bytes", "second": None, "limit": 16 << 20, "unit": "bytes"}
    margins = {"planted_over_budget": 1.0004, "budget_over_reference": 3.0}
    one = replace(trial("x"), arms=(near,), budget=budget, margins=margins)
    file = tmp_path / "index.html"
    file.write_text(html.page([one], KNOWN, ["x"], Idle()), encoding="utf-8")
    opened(tab, file)
    assert tab.locator(".heat button").inner_text() == "●>1×"
    tab.locator(".heat button").click()
    until(tab, "document.querySelector('.arms') !== null")
    said = tab.locator("#panel").inner_text()
    assert "16.000001 MiB" in said and "16.000000 MiB" in said
    assert "planted over budget 1.0004×, budget over reference 3.00×" in said


@every
def test_a_script_shows_its_cell_or_is_refused(text: str) -> None:
    """Refused where the text is no short line that can be read, or could end the docstring that it stands in."""
    entry, pins = ENTRY.case.conditions[0], onefile.Pins((), ())
    writer = onefile.Writer(Redactor())
    if text.isprintable() and text.strip() and len(text) < 1000 and not set(text) & {'"', "\\"}:
        made = writer.script(ENTRY, entry, text, "cpu", pins, ["subject"]).text()
        compile(made, "full.py", "exec")
        assert f"in the cell `{Redactor().text(text)}`." in made
    else:
        with pytest.raises(UserError, match="cannot stand in a script") as refused:
            writer.script(ENTRY, entry, text, "cpu", pins, ["subject"])
        assert str(refused.value) == printable(str(refused.value), keep="\n")
