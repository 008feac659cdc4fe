"""Packets of H.264 and Opus, whole, lost, late, damaged and too large."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from numpy.typing import NDArray

from model.media.live import annex_b
from model.media.live.h264 import H264Decoder
from model.media.live.opus import OpusDecoder
from model.media.live.types import Decoded, Outcome, Packet
from model.media.types import Limits
from tests.service.coded_media import OPUS_RATE, h264, h264_numbered, opus

MS = 1_000_000
STEP = 100 * MS
SOUND_STEP = 20 * MS


def pictures(count: int, width: int = 96, height: int = 64) -> list[NDArray[np.uint8]]:
    """Grey pictures with a bar that moves: its column says which picture it is."""
    grey = np.full((count, height, width, 3), 90, np.uint8)
    for number, picture in enumerate(grey):
        picture[:, 4 * number : 4 * number + 4] = 250
    return list(grey)


@cache
def video() -> list[bytes]:
    return h264(pictures(20), key_every=10)


def number_of(picture: NDArray[np.uint8]) -> int:
    """The number of a picture of `pictures`."""
    return int(picture[:, :, 0].astype(int).sum(0).reshape(-1, 4).sum(1).argmax())


class Camera:
    """Feeds packets with their numbers and times to a decoder."""

    def __init__(self, spacing_ns: int = 0, limits: Limits | None = None) -> None:
        self.decoder = H264Decoder(limits or Limits(), spacing_ns, 1 << 20)

    def send(
        self,
        number: int,
        data: bytes | None = None,
        time: int | None = None,
        restarts: bool = False,
    ) -> Decoded[NDArray[np.uint8]]:
        at = STEP * (number if time is None else time)
        coded = data or video()[number]
        return self.decoder.decode(Packet(0, number, at, restarts, coded))


def test_each_picture_comes_with_its_time() -> None:
    camera = Camera()
    for number in range(20):
        decoded = camera.send(number)
        assert (decoded.outcome, decoded.lost) == (Outcome.DECODED, 0)
        ((time_ns, picture),) = decoded.pieces
        assert (time_ns, number_of(picture)) == (number * STEP, number)
    assert np.abs(picture.astype(int) - pictures(20)[19]).mean() < 3


@cache
def reordered() -> list[tuple[int, bytes]]:
    """Packets with B-frames, each with the number of its picture."""
    packets = h264_numbered(pictures(20), 10, tune="film", bf="2", **{"b-adapt": "0"})
    assert [at for at, _ in packets] != sorted(at for at, _ in packets)
    return packets


END = Packet(0, 0, 0, False, b"")


def shown(*decoded: Decoded[NDArray[np.uint8]]) -> list[int]:
    """The numbers of the pictures that were decoded, which are those of their times."""
    pieces = [piece for each in decoded for piece in each.pieces]
    numbers = [number_of(picture) for _, picture in pieces]
    assert [time_ns // STEP for time_ns, _ in pieces] == numbers
    return numbers


def test_pictures_that_the_encoder_reorders_have_their_own_times_and_come_at_the_end() -> None:
    camera = Camera()
    decoded = [camera.send(number, data, at) for number, (at, data) in enumerate(reordered())]
    assert {each.outcome for each in decoded} == {Outcome.DECODED}
    assert shown(*decoded) == list(range(len(shown(*decoded))))
    remaining = camera.decoder.decode(END)
    assert remaining.pieces
    assert shown(*decoded, remaining) == list(range(20))
    assert camera.decoder.decode(END).pieces == ()
    at, key = reordered()[0]
    assert camera.send(20, key, at).outcome is Outcome.DECODED, "packets may follow the end"


@pytest.mark.parametrize(("next_", "restarts"), [(10, False), (9, True), (10, True)])
def test_pictures_that_are_held_back_come_at_a_gap_but_not_in_another_segment(
    next_: int, restarts: bool
) -> None:
    """`next_`: the packet that follows that of number 8; one is lost, or none."""
    numbers = [at for at, _ in reordered()]
    camera = Camera()
    before = [camera.send(n, data, at) for n, (at, data) in enumerate(reordered()[:9])]
    assert len(shown(*before)) < 9
    after = [
        camera.send(n, reordered()[n][1], numbers[n], restarts=restarts and n == next_)
        for n in range(next_, 20)
    ]
    if restarts:
        assert set(shown(*after)) <= set(numbers[next_:])
    else:
        assert shown(*before, after[0])[:9] == sorted(numbers[:9])
    assert shown(*after)[-1] > 15


def test_pictures_that_follow_too_soon_are_decoded_and_not_returned() -> None:
    camera = Camera(spacing_ns=2 * STEP + STEP // 2)
    pieces = [piece for number in range(10) for piece in camera.send(number).pieces]
    assert [number_of(picture) for _, picture in pieces] == [0, 3, 6, 9]


def test_after_a_gap_nothing_is_shown_until_a_key_frame() -> None:
    camera = Camera()
    assert camera.send(3).outcome is Outcome.NO_KEY, "it begins within a group"
    camera = Camera()
    camera.send(0)
    after = camera.send(3)
    assert (after.outcome, after.lost, after.pieces) == (Outcome.NO_KEY, 2, ())
    assert camera.send(4).outcome is Outcome.NO_KEY
    key = camera.send(10)
    assert (key.outcome, key.lost) == (Outcome.DECODED, 5)
    assert number_of(key.pieces[0][1]) == 10


def test_damage_costs_its_group_alone() -> None:
    camera = Camera()
    assert camera.send(0).outcome is Outcome.DECODED
    assert camera.send(1, b"\x00\x00\x01\x65" + bytes(50)).outcome is Outcome.DAMAGED
    assert camera.send(2, b"no start code").outcome is Outcome.DAMAGED
    assert camera.send(3).outcome is Outcome.NO_KEY
    assert [number_of(camera.send(n).pieces[0][1]) for n in (10, 11)] == [10, 11]


def test_parameter_sets_of_a_damaged_packet_are_kept_for_the_next_key_picture() -> None:
    first, second = video()[0], video()[10]
    sets = annex_b.parameter_sets(first)
    assert annex_b.parameter_sets(sets) == sets
    idr = next(u for u in annex_b.units(second) if u.type == annex_b.IDR)
    picture = b"\x00\x00\x01\x65" + idr.payload
    decoder = H264Decoder(Limits(), 0, 10_000)
    damaged = decoder.decode(Packet(0, 0, 0, False, sets + b"\x00\x00\x01\x65" + bytes(9)))
    assert damaged.outcome is Outcome.DAMAGED
    decoded = decoder.decode(Packet(0, 1, 7, False, picture))
    assert (decoded.outcome, [time for time, _ in decoded.pieces]) == (Outcome.DECODED, [7])


def test_late_packets_are_dropped_and_a_new_encoder_begins_anew() -> None:
    camera = Camera()
    camera.send(10)
    camera.send(11)
    assert camera.send(10).outcome is Outcome.LATE
    assert camera.send(12).outcome is Outcome.DECODED
    restarted = camera.send(0, time=13)
    assert (restarted.outcome, number_of(restarted.pieces[0][1])) == (Outcome.DECODED, 0)
    assert camera.send(0, time=0, restarts=True).outcome is Outcome.DECODED, "the clock as well"


def test_a_client_that_numbers_nothing_loses_nothing() -> None:
    decoder = H264Decoder(Limits(), 0, 1 << 20)
    decoded = [decoder.decode(Packet(0, 0, n * STEP, False, video()[n])) for n in range(5)]
    assert [(each.outcome, each.lost) for each in decoded] == [(Outcome.DECODED, 0)] * 5


def test_the_size_may_change_and_is_bounded() -> None:
    larger = h264(pictures(2, 192, 128))
    camera = Camera(limits=Limits(max_pixels=192 * 128 - 1))
    assert camera.send(0).outcome is Outcome.DECODED
    assert camera.send(1, larger[0]).outcome is Outcome.TOO_LARGE
    assert camera.send(2).outcome is Outcome.NO_KEY
    camera = Camera()
    assert camera.send(0).pieces[0][1].shape == (64, 96, 3)
    assert camera.send(1, larger[0]).pieces[0][1].shape == (128, 192, 3)
    assert camera.send(2, larger[1]).outcome is Outcome.DECODED


def tone(seconds: float, channels: int = 1) -> NDArray[np.float32]:
    time_s = np.arange(round(seconds * OPUS_RATE)) / OPUS_RATE
    pitch = np.array([[440.0], [660.0]])[:channels]
    loudness = 0.1 + 0.4 * time_s / seconds
    return (loudness * np.sin(2 * np.pi * pitch * time_s)).astype(np.float32)


def heard(decoder: OpusDecoder, packets: dict[int, bytes], channels: int) -> NDArray[np.int16]:
    """The samples [n, channels] of packets by their number, laid out by their times."""
    sound = np.zeros((2 * OPUS_RATE, channels), np.int16)
    for number, data in packets.items():
        for time_ns, samples in decoder.decode(
            Packet(0, number, number * SOUND_STEP, False, data)
        ).pieces:
            begin = round(time_ns * OPUS_RATE / 1e9)
            sound[begin : begin + len(samples)] = samples
    return sound


@pytest.mark.parametrize("channels", [1, 2])
def test_opus_sounds_as_before_at_the_same_time(channels: int) -> None:
    before = tone(1, channels)
    sound = heard(OpusDecoder(channels, 312), dict(enumerate(opus(before))), channels)
    after = sound[: OPUS_RATE - 960].T / 32767
    for channel in range(channels):
        assert np.corrcoef(before[channel, : after.shape[1]], after[channel])[0, 1] > 0.99
    shifted = np.corrcoef(before[0, 312 : after.shape[1]], after[0, :-312])[0, 1]
    assert shifted < 0.9, "without the pre-skip it would be late"


def test_lost_and_damaged_opus_packets_are_silence() -> None:
    packets = dict(enumerate(opus(tone(1))))
    whole = heard(OpusDecoder(1, 312), packets, 1)
    lossy = packets.copy()
    del lossy[20]
    lossy[21] = b"\xff" * 40
    decoder = OpusDecoder(1, 312)
    sound = heard(decoder, lossy, 1)
    gap = slice(20 * 960, 22 * 960 - 312)
    assert np.abs(whole[gap]).max() > 1000
    assert not sound[gap].any()
    after = slice(30 * 960, 40 * 960)
    assert np.corrcoef(sound[after, 0], whole[after, 0])[0, 1] > 0.99
    late = decoder.decode(Packet(0, 5, 5 * SOUND_STEP, False, packets[5]))
    assert (late.outcome, late.pieces) == (Outcome.LATE, ())
    assert decoder.decode(Packet(0, 52, 10**12, False, bytes(70_000))).outcome is Outcome.DAMAGED


@pytest.mark.parametrize("seed", range(4))
def test_garbage_is_counted_and_ends_nothing(seed: int) -> None:
    """Packets that are changed, cut, joined or random; afterwards a whole group is decoded."""
    random = np.random.default_rng(seed)
    camera, ear = Camera(), OpusDecoder(2, 0)
    sound = opus(tone(0.4, 2))
    for number in range(300):
        for decoder, packets in ((camera.decoder, video()), (ear, sound)):
            data = bytearray(packets[random.integers(len(packets))])
            for at in random.integers(len(data), size=random.integers(4)):
                data[at] = random.integers(256)
            choice = random.integers(6)
            if choice == 0:
                data = bytearray(random.bytes(random.integers(1, 2000)))
            elif choice == 1:
                del data[random.integers(1, len(data)) :]
            elif choice == 2:
                data += packets[random.integers(len(packets))]
            jump = int(random.integers(-3, 5))
            time_ns = (number + jump) * STEP
            decoded = decoder.decode(Packet(0, max(0, number + jump), time_ns, False, bytes(data)))
            assert decoded.outcome in Outcome
    for number in range(10):
        last = camera.send(1000 + number, video()[number])
    assert number_of(last.pieces[0][1]) == 9
