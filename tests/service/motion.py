"""A stream of a new kind of preprocessing as one adds it, in four places.

- `MotionSpec` and `prepare_motion`: a module of model/preprocess/ beside frames.py.
- The row of `specs.KINDS`.
- `MotionSource` and `read_motion`: a module of service/decoding/ beside readers.py.
- The row of `upload_fields.KIND_READERS`.

`motion` takes samples of an accelerometer as .npy, float [n, channels] in m/s², n at
`MotionSpec.sample_rate`. As `python -m tests.service.motion FD SANDBOX` this is the fork server
whose processes know the kind.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from model.checkpoint import Card
from model.media.types import UnknownFormat, Unusable
from model.preprocess import specs
from model.preprocess.prepared import Prepared
from model.preprocess.stream_spec import Size, StreamSpec
from service.classification import upload_fields
from service.classification.upload_fields import KindReader
from service.decoding import fork_server_process, wire, worker
from service.decoding.job import DecodeRequest, StreamInfo
from service.decoding.readers import ReadOptions
from service.decoding.sources import Missing, Source

# --- model/preprocess/motion.py, and its row of specs.KINDS ------------------------------------


class MotionSpec(BaseModel):
    """Convert samples to a tensor [1, 1, H, W]: a row for each of H channels, W times."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["motion"] = "motion"
    sample_rate: int = Field(ge=1, le=100_000)
    maximum: float = Field(gt=0, le=1e6, allow_inf_nan=False)
    size: Size

    @property
    def channels(self) -> int:
        return 1


def prepare_motion(values: NDArray[np.float32], spec: MotionSpec) -> Prepared:
    """Interpolate values [n, channels] at the middles of W equal parts of their time."""
    rows, columns = spec.size
    channels = values.T[np.arange(rows) * values.shape[1] // rows]
    times = (np.arange(columns) + 0.5) / columns * len(values) - 0.5
    tensor = np.stack(
        [np.interp(times, np.arange(len(values)), channel) for channel in channels]
    ) / np.float32(spec.maximum)
    grey = np.clip(127 * (1 + tensor), 0, 255).astype(np.uint8)
    return Prepared(
        tensor[None, None].astype(np.float32),
        rows="channel",
        columns="time_s",
        row_edges=np.linspace(0, values.shape[1], rows + 1),
        column_edges=np.linspace(0, len(values) / spec.sample_rate, columns + 1),
        canvas=lambda: np.repeat(grey[:, :, None], 3, axis=2),
    )


KINDS: tuple[type[StreamSpec], ...] = (*specs.KINDS, MotionSpec)

# --- service/decoding/motion.py, and its row of upload_fields.KIND_READERS ----------------------


@dataclass(frozen=True)
class MotionSource:
    """`values` float32 [n, channels]."""

    values: NDArray[np.float32]

    def empty_reason(self) -> str | None:
        return None if self.values.any() else "nothing moved"

    def prepare(self, spec: StreamSpec, steps: int) -> Prepared:
        assert isinstance(spec, MotionSpec)
        return prepare_motion(self.values, spec)

    def describe(self, unused_reason: str | None) -> StreamInfo:
        channels = self.values.shape[1]
        return StreamInfo(used=unused_reason is None, reason=unused_reason, channels=channels)


def read_motion(files: Sequence[bytes], options: ReadOptions) -> Mapping[str, Source | Missing]:
    """Read a .npy file. Raises MediaError."""
    try:
        values = np.load(io.BytesIO(files[0]), allow_pickle=False)
    except ValueError:
        raise UnknownFormat("it is not a .npy file") from None
    if values.ndim != 2 or not values.size or not np.isfinite(values).all():
        raise Unusable(f"it holds {list(values.shape)}; expected finite [n, channels]")
    return {"motion": MotionSource(values.astype(np.float32))}


KIND_READERS = {
    **upload_fields.KIND_READERS,
    "motion": KindReader(
        "tests.service.motion:read_motion",
        "Samples of an accelerometer: .npy, float [n, channels], m/s².",
    ),
}

# --- what a test needs, as these modules are not there -----------------------------------------


def _read_kinds_anew() -> None:
    """Let the models that hold specs look at `specs.KINDS` again."""
    for model in (Card, DecodeRequest, wire._Request):
        model.model_rebuild(force=True)


@contextmanager
def motion_kind() -> Iterator[None]:
    """The kind and its field in this process, and in decoding processes started in the block."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(specs, "KINDS", KINDS)
        patch.setattr(upload_fields, "KIND_READERS", KIND_READERS)
        patch.setattr(fork_server_process, "_WORKER", "tests.service.motion")
        patch.setenv("PYTHONPATH", str(Path(__file__).parents[2]), prepend=os.pathsep)
        _read_kinds_anew()
        yield
    _read_kinds_anew()


def serve_jobs() -> None:
    """Be the fork server."""
    specs.KINDS = KINDS
    upload_fields.KIND_READERS = KIND_READERS
    _read_kinds_anew()
    worker.main()


def npy(values: NDArray[np.float32]) -> bytes:
    """Return an array as a .npy file."""
    file = io.BytesIO()
    np.save(file, values)
    return file.getvalue()


def shake(seed: int = 0) -> NDArray[np.float32]:
    """Two seconds of 8 channels at 50 Hz, in m/s²."""
    noise = np.random.default_rng(seed).standard_normal((100, 8), np.float32)
    return noise * np.linspace(0.1, 5, 100, dtype=np.float32)[:, None]


if __name__ == "__main__":
    from tests.service import motion  # the module whose classes the reader makes, not __main__

    motion.serve_jobs()
