"""Secrets told by what they are called: assignments, flags, headers, files of credentials.

A name says how much its value must prove. `password` needs a value; `token` a value that could be one, because models
have tokens too; `key` one that looks random. What is an expression, a type, a placeholder or a number is no secret.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from repros.redaction import Remove
from repros.redaction.data import FORMS, words
from repros.redaction.names import PASSWORDS, SECRETS, SOME, STRONG, TOKENS, password, strength
from repros.redaction.words import mixed, split, wordy

#: Signs that stand for codes of a terminal (`repros.redaction.redact`): they end a value and may stand before one.
_ANSI = "\U00100000-\U0010ffff"
_HINTS = (
    *("pass", "pw", "key", "token", "secret", "cred", "auth", "cookie", "sess", "sid", "jwt", "pat", "bearer"),
    *("webhook", "dsn", "otp", "mnemonic", "sig", "salt"),
)
_QUOTE = r"\\{0,3}[\"'`]"
_TYPE = r":[ \t]{0,3}[A-Za-z_][\w.]{0,30}(?:\[[\w., \[\]]{0,40}\])?(?:[ \t]?\|[ \t]?\w{1,20}){0,3}[ \t]{1,4}=(?!=)"
_NAMED = re.compile(
    rf"(?<![\w.$-])(?P<flag>--?)?(?:(?<=\\)[nrt])?(?P<name>[A-Za-z_][\w.$-]{{1,80}}+)(?:{_QUOTE}\]?)?"
    rf"[ \t{_ANSI}]{{0,20}}+(?P<sep>{_TYPE}|=>|:=|=(?!=)|%3[Dd]|:(?![:/])|,(?=[ \t]{{0,4}}{_QUOTE}))"
    rf"(?P<space>[ \t{_ANSI}]{{0,20}}+)(?:![a-z]{{1,20}} )?"
)
#: A flag or a variable whose value follows a space.
_SPACED = re.compile(
    r"(?:(?:(?<![\w-])--|(?<![\w`\"')\]-])-)(?P<flag>[A-Za-z][\w-]{1,60}+)"
    r"|(?<![\w-])(?:ENV|ARG|setx|setenv|set(?: -\w{1,3})+|configure set|config set) "
    r"(?P<variable>[A-Za-z][\w.-]{1,60}+))[ \t]{1,8}+(?![-=|])"
)
#: What a text must have in lower case to be looked at, the kind, the pattern.
_AROUND = [(one["has"], one["kind"], re.compile(one["keep"] + one["value"])) for one in FORMS["around"]]
_QUOTED = re.compile(r"(?P<prefix>[rRbBuUfF]{0,2})(?P<quote>\\{0,3}(?:\"\"\"|'''|[\"'`]))")
_BARE = re.compile(rf"[^\s\"'`,;&)\]}}<>|\\{_ANSI}]+(?:\\(?![nrt\"'])[^\s\"'`]*)?")
_TO_SPACE = re.compile(rf"[^\s\"'`{_ANSI}]+")
_TO_LINE_END = re.compile(rf"[^\n\"'#{_ANSI}]*")
_BLOCK = re.compile(r"[|>][-+]?\d?\n[ \t]{1,20}")
_NOTHING = re.compile(FORMS["nothing"], re.IGNORECASE | re.VERBOSE)
_CALL = re.compile(r"(?:[A-Za-z_]\w*\.)*[A-Za-z_]\w*[(\[{]")
_DOTTED = re.compile(r"(?:[A-Za-z_]\w*\.)+[A-Za-z_]\w*")
_IDENTIFIER = re.compile(r"[A-Za-z_]\w*")
_NUMBER = re.compile(r"[-+]?(?:0x[0-9a-fA-F]+|\d[\d._]*(?:e[-+]?\d+)?(?:[*/+]+\d+)*)[A-Za-z%]{0,3}")
_RANDOM = re.compile(r"(?=.*\d)(?=.*[A-Za-z])[\w+/=.~-]{16,}")
_HEXADECIMAL = re.compile(r"[0-9a-f-]+")
_PAIR = re.compile(r"[A-Za-z0-9+/]{8,}={0,2}")
_ASKS = re.compile(r"(?i)\b(?:enter|your|the|a|wrong|invalid|bad) $")
_SECRET_WORDS = frozenset((*PASSWORDS, *SECRETS, *TOKENS, "key", "auth", "secrets", "tokens", "username", "getpass"))
#: A value of these words alone names a secret and is none: `my-api-key`.
_NAMES = _SECRET_WORDS | words("names")
_PROSE = words("prose")
#: What a judgement reads of a value, and how long a value in quotes may be; what is removed is removed whole.
_LOOK, _LONGEST = 300, 8000


@dataclass(frozen=True)
class Named:
    """A name with what separates it from its value, and where the value begins."""

    name: str
    grade: int
    separator: str
    start: int
    end: int
    #: Set as a flag or a variable of a shell is, so that no expression can stand there.
    plain: bool

    @classmethod
    def of(cls, m: re.Match[str]) -> Named | None:
        """Return what was matched if it is a secret's name."""
        found = m.groupdict()
        name = found.get("name") or found.get("variable") or found["flag"]
        grade = strength(name)
        if not grade:
            return None
        spaced = "variable" in found
        flag = bool(found["flag"])
        shell = name.isupper() and not spaced and not found["space"] and found["sep"] == "="
        if (grade == SOME and (flag or shell)) or (flag and name == "pass"):
            grade = STRONG
        separator = "" if spaced else found["sep"]
        plain = spaced or "-" in name or (name.isupper() and not found["space"])
        return cls(name, grade, separator, m.start(), m.end(), plain)

    def line(self, text: str) -> str:
        """Return what stands before the name in its line."""
        begin = text.rfind("\n", max(0, self.start - 200), self.start) + 1 or max(0, self.start - 200)
        return text[begin : self.start]


