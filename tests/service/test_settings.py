"""What can be set, within which bounds, and what is said of anything else."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from model.config import MAX_STEPS
from service.settings import ELSEWHERE, Settings, complaint, field_bounds, unknown_variables

NUMBERS = {
    name: field for name, field in Settings.model_fields.items() if field.annotation in (int, float)
}


def refusal(name: str, value: Any) -> str:
    """What is said of a setting of this value."""
    with pytest.raises(ValidationError) as caught:
        Settings(**{name: value})
    (error,) = caught.value.errors()
    assert error["loc"] == (name,)
    return complaint(error)


def limits(name: str) -> dict[str, float]:
    marks = NUMBERS[name].metadata
    keys = ("gt", "ge", "lt", "le")
    return {
        key: getattr(m, key) for m in marks for key in keys if getattr(m, key, None) is not None
    }


@pytest.mark.parametrize("name", NUMBERS)
def test_every_number_has_a_unit_and_finite_bounds(name: str) -> None:
    found = limits(name)
    assert found.keys() in ({"ge", "le"}, {"gt", "le"})
    assert all(math.isfinite(limit) and limit >= 0 for limit in found.values())
    assert found["le"] <= 1 << 40
    extra = NUMBERS[name].json_schema_extra
    assert name == "port" or (isinstance(extra, dict) and extra["unit"])
    assert field_bounds(NUMBERS[name])


NONSENSE = ["inf", "-inf", "nan", "Infinity", "1e400", "-1", "-1e-9", "99999999999999", "9" * 5000,
            math.inf, -math.inf, math.nan, 1e308, 10**30, "a few", "0x10"]  # fmt: skip


@pytest.mark.parametrize("name", NUMBERS)
@settings(max_examples=25)
@given(value=st.sampled_from(NONSENSE) | st.floats(min_value=1 << 41) | st.floats(max_value=-1e-9))
def test_a_number_that_makes_no_sense_is_refused_with_what_can_be(name: str, value: Any) -> None:
    told = refusal(name, value)
    assert "can be " in told
    assert f"to {limits(name)['le']}" in told


@pytest.mark.parametrize("name", NUMBERS)
@settings(max_examples=25)
@given(data=st.data())
def test_a_number_within_its_bounds_is_taken(name: str, data: st.DataObject) -> None:
    found = limits(name)
    lowest, most = found.get("ge", found.get("gt")), found["le"]
    numbers = (
        st.integers(int(lowest or 0), int(most))
        if NUMBERS[name].annotation is int
        else st.floats(lowest, most, exclude_min="gt" in found)
    )
    value = data.draw(numbers)
    assert getattr(Settings(**{name: value}), name) == value
    assert getattr(Settings(**{name: str(value)}), name) == value


@pytest.mark.parametrize("name", ["max_steps", "shed_steps"])
def test_time_steps_are_at_most_what_the_network_runs(name: str) -> None:
    assert getattr(Settings(**{name: MAX_STEPS}), name) == MAX_STEPS
    assert f"to {MAX_STEPS} steps" in refusal(name, str(MAX_STEPS + 1))


@pytest.mark.parametrize("device", ["auto", "cpu", "cuda", "cuda:0", "cuda:15"])
def test_a_device_may_be_named(device: str) -> None:
    assert Settings(device=device).device == device


@pytest.mark.parametrize(
    "device", ["foo", "CUDA", "cuda:", "cuda:-1", "cuda:x", "cpu:0", "mps", ""]
)
def test_another_device_is_refused_with_those_that_can_be(device: str) -> None:
    told = refusal("device", device)
    assert "auto, cpu, cuda" in told
    assert "cuda:N" in told


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("SCMRL_MAX_BACTH", "did you mean SCMRL_MAX_BATCH?"),
        ("SCMRL_DEVCE", "did you mean SCMRL_DEVICE?"),
        ("scmrl_logformat", "did you mean SCMRL_LOG_FORMAT?"),
        ("SCMRL_APIKEYS", "did you mean SCMRL_API_KEYS?"),
        ("SCMRL_TELEPHONE", "`scmrl settings` lists what there is"),
    ],
)
def test_a_variable_that_is_no_setting_is_told_with_the_nearest(name: str, told: str) -> None:
    (warning,) = unknown_variables(["PATH", name, "SCMRL_PORT", "scmrl_host"])
    assert warning.startswith(f"{name} is no setting")
    assert warning.endswith(told)


def test_settings_and_what_else_is_read_are_no_unknown_variables() -> None:
    known = [f"SCMRL_{name.upper()}" for name in Settings.model_fields]
    assert unknown_variables([*known, *ELSEWHERE, "SCMRLX", "NOT_SCMRL_X"]) == []
