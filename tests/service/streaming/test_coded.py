"""H.264, Opus and series over `WS /v1/stream`, and the processes that decode packets."""

from __future__ import annotations

import asyncio
import io
import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
import httpx
import numpy as np
import pytest
from pydantic import BaseModel
from websockets.sync.client import ClientConnection

from model.media.live.h264 import H264Decoder
from model.media.live.opus import OpusDecoder
from model.media.live.types import Decoded, Outcome, Packet
from model.media.reader import read_sound
from model.media.types import Limits
from service.classification.schemas import Classification
from service.client.retries import Retries
from service.client.stream_messages import (
    MediaMessages,
    OpusInput,
    SeriesInput,
    StreamRequest,
    VideoInput,
)
from service.decoding.fork_server import DecodeLimits
from service.decoding.live_decoder import LiveDecoder
from service.decoding.live_wire import CodedInput, LiveRequest
from service.decoding.pool import DecoderPool
from service.decoding.wire import PeerLost
from service.server.limits import MIB
from service.streaming.messages import (
    HEADER,
    PICTURE,
    SERIES,
    SOUND,
    Answer,
    Close,
    StreamError,
    Summary,
    parse_media,
    parse_start,
)
from service.streaming.session import Pace, Session
from service.streaming.turns import Turns
from tests.conftest import ROOT
from tests.service import checkpoints
from tests.service.classification.test_upload_fields import FORCE, _config
from tests.service.classification.test_upload_fields import PICTURE as EYE
from tests.service.classification.test_upload_fields import SOUND as EAR
from tests.service.coded_media import h264, h264_numbered, opus
from tests.service.running_server import running, wait_until
from tests.service.streaming.test_session import result
from tests.service.streaming.test_stream import close_of, receive, socket_of

CODED = [{"field": "frames", "format": "h264"}, {"field": "audio", "format": "opus"}]
MS = 1_000_000
#: Largest difference of a probability between a clip that is streamed as H.264 and Opus and its
#: upload: the sound is encoded once more, and pictures are chosen at times that differ by 20 ms.
TOLERANCE = 0.05


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A service of our trained `avdigits`, and of `three`, which takes values of a pen as well."""
    folder = tmp_path_factory.mktemp("coded")
    shutil.copytree(ROOT / "weights" / "avdigits", folder / "avdigits")
    specs = {"audio": EAR, "visual": EYE, "tactile": FORCE}
    checkpoints.save(folder / "three", name="three", config=_config(specs), streams=specs)
    with running(
        folder, default_model="avdigits", compile="off", decode_workers=1, stream_decoders=1
    ) as client:
        yield client


def start(socket: ClientConnection, inputs: list[dict[str, Any]], **members: Any) -> None:
    socket.send(json.dumps({"type": "start", "inputs": inputs, "hop_s": 50, **members}))
    assert receive(socket)["type"] == "ready"


def video_packets(clip: bytes) -> list[tuple[int, bytes]]:
    """The clip's own H.264 packets in Annex B, with the times of their pictures in ns."""
    with av.open(io.BytesIO(clip)) as container:
        stream = container.streams.video[0]
        convert = av.bitstream.BitStreamFilterContext("h264_mp4toannexb", stream)
        packets = [p for packet in container.demux(stream) for p in convert.filter(packet)]
        return [(round(float(p.pts * p.time_base) * 1e9), bytes(p)) for p in packets if p.size]


def opus_packets(clip: bytes) -> list[tuple[int, bytes]]:
    sound = read_sound(clip)
    assert sound.sample_rate == 48_000
    return [(20 * MS * number, data) for number, data in enumerate(opus(sound.samples))]


def messages(*inputs: tuple[int, list[tuple[int, bytes]]]) -> list[bytes]:
    """Messages of each input's packets, given the kind of the input, in order of time."""
    timed = []
    for number, (kind, packets) in enumerate(inputs):
        sent_ns = 0  # H.264 is sent in the order of decoding, which is not always that of time
        for sequence, (at, data) in enumerate(packets):
            sent_ns = max(sent_ns, at)
            header = HEADER.pack(kind, 0, number, sequence, 10**18 + at)
            timed.append((sent_ns, header + data))
    return [data for _, data in sorted(timed, key=lambda each: each[0])]


