"""What must not leave this machine, taken out of a text; the one place for it.

Two sources: *forms*, which are secret wherever they stand (tokens, keys, addresses), and *words*, which are private
because of the machine they were written on (user, host, values of environment variables, hosts of private indexes).
What was removed is counted by kind, so that an output can say so.
"""

from __future__ import annotations

import getpass
import ipaddress
import os
import re
import socket
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

T = TypeVar("T")
Replace = Callable[[re.Match[str]], str | None]

#: Names that are no secret and occur in any text.
COMMON = frozenset(
    (
        *("root", "user", "admin", "administrator", "ubuntu", "debian", "runner", "test", "tests", "build", "builder"),
        *("python", "docker", "nobody", "jovyan", "localhost", "host", "hostname", "linux", "torch", "transformers"),
        *("bitsandbytes", "cuda", "main", "data", "home", "work", "local", "guest", "default", "none", "null", "true"),
    )
)
#: Index hosts that everybody uses.
PUBLIC_HOSTS = frozenset(("pypi.org", "files.pythonhosted.org", "download.pytorch.org", "github.com", "huggingface.co"))
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

_HEX = r"[0-9A-Fa-f]"
#: kind -> regular expressions. A group named ``keep`` before the secret stays.
FORMS: Mapping[str, tuple[str, ...]] = {
    "private key": (r"-----BEGIN [A-Z ]*PRIVATE KEY[A-Z ]*-----[\s\S]*?(-----END [A-Z ]*PRIVATE KEY[A-Z ]*-----|\Z)",),
    "SSH key": (r"\b(ssh-(rsa|dss|ed25519)|ecdsa-sha2-\S+|sk-\S+@openssh\.com) AAAA[A-Za-z0-9+/=]{16,}( \S+)?",),
    "GitHub token": (r"\bgh[pousr]_\w{20,}", r"\bgithub_pat_\w{20,}"),
    "GitLab token": (r"\bgl(pat|dt|rt|cbt|ptt|ft|soat|agent|oas)-[\w.-]{16,}",),
    "Hugging Face token": (r"\b(hf|api_org)_[A-Za-z0-9]{16,}",),
    "AWS key": (
        r"\b(AKIA|ASIA|ABIA|ACCA|AROA|AIDA)[A-Z0-9]{16}\b",
        r"(?i)(?P<keep>aws_?(secret_?access_?key|session_?token)\W{1,4})[A-Za-z0-9/+=]{16,}",
    ),
    "Google key": (r"\bAIza[\w-]{30,}", r"\bya29\.[\w-]{16,}", r"\bGOCSPX-[\w-]{16,}"),
    "Azure key": (r"(?i)(?P<keep>(AccountKey|SharedAccessKey|SharedAccessSignature)=)[\w%+/=&.-]{16,}",),
    "Slack token": (r"\bxox[a-z]-[\w-]{10,}", r"\bxapp-[\w-]{10,}", r"hooks\.slack\.com/(services|workflows)/[\w/]+"),
    "Discord webhook": (r"discord(app)?\.com/api/webhooks/\d+/[\w-]+",),
    "Telegram token": (r"\b\d{8,10}:[A-Za-z0-9_-]{35}\b",),
    "Anthropic key": (r"\bsk-ant-[\w-]{16,}",),
    "OpenAI key": (r"\bsk-(proj-|svcacct-|admin-)?[\w-]{20,}",),
    "Stripe key": (r"\b[srp]k_(live|test)_\w{10,}", r"\bwhsec_\w{16,}"),
    "PyPI token": (r"\bpypi-[\w-]{16,}",),
    "npm token": (r"\bnpm_[A-Za-z0-9]{30,}", r"(?P<keep>_authToken=)\S+"),
    "Docker token": (r"\bdckr_(pat|oat)_[\w-]{16,}",),
    "Databricks token": (r"\bdapi[0-9a-f]{32}(-\d)?\b",),
    "SendGrid key": (r"\bSG\.[\w-]{16,}\.[\w-]{16,}",),
    "DigitalOcean token": (r"\bdo[opr]_v1_[0-9a-f]{32,}",),
    "JSON web token": (r"\beyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*",),
    "authorization header": (
        r"(?i)(?P<keep>authorization: ?)[^\r\n]+",
        r"(?i)\b(?P<keep>(bearer|basic) )[\w.~+/=-]{12,}",
    ),
    "netrc password": (r"(?i)(?P<keep>\bmachine \S+ login )\S+ password \S+",),
    "URL with credentials": (
        r"(?P<keep>\b[a-zA-Z][\w+.-]*://)[^\s/@\"'<>]+(?=@)",
        r"(?i)(?P<keep>[?&](token|key|api_key|password|sig|signature|X-Amz-Signature|access_token)=)[^&\s\"')<>]+",
    ),
    "named secret": (
        # A `bos_token_id` is a word of a vocabulary.
        r"(?i)(?P<keep>\b(?!\w*token_ids?\b)\w*(token|secret|passw(or)?d|passphrase|api_?key|access_?key|private_?key)\w*[\"']?\s*[=:]\s*[\"']?)"
        r"(?!\[)[^\s\"',;&)\]}]{6,}",
    ),
    "GPU identifier": (rf"\b(GPU|MIG)-{_HEX}{{8}}(-{_HEX}{{4}}){{3}}-{_HEX}{{12}}\b",),
    "e-mail address": (r"\b[A-Za-z0-9][\w.+-]*@[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)*\.[A-Za-z]{2,}\b",),
    "MAC address": (rf"(?<![\w:-])({_HEX}{{2}}[:-]){{5}}{_HEX}{{2}}(?![\w-]|:{_HEX}{{2}}\b)",),
    "host name": (
        r"(?<![\w./@-])([A-Za-z0-9-]+\.)+(internal|local|lan|corp|intranet|intra|private|home\.arpa)\b(?!\()",
        r"\bip-\d+-\d+-\d+-\d+\b",
    ),
}  # fmt: skip
_HOME = re.compile(
    r"(?<![\w.])(/home/|/Users/|/var/home/|[A-Za-z]:\\{1,2}Users\\{1,2})([^/\\\s\"':;,)\]>]+)|(?<![\w./~-])/root(?![\w-])"
)
_IPV4 = re.compile(r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?![\w]|\.\d)")
_IPV6 = re.compile(rf"(?<![\w:.]){_HEX}{{0,4}}(?::{_HEX}{{0,4}}){{2,8}}(?:%\w+)?(?!\w)")
_FORMS = [(kind, re.compile(pattern)) for kind, patterns in FORMS.items() for pattern in patterns]