def named(text: str, remove: Remove) -> str:
    """Take out values of names that say that these are secret."""
    lowered = text.lower()
    for has, kind, pattern in _AROUND:
        if has in lowered:
            text = pattern.sub(lambda m, kind=kind: _around(m, kind, remove), text)  # type: ignore[misc]
    if not any(hint in lowered for hint in _HINTS):
        return text
    for pattern in (_SPACED, _NAMED):
        out, at, position = [], 0, 0
        while m := pattern.search(text, position):
            position = m.end()
            one = Named.of(m)
            if one and (span := _quoted(text, one) or _bare(text, one)):
                out += [text[at : span[0]], remove("named secret", text[span[0] : span[1]])]
                at = position = span[1]
        text = "".join([*out, text[at:]]) if out else text
    return text


def nothing(value: str) -> bool:
    """Return whether a value is none: `None`, a type, a placeholder, a variable of a shell."""
    return bool(_NOTHING.fullmatch(value[:_LOOK]))


def secret_value(name: str, value: str) -> bool:
    """Return whether what a mapping holds under this name is a secret."""
    if name.lower() in ("authorization", "proxy-authorization", "cookie", "set-cookie"):
        return len(value) > 2 and not nothing(value)
    grade = strength(name)
    return bool(grade) and _proves(value[:_LOOK], name, grade)


def listed(value: str) -> bool:
    """Return whether a value behind a name in a list is one by its looks: names stand in lists, too."""
    return mixed(value) or not wordy(value)


def _around(m: re.Match[str], kind: str, remove: Remove) -> str:
    """Remove a value that what stands around it tells, unless it is code or a word of a sentence."""
    value, keep = m["value"], m["keep"]
    first, _, rest = value.partition(" ")
    if value.startswith(("[", "{", "$", "<", "None", "str")):
        return m[0]
    if kind == "authorization header":  # a scheme and its value, or a value alone
        rest = rest.strip(" \"'")
        if (wordy(value) or not mixed(value)) if first == value else rest.startswith((*"{$<+=|",)) or not rest:
            return m[0]
    elif kind == "said" and not keep.lower().startswith("pass") and (wordy(value) or len(value) < 8):
        return m[0]
    return keep + remove("named secret" if kind == "said" else kind, value)


def _quoted(text: str, one: Named) -> tuple[int, int] | None:
    """Return where a secret in quotes stands."""
    quoted = _QUOTED.match(text, one.end, one.end + 8)
    if not quoted:
        return None
    start = quoted.end()
    end = text.find(quoted["quote"], start, start + _LONGEST)
    value = text[start : min(end, start + _LOOK)]
    if end < 0 or ("\n" in value[:-1] and len(quoted["quote"].lstrip("\\")) == 1):
        return None
    if ("f" in quoted["prefix"].lower() and "{" in value) or (one.separator == "," and not listed(value)):
        return None
    return (start, end) if _proves(value, one.name, one.grade) else None


