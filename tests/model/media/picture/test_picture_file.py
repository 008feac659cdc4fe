"""Picture files: formats, colours, orientation, and limits before decoding."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from model.media.reader import (
    Limits,
    MediaError,
    TooLarge,
    UnknownFormat,
    Unusable,
    read_clip,
    read_picture,
)
from tests.model.media_files import Bytes, damaged, quadrants

pytestmark = pytest.mark.filterwarnings("error")

KINDS = [".jpg", ".png", ".webp", ".bmp", ".tiff", ".gif", ".avif"]

#: Exif orientation: what a viewer has to do to the picture as it lies in the file.
ORIENTATIONS: dict[int, Callable[[Bytes], Bytes]] = {
    1: lambda stored: stored,
    2: lambda stored: stored[:, ::-1],
    3: lambda stored: np.rot90(stored, 2),
    4: lambda stored: stored[::-1],
    5: lambda stored: stored.transpose(1, 0, 2),
    6: lambda stored: np.rot90(stored, -1),
    7: lambda stored: np.rot90(stored, 2).transpose(1, 0, 2),
    8: lambda stored: np.rot90(stored, 1),
}


def file(kind: str, picture: NDArray[np.generic], *options: int) -> bytes:
    """A picture file of RGB, RGBA or grey values, as OpenCV writes it."""
    if picture.ndim == 3:
        order = [2, 1, 0, 3][: picture.shape[2]]
        picture = np.ascontiguousarray(picture[..., order])
    is_encoded, data = cv2.imencode(kind, picture, options)
    assert is_encoded
    return data.tobytes()


def chunk(name: bytes, content: bytes) -> bytes:
    crc = zlib.crc32(name + content)
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", crc)


def png(width: int, height: int, depth: int, colour: int, rows: bytes, *chunks: bytes) -> bytes:
    """A PNG written by hand: `rows` are its filtered scan lines."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + pixels + chunk(b"IEND", b"")


def exif(orientation: int) -> bytes:
    return b"MM\x00*\x00\x00\x00\x08" + struct.pack(">HHHIHHI", 1, 274, 3, 1, orientation, 0, 0)


def tiff(**tags: int) -> bytes:
    """A TIFF header with these tags (t256=width …) and nothing behind it."""
    entries = b"".join(struct.pack("<HHII", int(t[1:]), 4, 1, value) for t, value in tags.items())
    return b"II*\x00" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4096)


def with_alpha(picture: Bytes, alpha: int | Bytes) -> Bytes:
    full = np.broadcast_to(np.asarray(alpha, np.uint8), picture.shape[:2])
    return np.dstack([picture, full])


def differs_by(decoded: Bytes, expected: Bytes) -> float:
    assert decoded.shape == expected.shape
    return float(np.abs(decoded.astype(int) - expected.astype(int)).mean())


# --- kinds and colours ---------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_every_picture_format_becomes_rgb(kind: str) -> None:
    decoded = read_picture(file(kind, quadrants()))
    assert decoded.dtype == np.uint8
    assert differs_by(decoded, quadrants()) < (4 if kind in (".jpg", ".avif") else 2)


def test_a_progressive_jpeg_is_read_like_a_baseline_one() -> None:
    data = file(".jpg", quadrants(), cv2.IMWRITE_JPEG_PROGRESSIVE, 1)
    assert b"\xff\xc2" in data
    assert differs_by(read_picture(data), quadrants()) < 4


@pytest.mark.parametrize("kind", [".jpg", ".png", ".bmp", ".tiff"])
def test_grey_becomes_three_equal_channels(kind: str) -> None:
    ramp = np.tile(np.arange(0, 256, 4, np.uint8), (32, 1))
    decoded = read_picture(file(kind, ramp))
    assert decoded.shape == (32, 64, 3)
    assert differs_by(decoded, np.dstack([ramp] * 3)) < 2


@pytest.mark.parametrize("kind", [".png", ".tiff"])
@pytest.mark.parametrize("channels", [1, 3])
def test_sixteen_bits_become_eight(kind: str, channels: int) -> None:
    values = np.linspace(0, 65_535, 64).astype(np.uint16)
    picture = np.tile(values[None, :, None], (32, 1, channels)).squeeze()
    decoded = read_picture(file(kind, picture))
    expected = np.dstack([np.tile(values / 257, (32, 1))] * 3)
    assert np.abs(decoded - expected).max() <= 1