def credentials(text: str) -> str:
    """Take user names, passwords and tokens out of the URLs in a text; for words of an installer."""
    text = re.sub(r"(\w+://)[^\s/@]*@", r"\1***@", text)
    return re.sub(r"(?i)([?&](?:token|key|password|sig|signature)=)[^&\s)]+", r"\1***", text)


class Redactor:
    """Takes out what is private and counts it; ``words`` maps kinds to what is private on this machine.

    Without words only forms are taken out, which is what may be said of a text from elsewhere.
    """

    def __init__(self, words: Mapping[str, Iterable[str]] | None = None, environ: Mapping[str, str] | None = None):
        self.removed: Counter[str] = Counter()
        self._given = {kind: list(several) for kind, several in (words or {}).items()}
        self._memo: dict[str, tuple[str, Counter[str]]] = {}
        self._words: list[tuple[str, re.Pattern[str]]] = []
        for kind, several in self._given.items():
            found = sorted({word for word in several if word and word.lower() not in COMMON}, key=len, reverse=True)
            if found:
                # A home is a path: what follows it may begin with a slash, and nothing else of a name.
                listed = "|".join(map(re.escape, found))
                self._words.append((kind, re.compile(rf"(?<![\w-])(?:{listed})(?![\w-])")))
        names = [re.escape(name) for name in environ or {} if len(name) > 2 and not SHOWN.fullmatch(name)]
        self._assigned = (
            re.compile(rf"\b(?P<keep>(?:{'|'.join(names)})=)(?:\"[^\"]+\"|'[^']+'|[^\s\"';]+)") if names else None
        )

    @classmethod
    def here(cls, environ: Mapping[str, str] | None = None, settings: Mapping[str, str] | None = None) -> Redactor:
        """Return one that knows this machine; ``settings`` are pip's (`repros.uv.pip_settings`)."""
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
        """Return a JSON value with every string in it, keys included, without what is private."""
        if isinstance(value, str):
            return self.text(value)  # type: ignore[return-value]
        if isinstance(value, Mapping):
            return {self.text(str(k)): self.value(v) for k, v in value.items()}  # type: ignore[return-value]
        if isinstance(value, (list, tuple)):
            return [self.value(one) for one in value]  # type: ignore[return-value]
        return value

    def says(self) -> str:
        """Return what was removed, by kind and count."""
        if not self.removed:
            return "nothing private was found"
        return "removed: " + ", ".join(f"{count} × {kind}" for kind, count in sorted(self.removed.items()))

    def _clean(self, text: str, counts: Counter[str]) -> str:
        if len(text) < 3:
            return text

        def remove(kind: str, pattern: re.Pattern[str], text: str, replace: Replace | None = None) -> str:
            def one(match: re.Match[str]) -> str:
                kept = match.groupdict().get("keep") or ""
                new = replace(match) if replace else kept + REMOVED.format(kind)
                if new is None or (kept and match[0][len(kept) :].startswith("[")):
                    return match[0]
                counts[kind] += 1
                return new

            return pattern.sub(one, text)

        for kind, pattern in _FORMS:
            text = remove(kind, pattern, text)
        if self._assigned:
            text = remove("environment variable", self._assigned, text)
        for kind, pattern in self._words:
            text = remove(kind, pattern, text, (lambda _: "~") if kind == "home path" else None)
        text = remove("home path", _HOME, text, lambda _: "~")
        text = remove("IP address", _IPV4, text, _address)
        return remove("IP address", _IPV6, text, _address)