def metric(service: httpx.Client, name: str) -> float:
    lines = service.get("/metrics").text.splitlines()
    return float(next(line for line in lines if line.startswith(name + " ")).split()[-1])


def test_a_clip_as_h264_and_opus_is_answered_as_its_upload(
    service: httpx.Client, clip: bytes
) -> None:
    uploaded = service.post("/v1/classify", files={"clip": clip}).json()
    video, sound = video_packets(clip), opus_packets(clip)
    with socket_of(service) as socket:
        start(socket, CODED, window_s=2.02)
        for message in messages((PICTURE, video), (SOUND, sound)):
            socket.send(message)
        socket.send('{"type": "close"}')
        answer, summary = receive(socket), receive(socket)
        assert close_of(socket)[0] == 1000
    assert answer["packets"] == summary["packets"]
    assert answer["packets"] == {
        "frames": {"decoded": len(video)}, "audio": {"decoded": len(sound)}
    }  # fmt: skip
    streamed = answer["result"]
    assert streamed["prediction"]["label"] == uploaded["prediction"]["label"] == "7"
    by_label = [{p["label"]: p["probability"] for p in each["probabilities"]}
                for each in (streamed, uploaded)]  # fmt: skip
    for label, probability in by_label[1].items():
        assert by_label[0][label] == pytest.approx(probability, abs=TOLERANCE)
    assert (streamed["streams"]["visual"]["width"], streamed["streams"]["audio"]["channels"]) == (
        320, 1,
    )  # fmt: skip
    wait_until(lambda: metric(service, "scmrl_stream_decoders") == 0)
    assert metric(service, 'scmrl_stream_packets_total{outcome="decoded"}') >= len(video)


def reordered(count: int) -> list[tuple[int, bytes]]:
    """H.264 with B-frames of ten pictures a second, each packet with the time of its picture."""
    random = np.random.default_rng(0)
    pictures = list(random.integers(0, 255, (count, 64, 64, 3), np.uint8))
    packets = h264_numbered(pictures, 250, tune="film", bf="2", **{"b-adapt": "0"})
    return [(number * 100 * MS, data) for number, data in packets]


def newest_of(answer: dict[str, Any]) -> int:
    """The time of the newest picture of an answer, of those that `messages` makes, in 100 ms."""
    return (int(answer["window"]["newest_ns"]["frames"]) - 10**18) // (100 * MS)


def test_the_last_answer_has_the_pictures_that_h264_holds_back(service: httpx.Client) -> None:
    with socket_of(service) as socket:
        start(socket, CODED[:1], window_s=2)
        for message in messages((PICTURE, reordered(12))):
            socket.send(message)
        socket.send('{"type": "finalize"}')
        assert newest_of(receive(socket)) < 11, "some are held back"
        socket.send('{"type": "close"}')
        answer, summary = receive(socket), receive(socket)
    assert answer["final"]
    assert newest_of(answer) == 11
    assert summary["packets"] == {"frames": {"decoded": 12}}, "their end is no packet"


def test_no_picture_of_before_is_in_a_segment_that_another_input_began(
    service: httpx.Client,
) -> None:
    """As when a robot's clock is set back: the pictures that were held back would be the newest."""
    silence = bytes(320)
    inputs = [CODED[0], {"field": "audio", "sample_rate": 16_000}]
    packets = reordered(20)
    with socket_of(service) as socket:
        start(socket, inputs, window_s=1)
        for number, (at, data) in enumerate(packets):
            back_ns = 0 if number < 10 else 10**10
            if number in (0, 10):
                at_ns = 10**18 + at - back_ns
                socket.send(HEADER.pack(SOUND, 0, 1, number, at_ns) + silence)
            socket.send(HEADER.pack(PICTURE, 0, 0, number, 10**18 + at - back_ns) + data)
        socket.send('{"type": "close"}')
        answer, summary = receive(socket), receive(socket)
    assert summary["segments"] == 2
    assert summary["dropped"]["frames"] == 0
    assert newest_of(answer) == 19 - 100