def test_sixteen_bits_with_alpha_become_eight() -> None:
    picture = np.full((8, 8, 4), 40_000, np.uint16)
    picture[..., 3] = 65_535
    assert np.abs(read_picture(file(".png", picture)).astype(int) - 156).max() <= 1


def test_a_palette_is_looked_up() -> None:
    palette = chunk(b"PLTE", bytes([200, 10, 20, 30, 220, 40]))
    rows = b"\x00\x00\x00\x01\x01" * 4
    decoded = read_picture(png(4, 4, 8, 3, rows, palette))
    assert decoded[0, 0].tolist() == [200, 10, 20]
    assert decoded[0, 3].tolist() == [30, 220, 40]


def test_one_bit_is_black_or_white() -> None:
    decoded = read_picture(png(8, 2, 1, 0, b"\x00\xf0\x00\x0f"))
    assert decoded[:, :, 0].tolist() == [[255] * 4 + [0] * 4, [0] * 4 + [255] * 4]


@pytest.mark.parametrize("kind", [".png", ".webp"])
def test_dark_colours_are_composited_over_white(kind: str) -> None:
    alpha = np.zeros((40, 40), np.uint8)
    alpha[10:30, 10:30] = 255
    decoded = read_picture(file(kind, with_alpha(np.full((40, 40, 3), 20, np.uint8), alpha)))
    assert decoded[0, 0].tolist() == [255, 255, 255]
    assert decoded[20, 20].tolist() == [20, 20, 20]


def test_light_colours_are_composited_over_black() -> None:
    alpha = np.zeros((40, 40), np.uint8)
    alpha[10:30, 10:30] = 255
    decoded = read_picture(file(".png", with_alpha(np.full((40, 40, 3), 240, np.uint8), alpha)))
    assert decoded[0, 0].tolist() == [0, 0, 0]
    assert decoded[20, 20].tolist() == [240, 240, 240]


def test_half_transparent_colours_are_blended_with_the_background() -> None:
    decoded = read_picture(file(".png", with_alpha(np.full((8, 8, 3), 55, np.uint8), 127)))
    assert np.abs(decoded.astype(int) - 155).max() <= 1


def test_a_transparent_palette_colour_shows_the_background() -> None:
    palette = chunk(b"PLTE", bytes([0, 0, 0, 10, 10, 10]))
    see_through = chunk(b"tRNS", b"\x00")
    decoded = read_picture(png(4, 1, 8, 3, b"\x00\x00\x00\x01\x01", palette, see_through))
    assert decoded[0, :, 0].tolist() == [255, 255, 10, 10]


# --- formats that OpenCV alone would decode wrongly ----------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("white", [1, 255])
def test_floats_are_from_0_to_1_or_to_the_largest(
    dtype: type[np.floating], channels: int, white: int
) -> None:
    ramp = np.tile(np.linspace(0, white, 52)[None, :, None], (8, 1, channels))
    if channels == 4:
        ramp[..., 3] = 1
    decoded = read_picture(file(".tiff", ramp.squeeze().astype(dtype)))
    expected = np.tile(np.arange(0, 256, 5), (8, 1))
    assert np.abs(decoded - expected[..., None]).max() <= 1
    half = read_picture(file(".tiff", np.full((8, 8), 0.5, dtype)))
    assert (half == 128).all()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_and_infinite_floats_are_unusable(value: float) -> None:
    picture = np.zeros((8, 8, 3), np.float32)
    picture[3, 3, 1] = value
    with pytest.raises(Unusable, match="NaN"):
        read_picture(file(".tiff", picture))


def _strip(samples: NDArray[np.generic], **tags: int) -> bytes:
    """A TIFF of samples [h, w, n] as they are, with these tags (t338=ExtraSamples …) besides."""
    height, width, count = samples.shape
    bits = 8 * samples.itemsize
    values = {256: width, 257: height, 259: 1, 262: 2 if count > 2 else 1, 273: 8, 277: count}
    values |= {279: samples.nbytes} | {int(tag[1:]): value for tag, value in tags.items()}
    directory = 8 + samples.nbytes + 2 * count
    entries = {tag: struct.pack("<HHII", tag, 4, 1, value) for tag, value in values.items()}
    offset = bits if count == 1 else bits | bits << 16 if count == 2 else 8 + samples.nbytes
    entries[258] = struct.pack("<HHII", 258, 3, count, offset)
    listed = b"".join(entry for _, entry in sorted(entries.items())) + bytes(4)
    depths = struct.pack("<H", bits) * count
    head = b"II*\x00" + struct.pack("<I", directory)
    return head + samples.tobytes() + depths + struct.pack("<H", len(entries)) + listed


