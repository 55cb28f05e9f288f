"""What a name says of its value: how much that must prove before it is called a secret."""

from __future__ import annotations

from functools import lru_cache

from repros.redaction.data import words
from repros.redaction.words import split

#: A value need prove nothing; it could be a key by its looks; it is random.
STRONG, SOME, WEAK, NONE = 3, 2, 1, 0

PASSWORDS = ("password", "passwd", "passphrase", "passcode", "passwort", "passw", "pwd", "mnemonic")
SECRETS = ("secret", "apikey", "accesskey", "secretkey", "privatekey", "authkey", "masterkey", "accountkey")
TOKENS = ("token", "jwt", "pat", "credential", "credentials", "creds", "bearer", "webhook", "dsn", "otp", "authtoken")
#: Names of both worlds: `auth=True`, `session = Session()`, `forward_pass`.
_DOUBTFUL = ("auth", "sid", "cookie", "session", "sessionid", "signature", "sig", "pass", "pw", "sessid", "salt")
_ISSUED = ("auth", "access", "identity", "refresh", "session", "bearer", "csrf", "api")
_QUALIFIED, _POSSIBLE, _HARMLESS = words("qualified"), words("possible"), words("harmless")
_SUFFIXES, _ACCOUNTS = words("suffixes"), words("accounts")


@lru_cache(maxsize=8192)
def strength(name: str) -> int:
    """Return how much the value of this name must prove; `NONE` where it is no secret's name."""
    found = split(name)
    while len(found) > 1 and (found[-1] in _SUFFIXES or found[-1].isdigit()):
        found.pop()
    last, before = (found[-1], found[:-1]) if found else ("", [])
    previous = before[-1] if before else ""
    if last.endswith(PASSWORDS[:4]) or last in PASSWORDS or (last == "pass" and previous in _ACCOUNTS):
        return STRONG
    if last.endswith(SECRETS):
        return STRONG
    if last == "key":
        return _key(name, previous)
    if last in ("id", "keyid") and "key" in (previous, last[:3]):
        return SOME if len(before) > 1 and before[-2] in _QUALIFIED else WEAK
    if last in TOKENS or last.endswith(("token", "webhook")):
        return _token(name, last, before)
    return WEAK if last in _DOUBTFUL or last.endswith("sessionid") or (last, previous) == ("id", "session") else NONE


def password(name: str) -> bool:
    """Return whether a name is a password's, which may be a plain word or a number."""
    return strength(name) == STRONG and name.lower().endswith(PASSWORDS)


def _key(name: str, previous: str) -> int:
    if previous in _HARMLESS:
        return NONE
    if previous in _QUALIFIED:
        return STRONG
    return SOME if previous and (name.isupper() or previous in _POSSIBLE) else WEAK


def _token(name: str, last: str, before: list[str]) -> int:
    if _HARMLESS.intersection(before):
        return NONE
    outspoken = before and (name.isupper() or name[:2] in ("X-", "x-") or before[-1] in _QUALIFIED)
    return STRONG if outspoken or last.startswith(_ISSUED) else SOME
