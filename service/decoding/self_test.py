"""The files that a decoding process must read before the service is ready."""

from __future__ import annotations

import base64
import io
import zlib
from collections.abc import Mapping

import numpy as np

from service.classification.upload_fields import InputFiles

#: An AVI of 12 kB, compressed here: two pictures of 16 x 16 (MPEG-4), 0.2 s of a tone at 8 kHz.
CLIP = zlib.decompress(
    base64.b64decode(
        "eNrtmltPGkEUx8+Kok3ahqY1IX2p9MmH2gBpGl+aoE1I6cU2xVpuKpcVWV2EcFmqQhClAhoUFS945/ZuevG9TT9B"
        "P0G/QV+a1JemndmFhOB7Xzi/3ZOZ2Z09J2eymUn+M68Nev1ZH8DAiKHnucE47L8L4GEDvEPgPP0AoLsmA90dEFFc"
        "AWiTqrVSQS4QrRnqK09eBEMBnpjoS+DYoP7FqweN/RhiHQ0+7cT+EurvaQTyvbuX1HtrsRTid0oQfckux376ZuiZ"
        "knRqr7XVatYFCIIgCIIgCIIgCIK0FFSbiDZpE44wG2Sa+tF2XfvQySWj2kRjP6pNSHoEI/alxkDXZQ1CE3HiyCMI"
        "giAIgiAIgiBIa0H1gXYGwMd6eXJ7Llp4LKgec5uUhiH9S4NRP3ydPnMI7ofa+xpyq7XiaF3I8K9BkFadIb7LAbw+"
        "gaOnueziU+aMTKDM58xNSapleuBbNg19kGy75SLND2QOcZE5RNsvziHAfARFJynObyRMg52JP7+U3SprrTQ9GvgR"
        "j8k7nox8kcq3P6liSxXf+OruSaVyupddCE6Omc2jrC+a2T4uV4qF9cUwZ7eYbC7vXGrrqFwtHWwkI9MOq8nqmI4k"
        "Nw5K1fLRVmrO67KZLHYuvLheKFbKx9uZqI8dNZvHJoML2b3TSuVkdzUecFPXE/7Yyg4NVlhLhDzjFrONnZlP54nr"
        "4n5uSZgiwaxOfnZ587BULR1uLs/yTitxPSUs5faLJFg+PT/D2syWcU8osVagrndWYv4JGswdwDwwD8wD88A8/m8e"
        "dL3qltarc+PXLn5QlUsVr75Ps/ceq34Dx77TqEE6o0z3Eel+IV3d6OpD2zxI+471M8yfSJ16+wc5MYMO"
    )
)

#: A CSV of two values.
SERIES = b"t,value\n0,1\n1,2\n"


def files(kinds: Mapping[str, str]) -> InputFiles | None:
    """Return small files for streams of these kinds, by their names; None where there is none for
    any of them."""
    samples: dict[str, bytes] = {}
    if not {"spectrogram", "frames"}.isdisjoint(kinds.values()):
        samples["clip"] = CLIP
    if "events" in kinds.values():
        samples["events"] = _events()
    if "audio_events" in kinds.values():
        samples["audio_events"] = _events()
    samples |= {name: SERIES for name, kind in kinds.items() if kind == "series"}
    return InputFiles(**samples) if samples else None


def _events() -> bytes:
    """Return an .npz of one event, for a camera and for a cochlea."""
    file, zero = io.BytesIO(), np.zeros(1, np.int64)
    np.savez(file, x=zero, y=zero, p=zero, t=zero, channel=zero)
    return file.getvalue()
