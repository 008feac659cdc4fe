"""Keys from text and files, and what is said of text that holds none."""

from __future__ import annotations

import hashlib
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from service.keys.key_file import MAX_FILE_BYTES, Keys, KeysError, exposed, read, record
from service.settings import Settings

ANNA, BERT = "anna-q7Zt4mXv9RkB2wLc8NpY", "bert-q7Zt4mXv9RkB2wLc8NpY"


def keys(**changes: Any) -> Keys:
    return read(Settings(**changes))


def refusal(**changes: Any) -> str:
    with pytest.raises(KeysError) as refused:
        keys(**changes)
    assert "q7Zt4mXv9R" not in str(refused.value), "a key is quoted"
    return str(refused.value)


def test_each_key_has_a_name_and_a_limit_its_own_or_the_default() -> None:
    ring = keys(api_keys=f"anna:{ANNA}, bert:{BERT}:30\n\nc:{'C3' + BERT}:0", rate_limit_per_min=5)
    assert [(key.name, key.per_minute) for key in ring.api] == [
        ("anna", 5),
        ("bert", 30),
        ("c", 0),
    ]
    assert ring.find(ANNA.encode()) == ring.api[0]
    assert ring.find(BERT.encode()) == ring.api[1]
    for wrong in (b"", b"anna", ANNA[:-1].encode(), ANNA.upper().encode(), b"\xff" * 20):
        assert ring.find(wrong) is None


def test_keys_of_a_file_come_to_those_of_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "keys.txt"
    file.write_text(f"\ufeff# who: and, why\r\nbert:{BERT}:30  # of the lab\r\n\r\n", "utf-8")
    monkeypatch.setenv("SCMRL_API_KEYS", f"anna:{ANNA}")
    monkeypatch.setenv("SCMRL_API_KEYS_FILE", str(file))
    monkeypatch.setenv("SCMRL_ADMIN_KEY", "")
    ring = read(Settings())
    assert [(key.name, key.per_minute) for key in ring.api] == [("anna", 0), ("bert", 30)]
    assert ring.admin is None


def test_without_any_there_are_none() -> None:
    assert keys() == keys(api_keys=" ,\n# none\n") == Keys()


def test_the_admin_key_is_text_or_a_file(tmp_path: Path) -> None:
    file = tmp_path / "admin"
    file.write_text(f"{ANNA}\n")
    for changes in ({"admin_key": ANNA}, {"admin_key_file": file}):
        ring = keys(**changes)
        assert ring.admin is not None
        assert ring.find(ANNA.encode()) == ring.admin
        assert ring.admin.name == "admin"
    assert "both" in refusal(admin_key=ANNA, admin_key_file=file)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"anna:{ANNA},{BERT}", "entry 2: must be `name:key`"),
        (f"anna:{ANNA}:6:7", "`name:key:requests-per-minute`"),
        (f":{ANNA}", "the name must be"),
        (f"an na:{ANNA}", "the name must be"),
        (f"admin:{ANNA}", "not 'admin'"),
        ("anna:short", "at least 20"),
        ("anna:q7Zt4mXv9RkB 2wLc8NpY", "has other characters; it must be at least 20"),
        (f"anna:{ANNA}:-1", "whole number"),
        (f"anna:{ANNA}:²", "whole number"),
        (f"anna:{ANNA},anna:{BERT}", "two keys have the name 'anna'"),
        (f"anna:{ANNA},bert:{ANNA}", "'anna' and 'bert' have the same key"),
    ],
)
def test_text_that_is_no_key_is_named_by_its_place_and_not_quoted(text: str, message: str) -> None:
    assert message in refusal(api_keys=text)


def test_a_file_without_keys_is_named(tmp_path: Path) -> None:
    empty, binary, missing = (tmp_path / name for name in ("empty", "binary", "missing"))
    empty.write_text("# nobody yet\n")
    binary.write_bytes(b"\xff\xfe\x00")
    for file, message in ((empty, "no key"), (binary, "UTF-8"), (missing, "No such file")):
        for_api = refusal(api_keys_file=file)
        assert str(file) in for_api
        assert message in for_api
        assert str(file) in refusal(admin_key_file=file)
    assert "same key" in refusal(api_keys=f"anna:{ANNA}", admin_key=ANNA)


def test_keys_are_in_no_repr_and_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(api_keys=f"anna:{ANNA}", admin_key=BERT)
    for text in (repr(settings), str(settings), settings.model_dump_json(), repr(read(settings))):
        assert ANNA not in text
        assert BERT not in text
    with pytest.raises(ValueError, match="port") as refused:
        Settings(api_keys=f"anna:{ANNA}", port=-1)
    assert ANNA not in str(refused.value)
    with pytest.raises(ValueError, match="api_keys") as refused:
        Settings(api_keys=[ANNA])
    assert ANNA not in str(refused.value)


