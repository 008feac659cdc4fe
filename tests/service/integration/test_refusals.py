"""Bad input, over HTTP: a problem document that says what was wrong, and never a 500."""

from __future__ import annotations

import base64
import gzip
import http.client
import logging
import socket
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.model import costly_pictures
from tests.service.media_files import png, tone, wav, without_sound
from tests.service.running_server import running, wait_until

pytestmark = pytest.mark.slow

CLASSIFY = "/v1/classify"
FORM = {"Content-Type": "multipart/form-data; boundary=b"}
#: Over HTTP a smaller example may take minutes to find: no test may outlive its limit.
NO_SHRINKING = (Phase.explicit, Phase.generate)
#: What a file may be refused with.
OF_FILES = {413, 415, 422}


@pytest.fixture(scope="module")
def tight(weights: Path) -> Iterator[httpx.Client]:
    """A service with limits that a small upload exceeds."""
    with running(
        weights,
        max_body_bytes=100_000,
        max_file_bytes=50_000,
        max_parts=4,
        max_frames=2,
        max_duration_s=1.0,
        max_pixels=10_000,
        max_steps=8,
    ) as client:
        yield client


def problem(response: httpx.Response) -> dict[str, Any]:
    """The problem document, which every refusal is."""
    assert response.headers["Content-Type"] == "application/problem+json", response.text
    body = response.json()
    assert set(body) - {"field"} == {"type", "title", "status", "detail", "id"}
    assert body["type"].startswith("urn:scmrl:error:")
    assert body["status"] == response.status_code
    assert body["id"] == response.headers["X-Request-ID"]
    assert body["title"]
    assert body["detail"]
    return dict(body)


def raw_answer(client: httpx.Client, sent: bytes) -> httpx.Response:
    """The answer to bytes that no HTTP library would send, or to a part of a request."""
    address = (str(client.base_url.host), client.base_url.port or 80)
    with socket.create_connection(address, timeout=60) as connection:
        connection.sendall(sent)
        answer = http.client.HTTPResponse(connection)
        answer.begin()
        return httpx.Response(answer.status, headers=answer.getheaders(), content=answer.read())


def part(name: str, content: bytes, filename: str | None = None) -> bytes:
    """One part of a form whose boundary is b."""
    named = f'; filename="{filename}"' if filename else ""
    head = f'--b\r\nContent-Disposition: form-data; name="{name}"{named}\r\n\r\n'
    return head.encode() + content + b"\r\n"


@pytest.mark.parametrize(
    ("name", "status", "message"),
    [
        ("notes.mp4", 415, "mp4, mov, webm"),
        ("empty.mp4", 422, "empty"),
        ("cut.mp4", 422, "damaged"),
        ("page.webm", 415, "mp4, mov, webm"),
    ],
)
def test_a_file_that_is_no_clip_is_refused_whatever_its_name(
    service: httpx.Client, clip: bytes, name: str, status: int, message: str
) -> None:
    content = {
        "notes.mp4": b"Dear diary, " * 100,
        "empty.mp4": b"",
        "cut.mp4": clip[:200],
        "page.webm": b"<html><body>not a clip</body></html>",
    }[name]
    response = service.post(CLASSIFY, files={"clip": (name, content, "video/mp4")})
    refused = problem(response)
    assert (response.status_code, refused["field"]) == (status, "clip")
    assert message in refused["detail"]


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"steps": "0"}, "steps"),
        ({"steps": "1000"}, "steps"),
        ({"steps": "four"}, "steps"),
        ({"top_k": "0"}, "top_k"),
        ({"attention": "everything"}, "attention"),
        ({"stpes": "4"}, "stpes"),
    ],
)
def test_a_value_that_makes_no_sense_is_422_and_named(
    service: httpx.Client, clip: bytes, values: dict[str, str], field: str
) -> None:
    response = service.post(CLASSIFY, files={"clip": clip}, data=values)
    assert response.status_code == 422
    assert problem(response)["field"] == field


