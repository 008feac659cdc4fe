"""Colours of video: matrix, range, HDR and alpha, from planes that are computed here."""

from __future__ import annotations

import io
from dataclasses import dataclass
from fractions import Fraction

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from model.media.reader import Unusable, read_clip
from model.media.video import colour
from tests.model.media_files import Bytes, Floats, tone

pytestmark = pytest.mark.filterwarnings("error")

Values = NDArray[np.float64]

#: Matrices: FFmpeg's number, and the weights of red and blue in luma.
BT601, BT709, BT2020 = (6, 0.299, 0.114), (1, 0.2126, 0.0722), (9, 0.2627, 0.0593)
#: FFmpeg's numbers of ranges, primaries and curves.
LIMITED, FULL, UNSPECIFIED = 1, 2, 2
PQ, HLG = 16, 18
SIZE = 16  # of each patch
PATCHES = np.array(
    [
        [[128, 128, 128], [64, 64, 64], [0, 0, 0], [200, 30, 30]],
        [[30, 160, 40], [30, 50, 190], [200, 190, 40], [180, 130, 100]],
    ],
    np.uint8,
)
SRGB_TO_2020 = np.array(
    [[0.6274, 0.3293, 0.0433], [0.0691, 0.9195, 0.0114], [0.0164, 0.0880, 0.8956]]
)


@dataclass(frozen=True)
class Tags:
    """How the samples of a clip are said to be coded, in FFmpeg's numbers."""

    matrix: int
    colour_range: int = LIMITED
    curve: int = UNSPECIFIED
    primaries: int = UNSPECIFIED

    def put_on(self, target: av.VideoFrame | av.VideoCodecContext) -> None:
        target.colorspace, target.color_range = self.matrix, self.colour_range
        target.color_trc, target.color_primaries = self.curve, self.primaries


def large(patches: NDArray[np.generic], size: int = SIZE) -> NDArray[np.generic]:
    return patches.repeat(size, 0).repeat(size, 1)


def planes(rgb: Values, weights: tuple[float, float], bits: int, full: bool) -> NDArray[np.uint16]:
    """RGB [h, w, 3] from 0 to 1 as Y, Cb and Cr [3, h, w]."""
    red, blue = weights
    luma = rgb @ (red, 1 - red - blue, blue)
    chroma = [(rgb[..., 2] - luma) / (2 - 2 * blue), (rgb[..., 0] - luma) / (2 - 2 * red)]
    unit, top = 2 ** (bits - 8), 2**bits - 1
    if full:
        decoded = [luma * top, *(128 * unit + part * top for part in chroma)]
    else:
        decoded = [16 * unit + 219 * unit * luma, *(unit * (128 + 224 * part) for part in chroma)]
    return np.clip(np.rint(decoded), 0, top).astype(np.uint16)


def coded(yuv: NDArray[np.uint16], bits: int, tags: Tags, *, sound: Floats | None = None) -> bytes:
    """Two frames without loss, as mkv."""
    pixels = "yuv444p" if bits == 8 else f"yuv444p{bits}le"
    file = io.BytesIO()
    with av.open(file, "w", format="matroska") as output:
        video = output.add_stream("ffv1", rate=10)
        video.height, video.width = yuv.shape[1:]
        video.pix_fmt = pixels
        tags.put_on(video.codec_context)
        audio = None if sound is None else output.add_stream("pcm_f32le", rate=8000, layout="mono")
        for number in range(2):
            frame = av.VideoFrame(video.width, video.height, pixels)
            for plane, values in zip(frame.planes, yuv, strict=True):
                rows = values.astype(np.uint8 if bits == 8 else "<u2").view(np.uint8)
                padded = np.zeros((plane.height, plane.line_size), np.uint8)
                padded[:, : rows.shape[1]] = rows
                plane.update(padded.tobytes())
            tags.put_on(frame)
            frame.pts, frame.time_base = number, Fraction(1, 10)
            output.mux(video.encode(frame))
        output.mux(video.encode(None))
        if audio is not None and sound is not None:
            block = av.AudioFrame.from_ndarray(sound, format="flt", layout="mono")
            block.sample_rate, block.pts = 8000, 0
            output.mux([*audio.encode(block), *audio.encode(None)])
    return file.getvalue()


