"""git, asked about somebody's clone."""

from __future__ import annotations

import subprocess
from pathlib import Path

from repros.errors import UserError


def git(repo: Path, *args: str) -> str:
    """Run git in a clone and return its output; UserError with git's words where it fails."""
    done = subprocess.run(["git", "-C", str(repo), *args], capture_output=True, text=True, check=False)
    if done.returncode:
        words = (done.stderr.strip().splitlines() or ["no words"])[-1]
        raise UserError(f"git {args[0]} in {repo}: {words}", "give the folder of a clone, and revisions that it has")
    return done.stdout
