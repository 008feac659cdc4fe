"""Read and preprocess values over time: the reader of streams of the kind "series"."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from model.media import series
from model.media.series import Series
from model.preprocess.prepared import Prepared
from model.preprocess.series import prepare_series
from model.preprocess.specs import SeriesSpec, Spec
from service.decoding.job import StreamInfo
from service.decoding.readers import ReadOptions
from service.decoding.sources import Missing, Source


@dataclass(frozen=True)
class SeriesSource:
    """Values over time, for streams of the kind "series"."""

    series: Series

    def empty_reason(self) -> str | None:
        return None if self.series.values.any() else "all its values are 0"

    def prepare(self, spec: Spec, steps: int) -> Prepared:
        assert isinstance(spec, SeriesSpec)
        return prepare_series(self.series, spec)

    def describe(self, unused_reason: str | None) -> StreamInfo:
        return StreamInfo(
            used=unused_reason is None,
            reason=unused_reason,
            duration_s=round(self.series.duration_s, 3),
            values=len(self.series.values),
        )


def read_series(files: Sequence[bytes], options: ReadOptions) -> Mapping[str, Source | Missing]:
    """Read a CSV or an .npz."""
    return {"series": SeriesSource(series.read_series(files[0], options.limits))}
