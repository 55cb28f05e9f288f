"""What must not leave this machine, taken out of a text; the one place for it.

Two sources: *forms*, which are secret wherever they stand (tokens, keys, addresses), and *words*, which are private
because of the machine they were written on (user, host, values of environment variables, hosts of private indexes).
What was removed is counted by kind, so that an output can say so.
"""

from __future__ import annotations

import getpass
import os
import re
import socket
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

from repros.redaction import Remove
from repros.redaction.addresses import addresses, identifiers
from repros.redaction.hosts import hosts, people, public
from repros.redaction.named import listed, named, secret_value
from repros.redaction.paths import homes
from repros.redaction.tokens import private_keys, tokens
from repros.redaction.urls import urls

T = TypeVar("T")

#: Names that are no secret and occur in any text.
COMMON = frozenset(
    (
        *("root", "user", "admin", "administrator", "ubuntu", "debian", "runner", "test", "tests", "build", "builder"),
        *("python", "docker", "nobody", "jovyan", "localhost", "host", "hostname", "linux", "torch", "transformers"),
        *("bitsandbytes", "cuda", "main", "data", "home", "work", "local", "guest", "default", "none", "null", "true"),
    )
)
#: Environment variables that a report may show: the suite sets them, and they decide what a trial does.
SHOWN = re.compile(
    r"(OMP|MKL|TORCH|TORCHINDUCTOR|TOKENIZERS|TRANSFORMERS|PYTORCH|CUDA|CUBLAS|BNB)_\w+|HF_\w*ASYNC\w*|CXX"
)
SECRET_NAME = re.compile(
    r"TOKEN|SECRET|PASSW|PASSPHRASE|API_?KEY|ACCESS_?KEY|PRIVATE|CREDENTIAL|AUTH|COOKIE|SESSION|DSN|WEBHOOK|_KEY$|_PAT$",
    re.IGNORECASE,
)
URL_NAME = re.compile(r"INDEX|PROXY|FIND_LINKS|URL|ENDPOINT|MIRROR|REGISTRY", re.IGNORECASE)
REMOVED = "[{} removed]"
#: What is no credential is named whole where it is refused: whoever wrote it sees whether it is one at all.
NAMED_WHOLE = frozenset(("IP address", "MAC address"))
#: Characters from which on a word of this machine is looked for inside other names.
LONG = 5
#: Forms, in the order in which they are looked for: a key in a URL goes as the key that it is.
STEPS = (private_keys, tokens, urls, named, identifiers, people, hosts)
#: After what this machine's words are: its home is a path under more than one root.
LAST_STEPS = (homes, addresses)
_PLAIN = frozenset((int, float, bool, type(None)))
_ESCAPE = re.compile(r"\x1b(?:\[[0-9;:?]*[A-Za-z]|\][^\x07\x1b]{0,500}(?:\x07|\x1b\\))")


def credentials(text: str) -> str:
    """Take user names, passwords and tokens out of the URLs in a text; for words of an installer."""
    text = re.sub(r"(\w+://)[^\s/@]*@", r"\1***@", text)
    return re.sub(r"(?i)([?&](?:token|key|password|sig|signature)=)[^&\s)]+", r"\1***", text)


@dataclass(frozen=True)
class Find:
    """What a text holds that is private: its line, its kind, and how it begins; the whole of an address."""

    line: int
    kind: str
    text: str


