"""The keys that may ask: read from the settings, kept as hashes, compared in constant time."""

from __future__ import annotations

import hashlib
import hmac
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from model.regular_file import read_regular
from service import guessing
from service.settings import Settings

#: The admin key's name in the log; no other key may have it.
ADMIN_NAME = "admin"

#: Fewest characters of a key: nothing slows down who guesses, so a key must not be guessable.
MIN_LENGTH = 20

_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
#: What RFC 6750 lets a bearer token be.
_SECRET = re.compile(r"[A-Za-z0-9._~+/=-]+")
#: What stands before the SHA-256 of a key, in hex, in the place of the key.
_HASHED = "sha256"
_HEX = re.compile(r"[0-9a-fA-F]{64}")
_SHAPE = (
    "`name:key` or `name:key:requests-per-minute`; `sha256:` and 64 hex digits can stand for a key"
)
_GOOD_SECRET = (
    f"at least {MIN_LENGTH} of A-Z a-z 0-9 . _ ~ + / = - (`openssl rand -hex 32` makes one)"
)


_WAIVER = "SCMRL_ALLOW_WEAK_KEYS=true takes it all the same"


class KeysError(Exception):
    """The keys that were set cannot be used. The message says where, and never quotes an entry."""


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
    """Every key of a service. Without `api` keys anybody may ask; without `admin` nobody rules."""

    api: tuple[Key, ...] = ()
    admin: Key | None = None

    def find(self, secret: bytes) -> Key | None:
        """The key with this secret.

        Hashes are compared, each in constant time and always all of them: how long it takes
        tells neither how much of a guess is right nor whose key it is close to.
        """
        digest = _digest(secret)
        found = None
        for key in (*self.api, *((self.admin,) if self.admin else ())):
            if hmac.compare_digest(key.digest, digest):
                found = key
        return found


def read(settings: Settings) -> Keys:
    """The keys of the settings and of the files that they name. Raises KeysError."""
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


def _parsed(text: str, source: str, default_per_minute: int, allow_weak: bool) -> Iterator[Key]:
    for number, entry in enumerate(_entries(text), start=1):
        where = f"{source}, entry {number}"
        name, secret, rate, *more = *entry.split(":"), "", ""
        if secret == _HASHED:
            secret, rate, more = f"{_HASHED}:{rate}", more[0], more[1:]
        if not secret or any(more):
            raise KeysError(f"{where}: must be {_SHAPE}")
        if not _NAME.fullmatch(name) or name == ADMIN_NAME:
            raise KeysError(
                f"{where}: the name must be 1 to 64 of A-Z a-z 0-9 . _ - and not {ADMIN_NAME!r}"
            )
        digest = _digest_of(secret, where, allow_weak)
        if rate and not (rate.isascii() and rate.isdecimal() and len(rate) < 10):
            raise KeysError(f"{where}: requests per minute must be a whole number, 0 for no limit")
        yield Key(name, digest, int(rate) if rate else default_per_minute)


def _entries(text: str) -> Iterator[str]:
    """What stands between commas and ends of lines, without comments."""
    for line in text.splitlines():
        for entry in line.split("#")[0].split(","):
            if entry.strip():
                yield entry.strip()


def _admin(settings: Settings) -> Key | None:
    text, file = settings.admin_key.get_secret_value(), settings.admin_key_file
    if text and file is not None:
        raise KeysError("SCMRL_ADMIN_KEY and SCMRL_ADMIN_KEY_FILE are both set; one is taken")
    if not text and file is None:
        return None
    source = "SCMRL_ADMIN_KEY" if file is None else f"{file} (SCMRL_ADMIN_KEY_FILE)"
    secret = (text if file is None else _text(file)).strip()
    return Key(ADMIN_NAME, _digest_of(secret, source, settings.allow_weak_keys))


def _digest_of(secret: str, where: str, allow_weak: bool) -> bytes:
    """The SHA-256 of a key, which is given as such or as that. Raises KeysError."""
    kind, _, digest = secret.partition(":")
    if kind == _HASHED and digest:
        if not _HEX.fullmatch(digest):
            raise KeysError(f"{where}: after {_HASHED}: there must be 64 hex digits")
        return bytes.fromhex(digest)
    if not _SECRET.fullmatch(secret):
        raise KeysError(f"{where}: the key must be {_GOOD_SECRET}, and nothing else")
    if not allow_weak and len(secret) < MIN_LENGTH:
        raise KeysError(f"{where}: the key must be {_GOOD_SECRET}; {_WAIVER}")
    if not allow_weak and guessing.bits(secret) < guessing.LEAST_BITS:
        raise KeysError(
            f"{where}: the key can be guessed, since it repeats or counts; it must be "
            f"{_GOOD_SECRET}; {_WAIVER}"
        )
    return _digest(secret.encode())


def _check_distinct(keys: list[Key]) -> None:
    """A name or a secret twice: the log could not say who asked, or the wrong limit would hold."""
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
        return read_regular(file).decode("utf-8-sig")
    except OSError as exc:
        raise KeysError(f"cannot read {file}: {exc.strerror}") from exc
    except UnicodeDecodeError:
        raise KeysError(f"{file} is not text in UTF-8") from None


def _digest(secret: bytes) -> bytes:
    return hashlib.sha256(secret).digest()
