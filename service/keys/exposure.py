"""Whether others could use the service without a key."""

from __future__ import annotations

import ipaddress

from service.keys.key_file import Keys, KeysError
from service.settings import Settings


def check_exposure(settings: Settings, keys: Keys) -> None:
    """Raise KeysError for an address that other machines can reach, unless keys are set or
    `allow_anonymous` is."""
    if keys.api or settings.allow_anonymous or is_loopback(settings.host):
        return
    raise KeysError(
        f"on {settings.host or 'every address'} others could use the service without a key. "
        "Either set API keys (SCMRL_API_KEYS=name:key, or SCMRL_API_KEYS_FILE, --api-keys-file), "
        "or listen on this machine only (SCMRL_HOST, --host 127.0.0.1), or allow it "
        "(SCMRL_ALLOW_ANONYMOUS=true, --allow-anonymous)"
    )


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach `host`; of names, only localhost counts."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
