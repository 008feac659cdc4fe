"""API keys and the admin key: read from settings and files, kept as hashes, compared in constant
time."""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from model.regular_file import read_regular
from service.keys import strength
from service.settings import Settings

#: The admin key's name in the log; no other key may have it.
ADMIN_NAME = "admin"

#: Minimum length of a key. Guesses are not rate-limited, so a key must not be guessable.
MIN_LENGTH = 20
#: Maximum size of a key file, in bytes.
MAX_FILE_BYTES = 1 << 20

_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
#: Bearer tokens by RFC 6750.
_SECRET = re.compile(r"[A-Za-z0-9._~+/=-]+")
#: Prefix of a hashed key: `sha256:` and its digest in hex.
_HASHED = "sha256"
_HEX = re.compile(r"[0-9a-fA-F]{64}")
_SHAPE = (
    "`name:key` or `name:key:requests-per-minute`; `sha256:` and 64 hex digits can stand for a key"
)
_GOOD_SECRET = (
    f"at least {MIN_LENGTH} characters of A-Z a-z 0-9 . _ ~ + / = - "
    "(`scmrl keys new` generates one)"
)
_WAIVER = "SCMRL_ALLOW_WEAK_KEYS=true accepts it anyway"
_BAD_NAME = f"the name must be 1 to 64 of A-Z a-z 0-9 . _ - and not {ADMIN_NAME!r}"


class KeysError(Exception):
    """Keys cannot be used. The message says where, and never quotes an entry."""


@dataclass(frozen=True)
class Key:
    """One key: its `name` for the log, the SHA-256 of its secret, and its limit.

    `per_minute` is in requests, 0 for none.
    """

    name: str
    digest: bytes = field(repr=False)
    per_minute: int = 0


@dataclass(frozen=True)
class Keys:
    """All keys of a service. Without `api` keys no key is needed; without `admin` there is no
    /v1/admin."""

    api: tuple[Key, ...] = ()
    admin: Key | None = None

    def find(self, secret: bytes) -> Key | None:
        """Return the key with this secret, or None.

        All hashes are compared, each in constant time, so that timing discloses nothing.
        """
        digest = _digest(secret)
        owner = None
        for key in (*self.api, *((self.admin,) if self.admin else ())):
            if hmac.compare_digest(key.digest, digest):
                owner = key
        return owner


def read(settings: Settings) -> Keys:
    """Read the keys of the settings and of the files that they name. Raises KeysError."""
    default, weak = settings.rate_limit_per_min, settings.allow_weak_keys
    api = list(_parsed(settings.api_keys.get_secret_value(), "SCMRL_API_KEYS", default, weak))
    file = settings.api_keys_file
    if file is not None:
        of_file = list(_parsed(_text(file), str(file), default, weak))
        if not of_file:
            raise KeysError(f"{file} (SCMRL_API_KEYS_FILE) has no key; one is {_SHAPE}")
        api += of_file
    admin = _admin(settings)
    _check_distinct([*api, *([admin] if admin else [])])
    return Keys(tuple(api), admin)


def exposed(settings: Settings) -> Iterator[str]:
    """Yield a warning for each key file with permissions wider than the service needs."""
    for file in (settings.api_keys_file, settings.admin_key_file):
        try:
            status = file.stat() if file is not None else None
        except OSError:
            continue  # `read` reports it
        users = list(_users_of(status)) if status is not None else []
        if users:
            yield (
                f"{file} has keys, and {' and '.join(users)} it; give it mode 0600, or 0640 where "
                "the service reads it as a member of its group"
            )


def _users_of(status: os.stat_result) -> Iterator[str]:
    if status.st_mode & stat.S_IROTH:
        yield "every user may read"
    if status.st_mode & stat.S_IWGRP:
        yield "its group may write"
    if status.st_mode & stat.S_IRGRP and status.st_uid == os.geteuid():
        yield "its group may read"


def record(name: str, secret: str, per_minute: int | None = None, allow_weak: bool = False) -> str:
    """Return the entry of a key file for a key, with the SHA-256 of its secret.

    `name` is the client's, or ADMIN_NAME for the content of SCMRL_ADMIN_KEY_FILE. `per_minute` is
    the limit in requests per minute, None for the service's default. Raises KeysError.
    """
    hashed = f"{_HASHED}:{_digest_of(secret, f'key of {name}', allow_weak).hex()}"
    if name == ADMIN_NAME:
        if per_minute is not None:
            raise KeysError("the admin key has no limit")
        return hashed
    if not _NAME.fullmatch(name):
        raise KeysError(_BAD_NAME)
    return f"{name}:{hashed}" + ("" if per_minute is None else f":{per_minute}")