@pytest.mark.parametrize("extra", [1, 2], ids=["associated", "unassociated"])
@pytest.mark.parametrize("bits", [8, 16])
def test_a_transparent_tiff_shows_the_background(bits: int, extra: int) -> None:
    ink, alpha = np.array([200, 40, 30]), np.array([0, 128, 255])
    coloured = ink * alpha[:, None] / 255 if extra == 1 else np.tile(ink, (3, 1))
    row = np.column_stack([coloured, alpha])
    unit = 1 if bits == 8 else 257
    samples = np.rint(np.tile(row, (4, 1, 1)) * unit).astype(f"<u{bits // 8}")
    decoded = read_picture(_strip(samples, t338=extra)).astype(int)
    np.testing.assert_allclose(decoded[0, :, 0], [255, 227, 200], atol=2)
    np.testing.assert_allclose(decoded[0, :, 2], [255, 142, 30], atol=2)


def test_signed_integers_are_refused_with_the_supported_types() -> None:
    samples = np.zeros((4, 4, 1), "<i4")
    with pytest.raises(Unusable, match="8 and 16 bits and floats are"):
        read_picture(_strip(samples, t339=2))
    with pytest.raises(Unusable, match="8 and 16 bits and floats are"):
        read_picture(_strip(samples.astype(np.int8), t339=2))


@pytest.mark.parametrize("transform", [0, 2], ids=["CMYK", "YCCK"])
def test_a_cmyk_jpeg_is_not_inverted(transform: int) -> None:
    image = pytest.importorskip("PIL.Image", reason="only Pillow writes JPEGs of four inks")
    inks = 255 - quadrants().astype(np.float64)
    if transform:  # the file has the luma and chroma of its inks
        red, green, blue = np.moveaxis(inks, 2, 0)
        luma = 0.299 * red + 0.587 * green + 0.114 * blue
        chroma = [128 + (blue - luma) / 1.772, 128 + (red - luma) / 1.402]
        inks = 255 - np.dstack([luma, *chroma])  # Pillow inverts what it writes
    plates = np.dstack([inks, np.zeros(inks.shape[:2])])
    plates = np.clip(np.rint(plates), 0, 255).astype(np.uint8)
    out = io.BytesIO()
    image.fromarray(plates, "CMYK").save(out, "JPEG", quality=98)
    data = bytearray(out.getvalue())
    data[data.index(b"Adobe") + 11] = transform
    assert differs_by(read_picture(bytes(data)), quadrants()) < 4


@pytest.mark.parametrize("depth", [8, 10, 12])
def test_every_bit_depth_and_alpha_of_avif_are_read(depth: int) -> None:
    picture = with_alpha(np.full((16, 16, 3), 40, np.uint8), 128)
    deep = picture if depth == 8 else np.asarray(picture.astype(np.uint16) * 257 >> 16 - depth)
    best = (cv2.IMWRITE_AVIF_DEPTH, depth, cv2.IMWRITE_AVIF_QUALITY, 100)
    decoded = read_picture(file(".avif", deep, *best))
    assert np.abs(decoded.astype(int) - 147).max() <= 2
    opaque = np.ascontiguousarray(deep[..., :3])
    assert np.abs(read_picture(file(".avif", opaque, *best)).astype(int) - 40).max() <= 2


#: Quarter turns anticlockwise and the mirror (1: left and right change places) of an AVIF.
TURNS: dict[tuple[int, int | None], Callable[[Bytes], Bytes]] = {
    (1, None): lambda stored: np.rot90(stored, 1),
    (2, None): lambda stored: np.rot90(stored, 2),
    (3, None): lambda stored: np.rot90(stored, 3),
    (0, 0): lambda stored: stored[::-1],
    (0, 1): lambda stored: stored[:, ::-1],
    (3, 1): lambda stored: np.rot90(stored, 3)[:, ::-1],
}


@pytest.mark.parametrize("turn", TURNS)
def test_rotation_and_mirror_of_avif_are_applied(turn: tuple[int, int | None]) -> None:
    data = file(".avif", quadrants())
    angle, mirror = turn
    boxes = b"\0\0\0\x09irot" + bytes([angle])
    boxes += b"" if mirror is None else b"\0\0\0\x09imir" + bytes([mirror])
    decoded = read_picture(_described(data, boxes))
    assert decoded.flags.c_contiguous
    assert differs_by(decoded, TURNS[turn](quadrants())) < 4