def test_files_that_do_not_go_together_are_422(service: httpx.Client, clip: bytes) -> None:
    for files, field in (
        ({"clip": clip, "video": clip}, "video"),
        ({"video": clip, "frames": png(np.zeros((9, 9, 3), np.uint8))}, "frames"),
    ):
        response = service.post(CLASSIFY, files=files)
        assert response.status_code == 422
        assert problem(response)["field"] == field


def test_no_file_at_all_is_422_and_says_what_to_send(service: httpx.Client) -> None:
    for form in ({}, {"data": {"steps": "4"}, "files": {"clip": ("", b"")}}):
        response = service.post(CLASSIFY, **form)  # type: ignore[arg-type]
        body = problem(response)
        assert (response.status_code, body["field"]) == (422, "clip")
        assert "`clip` or `audio` for sound" in body["detail"]
        assert "`clip`, `video`, `frames` or `visual` for pictures" in body["detail"]


def test_frames_without_a_picture_are_422(service: httpx.Client) -> None:
    files = [("frames", b""), ("audio", wav(tone()))]
    response = service.post(CLASSIFY, files=files)
    assert (response.status_code, problem(response)["field"]) == (422, "frames")


def test_a_bad_picture_among_good_ones_is_named_by_its_number(service: httpx.Client) -> None:
    good = png(np.zeros((9, 9, 3), np.uint8))
    files = [("frames", x) for x in [good] * 9 + [good[:60]] + [good] * 9]
    response = service.post(CLASSIFY, files=[*files, ("audio", wav(tone()))])
    body = problem(response)
    assert (response.status_code, body["field"]) == (422, "frames")
    assert "picture 10 of 19" in body["detail"]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_sound_that_is_not_numbers_is_422(service: httpx.Client, clip: bytes, bad: float) -> None:
    samples = tone()
    samples[100] = bad
    response = service.post(CLASSIFY, files={"video": clip, "audio": wav(samples)})
    body = problem(response)
    assert (response.status_code, body["field"]) == (422, "audio")
    assert "NaN" in body["detail"]


def test_a_picture_is_no_sound_and_a_sound_no_video(service: httpx.Client) -> None:
    picture, sound = png(np.zeros((9, 9, 3), np.uint8)), wav(tone())
    for field, content in (("audio", picture), ("video", sound), ("frames", sound)):
        response = service.post(CLASSIFY, files={field: content})
        assert response.status_code in (415, 422)
        assert problem(response)["field"] == field


def test_a_checkpoint_that_needs_both_streams_names_the_field_of_the_missing_one(
    service: httpx.Client, clip: bytes
) -> None:
    for files, field, message in (
        ({"clip": without_sound(clip)}, "clip", "no sound"),
        ({"video": clip}, "audio", "no `audio` was sent"),
        ({"audio": clip}, "video", "no `video` and no `frames`"),
    ):
        response = service.post("/v1/models/strict/classify", files=files)
        refused = problem(response)
        assert (response.status_code, refused["field"]) == (422, field)
        assert message in refused["detail"]
    whole = service.post("/v1/models/strict/classify", files={"clip": clip})
    assert whole.status_code == 200


def test_an_unknown_checkpoint_is_404_and_the_known_are_named(
    service: httpx.Client, clip: bytes
) -> None:
    response = service.post("/v1/models/nobody/classify", files={"clip": clip})
    assert response.status_code == 404
    assert "avdigits, strict" in problem(response)["detail"]


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b'{"clip": "QUJD"', "application/json"),
        (b"steps=4", "application/x-www-form-urlencoded"),
        (part("clip", b"1", "a.mp4") + b"--b--", "multipart/form-data"),
        (part("clip", b"1", "a.mp4") + b"--b--", "multipart/form-data; boundary=other"),
        (part("clip", b"1", "a.mp4"), FORM["Content-Type"]),
        (b"", FORM["Content-Type"]),
        (b"1", ""),
        (b"--b\r\nContent-Disposition: form-data\r\n\r\n1\r\n--b--", FORM["Content-Type"]),
        (b"--b\r\n" + b"X: 1\r\n" * 50 + b"\r\n1\r\n--b--", FORM["Content-Type"]),
        (b"--b\r\nX: " + b"1" * 9000 + b"\r\n\r\n1\r\n--b--", FORM["Content-Type"]),
        (b"", f"multipart/form-data; boundary={'b' * 300}"),
    ],
    ids=["json", "urlencoded", "no boundary", "another boundary", "cut off", "nothing", "no kind",
         "no name", "many headers", "a long header", "a long boundary"],
)  # fmt: skip
def test_a_body_that_is_no_form_is_400(service: httpx.Client, content: bytes, kind: str) -> None:
    response = service.post(
        CLASSIFY, content=content, headers={"Content-Type": kind} if kind else {}
    )
    assert response.status_code == 400
    problem(response)


