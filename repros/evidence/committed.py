"""What is written of records: page, Markdown, JUnit; all of it redacted, all of it from records alone."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

from repros import files
from repros.cases import Entry
from repros.cells.uv import pip_settings
from repros.redaction.redact import Redactor
from repros.report.clean import redacted
from repros.run import results
from repros.run.results import Record

PAGE = "index.html"


class Outputs:
    """The texts that can be made of some runs; ``place`` is the folder that the page is for."""

    def __init__(
        self,
        records: Sequence[Record],
        known: Mapping[str, Entry],
        sources: Sequence[Path],
        against: Path | None = None,
        notices: Sequence[str] = (),
        place: Path | None = None,
    ) -> None:
        self._records, self._known, self._notices = records, known, notices
        self._place = place
        self._sources = [results.shown(source) for source in sources]
        self._against = (results.shown(against), results.load_all([against])[0]) if against else None

    @cached_property
    def redactor(self) -> Redactor:
        """Return what takes out the private words of this machine."""
        return Redactor.here(settings=pip_settings())

    def html(self) -> str:
        """Return the page."""
        from repros.advisory import model
        from repros.report.page import html

        with results.collector_paused():
            return html.page(
                self._records, self._known, self._sources, self.redactor, self._against, self._notices, self._place,
                model.load(),
            )  # fmt: skip

    def markdown(self) -> str:
        """Return the page as Markdown."""
        from repros.report import markdown

        return markdown.page(*self._cleaned)

    def summary(self) -> str:
        """Return what a CI job shows of itself."""
        from repros.report import markdown

        return markdown.summary(*self._cleaned)

    @cached_property
    def _cleaned(self) -> tuple[list[Record], Mapping[str, Entry], list[str], tuple[str, list[Record]] | None]:
        """Return what a page in Markdown is made of: redacted before it is escaped, which may hide a secret's form."""
        clean = self.redactor
        against = self._against and (clean.text(self._against[0]), [redacted(one, clean) for one in self._against[1]])
        sources = [clean.text(source) for source in self._sources]
        return [redacted(record, clean) for record in self._records], self._known, sources, against

    def junit(self) -> str:
        """Return JUnit XML."""
        from repros.report import junit

        return junit.document(self._records, self.redactor)

    def sarif(self) -> str:
        """Return SARIF: what failed, for GitHub to show."""
        from repros.report import github

        return github.sarif(self._records, self._known, self.redactor)

    def annotations(self) -> str:
        """Return what a job on GitHub prints to have what failed shown beside the change."""
        from repros.report import github

        return github.workflow_commands(self._records, self._known, self.redactor)


def write(path: Path, text: str, *, force: bool = False) -> None:
    """Write a page, or print it for ``-``; UserError where it cannot be written, or would replace what is not ours."""
    if str(path) == "-":
        print(text)
    elif is_job_summary(path):
        with path.open("a", encoding="utf-8") as file:
            file.write(text)
    else:
        files.put(path, text, force=force)


def check(path: Path, *, force: bool = False) -> None:
    """Raise UserError where `write` would."""
    if str(path) != "-" and not is_job_summary(path):
        files.check(path, force=force)


def is_job_summary(path: Path) -> bool:
    """Return whether this is the file that the steps of a job on GitHub append to, each after the one before."""
    named = os.environ.get("GITHUB_STEP_SUMMARY")
    return bool(named) and path.absolute() == Path(named or "").absolute() and path.is_file() and not path.is_symlink()


def commit(
    folders: Sequence[Path], records: Sequence[Record], known: Mapping[str, Entry], target: Path, *, force: bool = False
) -> Path:
    """Keep runs as evidence: their trials, the page as Markdown and as HTML; return the results file."""
    with files.Folder(target, "evidence", force=force) as out:
        outputs = Outputs(records, known, [target / results.RESULTS], place=target)
        results.keep(folders, out.staging / results.RESULTS, records, outputs.redactor.value)
        out.write("README.md", outputs.markdown())
        out.write(PAGE, outputs.html())
    return target / results.RESULTS
