"""The head of an attachment: the newest bad release beside the first good one, few words, nothing broken."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from repros import cases
from repros.bisect import committed, probe
from repros.case import Affected
from repros.commands.bundle import gathered
from repros.errors import UserError
from repros.redaction.redact import Redactor
from repros.report.attachment import bundle, comment, packing, tried
from repros.run import results
from repros.run.record import Record
from repros.verdict import Verdict
from tests.factories import record

KNOWN = {e.name: e for e in cases.find()}
MARKDOWN = MarkdownIt("commonmark").enable("table")
#: The longest that a witness may be, in lines that are full.
LONGEST = '"""A witness."""\n' + f"# {'x' * 118}\n" * 79


@pytest.fixture(scope="module", autouse=True)
def read_once() -> Iterator[None]:
    """Read each file of evidence once; nobody writes them here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(results, "load", cache(results.load))
        patch.setattr(committed, "load", cache(probe.load))
        yield


@pytest.fixture(scope="module")
def records() -> list[Record]:
    return [one for folder in results.committed() for one in results.load(folder)[0] if one.arms]


@pytest.mark.parametrize("case", KNOWN)
def test_comments_are_short_and_nothing_in_them_is_broken(case: str, records: list[Record]) -> None:
    """Each condition that has evidence, with all that is committed on it, and with a witness as long as one may be."""
    entry = KNOWN[case]
    mine = [one for one in records if one.case == case]
    assert mine
    for name in dict.fromkeys(one.condition for one in mine):
        one = bundle.choose(mine, entry, None, name, "evidence")
        text = comment.comment(
            one, mine, entry, Redactor(), plotted=True, evidence=gathered(one, entry),
            witness=entry.path.with_name("minimal.py"), script=LONGEST,
        )  # fmt: skip
        assert len(text) < 65_536
        head = text[: text.index("<details>")]
        prose = head.replace(LONGEST, "")
        assert len(head) - len(prose) == len(LONGEST)
        assert len([word for word in prose.split() if re.search(r"\w", word)]) <= 200, name
        assert "| subject |" not in head
        assert "| subject |" in text
        tokens = MARKDOWN.parse(text)
        assert [(token.info, token.content) for token in tokens if token.info] == [("python", LONGEST)]
        page = MARKDOWN.render(text)
        assert "<img" not in page
        assert "![" not in page
        assert all(link.startswith("https://") for link in re.findall(r'href="([^"]*)"', page))


def at(verdict: Verdict, **versions: str) -> Record:
    return record("gh1_x", "c", " ".join(versions.values()), verdict, packages=versions)


BAD, GOOD = Verdict.REPRODUCED, Verdict.ABSENT
BNB = (Affected({"bitsandbytes": "<0.50"}, "x"),)


def bnb(**verdicts: Verdict) -> list[Record]:
    """Return a trial in each release, given as ``b0_9_0=BAD``."""
    names = {name: name.removeprefix("b").replace("_", ".") for name in verdicts}
    return [at(verdict, torch="2.13.0", bitsandbytes=names[name]) for name, verdict in verdicts.items()]


def test_the_newest_bad_release_stands_beside_the_first_good_one() -> None:
    tries = bnb(b0_50_2=GOOD, b0_9_0=BAD, b0_50_0=GOOD, b0_49_2=BAD, b0_10_0=GOOD)
    found = tried.of(tries, BNB, "bitsandbytes")
    assert (str(found.bad), str(found.good)) == ("0.49.2", "0.50.0")
    assert tried.rows(found.rows, together=False) == [
        ["0.9.0", "bad"], ["0.10.0", "good"], ["0.49.2", "bad"], ["0.50.0", "good"], ["0.50.2", "good"],
    ]  # fmt: skip
    assert tried.rows(found.rows, together=True)[-1] == ["0.50.0 to 0.50.2", "good"]


def test_where_the_newest_is_bad_no_good_release_is_known() -> None:
    found = tried.of(bnb(b0_49_0=GOOD, b0_50_0=BAD, b0_50_2=BAD), BNB, "bitsandbytes")
    assert (str(found.bad), found.good, found.fixes) == ("0.50.2", None, ())


def test_what_came_to_no_verdict_is_no_release_that_was_tried() -> None:
    found = tried.of(bnb(b0_49_0=BAD, b0_50_0=Verdict.INCONCLUSIVE, b0_51_0=Verdict.ERROR), BNB, "bitsandbytes")
    assert [str(release) for release, _ in found.rows] == ["0.49.0"]
    assert found.good is None
    assert tried.of([], BNB, "bitsandbytes").rows == ()