class Redactor:
    """Takes out what is private and counts it; ``words`` maps kinds to what is private on this machine.

    Without words only forms are taken out, which is what may be said of a text from elsewhere.
    """

    def __init__(self, words: Mapping[str, Iterable[str]] | None = None, environ: Mapping[str, str] | None = None):
        self.removed: Counter[str] = Counter()
        self._given = {kind: list(several) for kind, several in (words or {}).items()}
        self._memo: dict[str, tuple[str, Counter[str]]] = {}
        self._found: dict[str, list[Find]] = {}
        self._words: list[tuple[str, re.Pattern[str]]] = []
        for kind, several in self._given.items():
            found = sorted({word for word in several if word and word.lower() not in COMMON}, key=len, reverse=True)
            if found:
                self._words.append((kind, re.compile("|".join(_bounded(kind, word) for word in found))))
        names = [re.escape(name) for name in environ or {} if len(name) > 2 and not SHOWN.fullmatch(name)]
        self._assigned = (
            re.compile(rf"\b(?P<keep>(?:{'|'.join(names)})=)(?:\"[^\"]+\"|'[^']+'|[^\s\"';]+)") if names else None
        )

    @classmethod
    def here(cls, environ: Mapping[str, str] | None = None, settings: Mapping[str, str] | None = None) -> Redactor:
        """Return one that knows this machine; ``settings`` are pip's (`repros.cells.uv.pip_settings`)."""
        environ = os.environ if environ is None else environ
        return cls(local_words(environ, settings or {}), environ)

    def for_sources(self) -> Redactor:
        """Return one that looks at source code: there a user's or a host's name may be an ordinary word (`max`)."""
        return Redactor({kind: words for kind, words in self._given.items() if kind not in ("user name", "host name")})

    def text(self, text: str) -> str:
        """Return the text without what is private."""
        known = self._memo.get(text)
        if known is None:
            counts: Counter[str] = Counter()
            known = self._memo[text] = (self._clean(text, counts), counts)
        if known[1]:
            self.removed.update(known[1])
        return known[0]

    def look_ahead(self, texts: Iterable[str]) -> None:
        """Look at many texts at once: what no pattern matches in all of them together needs no look of its own."""
        several = [text for text in texts if text not in self._memo]
        counts: Counter[str] = Counter()
        if several and self._clean("\n\n".join(several), counts) and not counts:
            self._memo.update((text, (text, counts)) for text in several)

    def value(self, value: T) -> T:
        """Return a JSON value with every string in it, keys included, without what is private.

        What stands under the name of a secret is one, as it would be behind that name in a text.
        """
        kind = type(value)
        if kind is str:
            return self.text(value)  # type: ignore[arg-type,return-value]
        if kind in _PLAIN:
            return value
        if isinstance(value, str):
            return self.text(value)  # type: ignore[return-value]
        if isinstance(value, Mapping):
            return {self.text(str(k)): self._under(str(k), v) for k, v in value.items()}  # type: ignore[return-value]
        if isinstance(value, (list, tuple)):
            if len(value) == 2 and isinstance(value[0], str) and isinstance(value[1], str):
                under = self._under if listed(value[1]) else lambda _, text: self.text(text)
                return [self.text(value[0]), under(*value)]  # type: ignore[return-value]
            return [self.value(one) for one in value]  # type: ignore[return-value]
        return value

    def _under(self, name: str, value: T) -> T:
        if isinstance(value, str) and secret_value(name, value):
            self.removed["named secret"] += 1
            return REMOVED.format("named secret")  # type: ignore[return-value]
        return self.value(value)

    def finds(self, text: str) -> list[Find]:
        """Return what would be removed from a text, in the order of its lines; nothing is counted."""
        if text not in self._found:
            found: list[tuple[str, str]] = []
            self._clean(text, Counter(), found)
            coded = _coded(text)[0]
            made = {
                Find(
                    coded.count("\n", 0, max(0, coded.find(one))) + 1, kind, one if kind in NAMED_WHOLE else masked(one)
                )
                for kind, one in found
            }
            self._found[text] = sorted(made, key=lambda find: (find.line, find.kind, find.text))
        return self._found[text]

    def says(self) -> str:
        """Return what was removed, by kind and count."""
        if not self.removed:
            return "nothing private was found"
        return "removed: " + ", ".join(f"{count} × {kind}" for kind, count in sorted(self.removed.items()))

    def _clean(self, text: str, counts: Counter[str], found: list[tuple[str, str]] | None = None) -> str:
        if len(text) < 3:
            return text

        def remove(kind: str, matched: str) -> str:
            counts[kind] += 1
            if found is not None:
                found.append((kind, matched))
            return REMOVED.format(kind)

        text, codes = _coded(text)
        for step in STEPS:
            text = step(text, remove)
        if self._assigned:
            text = self._assigned.sub(
                lambda m: m[0] if _gone(m) else m["keep"] + remove("environment variable", m[0]), text
            )
        for kind, pattern in self._words:
            text = pattern.sub(partial(_word, kind, remove), text)
        for step in LAST_STEPS:
            text = step(text, remove)
        for sign, code in codes.items():
            text = text.replace(sign, code)
        return text


