"""Secrets told by what they are called: assignments, flags, headers, files of credentials, URLs.

A name says how much its value must prove. `password` needs a value; `token` a value that could be one, because models
have tokens too; `key` one that looks random. What is an expression, a type, a placeholder or a number is no secret.
"""

from __future__ import annotations

import re
from functools import lru_cache

from repros.redaction import Remove
from repros.redaction.words import mixed, split, wordy

#: How much a value must prove: nothing, that it could be a key, that it is random.
STRONG, SOME, WEAK = 3, 2, 1

_PASSWORDS = ("password", "passwd", "passphrase", "passcode", "passwort", "passw", "pwd", "pw", "mnemonic")
_SECRETS = ("secret", "apikey", "accesskey", "secretkey", "privatekey", "authkey", "masterkey", "accountkey")
_TOKENS = ("token", "jwt", "pat", "credential", "credentials", "creds", "bearer", "webhook", "dsn", "otp", "authtoken")
#: With one of these before it a `key` or `token` is a secret whatever its value is.
_QUALIFIED = frozenset(
    "api access secret private auth authentication account shared signing encryption master admin service client app "
    "application consumer deploy subscription license licence session bearer refresh oauth oauth2 hub hf gh github "
    "gitlab bot user id registry npm pypi ssh gpg pgp storage primary secondary functions host root personal x vault "
    "job figma webhook security csrf xsrf sas wandb openai anthropic license ingest write read publish".split()
)
#: With one of these a token is one of a model's, a key one of a table.
_ISSUED = ("auth", "access", "identity", "refresh", "session", "bearer", "csrf", "api")
_HARMLESS = frozenset(
    "bos eos pad unk sep cls mask special image video audio next prev previous last first new start stop end begin "
    "boi eoi prompt decoder fake word sub per num max min n total input output generated vocab text thinking think "
    "tool boundary separator placeholder newline space byte current target source draft cache primary foreign sort "
    "hash dict state query past public partition lookup map group index row column param parameter module layer "
    "config type turn role system assistant image2 forced suppress suppressed extra added additional".split()
)
_SUFFIXES = frozenset(
    "value raw plain plaintext base b string prod production dev staging data old current default ro rw text".split()
)
_DATABASES = frozenset("db user smtp mysql pg postgres admin root mail ftp redis login proxy http imap ldap sudo".split())


@lru_cache(maxsize=8192)
def strength(name: str) -> int:
    """Return how much the value of this name must prove; 0 where it is no secret's name."""
    words = split(name)
    while len(words) > 1 and (words[-1] in _SUFFIXES or words[-1].isdigit()):
        words.pop()
    if not words:
        return 0
    last, before = words[-1], words[:-1]
    previous = before[-1] if before else ""
    if last.endswith(_PASSWORDS[:4]) or (last in _PASSWORDS) or (last == "pass" and previous in _DATABASES):
        return 0 if previous in ("forward", "backward") else STRONG
    if last.endswith(_SECRETS):
        return STRONG
    if last in ("key", "keyid") or (last == "id" and previous == "key"):
        words = before if last != "id" else before[:-1]
        if any(word in _HARMLESS for word in words[-1:]):
            return 0
        if words and words[-1] in _QUALIFIED:
            return STRONG if last == "key" else SOME
        return SOME if words and name.isupper() else WEAK
    if last in _TOKENS or last.endswith(("token", "webhook")):
        if _HARMLESS.intersection(before):
            return 0
        return STRONG if name.isupper() and before or previous in _QUALIFIED or last.startswith(_ISSUED) else SOME
    if last in ("auth", "sid", "cookie", "session", "sessionid", "signature", "sig", "pass", "sessid", "salt"):
        return WEAK
    return WEAK if (last == "id" and previous == "session") or last.endswith("sessionid") else 0


_ANSI = "\U00100000-\U0010ffff"
_HINTS = ("pass", "pw", "key", "token", "secret", "cred", "auth", "cookie", "sess", "sid", "jwt", "pat", "bearer", "webhook",
          "dsn", "otp", "mnemonic", "sig", "salt")  # fmt: skip
