"""People and machines by form: addresses, host names, homes, and folders that carry a user's name."""

from __future__ import annotations

import ipaddress
import re
import sys

from repros.redaction import Remove
from repros.redaction.data import words

_HEX = r"[0-9A-Fa-f]"
_GPU = re.compile(rf"(?<![A-Za-z])(?:GPU|MIG)-(?:GPU-)?{_HEX}{{8}}(?:-{_HEX}{{4}}){{3}}-{_HEX}{{12}}(?:/\d+/\d+)?")
_MAC = re.compile(rf"(?<![\w:-])(?:{_HEX}{{2}}([:-]))(?:{_HEX}{{2}}\1){{4}}{_HEX}{{2}}(?![\w-]|:{_HEX}{{2}}\b)")

#: Users of homes that say nothing; `root` and such are removed as homes, not as users of other folders.
COMMON_USERS = words("users")
_NAME = r"[^/\\\s\"'`:;,()\[\]{}<>|*?$]{1,64}"
#: Further words of a user's name stand before a separator, or at the end of a path in quotes.
_USER = rf"{_NAME}(?:(?: {_NAME}){{1,3}}(?=[/\\])|(?: [A-Z][\w.-]{{1,30}}){{1,2}}(?=[\"'`\n]|$))?"
_HOME = re.compile(
    r"(?<![\w.~-])(?:"
    rf"(?:/(?:mnt|cygdrive))?/[A-Za-z]/Users/{_USER}"
    rf"|(?:/[\w.-]{{1,40}}){{0,4}}?/(?:home|homes|Users)\d{{0,2}}/(?:(?:jusers|users?|[a-z])/)?(?!\.{{1,2}}/){_USER}"
    r"|/roo[t](?![\w-]))"
    rf"|(?<![A-Za-z])[A-Za-z]:(?:\\{{1,4}}|/)(?:Users|Documents and Settings)(?:\\{{1,4}}|/){_USER}"
    rf"|(?<![\w\\])(?:\\{{1,2}})(?:home|Users)\\{{1,2}}{_USER}"
)
_FOLDER = re.compile(
    r"(?P<keep>(?<![\w.~-])(?:"
    r"/(?:afs|blue|cluster|data|efs|export|fsx|gpfs|lustre|mnt|net|nfs|p|project|projects|scratch|share|shared|storage|vast|work)"
    r"(?:/[\w.-]{1,40}){0,5}?/(?:users?|jusers|staff|people)/(?:[a-z0-9]{1,2}/)?"
    r"|/u/(?=[\w-]{1,40}/)|/(?:afs|beegfs|blue|efs|fsx|gpfs|lustre|media|net|nfs|scratch|staff|user|users|vast)/"
    r"(?:(?:beegfs|fs\d{1,2}|gpfs|home|lustre|projects?|scratch|users?|work)/){0,3}"
    r"))(?P<user>[A-Za-z][\w-]{1,40}(?:\.[A-Za-z][\w-]{1,40})?)(?=[/\s\"'`:;,)\]]|$)"
)
_TEMPORARY = re.compile(
    r"(?P<keep>(?:pytest-of-|torchinductor_|hsperfdata_|pip-build-|pip-unpack-|triton_cache_|tmux-|numba_cache_|matplotlib-|vscode-ipc-|jax_cache_|krb5cc_)"
    r")(?P<user>[A-Za-z][\w.-]{1,40}?)(?=[/\\\s\"'`:;,)\]]|$)"
)
_FOLDERS = re.compile(r"(?P<keep>/var/folders/)(?P<user>[\w+-]{2}/[\w+-]{20,40})")
_FILE = re.compile(
    r"\.(?:py|so|c|cc|cpp|cu|h|json|txt|bin|pt|pth|md|log|sh|toml|yaml|yml|gguf|safetensors|tar|gz|zip|csv)$"
)
_TILDE = re.compile(
    r"(?P<keep>(?<![\w~)\].=/-])~)(?P<user>[a-z_][\w-]{1,31})(?=/[\w.])|(?P<cd>\bcd ~)[a-z_][\w-]{1,31}"
)
_UNC = re.compile(r"(?<![\w\\:.])\\{2}(?:\\{2})?([A-Za-z][\w.-]{2,62})\\{1,2}([A-Za-z][\w.$-]{1,80})")

