"""The page's files over HTTP: types, caching, policy, keys, and that they name what exists."""

from __future__ import annotations

import json
import re
import tomllib
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI

from service.app import create_app
from service.http.page.static_files import read_files
from service.settings import Settings
from tests.conftest import ROOT
from tests.service.asgi import ask

STATIC = ROOT / "service" / "http" / "page" / "static"
FILES = read_files()
URLS = ("/", *sorted(f"/page/{name}" for name in FILES if name != "index.html"))
SCRIPTS = sorted(name for name in FILES if name.endswith(".js"))


def app(**settings: Any) -> FastAPI:
    return create_app(Settings(models=Path("/nowhere"), **settings))


APP = app(api_keys="anna:q7Zt4mXv9RkB2wLc8NpY")
PAGE = FILES["index.html"].content.decode()


@pytest.mark.parametrize("url", URLS)
def test_files_need_no_key_and_are_asked_for_anew(url: str) -> None:
    answer = ask(APP, url)
    assert answer.status == 200
    assert answer.headers["Cache-Control"] == "no-cache"
    assert int(answer.headers["Content-Length"]) == len(answer.body) > 0
    etag = answer.headers["ETag"]
    for validator in (etag, f'"other", W/{etag}', "*"):
        revalidated = ask(APP, url, [(b"if-none-match", validator.encode())])
        assert (revalidated.status, revalidated.body) == (304, b""), validator
        assert revalidated.headers["ETag"] == etag
    assert ask(APP, url, [(b"if-none-match", b'"other"')]).status == 200


def test_each_file_has_a_validator_of_its_own() -> None:
    contents = {file.content for file in FILES.values()}
    assert len({file.etag for file in FILES.values()}) == len(contents)


@pytest.mark.parametrize(
    ("url", "media_type"),
    [("/", "text/html; charset=utf-8"), ("/page/page.js", "text/javascript; charset=utf-8"),
     ("/page/page.css", "text/css; charset=utf-8"), ("/page/icon.svg", "image/svg+xml"),
     ("/page/examples/digit-7.webm", "video/webm"), ("/page/examples/digit-7.jpg", "image/jpeg"),
     ("/page/settings.json", "application/json")],
)  # fmt: skip
def test_types_are_those_that_browsers_need(url: str, media_type: str) -> None:
    answer = ask(APP, url)
    assert answer.headers["Content-Type"] == media_type
    head = ask(APP, url, method="HEAD")
    assert (head.status, head.body) == (200, b"")
    assert head.headers["Content-Type"] == media_type


@pytest.mark.parametrize(
    "path",
    ["/page/nothing.js", "/page/index.html", "/page/", "/page/../settings.py", "/page//etc/passwd",
     "/page/examples", "/page/examples/NOTICE.md", "/page/static_files.py"],
)  # fmt: skip
def test_nothing_else_is_served(path: str) -> None:
    assert ask(APP, path).problem["status"] == 404


def test_the_policy_allows_own_files_only() -> None:
    headers = ask(APP, "/").headers
    policy = dict(
        part.strip().split(" ", 1) for part in headers["Content-Security-Policy"].split(";")
    )
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert policy["require-trusted-types-for"] == "'script'"
    assert "unsafe" not in str(policy)
    assert "http" not in str(policy)
    assert "camera=(self)" in headers["Permissions-Policy"]


class _Attributes(HTMLParser):
    """Collects each tag's attributes, and the text of scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.inline: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1][0] in ("script", "style") and data.strip():
            self.inline.append(data)


def test_the_page_has_nothing_that_its_policy_forbids() -> None:
    parsed = _Attributes(PAGE)
    assert [data for data in parsed.inline if "{" in data or "(" in data] == []
    for tag, attributes in parsed.tags:
        assert "style" not in attributes, tag
        assert not [name for name in attributes if name.startswith("on")], tag
    for name in SCRIPTS:
        text = FILES[name].content.decode()
        assert not re.search(r"innerHTML|insertAdjacentHTML|document\.write|\beval\(", text), name


def test_the_page_names_files_that_exist_and_nothing_elsewhere() -> None:
    links = [
        value
        for _, attributes in _Attributes(PAGE).tags
        for name, value in attributes.items()
        if name in ("href", "src") and value and not value.startswith("#")
    ]
    assert len(links) >= 4
    for link in links:
        assert not link.startswith(("/", "http")), "relative: a proxy may serve it below a path"
        assert ask(APP, f"/{link}").status == 200, link
    for name in (*SCRIPTS, "page.css"):
        text = re.sub(r"/\*.*?\*/", "", FILES[name].content.decode(), flags=re.DOTALL)
        assert not re.findall(r"https?://[\w.]+", text), name


def test_scripts_import_files_that_exist() -> None:
    for name in SCRIPTS:
        text = FILES[name].content.decode()
        for imported in re.findall(r'from "\./([\w.-]+)"|new URL\("([\w.-]+\.js)"', text):
            assert "".join(imported) in FILES, (name, imported)
    named = re.findall(
        r'"([\w-]+\.(?:webm|mp4|jpg|bs2|npz))"', FILES["examples.js"].content.decode()
    )
    assert {f"examples/{each}" for each in named} == {n for n in FILES if n.startswith("examples/")}


def test_ids_that_scripts_ask_for_are_in_the_page() -> None:
    ids = set(re.findall(r'\bid="([\w-]+)"', PAGE))
    assert len(ids) == PAGE.count(' id="'), "an id is there twice"
    for name in SCRIPTS:
        requested = set(re.findall(r'byId\("([\w-]+)"\)', FILES[name].content.decode()))
        assert requested <= ids, name


def test_the_examples_are_those_of_the_tests() -> None:
    """tests/data/make_examples.py copies them."""
    for name in (n for n in FILES if re.search(r"examples/.*(webm|mp4|bs2|npz)$", n)):
        folder = "events" if name.endswith(("bs2", "npz")) else "clips"
        original = ROOT / "tests" / "data" / folder / name.removeprefix("examples/")
        assert FILES[name].content == original.read_bytes()


def test_every_file_is_package_data() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    patterns = project["tool"]["setuptools"]["package-data"]["service.http.page"]
    packed = {path for pattern in patterns for path in STATIC.parent.glob(pattern)}
    assert {STATIC / name for name in FILES} <= packed
    assert STATIC / "examples" / "NOTICE.md" in packed


def test_the_page_learns_what_the_service_accepts() -> None:
    page_app = app(max_steps=8, max_file_bytes=4096, max_duration_s=2.5)
    limits = json.loads(ask(page_app, "/page/settings.json").body)
    assert limits.pop("version") == page_app.version
    assert limits == {"max_steps": 8, "max_file_bytes": 4096, "max_duration_s": 2.5}


def test_it_can_be_switched_off() -> None:
    off = app(page=False)
    root = ask(off, "/")
    assert (root.status, root.headers["Location"]) == (307, "docs")
    for path in ("/page/page.js", "/page/settings.json"):
        assert ask(off, path).status == 404
