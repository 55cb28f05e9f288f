"""The forms that the modules beside this one look for, as `forms.toml` has them."""

import tomllib
from importlib import resources
from typing import Any

FORMS: dict[str, Any] = tomllib.loads((resources.files(__package__) / "forms.toml").read_text(encoding="utf-8"))


def words(name: str) -> frozenset[str]:
    """Return a list of words."""
    return frozenset(FORMS["words"][name].split())


def either(name: str) -> str:
    """Return a pattern for any of a list of patterns."""
    return f"(?:{'|'.join(sorted(FORMS['words'][name].split(), key=len, reverse=True))})"