_QUOTE = r"\\{0,3}[\"'`]"
_TYPE = r":[ \t]{0,3}[A-Za-z_][\w.]{0,30}(?:\[[\w., \[\]]{0,40}\])?(?:[ \t]?\|[ \t]?\w{1,20}){0,3}[ \t]{1,4}=(?!=)"
_NAMED = re.compile(
    rf"(?<![\w.$-])(?P<flag>--?)?(?:(?<=\\)[nrt])?(?P<name>[A-Za-z_][\w.$-]{{1,80}}+)(?P<after>{_QUOTE}\]?)?"
    rf"[ \t{_ANSI}]{{0,20}}+(?P<sep>{_TYPE}|=>|:=|=(?!=)|%3[Dd]|:(?![:/])|,(?=[ \t]{{0,4}}{_QUOTE}))"
    rf"(?P<space>[ \t{_ANSI}]{{0,20}}+)(?:![a-z]{{1,20}} )?"
)
#: A flag or a command whose value follows a space.
_SPACED = re.compile(
    r"(?<![\w-])(?:--?(?P<name>[A-Za-z][\w-]{1,60}+)|(?:ENV|ARG|setx|setenv|set(?: -\w{1,3})+|configure set|config set)"
    r" (?P<env>[A-Za-z][\w.-]{1,60}+))[ \t]{1,8}+(?![-=|])"
)
#: `password` and what follows a line of a file of credentials, an XML element, a pair of name and value.
_FORMS = [
    ("netrc password", re.compile(
        r"(?i)(?P<keep>\b(?:machine\s{1,8}[^\s]{1,200}|default)\s{1,8}login\s{1,8})(?P<value>[^\s]{1,200}"
        r"(?:\s{1,8}account\s{1,8}[^\s]{1,200})?\s{1,8}password\s{1,8}[^\s]{1,400})"), "login"),
    ("netrc password", re.compile(
        r"(?i)(?P<keep>\bmachine\s{1,8}[^\s]{1,200}\s{1,8}password\s{1,8})(?P<value>[^\s]{1,400})"), "machine"),
    ("named secret", re.compile(
        r"(?i)(?P<keep><(?:\w{0,20}(?:password|passwd|secret|token|passphrase|api_?key))>\s{0,8})(?P<value>[^<\s][^<\n]{0,2000})(?=<)"), "<"),
    ("named secret", re.compile(
        r"(?i)(?P<keep><add key=\"[\w.:]{0,60}(?:password|secret|token|apikey)\"\s{1,8}value=\")(?P<value>[^\"\n]{1,2000})"), "<add"),
    ("named secret", re.compile(
        r"(?P<keep>\bname\\?[\"']?:[ \t]{0,8}\\?[\"']?[\w.-]{0,60}(?i:password|passwd|secret|token|passphrase|key|_pat)\\?[\"']?"
        r",?\s{1,80}[\"'\\]{0,2}value[\"'\\]{0,2}:[ \t]{0,8}[\"'\\]{0,2})(?P<value>[^\s\"'\\,}]{3,2000})"), "value"),
    ("named secret", re.compile(
        r"(?i)(?P<keep>\bauth=\(\\?[\"'][^\"'\n]{1,80}\\?[\"'],[ ]{0,2}\\?[\"'])(?P<value>[^\"'\n]{3,200})"), "auth="),
    ("named secret", re.compile(
        r"(?P<keep>(?:^|(?<=\s))[\w.*-]{1,80}:(?:5432|5433|6432|3306|\*):[\w*-]{1,60}:[\w.-]{1,60}:)(?P<value>[^\s:]{3,200})"), ":"),
    ("named secret", re.compile(
        r"(?i)(?P<keep>(?<![\w-])(?:password|passwd|passphrase|pwd|token|secret|api[ _-]?key)(?: is| was)?[ ]{1,4})(?P<value>(?=[^\s]{0,60}\d)(?=[^\s]{0,60}[a-z])[^\s\"'=:,()\[\]{}<>]{5,400})"), " "),
    ("named secret", re.compile(r"(?P<keep>\bpass:)(?P<value>[^\s\"']{4,200})(?=\s|$|[\"'])"), "pass:"),
    ("named secret", re.compile(r"(?P<keep>\bvault login )(?P<value>(?!-)[^\s\"']{6,200})"), "vault login"),
    ("named secret", re.compile(r"(?P<keep>\bwandb login (?:--relogin )?)(?P<value>[0-9a-f]{32,})"), "wandb login"),
    ("named secret", re.compile(r"(?P<keep>\bmysql\w{0,8} (?:[^\n]{0,80} )?-p)(?P<value>[^\s\"'-][^\s]{2,80})"), "mysql"),
    ("named secret", re.compile(r"(?P<keep>\bsshpass -p ?[\"']?)(?P<value>[^\s\"']{2,200})"), "sshpass"),
    ("named secret", re.compile(
        r"(?P<keep>\b(?:docker|podman|twine|az|helm|oc|npm|buildah|skopeo)\b[^\n]{1,120} -p[ =][\"']?)(?P<value>[^\s\"':/]{4,200})(?=[\s\"']|$)"), " -p"),
    ("named secret", re.compile(r"(?P<keep>\bredis-cli [^\n]{0,80}-a )(?P<value>[^\s]{3,200})"), "redis-cli"),
    ("named secret", re.compile(r"(?P<keep>\bldap\w{3,8} (?:[^\n]{0,80} )?-w )(?P<value>[^\s]{3,200})"), "ldap"),
    ("named secret", re.compile(r"(?P<keep>(?<!\S)-U [\"']?)(?P<value>[\w.-]{1,40}%[^\s\"']{2,80})"), "-u "),
    ("user and password", re.compile(
        r"(?P<keep>(?<!\S)(?:-u|--user|--proxy-user|-U|-a|--auth)[ =]{0,2}[\"']?)(?P<value>(?!\d+:\d+)[^\s:\"'/=-][^\s:\"'/=]{0,60}:[^\s\"'/]{2,200})"), ":"),
    ("cookie", re.compile(r"(?P<keep>(?<!\S)(?:-b|--cookie)[ =][\"']?)(?P<value>[\w.-]{1,60}=[^\"'\n]{2,2000})"), "="),
    ("cookie", re.compile(
        r"(?i)(?P<keep>(?:^|(?<![\w]))(?:set-)?cookie2?\\?[\"']?[ \t]{0,4}[:=][ \t]{0,4}\\?[\"']?)(?P<value>[\w.$%-]{1,80}=[^\r\n\"'\\]{1,8000})"), "ookie"),
    ("authorization header", re.compile(
        r"(?i)(?P<keep>\bauthorization\\?[\"']?[ \t]{0,4}[:=,][ \t]{0,4}\\?[\"']?)(?P<value>(?:[\w-]{2,30}[ \t]{1,4})[^\r\n'\\]{3,8000}?(?=[\"']?(?:[\r\n'\\]|$)|\" )|[^\s\"',;]{8,8000})"), "uthorization"),
    ("authorization header", re.compile(r"(?i)(?P<keep>(?<![A-Za-z])bearer[ \t]{1,4})(?P<value>[\w.~+/=-]{8,8000})"), "earer"),
    ("authorization header", re.compile(r"(?i)(?P<keep>(?<![A-Za-z])basic[ \t]{1,4})(?P<value>[\w.~+/=-]{8,8000})"), "asic"),
]  # fmt: skip
_STOP = frozenset(
    "is must should required incorrect wrong invalid not the a an for to of and or in on with was are be has it no "
    "authentication auth failed field missing expected".split()
)
_QUOTED = re.compile(r"(?P<prefix>[rRbBuUfF]{0,2})(?P<quote>\\{0,3}(?:\"\"\"|'''|[\"'`]))")
_BARE = re.compile(r"[^\s\"'`,;&)\]}<>|\\%s]+(?:\\(?![nrt\"'])[^\s\"'`]*)?" % _ANSI)
_WHOLE = re.compile(r"[^\s\"'`%s]+" % _ANSI)
_NOTHING = re.compile(
    r"(?ix)(?:None|null|nil|undefined|true|false|yes|no|on|off|str|string|int|integer|float|bool|boolean|bytes|object|any|optional\S*|"
    r"union\S*|list\S*|dict\S*|tuple\S*|tensor|callable\S*|type|self|lambda|not|await|secretstr|required|unset|empty|unknown|"
    r"[*x•.\#_?-]{2,}|<[^>]*>?|\$\(.*|\$\{.*|\$\w+|%\w+%|%\(\w+\)s|%[sdr]|\{.*|\[.*|\(.*|\S*\byour[_-]?\w*|\S*redacted\S*|\S*placeholder\S*|\.\.\.|…)"
)
_CALL = re.compile(r"(?:[A-Za-z_]\w*\.)*[A-Za-z_]\w*[(\[{]")
_DOTTED = re.compile(r"(?:[A-Za-z_]\w*\.)+[A-Za-z_]\w*")
_NUMBER = re.compile(r"[-+]?(?:0x[0-9a-fA-F]+|\d[\d._]*(?:e[-+]?\d+)?(?:[*/+]+\d+)*)[A-Za-z%]{0,3}")
_SECRET_WORDS = frozenset((*_PASSWORDS, *_SECRETS, *_TOKENS, "key", "auth", "secrets", "tokens", "username", "getpass"))
#: A value of these words alone names a secret and is none: `my-api-key`.
_NAMES = _SECRET_WORDS | {"my", "the", "your", "user", "api", "access", "client", "hf", "some", "here", "x", "type", "name"}
_IDENTIFIER = re.compile(r"[A-Za-z_]\w*")
_RANDOM = re.compile(r"(?=.*\d)(?=.*[A-Za-z])[\w+/=.~-]{16,}")
_HEXADECIMAL = re.compile(r"[0-9a-f-]+")
#: What a judgement reads of a value; removal reads it all.
_LOOK = 300


