"""Addresses of machines and of their parts: IP, MAC, identifiers of GPUs."""

from __future__ import annotations

import ipaddress
import re

from repros.redaction import Remove
from repros.redaction.data import either

_HEX = r"[0-9A-Fa-f]"
_GPU = re.compile(rf"(?<![A-Za-z])(?:GPU|MIG)-(?:GPU-)?{_HEX}{{8}}(?:-{_HEX}{{4}}){{3}}-{_HEX}{{12}}(?:/\d+/\d+)?")
_MAC = re.compile(rf"(?<![\w:-])(?:{_HEX}{{2}}([:-]))(?:{_HEX}{{2}}\1){{4}}{_HEX}{{2}}(?![\w-]|:{_HEX}{{2}}\b)")

_IPV4 = re.compile(r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?![\w]|\.\d)")
_IPV6 = re.compile(rf"(?<![\w:.]){_HEX}{{0,4}}(?::{_HEX}{{0,4}}){{2,8}}(?:%\w{{1,16}})?(?!\w|:)")
#: Before a number of four parts these say that it is a version, or an address.
_VERSION = re.compile(
    r"(?i)(?:\bversions?\b[^\n]{0,40}|[=<>~!]=[ ]?|[\w][-_+]|\bv|[<>]|"
    rf"{either('versioned')}[\"']?[ ]?[:=(,]?[ ]?[\"']?v?)$"
)
_NETWORK = re.compile(rf"(?i)(?:\b{either('network')}\b[ \t:=\"'(]{{0,4}}(?:(?:to|from|on|at|is)[ ])?|://|@)$")
#: Before a slice of a tensor, in whichever of its dimensions.
_SLICE = re.compile(r"[\w)\]]\[[^\[\]\n]*\Z")
_FIRST = re.compile(r"[23][0-9a-f]{3}|f[cdef][0-9a-f]{2}", re.IGNORECASE)


def identifiers(text: str, remove: Remove) -> str:
    """Take out identifiers of GPUs and addresses of network cards."""
    if "-" in text:
        text = _GPU.sub(lambda m: remove("GPU identifier", m[0]), text)
    return _MAC.sub(lambda m: remove("MAC address", m[0]), text) if "-" in text or ":" in text else text


def addresses(text: str, remove: Remove) -> str:
    """Take out IP addresses; a loopback, a time, a version or a slice is none."""
    if "." in text:
        text = _IPV4.sub(lambda m: remove("IP address", m[0]) if _ipv4(m) else m[0], text)
    return _IPV6.sub(lambda m: _ipv6(m, remove), text) if ":" in text else text


def _ipv4(m: re.Match[str]) -> bool:
    try:
        found = ipaddress.IPv4Address(m[0])
    except ValueError:
        return False
    if found.is_loopback or found.is_unspecified or m[0].startswith(("255.", "0.")):
        return False
    before, after = m.string[max(0, m.start() - 48) : m.start()], m.string[m.end() : m.end() + 6]
    if _NETWORK.search(before):
        return True
    if _VERSION.search(before) or re.match(r"-?(?:rc|dev|post|alpha|beta|a\d|b\d)|-[\w]", after):
        return False
    return not found.is_global or bool(re.match(r":\d{2,5}\b|/\d{1,2}\b", after)) or int(m[0].split(".")[0]) > 19


def _ipv6(m: re.Match[str], remove: Remove) -> str:
    """Replace an address of version 6 and keep a port or a line number behind it."""
    text, _, after = m[0].rpartition(":")
    for candidate, rest in ((m[0], ""), (text, f":{after}")):
        bare = candidate.partition("%")[0]
        try:
            found = ipaddress.IPv6Address(bare)
        except ValueError:
            continue
        groups = [group for group in bare.split(":") if group]
        slice_ = _SLICE.search(m.string, max(0, m.start() - 80), m.start())
        if found.is_loopback or found.is_unspecified or not _FIRST.fullmatch(groups[0]) or bare.startswith(":"):
            return m[0]
        if all(len(group) < 3 for group in groups) or (slice_ and "::" in bare):
            return m[0]
        if "::" in bare and len(groups) < 3 and not re.search("[a-fA-F]", bare):
            return m[0]
        return remove("IP address", m[0]) + rest
    return m[0]