def _described(avif: bytes, more: bytes) -> bytes:
    """The AVIF with these boxes at the end of its properties, and everything moved by them."""
    data = bytearray(avif)
    for name in (b"ipco", b"iprp", b"meta"):
        at = data.index(name) - 4
        length = int.from_bytes(data[at : at + 4], "big")
        if name == b"ipco":
            data[at + length : at + length] = more
        data[at : at + 4] = (length + len(more)).to_bytes(4, "big")
    at = data.index(b"iloc")
    begins = avif.index(b"mdat") + 4
    place = data.index(begins.to_bytes(4, "big"), at)
    data[place : place + 4] = (begins + len(more)).to_bytes(4, "big")
    return bytes(data)


def test_heic_is_refused_by_its_name() -> None:
    for brand in (b"heic", b"heix", b"mif1"):
        data = b"\0\0\0\x18ftyp" + brand + b"\0\0\0\0" + b"mif1heic" + bytes(64)
        for read in (read_picture, lambda data: read_clip(data, 1)):
            with pytest.raises(UnknownFormat, match="HEIC pictures are not supported; send JPEG"):
                read(data)


# --- orientation ---------------------------------------------------------------------------


def _jpeg(orientation: int) -> bytes:
    data = file(".jpg", quadrants())
    block = b"Exif\x00\x00" + exif(orientation)
    return data[:2] + b"\xff\xe1" + struct.pack(">H", 2 + len(block)) + block + data[2:]


def _png(orientation: int, alpha: bool) -> bytes:
    stored = with_alpha(quadrants(), 255) if alpha else quadrants()
    rows = b"".join(b"\x00" + row.tobytes() for row in stored)
    height, width, channels = stored.shape
    return png(width, height, 8, 6 if channels == 4 else 2, rows, chunk(b"eXIf", exif(orientation)))


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("kind", ["jpeg", "png", "png with alpha"])
def test_the_exif_orientation_is_applied(kind: str, orientation: int) -> None:
    data = _jpeg(orientation) if kind == "jpeg" else _png(orientation, kind.endswith("alpha"))
    decoded = read_picture(data)
    assert decoded.flags.c_contiguous
    assert differs_by(decoded, ORIENTATIONS[orientation](quadrants())) < 4


# --- what is refused -----------------------------------------------------------------------


def _jpeg_that_claims(width: int, height: int) -> bytes:
    data = bytearray(file(".jpg", quadrants()))
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = struct.pack(">HH", height, width)
    return bytes(data)


def _bmp_that_claims(width: int, height: int) -> bytes:
    data = bytearray(file(".bmp", quadrants()))
    data[18:26] = struct.pack("<ii", width, height)
    return bytes(data)


def _webp_that_claims(width: int, height: int) -> bytes:
    data = bytearray(file(".webp", quadrants(), cv2.IMWRITE_WEBP_QUALITY, 80))
    assert data[12:16] == b"VP8 "
    data[26:30] = struct.pack("<HH", width, height)
    return bytes(data)


def _gif_that_claims(width: int, height: int) -> bytes:
    data = bytearray(file(".gif", quadrants()))
    data[6:10] = struct.pack("<HH", width, height)
    return bytes(data)


def _avif_that_claims(width: int, height: int) -> bytes:
    data = bytearray(file(".avif", quadrants()))
    at = data.index(b"ispe") + 8
    data[at : at + 8] = struct.pack(">II", width, height)
    return bytes(data)


