"""OpenCV, with its own limit on pixels and without log lines about damaged files.

cv2 reads these variables when it is first imported. The limit backs up the checks of headers.
"""

from __future__ import annotations

import os

from model.media.types import Limits

os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(Limits.max_pixels))
os.environ.setdefault("OPENCV_LOG_LEVEL", "FATAL")

import cv2 as cv2
