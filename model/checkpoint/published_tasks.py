"""The paper's three tasks: what a published checkpoint does not say of itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from model.checkpoint.card import Source
from model.config import StreamConfig


@dataclass(frozen=True)
class PublishedTask:
    """A task as the published training has it.

    `dataset`: its `--dataset`. `profile`: the preprocessing in `PROFILES`. `streams`: their shapes
    and patch splitting. `labels`: in the order of the logits. `labels_from`: where that order is
    from. `steps`: T of the paper.
    """

    name: str
    dataset: str
    profile: str
    description: str
    streams: dict[str, StreamConfig]
    labels: tuple[str, ...]
    labels_from: str
    steps: int
    sources: tuple[Source, ...]


#: Attention between the streams; "none": no cross-modal residual.
AttentionChoice = Literal["spatial", "temporal", "spatial-temporal", "none"]


@dataclass(frozen=True)
class Overrides:
    """Values that the importer sets for a network, over those of its file. None: as in the file."""

    attention: AttentionChoice | None = None
    alpha: float | None = None
    heads: int | None = None
    steps: int | None = None


FROM_FILE = Overrides()

_CLIP = {
    "audio": StreamConfig(channels=1, size=(128, 128)),
    "visual": StreamConfig(channels=3, size=(128, 128)),
}
_EVENTS = {
    "audio": StreamConfig(channels=1, size=(28, 28), splitting="shallow"),
    "visual": StreamConfig(channels=2, size=(28, 28), splitting="shallow"),
}

_CREMA_D = PublishedTask(
    name="crema-d",
    dataset="CREMAD",
    profile="crema_d",
    description="The emotion of an actor who says a sentence, as heard and seen.",
    streams=_CLIP,
    labels=("ANG", "DIS", "FEA", "HAP", "NEU", "SAD"),
    labels_from="the published training numbers the emotions alphabetically; a file of the same "
    "repository that this training does not use, CramedDataset.py, has NEU HAP SAD FEA DIS ANG. "
    "Check with clips of known emotion",
    steps=4,
    sources=(
        Source(
            name="CREMA-D",
            what="7,442 clips of 91 actors who say 12 sentences in 6 emotions",
            licence="Open Database License (ODbL) 1.0",
            url="https://github.com/CheyneyComputerScience/CREMA-D",
        ),
    ),
)
_URBANSOUND8K_AV = PublishedTask(
    name="urbansound8k-av",
    dataset="UrbanSound8K",
    profile="urbansound8k_av",
    description="A sound of a city and a picture of what makes it.",
    streams=_CLIP,
    labels=(
        "air_conditioner", "car_horn", "children_playing", "dog_bark", "drilling",
        "engine_idling", "gun_shot", "jackhammer", "siren", "street_music",
    ),
    labels_from="the published training numbers the classes alphabetically, as UrbanSound8K does",
    steps=4,
    sources=(
        Source(
            name="UrbanSound8K-AV",
            what="sounds of UrbanSound8K, each with a picture",
            licence="UrbanSound8K: CC BY-NC 3.0; the pictures: see the address",
            url="https://github.com/Guo-Lingyue/SMMT",
        ),
    ),
)  # fmt: skip
_MNISTDVS_NTIDIGITS = PublishedTask(
    name="mnistdvs-ntidigits",
    dataset="AVmnistdvs",
    profile="mnistdvs_ntidigits",
    description="A digit, seen by an event camera and heard by a silicon cochlea.",
    streams=_EVENTS,
    labels=tuple("0123456789"),
    labels_from="the digits in their order",
    steps=16,
    sources=(
        Source(
            name="MNIST-DVS",
            what="recordings of MNIST's digits, which move before an event camera",
            licence="see the address",
            url="http://www2.imse-cnm.csic.es/caviar/MNISTDVS.html",
        ),
        Source(
            name="N-TIDIGITS18",
            what="spoken digits of TIDIGITS, recorded with a silicon cochlea",
            licence="see the address",
            url="https://docs.google.com/document/d/1Uxe7GsKKXcy6SlDUX4hoJVAC0-UkH-8kr5UXp0Ndi1M",
        ),
    ),
)

#: The tasks by name.
PUBLISHED_TASKS = {task.name: task for task in (_CREMA_D, _URBANSOUND8K_AV, _MNISTDVS_NTIDIGITS)}
