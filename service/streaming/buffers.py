"""Buffers of a live stream: what was received in the seconds that a window can reach back."""

from __future__ import annotations

import io
import wave
from bisect import bisect_right
from collections import deque
from dataclasses import dataclass

import numpy as np

from model.arrays import Float64Array

_NS = 1_000_000_000
#: Bytes of a value of a series.
_VALUE = 4
#: Difference in ns between the stamp of a piece of sound and the end of the one before that counts
#: as jitter of the stamps.
_JITTER_NS = 80_000_000


@dataclass(frozen=True)
class Picture:
    """A picture that is buffered: its capture time, its file, and the sequence number of its
    message, 0 where it has none of its own."""

    time_ns: int
    payload: bytes
    sequence: int


class PictureBuffer:
    """Pictures by capture time, of at most `seconds` and `max_bytes`. `dropped` counts those that
    came late or were pushed out before their time."""

    def __init__(self, seconds: float, max_bytes: int) -> None:
        self.newest_ns = -1
        self.dropped = 0
        self._length_ns = round(seconds * _NS)
        self._max_bytes = max_bytes
        self._pictures: deque[Picture] = deque()
        self._bytes = 0

    def add(self, time_ns: int, payload: bytes, sequence: int = 0) -> None:
        """Add a picture; one that is older than the newest is dropped."""
        if time_ns < self.newest_ns or len(payload) > self._max_bytes:
            self.dropped += 1
            return
        self.newest_ns = time_ns
        self._pictures.append(Picture(time_ns, payload, sequence))
        self._bytes += len(payload)
        while self._bytes > self._max_bytes:
            self._pop()
            self.dropped += 1
        while self._pictures[0].time_ns < time_ns - self._length_ns:
            self._pop()

    def clear(self) -> None:
        """Drop everything, uncounted."""
        self._pictures.clear()
        self._bytes = 0
        self.newest_ns = -1

    @property
    def oldest_ns(self) -> int:
        """Capture time of the oldest picture that is buffered."""
        return self._pictures[0].time_ns

    def select(self, begin_ns: int, end_ns: int, count: int) -> list[Picture]:
        """Return the pictures at the centres of `count` equal parts of the time from start to end:
        in each part the last one that was captured by its centre, or else the first after."""
        inside = [picture for picture in self._pictures if begin_ns <= picture.time_ns <= end_ns]
        if not inside:
            return []
        times = [picture.time_ns for picture in inside]
        length = max(1, end_ns - begin_ns)
        centres = [begin_ns + (2 * part + 1) * length // (2 * count) for part in range(count)]
        indices = [max(0, bisect_right(times, centre) - 1) for centre in centres]
        return [inside[index] for index in indices]

    def _pop(self) -> None:
        self._bytes -= len(self._pictures.popleft().payload)


class SoundBuffer:
    """Samples of 16 bits over time, of at most `seconds` and `max_bytes`. Gaps are filled with
    silence; what overlaps what is there is dropped, and counted as a dropped message where all of
    it does."""

    def __init__(self, seconds: float, sample_rate: int, channels: int, max_bytes: int) -> None:
        self.newest_ns = -1
        self.dropped = 0
        self.sample_rate = sample_rate
        self.channels = channels
        self._frame = 2 * channels  # bytes
        self._max_frames = min(round(seconds * sample_rate), max_bytes // self._frame)
        self._samples = bytearray()
        self._begin_ns = 0

    def add(self, time_ns: int, payload: bytes) -> None:
        """Add samples of which the first was captured at this time."""
        if self.newest_ns < 0:
            self._begin_ns = self.newest_ns = time_ns
        late = time_ns - self.newest_ns
        if late > _JITTER_NS:
            missing = min(late * self.sample_rate // _NS, self._max_frames)
            self._samples += bytes(missing * self._frame)
        elif late < -_JITTER_NS:
            overlap = -late * self.sample_rate // _NS * self._frame
            if overlap >= len(payload):
                self.dropped += 1
                return
            payload = payload[overlap:]
        self._samples += payload
        end_ns = max(time_ns, self.newest_ns) if late > _JITTER_NS else self.newest_ns
        self.newest_ns = end_ns + len(payload) // self._frame * _NS // self.sample_rate
        surplus = len(self._samples) // self._frame - self._max_frames
        if surplus > 0:
            del self._samples[: surplus * self._frame]
        frames = len(self._samples) // self._frame
        self._begin_ns = self.newest_ns - frames * _NS // self.sample_rate

    def clear(self) -> None:
        """Drop everything, uncounted."""
        self._samples.clear()
        self.newest_ns = -1

    @property
    def oldest_ns(self) -> int:
        """Capture time of the oldest sample that is buffered."""
        return self._begin_ns

    def wav(self, begin_ns: int, end_ns: int) -> bytes | None:
        """Return the samples from start to end as a WAV file; None where there are none."""
        first = max(0, (begin_ns - self._begin_ns) * self.sample_rate // _NS)
        last = max(0, (end_ns - self._begin_ns) * self.sample_rate // _NS)
        content = self._samples[first * self._frame : last * self._frame]
        if self.newest_ns < 0 or not content:
            return None
        file = io.BytesIO()
        with wave.open(file, "wb") as writer:
            writer.setnchannels(self.channels)
            writer.setsampwidth(2)
            writer.setframerate(self.sample_rate)
            writer.writeframes(content)
        return file.getvalue()


class SeriesBuffer:
    """Values over time, of at most `seconds` and `max_bytes`. A message's values are laid out by
    `sample_rate`, from its stamp, or from the end of the message before where the difference is
    jitter; what overlaps what is there is dropped, and counted as a dropped message where all of it
    does. Gaps stay."""

    def __init__(self, seconds: float, sample_rate: float, max_bytes: int) -> None:
        self.newest_ns = -1
        self.dropped = 0
        self._length_ns = round(min(seconds, max_bytes / _VALUE / sample_rate) * _NS)
        self._rate = sample_rate
        #: Values without a gap, as bytes, after the time of the first. One run for each message
        #: would be thousands, with which an answer takes 0.15 s of the event loop.
        self._runs: deque[tuple[int, bytearray]] = deque()

    def add(self, time_ns: int, payload: bytes) -> None:
        """Add values of which the first was captured at this time."""
        late = time_ns - self.newest_ns
        if self.newest_ns >= 0 and late < -self._jitter_ns:
            payload = payload[round(-late * self._rate / _NS) * _VALUE :]
        if not payload:
            self.dropped += 1
            return
        if self.newest_ns >= 0 and late <= self._jitter_ns:
            self._runs[-1][1].extend(payload)
        else:
            self._runs.append((time_ns, bytearray(payload)))
        self.newest_ns = self._end_ns(self._runs[-1])
        self._drop_old()

    def clear(self) -> None:
        """Drop everything, uncounted."""
        self._runs.clear()
        self.newest_ns = -1

    @property
    def oldest_ns(self) -> int:
        """Capture time of the oldest value that is buffered."""
        return self._runs[0][0]

    def npz(self, begin_ns: int, end_ns: int) -> bytes | None:
        """Return the values from start to end as an .npz, times in seconds from start; None where
        there are none."""
        if not self._runs:
            return None
        times = np.concatenate([self._times_s(run, begin_ns) for run in self._runs])
        values = np.concatenate([np.frombuffer(bytes(run[1]), "<f4") for run in self._runs])
        inside = (times >= 0) & (times < (end_ns - begin_ns) / _NS)
        if not inside.any():
            return None
        file = io.BytesIO()
        np.savez(file, t=times[inside], value=values[inside])
        return file.getvalue()

    @property
    def _jitter_ns(self) -> float:
        """As of sound, or half the time between two values where that is more."""
        return max(_JITTER_NS, 0.5 * _NS / self._rate)

    def _drop_old(self) -> None:
        oldest_ns = self.newest_ns - self._length_ns
        while self._end_ns(self._runs[0]) <= oldest_ns:
            self._runs.popleft()
        time_ns, values = self._runs[0]
        surplus = int((oldest_ns - time_ns) * self._rate / _NS)
        if surplus > 0:
            del values[: surplus * _VALUE]
            self._runs[0] = time_ns + round(surplus * _NS / self._rate), values

    def _times_s(self, run: tuple[int, bytearray], begin_ns: int) -> Float64Array:
        return (run[0] - begin_ns) / _NS + np.arange(len(run[1]) // _VALUE) / self._rate

    def _end_ns(self, run: tuple[int, bytearray]) -> int:
        return run[0] + round(len(run[1]) // _VALUE * _NS / self._rate)