def patches_of(data: bytes) -> NDArray[np.int64]:
    """The middles of the patches of its first picture."""
    pictures = read_clip(data, 1, sound=False).pictures
    assert pictures is not None
    picture = pictures.frames[0]
    height, width = picture.shape[0] // 2, picture.shape[1] // 4
    return picture[height // 2 :: height, width // 2 :: width].astype(np.int64)


def light(srgb: NDArray[np.generic]) -> Values:
    """The light that sRGB values stand for, white being 1."""
    value = srgb.astype(np.float64) / 255
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def pq(nits: Values) -> Values:
    """SMPTE ST 2084."""
    power = np.clip(nits / 10_000, 0, 1) ** 0.1593017578125
    return np.asarray(((0.8359375 + 18.8515625 * power) / (1 + 18.6875 * power)) ** 78.84375)


def hlg(nits: Values) -> Values:
    """ITU-R BT.2100 for a display of 1000 cd/m²: back through its system gamma, then its curve."""
    displayed = np.clip(nits / 1000, 0, 1)
    luminance = np.maximum(displayed @ (0.2627, 0.6780, 0.0593), 1e-9)[..., None]
    scene = np.clip(displayed * luminance ** (1 / 1.2 - 1), 0, 1)
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    bright = a * np.log(np.maximum(12 * scene - b, 1e-9)) + c
    return np.where(scene <= 1 / 12, np.sqrt(3 * scene), bright)


CURVES = {PQ: pq, HLG: hlg}


# --- matrix and range ----------------------------------------------------------------------


@pytest.mark.parametrize("bits", [8, 10, 12])
@pytest.mark.parametrize("colour_range", [LIMITED, FULL])
@pytest.mark.parametrize("matrix", [BT601, BT709, BT2020])
def test_matrix_and_range_are_converted(
    matrix: tuple[int, float, float], colour_range: int, bits: int
) -> None:
    yuv = planes(large(PATCHES) / 255, matrix[1:], bits, colour_range == FULL)
    decoded = patches_of(coded(yuv, bits, Tags(matrix[0], colour_range)))
    assert np.abs(decoded - PATCHES).max() <= 2


@pytest.mark.parametrize(("size", "matrix"), [(SIZE, BT601), (colour._HD_HEIGHT // 2, BT709)])
def test_an_unspecified_matrix_depends_on_the_size(
    size: int, matrix: tuple[int, float, float]
) -> None:
    yuv = planes(large(PATCHES, size) / 255, matrix[1:], 8, False)
    assert np.abs(patches_of(coded(yuv, 8, Tags(UNSPECIFIED))) - PATCHES).max() <= 2


@pytest.mark.parametrize("matrix", [8, 10, 14], ids=["YCgCo", "BT.2020 CL", "ICtCp"])
def test_an_unsupported_matrix_is_named_and_the_sound_returned(matrix: int) -> None:
    yuv = planes(large(PATCHES) / 255, BT601[1:], 8, False)
    decoded = read_clip(coded(yuv, 8, Tags(matrix), sound=tone(0.1, 8000)), 1)
    assert decoded.pictures is None
    assert (
        f"the colours of its picture are not supported (yuv444p, colour matrix {matrix}); RGB"
        in str(decoded.pictures_problem)
    )
    assert decoded.sound is not None
    with pytest.raises(Unusable, match="colours of its picture are not supported"):
        read_clip(coded(yuv, 8, Tags(matrix)), 1)


# --- HDR -----------------------------------------------------------------------------------


def hdr(displayed: Values, curve: int) -> bytes:
    """Linear sRGB [h, w, 3], paper white at 203 cd/m² being 1, as 10 bits in BT.2020."""
    values = CURVES[curve](203 * displayed @ SRGB_TO_2020.T)
    return coded(planes(values, BT2020[1:], 10, False), 10, Tags(9, LIMITED, curve, 9))


@pytest.mark.parametrize("curve", CURVES)
def test_hdr_looks_like_the_scene_in_sdr(curve: int) -> None:
    decoded = patches_of(hdr(light(large(PATCHES)), curve))
    assert np.abs(decoded - PATCHES).max() <= 4


@pytest.mark.parametrize("curve", CURVES)
def test_highlights_of_hdr_are_compressed_and_keep_their_hue(curve: int) -> None:
    stops = np.linspace(0, 3, 8)
    grey = np.repeat(stops.reshape(2, 4, 1), 3, axis=2)
    decoded = patches_of(hdr(large(grey).astype(np.float64), curve))
    assert (np.diff(decoded[..., 0].ravel()) >= 0).all()
    assert decoded[0, 0].max() == 0
    assert decoded[1, 3].min() == 255
    white = patches_of(hdr(np.ones((2 * SIZE, 4 * SIZE, 3)), curve))
    assert 240 <= white.min() <= white.max() <= 250
    orange = patches_of(hdr(large(np.full((2, 4, 3), (4.0, 1.0, 0.1))).astype(np.float64), curve))
    assert orange[0, 0, 0] > 250
    assert orange[0, 0, 1] == pytest.approx(137, abs=4)  # a quarter of the red's light


def test_wide_gamut_without_hdr_is_converted_to_srgb() -> None:
    values = np.clip(light(large(PATCHES)) @ SRGB_TO_2020.T, 0, 1)
    values = np.where(values <= 0.0031308, 12.92 * values, 1.055 * values ** (1 / 2.4) - 0.055)
    data = coded(planes(values, BT2020[1:], 10, False), 10, Tags(9, LIMITED, 14, 9))
    assert np.abs(patches_of(data) - PATCHES).max() <= 2


def test_a_large_hdr_frame_is_shrunk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(colour, "MAX_WIDE_GAMUT_PIXELS", 16 * 32)
    pictures = read_clip(hdr(light(large(PATCHES)), PQ), 1).pictures
    assert pictures is not None
    assert pictures.frames[0].shape == (16, 32, 3)


# --- alpha ---------------------------------------------------------------------------------


def transparent(ink: int, alpha: Bytes, codec: str, pixels: str) -> Bytes:
    """What is shown of a mov whose frames are of one grey, transparent as `alpha` [h, w] says."""
    file = io.BytesIO()
    picture = np.dstack([np.full((*alpha.shape, 3), ink, np.uint8), alpha])
    with av.open(file, "w", format="mov") as output:
        video = output.add_stream(codec, rate=10)
        video.height, video.width = alpha.shape
        video.pix_fmt = pixels
        frame = av.VideoFrame.from_ndarray(picture, format="rgba")
        frame.pts, frame.time_base = 0, Fraction(1, 10)
        output.mux([*video.encode(frame), *video.encode(None)])
    pictures = read_clip(file.getvalue(), 1).pictures
    assert pictures is not None
    return pictures.frames[0]


@pytest.mark.parametrize(
    ("codec", "pixels"), [("qtrle", "argb"), ("png", "rgba"), ("prores_ks", "yuva444p10le")]
)
def test_transparent_video_is_composited(codec: str, pixels: str) -> None:
    alpha = np.zeros((48, 64), np.uint8)
    alpha[:, 16:] = 128
    alpha[:, 32:] = 255
    dark = transparent(40, alpha, codec, pixels)[24, 8::16, 0].astype(int)
    np.testing.assert_allclose(dark, [255, 147, 40, 40], atol=3)
    light_ink = transparent(220, alpha, codec, pixels)[24, 8::16, 0].astype(int)
    np.testing.assert_allclose(light_ink, [0, 110, 220, 220], atol=3)


def test_an_unused_alpha_channel_is_ignored() -> None:
    decoded = transparent(120, np.zeros((48, 64), np.uint8), "rawvideo", "argb")
    assert np.abs(decoded.astype(int) - 120).max() <= 1
