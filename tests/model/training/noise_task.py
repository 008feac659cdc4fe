"""A second task, for tests: three streams of noise that no network can learn."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from model.checkpoint import Card, Source
from model.preprocess.specs import FrameSpec, Spec, SpectrogramSpec
from model.training.mp4_encoder import Footage, encode
from model.training.options import check_ranges, option
from model.training.speech.recording import Recording
from model.training.task import BatchPlan, DataError, LabelledClip, check_task

SPECTROGRAM = SpectrogramSpec(sample_rate=8000, n_fft=256, hop_length=80, size=(32, 32))
FRAMES = FrameSpec(fit="pad", size=(32, 32), frames="spread")


@dataclass(frozen=True)
class Noise:
    """Clips of noise in three classes. The data folder holds a file `levels.txt`."""

    name: ClassVar = "noise"
    version: ClassVar = "0.0.1"
    description: ClassVar = "Noise, for a test."
    data_help: ClassVar = "Folder of levels.txt."
    labels: ClassVar = ("white", "pink", "brown")
    specs: ClassVar[Mapping[str, Spec]] = {
        "near": SPECTROGRAM,
        "far": SPECTROGRAM,
        "camera": FRAMES,
    }
    titles: ClassVar[Mapping[str, str]] = {
        "near": "near microphone",
        "far": "far microphone",
        "camera": "camera",
    }
    missing_streams: ClassVar = True
    box_stream: ClassVar = "camera"
    test_set: ClassVar = "clips of noise"
    defaults: ClassVar[Mapping[str, Any]] = {
        "modality_dropout": {"all": 0.5, "near+camera": 0.5},
        "epochs": 2,
    }

    defaults_by_data: ClassVar[Mapping[str, str]] = {}
    best_folder: ClassVar = "best"
    transfers: ClassVar = False

    gain: float = option(1.0, "Standard deviation of the noise.", between=(0, 10))

    def __post_init__(self) -> None:
        check_ranges(self)

    def for_data(self, folder: Path) -> Noise:
        return self

    def for_checkpoint(self, card: Card, folder: Path) -> Noise:
        check_task(self, card, folder)
        return self

    def learning_settings(self) -> Mapping[str, object]:
        return {"gain": self.gain}

    def card_notes(self) -> Mapping[str, str]:
        return {"noise": "drawn anew"}

    def sources(self) -> tuple[Source, ...]:
        return (Source(name="noise", what="made here", licence="MIT"),)

    def load(self, folder: Path) -> NoiseData:
        file = folder / "levels.txt"
        if not file.is_file():
            raise DataError(f"{file}: not found")
        return NoiseData(file.read_text(), self.gain)


@dataclass(frozen=True)
class NoiseData:
    sha256: str
    gain: float
    class_weights: ClassVar = None

    def record(self, folder: Path) -> None:
        pass

    def training_examples(self, seed: int, cache: Path) -> NoiseExamples:
        return NoiseExamples(seed, self.gain)

    def development_examples(self) -> NoiseExamples:
        return NoiseExamples(-1 % 2**31, self.gain)

    def development_clips(self, count: int) -> Iterator[LabelledClip]:
        return self.test_clips(count, 11)

    def known_examples(self, cache: Path) -> NoiseExamples:
        return self.training_examples(3, cache)

    def test_clips(self, count: int, seed: int) -> Iterator[LabelledClip]:
        for index in range(count):
            rng = np.random.default_rng([seed, index])
            frames = tuple(rng.integers(0, 256, (4, 48, 64, 3), np.uint8))
            samples = rng.standard_normal(4000).astype(np.float32) * np.float32(0.1)
            data = encode(Footage(frames, 8), Recording(samples, 8000, 0.0, 0.5), 16_000)
            yield LabelledClip(data, index % 3, box=(0.0, 0.0, 16.0, 16.0), size=(48, 64))


@dataclass(frozen=True)
class NoiseExamples:
    seed: int
    gain: float

    def example(self, index: int, plan: BatchPlan) -> tuple[dict[str, NDArray[np.float32]], int]:
        rng = np.random.default_rng([self.seed, index])
        label = int(rng.integers(3))
        streams = {}
        for name in plan.streams:
            channels, steps = (3, plan.steps) if name == "camera" else (1, 1)
            noise = rng.standard_normal((steps, channels, 32, 32), np.float32)
            streams[name] = noise * np.float32(self.gain)
        return streams, label
