"""The Open Inference Protocol over REST, as its clients' requests are."""

from __future__ import annotations

import base64
import gzip
import json
import re
import struct
import zlib
from typing import Any

import httpx
import numpy as np
import pytest

from service.open_inference.schemas import InferenceResponse
from tests.service.checkpoints import LABELS, SPECS, STEPS

MODEL = "/v2/models/avdigits"
INFER = f"{MODEL}/infer"
CLIP = {"name": "clip", "shape": [1, 1], "datatype": "BYTES"}


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def outputs(response: httpx.Response) -> dict[str, dict[str, Any]]:
    assert response.status_code == 200, response.text
    return {output["name"]: output for output in response.json()["outputs"]}


def binary(head: dict[str, Any], *blobs: bytes) -> tuple[bytes, dict[str, str]]:
    """A body with tensors in bytes, and its headers."""
    text = json.dumps(head).encode()
    return b"".join((text, *blobs)), {"Inference-Header-Content-Length": str(len(text))}


def elements(*files: bytes) -> bytes:
    return b"".join(struct.pack("<I", len(file)) + file for file in files)


def test_what_the_server_says_of_itself_and_of_checkpoints(service: httpx.Client) -> None:
    assert service.get("/v2/health/live").json() == {"live": True}
    assert service.get("/v2/health/ready").json() == {"ready": True}
    assert "binary_tensor_data" in service.get("/v2").json()["extensions"]
    assert service.get("/v2/models").json() == {"models": ["avdigits", "strict"]}
    index = service.post("/v2/repository/index", json={"ready": True}).json()
    everything = service.post("/v2/repository/index", json={}).json()
    assert service.post("/v2/repository/index", json={"ready": None}).json() == everything
    assert index[0] == {"name": "avdigits", "version": "0.0.1", "state": "READY", "reason": ""}
    model = service.get(f"{MODEL}/versions/0.0.1").json()
    assert model["versions"] == ["0.0.1"]
    shapes = {each["name"]: (each["datatype"], each["shape"]) for each in model["inputs"]}
    assert shapes["clip"] == ("BYTES", [-1, 1])
    assert shapes["frames"] == ("BYTES", [-1, -1])
    spec = SPECS["audio"]
    assert shapes["audio"] == ("FP32", [-1, -1, spec.channels, *spec.size])
    config = service.get(f"{MODEL}/config").json()
    assert config["max_batch_size"] == 64
    assert {"name": "clip", "data_type": "TYPE_STRING", "dims": [1], "optional": True} in config[
        "input"
    ]
    assert service.get(f"{MODEL}/ready").json() == {"name": "avdigits", "ready": True}


def test_a_clip_in_json_is_answered_as_by_the_form(service: httpx.Client, clip: bytes) -> None:
    body = {
        "id": "mine",
        "inputs": [{**CLIP, "data": [encoded(clip)]}],
        "parameters": {"steps": 3, "priority": 1},
    }
    response = service.post(f"{MODEL}/versions/0.0.1/infer", json=body)
    sent = outputs(response)
    head = response.json()
    assert (head["id"], head["model_name"], head["model_version"]) == ("mine", "avdigits", "0.0.1")
    assert list(sent) == ["probabilities", "logits", "contributions", "label"]
    assert InferenceResponse.model_validate(head).model_dump(exclude_none=True) == head
    form = service.post("/v1/classify", files={"clip": clip}, data={"steps": "3"}).json()
    by_index = {each["index"]: each["probability"] for each in form["probabilities"]}
    expected = [by_index[index] for index in range(len(LABELS))]
    assert sent["probabilities"]["data"] == pytest.approx(expected, abs=1e-5)
    assert sent["probabilities"]["shape"] == [1, len(LABELS)]
    terms = np.array(sent["contributions"]["data"]).reshape(sent["contributions"]["shape"])
    assert terms[0, 0].tolist() == pytest.approx(
        [form["contributions"]["audio"][label] for label in LABELS], abs=1e-5
    )
    assert terms.sum(1).ravel().tolist() == pytest.approx(sent["logits"]["data"], abs=1e-5)
    assert sent["label"]["data"] == [form["prediction"]["label"]]


