"""Headless Chromium of this system: what the page is tried in, and what takes its picture for the README.

``python -m tests.chromium PAGE ANCHOR PICTURE`` writes a picture of one section of a page.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import pytest


class Chromium:
    """A browser and a context; the test that asks for it is skipped, with the reason, where there is none."""

    def __init__(self, **options: Any) -> None:
        self.options = options

    def __enter__(self) -> tuple[Any, Any]:
        playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: no browser test")
        names = ("chromium", "chromium-browser", "google-chrome", "chrome")
        found = next(filter(None, map(shutil.which, names)), None)
        if found is None:
            pytest.skip("no Chromium on this machine: the page was not opened (Debian: apt-get install chromium)")
        self._playwright = playwright.sync_playwright().start()
        root = ["--no-sandbox"] if os.geteuid() == 0 else []  # Chromium refuses its sandbox to root
        self._chromium = self._playwright.chromium.launch(executable_path=found, args=root)
        return self._chromium, self._chromium.new_context(reduced_motion="reduce", **self.options)

    def __exit__(self, *_: object) -> None:
        self._chromium.close()
        self._playwright.stop()


def until(tab: Any, holds: str, timeout_s: float = 20) -> None:
    """Wait until an expression holds in a page.

    Playwright's own waiting evaluates it inside the page again and again, which the page's policy forbids.
    """
    deadline = time.monotonic() + timeout_s
    while not tab.evaluate(holds):
        assert time.monotonic() < deadline, holds
        tab.wait_for_timeout(10)


def picture(page: Path, anchor: str, target: Path) -> None:
    """Write a picture of one section of a page, in the light theme."""
    with Chromium(viewport={"width": 1180, "height": 900}, color_scheme="light") as (_, context):
        tab = context.new_page()
        tab.goto(page.resolve().as_uri())
        # The bar of filters stays at the top of the window and would lie over the section.
        tab.add_style_tag(content=".case { content-visibility: visible; } .filters { position: static; }")
        tab.locator(f"#{anchor}").screenshot(path=str(target))


if __name__ == "__main__":
    picture(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
