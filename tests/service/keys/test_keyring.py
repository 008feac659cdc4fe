"""Keys that change while the service runs."""

from __future__ import annotations

import signal
import threading
from pathlib import Path

import httpx
import pytest

from service.app import create_app
from service.keys import keyring
from service.keys.key_file import read
from service.keys.keyring import Keyring
from service.settings import Settings
from tests.service.process import Serve
from tests.service.running_server import listening, wait_until

ANNA, BERT = "anna-q7Zt4mXv9RkB2wLc8NpY", "bert-q7Zt4mXv9RkB2wLc8NpY"


def status(client: httpx.Client, key: str) -> int:
    return client.get("/v1/models", headers={"Authorization": f"Bearer {key}"}).status_code


@pytest.mark.slow
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
        wait_until(lambda: "cannot be reloaded" in caplog.text)
        assert status(client, BERT) == 200
        file.write_text(f"anna:{ANNA}:2\n")
        wait_until(lambda: status(client, BERT) == 401)
    assert caplog.text.count("cannot be reloaded") == 1


def test_a_hangup_reads_the_keys_again(serve: type[Serve], weights: Path, tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(f"anna:{ANNA}\n")
    service = serve("--models", weights, "--port", 0, "--api-keys-file", file)
    service.address()
    service.process.send_signal(signal.SIGHUP)
    wait_until(lambda: "keys reloaded" in service.logged)
    assert service.stop() == 0


class Watched:
    """A file with Anna's key, and the keyring that looks after it."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "keys"
        self.write(f"anna:{ANNA}\n")
        settings = Settings(api_keys_file=self.file)
        self.keyring = Keyring(settings, read(settings))

    def write(self, text: str) -> None:
        self.file.write_text(text)
        self.file.chmod(0o600)

    @property
    def names(self) -> list[str]:
        return [key.name for key in self.keyring.keys.api]


@pytest.fixture
def watched(tmp_path: Path) -> Watched:
    return Watched(tmp_path)


def test_a_file_is_read_once_it_has_stayed_the_same_for_a_look(watched: Watched) -> None:
    """Each half of it would be valid: `bert` without a limit is not what was meant."""
    whole = f"bert:{BERT}:30\ncarl:{BERT}carl\n"
    for length in (len(f"bert:{BERT}"), len(f"bert:{BERT}:3"), len(whole)):
        watched.write(whole[:length])
        watched.keyring.check()
        assert watched.names == ["anna"]
    watched.keyring.check()
    assert watched.names == ["bert", "carl"]
    assert watched.keyring.keys.api[0].per_minute == 30


@pytest.mark.parametrize("new", [f"bert:{BERT}\n", "bert:short\n"])
def test_what_was_read_while_the_file_changed_is_not_taken(
    watched: Watched, new: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def read_while_it_changes(settings: Settings) -> object:
        watched.write(watched.file.read_text() + "# more\n")
        return read(settings)

    watched.write(new)
    watched.keyring.check()
    with monkeypatch.context() as patch:
        patch.setattr(keyring, "read", read_while_it_changes)
        watched.keyring.check()
    assert watched.names == ["anna"]
    assert not caplog.records
    watched.keyring.check()
    watched.keyring.check()
    assert (watched.names == ["bert"]) == (new == f"bert:{BERT}\n")
    assert (len(caplog.records) == 1) == (new == "bert:short\n")


@pytest.mark.parametrize("bad", ["bert:short\n", "", f"anna:{ANNA}\nanna:{BERT}\n", "\0\xff"])
def test_a_file_that_cannot_be_used_keeps_the_old_keys_and_costs_one_line(
    watched: Watched, bad: str, caplog: pytest.LogCaptureFixture
) -> None:
    watched.write(bad)
    for _ in range(5):
        watched.keyring.check()
    watched.file.unlink()
    for _ in range(5):
        watched.keyring.check()
    assert watched.names == ["anna"]
    assert [record.levelname for record in caplog.records] == ["ERROR", "ERROR"]
    assert "No such file" in caplog.records[1].message
    watched.write(f"bert:{BERT}\n")
    watched.keyring.check()
    watched.keyring.check()
    assert watched.names == ["bert"]


def test_a_file_that_everybody_may_read_from_now_on_is_warned_of_once(
    watched: Watched, caplog: pytest.LogCaptureFixture
) -> None:
    watched.file.chmod(0o604)
    for _ in range(4):
        watched.keyring.check()
    assert [r.levelname for r in caplog.records if "every user may read" in r.message] == [
        "WARNING"
    ]


def test_an_unexpected_error_does_not_end_the_watching(
    watched: Watched, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    failed = threading.Semaphore(0)

    def fail(settings: Settings) -> object:
        failed.release()
        raise RuntimeError("an unexpected error")

    monkeypatch.setattr(keyring, "_CHECK_S", 0.01)
    monkeypatch.setattr(keyring, "read", fail)
    thread = threading.Thread(target=watched.keyring.watch, daemon=True)
    thread.start()
    watched.write(f"bert:{BERT}\n")
    for _ in range(3):
        assert failed.acquire(timeout=60)
    monkeypatch.setattr(keyring, "read", read)
    wait_until(lambda: watched.names == ["bert"])
    watched.keyring.stop()
    thread.join(60)
    assert not thread.is_alive()
    assert caplog.text.count("checking the keys failed") == 1
    assert "an unexpected error" in caplog.text
