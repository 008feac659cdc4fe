"""The results of readers: decoded sounds and pictures, before preprocessing."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

from model.media.audio.downmix import DownmixMethod, to_mono
from model.media.blank import blank_reason, silence_reason
from model.media.types import Pictures, Sound
from model.preprocess.frames import prepare_frames
from model.preprocess.prepared import Prepared
from model.preprocess.specs import FrameSpec, Spec, SpectrogramSpec
from model.preprocess.spectrogram import prepare_spectrogram
from service.decoding.job import StreamInfo


class Source(Protocol):
    """The decoded input of one stream."""

    def empty_reason(self) -> str | None:
        """Return why it has no information (silent, blank), or None."""
        ...

    def prepare(self, spec: Spec, steps: int) -> Prepared:
        """Preprocess it as the checkpoint's card says, for `steps` time steps.

        Raises MediaError where the checkpoint cannot take it.
        """
        ...

    def describe(self, unused_reason: str | None) -> StreamInfo:
        """Return its description for the answer; `unused_reason`: why it is not used, or None."""
        ...


@dataclass(frozen=True)
class Missing:
    """A stream that the file lacks, although its upload field can have it, and the reason."""

    reason: str


@dataclass(frozen=True)
class SoundSource:
    """A sound, for streams of the kind "spectrogram"."""

    sound: Sound

    @cached_property
    def _mono(self) -> tuple[Sound, DownmixMethod]:
        return to_mono(self.sound)

    def empty_reason(self) -> str | None:
        return silence_reason(self.sound)

    def prepare(self, spec: Spec, steps: int) -> Prepared:
        assert isinstance(spec, SpectrogramSpec)
        return prepare_spectrogram(self._mono[0], spec)

    def describe(self, unused_reason: str | None) -> StreamInfo:
        sound = self.sound
        is_downmixed = unused_reason is None and len(sound.samples) > 1
        has_several_tracks = sound.tracks > 1
        return StreamInfo(
            used=unused_reason is None,
            reason=unused_reason,
            duration_s=round(sound.duration_s, 3),
            sample_rate=sound.sample_rate,
            channels=len(sound.samples),
            mixed=self._mono[1] if is_downmixed else None,
            track=sound.track if has_several_tracks else None,
            tracks=sound.tracks if has_several_tracks else None,
        )


@dataclass(frozen=True)
class PicturesSource:
    """Pictures in their order in time, for streams of the kind "frames"."""

    pictures: Pictures

    def empty_reason(self) -> str | None:
        return blank_reason(self.pictures)

    def prepare(self, spec: Spec, steps: int) -> Prepared:
        assert isinstance(spec, FrameSpec)
        return prepare_frames(self.pictures, spec, steps)

    def describe(self, unused_reason: str | None) -> StreamInfo:
        height, width = self.pictures.frames[0].shape[:2]
        return StreamInfo(
            used=unused_reason is None,
            reason=unused_reason,
            frames=len(self.pictures.frames),
            width=width,
            height=height,
        )
