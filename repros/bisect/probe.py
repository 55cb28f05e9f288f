"""One probe: a revision's environment, a trial in it, and the vote that comes of it; kept on disk.

A probe is a whole trial with its controls, so a revision whose detector does not work answers `skip`, as does one that
cannot be installed, is unsupported, crashes in another way or takes too long. Trouble of the machine (network, disk,
uv) is no vote: it ends the bisection with what was probed so far kept.
"""

from __future__ import annotations

import ast
import hashlib
import json
import os
import shutil
import time
import uuid
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, fields
from functools import lru_cache
from pathlib import Path
from typing import Any

from repros import ROOT
from repros.bisect.commits import extract
from repros.bisect.revisions import Revision
from repros.bisect.scripts import ScriptEntry
from repros.bisect.search import BAD, GOOD, SKIP
from repros.cases import Entry, sources
from repros.cells.envs import Environment, ensure
from repros.cells.uv import of_machine
from repros.errors import EnvError, UserError
from repros.files import claim
from repros.machine.cache import cache_root
from repros.run.consistency import budget_of
from repros.run.results import Record, append, lines
from repros.run.server import CellServer, Clock, pool
from repros.run.session import ReadyCell, machine_facts
from repros.run.trial import Running, Trial
from repros.run.vote import failure
from repros.verdict import SCHEMA, SETTLED, ArmReading, Observation, Verdict, exceeds, is_symptom, read, to_number

PROBES = "probes.jsonl"
#: Supervisors that stay up after their probe, for the next condition or vote; each holds the packages in memory.
KEPT_SERVERS = 3


@dataclass(frozen=True)
class Probe:
    """One kept probe: what was tried, the votes, the figures they came from, and where the time went."""

    case: str
    condition: str
    package: str
    revision: str
    identity: str
    """Digest of all that decides the answer: pins, source, and the case's own code."""
    fresh: bool
    """Tried in an environment that was made for this probe alone."""
    verdict: str
    votes: tuple[str, ...]
    reason: str
    figure: str = ""
    unit: str = ""
    limit: Any = None
    values: Mapping[str, Any] = field(default_factory=dict)
    """Arm -> its judged figure."""
    margins: Mapping[str, Any] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    """``environment``, ``import`` and ``trial``: what each took; ``waited``: how long the probe stood still for the
    first two, which are prepared while others run."""
    packages: Mapping[str, str] = field(default_factory=dict)
    build: str = ""
    content: str = ""
    """Digest of the package's files, its version taken out: equal means a no-op change."""
    native: str = ""
    machine: Mapping[str, Any] = field(default_factory=dict)
    date: str = ""

    @property
    def key(self) -> tuple[str, str, str, bool]:
        """Return what makes two probes votes on the same question."""
        return self.case, self.condition, self.identity, self.fresh

    def to_line(self) -> bytes:
        """Return the probe as one line of strict JSON."""
        record = {"schema": SCHEMA, "kind": "probe", **asdict(self)}
        return (json.dumps(record, allow_nan=False, separators=(",", ":")) + "\n").encode()

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Probe:
        """Read what `to_line` wrote."""
        known = {f.name for f in fields(cls)}
        values = {name: value for name, value in record.items() if name in known}
        return cls(**{**values, "votes": tuple(record["votes"])})