def test_several_clips_in_bytes_with_maps_and_the_highest(
    service: httpx.Client, clip: bytes
) -> None:
    head = {
        "inputs": [
            {"name": name, "shape": [2, 1], "datatype": "BYTES",
             "parameters": {"binary_data_size": 2 * len(clip) + 8}}
            for name in ("video", "audio")
        ],
        "outputs": [
            {"name": "probabilities", "parameters": {"classification": 2}},
            {"name": "attention.visual.spatial", "parameters": {"binary_data": True}},
            {"name": "class_activation.visual"},
            {"name": "logits", "parameters": {"binary_data": True}},
        ],
    }  # fmt: skip
    content, headers = binary(head, elements(clip, clip), elements(clip, clip))
    headers |= {"Content-Encoding": "gzip", "Accept-Encoding": "gzip"}
    response = service.post(INFER, content=gzip.compress(content), headers=headers)
    assert response.status_code == 200, response.text
    assert response.headers["Content-Encoding"] == "gzip"
    length = int(response.headers["Inference-Header-Content-Length"])
    described = json.loads(response.content[:length])["outputs"]
    first, maps, activation, logits = described
    assert first["shape"] == [2, 2]
    form = service.post(
        "/v1/classify", files={"clip": clip}, data={"class_activation": "grid"}
    ).json()
    of_label = np.array(form["class_activation"]["maps"]["visual"]["spatial"]["values"])
    drawn = np.array(activation["data"]).reshape(activation["shape"])
    assert drawn[1] == pytest.approx(of_label, abs=1e-5)
    top = [f"{e['index']}:{e['label']}" for e in form["probabilities"][:2]]
    assert [text.partition(":")[2] for text in first["data"]] == top * 2
    rest = response.content[length:]
    size = maps["parameters"]["binary_data_size"]
    drawn = np.frombuffer(rest[:size], "<f4").reshape(maps["shape"])
    expected = np.array(form["attention"]["visual"]["spatial"]["values"])
    assert drawn[0] == pytest.approx(expected, abs=1e-5)
    values = np.frombuffer(rest[size:], "<f4").reshape(logits["shape"])
    assert values[0] == pytest.approx(values[1], abs=1e-5)


def test_preprocessed_tensors_of_numbers_and_of_bytes_give_the_same(service: httpx.Client) -> None:
    random = np.random.default_rng(0)
    inputs, blobs = [], b""
    for name, steps in (("audio", 1), ("visual", STEPS)):
        spec = SPECS[name]
        values = random.integers(0, 3, (2, steps, spec.channels, *spec.size), np.uint8)
        inputs.append({"name": name, "datatype": "UINT8", "shape": list(values.shape),
                       "data": values.ravel().tolist()})  # fmt: skip
        blobs += values.astype("<f4").tobytes()
    plain = outputs(service.post(INFER, json={"inputs": inputs}))
    in_bytes = [
        {**each, "datatype": "FP32", "data": None,
         "parameters": {"binary_data_size": 4 * len(each["data"])}}
        for each in inputs
    ]  # fmt: skip
    content, headers = binary({"inputs": in_bytes}, blobs)
    packed = service.post(
        INFER, content=zlib.compress(content), headers=headers | {"Content-Encoding": "deflate"}
    )
    for name, output in outputs(packed).items():
        if name != "label":
            assert output["data"] == pytest.approx(plain[name]["data"], abs=1e-5)
    assert plain["probabilities"]["shape"] == [2, len(LABELS)]


def test_an_empty_element_is_no_file(service: httpx.Client, clip: bytes) -> None:
    head = {"inputs": [
        {"name": name, "shape": [2], "datatype": "BYTES",
         "parameters": {"binary_data_size": len(elements(*files))}}
        for name, files in (("video", (clip, clip)), ("audio", (clip, b"")))
    ]}  # fmt: skip
    content, headers = binary(head, elements(clip, clip), elements(clip, b""))
    terms = outputs(service.post(INFER, content=content, headers=headers))["contributions"]
    values = np.array(terms["data"]).reshape(terms["shape"])
    assert values[0, 0].any()
    assert not values[1, 0].any(), "the second clip has no sound"


