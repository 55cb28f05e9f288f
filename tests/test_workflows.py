"""The workflows: each is one that GitHub takes, and each of its scripts does what its job needs, run as a script.

GitHub's files, its `gh`, installers, and the trials themselves are stand-ins; `shard`, `merge` and `report` are real.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from repros import ROOT
from repros.run.record import Record
from repros.run.results import Run
from repros.verdict import Verdict
from tests.factories import record

HOME = ROOT / ".github"
WORKFLOWS = sorted((HOME / "workflows").glob("*.yml"))
ACTION = HOME / "actions" / "probe" / "action.yml"
PACKAGES = {"torch": "2.13.0", "transformers": "5.23.0", "bitsandbytes": "0.50.2"}
FINE = record("gh1995_strided_tensor", "contiguous", packages=PACKAGES)
REGRESSED = record(
    "gh1995_strided_tensor", "every-other-row", verdict=Verdict.REPRODUCED, expected=False, packages=PACKAGES
)

STAND_IN = """#!/bin/sh
echo "$(basename "$0") $*" >> "$CALLS"
case "$(basename "$0"):$*" in
  gh:*list*) printf '%s' "$GH_SAYS" ;;
  python:*"-m pip"*|python3:*"-m pip"*|gh:*|sudo:*|pipx:*|bash:.ci/run) ;;
  python3:*"-m venv"*) mkdir -p .venv/bin; ln -s "$(command -v python)" .venv/bin/python ;;
  *"repros run"*|*"repros watch"*|repros:run*)
    if [ "$CODE" != 2 ] && [ -n "$MADE" ]; then
      while [ "$1" != --reports ]; do shift; done
      mkdir -p "$2/runs"; cp -r "$MADE" "$2/runs/20261127-000000-watch"
    fi
    exit "$CODE" ;;
  repros:*) exec "$REAL" -m repros "$@" ;;
  *) exec "$REAL" "$@" ;;
esac
"""


@dataclass(frozen=True)
class Step:
    """A step that runs a script: its file, its job, its name, and the variables that it is given."""

    file: str
    job: str
    name: str
    script: str
    env: Mapping[str, str]

    @property
    def key(self) -> str:
        return f"{self.file} {self.job} {self.name}"


def steps() -> Iterator[Step]:
    """Yield the scripts of all workflows, and of the action."""
    for path in WORKFLOWS:
        document = yaml.safe_load(path.read_text())
        for job, what in document["jobs"].items():
            for step in what["steps"]:
                if "run" in step:
                    env = {**document.get("env", {}), **step.get("env", {})}
                    yield Step(path.stem, job, step.get("name", step["run"]), step["run"], env)
    for step in yaml.safe_load(ACTION.read_text())["runs"]["steps"]:
        if "run" in step:
            yield Step("action", "probe", step["name"], step["run"], step.get("env", {}))


STEPS = {step.key: step for step in steps()}


@dataclass
class Ran:
    """What a script did."""

    code: int
    out: str
    calls: list[str]
    outputs: dict[str, str]
    summary: str
    folder: Path


@dataclass
class Place:
    """A runner's workspace, with stand-ins on the path."""

    folder: Path
    outputs: dict[str, str] = field(default_factory=dict)

    def run(self, key: str, *, code: int = 0, made: Path | None = None, gh: str = "", **env: str) -> Ran:
        step = STEPS[key]
        given = {name: env.get(name, "") for name in step.env}
        assert set(env) <= set(step.env), f"the step does not get {set(env) - set(step.env)}"
        files = {name: self.folder / name.lower() for name in ("GITHUB_OUTPUT", "GITHUB_STEP_SUMMARY", "CALLS")}
        for file in files.values():
            file.write_text("")
        script = self.folder / "step.sh"
        script.write_text(step.script)
        environ = {
            **os.environ, **given, **{name: str(file) for name, file in files.items()}, "PYTHONPATH": str(ROOT),
            "PATH": f"{self.folder.parent / 'bin'}{os.pathsep}{os.environ['PATH']}", "REAL": sys.executable,
            "CODE" if "CODE" not in given else "STAND_IN_CODE": str(code), "MADE": str(made or ""), "GH_SAYS": gh,
        }  # fmt: skip
        command = [str(shutil.which("bash")), "--noprofile", "--norc", "-eo", "pipefail", str(script)]
        done = subprocess.run(command, cwd=self.folder, env=environ, capture_output=True, text=True, check=False)
        lines = files["GITHUB_OUTPUT"].read_text().splitlines()
        return Ran(
            done.returncode,
            done.stdout,
            files["CALLS"].read_text().splitlines(),
            dict(line.split("=", 1) for line in lines),
            files["GITHUB_STEP_SUMMARY"].read_text(),
            self.folder,
        )


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """Return a workspace whose `python`, `repros`, `gh` and installers are stand-ins."""
    stand_ins = tmp_path / "bin"
    stand_ins.mkdir()
    for name in ("python", "python3", "repros", "gh", "sudo", "pipx"):
        (stand_ins / name).write_text(STAND_IN)
        (stand_ins / name).chmod(0o755)
    (tmp_path / "work").mkdir()
    return Place(tmp_path / "work")


