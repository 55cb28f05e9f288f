"""`repros audit`: what it reads, what it prints, how it ends."""

from __future__ import annotations

import io
import json
import re
import resource
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

from repros import ROOT, cases
from repros.advisory import ignore, inside, installed, prove
from repros.advisory.installed import Found
from repros.case import PACKAGES
from repros.commands import cli
from repros.commands.arguments import Parser
from repros.errors import UserError
from repros.report import terminal

PINS = ["torch==2.13.0", "transformers==5.2.0", "bitsandbytes==0.49.2"]


def audit(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = cli.main(["audit", *words])
    said = capsys.readouterr()
    return code, said.out, said.err


# --- what it prints ------------------------------------------------------------------------------


@pytest.mark.parametrize("columns", [80, 120])
def test_a_row_is_a_finding_and_no_id_is_cut(columns: int, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = cli.parser(["audit"]).parse_args(["audit", *PINS])
    console = terminal.console(file=io.StringIO())
    console.width = columns
    assert arguments.command(arguments, console) == 1
    out = console.file.getvalue()  # type: ignore[attr-defined]
    rows = out.partition(" hit, of ")[0].splitlines()[1:]
    assert max(map(len, rows)) <= columns
    heads = [line for line in out.splitlines() if re.match(r"(wrong numbers|memory|raises) ", line)]
    hits = json.loads(audit(capsys, *PINS, "--format", "json")[1])["findings"]
    own = [one for one in hits if one["answer"] == "hit" and one["own"]]
    assert len(own) > 9
    for one in own:
        assert any(line.startswith(one["severity"]) and f" {one['report']} " in f"{line} " for line in heads), one[
            "report"
        ]
    severities = [re.match(r"wrong numbers|memory|raises", line)[0] for line in heads[: len(own)]]  # type: ignore[index]
    assert severities == sorted(severities, key=["wrong numbers", "memory", "raises"].index)
    assert "→ upgrade to transformers 5.4.0" in out
    assert "unknown on a GPU: torch 2.13.0: not tried, 2.11.0 was" in out


def test_nothing_hits(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = audit(capsys, "torch==9.0.0", "transformers==9.0.0", "bitsandbytes==9.0.0")
    assert code == 0
    assert "no report hits" in out
    assert re.search(r"(?m)^\d\d unknown$", out)
    assert audit(capsys, "bitsandbytes==9.0.0", "--strict")[0] == 1


def test_json_says_all(capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads(audit(capsys, *PINS, "--device", "cpu", "--format", "json")[1])
    by_case = {one["case"]: one for one in found["findings"]}
    assert by_case["gh1995_strided_tensor"]["answer"] == "hit"
    assert by_case["gh1995_strided_tensor"]["conditions"]["every-other-row"] == "hit"
    assert by_case["gh1995_strided_tensor"]["upgrade"].keys() == {"bitsandbytes"}
    assert found["versions"] == dict(word.split("==") for word in PINS)


def test_markdown_has_the_rows(capsys: pytest.CaptureFixture[str]) -> None:
    out = audit(capsys, *PINS, "--format", "markdown")[1]
    assert "| wrong numbers | [bitsandbytes#1995](https://github.com/" in out
    assert "Found beside these reports:" in out
    table = [line for line in out.splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in table} == {5}


def test_sarif_places_a_finding_where_the_version_is_pinned(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("requirements.txt").write_text("# ours\ntorch==2.13.0\ntransformers==5.2.0\nbitsandbytes==0.49.2\n")
    (run,) = json.loads(audit(capsys, "-r", "requirements.txt", "--format", "sarif")[1])["runs"]
    rules = [rule["id"] for rule in run["tool"]["driver"]["rules"]]
    assert len(set(rules)) == len(rules) == 13
    lines = {}
    for one in run["results"]:
        assert rules[one["ruleIndex"]] == one["ruleId"]
        where = one["locations"][0]["physicalLocation"]
        assert where["artifactLocation"]["uri"] == "requirements.txt"
        lines[one["properties"]["case"]] = where["region"]["startLine"]
    assert (lines["gh1995_strided_tensor"], lines["gh44387_reserved_memory"]) == (4, 3)


# --- ignoring ------------------------------------------------------------------------------------


def test_what_is_ignored_is_said_and_hits_no_more(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "ignore"
    file.write_text("# known\nbitsandbytes#1995  no strided tensors here\ngh9_none  gone\n")
    code, out, _ = audit(capsys, "bitsandbytes==0.49.2", "--ignore", str(file))
    assert code == 1
    assert not re.search(r"(?m)^wrong numbers +bitsandbytes#1995", out)
    assert "ignored: bitsandbytes#1995 (gh1995_strided_tensor): no strided tensors here" in out
    # A long path may end its line: words are compared, not where a terminal's width broke them.
    assert f"{file}:3: gh9_none is ignored, and hits nothing here" in " ".join(out.split())
    reports = "\n".join(f"bitsandbytes#{n} x" for n in (1569, 1729, 1849, 1927, 1935, 1946, 1995, 2005, 2034))
    file.write_text(f"{reports}\npeft#3265 x\ntransformers#43032 x\ntransformers#44387 x\ntransformers#44728 x\n")
    assert audit(capsys, *PINS, "--ignore", str(file))[0] == 0


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("bitsandbytes#1995\n", ":1: bitsandbytes#1995 without a reason"),
        ("\n1995 why\n", ":2: `1995 why` begins with no report or case"),
        (b"\xff", "byte 0 is not UTF-8"),
    ],
)
def test_a_bad_line_of_what_is_ignored(text: str | bytes, says: str, tmp_path: Path) -> None:
    file = tmp_path / "ignore"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError) as error:
        ignore.read(file)
    assert says in error.value.what


# --- what it reads -------------------------------------------------------------------------------


def test_requirements(tmp_path: Path) -> None:
    (tmp_path / "more.txt").write_text("peft==0.21.2\n")
    file = tmp_path / "requirements.txt"
    file.write_text(
        "\ufeff--index-url https://example.com/simple\n-r more.txt\n-c more.txt\n"
        "Torch == 2.13.0+cpu  # the build for a CPU\n"
        "transformers==5.2.0 \\\n    --hash=sha256:00\n"
        "bitsandbytes>=0.46,<0.50\n"
        "tokenizers==0.22.*\n"
        "huggingface-hub===1.33.0; python_version >= '3'\n"
        "accelerate==0.1; sys_platform == 'never'\n"
        "numpy==2.0\n./local.whl\n-e git+https://github.com/huggingface/accelerate.git#egg=accelerate\n",
        encoding="utf-8",
    )
    found = installed.of_file(file)
    assert found.versions == {
        "peft": "0.21.2", "torch": "2.13.0+cpu", "transformers": "5.2.0", "huggingface_hub": "1.33.0",
    }  # fmt: skip
    assert found.places["transformers"] == f"{file}:5"
    assert found.places["peft"] == f"{tmp_path / 'more.txt'}:1"
    assert not found.whole
    assert found.notes == (
        f"{file}:7: `bitsandbytes>=0.46,<0.50` is not a pin, so bitsandbytes is not named",
        f"{file}:8: `tokenizers==0.22.*` is not a pin, so tokenizers is not named",
        f"{file}:13: accelerate is a checkout, not a release",
    )


def test_what_pip_freeze_prints(monkeypatch: pytest.MonkeyPatch) -> None:
    text = (
        b"torch @ https://example.com/torch-2.13.0%2Bcpu-cp311-cp311-linux_x86_64.whl#sha256=0\nbitsandbytes==0.49.2\n"
    )
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text)))
    found = installed.of_file(Path("-"))
    assert found.versions == {"torch": "2.13.0+cpu", "bitsandbytes": "0.49.2"}
    assert found.source == "stdin"