def test_a_compressed_body_is_415_and_says_what_is_taken(
    service: httpx.Client, clip: bytes
) -> None:
    content = gzip.compress(part("clip", clip, "a.mp4") + b"--b--")
    for kind in (FORM, {}):
        response = service.post(
            CLASSIFY, content=content, headers={**kind, "Content-Encoding": "gzip"}
        )
        body = problem(response)
        assert response.status_code == 415
        assert body["type"] == "urn:scmrl:error:unsupported-encoding"
        assert "Content-Encoding: gzip" in body["detail"]
        assert response.headers["Accept-Encoding"] == "identity"


def test_a_clip_is_answered_the_same_however_its_part_is_written(
    service: httpx.Client, clip: bytes
) -> None:
    expected = service.post(CLASSIFY, files={"clip": clip}).json()["probabilities"]
    for headers, content in (
        ("; filename*=UTF-8''%D0%A1%D0%BD.webm", clip),
        ("\r\nContent-Type: video/mp4", clip),
        ("; filename=a\r\nContent-Transfer-Encoding: base64", base64.encodebytes(clip)),
    ):
        head = f'--b\r\nContent-Disposition: form-data; name="clip"{headers}\r\n\r\n'
        body = head.encode() + content + b"\r\n--b--"
        response = service.post(CLASSIFY, content=body, headers=FORM)
        assert response.status_code == 200, response.text
        assert response.json()["probabilities"] == expected


def test_an_upload_over_a_limit_is_413_with_the_limit(tight: httpx.Client, clip: bytes) -> None:
    picture = png(np.zeros((9, 9, 3), np.uint8))
    sound = wav(tone(0.5))
    for files, field, limit in (
        ({"clip": bytes(60_000)}, "clip", "50000 bytes are accepted (SCMRL_MAX_FILE_BYTES)"),
        ({"clip": clip}, "clip", "1 s (SCMRL_MAX_DURATION_S)"),
        ({"audio": wav(tone(1.5)[::2])[:-3], "video": clip}, "video", "(SCMRL_MAX_DURATION_S)"),
        ([("frames", picture)] * 3 + [("audio", sound)], "frames", "2 are accepted (SCMRL_MAX_FRA"),
        ({"frames": png(np.zeros((200, 200, 3), np.uint8))}, "frames", "(SCMRL_MAX_PIXELS)"),
    ):
        response = tight.post(CLASSIFY, files=files)
        body = problem(response)
        assert (response.status_code, body["field"]) == (413, field), body
        assert limit in body["detail"]


def test_too_many_parts_are_413(tight: httpx.Client) -> None:
    response = tight.post(CLASSIFY, files=[("frames", b"1")] * 5)
    assert response.status_code == 413
    assert "too many parts; at most 4 are accepted (SCMRL_MAX_PARTS)" in problem(response)["detail"]
    two = [(f"{field}.{n}", b"1") for n in (0, 1) for field in ("frames", "frames", "audio")]
    answered = tight.post(f"{CLASSIFY}/batch", files=two)
    assert [result["problem"]["status"] for result in answered.json()["results"]] == [415, 415]
    response = tight.post(f"{CLASSIFY}/batch", files=two * 44)
    assert response.status_code == 413
    assert "at most 256 are accepted (SCMRL_MAX_PARTS for each" in problem(response)["detail"]


