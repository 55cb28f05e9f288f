"""People and machines by name: e-mail addresses, users on hosts, hosts that only one network knows."""

from __future__ import annotations

import re
import sys

from repros.redaction import Remove
from repros.redaction.data import either, words

#: Hosts that everybody uses, and what lies under them.
PUBLIC_HOSTS = words("hosts")
#: First labels of dotted names in code.
_CODE = sys.stdlib_module_names | words("code")
_MAIL_LEFT = re.compile(r"[A-Za-z0-9][\w.+%-]{0,63}$")
_MAIL_RIGHT = re.compile(rf"@(?:[A-Za-z0-9-]{{1,63}}\.){{1,8}}{either('domains')}(?![\w(\[-]|\.\w)", re.IGNORECASE)
_HOST_RIGHT = re.compile(r"@((?:[A-Za-z0-9-]{1,63}\.){0,8}[A-Za-z0-9-]{1,63})")
_SHELL = re.compile(r"(?:\b(?:ssh|scp|sftp|rsync|mosh|ssh-copy-id|by|user|login|as)\b[^\n@]{0,80}[ \"'`(]|\()$")
_CODE_BEFORE = re.compile(r"(?:[\w)\]=+*/,<>-]|\b(?:return|in|and|or|not|if|else|assert|yield|print)[ ]?|=[ ])\($")
_REMOTE = re.compile(r":[~/]|:\d+|[$#] ")
_VERSION = re.compile(r"[vV]?\d|sha\d|md5")
_NUMBERED = re.compile(
    r"(?:[A-Za-z0-9-]+\.)*[A-Za-z]+[A-Za-z0-9]*-[A-Za-z0-9-]*[a-z0-9]|[A-Za-z]{3,}-?\d{2,4}(?:[.][\w.-]+)?"
)
_DASHED = re.compile(r"(?<![A-Za-z])(?:ip|ec2)-\d{1,3}-\d{1,3}-\d{1,3}-\d{1,3}(?!\w)(?:\.[\w.-]{1,80})?")
_SUFFIXED = re.compile(
    r"(?<![\w.-])(?<![^/]/)((?:[A-Za-z0-9-]{1,63}\.){1,6})"
    r"(internal|local|lan|corp|intranet|intra|private|home\.arpa|localdomain)(?![\w(\[-]|\.\w)"
)
_MACHINE = re.compile(
    rf"(?<![\w.-])(?<![^/]/){either('machines')}(?:-[A-Za-z0-9]{{1,20}}){{0,3}}-?\d{{1,4}}[a-z]?\."
    rf"(?:[A-Za-z0-9-]{{1,63}}\.){{1,6}}{either('domains')}(?![\w(\[-]|\.\w)"
)
_SSH = re.compile(
    r"(?P<keep>(?<![\w/.-])(?:ssh|sftp|mosh)(?: -\w(?: ?[\w./~:-]{1,60})?){0,6} )"
    r"(?P<host>(?!-)[A-Za-z][\w.-]{1,100})(?![\w@=])"
)
_COPY = re.compile(r"(?P<keep>\b(?:scp|rsync) (?:[^\n]{0,200}? )?)(?P<host>[A-Za-z][\w.-]{2,80})(?=:[~/.\w])")
_HOSTNAME = re.compile(
    rf"(?P<keep>\b{either('hosted')}[\"']?[ \t]{{0,4}}[:= ][ \t]{{0,4}}[\"']?)(?P<host>(?=[\w.-]{{0,80}}\d)"
    r"[A-Za-z][A-Za-z0-9]*(?:-[A-Za-z0-9]+)++(?:\.[\w-]+)*+|[A-Za-z]{2,}\d+(?:\.[a-z][a-z-]*)++)(?![\w(\[])"
)
_BOX = re.compile(
    r"(?<![\w./@-])(?:(?:gpu|dgx|hgx|node|login|rack|box|server|host|srv|cn|workstation)(?:-[a-z0-9]{1,12}){1,4}?-\d{1,4}"
    r"|(?:dgx|hgx|login|gpu)-?\d{2,4}|node-?\d{3,5}|node0\d|node1[13-57]|nid\d{5,8}"
    r"|DESKTOP-[A-Z0-9]{7}|LAPTOP-[A-Z0-9]{8})(?![\w-])"
)


def people(text: str, remove: Remove) -> str:
    """Take out e-mail addresses, and users on hosts where it is no product of matrices."""
    if "@" not in text:
        return text
    out, at, position = [], 0, 0
    while (sign := text.find("@", position)) >= 0:
        position = sign + 1
        left = _MAIL_LEFT.search(text[max(at, sign - 64) : sign])
        if not left:
            continue
        start = sign - len(left[0])
        found = _MAIL_RIGHT.match(text, sign, sign + 300) if "." in text[sign + 2 : sign + 65] else None
        if found and not _public_mail(left[0], found[0]):
            kind, stop = "e-mail address", found.end()
        elif not found and (stop := _user_at_host(text, start, sign, left[0])):
            kind = "user and host"
        else:
            continue
        out += [text[at:start], remove(kind, text[start:stop])]
        at = position = stop
    return "".join([*out, text[at:]])