def test_of_two_packages_in_a_window_that_decides_of_which_a_newer_release_is_good() -> None:
    window = (Affected({"bitsandbytes": ">=0.48", "torch": "<2.14"}, "x"),)
    tries = [
        at(BAD, torch="2.13.0", bitsandbytes="0.50.2"), at(GOOD, torch="2.13.0", bitsandbytes="0.46.0"),
        at(GOOD, torch="2.14.0", bitsandbytes="0.50.2"),
    ]  # fmt: skip
    found = tried.of(tries, window, "bitsandbytes")
    assert (found.package, str(found.bad), str(found.good)) == ("torch", "2.13.0", "2.14.0")
    assert tried.rows(found.rows, together=False)[0] == ["2.13.0", "bad with bitsandbytes 0.50.2, good with 0.46.0"]
    found = tried.of([*tries, at(GOOD, torch="2.13.0", bitsandbytes="0.51.0")], window, "bitsandbytes")
    assert [str(fix) for fix in found.fixes] == ["bitsandbytes >0.50.2,<=0.51.0", "torch >2.13.0,<=2.14.0"]
    assert found.package == "bitsandbytes"


def test_a_good_release_that_was_tried_with_other_packages_alone_is_no_upgrade() -> None:
    tries = [at(BAD, torch="2.13.0", bitsandbytes="0.49.2"), at(GOOD, torch="2.14.0", bitsandbytes="0.50.0")]
    found = tried.of(tries, BNB, "bitsandbytes")
    assert (str(found.good), found.fixes) == ("0.50.0", ())


def test_a_version_that_is_no_release_stands_in_no_row() -> None:
    tries = [*bnb(b0_49_2=BAD), at(GOOD, torch="2.13.0", bitsandbytes="a checkout"), at(GOOD, torch="2.13.0")]
    found = tried.of(tries, BNB, "bitsandbytes")
    assert [str(release) for release, _ in found.rows] == ["0.49.2"]
    assert found.good is None


def test_another_source_is_no_evidence() -> None:
    one = replace(at(BAD, torch="2.13.0"), source="a" * 64)
    others = [one, replace(one, source=""), replace(one, source="b" * 64), replace(one, condition="d")]
    assert tried.alike(one, others) == others[:2]


EDGES = {
    ("gh1935_compiled", "nf4-compile-mincut"): "bad in bitsandbytes 0.49.2, good from 0.50.0",
    ("gh1935_int8", "int8-compile-inductor"): "bad in torch 2.13.0, good from 2.14.0",
    ("gh44387_reserved_memory", "nf4"): "bad in transformers 5.3.0, good from 5.4.0",
}


@pytest.mark.parametrize("key", EDGES, ids=" ".join)
def test_the_headline_of_what_is_committed(key: tuple[str, str], records: list[Record]) -> None:
    """Edges that bisections found, each between two releases that were tried, whichever trial is shown."""
    entry = KNOWN[key[0]]
    mine = [one for one in records if (one.case, one.condition) == key and one.verdict is BAD]
    shown = min(mine, key=lambda one: bundle.release(one, entry)), bundle.choose(mine, entry, None, key[1], "evidence")
    assert shown[0] != shown[1]
    for one in shown:
        text = comment.comment(one, [], entry, Redactor(), evidence=gathered(one, entry))
        assert text.splitlines()[0] == f"### {entry.case.report}: {EDGES[key]}"
        assert f"Remedy: upgrade to {EDGES[key].split()[2]} {EDGES[key].split()[-1]}" in text
        assert entry.case.url in text.partition("<details>")[0]


def test_a_bisection_over_commits_names_the_fixing_commit(records: list[Record]) -> None:
    folder = results.REPORTS / "bisect" / "gh1935-bitsandbytes-commits"
    found = committed.fixed_by(folder, "gh1935_compiled", "nf4-compile-mincut")
    assert found
    assert (found.package, found.subject) == ("bitsandbytes", "[CUDA] New 4bit GEMM kernels for inference (#1949)")
    assert found.url == f"https://github.com/bitsandbytes-foundation/bitsandbytes/commit/{found.name}"
    assert not committed.fixed_by(folder, "gh1935_compiled", "nf4-compile-inductor")
    assert not committed.fixed_by(folder.with_name("gh1935-bitsandbytes"), "gh1935_compiled", "nf4-compile-mincut")
    assert not committed.records(folder, "gh1935_compiled", "nf4-compile-mincut")  # a commit is no release
    entry = KNOWN["gh1935_compiled"]
    one = bundle.choose(records, entry, None, "nf4-compile-mincut", "evidence")
    text = comment.comment(one, [], entry, Redactor(), evidence=gathered(one, entry))
    assert f"Fixing commit: [{found.name}]({found.url}), `[CUDA] New" in text.partition("<details>")[0]


def test_a_head_with_too_many_words_says_neighbours_in_one_row_then_no_reason(records: list[Record]) -> None:
    entry = KNOWN["gh1935_saved_weight"]
    one = bundle.choose(records, entry, None, "nf4-eager", "evidence")

    def of(versions: int, reason: str) -> str:
        tries = [at(BAD if n % 2 else GOOD, bitsandbytes=f"0.{n // 2}", torch=str(n)) for n in range(2 * versions)]
        tries = [replace(found, case=one.case, condition=one.condition) for found in tries]
        return comment.comment(replace(one, reason=reason), tries, entry, Redactor())

    assert comment.words(of(5, "why")) <= 200
    assert "why" in of(5, "why")
    long = replace(entry, case=replace(entry.case, trigger="word " * 150))
    tries = [replace(at(BAD, bitsandbytes=f"0.{n}"), case=one.case, condition=one.condition) for n in range(40)]
    text = comment.comment(replace(one, reason="why"), tries, long, Redactor())
    assert comment.words(text) <= 200
    assert "| 0.0 to 0.39 (40 tried) | bad |" in text
    text = comment.comment(replace(one, reason="why " * 60), tries, long, Redactor())
    assert comment.words(text) <= 200
    assert "why why" not in text.partition("<details>")[0]
    assert "why why" in text


