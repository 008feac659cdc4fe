"""The card of a checkpoint (card.json), which describes its weights. Read without torch."""

from __future__ import annotations

import math
from functools import cached_property
from pathlib import Path
from typing import Annotated, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from model.config import MAX_SEED, MAX_STEPS, Config, Precision
from model.encoding import Encoding
from model.preprocess.specs import Specs
from model.regular_file import read_regular
from model.validation import describe

#: The two files of a checkpoint's folder.
WEIGHTS, CARD = "model.safetensors", "card.json"
#: Largest card that is read, in bytes. Ours have some kB.
MAX_CARD_BYTES = 1 << 20
#: A measured value: a fraction, or a ratio of two.
_Value = Annotated[float, Field(ge=-1e6, le=1e6, allow_inf_nan=False)]


class CheckpointError(ValueError):
    """A checkpoint that cannot be used: `file`, the `field` or tensor in it, and what is wrong."""

    def __init__(self, file: Path | str, field: str, problem: str) -> None:
        super().__init__(": ".join(part for part in (str(file), field, problem) if part))
        self.file = str(file)
        self.field = field
        self.problem = problem


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Source(_Section):
    """Data that a checkpoint was trained on: `what` it is, its `licence`, and its address `url`."""

    name: str
    what: str
    licence: str
    url: str | None = None


class Training(_Section):
    """How a checkpoint was trained. `task`: the name that it has in `scmrl train NAME`."""

    command: str
    task: str | None = None
    seed: int = Field(ge=0, le=MAX_SEED)
    epochs: int = Field(ge=0, le=1_000_000)
    notes: dict[str, str] = {}


class Measurement(_Section):
    """A measured value: `what` was measured, its 95 % interval (`low`, `high`) over `n` clips, and
    the `precision` of the engine path that it was measured on."""

    what: str
    value: _Value
    low: _Value | None = None
    high: _Value | None = None
    n: int | None = Field(default=None, ge=0, le=1_000_000_000)
    conditions: str
    precision: Precision = "float32"


#: Temperatures of the softmax by time steps T.
_Temperatures = Annotated[
    dict[
        Annotated[int, Field(ge=1, le=MAX_STEPS)],
        Annotated[float, Field(ge=0.01, le=100, allow_inf_nan=False)],
    ],
    Field(min_length=1),
]


class Calibration(_Section):
    """Temperatures that logits are divided by before the softmax, by time steps T.

    `temperature`: with all streams (or several of three). `alone`: by the stream that is used
    alone; where it has none, `temperature` holds. `fitted_on`: the clips they were fitted on.
    """

    temperature: _Temperatures
    alone: dict[str, _Temperatures] = {}
    fitted_on: str = ""

    def temperature_at(self, steps: int, alone: str | None = None) -> float:
        """Return the temperature for T = `steps`, with one stream `alone` or with several.

        Between two T it is interpolated linearly over log T; beyond them, that of the nearest T
        holds.
        """
        temperatures = self.alone.get(alone or "", self.temperature)
        below = max((t for t in temperatures if t <= steps), default=min(temperatures))
        above = min((t for t in temperatures if t >= steps), default=max(temperatures))
        if below == above:
            return temperatures[below]
        share = math.log(steps / below) / math.log(above / below)
        return (1 - share) * temperatures[below] + share * temperatures[above]


_Row = tuple[Annotated[float, Field(ge=-1e9, le=1e9, allow_inf_nan=False)], ...]


class LogitReference(_Section):
    """Distribution of the streams' logits of known clips: a normal one around each class's mean.

    Logits [d] are those of `Output.stream_logits`, concatenated in the order of the card's streams.
    `means` [classes][d]; `precision` [d][d], the inverse of the covariance within classes. `limit`:
    the Mahalanobis distance from the mean of the predicted class that 98 % of the clips are below.
    """

    means: tuple[_Row, ...] = Field(min_length=2, max_length=1000)
    precision: tuple[_Row, ...] = Field(min_length=2, max_length=1000)
    limit: float = Field(gt=0, le=1e9, allow_inf_nan=False)

    @model_validator(mode="after")
    def _check(self) -> Self:
        size = len(self.precision)
        if any(len(row) != size for row in (*self.means, *self.precision)):
            raise ValueError(f"means and precision: every row must have {size} numbers")
        return self


class TowerReference(_Section):
    """Logistic regression that separates known clips from OOD ones by a tower's features.

    With the offset d [C] of the features from the mean of the predicted class, the log odds that
    the clip is out of distribution are `bias` of that class + `linear` d + `quadratic` d².
    `means` [classes][C]; `limit`: 97 % of known clips have lower log odds.
    """

    means: tuple[_Row, ...] = Field(min_length=2, max_length=1000)
    linear: _Row
    quadratic: _Row
    bias: _Row
    limit: float = Field(ge=-1e9, le=1e9, allow_inf_nan=False)

    @cached_property
    def arrays(self) -> tuple[NDArray[np.float32], ...]:
        """`means` [classes, C], `linear` [C], `quadratic` [C] and `bias` [classes]."""
        rows = (self.means, self.linear, self.quadratic, self.bias)
        return tuple(np.array(row, np.float32) for row in rows)

    @model_validator(mode="after")
    def _check(self) -> Self:
        size = len(self.linear)
        if any(len(row) != size for row in (*self.means, self.quadratic)):
            raise ValueError(f"means, linear and quadratic: every row must have {size} numbers")
        if len(self.bias) != len(self.means):
            raise ValueError(f"bias: must have {len(self.means)} numbers")
        return self


