r"""Keys and tokens that providers give out, told by their prefix; private keys; JSON web tokens.

The forms are facts, taken from the rules of gitleaks (https://github.com/gitleaks/gitleaks, MIT license,
Copyright (c) 2019 Zachary Rice) and from what the providers document. Lengths are lower bounds here: one that a
provider makes longer, or an old and shorter one, goes too. A body that is made of words is no key.
"""

from __future__ import annotations

import re

from repros.redaction import Remove
from repros.redaction.words import wordy

#: kind; prefixes, with a `*` where what stands before the prefix does not matter; what follows.
_TABLE = r"""
GitHub token       | *ghp_ *gho_ *ghu_ *ghs_ *ghr_ *github_pat_ | \w{16,}
GitLab token       | *glpat- *gldt- *glrt- *glcbt- *glptt- *glft- *glffct- *glimt- *glsoat- *glagent- *gloas- *glwt- | [\w.-]{16,}
GitLab token       | *GR1348941 | [\w-]{16,}
Bitbucket token    | *ATBB *ATCTT3 | [\w=-]{20,}
Hugging Face token | *hf_ *api_org_ | [A-Za-z0-9]{16,}
Anthropic key      | *sk-ant- | [\w-]{16,}
OpenAI key         | *sk-proj- *sk-svcacct- *sk-admin- *sk-or-v1- *sk-lf- *pk-lf- sess- sk- | [\w-]{20,}
Replicate token    | r8_ | [A-Za-z0-9]{20,}
Groq key           | *gsk_ | [A-Za-z0-9]{20,}
Perplexity key     | *pplx- | [A-Za-z0-9]{20,}
xAI key            | *xai- | [\w-]{20,}
Fireworks key      | fw_ fpk_ | [A-Za-z0-9]{20,}
Together key       | *tgp_v1_ | [\w-]{16,}
NVIDIA key         | *nvapi- | [\w-]{20,}
Weights & Biases key | *wandb_v1_ | \w{20,}
model service key  | *csk- *pcsk_ *lsv2_pt_ *lsv2_sk_ ls__ *tvly- *jina_ *rpa_ fc- *esecret_ *e2b_ *apify_api_ *KGAT_ pa- | [\w-]{16,}
AWS key            | *AKIA *ASIA *ABIA *ACCA *AROA *AIDA *APKA *ANPA *AGPA A3T | [A-Z0-9]{16,20}(?![A-Za-z0-9])
AWS key            | *ABSK | [A-Za-z0-9+/]{60,}={0,2}
AWS key            | *bedrock-api-key- | [A-Za-z0-9+/=]{16,}
AWS key            | *IQoJb3JpZ2lu *FwoGZXIvYXdz | [A-Za-z0-9+/=]{16,}
Google key         | *AIza | [\w-]{30,}
Google key         | *ya29. *GOCSPX- *1//0 | [\w-]{16,}
Google key         | AAAA | [\w-]{7}:APA91b[\w-]{30,}
Alibaba key        | *LTAI | [A-Za-z0-9]{12,}
Tencent key        | *AKID | [A-Za-z0-9]{28,}
Yandex key         | AQVN YCAJ YCM YCP t1. | [\w.=-]{34,}
IBM key            | *ibm_ | [\w-]{40,}
DigitalOcean token | *dop_v1_ *doo_v1_ *dor_v1_ | [0-9a-f]{32,}
Heroku key         | *HRKU- | [\w-]{30,}
Netlify token      | *nfp_ *nfc_ *nfo_ | [A-Za-z0-9]{20,}
Vercel token       | *vcp_ *vci_ *vca_ *vcr_ *vck_ | [A-Za-z0-9]{20,}
Cloudflare key     | *cfut_ *cfat_ *cfk_ | [\w-]{20,}
Cloudflare key     | v1.0- | [0-9a-f]{24}-[0-9a-f]{40,}
Fly token          | *fo1_ *fm1a_ *fm1r_ *fm2_ | [\w+/=-]{30,}
Render key         | rnd_ | [A-Za-z0-9]{20,}
Tailscale key      | *tskey- | [\w-]{16,}
New Relic key      | *NRAK- *NRJS- *NRII- *NRRA- *NRBR- | [A-Za-z0-9-]{16,}
Sentry token       | *sntrys_ *sntryu_ *sntrya_ *sntryi_ | [\w+/=]{16,}
Grafana token      | *glsa_ *glc_ | [\w+/=]{20,}
Grafana token      | *eyJrIjoi | [A-Za-z0-9]{30,}={0,3}
Honeycomb key      | *hcaik_ *hcbik_ *hcxik_ *hcxlk_ | [A-Za-z0-9]{20,}
Dynatrace token    | *dt0c01. *dt0s01. | [A-Za-z0-9.]{24,}
Sonar token        | sqp_ squ_ sqa_ | [0-9a-f]{40}
PostHog key        | phx_ phc_ phs_ | [A-Za-z0-9]{20,}
Linear key         | *lin_api_ *lin_oauth_ *lin_wh_ | [A-Za-z0-9]{20,}
Notion key         | *ntn_ | [A-Za-z0-9]{30,}
Notion key         | secret_ | [A-Za-z0-9]{30,}
Airtable token     | pat | [A-Za-z0-9]{14}\.[0-9a-f]{32,}
HubSpot token      | pat- | (?:na|eu|ap)\d-[0-9a-f-]{36}
Atlassian token    | *ATATT3 *ATCTT3 *ATSTT3 *ATTA | [\w=-]{20,}
Figma token        | *figd_ *figo_ *figu_ | [\w-]{20,}
Asana token        | *0/ *1/ *2/ | \d{10,}(?:/\d+)?:[0-9a-f]{32}
ClickUp token      | pk_ | \d{5,}_[A-Z0-9]{20,}
Slack token        | *xoxb- *xoxp- *xoxa- *xoxo- *xoxr- *xoxs- *xoxc- *xoxd- *xoxe- *xoxe.xox *xapp- *xwfp- | [\w%.-]{10,}
Telegram token     | | \d{8,10}:[A-Za-z0-9_-]{35}(?![\w-])
Discord token      | | [MNO][A-Za-z0-9_-]{22,27}\.[A-Za-z0-9_-]{6}\.[A-Za-z0-9_-]{27,}
Twilio key         | SK AC | [0-9a-fA-F]{32}(?![0-9a-zA-Z])
SendGrid key       | *SG. | [\w-]{16,}\.[\w-]{16,}
Mailgun key        | key- pubkey- | [0-9a-f]{32}
Mailchimp key      | | [0-9a-f]{32}-us\d{1,2}(?!\d)
Brevo key          | *xkeysib- *xsmtpsib- | [\w-]{20,}
Resend key         | re_ | [A-Za-z0-9]{8,}_[A-Za-z0-9]{16,}
Stripe key         | *sk_live_ *sk_test_ *sk_prod_ *rk_live_ *rk_test_ *rk_prod_ *pk_live_ *whsec_ | \w{10,}
Square key         | *sq0atp- *sq0csp- *sq0idp- *EAAAE *EAAAl | [\w-]{20,}
Facebook token     | *EAAM *EAAC *EAAG *EAAB | [A-Za-z0-9]{60,}
Shopify token      | *shpat_ *shpca_ *shppa_ *shpss_ *shpua_ | [0-9a-zA-Z]{20,}
PayPal token       | *access_token$ | (?:production|sandbox)\$[\w$]{20,}
Plaid token        | *access- | (?:sandbox|development|production)-[0-9a-f-]{36}
Razorpay key       | *rzp_live_ *rzp_test_ | [A-Za-z0-9]{10,}
Flutterwave key    | *FLWSECK *FLWPUBK | (?:_TEST)?-[A-Za-z0-9-]{12,}
EasyPost key       | *EZAK *EZTK | [A-Za-z0-9]{40,}
Shippo token       | *shippo_live_ *shippo_test_ | [0-9a-fA-F]{30,}
Duffel token       | *duffel_live_ *duffel_test_ | [\w=-]{30,}
Typeform token     | *tfp_ | [\w.=-]{40,}
Frame.io token     | *fio-u- | [\w=-]{40,}
ReadMe key         | *rdme_ | [a-z0-9]{40,}
Mapbox token       | *sk.eyJ *pk.eyJ *tk.eyJ | [\w.-]{20,}
Mapbox token       | pk. | [a-z0-9]{60}\.[a-z0-9]{22}
MaxMind key        | | [A-Za-z0-9]{6}_[A-Za-z0-9]{29}_mmk
npm token          | *npm_ | [A-Za-z0-9]{30,}
PyPI token         | *pypi- | [\w-]{16,}
RubyGems token     | *rubygems_ | [0-9a-f]{32,}
crates.io token    | cio | [A-Za-z0-9]{32}(?!\w)
NuGet key          | oy2 | [a-z0-9]{43}(?!\w)
Clojars token      | *CLOJARS_ | [a-z0-9]{40,}
Docker token       | *dckr_pat_ *dckr_oat_ | [\w-]{16,}
Artifactory token  | *AKCp *cmVmd | [A-Za-z0-9]{50,}
Databricks token   | *dapi *dose *dkea | [0-9a-f]{32}(?:-\d)?
PlanetScale token  | *pscale_tkn_ *pscale_pw_ *pscale_oauth_ | [\w=.-]{16,}
Supabase key       | *sbp_ *sb_secret_ *sb_publishable_ | \w{20,}
Neon key           | *napi_ | [a-z0-9]{30,}
MongoDB secret     | *mdb_sa_sk_ | [\w-]{20,}
ClickHouse key     | 4b1d | [A-Za-z0-9]{38}(?!\w)
Postman key        | *PMAK- *PMAT- | [A-Za-z0-9-]{20,}
Pulumi token       | *pul- | [0-9a-f]{32,}
Prefect key        | *pnu_ *pnb_ | [A-Za-z0-9]{30,}
Terraform token    | | [A-Za-z0-9]{10,20}\.atlasv1\.[\w=-]{40,}
Vault token        | *hvs. *hvb. *hvr. | [\w-]{16,}
Vault token        | s. b. r. | [A-Za-z0-9]{24}(?![\w(.\[])
Doppler token      | *dp.pt. *dp.st. *dp.ct. *dp.sa. *dp.scim. *dp.audit. | [\w.-]{20,}
1Password token    | *ops_eyJ | [\w+/=-]{16,}
1Password key      | A3- | [A-Z0-9]{6}-[A-Z0-9-]{20,}
age key            | *AGE-SECRET-KEY- | [A-Z0-9]{20,}
LaunchDarkly key   | sdk- mob- api- | [0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}
CircleCI token     | *CCIPAT_ *CCIPRJ_ | \w{16,}
Buildkite token    | *bkua_ *bkaj_ *bkct_ *bkpt_ | [0-9a-f]{20,}
Octopus key        | API- | [A-Z0-9]{20,}
Harness key        | pat. sat. | [\w-]{22}\.[A-Za-z0-9]{24}\.[A-Za-z0-9]{20}
Scalingo token     | *tk-us- | [\w-]{30,}
OpenShift token    | *sha256~ | [\w-]{40,}
Sourcegraph token  | *sgp_ | \w{40,}
SettleMint token   | *sm_aat_ *sm_pat_ *sm_sat_ | [A-Za-z0-9]{16}
Infracost key      | *ico- | [A-Za-z0-9]{32}
Okta token         | 00 | [A-Za-z0-9_-]{40}(?![\w-])(?=[\s\"';,]|$)
Azure secret       | | [\w.~-]{3}\dQ~[\w.~-]{30,}
Dropbox token      | sl. | [\w=-]{60,}
Adobe secret       | *p8e- | [a-z0-9]{32}
Authress key       | sc_ ext_ scauth_ authress_ | [A-Za-z0-9]{5,30}\.[A-Za-z0-9]{4,6}\.acc[_-][\w-]{10,32}\.[\w+/=-]{30,}
ngrok token        | 1 2 3 | [A-Za-z0-9]{26}_[A-Za-z0-9]{20,}
fal key            | | [0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}:[0-9a-f]{32}
JSON web token     | *ZXlK | [A-Za-z0-9+/]{60,}={0,2}
"""