def made(folder: Path, *records: Record, **files: str) -> Path:
    """Return a run of these records."""
    run = Run(folder)
    for one in records:
        run.append(one)
    for name, text in files.items():
        (folder / name.replace("_md", ".md")).write_text(text)
    return run.folder


# --- what is written -----------------------------------------------------------------------------


def tool(name: str) -> str:
    found = shutil.which(name, path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if found is None:
        pytest.skip(f"no {name} on this machine")
    return found


def test_workflows_are_what_github_takes() -> None:
    check = tool("check-jsonschema")
    for schema, files in (("vendor.github-workflows", WORKFLOWS), ("vendor.github-actions", [ACTION])):
        done = subprocess.run(
            [check, "--builtin-schema", schema, *map(str, files)], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr


def test_workflows_hand_nobody_a_token_or_a_shell() -> None:
    done = subprocess.run([tool("zizmor"), "--offline", "-q", str(HOME)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_workflows_pass_actionlint() -> None:
    done = subprocess.run([tool("actionlint"), *map(str, WORKFLOWS)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("key", STEPS)
def test_a_script_has_no_expression_and_no_fault_that_shellcheck_sees(key: str, tmp_path: Path) -> None:
    assert "${{" not in STEPS[key].script, "give it a variable: an expression is pasted into the script"
    script = tmp_path / "step.sh"
    script.write_text(STEPS[key].script)
    done = subprocess.run(
        [tool("shellcheck"), "-s", "bash", "-S", "warning", str(script)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


# --- what is run ---------------------------------------------------------------------------------

#: Scripts that only install: they have nothing to say to a later step.
INSTALL = [key for key in STEPS if key.endswith((" install", "pip install -e ."))]
ALSO = {
    "tests tests tests", "pages build python -m repros site --to site --source "
    '"$GITHUB_SERVER_URL/$GITHUB_REPOSITORY/blob/$GITHUB_SHA"',
    "matrix plan plan", "matrix shard run", "matrix merge merge", "matrix merge tell",
    "matrix merge fail where something regressed or is missing", "watch watch watch",
    "watch watch open or update the issue", "gpu plan plan", "gpu cell run",
    "action probe try", "action probe tell", "action probe comment", "action probe fail where something regressed",
}  # fmt: skip


def test_every_script_is_run_here() -> None:
    assert {*INSTALL, *ALSO} == set(STEPS)


@pytest.mark.parametrize("key", INSTALL)
def test_what_installs_calls_an_installer_and_no_more(key: str, place: Place) -> None:
    ran = place.run(key)
    assert ran.code == 0
    assert ran.calls
    assert all(re_installs(call) for call in ran.calls)


def re_installs(call: str) -> bool:
    return " install " in call and call.split()[0] in ("python", "sudo", "pipx")


def test_the_tests_are_what_ci_runs(place: Place) -> None:
    (place.folder / ".ci").mkdir()
    (place.folder / ".ci" / "run").write_text("echo ran; exit 3\n")
    ran = place.run("tests tests tests")
    assert (ran.code, ran.out) == (3, "ran\n")


def test_the_site_is_made_where_the_next_step_takes_it(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("SERVER_URL", "https://github.com"), ("REPOSITORY", "o/n"), ("SHA", "abc")):
        monkeypatch.setenv(f"GITHUB_{name}", value)
    (key,) = (key for key in STEPS if key.startswith("pages build python -m repros site"))
    assert place.run(key).code == 0
    assert "https://github.com/o/n/blob/abc/" in (place.folder / "site" / "index.html").read_text()


def test_the_plan_is_a_matrix(place: Place) -> None:
    ran = place.run("matrix plan plan", TIER="smoke", SHARDS="3")
    assert ran.code == 0
    jobs = json.loads(ran.outputs["matrix"])["include"]
    assert [(job["shard"], job["number"]) for job in jobs] == [("1/3", 1), ("2/3", 2), ("3/3", 3)]
    text = (HOME / "workflows" / "matrix.yml").read_text()
    used = {line.partition("matrix.")[2].partition(" ")[0] for line in text.splitlines() if "{{ matrix." in line}
    assert used <= set(jobs[0])


@pytest.mark.parametrize(("code", "ends"), [(0, 0), (1, 0), (2, 2), (3, 3)])
def test_a_shard_with_a_finding_goes_on_to_be_merged(code: int, ends: int, place: Place) -> None:
    ran = place.run("matrix shard run", code=code, TIER="cpu", SHARD="2/4")
    assert ran.code == ends
    assert ran.calls == ["python -m repros run --tier cpu --shard 2/4 --reports shard"]


def test_shards_are_merged_told_and_failed_where_trials_are_missing(place: Place) -> None:
    made(place.folder / "shards" / "shard-1" / "run", FINE)
    made(place.folder / "shards" / "shard-2" / "run", REGRESSED)
    ran = place.run("matrix merge merge", TIER="smoke")
    assert (ran.code, ran.outputs) == (0, {"code": "1"})
    assert "missing in tf5.2.0-bnb0.49.2: " in ran.out
    ran = place.run("matrix merge tell")
    assert ran.code == 0
    assert ran.out.startswith("::error title=bitsandbytes#1995%3A regression::")
    assert "2 trials" in ran.summary
    assert {"index.html", "junit.xml", "results.jsonl"} <= {path.name for path in (place.folder / "merged").iterdir()}
    assert place.run("matrix merge fail where something regressed or is missing", CODE="1").code == 1


def test_runs_that_cannot_be_merged_fail_at_once(place: Place) -> None:
    made(place.folder / "shards" / "shard-1" / "run", FINE)
    other = record("gh1995_strided_tensor", "every-other-row", packages={"torch": "2.9.1"})
    made(place.folder / "shards" / "shard-2" / "run", other)
    assert place.run("matrix merge merge", TIER="smoke").code == 2


def test_what_changed_goes_into_one_issue(place: Place, tmp_path: Path) -> None:
    run = made(tmp_path / "made", FINE, watch_md="# What changes\n")
    ran = place.run("watch watch watch", code=1, made=run)
    assert (ran.code, ran.outputs["code"]) == (0, "1")
    assert ran.summary == "# What changes\n"
    where = ran.outputs["run"]
    assert (place.folder / where / "watch.md").is_file()
    title = "A newer release changes verdicts"
    ran = place.run("watch watch open or update the issue", RUN=where)
    assert ran.calls[1:] == [f"gh issue create --title {title} --body-file body.md"]
    assert (place.folder / "body.md").read_text() == "# What changes\n"
    ran = place.run("watch watch open or update the issue", RUN=where, gh="7")
    assert ran.calls[1:] == ["gh issue edit 7 --body-file body.md"]


def test_nothing_new_opens_no_issue_and_a_fault_fails_the_job(place: Place) -> None:
    ran = place.run("watch watch watch", code=0)
    assert (ran.code, ran.outputs, ran.summary) == (0, {"run": "", "code": "0"}, "")
    assert place.run("watch watch watch", code=2).code == 2


def test_the_cells_with_a_card_are_a_list(place: Place) -> None:
    ran = place.run("gpu plan plan", TIER="gpu")
    names = json.loads(ran.outputs["cells"])
    assert "gpu-tf5.23.0-bnb0.50.2" in names
    assert all(name.startswith("gpu-") for name in names)


@pytest.mark.parametrize(("tier", "more"), [("gpu", ""), ("gpu_smoke", " --one-a-report 12")])
def test_a_cell_with_a_card_runs_in_the_host_s_torch(tier: str, more: str, place: Place, tmp_path: Path) -> None:
    ran = place.run("gpu cell run", code=1, made=made(tmp_path / "made", REGRESSED), CELL="gpu-x", TIER=tier)
    assert ran.code == 1
    assert ran.calls[0] == "python3 -m venv --system-site-packages .venv"
    assert f"python -m repros run --cell gpu-x --reports card{more}" in ran.calls
    assert "1 trial" in ran.summary


@pytest.mark.parametrize(("code", "ends"), [(0, 0), (1, 0), (2, 2)])
def test_the_action_tries_the_checkout(code: int, ends: int, place: Place, tmp_path: Path) -> None:
    run = made(tmp_path / "made", REGRESSED)
    ran = place.run("action probe try", code=code, made=run, PACKAGE="bitsandbytes", CHECKOUT="them", CELL="")
    assert ran.code == ends
    words = "run --package bitsandbytes --cell tf5.23.0-bnb0.50.2 --with bitsandbytes=them --reports repros-reports"
    assert ran.calls[-1] == f"repros {words}"
    assert ran.outputs["code"] == str(code)
    if code < 2:
        assert (place.folder / ran.outputs["run"] / "results.jsonl").is_file()


def test_the_action_tells_by_annotation_summary_and_sarif(place: Place) -> None:
    run = made(place.folder / "run", REGRESSED)
    ran = place.run("action probe tell", RUN=str(run))
    assert ran.code == 0
    assert ran.out.startswith("::error title=bitsandbytes#1995")
    assert "1 trial" in ran.summary
    sarif = json.loads((place.folder / ran.outputs["sarif"]).read_text())
    assert sarif["runs"][0]["results"][0]["ruleId"] == "bitsandbytes#1995"


def test_the_action_keeps_one_comment(place: Place) -> None:
    run = made(place.folder / "run", REGRESSED)
    ran = place.run("action probe comment", RUN=str(run), PULL="https://github.com/o/n/pull/1")
    assert ran.code == 0
    words = "pr comment https://github.com/o/n/pull/1 --body-file repros-comment.md --edit-last --create-if-none"
    assert ran.calls[-1] == f"gh {words}"
    assert "1 trial" in (place.folder / "repros-comment.md").read_text()


@pytest.mark.parametrize("code", ["1", "3"])
def test_the_action_fails_as_the_run_did(code: str, place: Place) -> None:
    assert place.run("action probe fail where something regressed", CODE=code).code == int(code)


def test_every_output_that_is_read_is_written() -> None:
    """A step that reads an output of another step must find it under that name."""
    for path in (*WORKFLOWS, ACTION):
        text = path.read_text()
        read = {tuple(part.split(".")[:3:2]) for part in parts(text, "steps.")}
        document: dict[str, Any] = yaml.safe_load(text)
        groups = (
            [job["steps"] for job in document["jobs"].values()] if "jobs" in document else [document["runs"]["steps"]]
        )
        written = {
            (step["id"], line.split('echo "')[1].split("=")[0])
            for group in groups
            for step in group
            if "id" in step and "run" in step
            for line in step["run"].splitlines()
            if "GITHUB_OUTPUT" in line
        }
        assert {pair for pair in read if pair[0] != "deployment"} <= written, path


def parts(text: str, prefix: str) -> Iterator[str]:
    """Yield what follows a prefix in expressions, such as ``watch.outputs.code``."""
    for piece in text.split(prefix)[1:]:
        word = ""
        for character in piece:
            if not (character.isalnum() or character in "._-"):
                break
            word += character
        if word.count(".") == 2:
            yield word
