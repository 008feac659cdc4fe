"""Which fields are of which clip, in a request of several."""

from __future__ import annotations

from dataclasses import replace

import pytest

from service.errors import Error, Problem
from service.http.clip_forms import parse_clips, split_clips
from service.http.form import form_fields
from service.http.json_body import parse_json_clips
from service.http.multipart_body import Form
from service.settings import Settings

SETTINGS = Settings(call_clips=4)
KINDS = {"audio": "spectrogram", "visual": "frames"}
FIELDS = replace(form_fields(SETTINGS, KINDS, "avdigits"), numbered=True)

Values = dict[str, list[str]]
Files = dict[str, list[bytes]]


def split(files: Files, values: Values | None = None) -> list[Form]:
    return split_clips(Form(values or {}, files), FIELDS, SETTINGS.call_clips)


def test_a_repeated_field_is_a_clip_each() -> None:
    clips = split({"clip": [b"a", b"b"]}, {"steps": ["3"], "steps.1": ["2"], "top_k.0": ["1"]})
    assert [clip.files for clip in clips] == [{"clip": [b"a"]}, {"clip": [b"b"]}]
    options = [options for _, options in parse_clips(clips, SETTINGS, "avdigits")]
    assert [(o.steps, o.top_k, o.model) for o in options] == [
        (3, 1, "avdigits"), (2, None, "avdigits"),
    ]  # fmt: skip


def test_a_field_with_a_number_is_of_that_clip() -> None:
    clips = split({"audio.2": [b"c"], "frames.0": [b"1", b"2"], "audio.0": [b"a"]})
    assert [clip.files for clip in clips] == [
        {"frames": [b"1", b"2"], "audio": [b"a"]}, {}, {"audio": [b"c"]},
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("files", "values", "field", "message"),
    [
        ({}, {}, "clip", "No clip"),
        ({"video": [b"v"], "audio": [b"a"]}, {}, "audio", "`audio.0`, `audio.1`"),
        ({"clip": [b"v"], "clip.1": [b"a"]}, {}, "clip", "`clip.0`, `clip.1`"),
        ({"frames": [b"1", b"2"]}, {}, "frames", "`frames.0`, `frames.1`"),
        ({"clip": [b"v"]}, {"steps.1": ["2"]}, "steps.1", "the last is clip 0"),
        ({"clip": [b"v"]}, {"steps.0": ["0"]}, "steps.0", "Clip 0: `steps` is '0'"),
        ({"clip": [b"v"] * 5}, {}, None, "5 clips; at most 4"),
        ({"clip.999999999": [b"v"]}, {}, None, "1000000000 clips; at most 4"),
    ],
)
def test_ambiguous_fields_are_refused(
    files: Files, values: Values, field: str | None, message: str
) -> None:
    with pytest.raises(Problem, match=message) as caught:
        parse_clips(split(files, values), SETTINGS, "avdigits")
    assert caught.value.field == field
    assert caught.value.error is (Error.INVALID_FIELD if field else Error.TOO_LARGE)


@pytest.mark.parametrize("name", ["clip.", "clip.-1", "clip.x", ".0", "clips.0", "clip.1.0",
                                  "clip.9999999999", "clip.٣"])  # fmt: skip
def test_other_names_are_no_fields(name: str) -> None:
    with pytest.raises(Problem, match="No such field"):
        FIELDS.split(name)
    with pytest.raises(Problem, match="numbers are for several clips"):
        replace(FIELDS, numbered=False).split("clip.0")


@pytest.mark.parametrize(
    ("name", "meant"), [("Clip", "clip"), ("clips", "clip"), ("topk", "top_k"), ("flie", None)]
)
def test_a_name_that_is_nearly_a_field_is_told_which(name: str, meant: str | None) -> None:
    with pytest.raises(Problem) as caught:
        FIELDS.split(name)
    detail = caught.value.detail
    if meant is None:
        assert detail.startswith(f"No such field: '{name}'; the fields are: ")
    else:
        assert detail.startswith(f"No such field: '{name}'; did you mean `{meant}`? The fields are")


@pytest.mark.parametrize(
    ("body", "field", "message"),
    [
        (b'{"clip": "YQ=="}', None, "must be an array of objects"),
        (b"[1]", None, "Clip 0: The JSON must be an object"),
        (b'[{"clip": "YQ=="}, {"clip": "?"}]', "clip.1", "Clip 1: `clip` is not base64"),
        (b'[{"steps.0": 4}]', "steps.0.0", "No such field: 'steps.0'"),
        (b"[]", "clip", "No clip was sent"),
        (b"[%b]" % b",".join([b'{"clip": "?"}'] * 5), None, "There are 5 clips; at most 4"),
    ],
)
def test_json_names_the_clip(body: bytes, field: str | None, message: str) -> None:
    with pytest.raises(Problem, match=message) as caught:
        parse_json_clips(body, FIELDS, SETTINGS.max_parts, SETTINGS.call_clips)
    assert caught.value.field == field