@pytest.mark.parametrize("origins", ["example.org", "https://a.org/", "https://*.a.org", "null"])
def test_an_origin_that_would_never_match_is_refused(origins: str) -> None:
    with pytest.raises(ValueError, match="neither"):
        Settings(cors_origins=origins)


@pytest.mark.parametrize("place", [0, 4, 31])
def test_a_key_is_found_by_its_whole_hash(place: int) -> None:
    (key,) = keys(api_keys=f"anna:{ANNA}").api
    digest = bytearray(key.digest)
    digest[place] ^= 1
    assert Keys((key,)).find(ANNA.encode()) is key
    assert Keys((replace(key, digest=bytes(digest)),)).find(ANNA.encode()) is None


def test_a_key_can_be_stored_as_its_hash(tmp_path: Path) -> None:
    digest, other = (hashlib.sha256(key.encode()).hexdigest() for key in (ANNA, BERT))
    stored = keys(api_keys=f"anna:sha256:{digest}:30", admin_key=f"sha256:{other.upper()}")
    assert stored.find(ANNA.encode()) == stored.api[0]
    assert stored.api[0].per_minute == 30
    assert stored.find(BERT.encode()) == stored.admin
    assert stored.find(digest.encode()) is None, "the hash is not the key"
    assert "64 hex digits" in refusal(api_keys=f"anna:sha256:{digest[1:]}")
    assert "64 hex digits" in refusal(admin_key="sha256:anna")
    assert "same key" in refusal(api_keys=f"anna:{ANNA},bert:sha256:{digest}")


@pytest.mark.parametrize(
    "weak",
    ["q7Zt4mXv9RkB2wLc8Np", "a" * 40, "my-secret-api-key-2026"],
)
def test_a_weak_key_is_refused_unless_waived(weak: str) -> None:
    for changes in ({"api_keys": f"anna:{weak}"}, {"admin_key": weak}):
        with pytest.raises(KeysError, match="SCMRL_ALLOW_WEAK_KEYS") as refused:
            keys(**changes)
        assert weak not in str(refused.value)
        assert keys(**changes, allow_weak_keys=True).find(weak.encode()) is not None


def test_a_key_file_that_everybody_may_write_or_that_is_a_fifo_is_refused(tmp_path: Path) -> None:
    file, fifo = tmp_path / "keys", tmp_path / "fifo"
    file.write_text(f"anna:{ANNA}\n")
    file.chmod(0o602)
    assert "chmod o-w" in refusal(api_keys_file=file)
    file.chmod(0o600)
    assert keys(api_keys_file=file).api
    os.mkfifo(fifo)
    assert "not a regular file" in refusal(api_keys_file=fifo)


@pytest.mark.parametrize(
    ("mode", "warning"),
    [
        (0o600, ""),
        (0o400, ""),
        (0o640, "its group may read it"),
        (0o620, "its group may write it"),
        (0o604, "every user may read it"),
        (0o664, "every user may read and its group may write and its group may read it"),
    ],
)
def test_a_key_file_that_others_may_read_is_warned_of(
    tmp_path: Path, mode: int, warning: str
) -> None:
    file = tmp_path / "keys"
    file.write_text(f"anna:{ANNA}\n")
    file.chmod(mode)
    settings = Settings(api_keys_file=file)
    assert read(settings).api
    warnings = list(exposed(settings))
    assert len(warnings) == bool(warning)
    assert all(f"{file} has keys, and {warning}; give it mode 0600" in one for one in warnings)
    assert list(exposed(Settings(admin_key_file=file))) == warnings


def test_a_key_file_that_is_too_large_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(f"anna:{ANNA}\n".ljust(MAX_FILE_BYTES, "\n"))
    assert keys(api_keys_file=file).api
    with file.open("a") as stream:
        stream.write("\n")
    assert f"at most {MAX_FILE_BYTES} are accepted" in refusal(api_keys_file=file)


@pytest.mark.parametrize("per_minute", [None, 0, 60])
def test_a_record_is_an_entry_for_its_key(per_minute: int | None) -> None:
    entry = record("anna", ANNA, per_minute)
    assert ANNA not in entry
    (key,) = keys(api_keys=entry, rate_limit_per_min=5).api
    assert (key.name, key.per_minute) == ("anna", 5 if per_minute is None else per_minute)
    assert Keys((key,)).find(ANNA.encode()) == key
    assert keys(admin_key=record("admin", ANNA)).find(ANNA.encode()) is not None


@pytest.mark.parametrize(
    ("name", "key", "per_minute", "problem"),
    [
        ("an:na", ANNA, None, "the name must be"),
        ("anna", "short", None, "at least 20"),
        ("anna", "my-secret-api-key-2026", None, "can be guessed"),
        ("admin", ANNA, 5, "no limit"),
    ],
)
def test_a_record_that_would_be_refused_is_not_made(
    name: str, key: str, per_minute: int | None, problem: str
) -> None:
    with pytest.raises(KeysError, match=problem):
        record(name, key, per_minute)