class FeatureReference(_Section):
    """What separates known clips from OOD ones, by the streams whose towers are compared.

    `limit`: 97 % of known clips have a lower sum of the towers' scores. `growth`: the temperature
    is multiplied by the score to this power where the score is above 1, so that far from known
    clips all classes become equally probable; 0: it is not.
    """

    towers: dict[str, TowerReference] = Field(min_length=1)
    limit: float = Field(gt=0, le=1e9, allow_inf_nan=False)
    growth: float = Field(default=0.0, ge=0, le=100)


class OODReferences(_Section):
    """What the OOD score at T = `steps` is computed from, by the streams that are used, joined
    with "+".

    `features`: by the towers' features; `references`: by the streams' logits, where no OOD clips
    can be drawn to fit `features`, and in cards that were calibrated before there were `features`.
    """

    steps: int = Field(ge=1, le=MAX_STEPS)
    references: dict[str, LogitReference] = {}
    features: dict[str, FeatureReference] = {}


class Card(_Section):
    """The content of card.json.

    - `streams`: the preprocessing of each stream of `config`; `encoding`: how its values become
      spikes.
    - `steps`: the default number of time steps T.
    - `labels`: one name per class, in the order of the logits.
    - `missing_streams`: whether clips that lack a stream are classified.
    - `calibration`: of the probabilities; None: they are the softmax of the logits.
    - `domain`: what the out-of-distribution (OOD) score compares clips with; None: no score.
    - `abstain_below`, `abstain_beyond`: defaults of the request's fields; 0 and None: never.
    - `data`, `training`, `accuracy`, `notes`: where the weights come from, and what was measured.
    - `sha256`: of the weights' file, filled in by `save`.
    """

    name: str = Field(min_length=1)
    version: str = Field(min_length=1)
    description: str
    streams: Specs
    encoding: Encoding
    steps: int = Field(ge=1, le=MAX_STEPS)
    labels: tuple[str, ...]
    config: Config
    missing_streams: bool
    calibration: Calibration | None = None
    domain: OODReferences | None = None
    abstain_below: float = Field(default=0.0, ge=0, le=1)
    abstain_beyond: float | None = Field(default=None, ge=0, le=1e9)
    data: tuple[Source, ...] = ()
    training: Training | None = None
    accuracy: tuple[Measurement, ...] = ()
    notes: tuple[str, ...] = ()
    sha256: str = ""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if len(self.labels) != self.config.classes:
            counts = f"{len(self.labels)} labels for {self.config.classes} classes"
            raise ValueError(f"labels: {counts}")
        if len(set(self.labels)) != len(self.labels):
            raise ValueError("labels: every label must be different")
        names, config_names = sorted(self.streams), sorted(self.config.streams)
        if names != config_names:
            raise ValueError(f"streams: {names}, but config.streams has {config_names}")
        alone = self.calibration.alone if self.calibration else {}
        if not set(alone) <= set(self.streams):
            raise ValueError(f"calibration.alone: {sorted(alone)}, but streams has {names}")
        self._check_domain()
        for name, spec in self.streams.items():
            stream = self.config.streams[name]
            produced = (spec.channels, *spec.size)
            needed = (stream.channels, *stream.size)
            if produced != needed:
                raise ValueError(
                    f"streams.{name}: its preprocessing gives {produced} (channels, height, "
                    f"width), but config.streams.{name} needs {needed}"
                )
        return self

    @property
    def kinds(self) -> dict[str, str]:
        """The kind of each stream's preprocessing, by the stream's name."""
        return {name: spec.kind for name, spec in self.streams.items()}

    def _check_domain(self) -> None:
        if self.domain is None:
            return
        for names, reference in self.domain.references.items():
            self._check_names("references", names)
            shape = (len(self.labels), len(self.labels) * (names.count("+") + 1))
            if (len(reference.means), len(reference.precision)) != shape:
                raise ValueError(
                    f"domain.references.{names}: means must be {shape[0]} x {shape[1]}"
                )
        for names, features in self.domain.features.items():
            self._check_names("features", names)
            if list(features.towers) != names.split("+"):
                raise ValueError(f"domain.features.{names}: its towers must be these streams")
            for name, tower in features.towers.items():
                shape = (len(tower.means), len(tower.linear))
                needed = (len(self.labels), self.config.embed_dim)
                if shape != needed:
                    raise ValueError(
                        f"domain.features.{names}.towers.{name}: {shape[0]} means of {shape[1]} "
                        f"features, but the network has {needed[0]} classes and {needed[1]} "
                        "features"
                    )

    def _check_names(self, field: str, names: str) -> None:
        """Raise ValueError where `names` are not streams, joined with "+" in the card's order."""
        streams = names.split("+")
        if streams != [name for name in self.streams if name in streams]:
            raise ValueError(f"domain.{field}: {names} are not streams in their order")

    def measured_with(self, precision: Precision) -> bool:
        """Return whether the card has an accuracy measured at this precision."""
        return any(measured.precision == precision for measured in self.accuracy)


def read_card(folder: Path | str) -> Card:
    """Return the card of a checkpoint's folder, without its weights. Raises CheckpointError."""
    file = Path(folder) / CARD
    try:
        return Card.model_validate_json(read_file(file, MAX_CARD_BYTES))
    except ValidationError as exc:
        first, *others = exc.errors()
        field = ".".join(map(str, first["loc"]))
        problem = describe(first)
        if isinstance(first["input"], int | float):
            problem += f", not {str(first['input'])[:24]}"
        more = f" (and {len(others)} more)" if others else ""
        raise CheckpointError(file, field, problem + more) from exc


def read_file(file: Path, max_bytes: int) -> bytes:
    """Return the bytes of a checkpoint's file. Raises CheckpointError naming it."""
    try:
        return read_regular(file, max_bytes)
    except OSError as exc:
        raise CheckpointError(file, "", exc.strerror or str(exc)) from exc
