"""The protocol of stream specs, and the types of their fields."""

from __future__ import annotations

from typing import Annotated, Protocol

from pydantic import Field

#: Height or width of an input tensor, in pixels, or in spectrogram bins.
_Side = Annotated[int, Field(ge=4, le=1024)]
#: Height and width.
Size = tuple[_Side, _Side]
#: A natural-log magnitude, or a pixel value divided by 255.
Level = Annotated[float, Field(ge=-1000, le=1000, allow_inf_nan=False)]
#: A standard deviation. Dividing by it neither overflows nor underflows float32.
Deviation = Annotated[float, Field(ge=1e-6, le=1e6, allow_inf_nan=False)]
#: A share of a whole.
Share = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]


class StreamSpec(Protocol):
    """The preprocessing of one stream: a frozen pydantic model, listed in `specs.KINDS`.

    Its field `kind` is a Literal with a default, by which a card names the class. The tensor is
    float32 [T or 1, C, H, W] with C = `channels` and (H, W) = `size`.
    """

    @property
    def kind(self) -> str: ...

    @property
    def channels(self) -> int: ...

    @property
    def size(self) -> tuple[int, int]: ...
