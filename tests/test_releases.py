"""Releases as indexes list them: both forms of a page, folders, configuration, and the ends of a walk."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from repros.bisect.releases import File, Places, Release, chosen, grouped, parse_html, parse_json, releases
from repros.cells.uv import Uv
from repros.errors import UserError

HTML = """<!DOCTYPE html><html><body>
<a href="../../files/demo_pkg-1.0-py3-none-any.whl#sha256=00" data-requires-python="&gt;=3.8">x</a>
<a href="demo_pkg-1.1-py3-none-any.whl" data-yanked="broken" data-upload-time="2026-01-02T03:04:05Z">x</a>
<a href="demo_pkg-2.0rc1-py3-none-any.whl">x</a>
<a href="other-9.9-py3-none-any.whl">x</a>
<a href="demo_pkg-3.0-py3-none-any.whl" data-requires-python="&gt;=99">x</a>
<a href="demo_pkg-3.1-py3-none-win_arm64.whl">x</a>
<a href="demo-pkg-3.2.tar.gz">x</a>
<a href="demo_pkg-4.0+cpu-py3-none-any.whl">x</a>
<a href="demo_pkg-4.1%2Bcpu-py3-none-any.whl">x</a>
</body></html>"""
JSON = {
    "meta": {"api-version": "1.1"},
    "name": "demo-pkg",
    "files": [
        {"filename": "demo_pkg-1.0-py3-none-any.whl", "upload-time": "2026-01-01T00:00:00Z", "yanked": False},
        {"filename": "demo_pkg-1.0.tar.gz", "upload-time": "2025-12-31T00:00:00Z"},
        {"filename": "demo_pkg-1.1-py3-none-any.whl", "yanked": "broken", "requires-python": ">=3.8"},
    ],
}


def by_version(found: tuple[Release, ...]) -> dict[str, Release]:
    return {str(release): release for release in found}


def test_html_page() -> None:
    found = by_version(grouped("demo.pkg", parse_html(HTML)))
    assert list(found) == ["1.0", "1.1", "2.0rc1", "3.0", "3.1", "3.2", "4.0", "4.1"]
    assert found["1.1"].yanked
    assert not found["1.0"].yanked
    assert found["1.1"].date == "2026-01-02"
    assert found["1.0"].date == "no date"
    assert found["2.0rc1"].pre
    assert found["1.0"].problem == ""
    assert found["3.0"].problem == "needs Python >=99"
    assert found["3.1"].problem == "no wheel for this platform and Python"
    assert found["3.2"].problem == "no wheel"


def test_json_page() -> None:
    found = by_version(grouped("demo-pkg", parse_json(json.dumps(JSON))))
    assert list(found) == ["1.0", "1.1"]
    assert found["1.0"].uploaded == "2025-12-31T00:00:00Z"
    assert (found["1.0"].yanked, found["1.1"].yanked) == (False, True)


def test_a_release_is_yanked_only_where_all_of_it_is() -> None:
    files = [File("a-1.0-py3-none-any.whl", yanked=True), File("a-1.0.tar.gz")]
    assert not grouped("a", files)[0].yanked


class _Index(http.server.BaseHTTPRequestHandler):
    """Serves the JSON page to who presents a password, and counts what comes without."""

    def do_GET(self) -> None:
        if self.headers.get("Authorization") != "Basic dXNlcjpzZWNyZXQ=":
            self.send_error(401)
        elif self.path != "/simple/demo-pkg/":
            self.send_error(404)
        else:
            body = json.dumps(JSON).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/vnd.pypi.simple.v1+json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def index() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Index)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


def uv(**environ: str) -> Uv:
    return Uv(("uv",), environ, (), "0")


def test_indexes_and_folders_that_are_configured(index: str, tmp_path: Path) -> None:
    page = tmp_path / "simple" / "demo-pkg"
    page.mkdir(parents=True)
    (page / "index.html").write_text('<a href="demo_pkg-7.0-py3-none-any.whl">x</a>')
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "demo_pkg-8.0-py3-none-any.whl").touch()
    found = releases(
        "demo-pkg",
        uv(
            UV_DEFAULT_INDEX=f"http://user:secret@{index}/simple",
            UV_INDEX=f"more={(tmp_path / 'simple').as_uri()}",
            UV_FIND_LINKS=str(tmp_path / "links"),
        ),
    )
    assert [str(release) for release in found] == ["1.0", "1.1", "7.0", "8.0"]


def test_unknown_package_bad_password_and_no_network(index: str) -> None:
    with pytest.raises(UserError, match="other: no index that is configured knows this package\nhint: one of: torch, "):
        releases("other", uv(UV_DEFAULT_INDEX=f"http://user:secret@{index}/simple"))
    with pytest.raises(UserError, match=r"\*\*\*@.*HTTP 401\nhint: check the index and its credentials") as caught:
        releases("demo-pkg", uv(UV_DEFAULT_INDEX=f"http://user:wrong-word@{index}/simple"))
    assert "wrong-word" not in str(caught.value)
    with pytest.raises(UserError, match="\nhint: check the network"):
        releases("demo-pkg", uv(UV_DEFAULT_INDEX="http://127.0.0.1:9/simple"))


def test_no_index_is_honoured() -> None:
    assert Places.of(Uv(("uv",), {"UV_DEFAULT_INDEX": "http://127.0.0.1:9/simple"}, ("--no-index",), "0")).indexes == ()


KNOWN = grouped(
    "a",
    [
        *(File(f"a-{v}-py3-none-any.whl") for v in ("1.0.0", "1.1.0", "1.3.0", "2.0.0", "2.1.0rc1")),
        File("a-1.2.0-py3-none-any.whl", yanked=True),
    ],
)


def names(*args: str | None, pre: bool = False) -> list[str]:
    first, last = args
    return [str(release) for release in chosen("a", KNOWN, first, last, pre=pre)]


def test_ends() -> None:
    assert names("1.0.0", "2.0.0") == ["1.0.0", "1.1.0", "1.3.0", "2.0.0"]
    assert names("1.2.0", None) == ["1.2.0", "1.3.0", "2.0.0"]
    assert names(None, None, pre=True)[-1] == "2.1.0rc1"
    assert names(None, "2.1.0rc1")[-1] == "2.1.0rc1"


@pytest.mark.parametrize(
    ("first", "last", "words"),
    [
        ("1.0.0", "1.0", "a: both ends are 1.0.0\nhint: name two releases"),
        ("2.0.0", "1.1.0", "a: the ends are in the wrong order: 2.0.0 is newer than 1.1.0\nhint: write `--from 1.1.0"),
        ("1.4.0", None, "a: there is no release 1.4.0\nhint: near it are 1.1.0, 1.2.0, 1.3.0"),
        ("new", None, "a: `new` is not a version\nhint: write one such as `2.1.0rc1`"),
    ],
)
def test_ends_that_cannot_be(first: str, last: str | None, words: str) -> None:
    with pytest.raises(UserError) as caught:
        chosen("a", KNOWN, first, last)
    assert str(caught.value).startswith(words)