class BusyDecoder:
    """Decodes in this process at once, but is behind at the packets of these positions."""

    def __init__(self, behind: set[int]) -> None:
        h264_ = H264Decoder(Limits(), 0, 64 * 64)
        self._decode: dict[int, Callable[[Packet], Decoded[Any]]] = {
            0: h264_.decode, 1: OpusDecoder(1, 0).decode,
        }  # fmt: skip
        self._behind = behind
        self._fed = -1
        self.receive: Callable[[Packet, Decoded[bytes]], None]

    def feed(self, packet: Packet) -> bool:
        self._fed += 1
        if self._fed in self._behind:
            return False
        decoded = self._decode[packet.input](packet)
        pieces = tuple((at, piece.tobytes()) for at, piece in decoded.pieces)
        self.receive(packet, Decoded(decoded.outcome, decoded.lost, pieces))
        return True

    async def drained(self) -> None:
        pass


def newest_and_summary(sent: list[bytes], behind: set[int]) -> tuple[dict[str, int], Summary]:
    """The newest times of the last answer, and the summary, of a session with a `BusyDecoder`."""
    sent_messages: list[BaseModel] = []

    async def classify(*_: object) -> Classification:
        return result(0.9)

    async def send(message: BaseModel) -> None:
        sent_messages.append(message)

    started = parse_start(json.dumps({"type": "start", "inputs": CODED}))
    decoder = BusyDecoder(behind)
    session = Session(started, Pace(2, 50, 4), classify, send, MIB, Turns(1), decoder)
    decoder.receive = session.receive_decoded
    for message in sent:
        session.receive_media(message)
    session.receive_control(Close(type="close"))
    asyncio.run(session.run())
    answer, summary = sent_messages[-2:]
    assert isinstance(answer, Answer)
    assert isinstance(summary, Summary)
    return answer.window.newest_ns, summary


@pytest.mark.parametrize("sequence", [9, 0])
@pytest.mark.parametrize("field", ["frames", "audio"])
def test_a_segment_of_which_the_decoder_is_behind_at_first_has_nothing_of_before(
    field: str, sequence: int
) -> None:
    """As when a robot is started again: its clock is set back, and perhaps the numbers as well."""
    silence = np.zeros((1, 960 * 12), np.float32)
    number, kind = (0, PICTURE) if field == "frames" else (1, SOUND)
    timed = reordered(12) if field == "frames" else list(enumerate(opus(silence)))
    if field == "audio":
        timed = [(at * 20 * MS, data) for at, data in timed]
    after_ns = 10**12
    before = [(n, after_ns + at, data) for n, (at, data) in enumerate(timed[:9])]
    # The first packet comes twice: once the decoder is behind, then it is not.
    after = [(sequence + n, at, data) for n, (at, data) in enumerate([timed[0], *timed])]
    sent = [HEADER.pack(kind, 0, number, n, at) + data for n, at, data in before + after]
    newest, summary = newest_and_summary(sent, {9})
    assert summary.segments == 2
    assert summary.dropped[field] == 0
    assert summary.packets is not None
    assert summary.packets[field]["decoded"] == 9 + len(timed)
    assert summary.packets[field]["behind"] == 1
    assert "late" not in summary.packets[field]
    end_ns = max(at for at, _ in timed)
    assert end_ns <= newest[field] <= end_ns + 20 * MS


