"""Nothing private leaves: planted secrets are looked for in every output, also in what a page holds deflated."""

from __future__ import annotations

import json
import os
import pickle
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from repros import ROOT, cases
from repros.evidence import committed
from repros.redaction.redact import Redactor
from repros.report import junit
from repros.report.attachment import bundle
from repros.report.page import html
from repros.run import results
from repros.run.results import Record
from tests.pages import inflated, scripts

#: kind -> what is planted. Put together here, so that no whole token stands in a file.
FORMS = {
    "GitHub token": "ghp_" + "a1B2" * 9,
    "GitHub token, fine": "github_pat_" + "11AAAA0_x" * 5,
    "GitLab token": "glpat-" + "xY_1" * 5,
    "Hugging Face token": "hf_" + "QwErTyUiOp" * 3,
    "AWS key": "AKIA" + "IOSFODNN7EXAMPLE",
    "AWS secret": "aws_secret_access_key = " + "wJalrXUtnFEMI/K7MDENG/bPxRfiCY1234567890",
    "Google key": "AIza" + "SyA-1234567890abcdefghijklmnopqrstu",
    "Azure key": "AccountKey=" + "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6==",
    "Slack token": "xoxb-" + "123456789012-abcdefghijkl",
    "Slack hook": "https://hooks.slack.com/services/" + "T00000000/B00000000/XXXXXXXX",
    "Telegram token": "123456789:" + "AAHdqTcvCH1vGWJxfSeofSAs0K5PALDsawX"[:35],
    "Anthropic key": "sk-ant-" + "api03-abcdefghijklmnop",
    "OpenAI key": "sk-proj-" + "abcdEFGH1234567890ijkl",
    "Stripe key": "sk_live_" + "51H8abcdefghijk",
    "PyPI token": "pypi-" + "AgEIcHlwaS5vcmcCJDEyMzQ1",
    "npm token": "npm_" + "abcdefghijklmnopqrstuvwxyz0123456789",
    "Docker token": "dckr_pat_" + "abcdefghijklmnop1234",
    "Databricks token": "dapi" + "0123456789abcdef" * 2,
    "SendGrid key": "SG." + "abcdefghijklmnopqrst.uvwxyz0123456789abcd",
    "JSON web token": "eyJ" + "hbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NSJ9.dozjgNryP4J3jVmNHl0w5N",
    "bearer": "Authorization: Bearer " + "mF_9.B5f-4.1JqM0123456",
    "private key": "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXktdjEAAAAA\n-----END OPENSSH PRIVATE KEY-----",
    "SSH key": "ssh-ed25519 " + "AAAAC3NzaC1lZDI1NTE5AAAAIKexample0123 mira@workbox",
    "netrc": "machine pypi.example.org login mira " + "password trustno1x",
    "URL with credentials": "https://mira:" + "s3cr3t-pass@index.example.org/simple",
    "URL with a token": "https://index.example.org/simple?token=" + "abc123def456",
    "named secret": "DB_PASSWORD=" + "correct-horse-9",
    "e-mail address": "mira.voss@example.org",
    "IPv4 address": "10.20.30.40",
    "IPv6 address": "fe80::1c2d:3e4f:5a6b:7c8d",
    "IPv6 address, whole": "2001:db8:1:2:3:4:5:6",
    "MAC address": "02:42:ac:11:00:02",
    "home path": "/home/miravoss/secret-model/run.py",
    "home path, macOS": "/Users/miravoss/x",
    "home path, Windows": "C:\\Users\\miravoss\\x",
    "host name": "build7.corp.internal",
    "GPU identifier": "GPU-" + "12345678-1234-1234-1234-123456789abc",
}
#: The part of a planted text that must not be seen; the whole of it where nothing is said.
SECRET_PART = {
    "AWS secret": "wJalrXUtnFEMI", "Azure key": "Eby8vdM02xNOcqFl", "bearer": "mF_9.B5f", "netrc": "trustno1x",
    "URL with credentials": "s3cr3t-pass", "URL with a token": "abc123def456", "named secret": "correct-horse",
    "private key": "b3BlbnNzaC1rZXkt", "SSH key": "AAAAC3NzaC1lZDI1NTE5", "home path": "miravoss",
    "home path, macOS": "miravoss", "home path, Windows": "miravoss", "Slack hook": "T00000000/B00000000",
}  # fmt: skip
ENVIRON = {
    "HOME": "/home/miravoss", "USER": "miravoss", "HOSTNAME": "violet-gpu-07",
    "MY_SERVICE_TOKEN": "plain-words-token", "DEPLOY_KEY": "zzyyxxww", "ODD": "Zx81Spectrum48kPlusTape",
    "PIP_INDEX_URL": "https://bot:hunter2secret@pkgs.violet.example/simple", "WORKSPACE_ID": "ws-4471-blue",
}  # fmt: skip
SETTINGS = {"extra-index-url": "https://ci:letmein99x@mirror.violet.example/simple"}
LOCAL = {
    "user name": ("started by miravoss at noon", "miravoss"),
    "host name": ("on violet-gpu-07 it failed", "violet-gpu-07"),
    "secret variable": ("got plain-words-token back", "plain-words-token"),
    "short secret variable": ("got zzyyxxww back", "zzyyxxww"),
    "random value": ("id Zx81Spectrum48kPlusTape", "Zx81Spectrum48kPlusTape"),
    "index password": ("tried hunter2secret", "hunter2secret"),
    "index host": ("no route to pkgs.violet.example", "pkgs.violet.example"),
    "pip's index password": ("tried letmein99x", "letmein99x"),
    "pip's index host": ("from mirror.violet.example", "mirror.violet.example"),
    "environment dump": ("WORKSPACE_ID=ws-4471-blue PATH=/usr/bin", "ws-4471-blue"),
}
PLANTED = {**FORMS, **{kind: text for kind, (text, _) in LOCAL.items()}}
SEEN = {
    **{kind: SECRET_PART.get(kind, text) for kind, text in FORMS.items()},
    **{k: part for k, (_, part) in LOCAL.items()},
}


