"""Recordings as they sound in a clip, after AAC: the highest band has less power."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import replace

import av
import numpy as np
import soxr

from model.arrays import Float32Array
from model.media.reader import read_sound
from model.training.drones.folder import RATE, Recording

#: Sample rates in Hz and bit rates in bit/s of the coded variants of a recording.
VARIANTS = ((44_100, 128_000), (44_100, 64_000), (16_000, 32_000))


def with_coded(recordings: Sequence[Recording]) -> tuple[Recording, ...]:
    """Return the recordings, and each of VARIANTS of each of them."""
    coded = (
        replace(recording, samples=code(recording.samples, rate, bit_rate))
        for recording in recordings
        for rate, bit_rate in VARIANTS
    )
    return (*recordings, *coded)


def code(samples: Float32Array, rate: int, bit_rate: int) -> Float32Array:
    """Return samples [n] at RATE as they are after AAC, mono, at `rate` Hz and `bit_rate` bit/s."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=rate, layout="mono")
        stream.bit_rate = bit_rate
        resampled = soxr.resample(samples, RATE, rate).astype(np.float32)
        frame = av.AudioFrame.from_ndarray(resampled[None], format="fltp", layout="mono")
        frame.sample_rate = rate
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    sound = read_sound(file.getvalue())
    decoded = soxr.resample(sound.samples[0], sound.sample_rate, RATE)
    return np.asarray(decoded[: len(samples)], np.float32)