def named(text: str, remove: Remove) -> str:
    """Take out values of names that say that these are secret."""
    lowered = text.lower()
    if not any(hint in lowered for hint in _HINTS):
        return _forms(text, lowered, remove)
    text = _forms(text, lowered, remove)
    for pattern in (_SPACED, _NAMED):
        out, at, position = [], 0, 0
        while found := pattern.search(text, position):
            position = found.end()
            span = _span(text, found)
            if span:
                out += [text[at : span[0]], remove("named secret", text[span[0] : span[1]])]
                at = position = span[1]
        text = "".join([*out, text[at:]]) if out else text
    return text


def _forms(text: str, lowered: str, remove: Remove) -> str:
    for kind, pattern, has in _FORMS:
        if has in lowered:
            text = pattern.sub(lambda m, kind=kind: _kept(m, kind, remove), text)  # type: ignore[misc]
    return text


def _kept(m: re.Match[str], kind: str, remove: Remove) -> str:
    value = m["value"]
    first = value.split()[0].strip("\"'")
    weak = kind == "authorization header" and value == first and (wordy(value) or not mixed(value))
    if kind == "named secret" and m["keep"][-1] == " " and value == first and "=" not in m["keep"]:  # said in a sentence
        said = m["keep"].lower()
        weak = said.startswith(("token", "secret", "api")) and (wordy(value) or len(value) < 8)
    rest = value[len(first) :].strip(" \"'")
    empty = kind == "authorization header" and (not rest or rest.startswith(("{", "$", "<", "+", "=", "|"))) and value != first
    if weak or empty or value.startswith(("[", "{", "$", "<", "None", "str")):
        return m[0]
    return m["keep"] + remove(kind, value)


