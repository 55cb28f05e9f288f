"""pytest as the runner: every trial is an item, ``case.py::condition[cell]``.

Load it with ``-p repros.pytest_plugin`` and name ``repros/cases`` (or one case file). `-k`, `--lf`, `-x`,
`--junitxml` and `-n` do what they do elsewhere.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Callable, Generator, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest

from repros import ROOT
from repros.cases import find, from_file, is_case
from repros.cells.matrix import Cell, chosen_cells, load_matrix
from repros.commands.arguments import MOST_AT_ONCE, MOST_GB, a_folder, check_words, whole
from repros.errors import UserError, nearest, shortened
from repros.machine import interrupts
from repros.machine.host import without_gpu
from repros.machine.workdir import WorkFolder
from repros.report import escape, terminal
from repros.run import controls, ending, results
from repros.run.session import Session
from repros.run.shards import one_a_report
from repros.run.trial import Trial, two_lines
from repros.verdict import Verdict


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options of a run."""
    group = parser.getgroup("repros")
    group.addoption("--tier", help="cells of this tier of matrix.yaml")
    group.addoption("--cell", action="append", default=[], help="this cell (may be given again)")
    group.addoption("--with", action="append", default=[], dest="overrides", metavar="PACKAGE=SPEC",
                    help="a version, wheel or checkout in place of a cell's pin")  # fmt: skip
    group.addoption("--jobs", help="arms at a time (default: cores and one)")
    group.addoption("--dry-run", action="store_true", help="list what would be tried; build and run nothing")
    group.addoption("--run", help="folder of the run (default: a new one under reports/runs)")
    group.addoption("--resume", action="store_true", help="leave out trials that the run has a verdict of")
    group.addoption("--reports", help="folder in place of reports/")
    group.addoption("--controls", help=f"{' or '.join(controls.WAYS)}: {controls.WAYS_HELP}")
    group.addoption("--one-a-report", metavar="GB",
                    help="one trial a report at its own size, such as fits a card of so many GB")  # fmt: skip
    group.addoption("--snapshots", action="store_true", help="on a GPU: keep each arm's snapshot of the allocator")


#: Read here and not by pytest, which would print its own usage and end with 4.
TYPES: Mapping[str, Callable[[str], Any]] = {
    "jobs": whole(1, MOST_AT_ONCE),
    "one_a_report": whole(1, MOST_GB),
    "run": a_folder,
    "reports": a_folder,
}


@pytest.hookimpl(wrapper=True)
def pytest_cmdline_main() -> Generator[None, Any, Any]:
    """Take Ctrl-C and SIGTERM from before the run is opened until it is closed; exit with 130 or 143 after one."""
    with interrupts.taken():
        try:
            code = yield
        except KeyboardInterrupt:  # pytest had ended, but for its last words
            interrupts.heard()
            print(interrupts.WORDS, file=sys.stderr)
            code = pytest.ExitCode.INTERRUPTED
        return interrupts.exit_code(code)


def pytest_sessionstart() -> None:
    """Heed Ctrl-C in finalizers too: by now pytest has set its own hook for what is raised there."""
    interrupts.raise_what_is_lost()


@pytest.hookimpl(tryfirst=True)
def pytest_keyboard_interrupt(excinfo: pytest.ExceptionInfo[BaseException]) -> None:
    """Let another Ctrl-C cut nothing of what is closed, written and said from here on; pytest shows lines alone."""
    interrupts.heard()
    excinfo.traceback = type(excinfo.traceback)(interrupts.on_lines(excinfo.tb) or excinfo.tb)


def pytest_configure(config: pytest.Config) -> None:
    """Open the run."""
    try:
        read_options(config.option)
        config.pluginmanager.register(Plugin(config), "repros-run")
    except UserError as error:
        pytest.exit(str(error), returncode=2)


def read_options(option: argparse.Namespace) -> None:
    """Give the options of a run their types; UserError where one cannot be read."""
    texts = [
        option.tier,
        option.controls,
        *option.cell,
        *option.overrides,
        *(getattr(option, name) for name in TYPES),
    ]
    check_words(str(text) for text in texts if text is not None)
    if option.controls not in (None, *controls.WAYS):
        raise UserError(
            f"--controls: there is no `{shortened(option.controls)}`", nearest(option.controls, controls.WAYS)
        )
    for name, read in TYPES.items():
        given = getattr(option, name)
        try:
            setattr(option, name, None if given is None else read(str(given)))
        except argparse.ArgumentTypeError as error:
            what = f"--{name.replace('_', '-')}: {error}"
            raise UserError(what, "see `pytest -p repros.pytest_plugin --help`") from None


