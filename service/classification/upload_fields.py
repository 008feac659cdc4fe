"""The upload fields of a checkpoint, and the files of one request.

Every checkpoint's form has the fields of `FIELDS`, and one for each stream of its card, of the
stream's name: `checkpoint_fields` returns both. A file in a field of a stream's name feeds that
stream alone. A field of `FIELDS` feeds the first stream of each of its kinds, so no stream gets
another's file. The spec in the card says how a stream is then preprocessed.

The form, the decoding processes, `scmrl classify`, the OpenAPI description and the error details
are all made from these fields. A new kind of streams needs a row in `KIND_READERS` and a reader
(service/decoding/readers.py), besides its spec (model/preprocess/specs.py). The service and the
decoding processes import this module, so it imports nothing slow.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from service.classification.options import Options
from service.errors import Error, Problem
from service.setting_names import variable

if TYPE_CHECKING:
    from model.media.content import Content
    from service.settings import Settings

#: The kind of each stream of a checkpoint: the `kind` of its spec, by the stream's name.
Kinds = Mapping[str, str]


@dataclass(frozen=True)
class UploadField:
    """One upload field.

    - `name`: of the form field.
    - `kinds`: kinds of the streams that it feeds.
    - `reader`: "module:function" that reads its files, a `service.decoding.readers.Reader`. Only
      decoding processes import it.
    - `description`: one sentence for OpenAPI and for the help of `scmrl classify`.
    - `stream`: name of the only stream that it feeds. None: of each of `kinds` the checkpoint's
      first stream.
    - `contents`: what its files may be, where that has a signature; first what it is for.
    - `max_bytes`: the setting that bounds each of its files.
    - `max_files`: the setting that bounds how often the field is repeated; None: it is sent once.
    """

    name: str
    kinds: tuple[str, ...]
    reader: str
    description: str
    contents: tuple[Content, ...] = ()
    stream: str | None = None
    max_bytes: str = "max_file_bytes"
    max_files: str | None = None

    def load_reader(self) -> Callable[..., Any]:
        """Import the reader."""
        reader: Callable[..., Any] = pkgutil.resolve_name(self.reader)
        return reader

    def feeds(self, stream: str, kinds: Kinds) -> bool:
        """Return whether it feeds this stream of a checkpoint, whose streams are of these kinds."""
        if kinds[stream] not in self.kinds:
            return False
        first = next(name for name in kinds if kinds[name] == kinds[stream])
        return stream == (first if self.stream is None else self.stream)

    def overlaps(self, other: UploadField, kinds: Kinds) -> bool:
        """Return whether both feed the same stream, so that a request can have only one of them."""
        return any(self.feeds(stream, kinds) and other.feeds(stream, kinds) for stream in kinds)


#: The fields of every checkpoint, in the order in which they are listed.
FIELDS: tuple[UploadField, ...] = (
    UploadField(
        name="clip",
        kinds=("spectrogram", "frames"),
        reader="service.decoding.readers:read_clip",
        description="A file with sound and picture: mp4, mov, webm, mkv, avi, flv, …",
        contents=("video", "sound", "picture"),
    ),
    UploadField(
        name="video",
        kinds=("frames",),
        reader="service.decoding.readers:read_video",
        description="Instead of `clip`: a video, of which only the pictures are used.",
        contents=("video", "picture"),
    ),
    UploadField(
        name="frames",
        kinds=("frames",),
        reader="service.decoding.readers:read_frames",
        description="Instead of `video`: pictures (jpeg, png, webp, …) in temporal order.",
        contents=("picture",),
        max_files="max_frames",
    ),
    UploadField(
        name="audio",
        kinds=("spectrogram",),
        reader="service.decoding.readers:read_audio",
        description="Instead of `clip`: a sound (wav, flac, ogg, mp3, m4a, …, or the sound of a "
        "video).",
        contents=("sound", "video"),
    ),
    UploadField(
        name="events",
        kinds=("events",),
        reader="service.decoding.events:read_events",
        description="For checkpoints trained on events: those of an event camera, as .npz (x, y, t "
        "in µs, p), AEDAT 4, AER-DAT 1.0 or 2.0 of a DVS128 (jAER), EVT 2.0 or 3.0, or N-MNIST "
        "(.bin, .bs2).",
        contents=("archive of arrays", "recording of events"),
    ),
    UploadField(
        name="audio_events",
        kinds=("audio_events",),
        reader="service.decoding.events:read_audio_events",
        description="For checkpoints trained on events: those of a cochlea, as .npz (channel, t in "
        "µs).",
        contents=("archive of arrays",),
    ),
)


@dataclass(frozen=True)
class KindReader:
    """The reader and the description of a stream's own field, for one kind of streams.

    `reader`, `description`, `contents`, `max_files`: as in `UploadField`. `content`: noun for what
    the stream holds; empty where the stream's name says more.
    """

    reader: str
    description: str
    contents: tuple[Content, ...] = ()
    content: str = ""
    max_files: str | None = None


#: How a field of a stream's own name is read, by the stream's kind.
KIND_READERS: dict[str, KindReader] = {
    "spectrogram": KindReader(
        "service.decoding.readers:read_audio",
        "a sound (wav, flac, …, or that of a video).",
        ("sound", "video"),
        "sound",
    ),
    "frames": KindReader(
        "service.decoding.readers:read_pictures",
        "a video, or pictures in temporal order.",
        ("video", "picture"),
        "pictures",
        max_files="max_frames",
    ),
    "events": KindReader(
        "service.decoding.events:read_events",
        "events of a camera, as `events`.",
        ("archive of arrays", "recording of events"),
        "a camera's events",
    ),
    "audio_events": KindReader(
        "service.decoding.events:read_audio_events",
        "events of a cochlea, as `audio_events`.",
        ("archive of arrays",),
        "a cochlea's events",
    ),
    "series": KindReader(
        "service.decoding.series:read_series",
        "values over time: CSV of time in seconds and value, or .npz of `t` and one other array.",
        ("archive of arrays",),
    ),
}
#: Names of options, which no stream's field can have.
_OPTIONS = frozenset(option.name for option in fields(Options))


def checkpoint_fields(kinds: Kinds) -> tuple[UploadField, ...]:
    """Return the upload fields of a checkpoint, whose streams are of these kinds.

    A stream's own field takes the place of one of `FIELDS` of its name. A stream whose name is
    that of an option has no field of its own.
    """
    own = [
        UploadField(
            name=stream,
            kinds=(kind,),
            reader=KIND_READERS[kind].reader,
            description=f"The stream {stream}: {KIND_READERS[kind].description}",
            contents=KIND_READERS[kind].contents,
            stream=stream,
            max_files=KIND_READERS[kind].max_files,
        )
        for stream, kind in kinds.items()
        if kind in KIND_READERS and stream not in _OPTIONS
    ]
    return (*(row for row in FIELDS if row.name not in kinds), *own)


def describe_streams(kinds: Kinds) -> str:
    """Return the streams of a checkpoint with their kinds, for messages: `audio (spectrogram)`."""
    return ", ".join(f"{stream} ({kind})" for stream, kind in kinds.items())


class InputFiles(Mapping[str, tuple[bytes, ...]]):
    """The files of one request by upload field; those of a repeated field in the order sent.

    `InputFiles(clip=data)` or `InputFiles(frames=[first, second], audio=sound)`. A field without
    files is left out.
    """

    def __init__(self, /, **files: bytes | Sequence[bytes] | None) -> None:
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
        """The first field that has a file: in the order of `FIELDS`, then a stream's own."""
        order = [row.name for row in FIELDS]
        return min(self, key=lambda name: order.index(name) if name in order else len(order))