def _span(text: str, m: re.Match[str]) -> tuple[int, int] | None:
    """Return where the secret stands that this name and separator announce."""
    groups = m.groupdict()
    name = groups["name"] or groups["env"]
    grade = strength(name)
    flag = bool(groups.get("flag")) or m.re is _SPACED
    if not grade:
        return None
    if grade == SOME and (flag or name.isupper() and not groups.get("space", "x") and m["sep"] == "="):
        grade = STRONG
    if flag and name == "pass":
        grade = STRONG
    quoted = _QUOTED.match(text, m.end(), m.end() + 8)
    if quoted:
        start = quoted.end()
        end = text.find(quoted["quote"], start, start + 8000)
        value = text[start : min(end, start + _LOOK)]
        if end < 0 or "\n" in value[:-1] and len(quoted["quote"].lstrip("\\")) == 1:
            return None
        code = "f" in quoted["prefix"].lower() and "{" in value
        code = code or (m.re is _NAMED and m["sep"] == "," and not listed(value))
        return (start, end) if not code and _secret(value, name, grade) else None
    if m.re is _NAMED and m["sep"] == ",":
        return None
    if m.re is _NAMED and m["sep"] == ":" and (block := re.compile(r"[|>][-+]?\d?\n[ \t]{1,20}").match(text, m.end())):
        start = block.end()
    else:
        start = m.end()
    bare = _BARE.match(text, start, start + _LOOK)
    if not bare or not _secret_bare(text, m, bare, name, grade):
        return None
    return start, _end(text, m, start, bare.end(), name)


