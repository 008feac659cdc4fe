"""Settings under the names that they had in the last release."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from pydantic.fields import FieldInfo
from pydantic_settings import PydanticBaseSettingsSource

from service.setting_names import variable

#: New names by the old ones. A variable or a flag with an old name works for one release, with a
#: warning; remove it here after that.
RENAMED = {
    "max_uploads_bytes": "max_total_upload_bytes",
    "shed_steps": "min_steps_under_load",
}


def renamed_warning(old: str, new: str) -> str:
    """Return the warning for an old name of a variable or a flag."""
    return f"{old} is now {new}; the old name will not work in the next release"


class RenamedEnvironment(PydanticBaseSettingsSource):
    """Reads environment variables with old names; those with new names take precedence."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        return None, field_name, False  # `__call__` has all values at once

    def __call__(self) -> dict[str, Any]:
        return read_renamed(os.environ)


def read_renamed(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the values of variables with old names, by the new names of their settings."""
    values = {name.upper(): value for name, value in environment.items()}
    return {new: values[variable(old)] for old, new in RENAMED.items() if values.get(variable(old))}
