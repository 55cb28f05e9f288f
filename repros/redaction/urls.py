"""URLs that carry a key, and those that are one themselves."""

from __future__ import annotations

import re

from repros.redaction import Remove
from repros.redaction.named import nothing

#: Parameters of signed and other URLs that open what the URL names.
_PARAMETERS = re.compile(
    r"(?i)(?P<keep>[?&;](?:amp;)?(?:[\w.-]{0,40}(?:token|secret|passwd|password|signature|credential|api[_-]?key|access[_-]?key(?:[_-]?id)?|"
    r"auth[_-]?key|keyid|key-pair-id|hmac|googleaccessid|ossaccesskeyid)|key|sig|sign|policy|code|auth|pass|pwd|pw|jwt|sid|session(?:id)?|"
    r"q-ak|q-sign\w{0,6}|se?cret|access_id|authkey|h-signature|hdnts|hdnea|hash_key)=)(?P<value>[^&\s\"'<>)\]\\`]+)"
)
_USERINFO = re.compile(
    r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]{1,20}://)(?P<user>[^\s/@\"'<>:?#()\[\]{}|\\]{0,200}+)(?P<password>:[^\s/\"'<>@]{0,400}+)?@"
)
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
        text = _PARAMETERS.sub(
            lambda m: m[0] if _plain(m) else m["keep"] + remove("URL with credentials", m["value"]), text
        )
    if "file://" in text:
        text = _SHARE.sub(lambda m: m["keep"] + remove("host name", m["host"]), text)
    if "://" in text:
        text = _USERINFO.sub(lambda m: _userinfo(m, remove), text)
    return _HOOKS.sub(lambda m: m["keep"] + remove("webhook", m["value"]), text) if "/" in text else text


def _plain(m: re.Match[str]) -> bool:
    value = m["value"]
    return value.startswith(("[", "{", "$")) or nothing(value)


def _userinfo(m: re.Match[str], remove: Remove) -> str:
    found = m["user"] + (m["password"] or "")
    if (not m["password"] and m["user"] in _PLAIN_USERS) or found.startswith(("[", "$", "{")) or found == "***":
        return m[0]
    return m["scheme"] + remove("URL with credentials", found) + "@"