class Plugin:
    """One run in one pytest process."""

    def __init__(self, config: pytest.Config) -> None:
        option = config.option
        self.config = config
        matrix = load_matrix(ROOT / "matrix.yaml")
        self.cells = chosen_cells(matrix, option.tier, option.cell, option.overrides)
        option.collectonly = option.collectonly or option.dry_run
        on_cards = [cell.label for cell in self.cells if cell.device == "cuda"]
        if on_cards and not option.collectonly and (lacking := without_gpu(on_cards)):
            raise lacking
        self.worker = getattr(config, "workerinput", None)
        folder = Path(self.worker["repros_run"]) if self.worker else option.run
        if folder is None and option.resume:
            folder = results.latest_run(option.reports)
        if option.collectonly:  # nothing is written where nothing is tried
            work = WorkFolder("dry run")
            config.add_cleanup(work.close)
            folder = work.path / "run"
        folder = folder or results.new_run(option.tier or "run", option.reports)
        self.run = results.Run(folder)
        self.done = results.settled(self.run.folder) if option.resume else set()
        self.said: list[str] = []
        self.session: Session | None = None
        if self.cells and not self.worker and not option.collectonly and not getattr(option, "numprocesses", None):
            self.session = self._session()
            self.session.warm(self.cells[0])  # while pytest starts and collects
        self.items: list[TrialItem] = []
        self.began = False
        self.told: set[str] = set()

    def _session(self) -> Session:
        option = self.config.option
        way = controls.way(option.controls, len(self.cells))
        return Session(
            self.run, jobs=option.jobs, say=self.say, snapshots=option.snapshots, controls=way, cells=self.cells
        )

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        """Hand the run's folder to a worker of pytest-xdist."""
        node.workerinput["repros_run"] = str(self.run.folder)

    def pytest_collect_file(self, file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
        """Collect case files as trials."""
        return CaseFile.from_parent(parent, path=file_path) if _is_case_file(file_path) else None

    def pytest_pycollect_makemodule(self, module_path: Path, parent: pytest.Collector) -> pytest.Module | None:
        """Keep pytest from importing a case file whose path it was given: it would take it for a module of tests."""
        return NoTests.from_parent(parent, path=module_path) if _is_case_file(module_path) else None

    def pytest_collect_directory(self, path: Path, parent: pytest.Collector) -> pytest.Collector | None:
        """Keep pytest from importing the `__init__.py` of a case's folder."""
        return pytest.Dir.from_parent(parent, path=path)

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Try cell by cell: a cell's packages are imported once and given back before the next."""
        if card_gb := self.config.option.one_a_report:
            mine = [item for item in items if isinstance(item, TrialItem)]
            brief = one_a_report([(item.trial, item.cell) for item in mine], card_gb << 30)
            keys = {trial.key for trial, _ in brief}
            left_out = [item for item in mine if item.trial.key not in keys]
            self.config.hook.pytest_deselected(items=left_out)
            items[:] = [item for item in items if item not in left_out]
        order = {cell.label: number for number, cell in enumerate(self.cells)}
        items.sort(key=lambda item: order[item.trial.cell] if isinstance(item, TrialItem) else -1)

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Note what is to be tried, once nothing is left out any more (`--lf` is the last that does)."""
        self.items = [item for item in session.items if isinstance(item, TrialItem)]

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note whose end was told; that of an interrupted trial is not."""
        if report.when == "call":
            self.told.add(report.nodeid)

    def finish(self, item: TrialItem) -> results.Record:
        """Try one item, with the arms of the next ones sent ahead."""
        self.began = True
        if self.session is None:
            self.session = self._session()
        self.session.start(item.trial, item.cell)
        if self.said:
            self.print_said()
        if self.worker or item not in self.items:
            # With pytest-xdist the next item of this process is not the next of the list, but one of the same cell or a
            # later one.
            for cell in self.cells[: self.cells.index(item.cell)]:
                self.session.leave(cell)
            return self.session.finish(item.trial, item.cell)
        return self.session.take([(other.trial, other.cell) for other in self.items], self.items.index(item))

    def say(self, text: str) -> None:
        """Keep a line for the next moment at which one may be printed between pytest's own; any thread may call it."""
        self.said.append(escape.visible(text))

    def print_said(self) -> None:
        """Print what was said."""
        reporter = self.config.pluginmanager.get_plugin("terminalreporter")
        capture = self.config.pluginmanager.get_plugin("capturemanager")
        if reporter is not None and capture is not None:
            with capture.global_and_fixture_disabled():
                while self.said:
                    reporter.ensure_newline()
                    reporter.write_line(self.said.pop(0))

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int | pytest.ExitCode) -> None:
        """End the cells' supervisors; a run that an earlier call left failed has failed."""
        if self.session is not None:
            with interrupts.held():
                self.session.close()
            if exitstatus != pytest.ExitCode.INTERRUPTED:
                self.session.wait()
            with interrupts.held():
                self.run.note("time", seconds=self.session.clock.summary())
        if not self.worker and exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
            failed = ending.code(self.records[0])
            session.exitstatus = pytest.ExitCode.TESTS_FAILED if failed else exitstatus

    @cached_property
    def records(self) -> tuple[list[results.Record], list[str]]:
        """Return what the run has of these cells at its end, those of earlier calls too."""
        with contextlib.suppress(UserError):  # nothing was finished yet
            found, notices = ending.judged([self.run.folder], {e.name: e for e in find()})
            labels = {cell.label for cell in self.cells}
            return [record for record in found if record.cell in labels], notices
        return [], []

    def pytest_terminal_summary(
        self, terminalreporter: pytest.TerminalReporter, exitstatus: int | pytest.ExitCode
    ) -> None:
        """Print the verdicts of this run, and what is missing from it where it was cut."""
        if self.config.option.collectonly:
            return
        records, notices = self.records
        console = terminal.console()
        terminalreporter.ensure_newline()
        if records:
            terminal.matrix(records, console)
            terminal.summary(records, console, failures=bool(self.done))
        if self.session is not None:
            terminal.times(self.session.clock.summary(), console)
        console.print(
            f"results: {results.shown(self.run.path)}" + "".join(f" ({notice})" for notice in notices), markup=False
        )
        for line in self._rest(exitstatus):
            terminalreporter.write_line(line)

    def _rest(self, exitstatus: int | pytest.ExitCode) -> list[str]:
        """Return in two lines what was not tried, where a run that had begun was cut."""
        # On disk, and not as told: Ctrl-C may come between a trial's line and the report of it.
        kept = {record.key for record in self.records[0]} | (self.session.kept if self.session else set())
        missing = sum(item.nodeid not in self.told and item.trial.key not in kept for item in self.items)
        where = self.cells[0].label if len(self.cells) == 1 else f"{len(self.cells)} cells"
        if self.began and missing:
            says = f"not tried: {missing} of {len(self.items)} trials in {where}"
        elif self.told and not self.items and exitstatus == pytest.ExitCode.INTERRUPTED:
            says = f"not tried: the rest of the trials in {where}"  # pytest-xdist's workers know of how many
        else:
            return []
        folder = results.shown(self.run.folder) if Path.cwd() == ROOT else self.run.folder.absolute()
        dashes = "-- " if "NOX_CURRENT_SESSION" in os.environ else ""
        return [says, f"hint: the same command goes on with `{dashes}--resume --run {folder}`"]


