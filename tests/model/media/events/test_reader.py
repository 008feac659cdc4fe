"""Files of events that other programs wrote are read as they are, and damaged ones refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from model.media.events.reader import read_camera_events, read_channel_events
from model.media.events.types import CameraEvents, unwrap
from model.media.types import Limits, MediaError, TooLarge, UnknownFormat, Unusable
from tests.fuzz.mutations import mutated
from tests.model.media.events import event_files
from tests.model.media.events.event_files import HEIGHT, WIDTH

EVENTS = event_files.events()
#: Suffix and faery's options of each format.
FORMATS: dict[str, tuple[str, dict[str, Any]]] = {
    "EVT 2.0": (".raw", {"version": "evt2"}),
    "EVT 3.0": (".raw", {"version": "evt3"}),
    "AEDAT 4": (".aedat4", {"compression": None}),
    "AEDAT 4, LZ4": (".aedat4", {}),
    "AEDAT 4, Zstandard": (".aedat4", {"compression": ("zstd", 3)}),
}


def rows(x: Any, y: Any, time_us: Any, is_on: Any) -> NDArray[np.int64]:
    """Events as rows, those of one time in any order."""
    table = np.stack([time_us, x, y, is_on], 1).astype(np.int64)
    return table[np.lexsort(table.T[::-1])]


def assert_same(events: CameraEvents, expected: NDArray[Any], start: int = 0) -> None:
    assert (np.diff(events.time_us) >= 0).all()
    time_us = expected["t"].astype(np.int64) - start
    np.testing.assert_array_equal(
        rows(events.x, events.y, events.time_us, events.is_on),
        rows(expected["x"], expected["y"], time_us, expected["on"]),
    )


@pytest.mark.parametrize("name", FORMATS)
def test_what_faery_writes_is_read(tmp_path: Path, name: str) -> None:
    suffix, options = FORMATS[name]
    events = read_camera_events(event_files.encode(EVENTS, tmp_path / f"file{suffix}", **options))
    # In .raw, the time of the first event is in the header, and times count from it.
    assert_same(events, EVENTS, int(EVENTS["t"][0]) if suffix == ".raw" else 0)
    assert events.sensor == (HEIGHT, WIDTH)


def test_aedats_library_reads_the_same(tmp_path: Path) -> None:
    import aedat

    path = tmp_path / "file.aedat4"
    events = read_camera_events(event_files.encode(EVENTS, path))
    packets = [packet["events"] for packet in aedat.Decoder(path) if "events" in packet]
    theirs = np.concatenate(packets)
    ours = rows(events.x, events.y, events.time_us, events.is_on)
    np.testing.assert_array_equal(ours, rows(theirs["x"], theirs["y"], theirs["t"], theirs["on"]))


def evt3(*words: int) -> bytes:
    return b"% evt 3.0\n% end\n" + np.array(words, "<u2").tobytes()


def test_vectors_of_evt3_begin_where_the_last_one_ended() -> None:
    """Time 5, row 7, base x 20, ON; 12 pixels of which 2 fired, 8 of which 1; then a single one."""
    data = evt3(0x8000, 0x6005, 0x0007, 0x3800 | 20, 0x4000 | 0b100000000001, 0x5000 | 0b10,
                0x2000 | 99)  # fmt: skip
    events = read_camera_events(data)
    assert events.x.tolist() == [20, 31, 33, 99]
    assert events.is_on.tolist() == [True, True, True, False]
    assert set(events.y) == {7}
    assert set(events.time_us) == {5}
    assert events.sensor is None


def test_the_24_bits_of_evt3_overflow() -> None:
    words = (0x8FFF, 0x6FFF, 0x0001, 0x2003, 0x8000, 0x6001, 0x2004)
    assert np.diff(read_camera_events(evt3(*words)).time_us).tolist() == [2]


def test_nmnist_has_five_bytes_an_event() -> None:
    small = EVENTS[EVENTS["x"] < 34]
    small = small[small["y"] < 34]
    assert_same(read_camera_events(event_files.nmnist(small)), small)
    with pytest.raises(UnknownFormat):
        read_camera_events(event_files.nmnist(small)[:-1])


@pytest.mark.parametrize("seed", range(3))
def test_random_bytes_are_not_taken_for_nmnist(seed: int) -> None:
    with pytest.raises(UnknownFormat):
        read_camera_events(np.random.default_rng(seed).bytes(5000))


def test_real_recordings_of_nmnist_are_read(shared: Path) -> None:
    files = sorted((shared / "data/nmnist/events").iterdir())[:20]
    for file in files:
        events = read_camera_events(file.read_bytes())
        assert 1000 < len(events.x) < 8000
        assert 0.29 < events.duration_s < 0.34
        assert max(events.x.max(), events.y.max()) < 34


# --- .npz -------------------------------------------------------------------------------------


def arrays(**changes: Any) -> dict[str, Any]:
    own = {name: EVENTS[{"p": "on"}.get(name, name)] for name in "xytp"}
    return own | changes


def test_npz_is_read_sorted_by_time() -> None:
    order = np.random.default_rng(1).permutation(len(EVENTS))
    shuffled = {name: array[order] for name, array in arrays().items()}
    events = read_camera_events(event_files.npz(**shuffled, width=WIDTH, height=HEIGHT))
    assert_same(events, EVENTS)
    assert events.sensor == (HEIGHT, WIDTH)


def test_a_structured_array_and_other_types_are_read() -> None:
    assert_same(read_camera_events(event_files.npz(events=_with_p())), EVENTS)
    signed = np.where(EVENTS["on"], 1, -1)
    whole = event_files.npz(**arrays(t=EVENTS["t"].astype(float), p=signed))
    assert_same(read_camera_events(whole), EVENTS)


def _with_p() -> NDArray[Any]:
    return EVENTS.astype([("t", "<u8"), ("x", "<u2"), ("y", "<u2"), ("p", "?")])


@pytest.mark.parametrize("dtype", [np.uint32, np.int32])
def test_a_counter_of_32_bits_may_overflow(dtype: Any) -> None:
    late = EVENTS["t"].astype(np.int64) + 2**32 - 1_000_000
    wrapped = late.astype(np.uint32).astype(dtype)
    events = read_camera_events(event_files.npz(**arrays(t=wrapped)))
    assert events.duration_s == pytest.approx(np.ptp(late) / 1e6)


def test_unwrap_undoes_overflow_in_both_directions() -> None:
    assert unwrap(np.array([250, 2, 254, 3]), 8).tolist() == [250, 258, 254, 259]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"t": EVENTS["t"] / 1e6}, "`t` must be whole numbers of microseconds"),
        ({"p": np.full(len(EVENTS), 2)}, "`p` must be 0 or 1"),
        ({"x": EVENTS["x"][:-1]}, "must be of one length"),
        ({"x": EVENTS["x"] + 1, "width": WIDTH, "height": HEIGHT}, "outside the sensor of 346 x"),
        ({"y": EVENTS["y"].astype(int) - 1}, "outside the sensor"),
        ({"width": 99_999, "height": 1}, "a sensor of 99999 x 1 pixels; accepted are sides of 1"),
        ({"x": np.array(["1"] * len(EVENTS))}, "`x` must be whole numbers"),
        ({"t": np.full(len(EVENTS), np.nan)}, "`t` must be whole numbers"),
        ({"t": np.full(len(EVENTS), 2**63, np.uint64)}, "above 2\\^63"),
        ({"t": np.full(len(EVENTS), -(2**63))}, "above 2\\^62"),
    ],
)
def test_npz_says_what_is_wrong(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(Unusable, match=message):
        read_camera_events(event_files.npz(**arrays(**changes)))


def test_npz_without_an_array_says_which_are_needed() -> None:
    with pytest.raises(Unusable, match="has the arrays a; needed are x, y, t, p"):
        read_camera_events(event_files.npz(a=np.zeros(3)))


def test_objects_are_not_unpickled() -> None:
    with pytest.raises(Unusable, match="objects"):
        read_camera_events(event_files.npz(**arrays(x=np.array([print] * len(EVENTS), object))))


def test_a_small_archive_cannot_hold_a_huge_array() -> None:
    data = event_files.npz(**arrays(x=np.zeros(50_000_000, np.uint8)))
    assert len(data) < 200_000
    with pytest.raises(TooLarge, match="50000000 events"):
        read_camera_events(data)


def test_channels_of_a_cochlea_are_read() -> None:
    events = read_channel_events(event_files.npz(channel=np.array([3, 1]), t=np.array([20, 10])))
    assert events.channel.tolist() == [1, 3]
    with pytest.raises(Unusable, match="-1 to 1"):
        read_channel_events(event_files.npz(channel=np.array([-1, 1]), t=np.array([20, 10])))
    with pytest.raises(UnknownFormat, match=r"\.npz"):
        read_channel_events(b"RIFF1234")


# --- limits and damage --------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*FORMATS, ".npz", "N-MNIST", "AER-DAT 2.0"])
def test_too_many_and_too_long_are_refused(tmp_path: Path, name: str) -> None:
    data = _file(name, tmp_path)
    with pytest.raises(TooLarge, match="at most 50 are"):
        read_camera_events(data, Limits(max_events=50))
    with pytest.raises(TooLarge, match="at most 1 s"):
        read_camera_events(data, Limits(max_duration_s=1.0))


def _file(name: str, folder: Path) -> bytes:
    if name == ".npz":
        return event_files.npz(**arrays())
    if name == "N-MNIST":
        return event_files.nmnist(EVENTS[(EVENTS["x"] < 256) & (EVENTS["y"] < 256)])
    if name == "AER-DAT 2.0":
        small = EVENTS[(EVENTS["x"] < 128) & (EVENTS["y"] < 128)]
        return event_files.aerdat(small["x"], small["y"], small["t"], small["on"])
    suffix, options = FORMATS[name]
    return event_files.encode(EVENTS, folder / f"file{suffix}", **options)


def test_damaged_files_are_read_or_refused(tmp_path: Path) -> None:
    datas = [_file(name, tmp_path) for name in (*FORMATS, ".npz", "N-MNIST", "AER-DAT 2.0")]
    refused = 0
    for number in range(500):
        _, data = mutated(datas, number)
        try:
            events = read_camera_events(data)
        except MediaError:
            refused += 1
        else:
            assert len(events.x) == len(events.time_us) == len(events.is_on) == len(events.y)
    assert 100 < refused < 500


def test_headers_without_what_is_needed_are_refused() -> None:
    for data, message in (
        (b"% date 2026\n% end\n", "names no format"),
        (b"% evt 2.1\n", "EVT 2.1; accepted are EVT 2.0 and 3.0"),
        (b"#!AER-DAT3.1\r\n", "AEDAT 3.1; accepted are AEDAT 4, and 1 and 2 of a DVS128"),
    ):
        with pytest.raises(UnknownFormat, match=message):
            read_camera_events(data)


@pytest.mark.parametrize("version", [1, 2])
def test_aerdat_of_a_dvs128_is_read_upright(version: int) -> None:
    rng = np.random.default_rng(version)
    x, y = rng.integers(0, 128, (2, 300))
    time_us, is_on = np.sort(rng.integers(0, 10**6, 300)), rng.random(300) < 0.5
    read = read_camera_events(event_files.aerdat(x, y, time_us, is_on, version))
    assert read.sensor == (128, 128)
    for name, expected in (("x", x), ("y", y), ("time_us", time_us), ("is_on", is_on)):
        assert np.array_equal(getattr(read, name), expected), name


def test_jaers_addresses_count_from_the_right_and_from_below() -> None:
    data = event_files.aerdat([], [], [], []) + np.array([3 << 8 | 5 << 1 | 1, 9], ">u4").tobytes()
    read = read_camera_events(data)
    assert (read.x[0], read.y[0], read.time_us[0], read.is_on[0]) == (122, 124, 9, False)


def test_external_signals_and_a_cut_record_of_aerdat_are_left_out() -> None:
    data = event_files.aerdat([1, 2], [3, 4], [5, 6], [True, False])
    signal = np.array([0x8000, 7], ">u4").tobytes()
    assert read_camera_events(data + signal + b"\0\0\1").time_us.tolist() == [5, 6]


def test_aerdat_of_another_sensor_is_refused() -> None:
    data = event_files.aerdat([1], [3], [5], [True]) + np.array([0x400000, 7], ">u4").tobytes()
    with pytest.raises(Unusable, match="not those of a DVS128, of 128 x 128 pixels"):
        read_camera_events(data)
    with pytest.raises(TooLarge, match="it has 2 events; at most 1 are accepted"):
        read_camera_events(event_files.aerdat([1, 2], [3, 4], [5, 6], [1, 0]), Limits(max_events=1))