def test_pictures_that_are_held_back_are_not_of_a_segment_that_began_without_them() -> None:
    video = messages((PICTURE, reordered(9)))
    (packet,) = opus(np.zeros((1, 960), np.float32))[:1]
    sound = [HEADER.pack(SOUND, 0, 1, n, 10**18 - n * 10**10) + packet for n in range(2)]
    newest, summary = newest_and_summary([sound[0], *video, sound[1]], set())
    assert summary.segments == 2
    assert newest["frames"] < 0 < newest["audio"]


def test_undecodable_packets_are_reported_once_and_the_session_stays_open(
    service: httpx.Client,
) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    video = h264([noise] * 3)
    with socket_of(service) as socket:
        start(socket, CODED[:1], window_s=2)
        for number in (1, 2):  # pictures that refer to one that was not sent
            socket.send(HEADER.pack(PICTURE, 0, 0, number, number * MS) + video[number])
        problem = receive(socket)
        assert (problem["type"], problem["status"]) == ("problem", 422)
        assert "`frames`: packets are dropped until a key frame" in problem["detail"]
        socket.send(HEADER.pack(PICTURE, 0, 0, 3, 100 * MS) + b"\0\0\1\x65garbage")
        assert "damaged" in receive(socket)["detail"]
        socket.send(HEADER.pack(PICTURE, 0, 0, 4, 200 * MS) + video[0])
        socket.send(HEADER.pack(PICTURE, 0, 0, 5, 300 * MS) + video[1])
        socket.send('{"type": "finalize"}')
        answer = receive(socket)
    assert answer["type"] == "answer"
    counts = answer["packets"]["frames"]
    assert counts["no_key"] == 2
    assert counts["damaged"] == 1
    assert counts["decoded"] == 2


def test_a_lost_decoder_ends_its_session_with_a_code_and_the_slot_is_free_again(
    service: httpx.Client, clip: bytes
) -> None:
    lost = metric(service, "scmrl_stream_decoders_lost_total")
    with socket_of(service) as socket, socket_of(service) as surplus:
        start(socket, CODED[:1])
        surplus.send(json.dumps({"type": "start", "inputs": CODED}))
        code, reason = close_of(surplus)
        assert code == 4429
        assert "SCMRL_STREAM_DECODERS" in reason
        for pid in _decoding_processes():  # idle ones of uploads are replaced
            os.kill(pid, signal.SIGKILL)
        socket.send(messages((PICTURE, video_packets(clip)[:1]))[0])
        code, reason = close_of(socket)
    assert code == 4431
    assert "the decoder of this stream was ended" in reason
    assert metric(service, "scmrl_stream_decoders_lost_total") == lost + 1
    wait_until(lambda: metric(service, "scmrl_stream_decoders") == 0)
    assert service.post("/v1/classify", files={"clip": clip}).status_code == 200
    with socket_of(service) as socket:
        start(socket, CODED[:1])


