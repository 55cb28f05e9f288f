"""Homes, and folders that carry a user's name."""

from __future__ import annotations

import re

from repros.redaction import Remove
from repros.redaction.data import either, words

#: Users of homes that say nothing; `root` and such are removed as homes, not as users of other folders.
COMMON_USERS = words("users")
_NAME = r"[^/\\\s\"'`:;,()\[\]{}<>|*?$]{1,64}"
#: Further words of a user's name stand before a separator, or at the end of a path in quotes.
_USER = rf"{_NAME}(?:(?: {_NAME}){{1,3}}(?=[/\\])|(?: [A-Z][\w.-]{{1,30}}){{1,2}}(?=[\"'`\n]|$))?"
_HOME = re.compile(
    r"(?<![\w.~-])(?:"
    rf"(?:/(?:mnt|cygdrive))?/[A-Za-z]/Users/{_USER}"
    rf"|(?:/[\w.-]{{1,40}}){{0,4}}?/(?:home|homes|Users)\d{{0,2}}/(?:(?:jusers|users?|[a-z])/)?(?!\.{{1,2}}/){_USER}"
    r"|/roo[t](?=/))"
    rf"|(?<![A-Za-z])[A-Za-z]:(?:\\{{1,4}}|/)(?:Users|Documents and Settings)(?:\\{{1,4}}|/){_USER}"
    rf"|(?<![\w\\])(?:\\{{1,2}})(?:home|Users)\\{{1,2}}{_USER}"
)
_FOLDER = re.compile(
    rf"(?P<keep>(?<![\w.~-])(?:/{either('roots')}(?:/[\w.-]{{1,40}}){{0,5}}?/(?:users?|jusers|staff|people)/(?:[a-z0-9]{{1,2}}/)?"
    rf"|/u/(?=[\w-]{{1,40}}/)|/{either('disks')}/(?:(?:beegfs|fs\d{{1,2}}|gpfs|home|lustre|projects?|scratch|users?|work)/){{0,3}}"
    r"))(?P<user>[A-Za-z][\w-]{1,40}(?:\.[A-Za-z][\w-]{1,40})?)(?=[/\s\"'`:;,)\]]|$)"
)
_TEMPORARY = re.compile(
    rf"(?P<keep>(?:(?<=[/\\])|(?=pytest-of-)){either('temporary')})(?P<user>[A-Za-z][\w.-]{{1,40}}?)(?=[/\\\s\"'`:;,)\]]|$)"
)
_FOLDERS = re.compile(r"(?P<keep>/var/folders/)(?P<user>[\w+-]{2}/[\w+-]{20,40})")
_FILE = re.compile(rf"\.{either('files')}$")
_TILDE = re.compile(
    r"(?P<keep>(?<![\w~)\].=/-])~)(?P<user>[a-z_][\w-]{1,31})(?=/[\w.])|(?P<cd>\bcd ~)[a-z_][\w-]{1,31}"
)
_UNC = re.compile(r"(?<![\w\\:.])\\{2}(?:\\{2})?([A-Za-z][\w.-]{2,62})\\{1,2}([A-Za-z][\w.$-]{1,80})")


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
