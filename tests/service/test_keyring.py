"""Keys that change while the service runs."""

from __future__ import annotations

import signal
from pathlib import Path

import httpx
import pytest

from service.app import create_app
from service.settings import Settings
from tests.service.process import Serve
from tests.service.server import listening, wait_until

ANNA, BERT = "anna-q7Zt4mXv9RkB2wLc8NpY", "bert-q7Zt4mXv9RkB2wLc8NpY"


def status(client: httpx.Client, key: str) -> int:
    return client.get("/v1/models", headers={"Authorization": f"Bearer {key}"}).status_code


def test_a_changed_file_is_in_force_without_a_restart(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "keys"
    file.write_text(f"anna:{ANNA}:2\n")
    with listening(create_app(Settings(models=tmp_path, api_keys_file=file))) as client:
        assert [status(client, ANNA) for _ in range(3)] == [200, 200, 429]
        assert status(client, BERT) == 401
        file.write_text(f"anna:{ANNA}:2\nbert:{BERT}\n")
        wait_until(lambda: status(client, BERT) == 200)
        assert status(client, ANNA) == 429, "its limit was forgotten"
        file.write_text("bert:short\n")
        wait_until(lambda: "cannot be read again" in caplog.text)
        assert status(client, BERT) == 200
        file.write_text(f"anna:{ANNA}:2\n")
        wait_until(lambda: status(client, BERT) == 401)
    assert caplog.text.count("cannot be read again") == 1


def test_a_hangup_reads_the_keys_again(serve: type[Serve], weights: Path, tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(f"anna:{ANNA}\n")
    service = serve("--models", weights, "--port", 0, "--api-keys-file", file)
    service.address()
    service.process.send_signal(signal.SIGHUP)
    wait_until(lambda: "the keys have been read again" in service.logged)
    assert service.stop() == 0
