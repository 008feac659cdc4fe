"""Values of form fields, and their combinations."""

from __future__ import annotations

import pytest

from service.classification.options import Options
from service.classification.upload_fields import InputFiles
from service.errors import Error, Problem
from service.http.form import parse_form
from service.http.multipart_body import Form
from service.settings import Settings

KINDS = {"audio": "spectrogram", "visual": "frames"}


def ask(
    values: dict[str, list[str]] | None = None, files: dict[str, list[bytes]] | None = None
) -> tuple[InputFiles, Options]:
    form = Form(values or {}, {"clip": [b"c"]} if files is None else files)
    return parse_form(form, Settings(max_steps=64, max_frames=3), KINDS)


def refused(
    values: dict[str, list[str]] | None = None, files: dict[str, list[bytes]] | None = None
) -> Problem:
    with pytest.raises(Problem) as caught:
        ask(values, files)
    return caught.value


def test_a_clip_alone_is_enough() -> None:
    assert ask() == (InputFiles(clip=b"c"), Options(steps=None, top_k=None, attention="grid"))


def test_values_are_read() -> None:
    _, options = ask({"steps": ["64"], "top_k": [" 3 "], "attention": ["overlay"]})
    assert options == Options(steps=64, top_k=3, attention="overlay")
    assert ask({"abstain_below": ["0.5"]})[1].abstain_below == 0.5
    assert ask({"abstain_below": ["0"]})[1].abstain_below == 0
    for text in ("true", "True"):  # as Python's requests sends it
        assert ask({"diagnostics": [text]})[1].diagnostics
    assert not ask({"degrade": ["False"]})[1].degrade


@pytest.mark.parametrize(
    ("files", "media"),
    [
        ({"video": [b"v"], "audio": [b"a"]}, InputFiles(video=b"v", audio=b"a")),
        ({"frames": [b"1", b"2"], "audio": [b"a"]}, InputFiles(audio=b"a", frames=(b"1", b"2"))),
        ({"audio": [b"a"]}, InputFiles(audio=b"a")),
    ],
)
def test_streams_may_come_apart(files: dict[str, list[bytes]], media: InputFiles) -> None:
    assert ask(files=files)[0] == media


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"steps": ["0"]}, "steps"),
        ({"steps": ["65"]}, "steps"),
        ({"steps": ["1000"]}, "steps"),
        ({"steps": ["-1"]}, "steps"),
        ({"steps": ["4.0"]}, "steps"),
        ({"steps": ["four"]}, "steps"),
        ({"steps": ["٤"]}, "steps"),
        ({"steps": ["9" * 400]}, "steps"),
        ({"steps": ["4", "8"]}, "steps"),
        ({"top_k": ["0"]}, "top_k"),
        ({"top_k": ["all"]}, "top_k"),
        ({"attention": ["yes"]}, "attention"),
        ({"contributions": ["exact"]}, "contributions"),
        ({"abstain_below": ["-0.1"]}, "abstain_below"),
        ({"abstain_below": ["1.1"]}, "abstain_below"),
        ({"abstain_below": ["nan"]}, "abstain_below"),
        ({"abstain_below": ["half"]}, "abstain_below"),
        ({"abstain_beyond": ["-1"]}, "abstain_beyond"),
        ({"abstain_below": ["0" * 400]}, "abstain_below"),
    ],
)
def test_a_value_out_of_range_is_refused_by_name(values: dict[str, list[str]], field: str) -> None:
    problem = refused(values)
    assert (problem.error, problem.field) == (Error.INVALID_FIELD, field)


@pytest.mark.parametrize(
    ("files", "field"),
    [
        ({}, "clip"),
        ({"clip": [b"c"], "video": [b"v"]}, "video"),
        ({"clip": [b"c"], "audio": [b"a"]}, "audio"),
        ({"clip": [b"c"], "frames": [b"f"]}, "frames"),
        ({"video": [b"v"], "frames": [b"f"]}, "frames"),
        ({"clip": [b"c", b"c"]}, "clip"),
    ],
)
def test_files_that_do_not_go_together_are_refused(
    files: dict[str, list[bytes]], field: str
) -> None:
    problem = refused(files=files)
    assert (problem.error, problem.field) == (Error.INVALID_FIELD, field)


@pytest.mark.parametrize("name", ["clip", "video", "audio", "frames"])
def test_an_empty_file_is_unusable(name: str) -> None:
    problem = refused(files={name: [b""]})
    assert (problem.error, problem.field) == (Error.UNUSABLE, name)


def test_too_many_frames_say_how_many() -> None:
    problem = refused(files={"frames": [b"f"] * 4})
    assert problem.error is Error.TOO_LARGE
    assert "4" in problem.detail
    assert "3" in problem.detail
