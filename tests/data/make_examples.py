"""Write the page's example clips: `python -m tests.data.make_examples` from the repository's root.

They are copies of clips of this folder, with a small still picture of each.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from model.media.events.reader import read_camera_events
from model.media.reader import read_clip

FOLDER = Path(__file__).parents[2] / "service" / "http" / "page" / "static" / "examples"
CLIPS = ("clips/digit-3.webm", "clips/digit-7.webm", "clips/hand-8.mp4", "clips/drone.mp4")
EVENTS = ("events/digit-7.bs2", "events/digit-7.npz")
#: Width of a still picture.
WIDTH = 240
#: Grey around events, BGR.
BACKGROUND = (40, 40, 40)


def still_of_clip(clip: bytes) -> NDArray[np.uint8]:
    """Return a picture of the last third of a clip, BGR [h, w, 3]."""
    pictures = read_clip(clip, 6).pictures
    assert pictures is not None
    return np.asarray(pictures.frames[4][:, :, ::-1])


def still_of_events(recording: bytes) -> NDArray[np.uint8]:
    """Return the events of the first third of a recording, bright where on, BGR [34, 34, 3]."""
    events = read_camera_events(recording)
    picture = np.full((34, 34, 3), BACKGROUND, np.uint8)
    early = events.time_us < events.time_us[0] + 100_000
    picture[events.y[early], events.x[early]] = np.where(
        events.is_on[early, None], (120, 220, 250), (200, 130, 60)
    )
    return picture


def write_still(picture: NDArray[np.uint8], name: str, interpolation: int) -> None:
    """Write a picture, WIDTH pixels wide."""
    height = round(picture.shape[0] * WIDTH / picture.shape[1])
    still = cv2.resize(picture, (WIDTH, height), interpolation=interpolation)
    cv2.imwrite(str(FOLDER / f"{name}.jpg"), still, [cv2.IMWRITE_JPEG_QUALITY, 80])


if __name__ == "__main__":
    data = Path(__file__).parent
    for name in (*CLIPS, *EVENTS):
        shutil.copy(data / name, FOLDER)
    for name in CLIPS[1:]:
        write_still(still_of_clip((data / name).read_bytes()), Path(name).stem, cv2.INTER_AREA)
    events = still_of_events((data / EVENTS[0]).read_bytes())
    write_still(events, "digit-7-events", cv2.INTER_NEAREST)