def redactor() -> Redactor:
    return Redactor.here(ENVIRON, SETTINGS)


def test_there_are_more_than_twenty_kinds() -> None:
    assert len(PLANTED) > 40
    assert all(SEEN[kind] in PLANTED[kind] for kind in PLANTED)


@pytest.mark.parametrize("kind", PLANTED)
def test_a_planted_secret_is_removed_and_counted(kind: str) -> None:
    one = redactor()
    found = one.text(f"before {PLANTED[kind]} after")
    assert SEEN[kind] not in found
    assert found.startswith("before ")
    assert sum(one.removed.values()) >= 1
    assert one.says().startswith("removed: ")
    again = redactor()
    assert SEEN[kind] not in json.dumps(again.value({"x": [PLANTED[kind]], PLANTED[kind]: 1}))


@pytest.mark.parametrize(
    "text",
    [
        "bitsandbytes::int8_vectorwise_quant", "aten::add", "torch 2.13.0+cpu", "error 0.00855 against 0.0178 allowed",
        "python -m repros run gh1935_saved_weight --cell tf5.2.0-bnb0.49.2 --condition nf4-eager", "12:30:45", "::",
        "7319a16e262a887dfab5fb42205b3d6dcb7248814ed45ac599952e091f85cff0", "graph.py:979 _engine_run_backward",
        "127.0.0.1", "OMP_NUM_THREADS=1", "https://github.com/huggingface/transformers/issues/44387", "task-risk-1",
        "the tokens: a list", "logs/tf5.2.0-bnb0.49.2.gh1927.subject.log", "root cause", "HF_DEACTIVATE_ASYNC_LOAD=1",
    ],
)  # fmt: skip
def test_what_is_not_private_stays(text: str) -> None:
    one = redactor()
    assert one.text(text) == text
    assert not one.removed


def test_committed_evidence_holds_nothing_private() -> None:
    """Forms only: what the words of this machine are is no property of the evidence."""
    kept = sorted(results.REPORTS.glob(f"*/{results.RESULTS}"))
    assert len(kept) >= 5
    for path in kept:
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        assert lines, path
        one = Redactor()
        one.value(lines)
        assert not one.removed, (path, one.removed)


def plant(record: Record, text: str) -> Record:
    """Put a text wherever words from outside end up in a record."""
    arms = []
    for arm in record.arms:
        rows = [{**row, "made_by": f"op {text}"} for row in arm.evidence["alive_at_peak"]]
        exception = {"types": ["ValueError"], "text": text, "phase": "forward", "frames": [f"{text}:1 run"]}
        arms.append(
            replace(arm, reason=f"died of {text}", figures={**arm.figures, text: 1.0},
                    seconds={**arm.seconds, text: 1.0},
                     exception=exception, log=f"logs/{text}", evidence={
                **arm.evidence, "alive_at_peak": rows, "held": rows, "note": {text: [text]}
            })
        )  # fmt: skip
    environment = {**record.environment, "overrides": {"bitsandbytes": text}, "build": text}
    return replace(
        record, reason=f"because {text}", date=text, margins={text: 1.0},
        arms=tuple(arms), environment=environment, repeat=f"run {text}",
        machine={**record.machine, "cxx": text, "cpu_model": text, "gpus": [text]},
        proposed={"effect": "fails", "reason": text},
        remedies={"remedy": {"text": text, "recommended": text, "effect": "fails", "reason": text}},
    )  # fmt: skip