def _address(match: re.Match[str]) -> str | None:
    """Replace what is an address of a machine, with a port or a line number behind it or without.

    A loopback, a time or a version is none.
    """
    text, _, after = match[0].rpartition(":")
    for candidate, rest in ((match[0], ""), (text, f":{after}")):
        try:
            found = ipaddress.ip_address(candidate.partition("%")[0])
        except ValueError:
            continue
        return None if found.is_loopback or found.is_unspecified else REMOVED.format("IP address") + rest
    return None


def local_words(environ: Mapping[str, str], settings: Mapping[str, str]) -> dict[str, list[str]]:
    """Return what is private on this machine by kind."""
    home = environ.get("HOME", "")
    users = [environ.get(name, "") for name in ("USER", "LOGNAME", "USERNAME", "SUDO_USER")] + [
        _user(),
        Path(home).name,
    ]
    host = socket.gethostname()
    hosts = [host, host.partition(".")[0], environ.get("HOSTNAME", ""), environ.get("COMPUTERNAME", "")]
    secrets = [value for name, value in environ.items() if SECRET_NAME.search(name) and len(value) >= 6]
    secrets += [value for value in environ.values() if _looks_random(value)]
    places = [value for name, value in environ.items() if URL_NAME.search(name)] + list(settings.values())
    for place in places:
        for url in re.findall(r"[a-z+]+://[^\s,]+", place):
            hosts += _parts(url, secrets)
    return {
        "environment variable": secrets,
        "home path": [home] if len(home) > 4 else [],
        "user name": [user for user in users if len(user) > 2],
        "host name": [name for name in hosts if len(name) > 2],
    }


def _parts(url: str, secrets: list[str]) -> list[str]:
    """Return the host of a URL unless everybody knows it; credentials in it go to the secrets."""
    try:
        parts = urlsplit(url)
        secrets += [part for part in (parts.username, parts.password) if part and len(part) >= 6]
        host = parts.hostname or ""
    except ValueError:
        return []
    return [] if host in PUBLIC_HOSTS else [host]


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):
        return ""


def _looks_random(value: str) -> bool:
    """Return whether a value looks like a key whatever its variable is called."""
    if not 20 <= len(value) <= 4096 or not re.fullmatch(r"[\w+/=.~-]+", value) or "/" in value.strip("/=")[:1]:
        return False
    classes = (r"[a-z]", r"[A-Z]", r"\d")
    return value.count("/") < 2 and value.count(".") < 3 and all(re.search(one, value) for one in classes)