_IPV4 = re.compile(r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?![\w]|\.\d)")
_IPV6 = re.compile(rf"(?<![\w:.]){_HEX}{{0,4}}(?::{_HEX}{{0,4}}){{2,8}}(?:%\w{{1,16}})?(?!\w|:)")
_DASHED = re.compile(r"(?<![A-Za-z])(?:ip|ec2)-\d{1,3}-\d{1,3}-\d{1,3}-\d{1,3}(?!\w)(?:\.[\w.-]{1,80})?")
#: Before a number of four parts these say that it is a version, or an address.
_VERSION = re.compile(
    r"(?i)(?:\bversions?\b[^\n]{0,40}|[=<>~!]=[ ]?|[\w][-_+]|\bv|[<>]|(?:version|release|build|driver|toolkit|runtime|cuda|cudnn|cu\w{2,12}|nccl|nv\w{2,20}|nvidia[\w-]{0,40}|"
    r"mkl|onednn|gcc|g\+\+|glibc|clang|llvm|msvc|triton|torch\w{0,20}|python|numpy|transformers|bitsandbytes|kernel|chrome|wheel|package|"
    r"[\w-]{1,40}-cu\d{1,3}|lib\w{2,30})[\"']?[ ]?[:=(,]?[ ]?[\"']?v?)$"
)
_NETWORK = re.compile(
    r"(?i)(?:\b(?:ip|ipv4|addr|address|host|hostname|server|node|peer|inet|bind|binding|listen|listening|ping|ssh|dns|gateway|route|remote|client|"
    r"endpoint|connect\w{0,4}|connection|reach|master_addr|nameserver)\b[ \t:=\"'(]{0,4}(?:(?:to|from|on|at|is)[ ])?|://|@)$"
)
_FIRST = re.compile(r"[23][0-9a-f]{3}|f[cdef][0-9a-f]{2}", re.IGNORECASE)

#: Hosts that everybody uses, and what lies under them.
PUBLIC_HOSTS = words("hosts")
#: First labels of dotted names in code.
_CODE = sys.stdlib_module_names | words("code")
_TLDS = (
    "com|net|org|edu|gov|mil|int|info|biz|io|ai|dev|app|cloud|tech|xyz|online|site|me|co|eu|uk|us|ca|de|fr|ch|at|nl|be|se|no|dk|fi|pl|cz|es|it|pt|ie|"
    "jp|cn|kr|tw|hk|sg|in|au|nz|br|mx|ar|ru|ua|il|za|tr|gr|hu|ro|example|test|internal|local|lan|corp|intranet|intra|private|science|academy|systems|company|email|inc|ltd|lab|hpc"
)
_MAIL_LEFT = re.compile(r"[A-Za-z0-9][\w.+%-]{0,63}$")
_MAIL_RIGHT = re.compile(rf"@(?:[A-Za-z0-9-]{{1,63}}\.){{1,8}}(?:{_TLDS})(?![\w(\[-]|\.\w)", re.IGNORECASE)
_HOST_RIGHT = re.compile(r"@((?:[A-Za-z0-9-]{1,63}\.){0,8}[A-Za-z0-9-]{1,63})")
_SHELL = re.compile(r"(?:\b(?:ssh|scp|sftp|rsync|mosh|ssh-copy-id|by|user|login|as)\b[^\n@]{0,80}[ \"'`(]|\()$")
_CODE_BEFORE = re.compile(r"(?:[\w)\]=+*/,<>-]|\b(?:return|in|and|or|not|if|else|assert|yield|print)[ ]?|=[ ])\($")
_REMOTE = re.compile(r":[~/]|:\d+|[$#] |\)$|\)\s")
_NUMBERED = re.compile(
    r"(?:[A-Za-z0-9-]+\.)*[A-Za-z]+[A-Za-z0-9]*-[A-Za-z0-9-]*[a-z0-9]|[A-Za-z]{3,}-?\d{2,4}(?:[.][\w.-]+)?"
)
_SUFFIXED = re.compile(
    r"(?<![\w.-])(?<![^/]/)((?:[A-Za-z0-9-]{1,63}\.){1,6})(internal|local|lan|corp|intranet|intra|private|home\.arpa|localdomain)(?![\w(\[-]|\.\w)"
)
_MACHINE = re.compile(
    rf"(?<![\w.-])(?<![^/]/)(?:bastion|box|build|ci|cluster|cn|compute|db|dgx|gpu|head|hgx|hpc|jump|k8s|login|mail|master|ml|nid|node|rack|server|srv|train|vm|vpn|web|worker|ws)(?:-[A-Za-z0-9]{{1,20}}){{0,3}}-?\d{{1,4}}[a-z]?\.(?:[A-Za-z0-9-]{{1,63}}\.){{1,6}}(?:{_TLDS})(?![\w(\[-]|\.\w)"
)
_SSH = re.compile(
    r"(?P<keep>(?<![\w/.-])(?:ssh|sftp|mosh)(?: -\w(?: ?[\w./~:-]{1,60})?){0,6} )(?P<host>(?!-)[A-Za-z][\w.-]{1,100})(?![\w@=])"
)
_COPY = re.compile(r"(?P<keep>\b(?:scp|rsync) (?:[^\n]{0,200}? )?)(?P<host>[A-Za-z][\w.-]{2,80})(?=:[~/.\w])")
_HOSTNAME = re.compile(
    r"(?P<keep>\b(?:HostName|hostname|HOSTNAME|NodeName|SLURMD_NODENAME|SLURM_NODELIST|MASTER_ADDR|host|Host|nodename|COMPUTERNAME|USERDOMAIN|node_name)"
    r"[\"']?[ \t]{0,4}[:= ][ \t]{0,4}[\"']?)(?P<host>(?=[\w.-]{0,80}\d)[A-Za-z][A-Za-z0-9]*(?:-[A-Za-z0-9]+)++(?:\.[\w-]+)*+|[A-Za-z]{2,}\d+(?:\.[a-z][a-z-]*)++)(?![\w(\[])"
)