#: Where a prefix that is short, or none, may begin: not inside a word; behind an escaped line end it does.
_LEFT = r"(?:(?<![A-Za-z0-9.+/])|(?<=\\[nrt]))"
#: Found from the start of what it stands in, so that a run of many such starts is read once.
_JWT = re.compile(r"(?<![\w-])(?P<keep>(?:(?!eyJ)[\w-])*+)eyJ[\w-]{8,}+(?:\.[\w-]*+){2,4}")
#: What every text of a form without a prefix has.
_HAS = {"Telegram": ":", "Discord": ".", "Mailchimp": "-us", "MaxMind": "_mmk", "Terraform": ".atlasv1.", "Azure": "Q~", "fal": "-"}


def _rows() -> list[tuple[str, str, re.Pattern[str]]]:
    """Return kind, what a text must have to be looked at, and the pattern; its group is what may not be words."""
    found = []
    for line in _TABLE.strip().splitlines():
        kind, prefixes, body = (part.strip() for part in line.split("|", 2))
        for prefix in prefixes.split() or [""]:
            left = "" if prefix.startswith("*") else _LEFT
            word = prefix.removeprefix("*")
            has = word or _HAS[kind.split()[0]]
            found.append((kind, has, re.compile(rf"{left}{re.escape(word)}({body})")))
    return found


_ROWS = _rows()
_PEM = re.compile(r"-----?[ ]?BEGIN[ A-Z0-9_-]{0,60}PRIVATE KEY(?: BLOCK)?[ ]?-{4,5}")
_PEM_END = re.compile(r"-----?[ ]?END[ A-Z0-9_-]{0,60}PRIVATE KEY(?: BLOCK)?[ ]?-{4,5}")
_PUTTY = re.compile(r"(?P<keep>Private-Lines: ?\d{1,5}\s{1,4})(?:[A-Za-z0-9+/=]{1,80}(?:\s|\\[nr]){1,4}){1,400}|(?P<mac>Private-MAC: ?)[0-9a-f]{16,}")
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
