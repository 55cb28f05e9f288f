"""Keys and tokens that providers give out, told by their prefix; private keys; JSON web tokens.

The forms of tokens are those of gitleaks, credited in `forms.toml`. A body that is made of words is no key.
"""

from __future__ import annotations

import re

from repros.redaction import Remove
from repros.redaction.data import FORMS
from repros.redaction.words import wordy

#: Where a prefix that is short, or none, may begin: not inside a word; behind an escaped line end it does.
_LEFT = r"(?:(?<![A-Za-z0-9.])|(?<=\\[nrt]))"
#: Found from the start of what it stands in, so that a run of many such starts is read once.
_JWT = re.compile(r"(?<![\w-])(?P<keep>(?:(?!eyJ)[\w-])*+)eyJ[\w-]{8,}+(?:\.[\w-]*+){2,4}")


def _rows() -> list[tuple[str, str, re.Pattern[str]]]:
    """Return kind, what a text must have to be looked at, and the pattern; its group is what may not be words."""
    found = []
    for line in FORMS["tokens"].strip().splitlines():
        kind, prefixes, body = (part.strip() for part in line.split("|", 2))
        for prefix in prefixes.split():
            left = "" if prefix.startswith("*") else _LEFT
            has = prefix.lstrip("*@")
            begin = "" if prefix.startswith("@") else re.escape(has)
            found.append((kind, has, re.compile(rf"{left}{begin}({body})")))
    return found


_ROWS = _rows()
_PEM = re.compile(r"-----?[ ]?BEGIN[ A-Z0-9_-]{0,60}PRIVATE KEY(?: BLOCK)?[ ]?-{4,5}")
_PEM_END = re.compile(r"-----?[ ]?END[ A-Z0-9_-]{0,60}PRIVATE KEY(?: BLOCK)?[ ]?-{4,5}")
_PUTTY = re.compile(
    r"(?P<keep>Private-Lines: ?\d{1,5}\s{1,4})(?:[A-Za-z0-9+/=]{1,80}(?:\s|\\[nr]){1,4}){1,400}"
    r"|(?P<mac>Private-MAC: ?)[0-9a-f]{16,}"
)
_SSH = re.compile(
    r"(?:ssh-(?:rsa|dss|ed25519)|ecdsa-sha2-[\w-]{1,30}|sk-[\w-]{1,30}@openssh\.com) AAAA[A-Za-z0-9+/=]{16,}"
    r"(?: [\w.+-]{1,64}@[\w.-]{1,100})?"
)
_HASHED = re.compile(r"\$(?:apr1|1|2[abxy]?|5|6|y|7|argon2\w{1,2}|scrypt)\$[\w./$=,+-]{20,}")
_BASE64 = re.compile(r"(?<![A-Za-z0-9+/=_.-])[A-Za-z0-9+/]{40}(?![A-Za-z0-9+/=_.-])")
_CLASSES = re.compile(r"[a-z]+|[A-Z]+|\d+|[+/]")


def private_keys(text: str, remove: Remove) -> str:
    """Take out private keys of any tool, whole or cut off, and public ones with the name behind them."""
    if "PRIVATE KEY" in text:
        out, at = [], 0
        while begin := _PEM.search(text, at):
            end = _PEM_END.search(text, begin.end())
            stop = end.end() if end else len(text)
            out += [text[at : begin.start()], remove("private key", text[begin.start() : stop])]
            at = stop
        text = "".join([*out, text[at:]])
    if "Private-" in text:
        text = _PUTTY.sub(lambda m: (m["keep"] or m["mac"]) + remove("private key", m[0]), text)
    if " AAAA" in text:
        text = _SSH.sub(lambda m: remove("SSH key", m[0]), text)
    return text


def tokens(text: str, remove: Remove) -> str:
    """Take out what providers give out, hashes of passwords, and what is as random as a secret key of AWS."""
    for kind, has, pattern in _ROWS:
        if has in text:
            text = pattern.sub(lambda m, kind=kind: m[0] if wordy(m[1]) else remove(kind, m[0]), text)  # type: ignore[misc]
    if "eyJ" in text:
        text = _JWT.sub(lambda m: m["keep"] + remove("JSON web token", m[0]), text)
    if "$" in text:
        text = _HASHED.sub(lambda m: remove("password hash", m[0]), text)
    return _BASE64.sub(lambda m: remove("AWS key", m[0]) if _random(m[0]) else m[0], text) if len(text) > 39 else text


def _random(text: str) -> bool:
    """Return whether the kind of character changes as often as in a random text; a path's does not."""
    return len(_CLASSES.findall(text)) > 18 and all(re.search(one, text) for one in ("[a-z]", "[A-Z]", r"\d"))