def _bare(text: str, one: Named) -> tuple[int, int] | None:
    """Return where a secret without quotes stands."""
    if one.separator == "," or _QUOTED.match(text, one.end, one.end + 8):
        return None
    block = _BLOCK.match(text, one.end) if one.separator == ":" else None
    start = block.end() if block else one.end
    found = _BARE.match(text, start, start + _LOOK)
    if not found or _expression(found[0], one) or (one.grade == STRONG and _sentence(text, found, one)):
        return None
    if one.grade < STRONG and not (_proves(found[0], one.name, one.grade) and (mixed(found[0]) or one.plain)):
        return None
    return start, _end(text, one, start, found.end())


def _proves(value: str, name: str, grade: int) -> bool:
    """Return whether a value is a secret of this grade."""
    if len(value) < 3 or value[0] in " ,)]}+" or nothing(value):
        return False
    plain = wordy(value)
    found = split(value) if plain else []
    if found and (set(found) <= _NAMES or (value.isupper() and found[-1] in _SECRET_WORDS)):
        return False
    if grade == STRONG:
        return not (_NUMBER.fullmatch(value) and len(value) < 4)
    if name.lower() in ("pass", "pw"):
        return len(value) > 5 and mixed(value) and not re.search(r"[ =(,]", value)
    if ":" in value and "cred" in name.lower():
        return True
    if plain or " " in value:
        return False
    if grade == SOME:
        return len(value) >= 8 and (mixed(value) or len(value) >= 16) and not _NUMBER.fullmatch(value)
    if name.lower().endswith("auth") and _PAIR.fullmatch(value) and mixed(value):  # base64 of a user and a password
        return True
    return bool(_RANDOM.fullmatch(value)) and (not _HEXADECIMAL.fullmatch(value) or "sess" in name.lower())


def _expression(value: str, one: Named) -> bool:
    """Return whether a value without quotes is code, a number, a path, or another name of what is secret."""
    if len(value) < 3 or _CALL.match(value) or nothing(value) or value[0] in "[({-@=":
        return True
    if value.startswith("~/") or (value.startswith("/") and value.count("/") > 1):
        return True
    if _NUMBER.fullmatch(value):
        return len(value) < 4 or not (password(one.name) or (one.grade == STRONG and len(value) > 15))
    if not wordy(value):
        return False
    found = set(split(value))
    names = found & _SECRET_WORDS and (_IDENTIFIER.fullmatch(value) or found <= _NAMES)
    return bool(names or _DOTTED.fullmatch(value))


def _sentence(text: str, found: re.Match[str], one: Named) -> bool:
    """Return whether a value is a variable in code or a word of a sentence, and neither a flag's nor a shell's."""
    value = found[0]
    if one.plain or not _IDENTIFIER.fullmatch(value) or re.search(r"\d", value) or not wordy(value):
        return False
    line = one.line(text)
    if "_" in value or (text[found.end() : found.end() + 1] in (*",)]",) and "(" in line):
        return True
    if one.separator != ":":
        return False
    if _ASKS.search(line):
        return True
    if "passphrase" in one.name.lower():
        return False
    if value.lower() in _PROSE or value[0].isupper():
        return True
    rest = text[found.end() : found.end() + 40].partition("\n")[0]
    if not re.match(r"[ \t]+[a-z]", rest) or "_" in one.name:
        return False
    return bool(line.strip()) or bool(_PROSE.intersection(rest.split()))


def _end(text: str, one: Named, start: int, end: int) -> int:
    """Return where a value without quotes ends: a password may have spaces, or signs that end other values."""
    alone = one.separator == ":" and password(one.name) and not one.line(text).strip()
    if (alone or "passphrase" in one.name.lower()) and (line := _TO_LINE_END.match(text, start)):
        return start + len(line[0].rstrip())
    following = text[end : end + 2]
    if len(following) > 1 and following[0] in ")]}<>|%" and not following[1].isspace():
        whole = _TO_SPACE.match(text, end)
        return whole.end() if whole else end
    return end
