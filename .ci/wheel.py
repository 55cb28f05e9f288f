"""What a wheel holds: this folder as it is, in `repros/root`, and above it the module that leads there.

A cell's interpreter gets that folder on its path, and so nothing that is installed beside the package. Evidence stays
in the checkout; advisories travel.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

HOLDS = ("repros", "fixtures", "matrix.yaml", "pyproject.toml", "reports/advisories")


class Wheel(BuildHookInterface):  # type: ignore[type-arg]
    """Fills a wheel; an editable install imports the checkout and gets nothing."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Name the files and folders, and where they go."""
        if version == "editable":
            return
        there = {name: f"repros/root/{name}" for name in HOLDS if Path(self.root, name).exists()}
        build_data["force_include"] |= {"repros/__init__.py": "repros/__init__.py"} | there