def test_a_body_over_the_limit_is_413_announced_or_not(tight: httpx.Client) -> None:
    parts = [part("frames", bytes(40_000), "a.png")] * 3
    announced = tight.post(CLASSIFY, content=b"".join(parts), headers=FORM)
    streamed = tight.post(CLASSIFY, content=iter(parts), headers=FORM)
    assert streamed.request.headers["Transfer-Encoding"] == "chunked"
    for response in (announced, streamed):
        assert response.status_code == 413
        assert "100000" in problem(response)["detail"]


#: Of each upload that stalls.
STALLED_BYTES = 20_000


def stalled_uploads() -> list[bytes]:
    """Requests that end in their bodies: of each entrance, and at each place of a chunked one."""

    def head(path: str, media_type: str, framing: str = "Transfer-Encoding: chunked") -> bytes:
        lines = [f"POST {path} HTTP/1.1", "Host: x", framing, f"Content-Type: {media_type}", "", ""]
        return "\r\n".join(lines).encode()

    form, infer = FORM["Content-Type"], "/v2/models/avdigits/infer"
    body = part("frames", bytes(STALLED_BYTES), "a.png")
    chunk = f"{len(body):x}\r\n".encode() + body + b"\r\n"
    text = b'{"clip": "' + b"A" * STALLED_BYTES
    return [
        head(CLASSIFY, form, "Content-Length: 1000000") + body,
        *(head(CLASSIFY, form) + begun
          for begun in (b"", chunk[:2], chunk[:-9], chunk, chunk + b"40", chunk + b"0\r\n")),
        head(f"{CLASSIFY}/batch", form) + chunk,
        *(head(path, "application/json") + f"{len(text):x}\r\n".encode() + text
          for path in (CLASSIFY, infer)),
    ]  # fmt: skip


def test_bodies_that_do_not_arrive_are_408_and_cost_others_nothing(
    weights: Path, clip: bytes
) -> None:
    stalled = stalled_uploads()
    room = (len(stalled) + 1) * STALLED_BYTES + 2 * len(clip)  # for one round of them, and a clip
    with (
        running(weights, compile="off", upload_timeout_s=1, max_total_upload_bytes=room) as client,
        ThreadPoolExecutor(len(stalled)) as threads,
    ):
        for _ in range(2):
            waiting = [threads.submit(raw_answer, client, sent) for sent in stalled]
            assert client.post(CLASSIFY, files={"clip": clip}).status_code == 200
            answers = [each.result() for each in waiting]
            assert [each.status_code for each in answers] == [408] * len(stalled)
            assert all("1 s (SCMRL_UPLOAD_TIMEOUT_S)" in each.text for each in answers)
            assert all(each.headers["Connection"] == "close" for each in answers)


def test_bodies_of_all_clients_together_are_limited(weights: Path, clip: bytes) -> None:
    half = len(clip) // 2
    with running(weights, max_total_upload_bytes=len(clip) + half) as client:
        address = (str(client.base_url.host), client.base_url.port or 80)
        with socket.create_connection(address, timeout=30) as first:
            head = (
                "POST /v1/classify HTTP/1.1", "Host: x", f"Content-Length: {len(clip)}",
                "Content-Type: multipart/form-data; boundary=b", "Expect: 100-continue", "", "",
            )  # fmt: skip
            first.sendall("\r\n".join(head).encode())
            assert b"100 Continue" in first.recv(1000), "it is being read"
            first.sendall(part("clip", clip, "a")[: half + 2000])
            time.sleep(0.5)
            assert refused(client.post(CLASSIFY, files={"clip": clip}))
        wait_until(lambda: client.post(CLASSIFY, files={"clip": clip}).status_code == 200)


def refused(response: httpx.Response) -> bool:
    """Whether it was refused because of what others upload."""
    if response.status_code != 503:
        return False
    assert response.headers["Retry-After"]
    assert "uploads of all clients" in problem(response)["detail"]
    return True


