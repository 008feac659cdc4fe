"""Benchmark of preprocessing: what the sound and the pictures of short clips take."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, replace

from model.media import reader
from model.module_command import module_command
from model.preprocess.prepare import prepare
from model.preprocess.profiles import PROFILES
from service.bench.clips import MIX, ClipSpec, render_clip
from service.decoding.fork_server_process import ENVIRONMENT
from service.runtime import cores

#: Time steps, and so pictures, of each clip.
_STEPS = 4
_SMALL = MIX[0][0]
#: Clips of 240p, and the data set whose preprocessing they get.
CLIPS: tuple[tuple[str, ClipSpec], ...] = (
    ("avdigits", replace(_SMALL, name="320 x 240, 2 s")),
    ("avdigits", replace(_SMALL, name="240 x 320, 2 s", height=320, width=240)),
    ("handsigns", replace(_SMALL, name="320 x 240, 2 s")),
    ("drones", replace(_SMALL, name="320 x 240, 3 s, stereo", seconds=3, layout="stereo")),
)


@dataclass(frozen=True)
class PreprocessTiming:
    """CPU milliseconds of one thread, medians over `rounds`, each directly after decoding the clip,
    as in a decoding process. `both_ms`: the median of the sums."""

    profile: str
    clip: str
    sound_ms: float
    pictures_ms: float
    both_ms: float
    rounds: int


def timings(rounds: int) -> list[PreprocessTiming]:
    """Time the preprocessing of each of `CLIPS`, in a process with the environment of those that
    decode: it sets the threads of NumPy's products, and malloc."""
    command = module_command("service.bench.preprocess", rounds)
    environment = os.environ | ENVIRONMENT
    completed = subprocess.run(
        command, check=True, stdout=subprocess.PIPE, text=True, env=environment
    )
    return [PreprocessTiming(**timing) for timing in json.loads(completed.stdout)]


def _run_alone(rounds: int) -> None:
    """Print the timings of this process as JSON, for `timings`."""
    cores.set_opencv_threads()
    results = [_timing(profile, spec, rounds) for profile, spec in CLIPS]
    print(json.dumps([asdict(timing) for timing in results]))


def _timing(profile: str, spec: ClipSpec, rounds: int) -> PreprocessTiming:
    file, streams = render_clip(spec), PROFILES[profile]
    sound_ms, pictures_ms = [], []
    for _ in range(rounds + 1):
        clip = reader.read_clip(file, _STEPS)
        started = time.thread_time()
        prepare({"audio": streams["audio"]}, clip.sound, None, _STEPS)
        sound_ends = time.thread_time()
        prepare({"visual": streams["visual"]}, None, clip.pictures, _STEPS)
        sound_ms.append(1000 * (sound_ends - started))
        pictures_ms.append(1000 * (time.thread_time() - sound_ends))
    both_ms = [sound + pictures for sound, pictures in zip(sound_ms, pictures_ms, strict=True)]
    # The first round fills caches.
    sound, pictures, both = (
        statistics.median(values[1:]) for values in (sound_ms, pictures_ms, both_ms)
    )
    return PreprocessTiming(profile, spec.name, sound, pictures, both, rounds)


if __name__ == "__main__":
    _run_alone(int(sys.argv[1]))
