"""What is written of records: page, Markdown, JUnit; all of it redacted, all of it from records alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

from repros import results
from repros.cases import Entry
from repros.errors import UserError
from repros.redact import Redactor
from repros.results import Record
from repros.uv import pip_settings

PAGE = "index.html"


class Outputs:
    """The texts that can be made of some runs."""

    def __init__(
        self,
        records: Sequence[Record],
        known: Mapping[str, Entry],
        sources: Sequence[Path],
        against: Path | None = None,
        notices: Sequence[str] = (),
    ) -> None:
        self._records, self._known, self._notices = records, known, notices
        self._sources = [results.shown(source) for source in sources]
        self._against = (results.shown(against), results.load_all([against])[0]) if against else None

    @cached_property
    def redactor(self) -> Redactor:
        """Return what takes out the private words of this machine."""
        return Redactor.here(settings=pip_settings())

    def html(self) -> str:
        """Return the page."""
        from repros.report import html

        with results.collector_paused():
            return html.page(self._records, self._known, self._sources, self.redactor, self._against, self._notices)

    def markdown(self) -> str:
        """Return the page as Markdown."""
        from repros.report import markdown

        return self.redactor.text(markdown.page(self._records, self._known, self._sources, self._against))

    def summary(self) -> str:
        """Return what a CI job shows of itself."""
        from repros.report import markdown

        return self.redactor.text(markdown.summary(self._records, self._known, self._sources, self._against))

    def junit(self) -> str:
        """Return JUnit XML."""
        from repros.report import junit

        return junit.document(self._records, self.redactor)


def write(path: Path, text: str) -> None:
    """Write a text, or print it for ``-``; UserError where it cannot be written."""
    if str(path) == "-":
        print(text)
        return
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: cannot write: {error.strerror}", "name a file in a folder that is there") from error


def commit(folders: Sequence[Path], records: Sequence[Record], known: Mapping[str, Entry], target: Path) -> Path:
    """Keep runs as evidence: their trials, the page as Markdown and as HTML; return the results file."""
    target.mkdir(parents=True, exist_ok=True)
    kept = target / results.RESULTS
    outputs = Outputs(records, known, [kept])
    results.keep(folders, kept, records, outputs.redactor.value)
    (target / "README.md").write_text(outputs.markdown(), encoding="utf-8")
    (target / PAGE).write_text(outputs.html(), encoding="utf-8")
    return kept
