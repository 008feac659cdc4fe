"""Check a key and its rate limit, for every protocol."""

from __future__ import annotations

from typing import Protocol

from service.errors import Error, Problem
from service.keys.key_file import Key, Keys
from service.keys.rate_limit import LocalRateLimits, RateLimits

_HEADER = "send `Authorization: Bearer KEY` (curl: -H 'Authorization: Bearer KEY')"


class CurrentKeys(Protocol):
    """The source of keys: a Keyring, or a copy of the one of another process."""

    @property
    def keys(self) -> Keys: ...


class KeyAdmission:
    """Finds the key of a request and applies its rate limit, which `limits` counts. Used by the
    event loop alone."""

    def __init__(self, keyring: CurrentKeys, limits: RateLimits | None = None) -> None:
        self._keyring = keyring
        self._limits = LocalRateLimits() if limits is None else limits

    @property
    def keys(self) -> Keys:
        """The current keys."""
        return self._keyring.keys

    async def admit(self, secret: bytes | None) -> Key | None:
        """Find and count the key of a request; None where no key is needed.

        Raises Problem KEY_NEEDED or RATE_LIMIT.
        """
        if not self.keys.api:
            return None
        key = self.find(secret)
        await self.count(key)
        return key

    def find(self, secret: bytes | None) -> Key:
        """Return the key of this secret. Raises Problem KEY_NEEDED."""
        if secret is None:
            raise Problem(Error.KEY_NEEDED, f"This path needs an API key: {_HEADER}.")
        key = self.keys.find(secret)
        if key is None:
            raise Problem(Error.KEY_NEEDED, f"Unknown API key: {_HEADER}.")
        return key

    async def count(self, key: Key) -> None:
        """Count a request. Raises Problem RATE_LIMIT."""
        if not key.per_minute:
            return
        wait_s = await self._limits.take(key.name, key.per_minute)
        if wait_s:
            detail = (
                f"The limit of {key.name!r} is {key.per_minute} requests per minute; "
                f"retry in {wait_s:.1f} s."
            )
            raise Problem(Error.RATE_LIMIT, detail, retry_after_s=wait_s)

    async def count_clips(self, key: Key | None, clips: int) -> None:
        """Count the clips of a request that has been counted as one.

        They are never refused: they overdraw the bucket of the key, and its next requests are
        refused until it has refilled.
        """
        if key is not None and key.per_minute and clips > 1:
            await self._limits.spend(key.name, key.per_minute, clips - 1)
