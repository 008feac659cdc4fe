"""`make pin-base` writes the digest that the base's tag has in its registry, or says why not."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.ci import load
from tests.conftest import ROOT

pin_base = load("pin_base")
DOCKERFILE = (ROOT / "docker" / "Dockerfile").read_text()
NO_BASE, NO_ANSWER = 1, 3

#: The index of a tag for two machines, with white space that a digest must count.
INDEX = json.dumps(
    {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [
            {
                "mediaType": "application/vnd.oci.image.manifest.v1+json",
                "digest": "sha256:" + machine * 64,
                "size": 500,
                "platform": {"architecture": name, "os": "linux"},
            }
            for machine, name in (("a", "amd64"), ("b", "arm64"))
        ],
    },
    indent=3,
).encode()
DIGEST = f"sha256:{hashlib.sha256(INDEX).hexdigest()}"


@pytest.fixture
def dockerfile(tmp_path: Path) -> Path:
    path = tmp_path / "Dockerfile"
    path.write_text(DOCKERFILE)
    return path


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder that is the only one to look for tools in."""
    folder = tmp_path / "tools"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    return folder


def make_tool(folder: Path, name: str, script: str) -> None:
    tool = folder / name
    tool.write_text(f"#!/bin/sh\n{script}\n")
    tool.chmod(0o755)


# --- the Dockerfile --------------------------------------------------------------------------


def test_both_stages_start_from_the_base_that_is_pinned() -> None:
    assert re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE) == ["${BASE}", "${BASE}"]
    base = pin_base.read_base(DOCKERFILE)
    assert re.fullmatch(r"python:\d+\.\d+\.\d+-slim-[a-z]+", base.name)
    assert base.digest is None or re.fullmatch(r"sha256:[0-9a-f]{64}", base.digest)


digests = st.text("0123456789abcdef", min_size=64, max_size=64).map("sha256:{}".format)


@given(digests, digests)
def test_a_digest_replaces_the_one_before_and_nothing_else(first: str, second: str) -> None:
    once = pin_base.pin(DOCKERFILE, first)
    again = pin_base.pin(once, second)
    name = pin_base.read_base(DOCKERFILE).name
    assert pin_base.read_base(again) == pin_base.Base(name, second)
    assert again.replace(f"@{second}", "") == re.sub(r"@sha256:[0-9a-f]{64}", "", DOCKERFILE)


def test_hadolint_finds_nothing_in_a_dockerfile_that_is_pinned(dockerfile: Path) -> None:
    dockerfile.write_text(pin_base.pin(DOCKERFILE, DIGEST))
    hadolint = Path(sys.executable).with_name("hadolint")
    completed = subprocess.run([hadolint, dockerfile], capture_output=True, text=True, check=False)
    assert completed.returncode == 0, completed.stdout + completed.stderr


@pytest.mark.parametrize(
    "text", ["FROM python:3.11\n", "ARG BASE=python\n", "ARG BASE=a:1\nARG BASE=b:1\n", ""]
)
def test_a_dockerfile_without_one_base_is_left_as_it_is(
    dockerfile: Path, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    dockerfile.write_text(text)
    assert pin_base.main(dockerfile) == NO_BASE
    assert dockerfile.read_text() == text
    assert "ARG BASE=name:tag" in capsys.readouterr().out


# --- skopeo, and a registry on this machine --------------------------------------------------


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Serve INDEX for every tag, as the registry that skopeo resolves names to; paths asked for."""
    requested: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            requested.append(self.path)
            body = INDEX if "/manifests/" in self.path else b"{}"
            self.send_response(200)
            self.send_header("Content-Type", "application/vnd.oci.image.index.v1+json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    settings = tmp_path / ".config" / "containers" / "registries.conf"
    settings.parent.mkdir(parents=True)
    settings.write_text(
        f'[[registry]]\nprefix = "*.io"\nlocation = "127.0.0.1:{server.server_port}"\n'
        "insecure = true\n"
    )
    monkeypatch.setenv("HOME", str(tmp_path))
    try:
        yield requested
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.skipif(shutil.which("skopeo") is None, reason="needs skopeo (apt-get install skopeo)")
def test_skopeo_gives_the_digest_of_the_index_for_all_machines(
    dockerfile: Path, registry: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    base = pin_base.read_base(DOCKERFILE)
    assert pin_base.main(dockerfile) == 0
    assert dockerfile.read_text() == pin_base.pin(DOCKERFILE, DIGEST)
    assert DIGEST in capsys.readouterr().out
    assert any(path.endswith(f"python/manifests/{base.name.split(':')[1]}") for path in registry)


# --- buildx, and no answer -------------------------------------------------------------------


def test_buildx_is_asked_where_skopeo_is_not_installed(dockerfile: Path, tools: Path) -> None:
    name = pin_base.read_base(DOCKERFILE).name
    make_tool(
        tools,
        "docker",
        f'[ "$1 $2 $3" = "buildx imagetools inspect" ] && [ "$6" = {name} ] && echo {DIGEST}',
    )
    assert pin_base.main(dockerfile) == 0
    assert pin_base.read_base(dockerfile.read_text()) == pin_base.Base(name, DIGEST)


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("echo no such host >&2; exit 1", "docker: no such host"),
        ("exit 1", "docker: no output"),
        ("exit 0", "docker: no output"),
        ("echo latest", "'latest' is not a digest"),
        (f"echo {DIGEST[:-1]}", "is not a digest"),
    ],
)
def test_without_an_answer_nothing_is_written_and_every_tool_says_why(
    dockerfile: Path, tools: Path, capsys: pytest.CaptureFixture[str], script: str, reason: str
) -> None:
    make_tool(tools, "docker", script)
    assert pin_base.main(dockerfile) == NO_ANSWER
    assert dockerfile.read_text() == DOCKERFILE
    printed = capsys.readouterr().out
    assert "skopeo: not installed" in printed
    assert reason in printed
