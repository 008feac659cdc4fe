"""Take the figures of docs/page.md.

    python .ci/page_figures.py http://127.0.0.1:8000

Needs Chromium (`apt-get install chromium`), `pip install playwright pillow`, and a running service
with the checkpoints that ship. The camera and the microphone are a clip of the tests.
"""

from __future__ import annotations

import io
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import av
import soundfile
from PIL import Image
from playwright.sync_api import Page, sync_playwright

ROOT = Path(__file__).resolve().parents[1]
CLIP = ROOT / "tests" / "data" / "clips" / "digit-7.mp4"
FIGURES = ROOT / "docs" / "figures"
#: Sizes of the browser's windows in pixels; page.png shows the full page.
WIDTH = 1280
HEIGHT, DARK_HEIGHT, LIVE_HEIGHT = 860, 1060, 860
#: Answers that the live figure shows.
ANSWERS = 12


def write_camera(path: Path) -> None:
    """Write the clip's pictures as YUV4MPEG2, which Chromium plays as its camera, in a loop."""
    with av.open(str(CLIP)) as container, path.open("wb") as out:
        stream = container.streams.video[0]
        rate = stream.average_rate
        out.write(b"YUV4MPEG2 W%d H%d F%d:%d Ip A1:1 C420\n"
                  % (stream.width, stream.height, rate.numerator, rate.denominator))  # fmt: skip
        for frame in container.decode(stream):
            out.write(b"FRAME\n" + frame.to_ndarray(format="yuv420p").tobytes())


def write_microphone(path: Path) -> None:
    """Write the clip's sound as WAV."""
    resampler = av.AudioResampler(format="s16", layout="mono")
    with av.open(str(CLIP)) as container:
        frames = [
            resampled
            for frame in container.decode(audio=0)
            for resampled in resampler.resample(frame)
        ]
    samples = b"".join(frame.to_ndarray().tobytes() for frame in frames)
    with soundfile.SoundFile(path, "w", frames[0].sample_rate, 1, "PCM_16") as out:
        out.buffer_write(samples, "int16")


def save(name: str, png: bytes) -> None:
    """Write a figure with 256 colours: a third of the size."""
    picture = Image.open(io.BytesIO(png)).convert("RGB")
    palette = picture.quantize(256, Image.Quantize.MEDIANCUT, kmeans=3)
    palette.save(FIGURES / name, optimize=True)
    print(FIGURES / name, picture.size, (FIGURES / name).stat().st_size)


def classify_example(page: Page) -> None:
    """Classify an example with all details shown, and wait for the answer."""
    for setting in ("#leave-one-out", "#diagnostics"):
        page.locator(setting).check()
    page.get_by_role("button", name="A seven, drawn and spoken").click()
    page.locator(".headline").wait_for()
    page.evaluate("() => { document.activeElement.blur(); scrollTo(0, 0); }")
    page.mouse.move(0, 0)
    page.wait_for_timeout(3000)  # until the player's controls are hidden and the maps are drawn


def main(address: str) -> None:
    """Write the figures of the page that the service at an address serves."""
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as play:
        camera, microphone = Path(folder, "camera.y4m"), Path(folder, "microphone.wav")
        write_camera(camera)
        write_microphone(microphone)
        browser = play.chromium.launch(
            executable_path=shutil.which("chromium"),
            args=["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream",
                  f"--use-file-for-fake-video-capture={camera}",
                  f"--use-file-for-fake-audio-capture={microphone}"],
        )  # fmt: skip

        def open_page(height: int, scheme: Any = "light") -> Page:
            size: Any = {"width": WIDTH, "height": height}
            page = browser.new_page(base_url=address, viewport=size, color_scheme=scheme)
            page.goto("/")
            page.get_by_role("button", name="A seven, drawn and spoken").wait_for()
            return page

        page = open_page(HEIGHT)
        classify_example(page)
        save("page.png", page.screenshot(full_page=True))
        page = open_page(DARK_HEIGHT, "dark")
        classify_example(page)
        save("page-dark.png", page.screenshot())
        page = open_page(LIVE_HEIGHT)
        page.get_by_role("tab", name="Live").click()
        page.get_by_role("button", name="Start").click()
        page.wait_for_function(f"() => document.querySelectorAll('.moment').length >= {ANSWERS}")
        save("page-live.png", page.screenshot())


if __name__ == "__main__":
    main(sys.argv[1])