def plant_where_it_may_be_read(record: Record, text: str) -> Record:
    """Plant a text, but leave what decides the verdict as it was: a record that contradicts itself is refused."""
    planted = plant(record, text)
    arms = tuple(
        replace(after, exception=before.exception, figures=before.figures)
        for before, after in zip(record.arms, planted.arms, strict=True)
    )
    proposed = record.proposed and {**record.proposed, "reason": text}
    remedies = {arm: {**one, "reason": text} for arm, one in record.remedies.items()}
    decided = replace(planted, reason=record.reason, margins=record.margins, arms=arms)
    return replace(decided, proposed=proposed, remedies=remedies)


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return every output, as text, of a run into which all secrets were planted."""
    folder = tmp_path_factory.mktemp("planted")
    found, _ = results.load(results.REPORTS / "cpu")
    record = next(r for r in found if r.case == "gh1935_compiled" and r.verdict.value == "reproduced")
    everything = " ; ".join(PLANTED.values())
    records = [replace(plant(record, text), condition=f"c{i}", failed=True) for i, text in enumerate(PLANTED.values())]
    records = [*records, plant(record, everything)]
    known = {e.name: e for e in cases.find()}
    sources = ["/home/miravoss/runs/x"]
    logs = folder / "run" / "logs"
    logs.mkdir(parents=True)
    stem = f"{record.cell}.{record.case}.{record.condition}.subject"
    (logs / f"{stem}.log").write_text("\n".join(PLANTED.values()))
    (logs / f"{stem}.snapshot.pickle").write_bytes(pickle.dumps({"segments": [{"frames": list(PLANTED.values())}]}))
    made = bundle.make(records[-1], records, known[record.case], folder / "b", redactor(), folder / "run")
    said = {path.relative_to(folder).as_posix(): readable(path) for path in made.folder.rglob("*") if path.is_file()}
    assert {"b/full.py", "b/comment.md", "b/results.jsonl", f"b/logs/{stem}.log"} <= said.keys()
    page = html.page(records, known, sources, redactor(), against=("/home/miravoss/y", [record]), notices=[everything])
    kept = folder / "kept.jsonl"
    run = results.Run(folder / "whole")
    for one in records:
        run.append(one)
    results.keep([run.folder], kept, records, redactor().value)
    texts = committed.Outputs(records, known, [folder])
    texts.__dict__["redactor"] = redactor()
    return {
        **said, "page": page + inflated(page) + scripts(page), "junit": junit.document(records, redactor()),
        "kept": kept.read_text(), "markdown": texts.markdown(), "summary": texts.summary(),
    }  # fmt: skip


def readable(path: Path) -> str:
    """Return a file as text; a picture's bytes as they are, a pickle as what it holds."""
    if path.suffix == ".pickle":
        return repr(pickle.loads(path.read_bytes()))
    return path.read_bytes().decode("utf-8", errors="replace")


@pytest.mark.parametrize("kind", PLANTED)
def test_no_planted_secret_is_in_any_output(kind: str, outputs: dict[str, str]) -> None:
    secret = SEEN[kind]
    spellings: set[str] = {secret, json.dumps(secret)[1:-1], secret.replace("\\", "\\\\\\\\"), repr(secret)[1:-1]}
    found: list[Any] = [name for name, text in outputs.items() for spelled in spellings if spelled in text]
    assert not found


def test_outputs_say_what_was_removed(outputs: dict[str, str]) -> None:
    for name in ("page", "b/comment.md"):
        assert re.search(r"removed: .*\d+ × GitHub token", outputs[name], re.IGNORECASE), name


def test_the_command_line_leaves_out_what_this_machine_knows(tmp_path: Path) -> None:
    """Secrets in the environment, in paths and in pip's configuration, none of them of a known form."""
    home = tmp_path / "home" / "quillon"
    (home / ".config" / "pip").mkdir(parents=True)
    pip = "[global]\nextra-index-url = https://robot:velvet-anchor@wheels.nightjar.example/simple\n"
    (home / "pip.conf").write_text(pip)
    words = {
        "user": "quillon", "variable": "marmalade-otter", "password": "velvet-anchor", "host": "basalt-rack-3",
        "index": "wheels.nightjar.example", "proxy": "fjord.nightjar.example",
    }  # fmt: skip
    found, _ = results.load(results.REPORTS / "cpu")
    record = next(r for r in found if r.case == "gh1935_compiled" and r.verdict.value == "reproduced")
    run = results.Run(home / "runs" / "r")
    run.append(plant_where_it_may_be_read(record, " ; ".join([*words.values(), f"{home}/x.py"])))
    environment = {
        "PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]), "HOME": str(home),
        "USER": "quillon", "HOSTNAME": "basalt-rack-3", "NIGHT_PASSWORD": "marmalade-otter",
        "PIP_CONFIG_FILE": str(home / "pip.conf"), "HTTPS_PROXY": "http://fjord.nightjar.example:3128",
    }  # fmt: skip
    texts = {}
    for option in ("html", "markdown", "summary", "junit"):
        path = tmp_path / f"out.{option}"
        argv = ["report", str(run.folder), f"--{option}", str(path)]
        done = subprocess.run([sys.executable, "-m", "repros", *argv], env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert "removed: " in done.stderr
        texts[option] = path.read_text()
    texts["html"] += inflated(texts["html"]) + scripts(texts["html"])
    argv = ["bundle", "gh1935", "--run", str(run.folder), "--out", str(tmp_path / "b")]
    done = subprocess.run([sys.executable, "-m", "repros", *argv], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    texts |= {path.name: readable(path) for path in (tmp_path / "b").rglob("*") if path.is_file()}
    for name, text in texts.items():
        for kind, word in words.items():
            assert word not in text, (name, kind)
