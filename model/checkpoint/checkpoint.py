"""Checkpoints: our format (safetensors and a card), and the import of published ones."""

from __future__ import annotations

import hashlib
import os
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from model.checkpoint.published import PublishedError, published_tensors
from model.config import MAX_STEPS, Config, Precision
from model.encoding import Encoding
from model.network import SCMRL
from model.preprocess.specs import Specs
from model.regular_file import read_regular

WEIGHTS = "model.safetensors"
CARD = "card.json"
#: Largest files of a checkpoint that are read, in bytes. Published networks have up to 300 MB of
#: weights, our cards some kB.
MAX_WEIGHTS_BYTES, MAX_CARD_BYTES = 2 << 30, 1 << 20
#: Greatest seed that a training may have.
MOST_SEED = 2**63 - 1
#: A measured figure: a share, or a ratio of two.
_Figure = Annotated[float, Field(ge=-1e6, le=1e6, allow_inf_nan=False)]


class CheckpointError(ValueError):
    """A checkpoint that cannot be used: `file`, the `field` or tensor in it, and what is wrong."""

    def __init__(self, file: Path | str, field: str, problem: str) -> None:
        super().__init__(": ".join(part for part in (str(file), field, problem) if part))
        self.file = str(file)
        self.field = field
        self.problem = problem


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Source(_Part):
    """Data that a checkpoint was trained on."""

    name: str
    what: str
    licence: str
    url: str | None = None


class Training(_Part):
    """How a checkpoint came to be."""

    command: str
    seed: int = Field(ge=0, le=MOST_SEED)
    epochs: int = Field(ge=0, le=1_000_000)
    notes: dict[str, str] = {}


class Measurement(_Part):
    """A measured figure with its 95 % interval (`low`, `high`) over `n` clips, and the
    `precision` of the path that gave it."""

    what: str
    value: _Figure
    low: _Figure | None = None
    high: _Figure | None = None
    n: int | None = Field(default=None, ge=0, le=1_000_000_000)
    conditions: str
    precision: Precision = "float32"


class Card(_Part):
    """All that a checkpoint says about itself.

    `streams` holds the preprocessing of each stream of `config`, `labels` one name a class in
    the order of the logits, `steps` the number of time steps T unless a call asks for another.
    `missing_streams`: clips without one of the streams are answered. `sha256` is that of the
    weights' file, filled in by `save`.
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
    data: tuple[Source, ...] = ()
    training: Training | None = None
    accuracy: tuple[Measurement, ...] = ()
    notes: tuple[str, ...] = ()
    sha256: str = ""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if len(self.labels) != self.config.classes:
            counts = f"{len(self.labels)} of them for {self.config.classes} classes"
            raise ValueError(f"labels: {counts}")
        if len(set(self.labels)) != len(self.labels):
            raise ValueError("labels: one is there twice")
        ours, theirs = sorted(self.streams), sorted(self.config.streams)
        if ours != theirs:
            raise ValueError(f"streams: {ours} where config.streams has {theirs}")
        for name, spec in self.streams.items():
            stream = self.config.streams[name]
            produced = (spec.channels, *spec.size)
            needed = (stream.channels, *stream.size)
            if produced != needed:
                raise ValueError(
                    f"streams.{name}: its preprocessing gives {produced} (channels, height, width) "
                    f"where config.streams.{name} needs {needed}"
                )
        return self

    def measured_with(self, precision: Precision) -> bool:
        """Whether its accuracy is known on a path of this precision."""
        return any(measured.precision == precision for measured in self.accuracy)


def load(path: Path | str) -> tuple[SCMRL, Card]:
    """The network of a checkpoint's folder, in eval mode on the CPU, and its card.

    No code that the folder carries is run. Raises CheckpointError naming file and field.
    """
    folder = Path(path)
    card = read_card(folder)
    weights = folder / WEIGHTS
    data = _read(weights, MAX_WEIGHTS_BYTES)
    digest = hashlib.sha256(data).hexdigest()
    if digest != card.sha256:
        raise CheckpointError(
            folder / CARD, "sha256", f"{card.sha256 or 'none'} where that of {WEIGHTS} is {digest}"
        )
    try:
        tensors = load_tensors(data)
    except (SafetensorError, KeyError, TypeError) as exc:  # types and sizes that torch has not
        raise CheckpointError(weights, "", f"not a safetensors file: {exc}") from exc
    return _built(card.config, tensors, weights), card


def read_card(folder: Path | str) -> Card:
    """The card of a checkpoint's folder, without its weights. Raises CheckpointError."""
    file = Path(folder) / CARD
    try:
        return Card.model_validate_json(_read(file, MAX_CARD_BYTES))
    except ValidationError as exc:
        first, *others = exc.errors()
        field = ".".join(map(str, first["loc"]))
        problem = first["msg"].removeprefix("Value error, ")
        if isinstance(first["input"], int | float):
            problem += f", not {str(first['input'])[:24]}"
        more = f" (and {len(others)} more)" if others else ""
        raise CheckpointError(file, field, problem + more) from exc