@pytest.mark.parametrize(
    ("change", "status", "message"),
    [
        ({"inputs": []}, 422, "no inputs"),
        ({"inputs": [{**CLIP, "data": ["?"]}]}, 422, "`clip` is not base64"),
        ({"inputs": [{**CLIP, "name": "film", "data": ["QQ=="]}]}, 422, "no such field"),
        ({"inputs": [{**CLIP, "data": ["QQ==", "QQ=="]}]}, 422, r"but it has more than 1"),
        ({"inputs": [{**CLIP, "shape": [1, 2], "data": ["QQ==", "QQ=="]}]}, 422, r"\[clips, 1\]"),
        ({"inputs": [{**CLIP, "shape": [0], "data": []}]}, 422, "its shape"),
        ({"inputs": [{**CLIP, "datatype": "INT64", "data": [1]}]}, 422, "not one of BYTES"),
        ({"inputs": [{**CLIP, "data": ["QUJD"]}]}, 415, "mp4, mov, webm"),
        ({"inputs": [CLIP]}, 422, "neither `data` nor"),
        ({"inputs": [{**CLIP, "shape": [65], "data": ["QQ=="] * 65}]}, 413, "SCMRL_CALL_CLIPS"),
        ({"inputs": [{"name": "audio", "shape": [1, 1], "datatype": "FP32", "data": [1]}]}, 422,
         r"needed is \[clips, T or 1, "),
        ({"inputs": [{"name": "audio", "shape": [1], "datatype": "UINT8", "data": [256]}]}, 422,
         "whole numbers, 0 to 255"),
        ({"inputs": [{"name": "audio", "shape": [1], "datatype": "FP32", "data": ["a"]}]}, 422,
         "not numbers"),
        ({"parameters": {"steps": 0}}, 422, "`steps` is '0'"),
        ({"parameters": {"stpes": 1}}, 422, "No such parameter: 'stpes'"),
        ({"outputs": [{"name": "colour"}]}, 422, "No such output: 'colour'"),
        ({"outputs": [{"name": "label", "parameters": {"classification": 1}}]}, 422,
         "for probabilities and logits"),
        ({"inputs": "clip"}, 400, "inputs: must be an array"),
        ({"inputs": [{**CLIP, "shape": [True], "data": ["QQ=="]}]}, 400, "not true or false"),
        ({"inputs": [{"name": "audio", "shape": [1], "datatype": "FP32", "data": [True]}]}, 422,
         "its data are not numbers"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_as_the_protocol_has_it(
    service: httpx.Client, clip: bytes, change: dict[str, Any], status: int, message: str
) -> None:
    body = {"inputs": [{**CLIP, "data": [encoded(clip)]}]} | change
    response = service.post(INFER, json=body)
    assert response.status_code == status, response.text
    assert list(response.json()) == ["error"]
    assert re.search(message, response.json()["error"]), response.text


def test_bodies_that_are_not_what_their_headers_say_are_refused(
    service: httpx.Client, clip: bytes
) -> None:
    content, headers = binary({"inputs": [{**CLIP, "parameters": {"binary_data_size": 9}}]}, clip)
    zeros = gzip.compress(bytes(64 << 20))
    cases: list[tuple[bytes, dict[str, str], int, str]] = [
        (content, headers, 422, "longer than what was sent"),
        (content[: -len(clip)], headers, 422, "0 bytes are left"),
        (content, {"Inference-Header-Content-Length": "999999999"}, 400, "at most the body's"),
        (content, {"Inference-Header-Content-Length": "-1"}, 400, "at most the body's"),
        (b"{", {}, 400, "JSON"),
        (gzip.compress(content)[:-9], headers | {"Content-Encoding": "gzip"}, 400, "incomplete"),
        (content, headers | {"Content-Encoding": "gzip"}, 400, "damaged"),
        (content, headers | {"Content-Encoding": "br"}, 415, "can be gzip, deflate"),
        (zeros, {"Content-Encoding": "gzip"}, 413, "SCMRL_MAX_JSON_MIB"),
        (b"[" + b"0," * 2_000_001 + b"0]", {}, 413, "send tensors as binary data"),
        (b"[" + b"[[[[0]]]]," * 500_000 + b"0]", {}, 413, "send tensors as binary data"),
    ]
    for body, extra, status, message in cases:
        response = service.post(INFER, content=body, headers=extra)
        assert response.status_code == status, (extra, response.text)
        assert message in response.json()["error"]
    response = service.post(INFER, content=b"x", headers={"Inference-Header-Content-Length": "1"})
    assert response.status_code == 400


@pytest.mark.parametrize(
    ("path", "method", "status", "message"),
    [
        ("/v2/models/nobody", "GET", 404, "available: avdigits, strict"),
        ("/v2/models/nobody/infer", "POST", 404, "available: avdigits, strict"),
        (f"{MODEL}/versions/9/ready", "GET", 404, "has the version 0.0.1"),
        (f"{MODEL}/versions/9/infer", "POST", 404, "has the version 0.0.1"),
        ("/v2/nowhere", "GET", 404, "No such path"),
        (INFER, "GET", 405, "does not allow GET; send POST"),
    ],
)
def test_what_is_not_there_is_said_as_the_protocol_has_it(
    service: httpx.Client, path: str, method: str, status: int, message: str
) -> None:
    response = service.request(method, path)
    assert response.status_code == status
    assert message in response.json()["error"]
    assert response.headers["X-Request-ID"]