def _decoding_processes() -> list[int]:
    """Process ids of the children of this process's fork servers."""
    parents = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                status = (folder / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            parents[int(folder.name)] = int(status[1])
    return [pid for pid, parent in parents.items() if parents.get(parent) == os.getpid()]


def test_values_over_time_are_answered_as_their_upload(service: httpx.Client) -> None:
    times = np.arange(200) / 200
    force = np.maximum(np.sin(times * 9), 0).astype("<f4")
    csv = "".join(f"{t:.3f},{v:.7f}\n" for t, v in zip(times, force, strict=True)).encode()
    uploaded = service.post("/v1/models/three/classify", files={"tactile": csv}).json()
    inputs = [{"field": "tactile", "format": "float32", "sample_rate": 200}]
    pieces = [(int(n * 5 * MS), force[n : n + 20].tobytes()) for n in range(0, 200, 20)]
    with socket_of(service) as socket:
        start(socket, inputs, model="three", window_s=1)
        for message in messages((SERIES, pieces)):
            socket.send(message)
        socket.send('{"type": "close"}')
        answer, summary = receive(socket), receive(socket)
    assert summary["messages"] == {"tactile": 10}
    assert answer["result"]["streams"]["tactile"]["values"] == 200
    for label, share in uploaded["contributions"]["tactile"].items():
        assert answer["result"]["contributions"]["tactile"][label] == pytest.approx(share, abs=1e-4)
    with socket_of(service) as socket:
        socket.send(json.dumps({"type": "start", "model": "avdigits", "inputs": inputs}))
        assert close_of(socket)[1].startswith("the checkpoint avdigits has no stream for `tactile`")


def live(number: int, data: bytes) -> Packet:
    return Packet(0, number, number * 100 * MS, False, data)


async def decode_all(decoder: LiveDecoder, packets: list[bytes]) -> list[Decoded[bytes]]:
    decoded: list[Decoded[bytes]] = []
    running_ = asyncio.create_task(decoder.run(lambda _, each: decoded.append(each)))
    try:
        for number, data in enumerate(packets):
            decoder.feed(live(number, data))
            draining = asyncio.create_task(decoder.drained())
            await asyncio.wait((running_, draining), return_when=asyncio.FIRST_COMPLETED)
            draining.cancel()
            if running_.done():
                await running_
    finally:
        running_.cancel()
    return decoded


def test_the_process_of_a_stream_is_confined_bounded_and_ended() -> None:
    request = LiveRequest(inputs={0: CodedInput(format="h264")}, spacing_ns=0, limits=Limits())
    small = h264([np.zeros((64, 64, 3), np.uint8)] * 3)
    large = h264([np.zeros((1080, 1920, 3), np.uint8)] * 2, preset="ultrafast")
    pool = DecoderPool(1, DecodeLimits(seconds=1, memory_bytes=1 << 30))

    async def check() -> None:
        decoder = await pool.open_live(request, 512 * MIB, within_s=60)
        status = Path(f"/proc/{decoder.pid}/status").read_text()
        assert "NoNewPrivs:\t1" in status
        decoded = await decode_all(decoder, small)
        assert [each.outcome for each in decoded] == [Outcome.DECODED] * 3
        assert decoded[0].pieces[0][1].startswith(b"\xff\xd8")
        os.kill(decoder.pid, signal.SIGSTOP)
        with pytest.raises(PeerLost, match="took longer than 1 s"):
            await decode_all(decoder, small)
        await decoder.close()
        wait_until(lambda: not Path(f"/proc/{decoder.pid}/stat").exists() or _is_zombie(decoder))
        tight = await pool.open_live(request, 4 * MIB, within_s=60)
        first, second = await decode_all(tight, [large[0], small[0]])
        assert first.outcome in (Outcome.TOO_LARGE, Outcome.DAMAGED), "beyond its memory"
        assert second.outcome is Outcome.DECODED
        await tight.close()

    try:
        asyncio.run(check())
    finally:
        pool.stop()


def _is_zombie(decoder: LiveDecoder) -> bool:
    return Path(f"/proc/{decoder.pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


def test_the_client_makes_the_messages_that_the_service_reads() -> None:
    inputs = VideoInput(), OpusInput(channels=2), SeriesInput(field="force", sample_rate=10)
    request = StreamRequest("", {}, 1, Retries(), inputs, {})
    started = parse_start(request.start())
    assert [each.format for each in started.inputs] == ["h264", "opus", "float32"]
    media_messages = MediaMessages(inputs)
    sent = [
        media_messages.picture(b"a", 1),
        media_messages.sound(b"b", 2),
        media_messages.series("force", bytes(8), 3),
    ]
    media_messages.begin_segment()
    sent += [media_messages.picture(b"c", 4), media_messages.picture(b"d", 5)]
    read = [parse_media(data, started) for data in sent]
    assert [(m.input, m.sequence, m.time_ns, m.is_new_segment) for m in read] == [
        (0, 0, 1, False), (1, 0, 2, False), (2, 0, 3, False), (0, 1, 4, True), (0, 2, 5, False),
    ]  # fmt: skip
    with pytest.raises(StreamError, match="not whole float32"):
        parse_media(media_messages.series("force", bytes(3), 3), started)
