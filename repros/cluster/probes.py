"""A bisection's probes on the workers of a cluster, in place of `repros.bisect.probe.Workshop`."""

from __future__ import annotations

import json
import time
from collections.abc import Collection
from concurrent.futures import Future
from typing import Any

from repros.bisect.probe import Probe, identity
from repros.bisect.revisions import Revision
from repros.bisect.scripts import ScriptEntry
from repros.bisect.search import SKIP
from repros.cases import Entry
from repros.cluster.crew import Crew
from repros.cluster.trials import resources
from repros.cluster.worker import ProbeOrder, probe, suite
from repros.errors import UserError
from repros.verdict import Verdict


class Elsewhere:
    """Has each probe made by whichever worker is free; it builds the revision's environment itself, once a machine."""

    def __init__(self, package: str, crew: Crew, cases: Collection[str]) -> None:
        self.package = package
        self._crew = crew
        self._cases = frozenset(cases)
        self._nothing: Future[Any] = Future()
        self._declared = crew.declared()

    def prepare(self, revision: Revision) -> Future[Any]:
        """Do nothing: a revision is made ready where it is tried."""
        return self._nothing

    def prepare_fresh(self, revision: Revision) -> Future[Any]:
        """Do nothing."""
        return self._nothing

    def drop_fresh(self, revision: Revision) -> None:
        """Do nothing."""

    def try_here(
        self, entry: Entry | ScriptEntry, condition: str, revision: Revision, future: Future[Any], fresh: bool
    ) -> Probe:
        """Have a revision probed and return the probe; UserError for trouble of the workers' machines."""
        assert isinstance(entry, Entry)
        order = ProbeOrder(suite(), entry.module, condition, self.package, revision, self._cases, fresh)
        wanted = resources(entry.condition(condition)).items()
        asked = {name: amount for name, amount in wanted if name in self._declared}
        answer = self._crew.submit(probe, order, entry.name, asked).result()
        if not answer.cannot:
            return Probe.from_json(json.loads(answer.found))
        if answer.kind != "unsupported":
            raise UserError(f"{revision.name}: no worker could: {answer.cannot}", "what was probed before is kept")
        date = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        return Probe(
            entry.name, condition, self.package, revision.name, identity(entry, revision), fresh,
            Verdict.UNSUPPORTED.value, (SKIP,), answer.cannot, date=date,
        )  # fmt: skip

    def trim(self, wanted: set[str]) -> None:
        """Do nothing: a worker keeps the cells that it used last."""

    def close(self) -> None:
        """Do nothing: the crew is its owner's to end."""
