"""A stream of a new kind as one adds it: a row of `upload_fields.FIELDS`, and a reader.

`tactile` takes the frames of a pressure sensor as .npy, float [n, rows, columns] in kPa. As
`python -m tests.service.tactile FD SANDBOX` this is the fork server whose processes know the row.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray

from model.media.types import TooLarge, UnknownFormat, Unusable
from model.preprocess.frames import segment_centres
from model.preprocess.prepared import Prepared
from model.preprocess.specs import Spec
from service.classification import upload_fields
from service.classification.upload_fields import UploadField
from service.decoding import fork_server_process, worker
from service.decoding.job import StreamInfo
from service.decoding.readers import ReadOptions
from service.decoding.sources import Missing, Source

TACTILE = UploadField(
    name="tactile",
    kinds=("frames",),
    reader="tests.service.tactile:read_pressure",
    description="The frames of a pressure sensor: .npy, float [n, rows, columns], kPa.",
    stream="tactile",
)
#: Pressure that is brightest, in kPa.
_MAX_KPA = 10.0


@dataclass(frozen=True)
class PressureSource:
    """`frames` float32 [n, rows, columns] in kPa."""

    frames: NDArray[np.float32]

    def empty_reason(self) -> str | None:
        return None if self.frames.any() else "nothing touched the sensor"

    def prepare(self, spec: Spec, steps: int) -> Prepared:
        """Return one frame per step; each cell of the sensor is enlarged to a block of cells."""
        height, width = spec.size
        rows, columns = self.frames.shape[1:]
        frames = self.frames[segment_centres(len(self.frames), steps)] / _MAX_KPA
        row_indices = np.arange(height) * rows // height
        column_indices = np.arange(width) * columns // width
        grid = frames[:, row_indices][:, :, column_indices]  # [T, H, W]
        tensor = np.repeat(grid[:, None], spec.channels, axis=1).astype(np.float32)
        canvas = np.clip(255 * grid[len(grid) // 2], 0, 255).astype(np.uint8)
        return Prepared(
            tensor,
            rows="y",
            columns="x",
            row_edges=np.linspace(0, rows, height + 1),
            column_edges=np.linspace(0, columns, width + 1),
            canvas=lambda: np.repeat(canvas[:, :, None], 3, axis=2),
        )

    def describe(self, unused_reason: str | None) -> StreamInfo:
        count, height, width = self.frames.shape
        return StreamInfo(
            used=unused_reason is None,
            reason=unused_reason,
            frames=count,
            width=width,
            height=height,
        )


def read_pressure(files: Sequence[bytes], options: ReadOptions) -> Mapping[str, Source | Missing]:
    """Read a .npy file. Raises MediaError."""
    try:
        frames = np.load(io.BytesIO(files[0]), allow_pickle=False)
    except ValueError:
        raise UnknownFormat("it is not a .npy file") from None
    if frames.ndim != 3 or not frames.size or not np.isfinite(frames).all():
        raise Unusable(f"it holds {list(frames.shape)}, not finite [n, rows, columns]")
    if len(frames) > options.limits.max_frames:
        raise TooLarge(f"{len(frames)} frames; at most {options.limits.max_frames} are accepted")
    return {"frames": PressureSource(frames.astype(np.float32))}


def npy(frames: NDArray[np.float32]) -> bytes:
    """Return an array as a .npy file."""
    file = io.BytesIO()
    np.save(file, frames)
    return file.getvalue()


def touch(seed: int = 0) -> NDArray[np.float32]:
    """Return 10 frames of a finger that moves over 6 x 8 cells, in kPa."""
    pressure = np.random.default_rng(seed).random((10, 6, 8), np.float32)
    for frame in range(10):
        pressure[frame, 2:5, frame % 6 : frame % 6 + 3] += 6
    return pressure


@contextmanager
def tactile_row() -> Iterator[None]:
    """The row in this process, and in the decoding processes that are started in the block."""
    others = [row for row in upload_fields.FIELDS if row is not TACTILE]  # of a fixture
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(upload_fields, "FIELDS", (*others, TACTILE))
        patch.setattr(fork_server_process, "_WORKER", "tests.service.tactile")
        yield


if __name__ == "__main__":
    upload_fields.FIELDS = (*upload_fields.FIELDS, TACTILE)
    worker.main()
