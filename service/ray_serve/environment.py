"""The settings of replicas on Ray: what the deploying process passes on, and what each makes of it.
It does not need Ray."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping

from pydantic import SecretStr

from service.keys import key_file
from service.keys.exposure import check_exposure
from service.setting_names import variable
from service.settings import Settings

#: Variable by which the deploying process tells replicas that they need keys.
NEEDS_KEYS = "SCMRL_RAY_NEEDS_KEYS"

#: Settings that name a file or a folder.
_PATHS = ("models", "api_keys_file", "admin_key_file")


def passed_on(variables: Mapping[str, str], settings: Settings) -> dict[str, str]:
    """Return the variables that replicas get: the settings that are set, without secrets, which
    Ray would show to everyone who can see its jobs. Paths become absolute. Raises KeysError."""
    values = {}
    for name, field in Settings.model_fields.items():
        value = variables.get(variable(name))
        if value and field.annotation is not SecretStr:
            values[variable(name)] = os.path.abspath(value) if name in _PATHS else value
    if key_file.read(settings).api:
        values[NEEDS_KEYS] = "true"
    return values


def read_keys(variables: Mapping[str, str], settings: Settings) -> key_file.Keys:
    """Read the keys of a replica. Raises KeysError, also where it has none and should have."""
    keys = key_file.read(settings)
    if variables.get(NEEDS_KEYS) and not keys.api:
        raise key_file.KeysError(
            "the service was deployed with API keys, and this node has none: set SCMRL_API_KEYS "
            "where `ray start` runs, or give each node the file of SCMRL_API_KEYS_FILE"
        )
    check_exposure(settings, keys)
    return keys


def fitted(settings: Settings, resources: Mapping[str, float]) -> Settings:
    """Return the settings of a replica with these resources of Ray, which sets no affinity: by
    default, threads and decoding processes are as many as its CPUs."""
    cpus = max(1, math.ceil(resources.get("CPU", 1)))
    return settings.model_copy(
        update={
            "threads": settings.threads or cpus,
            "decode_workers": settings.decode_workers or cpus,
            "grpc_port": 0,  # replicas of a node would listen on the same
        }
    )