def sent_fields(files: InputFiles, kinds: Kinds) -> list[UploadField]:
    """Return the fields that were sent, of a checkpoint's, in the order of `checkpoint_fields`."""
    return [row for row in checkpoint_fields(kinds) if row.name in files]


def check_files(files: InputFiles, settings: Settings, kinds: Kinds) -> None:
    """Check that files are there, go together and are neither too many nor empty.

    Raises Problem INVALID_FIELD, TOO_LARGE or UNUSABLE, naming the field.
    """
    rows = sent_fields(files, kinds)
    if not files:
        raise Problem(
            Error.INVALID_FIELD, f"No file was sent; send {usage(kinds)}.", field=FIELDS[0].name
        )
    for number, row in enumerate(rows):
        for other in rows[number + 1 :]:
            if row.overlaps(other, kinds):
                detail = (
                    f"`{row.name}` and `{other.name}` are for the same stream; send {usage(kinds)}."
                )
                raise Problem(Error.INVALID_FIELD, detail, field=other.name)
    for row in rows:
        _check_field(row, files[row.name], settings)


def _check_field(row: UploadField, files: Sequence[bytes], settings: Settings) -> None:
    """Raise Problem INVALID_FIELD, TOO_LARGE or UNUSABLE."""
    if row.max_files is None and len(files) > 1:
        detail = f"`{row.name}` was sent {len(files)} times; send it once."
        raise Problem(Error.INVALID_FIELD, detail, field=row.name)
    if row.max_files is not None and len(files) > (limit := getattr(settings, row.max_files)):
        accepted = f"at most {limit} are accepted ({variable(row.max_files)})"
        detail = f"There are {len(files)} `{row.name}`; {accepted}."
        raise Problem(Error.TOO_LARGE, detail, field=row.name)
    for number, data in enumerate(files, start=1):
        if not data:
            file = f"File {number} of `{row.name}`" if row.max_files else f"`{row.name}`"
            raise Problem(Error.UNUSABLE, f"{file} is empty.", field=row.name)


def usage(kinds: Kinds) -> str:
    """Return the fields that can be sent, stream by stream, for the detail of an error."""
    choices = []
    for stream, kind in kinds.items():
        names = [f"`{row.name}`" for row in checkpoint_fields(kinds) if row.feeds(stream, kinds)]
        is_only = list(kinds.values()).count(kind) == 1
        content = KIND_READERS[kind].content if is_only and kind in KIND_READERS else ""
        choices.append(f"{_join(names, 'or')} for {content or stream}")
    return _join(choices, "and")


def general_usage() -> str:
    """Return the fields of every checkpoint by what they hold, for a description."""
    choices = []
    for kind, reader in KIND_READERS.items():
        if names := [f"`{row.name}`" for row in FIELDS if kind in row.kinds]:
            choices.append(f"{_join(names, 'or')} for {reader.content or kind}")
    return _join(choices, "and")


def _join(words: Sequence[str], conjunction: str) -> str:
    *first, last = words
    return f"{', '.join(first)} {conjunction} {last}" if first else last