@pytest.mark.parametrize(
    ("setting", "sound", "limit"),
    [
        ({"max_channels": 2}, np.zeros((8000, 3)), "at most 2"),
        ({"max_sample_rate": 10_000}, tone(), "10000"),
    ],
    ids=["channels", "rate"],
)
def test_channels_and_rates_of_sounds_are_limited_by_settings(
    weights: Path, clip: bytes, setting: dict[str, int], sound: NDArray[np.float64], limit: str
) -> None:
    with running(weights, **setting) as client:
        response = client.post(CLASSIFY, files={"video": clip, "audio": wav(sound)})
        body = problem(response)
    assert (response.status_code, body["field"]) == (413, "audio"), body
    assert limit in body["detail"]


@pytest.mark.parametrize(
    ("field", "data"),
    [
        ("clip", costly_pictures.gif(4000, 4000, 63)),
        ("clip", costly_pictures.apng(4000, 4000, 63)),
        ("frames", costly_pictures.jpeg(4000, 4000, 63)),
        ("frames", costly_pictures.png(pixels=zlib.compress(bytes(17 << 20)))),
    ],
    ids=["gif", "apng", "scans", "inflated"],
)
def test_what_a_file_asks_to_be_composed_is_limited(
    service: httpx.Client, field: str, data: bytes
) -> None:
    response = service.post(CLASSIFY, files={field: data})
    body = problem(response)
    assert (response.status_code, body["field"]) == (413, field), body
    assert "1000000000 pixels" in body["detail"] or "16777216 bytes" in body["detail"]


def test_a_client_that_hangs_up_frees_the_decoder(weights: Path, clip: bytes) -> None:
    """One process decodes, and each of these files would keep it beyond the next one's deadline."""
    slow = costly_pictures.gif(1500, 1500, 100_000)
    with running(
        weights,
        decode_workers=1,
        decode_timeout_s=600.0,
        max_duration_s=7200.0,
        max_composed_pixels=1 << 40,
        max_decoded_pixels=1 << 40,
        max_demux_cpu_s=60.0,
    ) as client:
        for _ in range(2):
            with pytest.raises(httpx.ReadTimeout):
                client.post(CLASSIFY, files={"clip": slow}, timeout=httpx.Timeout(60, read=0.3))
            response = client.post(CLASSIFY, files={"clip": clip})
            assert response.status_code == 200
        metrics = client.get("/metrics").text
    assert 'scmrl_requests_in_flight{model="avdigits"} 0.0' in metrics


def test_steps_are_limited_by_the_setting(tight: httpx.Client, clip: bytes) -> None:
    response = tight.post(CLASSIFY, files={"clip": clip}, data={"steps": "9"})
    assert response.status_code == 422
    assert "1 to 8" in problem(response)["detail"]


def test_as_many_steps_as_are_allowed_are_not_too_many_frames(
    tight: httpx.Client, clip: bytes
) -> None:
    """A video gives a picture a step, however few `frames` may be sent."""
    files = {"frames": png(np.zeros((9, 9, 3), np.uint8)), "audio": wav(tone(0.5))}
    assert tight.post(CLASSIFY, files=files, data={"steps": "8"}).status_code == 200


def test_refusals_are_in_the_log_under_their_ids_and_uploads_are_not(
    service: httpx.Client, clip: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "scmrl")
    for response in (
        service.post(CLASSIFY, files={"clip": ("secret.mp4", b"my secret")}),
        service.post(CLASSIFY, files={"clip": ("secret.mp4", clip[:300])}),
        service.post(CLASSIFY, content=b"my secret", headers=FORM),
        service.post("/v1/models/nobody/classify", files={"clip": clip}),
        service.get("/nowhere"),
    ):
        body = problem(response)
        line = logged(caplog, body["id"])
        assert f" {response.status_code} " in line
        assert body["detail"][:30] in line
        assert "secret" not in line


