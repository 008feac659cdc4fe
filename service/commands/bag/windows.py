"""Windows of a recording, cut as those of a live stream."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from service.commands.bag.recording import Picture, Recording, RecordingError, Sound
from service.streaming.buffers import PictureBuffer, SoundBuffer
from service.streaming.clock import InputClock

_NS = 1_000_000_000
#: Windows that are buffered: one topic may be recorded later than the other.
_BUFFERED = 4
_MAX_BYTES = 512 << 20
#: Raw pictures that are encoded for each that is used.
_OVERSAMPLED = 4
#: Windows by which the stamps of a topic jump where a new segment begins.
_JUMP = 2
#: Seconds by which the stamps of two topics may differ; more are those of two clocks.
_MAX_OFFSET_S = 60


@dataclass(frozen=True)
class Window:
    """Stamps of its start and its end, and the files in between, by upload field."""

    begin_ns: int
    end_ns: int
    files: Mapping[str, Sequence[bytes]]


@dataclass(frozen=True)
class Cut:
    """Length of windows, time from one to the next, and pictures of each."""

    window_ns: int
    hop_ns: int
    pictures: int


def cut(recording: Recording, window_s: float, hop_s: float, pictures: int) -> Iterator[Window]:
    """Yield a window every `hop_s`, and finally the one at the end; each of `pictures` pictures.

    Windows begin anew where the stamps of a topic jump by two windows or its clock was put back
    (`InputClock`). One without pictures and sound is left out. Raises RecordingError.
    """
    lengths = Cut(round(window_s * _NS), round(hop_s * _NS), pictures)
    segment = _Segment(lengths)
    for piece in recording.read(lengths.window_ns // (_OVERSAMPLED * pictures)):
        if segment.jumps(piece):
            yield from segment.flush()
            segment = _Segment(lengths)
        segment.add(piece)
        yield from segment.complete()
    yield from segment.flush()


class _Segment:
    """The messages of the last few windows, in a part of the bag without jumps in time."""

    def __init__(self, lengths: Cut) -> None:
        self._lengths = lengths
        self._seconds = _BUFFERED * lengths.window_ns / _NS
        self._pictures = PictureBuffer(self._seconds, _MAX_BYTES)
        self._sound: SoundBuffer | None = None  # its format is known with the first piece
        jump_s = _JUMP * lengths.window_ns / _NS
        self._picture_clock, self._sound_clock = InputClock(jump_s), InputClock(jump_s)
        self._end_ns = -1

    def jumps(self, piece: Picture | Sound) -> bool:
        """Return whether a piece is of another segment. Raises RecordingError."""
        clock = self._clock(piece)
        if clock.newest_ns >= 0:
            return clock.begins_segment(piece.time_ns)
        offset_s = max(
            (abs(piece.time_ns - newest_ns) / _NS for newest_ns in self._newest), default=0.0
        )
        if offset_s > _MAX_OFFSET_S:
            raise RecordingError(
                f"the stamps of pictures and sound differ by {offset_s:.0f} s, as those of two "
                "clocks do: --log-time takes the times of the recording"
            )
        return False

    def add(self, piece: Picture | Sound) -> None:
        if self._end_ns < 0:
            self._end_ns = piece.time_ns + self._lengths.window_ns
        self._clock(piece).add(piece.time_ns)
        if isinstance(piece, Picture):
            self._pictures.add(piece.time_ns, piece.data)
            return
        if self._sound is None:
            self._sound = SoundBuffer(self._seconds, piece.sample_rate, piece.channels, _MAX_BYTES)
        self._sound.add(piece.time_ns, piece.data)

    def complete(self) -> Iterator[Window]:
        """Yield the windows that no later message can be a part of."""
        while self._is_complete():
            yield from self._window(self._end_ns)
            self._end_ns += self._lengths.hop_ns

    def flush(self) -> Iterator[Window]:
        """Yield the remaining windows, and the one that ends with the newest message."""
        if self._end_ns < 0:
            return
        newest_ns = max(self._newest)
        while self._end_ns < newest_ns:
            yield from self._window(self._end_ns)
            self._end_ns += self._lengths.hop_ns
        yield from self._window(newest_ns)

    def _is_complete(self) -> bool:
        """Return whether the window has ended: both topics have messages up to its end, or one has
        messages up to a window later."""
        newest = self._newest
        is_both = len(newest) == 2 and min(newest) >= self._end_ns
        return is_both or max(newest) >= self._end_ns + self._lengths.window_ns

    def _clock(self, piece: Picture | Sound) -> InputClock:
        return self._picture_clock if isinstance(piece, Picture) else self._sound_clock

    @property
    def _sound_ns(self) -> int:
        return self._sound.newest_ns if self._sound else -1

    @property
    def _newest(self) -> list[int]:
        """The newest stamps of the topics that have begun."""
        return [time_ns for time_ns in (self._pictures.newest_ns, self._sound_ns) if time_ns >= 0]

    def _window(self, end_ns: int) -> Iterator[Window]:
        begin_ns = end_ns - self._lengths.window_ns
        wav = self._sound.wav(begin_ns, end_ns) if self._sound else None
        pictures = self._pictures.select(begin_ns, end_ns, self._lengths.pictures)
        files = {
            "frames": [picture.payload for picture in pictures],
            "audio": [wav] if wav else [],
        }
        if any(files.values()):
            yield Window(begin_ns, end_ns, {name: data for name, data in files.items() if data})
