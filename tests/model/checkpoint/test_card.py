"""Every number of a card has bounds, and what is within them can be built and computed with."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from model.checkpoint import CARD, Card, CheckpointError, Measurement, Training, read_card
from model.config import Config
from model.media.types import Pictures, Sound
from model.network import SCMRL
from model.preprocess.frames import prepare_frames
from model.preprocess.specs import FrameSpec, SpectrogramSpec
from model.preprocess.spectrogram import prepare_spectrogram
from model.training.avdigits.task import AVDigits
from model.training.options import TrainOptions
from model.training.training_card import make_card

Path_ = tuple[str | int, ...]

#: A card with every optional number set.
WHOLE = make_card(TrainOptions.of(AVDigits(), Path("data")), 3).model_copy(
    update={
        "training": Training(command="scmrl", seed=1, epochs=3),
        "accuracy": (
            Measurement(what="all", value=0.5, low=0.4, high=0.6, n=10, conditions="none"),
        ),
    }
)
CONTENT: dict[str, Any] = json.loads(WHOLE.model_dump_json())
CONTENT["streams"]["visual"] |= {
    "fit": "crop", "resize_shorter": 128, "background": "none", "resize": "antialias",
}  # fmt: skip
CONTENT["config"]["streams"]["visual"]["channels"] = 3

#: As they stand in a file of JSON.
HUGE = (
    "1e308", "-1e308", "1e300", "1e999", "-1e999", "NaN", "Infinity", "-Infinity",
    "9" * 30, "-" + "9" * 30, "9" * 400,
)  # fmt: skip


def numbers(value: Any, path: Path_ = ()) -> Iterator[Path_]:
    """Where the numbers of a JSON value are."""
    if isinstance(value, dict):
        for name, part in value.items():
            yield from numbers(part, (*path, name))
    elif isinstance(value, list):
        for index, part in enumerate(value):
            yield from numbers(part, (*path, index))
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield path


NUMBERS = list(numbers(CONTENT))


def numeric_schemas(schema: Any, path: Path_ = ()) -> Iterator[tuple[Path_, dict[str, Any]]]:
    """The parts of a JSON schema that describe numbers."""
    if isinstance(schema, dict):
        if schema.get("type") in ("number", "integer"):
            yield path, schema
        for name, part in schema.items():
            yield from numeric_schemas(part, (*path, name))
    elif isinstance(schema, list):
        for index, part in enumerate(schema):
            yield from numeric_schemas(part, (*path, index))


def test_the_schema_of_a_card_bounds_every_number_on_both_sides() -> None:
    schemas = dict(numeric_schemas(Card.model_json_schema()))
    assert len(schemas) > 30
    for path, schema in schemas.items():
        assert schema.keys() & {"minimum", "exclusiveMinimum"}, path
        assert schema.keys() & {"maximum", "exclusiveMaximum"}, path


def test_the_whole_card_is_accepted(tmp_path: Path) -> None:
    (tmp_path / CARD).write_text(json.dumps(CONTENT))
    assert read_card(tmp_path).accuracy == WHOLE.accuracy


@given(path=st.sampled_from(NUMBERS), value=st.sampled_from(HUGE))
@settings(max_examples=200)
def test_a_number_out_of_bounds_is_refused_by_its_field(
    tmp_path_factory: pytest.TempPathFactory, path: Path_, value: str
) -> None:
    content = json.loads(json.dumps(CONTENT))
    part = content
    for name in path[:-1]:
        part = part[name]
    part[path[-1]] = "@"
    folder = tmp_path_factory.mktemp("card")
    (folder / CARD).write_text(json.dumps(content).replace('"@"', value))
    with pytest.raises(CheckpointError) as raised:
        read_card(folder)
    named = raised.value.field.split(".")
    # Streams are told apart by their kind, which pydantic names as well.
    assert [part for part in named if part not in ("spectrogram", "frames")] == list(map(str, path))


LIMITS = [
    (schema.get("minimum"), schema.get("maximum"), path[-1])
    for path, schema in numeric_schemas(Config.model_json_schema()["properties"])
    if path[-1] in Config.model_fields
]


@pytest.mark.slow
@given(data=st.data())
@settings(max_examples=60)
def test_a_network_within_the_bounds_can_be_built(data: st.DataObject) -> None:
    """Without memory behind its weights: their shapes are what a checkpoint is compared with."""
    fields = json.loads(WHOLE.config.model_dump_json())
    assert len(LIMITS) == 6
    for least, most, name in LIMITS:
        values = [fields[name], *(x for x in (least, most) if x is not None)]
        fields[name] = data.draw(st.sampled_from(values), label=str(name))
    try:
        config = Config.model_validate(fields)
    except ValidationError:
        return
    with torch.device("meta"):
        network = SCMRL(config)
    assert network.head.weight.shape[0] == config.classes


WEIGHTS = Path(__file__).parents[3] / "weights" / "avdigits"
#: Preprocessing in the card of avdigits 2.0.0.
OLD_STREAMS: dict[str, dict[str, Any]] = {
    "audio": {
        "kind": "spectrogram", "sample_rate": 8000, "n_fft": 256, "hop": 60, "resampler": "soxr",
        "level": "peak", "mel_bands": 64, "fmin": 60.0, "fmax": 3900.0, "log_floor": 1e-7,
        "scale": "ln", "range_db": 28.0, "floor_percentile": 10.0, "floor_share": 1.0,
        "window_s": 1.44, "clip": [0.0, 5.0], "mean": 0.0, "std": 5.0, "size": [64, 192],
        "resize": "none",
    },
    "visual": {
        "kind": "frames", "fit": "pad", "resize_shorter": None, "ground": "median",
        "resize": "area", "size": [96, 128], "mean": [0.0, 0.0, 0.0], "std": [1.0, 1.0, 1.0],
        "frames": "spread",
    },
}  # fmt: skip


def _write_old_card(folder: Path, streams: dict[str, dict[str, Any]]) -> None:
    content = json.loads((WEIGHTS / CARD).read_text())
    content |= {"version": "2.0.0", "streams": streams}
    (folder / CARD).write_text(json.dumps(content))


def test_a_card_of_version_2_0_0_loads_equal_specs_with_one_warning(tmp_path: Path) -> None:
    _write_old_card(tmp_path, OLD_STREAMS)
    with pytest.warns(FutureWarning) as warned:
        old = read_card(tmp_path)
    assert len(warned) == 1
    for name in ("hop", "mel_bands", "range_db", "ground"):
        assert f"{name} is now" in str(warned[0].message)
    assert old.streams == read_card(WEIGHTS).streams


@pytest.mark.filterwarnings("error")
def test_cards_are_written_with_the_current_field_names() -> None:
    card = read_card(WEIGHTS)
    streams = json.loads(card.model_dump_json())["streams"]
    assert {"hop_length", "n_mels", "top_db"} <= streams["audio"].keys()
    assert "background" in streams["visual"]
    assert not {"hop", "mel_bands", "range_db"} & streams["audio"].keys()
    assert "ground" not in streams["visual"]


def test_a_field_with_both_its_old_and_its_current_name_is_refused(tmp_path: Path) -> None:
    audio = OLD_STREAMS["audio"] | {"hop_length": 80}
    _write_old_card(tmp_path, OLD_STREAMS | {"audio": audio})
    with pytest.warns(FutureWarning), pytest.raises(CheckpointError) as raised:
        read_card(tmp_path)
    assert raised.value.field == "streams.audio.spectrogram.hop"


LEVELS = st.sampled_from([-1000.0, -1.0, 0.0, 1e-300, 2.5, 1000.0])
DEVIATIONS = st.sampled_from([1e-6, 0.5, 1.0, 1e6])


@given(
    mean=LEVELS,
    std=DEVIATIONS,
    floor=st.sampled_from([1e-30, 1e-7, 1.0]),
    quietest=st.sampled_from([None, 1e-300, 20.0, 1000.0]),
    clip=st.sampled_from([None, (-1000.0, 1000.0), (0.0, 1e-300)]),
    loudness=st.sampled_from([0.0, 1e-30, 0.5, 1e30]),
)
@settings(max_examples=100)
def test_a_spectrogram_within_the_bounds_is_finite(
    mean: float,
    std: float,
    floor: float,
    quietest: float | None,
    clip: tuple[float, float] | None,
    loudness: float,
) -> None:
    spec = SpectrogramSpec(
        sample_rate=8000, n_fft=256, hop_length=80, n_mels=16, size=(16, 16), mean=mean, std=std,
        log_floor=floor, top_db=quietest, clip=clip,
    )  # fmt: skip
    samples = np.random.default_rng(0).uniform(-1, 1, (1, 2000)).astype(np.float32)
    prepared = prepare_spectrogram(Sound(samples * np.float32(loudness), 8000), spec)
    assert np.isfinite(prepared.tensor).all()


@given(means=st.tuples(LEVELS, LEVELS, LEVELS), stds=st.tuples(DEVIATIONS, DEVIATIONS, DEVIATIONS))
@settings(max_examples=60)
def test_frames_within_the_bounds_are_finite(
    means: tuple[float, float, float], stds: tuple[float, float, float]
) -> None:
    spec = FrameSpec(fit="pad", size=(8, 8), mean=means, std=stds, frames="middle")
    picture = np.full((12, 12, 3), 255, np.uint8)
    assert np.isfinite(prepare_frames(Pictures((picture,), (0.0,)), spec, 1).tensor).all()
