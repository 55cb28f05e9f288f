"""Results on disk: one folder a run, one JSON line a finished trial, appended as it ends.

A run that is killed keeps every line that was written; `resume` goes on from there. A last line without its end is
the mark of such a death and is left out with a notice; a bad line anywhere else is an error.
"""

from __future__ import annotations

import gc
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import orjson

from repros.errors import UserError
from repros.files import check_root, claim
from repros.verdict import SCHEMA, SETTLED, Observation, Outcome, Verdict, to_number

ROOT = Path(__file__).resolve().parents[1]
REPORTS = ROOT / "reports"
RESULTS = "results.jsonl"

#: Schema version -> what makes of a line one of the next version. A version without an entry is refused in two lines.
UPGRADES: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {}


@dataclass(frozen=True)
class Record:
    """One trial as it is kept: verdict, outcome, and everything they were drawn from."""

    case: str
    condition: str
    cell: str
    device: str
    verdict: Verdict
    outcome: Outcome
    failed: bool
    expected: bool
    reason: str
    budget: Mapping[str, Any]
    margins: Mapping[str, float | None] = field(default_factory=dict)
    proposed: Mapping[str, str] | None = None
    readings: Mapping[str, str] = field(default_factory=dict)
    arms: tuple[Observation, ...] = ()
    environment: Mapping[str, Any] = field(default_factory=dict)
    machine: Mapping[str, Any] = field(default_factory=dict)
    date: str = ""
    repeat: str = ""
    source: str = ""
    """Digest of the case's own source (`repros.sources`); empty where it was not noted."""

    @property
    def versions(self) -> dict[str, str]:
        """Return package -> version as installed, without a local part; empty where the cell could not be had."""
        packages = self.environment.get("packages", {})
        return {name: str(version).partition("+")[0] for name, version in packages.items()}

    @property
    def key(self) -> tuple[str, str, str]:
        """Return what makes a trial: case, condition and cell."""
        return self.case, self.condition, self.cell

    def arm(self, name: str) -> Observation | None:
        """Return the (first) observation of an arm."""
        return next((arm for arm in self.arms if arm.arm == name), None)

    def figure(self, arm: str) -> float | None:
        """Return the judged figure of an arm, if it reached one."""
        observation = self.arm(arm)
        return observation.reached(self.budget.get("figure", "")) if observation else None

    def to_line(self) -> str:
        """Return the record as one line of strict JSON."""
        record = {"schema": SCHEMA, "kind": "trial", **asdict(self)}
        if not self.source:
            del record["source"]
        record["arms"] = [arm.to_json() for arm in self.arms]
        record["margins"] = {name: to_number(value) for name, value in self.margins.items()}
        return json.dumps(record, allow_nan=False, separators=(",", ":")) + "\n"

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Record:
        """Read what `to_line` wrote."""
        values = {name: value for name, value in record.items() if name in _FIELDS}
        values["verdict"], values["outcome"] = Verdict(record["verdict"]), Outcome(record["outcome"])
        values["arms"] = tuple(Observation.from_json(arm) for arm in record["arms"])
        values["margins"] = {n: float(v) if isinstance(v, str) else v for n, v in record["margins"].items()}
        return cls(**values)


_FIELDS = frozenset(f.name for f in fields(Record))


class Run:
    """A run's folder, open for appending."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder = folder.absolute()  # arms, which write their logs there, work in folders of their own
        self.path = folder / RESULTS
        claim(folder, "run")
        try:
            (folder / "logs").mkdir(parents=True, exist_ok=True)
            with open(self.path, "ab"):
                pass
            self._end_last_line()
        except OSError as error:
            raise UserError(
                f"{shown(folder)}: cannot write results there: {error.strerror}",
                "make the folder writable, free some space, or name another with `--reports DIR`",
            ) from error

    def append(self, record: Record) -> None:
        """Write one finished trial; if the folder has become unwritable, keep the line elsewhere and say where."""
        self._write(record.to_line().encode())

    def note(self, kind: str, **values: Any) -> None:
        """Write a line that is no trial, e.g. where the time went."""
        self._write((json.dumps({"schema": SCHEMA, "kind": kind, **values}, allow_nan=False) + "\n").encode())

    def _write(self, line: bytes) -> None:
        try:
            append(self.path, line)
        except OSError as error:
            rescue = Path(tempfile.gettempdir()) / f"repros-{self.folder.name}.jsonl"
            append(rescue, line)
            raise UserError(
                f"{shown(self.path)}: cannot append: {error.strerror}; the line was kept in {rescue}",
                f"free some space, then `cat {rescue} >> {shown(self.path)}` and go on with `--resume`",
            ) from error

    def _end_last_line(self) -> None:
        """Cut off what a killed run left without an end, so that the next line starts a line."""
        data = self.path.read_bytes()
        if data and not data.endswith(b"\n"):
            with open(self.path, "r+b") as file:
                file.truncate(data.rfind(b"\n") + 1)


def append(path: Path, line: bytes) -> None:
    """Append a line in one write, so that runs side by side do not mix."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        size = os.fstat(descriptor).st_size
        if os.write(descriptor, line) < len(line):
            os.ftruncate(descriptor, size)
            raise OSError(28, "No space left on device")
    finally:
        os.close(descriptor)


