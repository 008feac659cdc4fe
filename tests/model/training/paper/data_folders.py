"""Tiny folders in the exact layout of the paper's data sets, with real encodings."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import av
import cv2
import h5py
import numpy as np
import soundfile

from model.training.paper.crema_d import published_test_names
from model.training.paper.urbansound8k_av import LABELS
from tests.model.media.events.event_files import aerdat
from tests.model.training.folder.clip_files import stripes, tone

#: CREMA-D's sentences and levels that tests use to train on.
TAKES = ("DFA_{}_XX", "IEO_{}_HI", "IWW_{}_XX")
#: Its frame rate, and its sample rate in Hz.
FRAME_RATE, RATE = 30, 16_000


def flv(file: Path, number: int, seed: int = 0, frames: int = 9) -> Path:
    """A Flash video (Sorenson H.263) without sound, of stripes; the middle third is brighter."""
    file.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="flv") as container:
        stream: Any = container.add_stream("flv", rate=FRAME_RATE)
        stream.width, stream.height, stream.pix_fmt = 176, 144, "yuv420p"
        for index in range(frames):
            picture = stripes(number, seed, (144, 176))
            if frames // 3 <= index < 2 * frames // 3:
                picture = np.minimum(picture.astype(int) + 40, 255).astype(np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    file.write_bytes(buffer.getvalue())
    return file


def wav(file: Path, number: int, seed: int = 0, seconds: float = 0.5) -> Path:
    """A mono wav of 16 bits, a tone."""
    file.parent.mkdir(parents=True, exist_ok=True)
    samples = tone(300 + 150 * number, seconds * RATE / 8000, seed)  # `tone` is at 8 kHz
    soundfile.write(file, samples, RATE, subtype="PCM_16")
    return file


def crema_d_names(per_class: int = 1) -> list[str]:
    """For each emotion three clips to train on, and as many of the published test set."""
    tested = sorted(published_test_names())
    names = []
    for number, emotion in enumerate(("ANG", "DIS", "FEA", "HAP", "NEU", "SAD")):
        trained = [f"{1060 + number}_{take.format(emotion)}" for take in TAKES]
        names += [name for name in trained if name not in tested]
        names += [name for name in tested if emotion in name][:per_class]
    return names


def crema_d(folder: Path) -> Path:
    """A folder of CREMA-D with `crema_d_names`."""
    for seed, name in enumerate(crema_d_names()):
        number = ("ANG", "DIS", "FEA", "HAP", "NEU", "SAD").index(name.split("_")[2])
        flv(folder / "VideoFlash" / f"{name}.flv", number, seed)
        wav(folder / "AudioWAV" / f"{name}.wav", number, seed)
    return folder


def jpg(file: Path, number: int, seed: int = 0) -> Path:
    """A JPEG of stripes."""
    file.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(file), stripes(number, seed, (150, 200)))
    return file


def urbansound8k_av(folder: Path, counts: dict[str, int] | None = None) -> Path:
    """A folder of UrbanSound8K-AV with 4 clips of each class, or as many as `counts` says."""
    for number, label in enumerate(LABELS):
        for take in range((counts or {}).get(label, 4)):
            name, seed = f"{100 + take}-{number}-0-{take}", 100 * number + take
            jpg(folder / "Dataset_v3_vision" / label / f"{name}.jpg", number, seed)
            wav(folder / "Dataset_v3_sound" / label / f"{name}.wav", number, seed, seconds=0.3)
    return folder


def mnist_dvs(folder: Path, per_digit: int = 4, scale: int = 4) -> Path:
    """Recordings of jAER of bars before a DVS128: `per_digit` of each digit."""
    for digit in range(10):
        for number in range(1, per_digit + 1):
            rng = np.random.default_rng([digit, number])
            along, across = rng.integers(0, 26, 900), rng.integers(0, 4, 900)
            x, y = (along, across + 2 * digit) if digit % 2 else (across + 2 * digit, along)
            name = f"mnist_{digit}_scale{scale:02d}_{number:04d}.aedat"
            file = folder / f"grabbed_data{digit}" / f"scale{scale}" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            time_us = np.sort(rng.integers(0, 2_000_000, 900))
            file.write_bytes(aerdat(48 + x, 48 + y, time_us, rng.random(900) < 0.5))
    return folder


def ntidigits(file: Path, speakers: tuple[int, int] = (3, 2)) -> Path:
    """An HDF5 file in the layout of N-TIDIGITS18: single digits, "oh" and sequences of speakers to
    train and to test on."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(file, "w") as hdf5:
        for part, count in zip(("train", "test"), speakers, strict=True):
            names = [
                f"{part[0]}man-{letters}-{spoken}"
                for letters in ("aa", "bb", "cc")[:count]
                for spoken in (*"123456789zo", "1z", "o34")
            ]
            hdf5[f"{part}_labels"] = np.array([name.encode() for name in names])
            for number, name in enumerate(names):
                rng = np.random.default_rng([number, count])
                channel = (4 * (number % 13) + rng.integers(0, 8, 400)).astype(np.float64)
                seconds = np.sort(rng.random(400))
                hdf5[f"{part}_addresses/{name}"] = channel
                hdf5[f"{part}_timestamps/{name}"] = seconds
    return file


def mnistdvs_ntidigits(folder: Path) -> Path:
    """A folder of both data sets."""
    ntidigits(folder / "n-tidigits.hdf5")
    return mnist_dvs(folder)
