"""Errors of invalid configurations, and properties of valid ones."""

from __future__ import annotations

import math
from typing import Any

import pytest
from pydantic import ValidationError
from torch.nn import ModuleDict

from model.config import _NAME, _RESERVED_NAMES, Config, StreamConfig
from model.network import SCMRL

AUDIO = {"channels": 1, "size": (32, 48)}
VISUAL = {"channels": 3, "size": (32, 48)}
FINE: dict[str, Any] = {
    "streams": {"audio": AUDIO, "visual": VISUAL},
    "classes": 10,
    "embed_dim": 16,
    "heads": 4,
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"streams": {}}, "streams: at least one is required"),
        ({"streams": {"au.dio": AUDIO}}, "'au.dio' cannot name a stream"),
        ({"streams": {"": AUDIO}}, "'' cannot name a stream"),
        ({"streams": {"training": AUDIO}}, "'training' cannot name a stream"),
        ({"streams": {"keys": AUDIO}}, "'keys' cannot name a stream"),
        ({"streams": {"audio": {**AUDIO, "channels": 0}}}, "streams.audio.channels"),
        ({"streams": {"audio": {**AUDIO, "size": (3, 48)}}}, "streams.audio.size.0"),
        ({"streams": {"audio": {**AUDIO, "size": (32, 2000)}}}, "less than or equal to 1024"),
        ({"streams": {"audio": {**AUDIO, "splitting": "flat"}}}, "streams.audio.splitting"),
        ({"streams": {"audio": {**AUDIO, "colour": 1}}}, "streams.audio.colour"),
        ({"classes": 1}, "classes"),
        ({"heads": 3}, "embed_dim 16 is not a multiple of heads 3"),
        ({"embed_dim": 20}, "embed_dim 20 is not a multiple of 8"),
        ({"mlp_ratio": 0.01}, "no hidden channel"),
        ({"mlp_ratio": math.inf}, "mlp_ratio"),
        ({"alpha": math.nan}, "alpha"),
        ({"attention": "both"}, "attention"),
        ({"fusion": "multiply"}, "fusion"),
        ({"depth": 0}, "depth"),
        ({"steps": 4}, "steps"),
    ],
)
def test_an_error_names_the_invalid_field(change: dict[str, Any], message: str) -> None:
    Config.model_validate(FINE)
    with pytest.raises(ValidationError) as raised:
        Config.model_validate({**FINE, **change})
    first = raised.value.errors()[0]
    assert message in f"{'.'.join(map(str, first['loc']))}: {first['msg']}"


def test_no_stream_is_named_as_an_attribute_of_what_holds_its_modules() -> None:
    attributes = {name for name in dir(ModuleDict()) if _NAME.fullmatch(name)}
    assert attributes <= _RESERVED_NAMES


@pytest.mark.parametrize("attention", ["temporal", "spatial-temporal"])
def test_temporal_attention_requires_equal_numbers_of_tokens(attention: str) -> None:
    streams = {"audio": AUDIO, "visual": {**VISUAL, "size": (32, 64)}}
    with pytest.raises(ValidationError, match=r"'audio': 6, 'visual': 8"):
        Config.model_validate({**FINE, "streams": streams, "attention": attention})
    Config.model_validate({**FINE, "streams": streams, "attention": "spatial"})
    Config.model_validate({**FINE, "streams": streams, "attention": None})


@pytest.mark.parametrize(
    ("size", "splitting", "grid"),
    [
        ((128, 128), "deep", (8, 8)),
        ((64, 144), "deep", (4, 9)),
        ((33, 16), "deep", (3, 1)),
        ((28, 28), "shallow", (7, 7)),
        ((13, 18), "shallow", (4, 5)),
    ],
)
def test_a_token_covers_16_or_4_pixels(
    size: tuple[int, int], splitting: str, grid: tuple[int, int]
) -> None:
    stream = StreamConfig.model_validate({"channels": 1, "size": size, "splitting": splitting})
    assert stream.grid == grid
    assert stream.tokens == grid[0] * grid[1]


def test_json_keeps_the_configuration_and_the_order_of_streams() -> None:
    config = Config.model_validate({**FINE, "streams": {"visual": VISUAL, "audio": AUDIO}})
    again = Config.model_validate_json(config.model_dump_json())
    assert again == config
    assert list(again.streams) == ["visual", "audio"]


def test_defaults_are_the_published_network() -> None:
    config = Config.model_validate({"streams": FINE["streams"], "classes": 6})
    assert (config.embed_dim, config.heads, config.mlp_ratio) == (256, 16, 4.0)
    assert (config.attention, config.alignment, config.alpha) == ("spatial-temporal", True, 1.5)
    assert (config.fusion, config.depth) == ("add", 1)


def test_every_allowed_stream_name_can_be_built() -> None:
    for name in ("tactile", "touch_2", "lidar"):
        config = Config.model_validate({**FINE, "streams": {"audio": AUDIO, name: VISUAL}})
        assert f"patch.{name}.position.conv.weight" in SCMRL(config).state_dict()