def _is_case_file(path: Path) -> bool:
    return path.suffix == ".py" and is_case(f"{path.parent.name}.{path.stem}")


class NoTests(pytest.Module):
    """A case file as a module of tests, which it is not: nothing of it is imported."""

    def collect(self) -> Iterator[pytest.Item]:
        """Yield nothing."""
        yield from ()


class CaseFile(pytest.File):
    """A case file; collects one item a condition and cell."""

    def collect(self) -> Iterator[pytest.Item]:
        """Yield the trials that are to be tried."""
        plugin = self.config.pluginmanager.get_plugin("repros-run")
        assert isinstance(plugin, Plugin)
        found = from_file(self.path)
        for cell in plugin.cells:
            for condition in (one for one in found.case.conditions if one.device == cell.device):
                trial = Trial(found, condition, cell.label)
                if trial.key not in plugin.done:
                    name = f"{condition.name}[{cell.label}]"
                    # In full: made from the parent's, an id with brackets is not the one that `--lf` reads again.
                    nodeid = f"{self.nodeid}::{name}"
                    yield TrialItem.from_parent(self, name=name, nodeid=nodeid, trial=trial, cell=cell, plugin=plugin)

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """Print a contributor's mistake as its two lines, without a traceback."""
        return str(excinfo.value) if isinstance(excinfo.value, UserError) else super().repr_failure(excinfo)


class TrialFailedError(Exception):
    """Carries the two lines of a failed trial."""


class TrialItem(pytest.Item):
    """One trial."""

    def __init__(self, *, trial: Trial, cell: Cell, plugin: Plugin, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.trial, self.cell, self._plugin = trial, cell, plugin
        self.extra_keyword_matches.add(trial.entry.name)  # `-k gh1935_saved_weight`, as everywhere else

    def runtest(self) -> None:
        """Try it; a regression, a stale record and whatever could not be told fail."""
        record = self._plugin.finish(self)
        for name in ("verdict", "outcome", "reason"):
            value = getattr(record, name)
            self.user_properties.append((name, getattr(value, "value", value)))
        if record.verdict is Verdict.UNSUPPORTED:
            pytest.skip(escape.line(record.reason))
        if record.failed:
            raise TrialFailedError(two_lines(record))

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """Print a failed trial as its two lines, without a traceback."""
        if isinstance(excinfo.value, (TrialFailedError, UserError)):
            return str(excinfo.value)
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, None, str]:
        """Name the item in pytest's reports."""
        return self.path, None, f"{self.trial.entry.name}::{self.name}"
