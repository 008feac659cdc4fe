"""Decode and preprocess one request's files for the streams of a checkpoint.

Decoding processes run this, so nothing here imports torch.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from model.media.content import KINDS_OF, content_of
from model.media.types import MediaError, TooLarge, UnknownFormat, Unusable
from model.preprocess.prepared import Prepared
from model.preprocess.specs import FrameSpec, Spec
from service.classification import upload_fields
from service.classification.upload_fields import InputFiles, UploadField
from service.decoding.job import DecodeRequest, DecodeResult, StreamInfo
from service.decoding.readers import Reader, ReadOptions
from service.decoding.sources import Missing, Source
from service.errors import Error, Problem
from service.setting_names import variable

#: Sources by field and kind of stream.
_Sources = Mapping[str, Mapping[str, Source | Missing]]


@dataclass(frozen=True)
class _Stream:
    """The input of one stream: its `source`, the upload `field` for errors, and why it is not
    used."""

    field: str
    source: Source | None
    unused_reason: str | None

    @property
    def info(self) -> StreamInfo:
        if self.source is None:
            return StreamInfo(used=False, reason=self.unused_reason)
        return self.source.describe(self.unused_reason)


def decode(files: InputFiles, request: DecodeRequest) -> DecodeResult:
    """Decode and preprocess `files`.

    Raises Problem: UNKNOWN_FORMAT, UNUSABLE, TOO_LARGE or INVALID_FIELD, naming the field.
    """
    rows = upload_fields.sent_fields(files, request.kinds)
    _check_all_used(files, rows, request)

    started = time.perf_counter()
    sources = {row.name: _read(row, files, request) for row in rows}
    streams = {
        name: _find_source(name, spec, sources, request) for name, spec in request.streams.items()
    }
    _check_sufficient(list(streams.values()), request)
    read = time.perf_counter()

    prepared: dict[str, Prepared] = {}
    for name, stream in streams.items():
        if stream.source is not None and stream.unused_reason is None:
            with _problems_naming(stream.field):
                prepared[name] = stream.source.prepare(request.streams[name], request.steps)
    infos = {name: stream.info for name, stream in streams.items()}
    return DecodeResult(prepared, infos, read - started, time.perf_counter() - read)


def _check_all_used(files: InputFiles, rows: list[UploadField], request: DecodeRequest) -> None:
    """Raise Problem INVALID_FIELD for a file that the checkpoint has no stream for."""
    used = {row.name for row in rows if _specs_fed_by(row, request)}
    for name in files:
        if name not in used:
            streams = upload_fields.describe_streams(request.kinds)
            fields = upload_fields.checkpoint_fields(request.kinds)
            accepted = ", ".join(f"`{x.name}`" for x in fields if _specs_fed_by(x, request))
            detail = (
                f"The checkpoint {request.name} has no stream for `{name}`; its streams: {streams};"
                f" its fields: {accepted}."
            )
            raise Problem(Error.INVALID_FIELD, detail, field=name)


def _specs_fed_by(row: UploadField, request: DecodeRequest) -> list[Spec]:
    kinds = request.kinds
    return [spec for name, spec in request.streams.items() if row.feeds(name, kinds)]


def _read(
    row: UploadField, files: InputFiles, request: DecodeRequest
) -> Mapping[str, Source | Missing]:
    specs = _specs_fed_by(row, request)
    # One picture for each time step where a stream takes them spread over the time.
    is_spread = any(isinstance(spec, FrameSpec) and spec.frames == "spread" for spec in specs)
    frames = request.steps if is_spread else 1
    kinds = frozenset[str](spec.kind for spec in specs)
    read: Reader = row.load_reader()
    with _problems_naming(row.name):
        try:
            return read(files[row.name], ReadOptions(kinds, frames, request.limits))
        except (UnknownFormat, Unusable) as exc:
            hint = _hint(row, files[row.name][exc.file or 0], request)
            raise type(exc)(exc.detail + hint, exc.file, exc.limit) from exc


def _hint(row: UploadField, data: bytes, request: DecodeRequest) -> str:
    """Return in which field to send a file that is of another field's kind; "" for others."""
    content = content_of(data)
    if content is None or content in row.contents:
        return ""
    article = "an" if content[0] in "aeiou" else "a"
    rows = [
        other
        for other in upload_fields.checkpoint_fields(request.kinds)
        if content in other.contents
        and any(spec.kind in KINDS_OF[content] for spec in _specs_fed_by(other, request))
    ]
    if not rows:
        return f"; it is {article} {content}, and {request.name} has no field for one"
    # Rather one that is for such files, and rather one that other checkpoints have.
    rows = [other for other in rows if other.contents[0] == content] or rows
    everywhere = {row.name for row in upload_fields.FIELDS}
    names = [other.name for other in rows if other.name in everywhere]
    names = names or [other.name for other in rows]
    return f"; it is {article} {content}: send it as {' or '.join(f'`{n}`' for n in names)}"


def _find_source(name: str, spec: Spec, sources: _Sources, request: DecodeRequest) -> _Stream:
    """Return the input of the stream `name`, from the field that was sent for it."""
    kinds = request.kinds
    fields = [row for row in upload_fields.checkpoint_fields(kinds) if row.feeds(name, kinds)]
    field = next((row.name for row in fields if row.name in sources), None)
    if field is None:
        return _not_sent(name, fields, sources, kinds)
    source = sources[field][spec.kind]
    if isinstance(source, Missing):
        return _Stream(field, None, source.reason)
    return _Stream(field, source, source.empty_reason() if request.missing_streams else None)


def _not_sent(
    name: str, fields: list[UploadField], sources: _Sources, kinds: upload_fields.Kinds
) -> _Stream:
    """Describe a stream that no file was sent for, with the fields that could be added."""
    sent = [row for row in upload_fields.checkpoint_fields(kinds) if row.name in sources]
    free = [row for row in fields if not any(row.overlaps(other, kinds) for other in sent)]
    names = [row.name for row in free if row.stream is None] or [row.name for row in free]
    if not names:
        return _Stream(sent[0].name, None, f"no upload field is for the stream {name}")
    were = "was" if len(names) == 1 else "were"
    return _Stream(names[0], None, f"{' and '.join(f'no `{n}`' for n in names)} {were} sent")


def _check_sufficient(streams: list[_Stream], request: DecodeRequest) -> None:
    """Raise Problem UNUSABLE where the checkpoint needs a stream that is not used."""
    unused = [stream for stream in streams if stream.unused_reason is not None]
    if not unused:
        return
    unused.sort(key=lambda stream: stream.source is None)  # name a field that was sent, if any
    field = unused[0].field
    reasons = "; ".join(dict.fromkeys(str(stream.unused_reason) for stream in unused))
    if len(unused) == len(streams):
        raise Problem(Error.UNUSABLE, f"There is nothing to classify: {reasons}.", field=field)
    if not request.missing_streams:
        names = " and ".join(request.streams)
        detail = f"The checkpoint {request.name} needs {names}, but {reasons}."
        raise Problem(Error.UNUSABLE, detail, field=field)


@contextmanager
def _problems_naming(field: str) -> Iterator[None]:
    """Raise a MediaError of the block as the Problem that names the field."""
    try:
        yield
    except MediaError as exc:
        errors = {UnknownFormat: Error.UNKNOWN_FORMAT, TooLarge: Error.TOO_LARGE}
        error = errors.get(type(exc), Error.UNUSABLE)
        setting = "" if exc.limit is None else f" ({variable(exc.limit)})"
        detail = f"`{field}`: {exc.detail}{setting}."
        raise Problem(error, detail, field=field, file=exc.file) from exc