def masked(text: str) -> str:
    """Return enough of a text to find it by, and never the most of it."""
    first = text.partition("\n")[0]
    return first[: min(6, len(text) // 3)] + "…"


def _bounded(kind: str, word: str) -> str:
    """Return the pattern of a word of this machine.

    A long one may be a part of another name (a folder for temporary files), a short one is often a part of an
    ordinary word. Under a domain of one's own every host is one's own.
    """
    escaped = re.escape(word)
    if kind == "host name" and "." in word:
        return rf"(?<![A-Za-z0-9.-])(?:[\w-]{{1,63}}\.){{0,6}}{escaped}(?![A-Za-z0-9-])"
    if kind == "home path" or len(word) < LONG:
        return rf"(?<![\w-]){escaped}(?![\w-])"
    return rf"(?:(?<![A-Za-z0-9])|(?<=\\[nrt])){escaped}(?![A-Za-z0-9])"


def _word(kind: str, remove: Remove, m: re.Match[str]) -> str:
    removed = remove(kind, m[0])
    return "~" if kind == "home path" else removed


def _gone(m: re.Match[str]) -> bool:
    return m[0][len(m["keep"]) :].startswith("[")


def _coded(text: str) -> tuple[str, dict[str, str]]:
    """Return the text with one sign in place of each escape sequence of a terminal, and what the signs stand for.

    A sequence ends in a letter, behind which no form would begin. The signs are of a private plane of Unicode.
    """
    if "\x1b" not in text:
        return text, {}
    signs: dict[str, str] = {}
    free = (sign for sign in map(chr, range(0x100000, 0x10FFFE)) if sign not in text)

    def sign_of(m: re.Match[str]) -> str:
        if m[0] not in signs:
            made = next(free, None)
            if made is None:
                return m[0]
            signs[m[0]] = made
        return signs[m[0]]

    text = _ESCAPE.sub(sign_of, text)
    return text, {sign: code for code, sign in signs.items()}


def local_words(environ: Mapping[str, str], settings: Mapping[str, str]) -> dict[str, list[str]]:
    """Return what is private on this machine by kind."""
    home = environ.get("HOME", "")
    users = [environ.get(name, "") for name in ("USER", "LOGNAME", "USERNAME", "SUDO_USER")] + [
        *_user(),
        Path(home).name,
        environ.get("USERPROFILE", "").rpartition("\\")[2],
    ]
    host = socket.gethostname()
    hosts = [host, host.partition(".")[0], environ.get("HOSTNAME", ""), environ.get("COMPUTERNAME", "")]
    secrets = [value for name, value in environ.items() if SECRET_NAME.search(name) and len(value) >= 6]
    secrets += [value for value in environ.values() if _looks_random(value)]
    places = [value for name, value in environ.items() if URL_NAME.search(name)] + list(settings.values())
    for place in places:
        for url in re.findall(r"[a-z+]+://[^\s,]+", place):
            hosts += _parts(url, secrets)
    hosts += [domain for name in hosts if (domain := _domain(name))]
    return {
        "environment variable": secrets,
        "home path": [home] if len(home) > 4 else [],
        "user name": [user for user in users if len(user) > 2],
        "host name": [name for name in hosts if len(name) > 2],
    }


def _domain(host: str) -> str:
    """Return the domain that a host is in, without what a country has many of (`co.uk`); empty where it is public."""
    labels = host.split(".")
    kept = labels[-3:] if len(labels) > 2 and len(labels[-2]) < 4 else labels[-2:]
    domain = ".".join(kept)
    return "" if len(kept) < 2 or public(domain) or labels[-1].isdigit() else domain


def _parts(url: str, secrets: list[str]) -> list[str]:
    """Return the host of a URL unless everybody knows it; credentials in it go to the secrets."""
    try:
        parts = urlsplit(url)
        secrets += [part for part in (parts.username, parts.password) if part and len(part) >= 6]
        host = parts.hostname or ""
    except ValueError:
        return []
    return [] if public(host) else [host]


def _user() -> list[str]:
    """Return the names of the user: that of the account, and the person's where the system has it."""
    try:
        name = getpass.getuser()
        import pwd  # not on Windows

        person = pwd.getpwnam(name).pw_gecos.partition(",")[0]
    except (OSError, KeyError, ImportError):
        return []
    return [name, person] if " " in person else [name]


def _looks_random(value: str) -> bool:
    """Return whether a value looks like a key whatever its variable is called."""
    if not 20 <= len(value) <= 4096 or not re.fullmatch(r"[\w+/=.~-]+", value) or "/" in value.strip("/=")[:1]:
        return False
    classes = (r"[a-z]", r"[A-Z]", r"\d")
    return value.count("/") < 2 and value.count(".") < 3 and all(re.search(one, value) for one in classes)
