"""Keys from text and files, and what is said of text that holds none."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from service.keys import Keys, KeysError, read
from service.settings import Settings

ANNA, BERT = "anna-0123456789abcdef", "bert-0123456789abcdef"


def keys(**given: Any) -> Keys:
    return read(Settings(**given))


def refusal(**given: Any) -> str:
    with pytest.raises(KeysError) as told:
        keys(**given)
    assert "0123456789" not in str(told.value), "a key is quoted"
    return str(told.value)


def test_each_key_has_a_name_and_a_limit_its_own_or_the_default() -> None:
    found = keys(api_keys=f"anna:{ANNA}, bert:{BERT}:30\n\nc:{'c' * 16}:0", rate_limit_per_min=5)
    assert [(key.name, key.per_minute) for key in found.api] == [
        ("anna", 5),
        ("bert", 30),
        ("c", 0),
    ]
    assert found.find(ANNA.encode()) == found.api[0]
    assert found.find(BERT.encode()) == found.api[1]
    for wrong in (b"", b"anna", ANNA[:-1].encode(), ANNA.upper().encode(), b"\xff" * 20):
        assert found.find(wrong) is None


def test_keys_of_a_file_come_to_those_of_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "keys.txt"
    file.write_text(f"\ufeff# who: and, why\r\nbert:{BERT}:30  # of the lab\r\n\r\n", "utf-8")
    monkeypatch.setenv("SCMRL_API_KEYS", f"anna:{ANNA}")
    monkeypatch.setenv("SCMRL_API_KEYS_FILE", str(file))
    monkeypatch.setenv("SCMRL_ADMIN_KEY", "")
    found = read(Settings())
    assert [(key.name, key.per_minute) for key in found.api] == [("anna", 0), ("bert", 30)]
    assert found.admin is None


def test_without_any_there_are_none() -> None:
    assert keys() == keys(api_keys=" ,\n# none\n") == Keys()


def test_the_admin_key_is_text_or_a_file(tmp_path: Path) -> None:
    file = tmp_path / "admin"
    file.write_text(f"{ANNA}\n")
    for given in ({"admin_key": ANNA}, {"admin_key_file": file}):
        found = keys(**given)
        assert found.admin is not None
        assert found.find(ANNA.encode()) == found.admin
        assert found.admin.name == "admin"
    assert "both" in refusal(admin_key=ANNA, admin_key_file=file)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (f"anna:{ANNA},{BERT}", "entry 2: must be `name:key`"),
        (f"anna:{ANNA}:6:7", "`name:key:requests-per-minute`"),
        (f":{ANNA}", "the name must be"),
        (f"an na:{ANNA}", "the name must be"),
        (f"admin:{ANNA}", "not 'admin'"),
        ("anna:short", "at least 16"),
        ("anna:0123456789 abcdef", "at least 16"),
        (f"anna:{ANNA}:-1", "whole number"),
        (f"anna:{ANNA}:²", "whole number"),
        (f"anna:{ANNA},anna:{BERT}", "two keys have the name 'anna'"),
        (f"anna:{ANNA},bert:{ANNA}", "'anna' and 'bert' have the same key"),
    ],
)
def test_text_that_is_no_key_is_told_of_by_its_place_and_not_quoted(text: str, told: str) -> None:
    assert told in refusal(api_keys=text)


def test_a_file_without_keys_is_told_of_by_its_name(tmp_path: Path) -> None:
    empty, binary, missing = (tmp_path / name for name in ("empty", "binary", "missing"))
    empty.write_text("# nobody yet\n")
    binary.write_bytes(b"\xff\xfe\x00")
    for file, told in ((empty, "no key"), (binary, "UTF-8"), (missing, "No such file")):
        for_api = refusal(api_keys_file=file)
        assert str(file) in for_api
        assert told in for_api
        assert str(file) in refusal(admin_key_file=file)
    assert "same key" in refusal(api_keys=f"anna:{ANNA}", admin_key=ANNA)


def test_keys_are_in_no_repr_and_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(api_keys=f"anna:{ANNA}", admin_key=BERT)
    for shown in (repr(settings), str(settings), settings.model_dump_json(), repr(read(settings))):
        assert ANNA not in shown
        assert BERT not in shown
    with pytest.raises(ValueError, match="port") as told:
        Settings(api_keys=f"anna:{ANNA}", port=-1)
    assert ANNA not in str(told.value)
    with pytest.raises(ValueError, match="api_keys") as told:
        Settings(api_keys=[ANNA])
    assert ANNA not in str(told.value)


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
