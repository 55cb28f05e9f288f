"""Witnesses run in somebody's own interpreter, one after another, each in a process of its own: nothing is built."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from repros import ROOT
from repros.advisory.decide import CUDA, Answer, Finding
from repros.errors import printable, shortened
from repros.machine.processes import ending, kill_group

#: Exit code of a witness -> its vote; any other is no vote.
VOTES = {0: "good", 1: "bad", 125: "skip"}
#: Seconds for all witnesses, of which one takes half at most; and what must be left of them to begin one.
ALL_S, LEAST_S = 110.0, 5.0


def witnesses(findings: Iterable[Finding], devices: Sequence[str]) -> list[str]:
    """Return the scripts that can show what hits, or is unknown, each once.

    Where a machine has a card, a witness takes it: of two conditions that one script speaks to, either may be shown.
    """
    scripts = [
        each.condition.witness
        for one in findings
        if one.answer is not Answer.NOT_HIT
        for each in one.of_answer
        if each.condition.witness and each.condition.device in devices
    ]
    return list(dict.fromkeys(scripts))


def prove(
    scripts: Sequence[str],
    python: Path,
    devices: Sequence[str],
    say: Callable[[str, str, str, float], None],
    all_s: float = ALL_S,
) -> dict[str, tuple[str, str]]:
    """Run witnesses with an interpreter; return script -> vote and its last words, and say each as it comes.

    They take the card of this machine, unless they are asked about a CPU alone.
    """
    until = time.monotonic() + all_s
    found = {}
    for script in scripts:
        began = time.monotonic()
        left = min(all_s / 2, until - began)
        vote, says = "skip", f"not run: the {all_s:g} s of `--timeout` are over"
        if left >= min(LEAST_S, all_s / 2):
            vote, says = run(ROOT / script, python, left, card=CUDA in devices)
        found[script] = (vote, says)
        say(script, vote, says, time.monotonic() - began)
    return found


def run(script: Path, python: Path, timeout_s: float, *, card: bool = True) -> tuple[str, str]:
    """Return the vote of a witness and what it says; skip where it came to no end of its own, with the reason."""
    with tempfile.TemporaryDirectory(prefix="repros-prove-") as folder:
        alone = shutil.copy(script, folder)  # without the modules beside it, which it does not import
        env = {**os.environ, "TMPDIR": folder, "TORCHINDUCTOR_CACHE_DIR": folder, "HF_HUB_OFFLINE": "1"}
        env |= {} if card else {"CUDA_VISIBLE_DEVICES": ""}
        said = Path(folder, "said")
        with said.open("wb") as out:
            process = subprocess.Popen(
                [python, alone], cwd=folder, env=env, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT,
                start_new_session=True,
            )  # fmt: skip
        try:
            process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return "skip", f"no end after {timeout_s:.0f} s"
        finally:
            kill_group(process.pid)
            process.wait()
        text = said.read_text(encoding="utf-8", errors="replace")
    lines = [line for line in text.splitlines() if line.strip()]
    last = printable(shortened(lines[-1].strip(), 300)) if lines else ""
    vote = VOTES.get(process.returncode, "")
    if not vote or not last.startswith(f"{vote}: "):  # Python ends with 1, too, where a script cannot be read
        return "skip", f"{ending(process.returncode)}: {last or 'it printed nothing'}"
    return vote, last.partition(": ")[2]