class Kept:
    """The probes on disk, appended one by one, so that a killed bisection goes on where it was."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        self.path = self.folder / PROBES
        claim(self.folder, "probes")
        try:
            (self.folder / "logs").mkdir(parents=True, exist_ok=True)
            append(self.path, b"")
        except OSError as error:
            raise UserError(
                f"{folder}: cannot keep probes there: {error.strerror}", "name another with `--reports`"
            ) from error
        self._by_key: dict[tuple[str, str, str, bool], list[Probe]] = {}
        for probe in load(self.path):
            self._by_key.setdefault(probe.key, []).append(probe)

    def find(self, case: str, condition: str, identity: str, fresh: bool) -> list[Probe]:
        """Return the kept probes of this question, in the order in which they were made."""
        return self._by_key.get((case, condition, identity, fresh), [])

    def add(self, probe: Probe) -> None:
        """Write one probe."""
        append(self.path, probe.to_line())
        self._by_key.setdefault(probe.key, []).append(probe)


def load(path: Path) -> list[Probe]:
    """Return the probes of a file; UserError where a line is none."""
    return [Probe.from_json(line) for line in lines(path)[0] if line["kind"] == "probe"]


# --- identity ------------------------------------------------------------------------------------


@lru_cache
def definition(module: str) -> str:
    """Digest a case and what measures it; its record of affected versions is no part of that."""
    total = hashlib.sha256()
    for path, text in sorted(sources.own(module).items()):
        total.update(_without_record(text) if path.endswith(".py") else text.encode())
    package = ROOT / "repros"
    for file in sorted([*package.glob("meters/*.py"), package / "worker" / "arm.py", package / "verdict.py"]):
        total.update(file.read_bytes())
    return total.hexdigest()[:16]


def _without_record(text: str) -> bytes:
    """Return a module's code without comments, and without what records affected versions."""
    tree = ast.parse(text)
    tree.body = [node for node in tree.body if not sources.is_record(node)]
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            node.keywords = [keyword for keyword in node.keywords if keyword.arg != "affected"]
    return ast.unparse(tree).encode()


