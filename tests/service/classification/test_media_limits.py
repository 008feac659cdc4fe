"""The limits of files, some of which are settings."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from model.media.types import Limits
from service.classification.served_classifier import media_limits
from service.settings import Settings


def test_each_limit_that_is_a_setting_has_its_value() -> None:
    names = Limits.__dataclass_fields__.keys() & Settings.model_fields.keys()
    names -= {"threads"}  # the setting is the network's
    assert {"max_duration_s", "max_frame_shift", "max_pixels"} <= names
    changed: dict[str, Any] = {
        name: Settings.model_fields[name].default * 2 or 0.25 for name in names
    }
    limits = asdict(media_limits(Settings(max_steps=1, **changed)))
    assert {name: limits[name] for name in names} == changed
