"""What tests look for in a page, and how they read what it holds deflated."""

from __future__ import annotations

import base64
import json
import re
import zlib
from typing import Any

from repros import cases
from repros.report.page import html
from repros.run import results
from repros.run.results import Record

EVIDENCE = results.REPORTS / "cpu"
KNOWN = {e.name: e for e in cases.find()}
DORA = {"case": "gh1935_adapters", "condition": "nf4-dora-eager", "cell": "tf5.2.0-bnb0.49.2"}


def field(tab: Any, records: list[Record], **wanted: str) -> tuple[Record, Any]:
    ordered = html.ordered(records, KNOWN)
    number = next(i for i, r in enumerate(ordered) if all(getattr(r, name) == value for name, value in wanted.items()))
    return ordered[number], tab.locator(f'.heat button[data-t="{number}"]')


def inflated(page: str) -> str:
    """Return the evidence blocks of a page as text."""
    blocks = re.findall(r'<script type="text/plain" class="evidence">([^<]*)</script>', page)
    assert blocks
    return "".join(unpacked(block) for block in blocks)


def scripts(page: str) -> str:
    """Return the texts that the scripts of a page's trials share, as JSON."""
    (block,) = re.findall(r'<script type="text/plain" id="scripts">([^<]*)</script>', page)
    return unpacked(block)


def unpacked(block: str) -> str:
    return zlib.decompress(base64.b64decode(block)).decode()


def split(text: str) -> list[dict[str, Any]]:
    """Return the objects of JSON texts written one after another."""
    decoder, found, at = json.JSONDecoder(), [], 0
    while at < len(text):
        one, at = decoder.raw_decode(text, at)
        found.append(one)
    return found
