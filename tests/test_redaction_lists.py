"""What must go goes, what must stay stays: lists of both kinds, sources of this project, and texts of 400 KB."""

from __future__ import annotations

import time

import pytest

from repros import ROOT
from repros.cases import Entry, find
from repros.errors import UserError
from repros.redaction.redact import Redactor
from repros.redaction.words import wordy
from repros.report import onefile
from repros.run import results
from tests.redaction import rows, secrets

AROUND = ("{}", "before {} after", "line\n{}\nline", '{{"x": "{}"}}')
SECRETS = [*secrets("secrets"), *secrets("held_out_secrets")]
INNOCENT = [*rows("innocent"), *rows("held_out_innocent")]
#: Missed and known: what a sentence says of a token (`FASTLY_API_TOKEN isn't`) is no value of it.
MISSED = 1


def left(text: str, parts: list[str]) -> list[str]:
    return [part for part in parts if part in Redactor().text(text)]


def test_the_lists_are_long_and_nothing_stands_in_two() -> None:
    assert len(SECRETS) > 450
    assert len(INNOCENT) > 450
    assert not {text for text, _ in SECRETS} & set(INNOCENT)
    assert all(parts for _, parts in SECRETS)


@pytest.mark.parametrize("around", AROUND[:3])
def test_secrets_go(around: str) -> None:
    missed = [(text, found) for text, parts in SECRETS if (found := left(around.format(text), parts))]
    assert len(missed) <= MISSED, missed


@pytest.mark.parametrize("around", AROUND)
def test_the_innocent_stay_to_the_letter(around: str) -> None:
    damaged = [
        (said, Redactor().text(said)) for text in INNOCENT if Redactor().text(said := around.format(text)) != said
    ]
    assert not damaged


def test_values_and_keys_of_json_are_looked_at_alone_and_together() -> None:
    """What is looked at in one go with others is removed as it is alone."""
    missed = []
    for text, parts in SECRETS:
        one = Redactor()
        one.look_ahead([text, "an innocent one", *INNOCENT[:5]])
        found = str(one.value({"a": [text], text: 1}))
        missed += [text for part in parts if part in found]
    assert len(missed) <= MISSED, missed


@pytest.mark.parametrize(
    ("value", "secret"),
    [
        ({"password": "hunter2"}, "hunter2"),
        ({"headers": {"X-Api-Key": "plainwords"}}, "plainwords"),
        ({"env": [["HF_TOKEN", "abcd1234efgh"]]}, "abcd1234efgh"),
        ({"Authorization": "Basic abcd"}, "abcd"),
        ({"cookie": "a=b"}, "a=b"),
    ],
)
def test_a_name_of_a_mapping_says_that_its_value_is_secret(value: object, secret: str) -> None:
    one = Redactor()
    assert secret not in str(one.value(value))
    assert one.removed


def test_what_a_mapping_calls_by_such_a_name_may_be_no_secret() -> None:
    value = {"token": "hello", "key": "layers.0.weight", "eos_token": "</s>", "password": None, "auth": True}
    assert Redactor().value(value) == value
    assert Redactor().value([["password", "auth"], ["key", "value"]]) == [["password", "auth"], ["key", "value"]]


def test_codes_of_a_terminal_stay_where_nothing_is_removed() -> None:
    text = "\x1b[31mFAILED\x1b[0m x[::2] \x1b]8;;https://pypi.org\x07torch\x1b]8;;\x07 \U00100000"
    assert Redactor().text(text) == text


def test_words_of_this_machine_are_found_inside_other_names() -> None:
    environ = {"HOME": "/home/miravoss", "USER": "miravoss", "HOSTNAME": "node3.ml.violet.example", "PIN": "x"}
    one = Redactor.here({**environ, "UV_INDEX_URL": "https://pkgs.nightjar.co.uk/simple"}, {})
    texts = [
        "/tmp/pytest-of-miravoss/x",
        "/tmp/miravoss-cache/x",
        "_miravoss_",
        "\x1b[1mmiravoss\x1b[0m",
        "a\\nmiravoss",
    ]
    texts += ["on node9.ml.violet.example", "www.violet.example", "from cdn.nightjar.co.uk"]
    for text in texts:
        found = one.text(text)
        assert "miravoss" not in found, text
        assert "violet" not in found, text
        assert "nightjar" not in found, text
    assert one.text("ultraviolet.example miravossen co.uk") == "ultraviolet.example miravossen co.uk"


def test_no_source_of_this_project_is_damaged() -> None:
    one = Redactor().for_sources()
    paths = sorted((ROOT / "repros").rglob("*.py"))
    assert len(paths) > 100
    assert not {str(path): found for path in paths if (found := one.finds(path.read_text(encoding="utf-8")))}


