"""Keys as members of a message: names, hashes and limits; no secret is in them."""

from __future__ import annotations

from typing import Any

from service.keys.key_file import Key, Keys


def members_of(keys: Keys) -> dict[str, Any]:
    """Return keys as JSON."""
    return {
        "api": [_member(key) for key in keys.api],
        "admin": None if keys.admin is None else _member(keys.admin),
    }


def keys_of(members: dict[str, Any]) -> Keys:
    """Return the keys of `members_of`."""
    admin = members["admin"]
    return Keys(tuple(map(_key, members["api"])), None if admin is None else _key(admin))


def _member(key: Key) -> list[Any]:
    return [key.name, key.digest.hex(), key.per_minute]


def _key(member: list[Any]) -> Key:
    name, digest, per_minute = member
    return Key(name, bytes.fromhex(digest), per_minute)
