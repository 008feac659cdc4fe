"""What can be set, within which bounds, and what is said of anything else."""

from __future__ import annotations

import math
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from model.config import MAX_STEPS
from service.renamed_settings import RENAMED
from service.setting_names import flag, variable
from service.settings import Settings
from service.settings_messages import (
    OTHER_VARIABLES,
    describe_bounds,
    describe_error,
    variable_warnings,
)

NUMBERS = {
    name: field for name, field in Settings.model_fields.items() if field.annotation in (int, float)
}


def refusal(name: str, value: Any) -> str:
    """What is said of a setting of this value."""
    with pytest.raises(ValidationError) as caught:
        Settings(**{name: value})
    (error,) = caught.value.errors()
    assert error["loc"] == (name,)
    return describe_error(error)


def limits(name: str) -> dict[str, float]:
    marks = NUMBERS[name].metadata
    keys = ("gt", "ge", "lt", "le")
    return {
        key: getattr(m, key) for m in marks for key in keys if getattr(m, key, None) is not None
    }


def test_a_choice_is_accepted_in_any_case_and_another_value_refused_with_what_is_accepted() -> None:
    assert Settings(log_level="INFO").log_level == "info"  # type: ignore[arg-type]
    assert refusal("log_level", "loud") == (
        "'loud' is not valid; it must be one of debug, info, warning, error"
    )
    assert refusal("page", "maybe") == "'maybe' is not valid; it must be true or false"
    assert refusal("port", "abc") == "'abc' is not valid; it must be a whole number, 0 to 65535"


@pytest.mark.parametrize("name", NUMBERS)
def test_every_number_has_a_unit_and_finite_bounds(name: str) -> None:
    bounds = limits(name)
    assert bounds.keys() in ({"ge", "le"}, {"gt", "le"})
    assert all(math.isfinite(limit) and limit >= 0 for limit in bounds.values())
    assert bounds["le"] <= 1 << 40
    extra = NUMBERS[name].json_schema_extra
    assert name in ("port", "grpc_port") or (isinstance(extra, dict) and extra["unit"])
    assert describe_bounds(NUMBERS[name])


NONSENSE = ["inf", "-inf", "nan", "Infinity", "1e400", "-1", "-1e-9", "99999999999999", "9" * 5000,
            math.inf, -math.inf, math.nan, 1e308, 10**30, "a few", "0x10"]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", NUMBERS)
@settings(max_examples=25)
@given(value=st.sampled_from(NONSENSE) | st.floats(min_value=1 << 41) | st.floats(max_value=-1e-9))
def test_an_invalid_number_is_refused_with_its_bounds(name: str, value: Any) -> None:
    message = refusal(name, value)
    assert "it must be a" in message
    assert f"to {limits(name)['le']}" in message


@pytest.mark.slow
@pytest.mark.parametrize("name", NUMBERS)
@settings(max_examples=25)
@given(data=st.data())
def test_a_number_within_its_bounds_is_accepted(name: str, data: st.DataObject) -> None:
    bounds = limits(name)
    lowest, most = bounds.get("ge", bounds.get("gt")), bounds["le"]
    numbers = (
        st.integers(int(lowest or 0), int(most))
        if NUMBERS[name].annotation is int
        else st.floats(lowest, most, exclude_min="gt" in bounds)
    )
    value = data.draw(numbers)
    assert getattr(Settings(**{name: value}), name) == value
    assert getattr(Settings(**{name: str(value)}), name) == value


@pytest.mark.parametrize("name", ["max_steps", "min_steps_under_load"])
def test_time_steps_are_at_most_what_the_network_runs(name: str) -> None:
    assert getattr(Settings(**{name: MAX_STEPS}), name) == MAX_STEPS
    assert f"to {MAX_STEPS} steps" in refusal(name, str(MAX_STEPS + 1))


@pytest.mark.parametrize("device", ["auto", "cpu", "cuda", "cuda:0", "cuda:15"])
def test_a_device_name_is_accepted(device: str) -> None:
    assert Settings(device=device).device == device


@pytest.mark.parametrize(
    "device", ["foo", "CUDA", "cuda:", "cuda:-1", "cuda:x", "cpu:0", "mps", ""]
)
def test_an_unknown_device_is_refused_with_the_choices(device: str) -> None:
    message = refusal("device", device)
    assert "auto, cpu, cuda" in message
    assert "cuda:N" in message


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("SCMRL_MAX_BACTH", "did you mean SCMRL_MAX_BATCH?"),
        ("SCMRL_DEVCE", "did you mean SCMRL_DEVICE?"),
        ("scmrl_logformat", "did you mean SCMRL_LOG_FORMAT?"),
        ("SCMRL_APIKEYS", "did you mean SCMRL_API_KEYS?"),
        ("SCMRL_TELEPHONE", "`scmrl settings` lists all settings"),
    ],
)
def test_an_unknown_variable_is_reported_with_the_nearest_name(name: str, message: str) -> None:
    (warning,) = variable_warnings(["PATH", name, "SCMRL_PORT", "scmrl_host"])
    assert warning.startswith(f"{name} is not a setting")
    assert warning.endswith(message)


def test_settings_and_other_known_variables_cause_no_warning() -> None:
    variables = [f"SCMRL_{name.upper()}" for name in Settings.model_fields]
    assert variable_warnings([*variables, *OTHER_VARIABLES, "SCMRLX", "NOT_SCMRL_X"]) == []


@pytest.mark.parametrize(("old", "new"), RENAMED.items())
def test_an_old_name_of_a_variable_works_with_a_warning(
    old: str, new: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable(old).lower(), "4096" if new.endswith("bytes") else "3")
    assert getattr(Settings(), new) == (4096 if new.endswith("bytes") else 3)
    (warning,) = variable_warnings([variable(old)])
    assert warning.startswith(f"{variable(old)} is now {variable(new)}")
    monkeypatch.setenv(variable(new), "2048" if new.endswith("bytes") else "2")
    assert getattr(Settings(), new) == (2048 if new.endswith("bytes") else 2)


@pytest.mark.parametrize("old", RENAMED)
def test_an_old_name_is_not_a_setting_and_not_accepted_from_code(old: str) -> None:
    assert old not in Settings.model_fields
    assert flag(old) != flag(RENAMED[old])
    with pytest.raises(ValidationError):
        Settings(**{old: 4096})


def test_an_old_variable_with_an_invalid_value_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCMRL_SHED_STEPS", str(MAX_STEPS + 1))
    with pytest.raises(ValidationError, match="min_steps_under_load"):
        Settings()


def test_the_only_checkpoint_of_a_folder_is_the_default_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, expected in (("mine", "mine"), ("yours", "avdigits")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "card.json").write_text("{}")
        assert Settings(models=tmp_path).default_model == expected
    monkeypatch.setenv("SCMRL_MODELS", str(tmp_path / "nowhere"))
    assert Settings().default_model == "avdigits"
    (tmp_path / "yours" / "card.json").unlink()
    assert Settings(models=tmp_path, default_model="avdigits").default_model == "avdigits"


def test_a_folder_that_hangs_is_left_to_the_load(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Loading says within its time limit that it hangs; the settings must not wait for it."""
    listed = threading.Event()
    monkeypatch.setattr(Path, "glob", lambda *_: listed.wait(60) and [tmp_path / "mine/card.json"])
    monkeypatch.setattr("service.default_checkpoint._LIST_TIMEOUT_S", 0.2)
    try:
        assert Settings(models=tmp_path).default_model == "avdigits"
        assert not listed.is_set()
    finally:
        listed.set()