def _public_mail(user: str, host: str) -> bool:
    """Return whether an address is nobody's: of a machine, or an expression in code."""
    labels = host[1:].lower().split(".")
    return user.lower() in ("git", "noreply", "no-reply") or labels[0] in _CODE or len(labels[0]) < 2


def _user_at_host(text: str, start: int, sign: int, user: str) -> int:
    """Return where a host ends that a user is on; 0 where it is none, but a product of matrices."""
    found = _HOST_RIGHT.match(text, sign, sign + 300) if len(user) > 1 and user != "git" else None
    if not found or user[0].isdigit():
        return 0
    host, after = found[1], text[found.end() : found.end() + 4]
    if after.startswith(("(", "[", "_", "@")) or host.split(".")[0] in _CODE or _VERSION.match(host):
        return 0
    if len(user) > 2 and _NUMBERED.fullmatch(host) and re.search(r"-[A-Za-z0-9-]*\d|[A-Za-z]{3}\d{2}", host):
        return found.end()
    before = text[max(0, start - 100) : start]
    shell = _SHELL.search(before) and not _CODE_BEFORE.search(before)
    if shell and before[-1] == "(":  # a comment on a key or a commit: user and host in brackets
        alone = after.startswith(")") and after[1:2] not in (*".[(*",) and len(host) > 2 and "." not in host
        return found.end() if alone else 0
    prompt = _REMOTE.match(after) and len(host) > 2
    return found.end() if shell or prompt else 0


def hosts(text: str, remove: Remove) -> str:
    """Take out names of hosts that only one network knows, and what a shell is told to reach."""
    if "ip-" in text or "ec2-" in text:
        text = _DASHED.sub(lambda m: remove("host name", m[0]), text)
    if "." in text:
        text = _SUFFIXED.sub(lambda m: remove("host name", m[0]) if _private(text, m) else m[0], text)
        text = _MACHINE.sub(
            lambda m: m[0] if public(m[0]) or m[0].split(".")[0] in _CODE else remove("host name", m[0]), text
        )
    if "ssh" in text or "sftp" in text or "mosh" in text:
        text = _SSH.sub(lambda m: m["keep"] + remove("host name", m["host"]) if _reached(m) else m[0], text)
    if "scp " in text or "rsync " in text:
        text = _COPY.sub(lambda m: m["keep"] + remove("host name", m["host"]), text)
    text = _BOX.sub(lambda m: remove("host name", m[0]), text)
    return _HOSTNAME.sub(lambda m: m[0] if public(m["host"]) else m["keep"] + remove("host name", m["host"]), text)


def public(host: str) -> bool:
    """Return whether everybody knows a host."""
    labels = host.lower().strip(".").split(".")
    return (
        any(".".join(labels[n:]) in PUBLIC_HOSTS for n in range(len(labels)))
        or labels == ["localhost"]
        or labels[-1] == "localhost"
    )


def _private(text: str, m: re.Match[str]) -> bool:
    """Return whether a dotted name is a host and no attribute of a module."""
    labels = m[1].strip(".").split(".")
    if labels[0] in _CODE or m[0].lower() in ("data.local",):
        return False
    before, after = text[max(0, m.start() - 12) : m.start()], text[m.end() : m.end() + 2]
    if m[2] in ("lan", "corp", "intranet", "home.arpa", "localdomain") or re.search(
        r"://$|@$|(?i:\bhost|\bto|\bon) ?[:=]? ?$", before
    ):
        return True
    marked = any(re.search(r"[A-Za-z]\d|-", label) for label in labels)
    return marked or bool(re.match(r":\d", after)) or (len(labels) > 1 and not any(map(_attribute, labels)))


def _attribute(label: str) -> bool:
    return label in (
        "data",
        "utils",
        "ops",
        "layers",
        "local",
        "internal",
        "private",
        "config",
        "core",
        "weight",
        "size",
    )


_PROSE = words("ssh")


def _reached(m: re.Match[str]) -> bool:
    """Return whether what follows `ssh` is a host and no word of a sentence."""
    host = m["host"].rstrip(".")
    if host.lower() in _PROSE or public(host):
        return False
    if re.search(r"[-.\d]", host):
        return True
    begins = m.start() == 0 or m.string[m.start() - 1] in "\n`\"'$;&|>("
    return begins and len(m["keep"]) == len("ssh ") and m.string[m.end() : m.end() + 2].strip() in ("", "`", '"', "'")
