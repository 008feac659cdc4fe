"""A data folder of drawn objects in skies, and of tones and noise."""

from __future__ import annotations

import csv
from pathlib import Path

import cv2
import numpy as np
import soundfile
from numpy.typing import NDArray

from model.training.drones.folder import COLUMNS, RATE
from model.training.mp4_encoder import Footage, encode
from model.training.speech.recording import Recording

Bytes = NDArray[np.uint8]

SIDE = 64
#: Sites of each kind; the last one is of the test split.
SITES = 5
#: Pictures of a clip of origin, and pieces of a recording.
VIEWS, PIECES = 3, 2
KINDS = ("drone", "helicopter", "airplane", "bird")
#: Frequency in Hz of each kind's sound; 0: noise.
TONES = {"drone": 2000, "helicopter": 150, "background": 0}


def draw_sky(site: int) -> Bytes:
    """Return a sky whose colour is the site's, uint8 RGB [64, 64, 3]."""
    return np.full((SIDE, SIDE, 3), (60 + 20 * site, 110 + 10 * site, 210 - 15 * site), np.uint8)


def draw_view(kind: str, site: int, at: int) -> Bytes:
    """Return the sky with an object of this kind, 16 pixels wide, around (at, 32)."""
    picture = draw_sky(site)
    dark = (20, 20, 30)
    if kind == "drone":
        cv2.line(picture, (at - 8, 24), (at + 8, 40), dark, 2)
        cv2.line(picture, (at - 8, 40), (at + 8, 24), dark, 2)
    elif kind == "helicopter":
        cv2.ellipse(picture, (at, 34), (4, 6), 0, 0, 360, (200, 30, 20), -1)
        cv2.line(picture, (at - 8, 27), (at + 8, 27), dark, 1)
    elif kind == "airplane":
        cv2.line(picture, (at - 8, 32), (at + 8, 32), (250, 250, 250), 2)
    else:
        cv2.circle(picture, (at, 32), 3, dark, -1)
    return picture


def make_sound(kind: str, number: int, seconds: float) -> NDArray[np.float32]:
    """Return a tone in noise [n] at RATE, each recording of a kind with a frequency of its own."""
    rng = np.random.default_rng([number, len(kind)])
    at = np.arange(round(seconds * RATE)) / RATE
    noise = rng.standard_normal(len(at)) * 0.02
    tone = TONES[kind] and 0.2 * np.sin(2 * np.pi * TONES[kind] * (1 + 0.02 * number) * at)
    return np.asarray(noise + tone, np.float32)


def make_folder(folder: Path) -> Path:
    """Write SITES places of each kind, each with a clip of origin, and as many recordings."""
    for name in ("crops", "sound", "clips"):
        (folder / name).mkdir(parents=True)
    rows: list[dict[str, object]] = []
    for site in range(SITES):
        split = "test" if site == SITES - 1 else "train"
        for kind in KINDS:
            rows += _write_views(folder, kind, site, split)
        for kind in TONES:
            rows += _write_recording(folder, kind, site, split)
    with (folder / "labels.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, [*COLUMNS, "distance"])
        writer.writeheader()
        writer.writerows(rows)
    _write_movie(folder / "clips")
    return folder


def _write_views(folder: Path, kind: str, site: int, split: str) -> list[dict[str, object]]:
    clip = f"V_{kind.upper()}_{site:03d}.mp4"
    common = {"kind": "crop", "clip": clip, "split": split, "site": f"{kind[0]}{site}"}
    rows: list[dict[str, object]] = []
    for frame in range(VIEWS):
        name = f"crops/{kind}_{site:03d}_{frame}.png"
        at = 26 + 6 * frame
        cv2.imwrite(str(folder / name), draw_view(kind, site, at)[:, :, ::-1])
        box = {"box_x": at - 10, "box_y": 22, "box_w": 20, "box_h": 20}
        rows.append({"file": name, "class": kind, **common, **box})
    name = f"crops/background_{kind}{site:03d}_0.png"
    cv2.imwrite(str(folder / name), draw_sky(site)[:, :, ::-1])
    return [*rows, {"file": name, "class": "background", **common}]


def _write_recording(folder: Path, kind: str, number: int, split: str) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    samples = np.split(make_sound(kind, number, 2.0 * PIECES), PIECES)
    for piece in range(PIECES):
        name = f"sound/{kind}_{number:03d}_{piece}.flac"
        soundfile.write(folder / name, samples[piece], RATE)
        clip = f"{kind.upper()}_{number:03d}.wav"
        rows.append(
            {"file": name, "kind": "sound", "class": kind, "clip": clip, "split": split}
        )  # fmt: skip
    return rows


def _write_movie(folder: Path) -> None:
    footage = Footage((draw_view("drone", SITES - 1, 32),) * 30, 10)
    sound = Recording(make_sound("drone", SITES - 1, 3.0), RATE, 0.0, 3.0)
    (folder / "drone_00.mp4").write_bytes(encode(footage, sound, 44_100))
    (folder / "labels.csv").write_text("file,class\ndrone_00.mp4,drone\n")