def save(path: Path | str, network: SCMRL, card: Card) -> Card:
    """Write a checkpoint's folder, and return the card with the weights' SHA-256 filled in.

    Both files are written beside their places, then renamed into them: a kill leaves each of
    them old or new, never half of it, and between the two renames `load` refuses the folder for
    its SHA-256. The same weights give the same bytes. Raises CheckpointError where the card is
    of another network, OSError where the folder cannot be written.
    """
    folder = Path(path)
    if card.config != network.config:
        raise CheckpointError(folder / CARD, "config", "is not that of the network")
    tensors = {name: x.detach().cpu().contiguous() for name, x in network.state_dict().items()}
    data = save_tensors(tensors)
    card = card.model_copy(update={"sha256": hashlib.sha256(data).hexdigest()})
    folder.mkdir(parents=True, exist_ok=True)
    contents = {WEIGHTS: data, CARD: (card.model_dump_json(indent=2) + "\n").encode()}
    written = {name: _write_beside(folder / name, content) for name, content in contents.items()}
    for name, beside in written.items():
        beside.replace(folder / name)
    return card


def import_published(state_dict: Mapping[str, Tensor], config: Config) -> SCMRL:
    """The network of a published checkpoint's weights, in eval mode on the CPU.

    Raises CheckpointError naming the entry that is missing, unknown or of another shape.
    """
    return _imported(state_dict, config, "state_dict")


def import_published_file(path: Path | str, config: Config) -> SCMRL:
    """The network of a published `.pth.tar`. No code that the file carries is run.

    Raises CheckpointError naming the file and the entry.
    """
    file = Path(path)
    try:
        # Their files hold the command line as an argparse.Namespace, which is plain data.
        with torch.serialization.safe_globals([Namespace]):
            content = torch.load(file, map_location="cpu", weights_only=True)
    except OSError as exc:
        raise CheckpointError(file, "", exc.strerror or str(exc)) from exc
    except Exception as exc:  # the unpickler raises nearly anything for damaged bytes
        # Its own message advises to run the file's code after all.
        raise CheckpointError(
            file, "", "refused: damaged, or holds more than tensors and plain data"
        ) from exc
    state_dict = content.get("state_dict") if isinstance(content, dict) else None
    if not isinstance(state_dict, dict):
        raise CheckpointError(file, "state_dict", "is missing")
    return _imported(state_dict, config, file)


def _imported(state_dict: Mapping[str, Tensor], config: Config, file: Path | str) -> SCMRL:
    try:
        tensors = published_tensors(state_dict, _empty(config))
    except PublishedError as exc:
        raise CheckpointError(file, exc.entry, exc.problem) from exc
    return _built(config, tensors, file)


def _empty(config: Config) -> SCMRL:
    """The network without memory behind its weights: shapes and names only."""
    with torch.device("meta"):
        return SCMRL(config)


def _built(config: Config, tensors: Mapping[str, Tensor], file: Path | str) -> SCMRL:
    """The network with these weights, each checked for its name, shape, type and values."""
    network = _empty(config)
    expected = network.state_dict()
    for name in tensors.keys() - expected.keys():
        raise CheckpointError(file, name, "no such tensor in a network of this config")
    for name, wanted in expected.items():
        if name not in tensors:
            raise CheckpointError(file, name, "is missing")
        tensor = tensors[name]
        if tensor.shape != wanted.shape or tensor.dtype != wanted.dtype:
            raise CheckpointError(
                file,
                name,
                f"{_described(tensor)} where the config makes it {_described(wanted)}",
            )
        if not tensor.isfinite().all():
            raise CheckpointError(file, name, "holds values that are not finite")
        if name.endswith("threshold") and float(tensor) <= 0:
            raise CheckpointError(file, name, f"is {float(tensor):g}; a neuron's is above 0")
    network.load_state_dict(dict(tensors), assign=True)
    return network.eval()


def _described(x: Tensor) -> str:
    return f"{str(x.dtype).removeprefix('torch.')} {list(x.shape)}"


def _read(file: Path, max_bytes: int) -> bytes:
    try:
        return read_regular(file, max_bytes)
    except OSError as exc:
        raise CheckpointError(file, "", exc.strerror or str(exc)) from exc


def _write_beside(file: Path, data: bytes) -> Path:
    """Write and sync a file next to `file`, and return it."""
    beside = file.with_name(f".{file.name}.new")
    with beside.open("wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
    return beside