def logged(caplog: pytest.LogCaptureFixture, request_id: str) -> str:
    """The one line about a request; it is written when the answer has been sent."""

    def lines() -> list[str]:
        return [message for message in caplog.messages if request_id in message]

    wait_until(lambda: bool(lines()))
    (line,) = lines()
    return line


def mutated(clip: bytes) -> st.SearchStrategy[bytes]:
    """The clip with some of its bytes replaced, or cut short."""
    spoilt = st.lists(
        st.tuples(st.integers(0, len(clip) - 1), st.integers(0, 255)), min_size=1, max_size=40
    )

    def spoil(changes: list[tuple[int, int]], end: int) -> bytes:
        data = bytearray(clip)
        for at, value in changes:
            data[at] = value
        return bytes(data[:end])

    return st.builds(spoil, spoilt, st.integers(1, len(clip)))


HEADS = [b"", b"\x1a\x45\xdf\xa3", b"RIFF\xff\xff\xff\x7fWAVEfmt ", b"\x89PNG\r\n\x1a\n", b"GIF89a",
         b"\xff\xd8\xff\xe0", b"\0\0\0\x18ftypmp42", b"OggS", b"ID3\x04", b"fLaC", b"BM", b"II*\0",
         b"#!AMR\n", b"FLV\x01", b"RIFF\x10\0\0\0WEBPVP8X", b"\xff\xfb\x90\0"]  # fmt: skip


@given(data=st.data())
@settings(max_examples=50, derandomize=True, phases=NO_SHRINKING)
def test_garbage_of_any_kind_is_refused_or_answered(
    service: httpx.Client, clip: bytes, data: st.DataObject
) -> None:
    headed = st.builds(bytes.__add__, st.sampled_from(HEADS), st.binary(max_size=400))
    content = data.draw(headed | mutated(clip))
    field = data.draw(st.sampled_from(["clip", "video", "audio", "frames"]))
    response = service.post(CLASSIFY, files={field: content}, data={"attention": "none"})
    if response.status_code != 200:
        assert response.status_code in OF_FILES, response.text
        assert problem(response)["field"] == field


PIECES = [b"--b", b"--b--", b"\r\n", b"\r\n\r\n", b": ", b'"', b";", b"\0", b"\xff",
          b"*=UTF-8''%ff", b"Content-Disposition: form-data", b'; name="clip"',
          b'; filename="a.mp4"', b"name=steps", b"Content-Type: text/plain", b"\xc3("]  # fmt: skip


@given(pieces=st.lists(st.sampled_from(PIECES) | st.binary(max_size=20), max_size=30))
@settings(max_examples=50, derandomize=True, phases=NO_SHRINKING)
def test_forms_in_pieces_are_refused(service: httpx.Client, pieces: list[bytes]) -> None:
    response = service.post(CLASSIFY, content=b"".join(pieces), headers=FORM)
    assert response.status_code in {400} | OF_FILES, response.text
    problem(response)


@pytest.mark.parametrize("field", ["clip", "audio", "frames"])
def test_third_party_files_are_answered_or_refused_by_name(
    service: httpx.Client, shared: Path, field: str
) -> None:
    statuses = {}
    for file in sorted((shared / "media").iterdir()):
        response = service.post(CLASSIFY, files={field: (file.name, file.read_bytes())})
        statuses[file.name] = response.status_code
        if response.status_code != 200:
            assert response.status_code in OF_FILES, f"{file.name}: {response.text}"
            assert problem(response)["field"] == field
    good = {
        "clip": ("nasa_13013.mp4", "tsebml_chrome57.webm", "exoplayer_video_desks.3gp"),
        "audio": ("sine_mono_u8.wav", "sine_16ch_s16.wav", "exoplayer_bear-id3.mp3"),
        "frames": ("gradient.jpg", "grayscale.png"),
    }
    assert {name: statuses[name] for name in good[field]} == dict.fromkeys(good[field], 200)
    assert statuses["README.md"] == 415
    assert service.get("/readyz").status_code == 200