def _parsed(text: str, source: str, default_per_minute: int, allow_weak: bool) -> Iterator[Key]:
    for number, entry in enumerate(_entries(text), start=1):
        where = f"{source}, entry {number}"
        name, secret, rate, *more = *entry.split(":"), "", ""
        if secret == _HASHED:
            secret, rate, more = f"{_HASHED}:{rate}", more[0], more[1:]
        if not secret or any(more):
            raise KeysError(f"{where}: must be {_SHAPE}")
        if not _NAME.fullmatch(name) or name == ADMIN_NAME:
            raise KeysError(f"{where}: {_BAD_NAME}")
        digest = _digest_of(secret, where, allow_weak)
        if rate and not (rate.isascii() and rate.isdecimal() and len(rate) < 10):
            raise KeysError(f"{where}: requests per minute must be a whole number, 0 for no limit")
        yield Key(name, digest, int(rate) if rate else default_per_minute)


def entry_names(text: str) -> set[str]:
    """Return the names of the entries of a key file; `sha256` where it has the admin key."""
    return {entry.partition(":")[0] for entry in _entries(text)}


def _entries(text: str) -> Iterator[str]:
    """Yield the entries between commas and line ends, without comments."""
    for line in text.splitlines():
        for entry in line.split("#")[0].split(","):
            if entry.strip():
                yield entry.strip()


def _admin(settings: Settings) -> Key | None:
    text, file = settings.admin_key.get_secret_value(), settings.admin_key_file
    if text and file is not None:
        raise KeysError("SCMRL_ADMIN_KEY and SCMRL_ADMIN_KEY_FILE are both set; set one of them")
    if not text and file is None:
        return None
    source = "SCMRL_ADMIN_KEY" if file is None else f"{file} (SCMRL_ADMIN_KEY_FILE)"
    secret = (text if file is None else _text(file)).strip()
    return Key(ADMIN_NAME, _digest_of(secret, source, settings.allow_weak_keys))


def _digest_of(secret: str, where: str, allow_weak: bool) -> bytes:
    """Return the SHA-256 of `secret`, a key or `sha256:` and its digest. Raises KeysError."""
    kind, _, digest = secret.partition(":")
    if kind == _HASHED and digest:
        if not _HEX.fullmatch(digest):
            raise KeysError(f"{where}: after {_HASHED}: there must be 64 hex digits")
        return bytes.fromhex(digest)
    if not _SECRET.fullmatch(secret):
        fault = "has other characters" if secret else "is empty"
        raise KeysError(f"{where}: the key {fault}; it must be {_GOOD_SECRET}")
    if not allow_weak and len(secret) < MIN_LENGTH:
        raise KeysError(f"{where}: the key must be {_GOOD_SECRET}; {_WAIVER}")
    if not allow_weak and strength.is_guessable(secret):
        raise KeysError(
            f"{where}: the key can be guessed, since it is made of words, rows of a keyboard, "
            f"sequences, repeats or dates; it must be {_GOOD_SECRET}; {_WAIVER}"
        )
    return _digest(secret.encode())


def _check_distinct(keys: list[Key]) -> None:
    """Raise KeysError for a repeated name or secret: the log and the limits would be ambiguous."""
    names: set[str] = set()
    named: dict[bytes, str] = {}
    for key in keys:
        if key.name in names:
            raise KeysError(f"two keys have the name {key.name!r}; names must differ")
        if key.digest in named:
            raise KeysError(
                f"{named[key.digest]!r} and {key.name!r} have the same key; keys must differ"
            )
        names.add(key.name)
        named[key.digest] = key.name


def _text(file: Path) -> str:
    try:
        if file.stat().st_mode & stat.S_IWOTH:
            raise KeysError(f"every user may write {file}; `chmod o-w` it")
        return read_regular(file, MAX_FILE_BYTES).decode("utf-8-sig")
    except OSError as exc:
        raise KeysError(f"cannot read {file}: {exc.strerror}") from exc
    except UnicodeDecodeError:
        raise KeysError(f"{file} is not text in UTF-8") from None


def _digest(secret: bytes) -> bytes:
    return hashlib.sha256(secret).digest()
