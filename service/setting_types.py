"""Types of settings whose values are checked beyond a range: devices, origins, addresses."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, SecretStr
from pydantic_settings import NoDecode

from model.device import DeviceError, check_name

#: Schemes of the addresses of Redis and Valkey.
_STORE_SCHEMES = ("redis://", "rediss://", "unix://")
#: An origin as browsers send it: one with a path or a slash would never match.
_ORIGIN = re.compile(r"\*|https?://[^\s/,*]+")


def _check_device(name: str) -> str:
    """Return the name of a device. Raises ValueError."""
    try:
        return check_name(name)
    except DeviceError as exc:
        raise ValueError(str(exc)) from None


def _check_store(address: SecretStr) -> SecretStr:
    """Return the address of a store of limits, or an empty one. Raises ValueError."""
    text = address.get_secret_value()
    if text and not text.startswith(_STORE_SCHEMES):
        raise ValueError(f"must begin with one of {', '.join(_STORE_SCHEMES)}")
    return address


def _parse_origins(value: Any) -> Any:
    """Parse origins separated by commas. Raises ValueError."""
    if not isinstance(value, str):
        return value
    origins = tuple(part.strip().lower() for part in value.split(",") if part.strip())
    for origin in origins:
        if not _ORIGIN.fullmatch(origin):
            raise ValueError(f"{origin!r} is neither * nor an origin like https://example.org")
    return origins


#: auto, cpu, cuda or cuda:N.
DeviceName = Annotated[str, AfterValidator(_check_device)]
#: Address of a Redis or Valkey, which may contain a password; empty for none.
StoreAddress = Annotated[SecretStr, AfterValidator(_check_store)]
#: Origins of web pages, or *; separated by commas in an environment variable.
Origins = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_parse_origins)]