@pytest.fixture
def entry() -> Entry:
    return next(e for e in find() if e.name == "gh1935_saved_weight")


def script(entry: Entry, monkeypatch: pytest.MonkeyPatch, source: str) -> str:
    monkeypatch.setattr(onefile, "sources", lambda modules, without: iter([("x.py", source)]))
    record = next(r for r in results.load(results.REPORTS / "cpu")[0] if r.case == entry.name and r.arms)
    return onefile.Writer(Redactor()).of(record, entry).text()


def test_a_case_with_code_that_looks_secret_is_attached_as_it_is(entry: Entry, monkeypatch: pytest.MonkeyPatch) -> None:
    source = "\n".join(text for text in INNOCENT if "'''" not in text and "\x1b" not in text) + "\n"
    assert source in script(entry, monkeypatch, source)


def test_a_refusal_names_file_line_kind_and_how_the_text_begins(entry: Entry, monkeypatch: pytest.MonkeyPatch) -> None:
    source = "import torch\n\nTOKEN = 'ghp_" + "a1B2" * 9 + "'\npath = '/home/miravoss/x'\n"
    with pytest.raises(UserError) as caught:
        script(entry, monkeypatch, source)
    assert str(caught.value) == (
        "x.py:3: it would put something private into the script "
        "(`ghp_a1…` in line 3, GitHub token, `/hom…` in line 4, home path)\n"
        "hint: take it out of the source: a script cannot be redacted and still run"
    )


def test_an_address_that_is_refused_is_named_whole(entry: Entry, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that whoever wrote it sees whether it is one: the beginning of a short one says nothing."""
    source = "x = y[::2]\nz = 'fd12::7'\na = '10.20.30.40'\n"
    with pytest.raises(
        UserError, match=r"x\.py:2: .* \(`fd12::7` in line 2, IP address, `10\.20\.30\.40` in line 3, IP"
    ):
        script(entry, monkeypatch, source)


UNITS = (
    *("a", "A", "1", "aB3/", "dGVz", "é", " ", "\n", "\t", "-", "_", "'", '"', "=", ":", "::", "/", "\\", "[", "@"),
    *("a.", "1.", "a-", "a_", "a@", "x@", "(a@b)", "a:b@", "a:", "f:", "00:", "00-", "1.1.1.1.", "fe80:", "\x1b"),
    *("a://b", "://a:b@", "?key=", "&a=", "--token ", "password=", "password='", "password:", "password = a "),
    *("key=a,", "token=x ", "name: password", "auth=('a", "Cookie: ", "authorization: ", "Bearer ", "login "),
    *("machine a login ", "mysql a ", "docker ", "-u a:", "ssh ", "ssh -a ", "scp ", "/home/", "/scratch/a"),
    *("C:\\Users\\", "\\\\a", "~a/", "pytest-of-", "eyJ", "eyJa.", "ghp_", "SG.", "sk-", "$2y$", "\\ntoken"),
    *("-----BEGIN PRIVATE KEY", "Private-Lines: 1\n", "\x1b[31m", "a.internal.", "<password>"),
)
SIZE = 400_000
#: What a shared and busy processor may add, in seconds; a text below it is quick whatever the ratio.
FLOOR_S = 0.5


def seconds(text: str) -> float:
    begin = time.process_time()
    Redactor().text(text)
    return time.process_time() - begin


def least(text: str) -> float:
    """Return the least of three: what else runs on a core adds half to one of them."""
    return min(seconds(text) for _ in range(3))


@pytest.mark.slow
@pytest.mark.parametrize("unit", UNITS)
def test_time_is_linear_in_the_text(unit: str) -> None:
    """A word of 40 KB took five seconds."""
    text = (unit * (SIZE // len(unit) + 1))[:SIZE]
    whole = seconds(text)
    assert whole < 2
    # Eight times the text: a quadratic function takes 64 times as long, and a machine's noise and caches not twice 8.
    assert whole < FLOOR_S or least(text) < 16 * least(text[: SIZE // 8])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("AutoModelForCausalLM", True), ("layers.0.self_attn.q_proj", True), ("Llama-3-8b", True),
        ("Sam2VideoSession", True),
        ("a1B2a1B2a1B2", False), ("QwErTyUiOp", False), ("abcdefghijklmnopqrst", False), ("0123456789abcdef", False),
        ("a" + "-" * 150 + "9z9", False),
    ],
)  # fmt: skip
def test_words_are_told_from_random_texts(text: str, words: bool) -> None:
    assert wordy(text) is words