def listed(value: str) -> bool:
    """Return whether a value behind a name in a list is one by its looks: names stand in lists, too."""
    return mixed(value) or not wordy(value)


def _secret(value: str, name: str, grade: int) -> bool:
    """Return whether a value in quotes is a secret of this grade."""
    if len(value) < 3 or value[0] in " ,)]}+" or _NOTHING.fullmatch(value) or value.endswith("removed]"):
        return False
    plain = wordy(value)
    if plain and set(split(value)) <= _NAMES:
        return False
    if grade == STRONG:
        return not (_NUMBER.fullmatch(value) and len(value) < 4)
    if ":" in value and "cred" in name.lower():
        return True
    if name.lower() == "pass":
        return len(value) > 5 and mixed(value) and " " not in value
    if grade == SOME:
        return len(value) >= 8 and not plain and " " not in value and (mixed(value) or len(value) >= 16) and not _NUMBER.fullmatch(value)
    return bool(_RANDOM.fullmatch(value)) and not plain and (not _HEXADECIMAL.fullmatch(value) or "sess" in name.lower()) or _pair(value, name)


def _pair(value: str, name: str) -> bool:
    """Return whether a value is base64 of a user and a password, as registries' `auth` is."""
    return name.lower().endswith("auth") and bool(re.fullmatch(r"[A-Za-z0-9+/]{8,}={0,2}", value)) and mixed(value) and not wordy(value)


def _secret_bare(text: str, m: re.Match[str], bare: re.Match[str], name: str, grade: int) -> bool:
    """Return whether a value without quotes is a secret: there an expression of code must be told from it."""
    value = bare[0]
    after = text[bare.end() : bare.end() + 1]
    if len(value) < 3 or _CALL.match(value) or _NOTHING.fullmatch(value) or value.startswith(("[", "(", "{", "-", "@", "=")):
        return False
    if _DOTTED.fullmatch(value) and wordy(value):
        return False
    spaced = m.re is _SPACED
    environment = name.isupper() and not m["space"] if not spaced else bool(m["env"])
    words = split(value)
    if wordy(value) and _SECRET_WORDS.intersection(words) and (_IDENTIFIER.fullmatch(value) or set(words) <= _NAMES):
        return False
    if _NUMBER.fullmatch(value) and not (grade == STRONG and len(value) >= 4 and strength(name) == STRONG and name.lower().endswith(_PASSWORDS)):
        return grade == STRONG and len(value) > 15
    if value.startswith("/") and value.count("/") > 1 or value.startswith("~/"):
        return False
    if grade < STRONG:
        return _secret(value, name, grade) and (mixed(value) or environment)
    identifier = bool(_IDENTIFIER.fullmatch(value)) and not re.search(r"\d", value) and wordy(value)
    header = "-" in name and not spaced
    if identifier and not environment and not header and not spaced:
        line = text[max(0, text.rfind("\n", 0, m.start()) + 1, m.start() - 200) : m.start()]
        if "_" in value or after and after in ",)]" and "(" in line:
            return False
        if m["sep"] == ":" and re.search(r"(?i)\b(?:enter|your|the|a|wrong|invalid|bad) $", line):
            return False
        if m["sep"] == ":" and (value.lower() in _STOP or value[0].isupper() and value.lower() not in ("winter", "summer")):
            return "passphrase" in name
        rest = text[bare.end() : bare.end() + 40].partition("\n")[0]
        if m["sep"] == ":" and re.match(r"[ \t]+[a-z]", rest):
            return "passphrase" in name.lower() or "_" in name or not line.strip() and not _STOP.intersection(rest.split())
    return True