LOCK = """version = 1
[[package]]
name = "torch"
version = "2.13.0"
[[package]]
name = "huggingface-hub"
version = "1.33.0"
[[package]]
name = "mine"
source = { editable = "." }
"""


def test_a_lock(tmp_path: Path) -> None:
    file = tmp_path / "uv.lock"
    file.write_text(LOCK)
    found = installed.of_file(file)
    assert (found.versions, found.whole) == ({"torch": "2.13.0", "huggingface_hub": "1.33.0"}, True)


def test_a_lock_with_two_releases_of_one_package(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "uv.lock"
    file.write_text(f'{LOCK}[[package]]\nname = "torch"\nversion = "2.9.1"\n')
    code, _, err = audit(capsys, "-r", str(file))
    assert (code, err.splitlines()) == (
        2,
        [f"{file}: torch 2.13.0 or 2.9.1, each for some machines", "hint: name yours: `torch==2.13.0`"],
    )
    assert audit(capsys, "-r", str(file), "torch==2.13.0")[0] == 0  # bitsandbytes is not installed


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("requirements.txt", b"torch==2.13.0\ntorch==2.9.1\n", ":2: torch 2.9.1, and 2.13.0 at "),
        ("requirements.txt", b"what is this?\n", ":1: `what is this?` is not a requirement"),
        ("requirements.txt", b"torch\xff", "byte 5 is not UTF-8"),
        ("requirements.txt", b"a\0b", "not a text"),
        ("requirements.txt", b"numpy==2.0\n", "names none of torch, transformers, bitsandbytes"),
        ("requirements.txt", b"torch>=2\n", "names none of torch, transformers, bitsandbytes"),
        ("requirements.txt", b"-r nowhere.txt\n", "nowhere.txt: No such file or directory"),
        ("uv.lock", b"version = \n", "not TOML"),
        ("uv.lock", b"version = 1\n", "no `[[package]]` in it"),
        ("uv.lock", b"package = 3\n", "no `[[package]]` in it"),
    ],
)
def test_damaged_input(
    name: str, content: bytes, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / name
    file.write_bytes(content)
    code, out, err = audit(capsys, "--requirement", str(file))
    assert (code, out) == (2, "")
    assert says in err.splitlines()[0]
    assert err.splitlines()[1].startswith("hint: ")
    assert len(err.splitlines()) == 2


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["torch"], "`torch` is not a version"),
        (["torch>=2"], "`torch>=2` is not a version"),
        (["torch==2.*"], "`torch==2.*` is not a version"),
        (["numpy==2.0"], "`numpy==2.0`: no report is about numpy"),
        (["torch==2.0", "torch==2.1"], "torch 2.0 and 2.1"),
        (["--python", "/nowhere/python"], "/nowhere/python: No such file or directory"),
        (["--python", "/"], "/: no Python in that folder"),
        (["--python", "/bin/true"], "/bin/true: it does not say what is installed: exit code 0"),
        (["--device=--"], "`--device=--` gives the option no value"),
        (["--prove", "torch==2.13.0"], "--prove: witnesses run in an interpreter"),
    ],
)
def test_words_that_cannot_be(words: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = audit(capsys, *words)
    assert (code, out) == (2, "")
    assert err.startswith(says)
    assert len(err.splitlines()) == 2


def test_an_interpreter_says_what_it_has(tmp_path: Path) -> None:
    mine = installed.of_interpreter()
    assert mine.whole
    assert mine.here
    assert mine.versions == {name: version for name, (version, _) in inside.installed(PACKAGES).items()}
    other = installed.of_interpreter(Path(sys.executable))
    assert (other.versions, other.places) == (mine.versions, mine.places)
    assert Path(mine.places["torch"]).is_file()


def test_an_interpreter_without_any_of_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    code, _, err = audit(capsys, "--python", str(tmp_path / "venv"))
    assert code == 2
    assert "has none of torch, transformers, bitsandbytes" in err


def test_words_stand_over_what_was_found() -> None:
    found = Found({"torch": "2.13.0", "peft": "0.1"}, "x", whole=True, places={"torch": "x:1", "peft": "x:2"})
    both = installed.with_words(found, ["torch==2.9.1"])
    assert (both.versions["torch"], both.whole, both.places) == ("2.9.1", True, {"peft": "x:2"})


def test_a_build_for_a_cpu_has_no_gpu() -> None:
    assert installed.given(Found({"torch": "2.13.0+cpu"}, "x")).devices == ("cpu",)
    assert installed.given(Found({"torch": "2.13.0"}, "x")).devices == ("cpu", "cuda")
    assert installed.given(Found({"torch": "2.13.0+cpu"}, "x"), "any").devices == ("cpu", "cuda")


# --- what it costs, and what it proves -----------------------------------------------------------


def test_it_answers_in_less_than_a_second() -> None:
    """Of the processor: an audit waits for nothing, but on a busy machine for its turn."""
    took = []
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run([sys.executable, "-m", "repros", "audit", *PINS], cwd=ROOT, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        took.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        assert done.returncode == 1
    assert statistics.median(took) < 1.0, took


def test_reading_advisories_takes_no_heavy_module() -> None:
    script = (
        "import sys, repros.advisory.formats, repros.advisory.prove, repros.advisory.installed\n"
        "print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    heavy = {"torch", "transformers", "bitsandbytes", "numpy", "rich", "jinja2", "yaml", "orjson", "uv"}
    assert not heavy & {*done.stdout.split()}


def test_every_command_is_of_the_module_that_adds_it() -> None:
    import importlib

    for module, names in cli.COMMANDS.items():
        added: list[str] = []

        def add(name: str, command: object, text: str, added: list[str] = added) -> object:
            added.append(name)
            return Parser(prog=name)

        importlib.import_module(f"repros.commands.{module}").register(add)
        assert tuple(added) == names, module


@pytest.mark.parametrize(
    ("script", "vote", "says"),
    [
        ("witness_good.py", "good", ""),
        ("witness_bad.py", "bad", ""),
        ("witness_skip.py", "skip", ""),
        ("witness_raises.py", "skip", "exit 1: "),
        ("witness_hangs.py", "skip", "no end after 2 s"),
    ],
)
def test_a_witness_votes_in_a_process_of_its_own(script: str, vote: str, says: str) -> None:
    found = prove.run(ROOT / "tests" / "selftest" / script, Path(sys.executable), 2.0)
    assert found[0] == vote
    assert found[1].startswith(says)


@pytest.mark.slow
def test_witnesses_prove_what_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    """In this very interpreter, which has the pins of a cell: what hits and has a witness votes bad."""
    if shutil.which("nvidia-smi"):
        pytest.skip("the witnesses would take the GPU, whose windows are others")
    code, out, _ = audit(capsys, "--prove", "--timeout", "600", "--format", "json")
    found = json.loads(out)
    assert code == 1
    votes = {name: proof["vote"] for one in found["findings"] for name, proof in one["proofs"].items()}
    assert len(votes) >= 4
    assert set(votes.values()) == {"bad"}, votes
    named = {entry.name: entry for entry in cases.find()}
    assert {one["case"] for one in found["findings"]} <= {*named}