@pytest.mark.parametrize(
    "bomb",
    [
        png(30_000, 30_000, 8, 2, b""),
        png(1_000_000, 40, 8, 2, b""),
        _jpeg_that_claims(65_535, 65_535),
        _bmp_that_claims(60_000, -60_000),
        _webp_that_claims(16_383, 16_383),
        _gif_that_claims(65_535, 65_535),
        _avif_that_claims(60_000, 60_000),
        tiff(t256=60_000, t257=60_000),
        tiff(t256=64, t257=64, t258=8, t259=1, t262=1, t277=1, t322=16_000, t323=16_000, t324=200),
    ],
    ids=["png", "wide png", "jpeg", "bmp", "webp", "gif", "avif", "tiff", "tiff of one huge tile"],
)
def test_a_header_that_claims_too_many_pixels_is_refused_before_decoding(
    bomb: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("imdecode", "imdecodeWithMetadata"):
        monkeypatch.setattr(cv2, name, lambda *_, **__: pytest.fail("a decoder saw the file"))
    with pytest.raises(TooLarge, match="at most 33177600"):
        read_picture(bomb)


@pytest.mark.parametrize("name", [b"tEXt", b"IDAT", b"IEND"])
def test_a_png_chunk_that_claims_gigabytes_is_refused_before_decoding(
    name: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("a decoder saw the file"))
    data = png(4, 4, 8, 0, b"\x00\x01\x02\x03\x04" * 4, chunk(b"tEXt", b"a\x00b"))
    at = data.index(name) - 4
    with pytest.raises(Unusable, match="damaged or truncated"):
        read_picture(data[:at] + b"\xfe\x00\x00\x00" + data[at + 4 :])


def test_the_caller_sets_the_limit_of_pixels() -> None:
    data = file(".png", quadrants(48, 64))
    assert read_picture(data, limits=Limits(max_pixels=48 * 64)).shape == (48, 64, 3)
    with pytest.raises(TooLarge, match="64 x 48"):
        read_picture(data, limits=Limits(max_pixels=48 * 64 - 1))


@pytest.mark.parametrize(
    "data", [b"hello, this is no picture", bytes(64), b"\x89PNG\r\n\x00", b"%PDF-1.7", b"<svg/>"]
)
def test_a_file_that_is_not_a_picture_is_an_unknown_format(data: bytes) -> None:
    with pytest.raises(UnknownFormat, match="JPEG, PNG, WebP"):
        read_picture(data)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_truncated_picture_is_unusable(kind: str, share: float) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    data = file(kind, noise)
    with pytest.raises(Unusable, match="damaged or truncated"):
        read_picture(data[: int(share * len(data))])


def test_a_jpeg_whose_data_ends_before_the_picture_does_is_unusable() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    data = file(".jpg", noise)
    with pytest.raises(Unusable, match="damaged"):
        read_picture(data[: len(data) // 2] + b"\xff\xd9")  # OpenCV would fill the rest with grey


def test_jpegs_made_to_break_a_decoder_are_unusable(shared: Path) -> None:
    for name in ("corrupt.jpg", "bad_huffman.jpg"):
        with pytest.raises(Unusable, match="this JPEG picture is damaged"):
            read_picture((shared / "media" / name).read_bytes())
    with pytest.raises(UnknownFormat):
        read_picture((shared / "media/heapbof.png").read_bytes())


def test_valid_third_party_pictures_are_read(shared: Path) -> None:
    gradient = read_picture((shared / "media/gradient.jpg").read_bytes())
    assert gradient.shape == (720, 1280, 3)
    assert gradient.std() > 30
    grey = read_picture((shared / "media/grayscale.png").read_bytes())
    assert grey.shape == (720, 1280, 3)
    assert (grey[..., 0] == grey[..., 2]).all()


@cache
def _whole() -> tuple[bytes, ...]:
    files = [file(kind, quadrants(24, 32)) for kind in KINDS]
    return (*files, file(".png", with_alpha(quadrants(24, 32), 99)), _png(6, True), _jpeg(6))


HEADS = [
    b"\x89PNG\r\n\x1a\n",
    b"\xff\xd8\xff",
    b"RIFF\x40\0\0\0WEBP",
    b"GIF89a",
    b"II*\0",
    b"MM\0*",
    b"\0\0\0\x1cftypavif\0\0\0\0avifmif1miaf\0\0\1\0meta",
]


@given(head=st.sampled_from([b"", *HEADS, b"BM\x40\0\0\0\0\0\0\0"]), rest=st.binary(max_size=200))
@settings(max_examples=200)
def test_any_bytes_are_a_picture_or_raise_a_media_error(head: bytes, rest: bytes) -> None:
    try:
        picture = read_picture(head + rest)
    except MediaError:
        return
    assert picture.dtype == np.uint8
    assert picture.shape[2] == 3


@given(data=st.data())
@settings(max_examples=200)
def test_a_damaged_picture_is_decoded_or_raises_a_media_error(data: st.DataObject) -> None:
    broken = damaged(data, _whole(), flips=6)
    try:
        picture = read_picture(broken)
    except MediaError:
        return
    assert picture.dtype == np.uint8
    assert picture.shape[2] == 3
