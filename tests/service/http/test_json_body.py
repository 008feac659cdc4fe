"""A body of JSON has the fields of the form, with files in base64."""

from __future__ import annotations

import base64
import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import Error, Problem
from service.http.json_body import parse_json
from service.http.multipart_body import Form, FormFields

FIELDS = FormFields(
    {"clip": 9, "frames": 9},
    {"steps": "integer", "degrade": "boolean", "attention": "string"},
    frozenset({"frames"}),
    choices={"attention": ("none", "grid")},
)
PARTS = 300
FILE = base64.b64encode(b"a file\xff").decode()


def parse(body: Any) -> Form:
    return parse_json(json.dumps(body).encode(), FIELDS, PARTS)


def test_files_and_values_are_those_of_a_form() -> None:
    form = parse({"clip": FILE, "frames": [FILE, f"data:image/png;base64,{FILE}"], "steps": 4})
    assert form.files == {"clip": [b"a file\xff"], "frames": [b"a file\xff"] * 2}
    assert form.values == {"steps": ["4"]}
    assert parse({"steps": 4.0, "degrade": False}).values == {"steps": ["4"], "degrade": ["false"]}
    assert parse_json(b'{"steps": 1e999}', FIELDS, PARTS).values == {
        "steps": ["inf"]
    }  # refused later


@pytest.mark.parametrize(
    ("body", "error", "message"),
    [
        (b"", Error.UNREADABLE_FORM, "damaged"),
        (b"\xff", Error.UNREADABLE_FORM, "damaged"),
        (b"[1]", Error.UNREADABLE_FORM, "must be an object"),
        (b'"text"', Error.UNREADABLE_FORM, "must be an object"),
        (b"[" * 4 * PARTS, Error.UNREADABLE_FORM, "damaged"),
        (b'{"steps": NaN}', Error.UNREADABLE_FORM, "NaN is no JSON"),
        (b'{"steps": 1, "steps": 2}', Error.INVALID_FIELD, "`steps` was sent twice"),
        (b'{"clip": "", "clip": ""}', Error.INVALID_FIELD, "`clip` was sent twice"),
        (b'{"clip": "a b"}', Error.INVALID_FIELD, "`clip` is not base64"),
        (b'{"clip": "YQ"}', Error.INVALID_FIELD, "`clip` is not base64"),
        (b'{"clip": ["YQ=="]}', Error.INVALID_FIELD, "`clip` must be base64"),
        (b'{"frames": "YQ=="}', Error.INVALID_FIELD, "`frames` must be an array"),
        (b'{"clip": 7}', Error.INVALID_FIELD, "`clip` must be base64"),
        (b'{"clip": {"a": 1}}', Error.INVALID_FIELD, "`clip` must be base64"),
        (b'{"steps": [1]}', Error.INVALID_FIELD, "`steps` must be of the JSON type integer"),
        (b'{"step": null}', Error.INVALID_FIELD, "No such field: 'step'"),
        (b'{"frames": [null]}', Error.INVALID_FIELD, "`frames` must be base64"),
        (b'{"steps": "1"}', Error.INVALID_FIELD, "JSON type integer"),
        (b'{"steps": true}', Error.INVALID_FIELD, "JSON type integer"),
        (b'{"degrade": "true"}', Error.INVALID_FIELD, "JSON type boolean"),
        (b'{"attention": true}', Error.INVALID_FIELD, 'JSON type string: one of "none", "grid"'),
        (b'{"step": 1}', Error.INVALID_FIELD, "No such field: 'step'; did you mean `steps`"),
        (b"[" * 100_000, Error.TOO_LARGE, "too many values; at most 300"),
        (b'{"frames": ["YQ=="' + b', "YQ=="' * 2000 + b"]}", Error.TOO_LARGE, "too many values"),
        (b'{"frames": [1' + b", {}" * 700 + b"]}", Error.TOO_LARGE, "SCMRL_MAX_PARTS"),
        (b'{"clip": "' + b"YWFh" * 4 + b'"}', Error.TOO_LARGE, "at most 9 bytes"),
    ],
)
def test_errors_name_the_fault(body: bytes, error: Error, message: str) -> None:
    with pytest.raises(Problem, match=message) as caught:
        parse_json(body, FIELDS, PARTS)
    assert caught.value.error is error


@given(st.binary(max_size=9))
def test_every_file_comes_through(data: bytes) -> None:
    assert parse({"clip": base64.b64encode(data).decode()}).files["clip"] == [data]


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
                    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))  # fmt: skip
def test_any_json_is_a_form_or_a_problem(body: Any) -> None:
    with suppress(Problem):
        assert isinstance(parse(body), Form)


def test_as_many_files_as_a_form_may_have_are_accepted() -> None:
    frames = [f"data:image/png;base64,{FILE}"] * PARTS
    assert parse({"frames": frames}).files == {"frames": [b"a file\xff"] * PARTS}


def test_a_member_that_is_null_counts_as_not_sent() -> None:
    """Programs write it for what is not set."""
    form = parse_json(
        b'{"clip": "YQ==", "frames": null, "steps": null, "degrade": null}', FIELDS, PARTS
    )
    assert form.files == {"clip": [b"a"]}
    assert form.values == {}