def lines(path: Path) -> tuple[list[dict[str, Any]], str]:
    """Return the records of a results file as plain dicts, and a notice if its last line was cut off."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{shown(path)}: {error.strerror}", "name the folder of a run, see `reports/`") from error
    found: list[dict[str, Any]] = []
    rows = data.split(b"\n")
    for number, row in enumerate(rows[:-1], 1):
        try:
            record = orjson.loads(row)
            schema = record["schema"]
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{shown(path)}:{number}: not a record ({type(error).__name__})",
                "delete that line and try its trial again with `--resume`",
            ) from error
        while schema != SCHEMA:
            if schema not in UPGRADES:
                raise UserError(
                    f"{shown(path)}:{number}: schema version {schema!r}, this version reads {SCHEMA}",
                    "read it with the version of the suite that wrote it, or make the run again",
                )
            record = UPGRADES[schema](record)
            schema = record["schema"]
        found.append(record)
    cut = rows[-1] != b""
    notice = f"{shown(path)}: the last line is cut off, {len(found)} whole lines were read" if cut else ""
    return found, notice


def load(path: Path) -> tuple[list[Record], str]:
    """Return the trials of a run (its folder or its file); of a trial tried twice, the later."""
    file = path / RESULTS if path.is_dir() else path
    found, notice = lines(file)
    records: dict[tuple[str, str, str], Record] = {}
    for number, line in enumerate(found, 1):
        if line.get("kind") == "trial":
            try:
                record = Record.from_json(line)
            except (KeyError, TypeError, ValueError) as error:
                raise UserError(
                    f"{shown(file)}:{number}: a trial without {error}", "delete that line and go on with `--resume`"
                ) from error
            records.pop(record.key, None)
            records[record.key] = record
    return list(records.values()), notice


def load_all(paths: Sequence[Path]) -> tuple[list[Record], list[str]]:
    """Return the trials of several runs, of a trial in two of them that of the later named, and what to know of them.

    UserError where there is no finished trial at all.
    """
    with collector_paused():
        return _load_all(paths)


@contextmanager
def collector_paused() -> Iterator[None]:
    """Keep the collector from looking through records again and again while more are read: they have no cycles."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def _load_all(paths: Sequence[Path]) -> tuple[list[Record], list[str]]:
    records: dict[tuple[str, str, str], Record] = {}
    notices = []
    for path in paths:
        found, notice = load(path)
        again = sum(record.key in records for record in found)
        notices += [notice] if notice else []
        if again:
            notices.append(f"{shown(path)}: {again} trials are in a run named before it; this one counts")
        records.update((record.key, record) for record in found)
    if not records:
        where = ", ".join(shown(path) for path in paths)
        raise UserError(f"{where}: no finished trial", "make a run: `nox -s cpu`")
    return list(records.values()), notices


def settled(run: Path) -> set[tuple[str, str, str]]:
    """Return the keys of the trials that `--resume` need not try again: those that came to a verdict.

    An error may go well another time, and a card that had no room may have some; where the packages do not allow a
    trial, asking again costs nothing.
    """
    return {record.key for record in load(run)[0] if record.verdict in SETTLED}


def keep(
    runs: Sequence[Path], target: Path, records: Sequence[Record], clean: Callable[[Any], Any] = lambda line: line
) -> None:
    """Write these trials of runs, each once, and the runs' notes of where the time went; ``clean`` redacts a line."""
    files = [run / RESULTS if run.is_dir() else run for run in runs]
    notes = [line for file in files for line in lines(file)[0] if line["kind"] != "trial"]
    texts = [json.dumps(clean(json.loads(record.to_line())), separators=(",", ":")) for record in records]
    texts += [json.dumps(clean(line)) for line in notes]
    target.write_text("".join(text + "\n" for text in texts), encoding="utf-8")


def new_run(name: str, root: Path | None = None) -> Path:
    """Return the folder of a new run; it is not made here."""
    if root:
        check_root(root)
    return (root or REPORTS) / "runs" / f"{time.strftime('%Y%m%d-%H%M%S')}-{name}"


def latest_run(root: Path | None = None) -> Path:
    """Return the newest run, for `--resume` and for reports that name none."""
    runs: Iterable[Path] = sorted(((root or REPORTS) / "runs").glob(f"*/{RESULTS}"), key=lambda p: p.stat().st_mtime)
    for path in reversed(list(runs)):
        return path.parent
    raise UserError(f"{shown((root or REPORTS) / 'runs')}: no run there", "make one: `nox -s cpu`")


def newest_or_committed(root: Path | None = None) -> list[list[Path]]:
    """Return where to look for a trial: in the newest run, then in what is committed."""
    root = root or REPORTS
    committed = sorted(path.parent for path in root.glob(f"*/{RESULTS}"))
    runs = any((root / "runs").glob(f"*/{RESULTS}")) or not committed
    return [*([[latest_run(root)]] if runs else []), *([committed] if committed else [])]


def shown(path: Path) -> str:
    """Print a path as the user knows it: from the project's root where it lies inside."""
    try:
        return str(path.resolve().relative_to(ROOT))
    except ValueError:
        return str(path)
