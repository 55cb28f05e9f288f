"""Results on disk: one folder a run, one JSON line a finished trial, appended as it ends.

A run that is killed keeps every line that was written; `resume` goes on from there. A last line without its end is
the mark of such a death: a reader leaves it out with a notice, the next writer cuts it off. A bad line anywhere else,
and a line whose parts contradict each other, is an error that names it.
"""

from __future__ import annotations

import gc
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import orjson
from filelock import FileLock

from repros import REPORTS
from repros.cases.aliases import renamed
from repros.errors import UserError
from repros.files import claim
from repros.run import schema
from repros.run.consistency import contradiction
from repros.run.folders import RESULTS, committed, latest_run, new_run, runs_and_committed, shown, written_to
from repros.run.record import Record
from repros.verdict import SCHEMA, SETTLED, Verdict

__all__ = [
    "REPORTS", "RESULTS", "Record", "Run", "append", "collector_paused", "committed", "keep", "latest_run", "lines",
    "load", "load_all", "lock", "new_run", "notes", "runs_and_committed", "settled", "shown", "written_to",
]  # fmt: skip

MEND = "delete that line and try its trial again with `--resume`"
#: How long a writer waits for another that holds the file: one that was stopped must not stop the others for good.
LOCK_S = 60.0

#: Schema version -> what makes of a line one of the next version. A version without an entry is refused in two lines.
UPGRADES: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {}


class Run:
    """A run's folder, open for appending."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder = folder.absolute()  # arms, which write their logs there, work in folders of their own
        self.path = folder / RESULTS
        claim(folder, "run")
        try:
            (folder / "logs").mkdir(parents=True, exist_ok=True)
            append(self.path, b"")
        except OSError as error:
            raise UserError(
                f"{shown(folder)}: cannot write results there: {error.strerror or error}",
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
                f"{shown(self.path)}: cannot append: {error.strerror or error}; the line was kept in {rescue}",
                f"free some space, then `cat {rescue} >> {shown(self.path)}` and go on with `--resume`",
            ) from error


def append(path: Path, line: bytes) -> None:
    """Append a line under the file's lock; what a writer that died left without an end is cut off first.

    OSError where it cannot be written whole; the file is then as it was.
    """
    with lock(path):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            size = _end_last_line(descriptor)
            if line and os.write(descriptor, line) < len(line):
                os.ftruncate(descriptor, size)
                raise OSError(28, "No space left on device")
        finally:
            os.close(descriptor)


def lock(path: Path) -> FileLock:
    """Return the lock of a results file; whoever changes the file holds it."""
    return FileLock(path.with_name(f"{path.name}.lock"), timeout=LOCK_S)


def _end_last_line(descriptor: int) -> int:
    """Cut off a line without an end, and return the size; only under the lock is such a line nobody's."""
    size = os.fstat(descriptor).st_size
    if not size or os.pread(descriptor, 1, size - 1) == b"\n":
        return size
    whole = os.pread(descriptor, size, 0).rfind(b"\n") + 1
    os.ftruncate(descriptor, whole)
    return whole


def _read(path: Path) -> bytes:
    """Return a results file's bytes, its last line whole if somebody is writing it just now."""
    try:
        if path.exists() and not path.is_file():
            raise OSError(0, "not a file of results")
        data = path.read_bytes()
        held = lock(path)
        if data and not data.endswith(b"\n") and Path(held.lock_file).exists():
            with suppress(OSError), held:
                data = path.read_bytes()
    except (OSError, ValueError) as error:
        says = getattr(error, "strerror", None) or error
        raise UserError(f"{shown(path)}: {says}", "name the folder of a run, see `reports/`") from error
    return data


def lines(path: Path) -> tuple[list[dict[str, Any]], str]:
    """Return the records of a results file as plain dicts, and a notice if its last line was cut off.

    UserError for a line that is not what `repros.run.schema` says, with its number.
    """
    found: list[dict[str, Any]] = []
    rows = _read(path).split(b"\n")
    for number, row in enumerate(rows[:-1], 1):
        try:
            record = orjson.loads(row)
            version = schema.version_of(record)
            while version in UPGRADES:
                record = UPGRADES[version](record)
                version = schema.version_of(record)
            if version == SCHEMA:
                schema.check(record)
        except (ValueError, schema.MisfitError) as error:
            what = str(error) if isinstance(error, schema.MisfitError) else "not a line of JSON"
            raise UserError(f"{shown(path)}:{number}: not a record: {what}", MEND) from error
        if version != SCHEMA:
            raise UserError(
                f"{shown(path)}:{number}: schema version {version}, this version reads {SCHEMA}",
                "read it with the version of the suite that wrote it, or make the run again",
            )
        found.append(renamed(record))
    cut = rows[-1] != b""
    notice = f"{shown(path)}: the last line is cut off, {len(found)} whole lines were read" if cut else ""
    return found, notice


def load(path: Path) -> tuple[list[Record], str]:
    """Return the trials of a run (its folder or its file); of a trial tried twice, the later."""
    file = _file(path)
    found, notice = lines(file)
    records: dict[tuple[str, str, str], Record] = {}
    for number, line in enumerate(found, 1):
        if line.get("kind") == "trial":
            record = Record.from_json(line)
            if says := contradiction(record):
                raise UserError(f"{shown(file)}:{number}: a trial that contradicts itself: {says}", MEND)
            records.pop(record.key, None)
            records[record.key] = record
    return list(records.values()), notice


def _file(run: Path) -> Path:
    """Return the results file of a run that is named by its folder or by that file."""
    return run / RESULTS if run.is_dir() else run


def load_all(paths: Sequence[Path]) -> tuple[list[Record], list[str]]:
    """Return the trials of several runs, of each that of the later named which could run, and what to know of them.

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
        told = [record for record in found if _tells_more(record, records.get(record.key))]
        again = sum(record.key in records for record in told)
        notices += [notice] if notice else []
        if again:
            notices.append(f"{shown(path)}: {again} trials are in a run named before it; this one counts")
        records.update((record.key, record) for record in told)
    if not records:
        where = ", ".join(shown(path) for path in paths)
        raise UserError(f"{where}: no finished trial", "make a run: `nox -s cpu`")
    return list(records.values()), notices


def _tells_more(record: Record, earlier: Record | None) -> bool:
    """Return whether a trial counts in an earlier one's place: what could not run takes no verdict's place."""
    return earlier is None or record.verdict is not Verdict.UNSUPPORTED or earlier.verdict not in SETTLED


def settled(run: Path) -> set[tuple[str, str, str]]:
    """Return the keys of the trials that `--resume` need not try again: those that came to a verdict.

    An error may go well another time, and a card that had no room may have some; where the packages do not allow a
    trial, asking again costs nothing.
    """
    return {record.key for record in load(run)[0] if record.verdict in SETTLED}


def notes(run: Path) -> list[dict[str, Any]]:
    """Return the lines of a run that are no trials: what it set out to try, where its time went."""
    return [line for line in lines(_file(run))[0] if line["kind"] != "trial"]


def keep(
    runs: Sequence[Path], target: Path, records: Sequence[Record], clean: Callable[[Any], Any] = lambda line: line
) -> None:
    """Write these trials of runs, each once, and the runs' notes; ``clean`` redacts a line."""
    texts = [json.dumps(clean(json.loads(record.to_line())), separators=(",", ":")) for record in records]
    texts += [json.dumps(clean(line)) for run in runs for line in notes(run)]
    target.write_text("".join(text + "\n" for text in texts), encoding="utf-8")