def _end(text: str, m: re.Match[str], start: int, end: int, name: str) -> int:
    """Return where a value without quotes ends: a password may have spaces or signs that end other values."""
    if "passphrase" in name.lower() or (
        m.re is _NAMED and m["sep"] == ":" and strength(name) == STRONG and name.lower().endswith(_PASSWORDS) and not text[max(0, text.rfind("\n", 0, m.start()) + 1) : m.start()].strip()
    ):
        line = re.compile(r"[^\n\"'#%s]*" % _ANSI).match(text, start)
        return len(line[0].rstrip()) + start if line else end
    following = text[end : end + 2]
    if len(following) > 1 and following[0] in ";&)]}<>|,\\%" and not following[1].isspace() and following[0] not in "&\\;,":
        whole = _WHOLE.match(text, end)
        return whole.end() if whole else end
    return end


#: Parameters of signed and other URLs that open what the URL names.
_PARAMETERS = re.compile(
    r"(?i)(?P<keep>[?&;](?:amp;)?(?:[\w.-]{0,40}(?:token|secret|passwd|password|signature|credential|api[_-]?key|access[_-]?key(?:[_-]?id)?|"
    r"auth[_-]?key|keyid|key-pair-id|hmac|googleaccessid|ossaccesskeyid)|key|sig|sign|policy|code|auth|pass|pwd|pw|jwt|sid|session(?:id)?|"
    r"q-ak|q-sign\w{0,6}|se?cret|access_id|authkey|h-signature|hdnts|hdnea|hash_key)=)(?P<value>[^&\s\"'<>)\]\\`]+)"
)
_USERINFO = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]{1,20}://)(?P<user>[^\s/@\"'<>:?#()\[\]{}|\\]{0,200}+)(?P<password>:[^\s/\"'<>@]{0,400}+)?@")
_SHARE = re.compile(r"(?P<keep>file://)(?P<host>(?!localhost/)[A-Za-z][\w.-]{1,100})(?=/)")
_PLAIN_USERS = ("git", "hg", "svn", "anonymous", "")
_HOOKS = re.compile(
    r"(?P<keep>hooks\.slack(?:-gov)?\.com/(?:services|workflows|triggers)/|discord(?:app)?\.com/api/(?:v\d+/)?webhooks/|[\w-]{1,60}\.webhook\.office\.com/webhookb?2?/|"
    r"outlook\.office(?:365)?\.com/webhook/|maker\.ifttt\.com/(?:use/|trigger/[\w-]{1,60}/(?:json/)?with/key/)|hooks\.zapier\.com/hooks/catch/|"
    r"open\.(?:feishu\.cn|larksuite\.com)/open-apis/bot/v2/hook/|api\.telegram\.org/(?:file/)?bot|hook\.(?:eu1\.|us1\.)?make\.com/|"
    r"events\.pagerduty\.com/integration/|api\.opsgenie\.com/[\w/]{1,60}apiKey=|hooks\.[\w.-]{1,60}/hooks/)(?P<value>[^\s\"'<>)?]+)"
)


def urls(text: str, remove: Remove) -> str:
    """Take out of URLs who opens what with which key, and the whole path of those that are a key themselves."""
    if "=" in text:
        text = _PARAMETERS.sub(lambda m: m[0] if _plain(m) else m["keep"] + remove("URL with credentials", m["value"]), text)
    if "file://" in text:
        text = _SHARE.sub(lambda m: m["keep"] + remove("host name", m["host"]), text)
    if "://" in text:
        text = _USERINFO.sub(lambda m: _userinfo(m, remove), text)
    return _HOOKS.sub(lambda m: m["keep"] + remove("webhook", m["value"]), text) if "/" in text else text


def _plain(m: re.Match[str]) -> bool:
    value = m["value"]
    return value.startswith(("[", "{", "$")) or bool(_NOTHING.fullmatch(value[:_LOOK]))


def _userinfo(m: re.Match[str], remove: Remove) -> str:
    found = m["user"] + (m["password"] or "")
    if not m["password"] and m["user"] in _PLAIN_USERS or found.startswith(("[", "$", "{")) or found == "***":
        return m[0]
    return m["scheme"] + remove("URL with credentials", found) + "@"


def secret_value(name: str, value: str) -> bool:
    """Return whether what a mapping holds under this name is a secret."""
    lowered = name.lower()
    if lowered in ("authorization", "proxy-authorization", "cookie", "set-cookie"):
        return len(value) > 3 and not _NOTHING.fullmatch(value[:_LOOK]) and not value.startswith("[")
    grade = strength(name)
    return bool(grade) and _secret(value[:_LOOK], name, grade)
