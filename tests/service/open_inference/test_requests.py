"""Any request is one that can be classified, or a problem."""

from __future__ import annotations

import json
import struct
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.errors import Error, Problem
from service.http.open_inference_body import parse_request
from service.open_inference.outputs import check_outputs
from service.open_inference.requests import InferRequest, clips_of
from service.open_inference.tensors import Tensor, from_bytes, from_values, to_bytes
from service.settings import Settings
from tests.service.checkpoints import card

SETTINGS = Settings()
CARD = card()
NUMBERS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3)
TENSORS = st.fixed_dictionaries(
    {},
    optional={
        "name": st.sampled_from(["clip", "frames", "audio", "visual", "x"]) | NUMBERS,
        "shape": st.lists(st.integers(-1, 3) | st.integers(), max_size=5) | NUMBERS,
        "datatype": st.sampled_from(["BYTES", "FP32", "UINT8", "INT8"]) | NUMBERS,
        "data": st.recursive(NUMBERS, lambda inner: st.lists(inner, max_size=4)),
        "parameters": st.none()
        | st.dictionaries(st.sampled_from(["binary_data_size", "x"]), NUMBERS),
    },
)
REQUESTS = st.fixed_dictionaries(
    {"inputs": st.lists(TENSORS, max_size=3)},
    optional={
        "outputs": st.lists(
            st.fixed_dictionaries(
                {"name": st.sampled_from(["logits", "label", "x"])},
                optional={"parameters": st.dictionaries(st.just("classification"), NUMBERS)},
            )
        ),
        "parameters": st.dictionaries(
            st.sampled_from(["steps", "exit_margin", "degrade", "priority", "x"]), NUMBERS
        ),
        "id": NUMBERS,
    },
)


@settings(max_examples=80)
@given(body=REQUESTS, rest=st.binary(max_size=20))
def test_any_request_is_clips_or_a_problem(body: Any, rest: bytes) -> None:
    text = json.dumps(body).encode()
    with suppress(Problem):
        request = parse_request(text + rest, str(len(text)), 1 << 20)
        check_outputs(request.outputs, CARD)
        clips = clips_of(request, CARD, SETTINGS, "avdigits")
        assert len(clips) == len(request.inputs[0].values)


@given(st.lists(st.binary(max_size=9), min_size=1, max_size=9))
def test_files_come_through(files: list[bytes]) -> None:
    content = b"".join(struct.pack("<I", len(file)) + file for file in files)
    tensor = from_bytes("clip", "BYTES", [len(files), 1], memoryview(content))
    assert tensor.values.ravel().tolist() == files
    assert to_bytes(tensor) == content


def test_an_element_for_every_four_bytes_is_refused_before_they_are_read() -> None:
    content = memoryview(bytes(64 << 20))
    for shape in ([1], [99_999], [100_001], [1 << 40], [1] * 9, [], [0]):
        with pytest.raises(Problem) as caught:
            from_bytes("clip", "BYTES", shape, content)
        assert caught.value.error is Error.INVALID_FIELD


def test_streams_keep_their_values_and_need_their_dimensions() -> None:
    values = np.arange(12, dtype=np.float32).reshape(2, 1, 1, 2, 3)
    same = from_bytes("audio", "FP32", values.shape, memoryview(values.tobytes()))
    nested = from_values("audio", "FP32", values.shape, values.tolist())
    for tensor in (same, nested):
        clips = clips_of(InferRequest([tensor]), CARD, SETTINGS, "avdigits")
        for number, (content, _) in enumerate(clips):
            assert np.array_equal(np.asarray(content["audio"]), values[number])
    flat = Tensor("audio", "FP32", values.reshape(2, 6))
    with pytest.raises(Problem, match=r"needed is \[clips, T or 1"):
        clips_of(InferRequest([flat]), CARD, SETTINGS, "avdigits")


def test_no_more_elements_are_decoded_than_the_shape_has() -> None:
    """Millions, in lists within lists, would take half a minute."""
    tensor = {"name": "clip", "shape": [1], "datatype": "BYTES"}

    def parse(data: Any) -> InferRequest:
        text = json.dumps({"inputs": [tensor | {"data": data}]})
        return parse_request(text.encode(), None, 1 << 20)

    (parsed,) = parse([[["aGVsbG8="], []]]).inputs
    assert parsed.values.tolist() == [b"hello"]
    for data, reason in (
        (["aGVsbG8=", ["no base64"]], r"\[1\], but it has more than 1 elements"),
        ([[], []], r"\[1\], but it has 0 elements"),
    ):
        with pytest.raises(Problem, match=reason) as refused:
            parse(data)
        assert refused.value.error is Error.INVALID_FIELD