_BOX = re.compile(
    r"(?<![\w./@-])(?:(?:gpu|dgx|hgx|node|login|rack|box|server|host|srv|cn|workstation)(?:-[a-z0-9]{1,12}){1,4}?-\d{1,4}|(?:dgx|hgx|login|gpu)-?\d{2,4}|node-?\d{3,5}|"
    r"node0\d|node1[13-57]|nid\d{5,8}|DESKTOP-[A-Z0-9]{7}|LAPTOP-[A-Z0-9]{8})(?![\w-])"
)


def identifiers(text: str, remove: Remove) -> str:
    """Take out identifiers of GPUs and addresses of network cards."""
    if "-" in text:
        text = _GPU.sub(lambda m: remove("GPU identifier", m[0]), text)
    return _MAC.sub(lambda m: remove("MAC address", m[0]), text) if "-" in text or ":" in text else text


def homes(text: str, remove: Remove) -> str:
    """Write homes as `~`, and take users' names out of folders that are named after them."""

    def user(m: re.Match[str]) -> str:
        if m["user"].lower() in COMMON_USERS or _FILE.search(m["user"]):
            return m[0]
        return m["keep"] + remove("user name", m["user"])

    def home(m: re.Match[str]) -> str:
        remove("home path", m[0])
        return "~"

    if "\\" in text:
        text = _UNC.sub(lambda m: m[0] if m[1] in ("Users", "home") else remove("host name", m[0]), text)
    if "/" in text or "\\" in text:
        text = _HOME.sub(home, text)
        text = _FOLDERS.sub(user, _FOLDER.sub(user, text))
    if "~" in text:
        text = _TILDE.sub(lambda m: m["cd"] + remove("user name", m[0]) if m["cd"] else user(m), text)
    return _TEMPORARY.sub(user, text) if "-" in text or "_" in text else text


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
        found = _MAIL_RIGHT.match(text, sign, sign + 300)
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
    """Return where a host ends that a user is on; 0 where it is none."""
    found = _HOST_RIGHT.match(text, sign, sign + 300)
    if not found or user == "git" or not re.match(r"[A-Za-z_]", user):
        return 0
    host, after = found[1], text[found.end() : found.end() + 4]
    if after.startswith(("(", "[", "_", "@")) or host.split(".")[0] in _CODE or re.match(r"[vV]?\d|sha\d|md5", host):
        return 0
    before = text[max(0, start - 100) : start]
    shell = _SHELL.search(before) and not _CODE_BEFORE.search(before)
    if shell and before[-1] == "(" and after[1:2] in (".", "[", "(", "*"):
        return 0
    if (
        shell
        and (before[-1] != "(" or after.startswith(")"))
        and len(host) > 2
        and len(user) > 1
        and "." not in host.strip(".")
    ):
        return found.end()
    if (shell and before[-1] != "(") or (
        _REMOTE.match(after) and len(user) > 1 and len(host) > 2 and not after.startswith(")")
    ):
        return found.end()
    return (
        found.end()
        if len(user) > 2 and _NUMBERED.fullmatch(host) and (re.search(r"-[A-Za-z0-9-]*\d|[A-Za-z]{3}\d{2}", host))
        else 0
    )


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
    line_start = m.start() == 0 or m.string[m.start() - 1] in "\n`\"'$;&|>("
    return (
        bool(re.search(r"[-.\d]", host))
        or line_start
        and m.string[m.end() : m.end() + 1] in ("", "\n", "`", '"', "'", " ")
        and len(m["keep"]) == 4
        and m.string[m.end() : m.end() + 2].strip() in ("", "`", '"', "'")
    )


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
    if found.is_loopback or found.is_unspecified or m[0].startswith("255."):
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
        slice_ = m.string[max(0, m.start() - 2) : m.start()]
        if found.is_loopback or found.is_unspecified or not _FIRST.fullmatch(groups[0]) or bare.startswith(":"):
            return m[0]
        if all(len(group) < 3 for group in groups) or (re.fullmatch(r"[\w)\]]\[", slice_) and "::" in bare):
            return m[0]
        if "::" in bare and len(groups) < 3 and not re.search("[a-fA-F]", bare):
            return m[0]
        return remove("IP address", m[0]) + rest
    return m[0]
