"""Tells a word, a name or an expression from a random text: what all forms ask before they call a text a secret."""

from __future__ import annotations

import re

#: Words as people and code write them: at most 14 letters, capitals in front or throughout, a number behind.
_WORD = r"(?:[A-Z]?[a-z]{2,14}(?![a-z])|[A-Z]{1,14}(?=[A-Z][a-z]|[^A-Za-z]|$)|[a-z](?![a-z]))"
_PIECE = rf"(?:(?:[A-Z][a-z]{{2,14}}(?![a-z])\d{{0,2}}){{2,8}}|(?:{_WORD}){{1,8}}\d{{0,4}}|v?\d{{1,4}}[a-zA-Z]?)"
_WORDY = re.compile(rf"[\W_]*+{_PIECE}(?:[\W_]++{_PIECE})*+[\W_]*+")
_VOWEL = re.compile(r"[aeiouyAEIOUY]")
_LONG = re.compile(r"[A-Za-z]{5,}")
_SPLIT = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")


def split(name: str) -> list[str]:
    """Return the words of a name in lower case: ``FOO_apiKey2`` has foo, api, key and 2."""
    return [word.lower() for word in _SPLIT.findall(name)]


def wordy(text: str) -> bool:
    """Return whether a text is made of words and small numbers, as identifiers, file names and sentences are."""
    if len(text) > 200 or not _WORDY.fullmatch(text):
        return False
    return all(_VOWEL.search(run) for run in _LONG.findall(text))


def mixed(text: str) -> bool:
    """Return whether a text has letters and digits, or capitals inside: what keys have and words seldom."""
    return bool(re.search(r"\d", text) and re.search(r"[A-Za-z]", text)) or bool(re.search(r"[a-z][A-Z]", text))
