"""The files of one clip, and how they are decoded: by the code that serves them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from model.media.types import Clip, Limits

#: Kinds of files by their endings.
Kind = Literal["movie", "sound", "picture"]
ENDINGS: dict[Kind, tuple[str, ...]] = {
    "movie": (
        *("mp4", "mov", "m4v", "webm", "mkv", "avi", "flv"),
        *("mpg", "mpeg", "ts", "mts", "wmv", "3gp", "ogv"),
    ),
    "sound": ("wav", "flac", "ogg", "oga", "opus", "mp3", "m4a", "aac", "aif", "aiff"),
    "picture": ("jpg", "jpeg", "png", "webp", "bmp", "tif", "tiff", "gif", "avif"),
}
#: Longest recording that a part is cut from, in seconds. A clip itself may be as long as one that
#: is served.
MAX_RECORDING_S = 3600.0
#: Most pixels of a clip's pictures that are held at once: 96 MB.
MAX_PIXELS = 32_000_000


def kind_of(file: Path) -> Kind | None:
    """Return what a file is by its ending; None for no known one."""
    ending = file.suffix.lower().removeprefix(".")
    return next((kind for kind, endings in ENDINGS.items() if ending in endings), None)


@dataclass(frozen=True)
class ClipFiles:
    """A clip before it is read.

    - `name`: its files relative to the data folder, for messages and tables.
    - `label`: its class. `group`: what must not be split, such as a person or a recording.
    - `files`: by what they are. Sound comes from the sound file or else the movie, pictures from
      the movie or else the picture.
    - `span`: the part of it that counts, (start, end) in seconds; None for the whole.
    - `split`: the part of the data that the table names, or the empty string.
    """

    name: str
    label: str
    group: str
    files: tuple[tuple[Kind, Path], ...]
    span: tuple[float, float] | None = None
    split: str = ""

    def file(self, *kinds: Kind) -> Path | None:
        """Return the file of the first of these kinds that there is."""
        files = dict(self.files)
        return next((files[kind] for kind in kinds if kind in files), None)

    @property
    def sound_file(self) -> Path | None:
        """The file that its sound is read from."""
        return self.file("sound", "movie")

    @property
    def picture_file(self) -> Path | None:
        """The file that its pictures are read from."""
        return self.file("movie", "picture")

    def digest(self) -> str:
        """Return the SHA-256 of its files' contents and of its span. Raises OSError."""
        digest = hashlib.sha256()
        for kind, path in self.files:
            with path.open("rb") as file:
                digest.update(f"{kind} {hashlib.file_digest(file, 'sha256').hexdigest()} ".encode())
        if self.span is not None:
            digest.update(f"{self.span[0]:.6f} {self.span[1]:.6f}".encode())
        return digest.hexdigest()

    def decode(self, frames: int, streams: frozenset[str]) -> Clip:
        """Decode the sound, where `streams` has audio, and `frames` pictures, where it has visual.

        Raises MediaError, naming the file where there are several, and OSError.
        """
        from model.media.types import Clip, MediaError

        sound_file = self.sound_file if "audio" in streams else None
        picture_file = self.picture_file if "visual" in streams else None
        if sound_file is not None and sound_file == picture_file:
            return self._read(sound_file, frames, sound=True, pictures=True)
        sound, pictures, problems = None, None, {}
        for file, is_sound in ((sound_file, True), (picture_file, False)):
            if file is None:
                continue
            try:
                part = self._read(file, frames, sound=is_sound, pictures=not is_sound)
            except MediaError as exc:
                raise exc.within(file.name) from exc
            sound, pictures = part.sound or sound, part.pictures or pictures
            problems[is_sound] = part.sound_problem if is_sound else part.pictures_problem
        return Clip(sound, pictures, problems.get(True), problems.get(False))

    def _read(self, file: Path, frames: int, *, sound: bool, pictures: bool) -> Clip:
        from model.media.reader import read_clip, read_sound
        from model.media.types import Clip

        data, limits = file.read_bytes(), self._limits()
        if sound and not pictures:
            return Clip(read_sound(data, span=self.span, limits=limits), None)
        return read_clip(
            data, frames, sound=sound, pictures=pictures, span=self.span, limits=limits
        )

    def _limits(self) -> Limits:
        from model.media.types import Limits

        if self.span is None:
            return Limits(max_total_pixels=MAX_PIXELS)
        scale = MAX_RECORDING_S / 60
        return Limits(
            max_duration_s=MAX_RECORDING_S,
            max_total_pixels=MAX_PIXELS,
            max_demux_cpu_s=0.4 * scale,
            max_samples=round(50_000_000 * scale / 10),
            max_decoded_pixels=round(16_000_000_000 * scale),
            max_inflated_bytes=round(16 * 1024 * 1024 * scale),
        )
