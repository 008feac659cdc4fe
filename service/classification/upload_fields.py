"""The table of upload fields (`FIELDS`), and the files of one request.

The form, the decoding processes, the flags of `scmrl classify`, the OpenAPI description and the
error details are all made from `FIELDS`. A new upload field, also for a third stream, is a row here
and a reader (service/decoding/readers.py). How a stream is then preprocessed is the spec in its
checkpoint's card; a new class of specs is needed only for a new kind of preprocessing
(model/preprocess/specs.py). The service and the decoding processes import this module, so it
imports nothing slow.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from service.errors import Error, Problem

if TYPE_CHECKING:
    from service.settings import Settings


@dataclass(frozen=True)
class UploadField:
    """One upload field.

    - `name`: of the form field, and of the flag of `scmrl classify`.
    - `kinds`: kinds of the streams that it feeds; a stream's kind is the `kind` of its spec in the
      checkpoint's card.
    - `reader`: "module:function" that reads its files, a `service.decoding.readers.Reader`. Only
      decoding processes import it.
    - `description`: one sentence for OpenAPI and for the help of `scmrl classify`.
    - `stream`: name of the only stream that it feeds. None: of each of `kinds` the checkpoint's
      first stream that is not the `stream` of another row; a further one needs a row of its own,
      so that no stream gets another's file.
    - `max_bytes`: the setting that bounds each of its files.
    - `max_files`: the setting that bounds how often the field is repeated; None: it is sent once.
    """

    name: str
    kinds: tuple[str, ...]
    reader: str
    description: str
    stream: str | None = None
    max_bytes: str = "max_file_bytes"
    max_files: str | None = None

    def load_reader(self) -> Callable[..., Any]:
        """Import the reader."""
        reader: Callable[..., Any] = pkgutil.resolve_name(self.reader)
        return reader

    def feeds(self, stream: str, kinds: Mapping[str, str]) -> bool:
        """Return whether it feeds this stream of a checkpoint, whose streams are of these kinds."""
        kind = kinds[stream]
        if kind not in self.kinds:
            return False
        if self.stream is not None:
            return self.stream == stream
        named = {row.stream for row in FIELDS}
        others = [name for name in kinds if kinds[name] == kind and name not in named]
        return others[:1] == [stream]

    def overlaps(self, other: UploadField) -> bool:
        """Return whether both feed the same stream, so that a request can have only one of them."""
        return self.stream == other.stream and not set(self.kinds).isdisjoint(other.kinds)


#: The upload fields, in the order in which they are listed.
FIELDS: tuple[UploadField, ...] = (
    UploadField(
        name="clip",
        kinds=("spectrogram", "frames"),
        reader="service.decoding.readers:read_clip",
        description="A file with sound and picture: mp4, mov, webm, mkv, avi, flv, …",
    ),
    UploadField(
        name="video",
        kinds=("frames",),
        reader="service.decoding.readers:read_video",
        description="Instead of `clip`: a video, of which only the pictures are used.",
    ),
    UploadField(
        name="frames",
        kinds=("frames",),
        reader="service.decoding.readers:read_frames",
        description="Instead of `video`: pictures (jpeg, png, webp, …) in temporal order.",
        max_files="max_frames",
    ),
    UploadField(
        name="audio",
        kinds=("spectrogram",),
        reader="service.decoding.readers:read_audio",
        description="Instead of `clip`: a sound (wav, flac, ogg, mp3, m4a, …, or the sound of a "
        "video).",
    ),
    UploadField(
        name="events",
        kinds=("events",),
        reader="service.decoding.events:read_events",
        description="For checkpoints trained on events: those of an event camera, as .npz (x, y, t "
        "in µs, p), AEDAT 4, EVT 2.0 or 3.0, or N-MNIST (.bin, .bs2).",
    ),
    UploadField(
        name="audio_events",
        kinds=("audio_events",),
        reader="service.decoding.events:read_audio_events",
        description="For checkpoints trained on events: those of a cochlea, as .npz (channel, t in "
        "µs).",
    ),
)


class InputFiles(Mapping[str, tuple[bytes, ...]]):
    """The files of one request by upload field; those of a repeated field in the order sent.

    `InputFiles(clip=data)` or `InputFiles(frames=[first, second], audio=sound)`. A field without
    files is left out.
    """

    def __init__(self, **files: bytes | Sequence[bytes] | None) -> None:
        self._files = {
            name: (data,) if isinstance(data, bytes) else tuple(data)
            for name, data in files.items()
            if data is not None and (isinstance(data, bytes) or len(data))
        }

    def __getitem__(self, name: str) -> tuple[bytes, ...]:
        return self._files[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)

    def __repr__(self) -> str:
        """Return the files' sizes in bytes, never their content."""
        sizes = (f"{name}={[len(data) for data in files]}" for name, files in self.items())
        return f"InputFiles({', '.join(sizes)})"

    @property
    def first_field(self) -> str:
        """The first field that has a file, in the order of `FIELDS`."""
        return next(row.name for row in rows_of(self))


def rows_of(files: InputFiles) -> list[UploadField]:
    """Return the rows of the fields that were sent, in the order of `FIELDS`."""
    return [row for row in FIELDS if row.name in files]


def check_files(files: InputFiles, settings: Settings) -> None:
    """Check that files are there, go together and are neither too many nor empty.

    Raises Problem INVALID_FIELD, TOO_LARGE or UNUSABLE, naming the field.
    """
    rows = rows_of(files)
    if not rows:
        raise Problem(
            Error.INVALID_FIELD, f"No file was sent; send {usage()}.", field=FIELDS[0].name
        )
    for number, row in enumerate(rows):
        for other in rows[number + 1 :]:
            if row.overlaps(other):
                detail = f"`{row.name}` and `{other.name}` are for the same stream; send {usage()}."
                raise Problem(Error.INVALID_FIELD, detail, field=other.name)
    for row in rows:
        _check_field(row, files[row.name], settings)


def _check_field(row: UploadField, files: Sequence[bytes], settings: Settings) -> None:
    """Raise Problem INVALID_FIELD, TOO_LARGE or UNUSABLE."""
    if row.max_files is None and len(files) > 1:
        detail = f"`{row.name}` was sent {len(files)} times; send it once."
        raise Problem(Error.INVALID_FIELD, detail, field=row.name)
    if row.max_files is not None and len(files) > (limit := getattr(settings, row.max_files)):
        detail = f"There are {len(files)} `{row.name}`; at most {limit} are accepted."
        raise Problem(Error.TOO_LARGE, detail, field=row.name)
    for number, data in enumerate(files, start=1):
        if not data:
            file = f"File {number} of `{row.name}`" if row.max_files else f"`{row.name}`"
            raise Problem(Error.UNUSABLE, f"{file} is empty.", field=row.name)


def usage() -> str:
    """Return the fields that can be sent, stream by stream, for the detail of an error."""
    streams: dict[tuple[str | None, str], list[str]] = {}
    for row in FIELDS:
        for kind in row.kinds:
            streams.setdefault((row.stream, kind), []).append(f"`{row.name}`")
    choices = [
        f"{_join(names, 'or')} for {stream or _CONTENT.get(kind, kind)}"
        for (stream, kind), names in streams.items()
    ]
    return _join(choices, "and")


def _join(words: Sequence[str], conjunction: str) -> str:
    *first, last = words
    return f"{', '.join(first)} {conjunction} {last}" if first else last


#: The content of a stream of each kind, in a word.
_CONTENT = {
    "spectrogram": "sound",
    "frames": "pictures",
    "events": "a camera's events",
    "audio_events": "a cochlea's events",
}
