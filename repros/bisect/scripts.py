"""A user's script in the place of a case: what a search asks of each revision, and the probe that comes of it.

There are no controls and no budget: a vote is the script's own word.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from repros.cells import overlay
from repros.cells.envs import Environment
from repros.run.script import Runner, Script
from repros.run.vote import BAD, FIGURES, GOOD, Rule, Seen, cast
from repros.verdict import Verdict


@dataclass(frozen=True, eq=False)
class ScriptEntry:
    """A script under a rule; ``against`` is what was seen in the good cell that the rule names."""

    script: Script
    rule: Rule
    needs: tuple[str, ...] = ()
    against: Seen | None = None

    @property
    def name(self) -> str:
        """Return what the search is called by."""
        return self.script.name

    @cached_property
    def definition(self) -> str:
        """Digest all of the script that decides an answer."""
        script = self.script
        limit = self.rule.limit(self.against) if self.rule.kind == "figure" else None
        how = [self.rule.text, limit, script.digest, script.timeout_s, script.memory_bytes, script.sandboxed]
        return hashlib.sha256(json.dumps(how).encode()).hexdigest()[:16]

    def see(self, environment: Environment, label: str, logs: Path, source: Path | None = None) -> Seen:
        """Run it in an environment, a package's sources ahead of what is installed; EnvError as `overlay.lay`."""
        laid = overlay.lay(environment, self.needs, self.name)
        paths = [path for path in (source, laid) if path is not None]
        return Runner(self.script, logs).run(environment, label, paths=paths, meters=self.rule.metered)

    def told(self, seen: Seen) -> Mapping[str, Any]:
        """Return the fields of a probe that a run decides."""
        vote, reason = cast(self.rule, seen, self.against)
        verdict = {GOOD: Verdict.ABSENT, BAD: Verdict.REPRODUCED}.get(vote.partition(":")[0], Verdict.ERROR)
        verdict = Verdict.TIMEOUT if seen.late and verdict is Verdict.ERROR else verdict
        found: dict[str, Any] = {"verdict": verdict.value, "votes": (vote,), "reason": reason}
        if self.rule.kind == "figure":
            unit = FIGURES[self.rule.name.partition(".")[0]]
            value = {"subject": seen.figures.get(self.rule.name)}
            found |= {"figure": self.rule.name, "unit": unit, "limit": self.rule.limit(self.against), "values": value}
        return found