def test_a_secret_that_the_head_would_cut_in_half_is_gone(records: list[Record]) -> None:
    entry = KNOWN["gh1935_saved_weight"]
    one = bundle.choose(records, entry, None, "nf4-eager", "evidence")
    for before in range(comment.MOST - 40, comment.MOST):
        text = comment.comment(replace(one, reason=f"{'x' * before} ghp_{'a1B2' * 9}"), [], entry, Redactor())
        assert "ghp_" not in text


# --- the witness ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("report", "shown"),
    [
        ("gh2005", ("gh2005_experts", "nf4-experts-checkpoint-nonreentrant")),
        ("gh1935", ("gh1935_compiled", "nf4-compile-mincut")),
        ("gh44387", ("gh44387_reserved_memory", "nf4")),
    ],
)
def test_a_trial_is_shown_that_its_own_witness_leads(
    report: str, shown: tuple[str, str], records: list[Record]
) -> None:
    """A newer release is bad under another condition of bitsandbytes#2005; the script would call that release good."""
    one, entry = bundle.choose_of(records, cases.select(report, tuple(KNOWN.values())), None, None, "evidence")
    assert (one.case, one.condition, one.verdict) == (*shown, BAD)
    assert bundle.led(one, entry) == 2


def report(tmp_path: Path, files: Mapping[str, str]) -> Path:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    return tmp_path / "saved.py"


def test_the_witness_is_the_conditions_then_the_files_then_the_reports(tmp_path: Path) -> None:
    condition = KNOWN["gh1935_saved_weight"].case.conditions[0]
    named = replace(condition, witness="minimal_named.py")
    case = report(tmp_path, {"saved.py": ""})
    assert cases.witness_of(case, condition) is None
    for name, of in (("minimal.py", condition), ("minimal_saved.py", condition), ("minimal_named.py", named)):
        report(tmp_path, {name: ""})
        assert cases.witness_of(case, of) == tmp_path / name
    assert cases.witness_of(case, condition) == tmp_path / "minimal_saved.py"


def made(records: list[Record], witness: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> packing.Bundle:
    monkeypatch.setattr(cases, "witness_of", lambda path, condition: witness)
    one = replace(bundle.choose(records, KNOWN["gh1935_saved_weight"], None, "nf4-eager", "evidence"), source="")
    return bundle.make(one, [one], KNOWN[one.case], folder, Redactor(), folder)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("minimal_saved_weight.py", "`minimal.py` is the witness;"),
        ("minimal.py", "`minimal.py` is the report's witness, not this condition's own, and may vote otherwise;"),
    ],
)
def test_the_witness_is_attached_and_stands_in_the_comment(
    name: str, says: str, records: list[Record], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = f'"""Run it: uv run {name}."""\nFENCE = "````"\nprint(FENCE)\n'
    one = made(records, report(tmp_path, {name: script}).with_name(name), tmp_path / "b", monkeypatch)
    wanted = script.replace(name, "minimal.py")
    assert (one.folder / "minimal.py").read_text() == wanted
    text = (one.folder / "comment.md").read_text()
    assert says in text
    assert [token.content for token in MARKDOWN.parse(text) if token.info == "python"] == [wanted]
    assert comment.words(text) < comment.words(text.replace("python\n", "\n"))


def test_a_witness_with_something_private_is_refused_by_line_and_text(
    records: list[Record], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = "import torch\n\nx = torch.ones(4)[::2]  # 5453368bed, 12:30:45\nopen('/home/miravoss/x')\n"
    path = report(tmp_path, {"minimal.py": script}).with_name("minimal.py")
    with pytest.raises(UserError) as caught:
        made(records, path, tmp_path / "b", monkeypatch)
    assert str(caught.value) == (
        f"{path}:4: it would put something private into the script (`/hom…` in line 4, home path)\n"
        "hint: take it out of the source: a script cannot be redacted and still run"
    )
    assert not (tmp_path / "b").exists()


def test_evidence_of_a_source_that_was_edited_since_is_refused_with_both_dates(
    records: list[Record], tmp_path: Path
) -> None:
    one = bundle.choose(records, KNOWN["gh1935_saved_weight"], None, "nf4-eager", "evidence")
    old = replace(one, source="0" * 64, date="2026-01-02T03:04:05Z")
    with pytest.raises(
        UserError, match=r"tried 2026-01-02T03:04:05Z, and its source was edited since: \S+ is of 20\d\d-"
    ):
        bundle.make(old, [old], KNOWN[one.case], tmp_path / "b", Redactor(), tmp_path)