def identity(entry: Entry | ScriptEntry, revision: Revision) -> str:
    """Digest all that decides a probe's answer."""
    source = revision.source
    parts = {
        "definition": entry.definition if isinstance(entry, ScriptEntry) else definition(entry.module),
        "cell": revision.cell.name,
        "device": revision.cell.device,
        "pins": dict(revision.cell.pins),
        "commit": source.commit if source else "",
        "native": revision.native,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def content(folder: Path, version: str) -> str:
    """Digest a package's files, without what is compiled from them; the version's own text does not count."""
    total = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.suffix not in (".pyc", ".pyo"):
            data = path.read_bytes()
            if path.suffix in (".py", ".pyi", ".txt", ".json", ".md"):
                data = data.replace(version.encode(), b"VERSION")
            total.update(f"{path.relative_to(folder)}\0{hashlib.sha256(data).hexdigest()}\0".encode())
    return total.hexdigest()[:16]


# --- signature -----------------------------------------------------------------------------------


def signature(entry: Entry, observation: Observation, figure: str, limit: float) -> str:
    """Return what tells this bug from another: the exception, the tensors that are wrong, or the one that is held."""
    case = entry.case
    if is_symptom(observation, case.symptoms):
        assert observation.exception is not None
        return failure(observation.exception["types"][0], observation.exception["text"])
    if figure.endswith("error"):
        errors = observation.evidence.get("errors", {})
        wrong = sorted(name for name, value in errors.items() if exceeds(float(value), limit))
        return f"{figure} of {', '.join(wrong)}" if wrong else figure
    rows = observation.evidence.get({"held_bytes": "held", "saved_bytes": "saved"}.get(figure, "alive_at_peak"), [])
    if figure.startswith("peak") and "16bit" in figure:
        rows = [row for row in rows if row["dtype"] in ("bfloat16", "float16")]
    if figure.endswith("_bytes") and rows:
        row = max(rows, key=lambda row: row["bytes"])
        return f"{figure}: {row['dtype']} {tuple(row['shape'])}" if "dtype" in row else figure
    return figure


def votes_of(entry: Entry, record: Record) -> tuple[str, ...]:
    """Return one vote for each time the subject was tried; one `skip` where the trial settled nothing."""
    case = entry.case
    split = record.verdict is Verdict.INCONCLUSIVE and record.reason.startswith("split vote")
    if not split and record.verdict not in SETTLED:
        return (SKIP,)
    budget = budget_of(record)
    found = []
    for observation in (arm for arm in record.arms if arm.arm == "subject"):
        over = read(observation, budget, case.symptoms)[0] is ArmReading.OVER
        found.append(f"{BAD}: {signature(entry, observation, budget.figure, budget.limit)}" if over else GOOD)
    return tuple(found)


# --- places --------------------------------------------------------------------------------------


class _SourceServer(CellServer):
    """A supervisor whose arms import one package from a folder of sources."""

    def __init__(
        self, python: Path, clock: Clock, label: str, device: str, source: Path, cases: Collection[str] | None
    ) -> None:
        super().__init__(python, clock, label, device, cases=cases)
        self._source = source

    def environment(self) -> dict[str, str]:
        """Return the arms' environment with the sources ahead of what is installed."""
        found = super().environment()
        return {**found, "PYTHONPATH": os.pathsep.join([str(self._source), found["PYTHONPATH"]])}


class Ready:
    """A revision whose environment stands and, to serve arms, whose packages are imported."""

    def __init__(
        self,
        revision: Revision,
        package: str,
        cache: Path | None,
        clock: Clock,
        say: Callable[[str], None],
        cases: Collection[str] | None = None,
    ) -> None:
        began = time.monotonic()
        self.scratch: Path | None = None
        environment = ensure(revision.cell, root=ROOT, progress=say, cache=cache)
        self.place = ReadyCell(environment, clock, cases)
        installed = _package_folder(environment, package)
        if revision.source is not None:
            self.scratch = cache_root() / "sources" / uuid.uuid4().hex[:12]
            installed = extract(revision.source, package, self.scratch, installed)
            self.place.server.close()
            cell = revision.cell
            self.place.server = _SourceServer(environment.python, clock, cell.name, cell.device, self.scratch, cases)
        version = self.place.versions.get(package, "")
        self.content = content(installed, version) if installed.is_dir() else ""
        stands = time.monotonic()
        if cases is None or cases:
            self.place.server.start()
        self.seconds = {"environment": stands - began, "import": time.monotonic() - stands}

    def close(self) -> None:
        """End the supervisor and remove the sources."""
        self.place.server.close()
        if self.scratch is not None:
            shutil.rmtree(self.scratch, ignore_errors=True)


def _package_folder(environment: Environment, package: str) -> Path:
    found = sorted(environment.path.glob(f"lib/python*/site-packages/{package.replace('-', '_')}"))
    return found[0] if found else environment.path / package


class Workshop:
    """Makes revisions ready, some ahead of their turn, and runs trials in them.

    ``cases`` are the modules of those that it is for; None for any, none of them for scripts alone.
    """

    def __init__(
        self,
        package: str,
        logs: Path,
        *,
        jobs: int | None = None,
        say: Callable[[str], None],
        cases: Collection[str] | None = None,
    ) -> None:
        self.package = package
        self._cases = cases
        self.machine = machine_facts()
        self._logs = logs
        self._say = say
        self._clock = Clock()
        self._arms = pool(jobs)
        self._makers = ThreadPoolExecutor(2, thread_name_prefix="environment")
        self._ready: dict[str, Future[Ready]] = {}
        self._fresh: dict[str, tuple[Future[Ready], Path]] = {}

    def prepare(self, revision: Revision) -> Future[Ready]:
        """Begin to make a revision ready, if nobody has."""
        if revision.name not in self._ready:
            self._ready[revision.name] = self._makers.submit(
                Ready, revision, self.package, None, self._clock, self._say, self._cases
            )
        else:  # the order of use decides who is closed first
            self._ready[revision.name] = self._ready.pop(revision.name)
        return self._ready[revision.name]

    def prepare_fresh(self, revision: Revision) -> Future[Ready]:
        """Begin to make a revision ready in an environment that is made from nothing and thrown away."""
        if revision.name not in self._fresh:
            cache = cache_root() / "fresh" / uuid.uuid4().hex[:12]
            made = self._makers.submit(Ready, revision, self.package, cache, self._clock, self._say, self._cases)
            self._fresh[revision.name] = made, cache
        return self._fresh[revision.name][0]

    def drop_fresh(self, revision: Revision) -> None:
        """Remove a fresh environment."""
        found = self._fresh.pop(revision.name, None)
        if found is not None:
            future, cache = found
            if not future.cancel() and future.exception() is None:
                future.result().close()
            shutil.rmtree(cache, ignore_errors=True)

    def try_here(
        self, entry: Entry | ScriptEntry, condition: str, revision: Revision, future: Future[Ready], fresh: bool
    ) -> Probe:
        """Run one trial, or a script, at a revision and return it as a probe; UserError for trouble of the machine."""
        began = time.monotonic()
        base: dict[str, Any] = {
            "case": entry.name,
            "condition": condition,
            "package": self.package,
            "revision": revision.name,
            "identity": identity(entry, revision),
            "fresh": fresh,
            "machine": self.machine,
            "native": revision.native,
            "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }
        try:
            ready = future.result()
        except EnvError as error:
            if of_machine(error):
                raise
            verdict = Verdict.UNSUPPORTED if error.kind == "unsupported" else Verdict.ERROR
            waited = {"waited": round(time.monotonic() - began, 3)}
            return Probe(**base, verdict=verdict.value, votes=(SKIP,), reason=error.what, seconds=waited)
        waited_s = time.monotonic() - began
        label = f"{self.package}-{revision.name}{'-fresh' * fresh}"
        started = time.monotonic()
        if isinstance(entry, ScriptEntry):
            found = self._by_script(entry, ready, label)
        else:
            found = self._by_trial(entry, condition, ready, label)
        if changed := ready.place.environment.damage():
            what = f"{revision.name}: the environment changed while it was used: {changed}"
            raise UserError(what, "run again: it is built anew, and what was probed before is kept")
        seconds = {**ready.seconds, "trial": time.monotonic() - started, "waited": waited_s}
        ready.seconds = {"environment": 0.0, "import": 0.0}  # the next trial here finds it standing
        shown = {name: round(value, 3) for name, value in seconds.items()}
        return Probe(**base, **found, seconds=shown, content=ready.content)

    def _by_trial(self, entry: Entry, condition: str, ready: Ready, label: str) -> Mapping[str, Any]:
        """Return the fields of a probe that a trial decides."""
        trial = Trial(entry, entry.condition(condition), label)
        record = Running(trial, ready.place, self._arms, self._logs, self.machine, remedies=False).record()
        return {
            "verdict": record.verdict.value,
            "votes": votes_of(entry, record),
            "reason": record.reason,
            "figure": str(record.budget["figure"]),
            "unit": str(record.budget["unit"]),
            "limit": record.budget["limit"],
            "values": {arm.arm: to_number(record.figure(arm.arm)) for arm in record.arms},
            "margins": {name: to_number(value) for name, value in record.margins.items()},
            "packages": record.environment.get("packages", {}),
            "build": record.environment.get("build", ""),
        }

    def _by_script(self, entry: ScriptEntry, ready: Ready, label: str) -> Mapping[str, Any]:
        """Return the fields of a probe that a script's run decides; what it declares may not fit the revision."""
        facts = {name: ready.place.facts[name] for name in ("packages", "build")}
        try:
            return {**entry.told(entry.see(ready.place.environment, label, self._logs, ready.scratch)), **facts}
        except EnvError as error:
            if of_machine(error):
                raise
            return {"verdict": Verdict.UNSUPPORTED.value, "votes": (SKIP,), "reason": error.what, **facts}

    def trim(self, wanted: set[str]) -> None:
        """Close the supervisors that were used longest ago, but for those that are wanted next."""
        for name in [name for name, future in self._ready.items() if name not in wanted and future.cancel()]:
            del self._ready[name]  # its turn had not come, and the answer went the other way
        idle = [name for name, future in self._ready.items() if name not in wanted and future.done()]
        for name in idle[: max(0, len(self._ready) - KEPT_SERVERS)]:
            future = self._ready.pop(name)
            if future.exception() is None:
                future.result().close()

    def close(self) -> None:
        """End everything."""
        self._makers.shutdown(wait=False, cancel_futures=True)
        self._arms.shutdown(wait=False, cancel_futures=True)
        for name in list(self._fresh):
            future, cache = self._fresh.pop(name)
            self._ready[f"{name} fresh"] = future
            shutil.rmtree(cache, ignore_errors=True)
        for future in self._ready.values():
            if not future.cancel() and future.exception() is None:
                future.result().close()
        self._ready.clear()
