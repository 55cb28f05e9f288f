"""What the user has is never lost: every command that writes is tried on it, and leaves every byte as it was."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree as Xml

import pytest

from repros import ROOT, cases, files
from repros.cases import sources
from repros.cells import locks
from repros.cells.envs import Store
from repros.commands import cli, new
from repros.errors import UserError
from repros.evidence import committed
from repros.files import Folder, Marker
from repros.redaction.redact import Redactor
from repros.report.attachment import bundle, packing
from repros.run import results
from repros.run.results import Record, Run
from repros.worker import checkpoints
from tests.commands import errors
from tests.conftest import Bench

#: A run of four trials on two GPUs: a large one would be read anew by each of the commands.
SMALL = tempfile.TemporaryDirectory()
RUN = Path(SMALL.name) / "run"
RUN.mkdir()
results.keep([], RUN / results.RESULTS, results.load(results.REPORTS / "h200")[0][-4:])
CELL = "tf5.2.0-bnb0.49.2"
KNOWN = {e.name: e for e in cases.find()}
RECORD = results.load(RUN)[0][0]

#: Command lines that write a folder: `{}` stands for it.
FOLDERS = {
    "bundle": ["bundle", RECORD.case, "--run", str(RUN), "--out", "{}"],
    "report": ["report", str(RUN), "--commit-to", "{}"],
    "stories": ["stories", str(RUN), "--to", "{}"],
    "wheelhouse": ["wheelhouse", "--tier", "smoke", "--out", "{}"],
    "hunt": ["hunt", "--cell", CELL, "--minutes", "0.1", "--out", "{}"],
    "findings": ["findings", str(results.REPORTS / "hunt" / "tf5_2_0_bnb0_49_2"), "--out", "{}"],
    "bisect": ["bisect", "gh1935", "--package", "bitsandbytes", "--condition", "nf4-eager", "--commit-to", "{}"],
    "bisect --reports": ["bisect", "gh1935", "--package", "bitsandbytes", "--reports", "{}"],
    "run --reports": ["run", "gh1935", "--cell", CELL, "--condition", "nf4-eager", "--reports", "{}"],
    "readme --benchmarks": ["readme", "--benchmarks", "BENCH", "--evidence", "{}", "--card", str(RUN)],
}
#: Command lines that write one file.
SINGLES = {
    "report --html": ["report", str(RUN), "--html", "{}"],
    "report --markdown": ["report", str(RUN), "--markdown", "{}"],
    "report --junit": ["report", str(RUN), "--junit", "{}"],
    "report --summary": ["report", str(RUN), "--summary", "{}"],
    "fits": ["fits", str(RUN), "--markdown", "{}"],
    "proxies": ["proxies", str(RUN), str(RUN), "--markdown", "{}"],
}


def documents(folder: Path) -> Path:
    """Make a folder as a user has it: files of the names that the suite writes, and others, in it and below."""
    for name in ("README.md", "index.html", "repro.py", "results.txt", "budget.xlsx", "photos/cat.jpg", "logs/a.log"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"my own {name}\n")
    return folder


def checkout(folder: Path) -> Path:
    for name in (".git/HEAD", "pyproject.toml", "README.md", "repros/commands/cli.py", "reports/cpu/results.jsonl"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"# the project's own {name}\n")
    return folder


def a_run(folder: Path) -> Path:
    Run(folder).append(RECORD)
    (folder / "logs" / "an.arm.log").write_text("said\n")
    return folder


def older_run(folder: Path) -> Path:
    (a_run(folder) / files.MARKER).unlink()
    return folder


def other_kind(folder: Path) -> Path:
    with Folder(folder, "something else") as out:
        out.write("README.md", "of another kind\n")
    return folder


def a_file(path: Path) -> Path:
    path.write_text("my own file\n")
    return path


def link_to(make: Callable[[Path], Path]) -> Callable[[Path], Path]:
    def made(path: Path) -> Path:
        path.symlink_to(make(path.with_name("behind")))
        return path

    return made


def nothing(path: Path) -> Path:
    return path


TARGETS: dict[str, Callable[[Path], Path]] = {
    "documents": documents,
    "a file": a_file,
    "a link to a file": link_to(a_file),
    "a link to documents": link_to(documents),
    "a link to nothing": link_to(nothing),
    "a checkout": checkout,
    "a run": a_run,
    "a run from before there were markers": older_run,
    "another kind": other_kind,
}


def everything(folder: Path) -> dict[str, str]:
    """Return path -> digest, or where it leads, of all below a folder."""
    found = {}
    for path in sorted(folder.rglob("*")):
        what = f"link {path.readlink()}" if path.is_symlink() else "folder" if path.is_dir() else files.digest(path)
        found[str(path.relative_to(folder))] = f"{what} {path.lstat().st_mode:o}"
    return found


def refused(command: list[str], target: Path, home: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """Run a command on a target; it says two lines and ends with 2, and all below ``home`` is as it was."""
    bench = home.with_name("bench.json")
    bench.write_text(json.dumps({"machine_info": {"python_version": "3"}, "datetime": "2026-01-01", "benchmarks": []}))
    before = everything(home)
    said = errors([{"{}": str(target), "BENCH": str(bench)}.get(word, word) for word in command], capsys)
    assert everything(home) == before
    assert str(target) in said.splitlines()[0], said
    return said


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


@pytest.mark.parametrize("kind", TARGETS)
@pytest.mark.parametrize("command", FOLDERS)
def test_a_command_that_writes_a_folder_leaves_the_users(
    command: str, kind: str, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    refused(FOLDERS[command], TARGETS[kind](home / "it"), home, capsys)


@pytest.mark.parametrize("kind", [kind for kind in TARGETS if kind not in ("a link to documents", "another kind")])
@pytest.mark.parametrize("command", SINGLES)
def test_a_command_that_writes_a_file_leaves_the_users(
    command: str, kind: str, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    refused(SINGLES[command], TARGETS[kind](home / "it"), home, capsys)
    page = documents(home / "more") / "README.md"
    refused(SINGLES[command], page, home, capsys)


@pytest.mark.parametrize("kind", [k for k in TARGETS if not k.startswith(("a run",))])
@pytest.mark.parametrize("more", [[], ["--resume"]], ids=["run", "resume"])
def test_a_run_of_pytest_leaves_the_users(kind: str, more: list[str], home: Path) -> None:
    """As `nox -s cpu -- --run DIR` gives it; a folder of a run is gone on with."""
    target = TARGETS[kind](home / "it")
    before = everything(home)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "repros.pytest_plugin",
        "-q",
        "--cell",
        CELL,
        "-p",
        "no:cacheprovider",
    ]
    done = subprocess.run(
        [*command, "--run", str(target), *more, "repros/cases"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert everything(home) == before
    assert done.returncode == 2, done.stdout + done.stderr
    assert str(target) in done.stderr
    assert done.stderr.count("\n") == 2 and "\nhint: " in done.stderr, done.stderr
    assert "Traceback" not in done.stdout + done.stderr


def test_a_bundle_leaves_a_zip_that_is_not_its_own(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a_file(home / "b.zip")
    before = everything(home)
    said = errors([*FOLDERS["bundle"][:-1], str(home / "b")], capsys)
    assert "b.zip: there is a file that was not made here" in said
    assert everything(home) == before


def test_the_checkouts_root_by_a_dot(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(checkout(home / "it"))
    before = everything(home)
    for command in ("report", "bundle", "stories", "hunt", "findings", "wheelhouse", "bisect"):
        assert "not a folder of this suite" in errors([w.replace("{}", ".") for w in FOLDERS[command]], capsys)
    assert everything(home) == before


@pytest.mark.parametrize("kind", new.KINDS)
@pytest.mark.parametrize("name", ["there", "link"])
def test_a_new_case_is_never_written_over_another(name: str, kind: str, home: Path) -> None:
    folder = home / "bitsandbytes" / "gh77"
    folder.mkdir(parents=True)
    place = folder / f"{name}.py"
    place.symlink_to(home / "elsewhere.py") if name == "link" else a_file(place)
    before = everything(home)
    with pytest.raises(UserError, match=rf"gh77/{name}.py exists already\nhint: choose another name"):
        new.write_case("bitsandbytes", 77, name, kind, home)
    assert everything(home) == before


def test_a_new_case_leaves_the_files_of_its_folder_as_they_are(home: Path) -> None:
    folder = home / "bitsandbytes" / "gh77"
    folder.mkdir(parents=True)
    a_file(folder / "__init__.py")
    a_file(folder / "story.md")
    before = everything(folder)
    made = new.write_case("bitsandbytes", 77, "another", "memory", home)
    after = everything(folder)
    assert made == folder / "another.py" and after.keys() - before.keys() == {"another.py"}
    assert {name: after[name] for name in before} == before
    assert (home / "bitsandbytes" / "__init__.py").is_file()


@pytest.mark.parametrize("kind", ["a file", "a link to a file", "a link to nothing"])
def test_a_lock_is_never_written_over_another_file(kind: str, home: Path) -> None:
    path = TARGETS[kind](home / "one.cpu.txt")
    before = everything(home)
    with pytest.raises(UserError, match=r"not a lock that .* made\nhint: move it elsewhere"):
        locks._write_lock(path, "# made by `python -m repros lock`\nx==1\n")
    assert everything(home) == before


@pytest.mark.parametrize("kind", ["a run", "a run from before there were markers", "another kind"])
@pytest.mark.parametrize("command", ["bundle", "report", "stories"])
def test_force_does_not_make_another_folder_of_a_run(
    command: str, kind: str, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    refused([*FOLDERS[command], "--force"], TARGETS[kind](home / "it"), home, capsys)


# --- a folder of ours ------------------------------------------------------------------------------


def fill(path: Path, texts: Mapping[str, str], *, force: bool = False, prune: bool = True) -> None:
    with Folder(path, "kind", force=force, prune=prune) as out:
        for name, text in texts.items():
            out.write(name, text)


def listed(path: Path) -> dict[str, str]:
    return {str(p.relative_to(path)): p.read_text() for p in path.rglob("*") if p.is_file() and p.name != files.MARKER}


def test_a_folder_of_ours_is_made_anew_and_the_users_file_in_it_stays(home: Path) -> None:
    fill(home / "f", {"a": "1", "logs/b": "2", "c": "3"})
    (home / "f" / "mine.txt").write_text("mine")
    fill(home / "f", {"a": "one", "d": "4"})
    assert listed(home / "f") == {"a": "one", "d": "4", "mine.txt": "mine"}
    assert not (home / "f" / "logs").exists()
    fill(home / "f", {"e": "5"}, prune=False)
    assert listed(home / "f") == {"a": "one", "d": "4", "e": "5", "mine.txt": "mine"}
    assert sorted(Marker.of(home / "f").files) == ["a", "d", "e"]  # type: ignore[union-attr]


@pytest.mark.parametrize("prune", [True, False])
def test_a_file_that_the_user_edited_is_refused_and_with_force_it_is_replaced(home: Path, prune: bool) -> None:
    fill(home / "f", {"a": "1", "b": "2"})
    (home / "f" / "a").write_text("my words")
    before = everything(home)
    with pytest.raises(UserError, match=r"f/a: it was edited since it was made\nhint: .*`--force`"):
        fill(home / "f", {"a": "3", "b": "4"}, prune=prune)
    assert everything(home) == before
    fill(home / "f", {"a": "3", "b": "4"}, force=True, prune=prune)
    assert listed(home / "f") == {"a": "3", "b": "4"}


def test_force_replaces_what_is_written_and_never_deletes(home: Path) -> None:
    documents(home / "f")
    was = listed(home / "f")
    fill(home / "f", {"README.md": "ours", "new.md": "new"}, force=True)
    assert listed(home / "f") == {**was, "README.md": "ours", "new.md": "new"}
    (home / "f" / "new.md").write_text("edited, and no longer made")
    fill(home / "f", {"README.md": "again"}, force=True)
    assert listed(home / "f") == {**was, "README.md": "again", "new.md": "edited, and no longer made"}


@pytest.mark.parametrize("force", [True, False])
def test_a_link_inside_a_folder_of_ours_is_not_followed(home: Path, force: bool) -> None:
    fill(home / "f", {"a": "1"})
    documents(home / "docs")
    (home / "f" / "logs").symlink_to(home / "docs")
    before = everything(home)
    with pytest.raises(UserError, match="f/logs: a link to"):
        fill(home / "f", {"logs/README.md": "ours"}, force=force)
    assert everything(home) == before


def test_a_name_in_a_strangers_marker_leads_nowhere(home: Path) -> None:
    a_file(home / "mine")
    (home / "f").mkdir()
    names = {"../mine": files.digest(home / "mine"), str(home / "mine"): files.digest(home / "mine")}
    (home / "f" / files.MARKER).write_text(json.dumps({"kind": "kind", "files": names}))
    fill(home / "f", {"a": "1"})
    assert (home / "mine").read_text() == "my own file\n"


def test_a_death_in_the_middle_leaves_files_that_are_known_for_ours(home: Path) -> None:
    fill(home / "f", {"a": "1", "b": "2"})
    marker = Marker.of(home / "f")
    assert marker
    coming = {name: hashlib.sha256(text.encode()).hexdigest() for name, text in (("a", "3"), ("b", "4"), ("c", "5"))}
    Marker("kind", marker.files, coming).write(home / "f")
    (home / "f" / "a").write_text("3")  # moved into place, as was a new one; `b` was to be the next
    (home / "f" / "c").write_text("5")
    (home / "f" / f"{files.MARKER}.part").mkdir()
    (home / "f" / f"{files.MARKER}.part" / "b").write_text("4")
    fill(home / "f", {"a": "5", "b": "6", "c": "7"})
    assert listed(home / "f") == {"a": "5", "b": "6", "c": "7"}
    assert not Marker.of(home / "f").coming  # type: ignore[union-attr]


def test_a_folder_for_nothing_is_not_left_behind(home: Path) -> None:
    with pytest.raises(RuntimeError), Folder(home / "f", "kind") as out:
        out.write("a", "1")
        raise RuntimeError
    assert not list(home.iterdir())


def test_two_writers_of_one_folder(home: Path) -> None:
    with Folder(home / "f", "kind") as out:
        out.write("a", "1")
        with pytest.raises(UserError, match="another process writes there"):
            fill(home / "f", {"a": "2"})
    assert listed(home / "f") == {"a": "1"}


def test_a_damaged_marker_is_said(home: Path) -> None:
    fill(home / "f", {"a": "1"})
    (home / "f" / files.MARKER).write_text('<<<<<<< HEAD\n{"kind": "kind"}\n')
    with pytest.raises(UserError, match=r"`\.repros` cannot be read|\.repros cannot be read"):
        fill(home / "f", {"a": "2"})
    fill(home / "f", {"a": "2"}, force=True)
    assert listed(home / "f") == {"a": "2"}


def test_a_run_may_be_opened_by_several_at_once(home: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from repros.run.results import Run; "
        "Run(Path(sys.argv[1])).note('time', seconds={'total': 1})"
    )
    command = [sys.executable, "-c", code, str(home / "r")]
    several = [subprocess.Popen(command, cwd=ROOT) for _ in range(6)]
    assert [one.wait(60) for one in several] == [0] * 6
    assert len(results.lines(home / "r" / results.RESULTS)[0]) == 6


def test_an_older_run_is_gone_on_with(home: Path) -> None:
    older_run(home / "r")
    Run(home / "r").append(RECORD)
    assert len(results.lines(home / "r" / results.RESULTS)[0]) == 2
    assert Marker.of(home / "r").kind == "run"  # type: ignore[union-attr]


def test_a_folder_of_reports_is_gone_on_with(home: Path) -> None:
    (home / "reports" / "runs").mkdir(parents=True)
    a_file(home / "reports" / "notes.md")
    assert results.new_run("x", home / "reports").parent == home / "reports" / "runs"
    with pytest.raises(UserError, match=r"not a folder of reports: it holds `README.md` and no `runs`"):
        results.new_run("x", documents(home / "docs"))


# --- one file --------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", SINGLES)
def test_a_page_is_made_anew_and_an_edited_one_is_not(
    command: str, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = home / "page"
    page.touch()  # as `mktemp` leaves it: an empty file is nobody's
    page.chmod(0o600)
    words = [str(page) if word == "{}" else word for word in SINGLES[command]]
    for _ in range(2):
        assert cli.main(words) == 0
    text = page.read_text()
    assert page.stat().st_mode & 0o777 == 0o600
    assert files.owner(page) == "ours"
    assert "made by repros" in text.splitlines()[1]
    if command == "report --junit":
        assert Xml.fromstring(text.encode()).tag == "testsuites"
    page.write_text(text + "my own words\n")
    capsys.readouterr()
    assert "it was edited since it was made" in refused(SINGLES[command], page, home, capsys)
    assert cli.main([*words, "--force"]) == 0
    assert page.read_text() == text
    assert [path.name for path in home.iterdir()] == ["page"]


def test_a_signature_does_not_show(home: Path) -> None:
    md = files.signed("# Title\n\ntext\n").decode()
    first, second, *rest = md.splitlines()
    assert (first, second[:4], second[-3:], rest) == ("# Title", "<!--", "-->", ["", "text"])
    assert files.signed(md) == md.encode()
    assert files.signed(md.replace("text", "more")) != md.replace("text", "more").encode()


def test_a_jobs_summary_is_appended_to(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    summary = home / "step_summary"
    summary.write_text("of the step before\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    assert cli.main(["report", str(RUN), "--summary", str(summary)]) == 0
    assert summary.read_text().startswith("of the step before\n# ")


@pytest.mark.parametrize("name", ["-", "/dev/stdout"])
def test_what_goes_to_a_stream_is_printed_whole(name: str, home: Path) -> None:
    log = home / "log"
    log.write_text("said before\n")
    with log.open("ab") as out:
        command = [sys.executable, "-m", "repros", "report", str(RUN), "--markdown", name]
        assert subprocess.run(command, cwd=ROOT, stdout=out, stderr=subprocess.DEVNULL).returncode == 0
    assert log.read_text().startswith("said before\n# Verdicts\n\n")
    assert "made by repros" not in log.read_text()


def test_a_write_that_fails_leaves_the_file_as_it_was(home: Path) -> None:
    """The system refuses a file of more than 1,000 bytes in the middle of the write."""
    path = home / "page.md"
    files.put(path, "# whole\n")
    before = everything(home)
    code = (
        "import resource, signal, sys; from pathlib import Path; from repros import files\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "files.put(Path(sys.argv[1]), '# longer\\n' * 1000)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], cwd=ROOT, capture_output=True, text=True)
    assert "UserError" in done.stderr
    assert "File too large" in done.stderr
    assert everything(home) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
@pytest.mark.parametrize("command", FOLDERS)
def test_a_folder_that_may_not_be_written(command: str, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home / "it").mkdir()
    (home / "it").chmod(0o500)
    errors([{"{}": str(home / "it")}.get(word, word) for word in FOLDERS[command]], capsys)


# --- bundles ---------------------------------------------------------------------------------------


def bundled(folder: Path, logs: Path, record: Record = RECORD) -> packing.Bundle:
    return bundle.make(record, [record], KNOWN[record.case], folder, Redactor(), logs)


def test_a_bundle_is_made_anew_with_its_zip_and_takes_no_file_of_others(home: Path) -> None:
    (home / "run" / "logs").mkdir(parents=True)
    log = home / "run" / "logs" / f"{RECORD.cell}.{RECORD.case}.{RECORD.condition}.subject.log"
    log.write_text("first\n")
    bundled(home / "b", home / "run")
    (home / "b" / "mine.txt").write_text("mine")
    assert (home / "b" / "logs" / log.name).read_text() == "first\n"
    log.unlink()
    made = bundled(home / "b", home / "run")
    assert (home / "b" / "mine.txt").read_text() == "mine"
    assert not (home / "b" / "logs").exists()
    with zipfile.ZipFile(made.zip) as file:
        assert not [name for name in file.namelist() if "mine" in name or "log" in name]
    assert files.owner(made.zip) == "ours"


@pytest.mark.parametrize("what", ["a log", "the folder of logs", "a snapshot"])
def test_a_link_in_a_run_brings_no_file_of_the_host_into_a_bundle(what: str, home: Path) -> None:
    secret = home / "etc" / f"{RECORD.cell}.{RECORD.case}.{RECORD.condition}.subject.log"
    secret.parent.mkdir()
    secret.write_text("root:x:0:0:the host's own\n")
    (home / "run").mkdir()
    if what == "the folder of logs":
        (home / "run" / "logs").symlink_to(secret.parent)
    else:
        suffix = ".log" if what == "a log" else ".pickle"
        (home / "run" / "logs").mkdir()
        (home / "run" / "logs" / secret.with_suffix(suffix).name).symlink_to(secret)
    made = bundled(home / "b", home / "run")
    assert not (home / "b" / "logs").exists()
    assert not any(b"the host's own" in path.read_bytes() for path in (home / "b").rglob("*") if path.is_file())
    with zipfile.ZipFile(made.zip) as file:
        assert not any(b"the host's own" in file.read(name) for name in file.namelist())


def test_a_run_that_is_named_by_a_link_may_be_read(home: Path) -> None:
    a_run(home / "run")
    log = home / "run" / "logs" / f"{RECORD.cell}.{RECORD.case}.{RECORD.condition}.subject.log"
    log.write_text("said\n")
    (home / "link").symlink_to(home / "run")
    bundled(home / "b", home / "link")
    assert (home / "b" / "logs" / log.name).read_text() == "said\n"


def test_a_bundle_of_a_case_that_was_edited_is_refused_with_both_dates(home: Path) -> None:
    now = replace(RECORD, source=sources.digest(KNOWN[RECORD.case].module))
    assert f"source {now.source[:16]}." in (bundled(home / "b", home, now).folder / "comment.md").read_text()
    assert "source not noted" in (bundled(home / "b", home).folder / "comment.md").read_text()
    before = everything(home)
    path, edited = sources.last_edited(KNOWN[RECORD.case].module)
    with pytest.raises(UserError) as caught:
        bundled(home / "b", home, replace(now, source="0" * 64))
    assert f"tried {RECORD.date}, and its source was edited since: {path} is of {edited}" in caught.value.what
    assert RECORD.repeat in caught.value.hint
    assert everything(home) == before


def test_the_digest_of_a_source_is_the_cases_own(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "ROOT", home)
    (home / "mine").mkdir()
    case, helper, other = (home / "mine" / f"{name}.py" for name in ("gh1_x", "_helper", "gh2_y"))
    case.write_text("from mine import _helper\n")
    helper.write_text("A = 1\n")
    other.write_text("B = 1\n")
    first = sources.digest("mine.gh1_x")
    other.write_text("B = 2\n")
    assert sources.digest("mine.gh1_x") == first
    helper.write_text("A = 2\n")
    assert (second := sources.digest("mine.gh1_x")) != first
    case.write_text("from mine import _helper  # more\n")
    assert sources.digest("mine.gh1_x") not in (first, second)


def test_what_a_case_records_as_affected_is_no_part_of_its_source() -> None:
    text = "OLD = {}\nBOTH = {}\n\nONE = Condition('é', affected={}, b={})  # note\nTWO = at({})\n"
    old, newer = "Affected({'a': '<1'}, 'x')", "Affected({'a': '<2'},\n 'y')"
    windows = ((old, f"({old}, {old})", "(OLD,)", 2, old), (newer, f"({newer},)", "()", 2, newer))
    kept = {sources.without_record(text.format(*values)) for values in (*windows, (old, f"({newer},)", None, 2, old))}
    assert kept == {"\n\n\nONE = Condition('é', affected=, b=2)  # note\nTWO = at()\n"}
    assert sources.without_record(text.format(old, f"({old},)", "(OLD,)", 3, old)) not in kept


def test_a_record_names_its_source_and_older_ones_are_read(bench: Bench, harness: cases.Entry) -> None:
    record = bench.run(harness, harness.case.conditions[0].name)
    assert record.source == sources.digest(harness.module)
    line = json.loads(record.to_line())
    assert Record.from_json(line).source == record.source
    del line["source"]
    assert Record.from_json(line).source == ""
    assert "source" not in json.loads(RECORD.to_line())


def test_the_newest_bad_release_is_bundled(home: Path) -> None:
    def at(version: str, verdict: str = "reproduced") -> Record:
        packages = {**RECORD.environment["packages"], KNOWN[RECORD.case].case.package: version}
        found = {**RECORD.environment, "packages": packages}
        return replace(RECORD, cell=version, verdict=type(RECORD.verdict)(verdict), environment=found)

    tried = [at("0.9.0"), at("0.49.2"), at("0.50.0rc1"), at("0.10.0"), at("0.51.0", "absent"), at("a checkout")]
    choose = bundle.choose(tried, KNOWN[RECORD.case], None, None, "here")
    assert choose.cell == "0.50.0rc1"
    assert bundle.choose(tried, KNOWN[RECORD.case], "0.9.0", None, "here").cell == "0.9.0"


def test_the_newest_run_that_has_the_trial_is_taken_then_what_is_committed(home: Path) -> None:
    other = next(r for r in results.load(results.REPORTS / "cpu")[0] if r.case != RECORD.case)
    entries, runs = [KNOWN[RECORD.case]], home / "runs"
    for name, record in (("20260103-000000-c", other), ("20260102-000000-b", other)):
        Run(runs / name).append(record)
    Run(home / "committed").append(RECORD)
    found, _, entry, folders, said = bundle.look(results.runs_and_committed(home), entries, None, None)
    assert (found.key, entry.name, list(folders)) == (RECORD.key, RECORD.case, [home / "committed"])
    assert f"{runs / '20260103-000000-c'}: no trial of" in said[0]
    assert said[1:] == ["nor in 1 older runs"]
    for name, date in (("20260101-000000-a", "older"), ("20260101-000001-a", "newer")):
        Run(runs / name).append(replace(RECORD, date=date))
    (runs / "20260104-000000-d").mkdir()
    (runs / "20260104-000000-d" / results.RESULTS).write_text("no record\n")
    found, _, _, folders, said = bundle.look(results.runs_and_committed(home), entries, None, None)
    assert (found.date, list(folders)) == ("newer", [runs / "20260101-000001-a"])
    assert "not a record" in said[0]
    found, _, _, folders, said = bundle.look([[runs / "20260103-000000-c"]], [KNOWN[other.case]], None, None)
    assert (found.key, said) == (other.key, [])
    with pytest.raises(UserError, match=r"committed: no trial of .* in nowhere"):
        bundle.look(results.runs_and_committed(home), entries, "nowhere", None)


# --- the cache, and a clone ------------------------------------------------------------------------


def test_a_cache_that_is_a_folder_of_documents_loses_none(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = checkpoints.Recipe("tiny", "smollm2-135m", "bfloat16", layers=1, vocab=16)
    monkeypatch.setattr(checkpoints, "recipes", lambda: {"tiny": recipe})
    for place in (".", "envs", "envs/.staging", "envs/.staging/thesis", "envs/.staging/a~b", "checkpoints"):
        documents(home / place)
    before = everything(home)
    store = Store(home)
    store.prepare()
    (store.staging / "x~12345678").mkdir()
    store.sweep("x")
    assert not (store.staging / "x~12345678").exists()
    checkpoints.ensure("tiny", home / "checkpoints")
    after = everything(home)
    assert {name: after.get(name) for name in before} == before


def test_staging_that_is_a_link_is_not_swept(home: Path) -> None:
    documents(home / "docs" / "thesis~12345678")
    (home / "envs").mkdir()
    (home / "envs" / ".staging").symlink_to(home / "docs")
    before = everything(home / "docs")
    store = Store(home)
    store.prepare()
    store.sweep("other")
    assert everything(home / "docs") == before


def test_evidence_is_refused_before_it_is_made(home: Path) -> None:
    documents(home / "f")
    before = everything(home)
    with pytest.raises(UserError, match="not a folder of this suite"):
        committed.commit([RUN], [RECORD], KNOWN, home / "f")
    assert everything(home) == before
