"""Files to the streams of a checkpoint, as its card says."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from model import checkpoint
from model.checkpoint import Card
from model.config import Config
from model.encoding import encode_clip
from model.media.reader import Limits
from service.classification.upload_fields import InputFiles
from service.decoding.files import decode
from service.decoding.job import DecodeRequest, DecodeResult
from service.errors import Error, Problem
from tests.conftest import ROOT
from tests.model.media_files import Bytes, quadrants, sound_file, tracks
from tests.model.media_files import clip as made_clip
from tests.service import checkpoints
from tests.service.checkpoints import CONFIG, SPECS, STEPS
from tests.service.media_files import png, tone, wav, without_sound

BOTH = checkpoints.card()


def only(stream: str) -> Card:
    """A card of one stream."""
    config = Config(streams={stream: CONFIG.streams[stream]}, classes=10, embed_dim=16, heads=4)
    return checkpoints.card(config=config, streams={stream: SPECS[stream]})


def decoded(files: InputFiles, card: Card = BOTH, limits: Limits = Limits()) -> DecodeResult:  # noqa: B008
    return decode(files, DecodeRequest.from_card(card, STEPS, limits))


def inputs(files: InputFiles, card: Card = BOTH) -> dict[str, NDArray[np.float32]]:
    return encode_clip(decoded(files, card).prepared, card.encoding, STEPS)


def refused(files: InputFiles, card: Card = BOTH) -> Problem:
    with pytest.raises(Problem) as caught:
        decoded(files, card)
    return caught.value


def test_a_clip_becomes_what_the_network_takes(clip: bytes) -> None:
    result = decoded(InputFiles(clip=clip))
    tensors = encode_clip(result.prepared, BOTH.encoding, STEPS)
    assert {name: tuple(x.shape) for name, x in tensors.items()} == {
        "audio": (1, SPECS["audio"].channels, *SPECS["audio"].size),
        "visual": (STEPS, SPECS["visual"].channels, *SPECS["visual"].size),
    }
    assert all(x.dtype == np.float32 for x in tensors.values())
    assert result.decode_s > 0
    assert result.preprocess_s > 0


@pytest.mark.parametrize("encoding", ["rate", "latency"])
def test_a_card_that_asks_for_spikes_gets_them_at_every_step(clip: bytes, encoding: str) -> None:
    card = checkpoints.card(encoding=encoding)
    result = inputs(InputFiles(clip=clip), card)
    for x in result.values():
        assert len(x) == STEPS
        assert set(np.unique(x).tolist()) <= {0.0, 1.0}
    again = inputs(InputFiles(clip=clip), card)
    assert all(np.array_equal(x, again[name]) for name, x in result.items())


def test_a_stream_of_a_clip_that_is_not_needed_is_not_missed(clip: bytes) -> None:
    assert set(inputs(InputFiles(clip=without_sound(clip)), only("visual"))) == {"visual"}
    assert set(inputs(InputFiles(clip=wav(tone())), only("audio"))) == {"audio"}


ARRAYS = b"PK\x03\x04 arrays"


@pytest.mark.parametrize(
    ("field", "content", "streams", "hint"),
    [
        ("frames", "video", None, "it is a video: send it as `clip` or `video`"),
        ("frames", "video", "visual", "it is a video: send it as `clip` or `video`"),
        ("frames", "sound", None, "it is a sound: send it as `audio`"),
        ("video", "sound", None, "it is a sound: send it as `audio`"),
        ("audio", "picture", None, "it is a picture: send it as `frames`"),
        ("audio", "picture", "audio", "it is a picture, and avdigits has no field for one"),
        ("clip", "arrays", None, "it is an archive of arrays, and avdigits has no field for one"),
    ],
)
def test_a_file_of_another_fields_kind_is_refused_with_the_field_to_send_it_in(
    clip: bytes, field: str, content: str, streams: str | None, hint: str
) -> None:
    data = {"video": clip, "sound": wav(tone()), "picture": png(quadrants()), "arrays": ARRAYS}
    files = InputFiles(**{field: data[content]})
    problem = refused(files, only(streams) if streams else BOTH)
    assert problem.detail.endswith(f"; {hint}.")
    assert problem.field == field


@pytest.mark.parametrize("field", ["clip", "frames", "audio"])
def test_a_file_of_no_known_kind_is_refused_without_a_hint(field: str) -> None:
    problem = refused(InputFiles(**{field: b"hello " * 9}))
    assert problem.error is Error.UNKNOWN_FORMAT
    assert "send it as" not in problem.detail


def test_a_clip_for_a_checkpoint_of_events_is_refused_with_its_fields(clip: bytes) -> None:
    card = checkpoint.read_card(ROOT / "weights" / "ndigits-events")
    detail = refused(InputFiles(clip=clip), card).detail
    assert detail.endswith("; its fields: `events`, `audio_events`, `audio`, `visual`.")


def test_a_file_that_the_checkpoint_has_no_stream_for_is_refused_by_name(clip: bytes) -> None:
    for files, card, field in (
        (InputFiles(video=clip, audio=clip), only("audio"), "video"),
        (InputFiles(video=clip, audio=clip), only("visual"), "audio"),
        (
            InputFiles(frames=(png(np.zeros((9, 9, 3), np.uint8)),), audio=clip),
            only("audio"),
            "frames",
        ),
    ):
        problem = refused(files, card)
        assert (problem.error, problem.field) == (Error.INVALID_FIELD, field)


def test_nothing_to_classify_is_a_problem_with_the_reason(clip: bytes) -> None:
    problem = refused(InputFiles(clip=without_sound(clip)), only("audio"))
    assert (problem.error, problem.field) == (Error.UNUSABLE, "clip")
    assert "no sound" in problem.detail


def test_large_frames_share_the_limit_of_pixels() -> None:
    """As the frames of a video do: many large pictures would take gigabytes."""
    frames = tuple(png(np.roll(quadrants(80, 120), n, axis=1)) for n in range(8))
    result = decoded(InputFiles(frames=frames), limits=replace(Limits(), max_total_pixels=2400))
    visual = result.streams["visual"]
    assert visual.width is not None
    assert visual.height is not None
    assert visual.width * visual.height <= 600
    assert visual.width / visual.height == pytest.approx(1.5, abs=0.1)


def test_frames_that_are_not_needed_are_read_as_well() -> None:
    good = png(np.zeros((9, 9, 3), np.uint8))
    frames = [good] * 40
    frames[1] = good[:50]  # none of the four that are taken
    problem = refused(InputFiles(frames=tuple(frames)))
    assert (problem.error, problem.field) == (Error.UNUSABLE, "frames")
    assert "picture 2 of 40" in problem.detail


# --- the description of each stream -----------------------------------------------------------


def silent(seconds: float = 1.0) -> NDArray[np.float64]:
    return np.zeros(round(seconds * 16_000))


def frames_of(*pages: Bytes) -> tuple[bytes, ...]:
    return tuple(png(page) for page in pages)


BLANK = np.zeros((48, 64, 3), np.uint8)
STRICT = checkpoints.card(missing_streams=False)


def test_a_silent_sound_is_not_used_and_the_answer_is_that_without_it(clip: bytes) -> None:
    alone = decoded(InputFiles(video=clip))
    result = decoded(InputFiles(video=clip, audio=wav(silent())))
    assert set(result.prepared) == {"visual"}
    np.testing.assert_array_equal(result.prepared["visual"].tensor, alone.prepared["visual"].tensor)
    audio = result.streams["audio"]
    assert not audio.used
    assert "silent" in (audio.reason or "")
    assert (audio.duration_s, audio.sample_rate, audio.channels) == (1.0, 16_000, 1)


@pytest.mark.parametrize("colour", [0, 90, 255])
def test_blank_pictures_are_not_used(colour: int) -> None:
    pages = frames_of(*[np.full((48, 64, 3), colour, np.uint8)] * 3)
    result = decoded(InputFiles(frames=pages, audio=wav(tone())))
    assert set(result.prepared) == {"audio"}
    visual = result.streams["visual"]
    assert not visual.used
    assert "blank" in (visual.reason or "")
    assert (visual.width, visual.height) == (64, 48)


def test_a_checkpoint_that_needs_all_streams_keeps_those_that_carry_nothing() -> None:
    result = decoded(InputFiles(frames=frames_of(BLANK), audio=wav(silent())), STRICT)
    assert set(result.prepared) == {"audio", "visual"}
    assert all(stream.used for stream in result.streams.values())


@pytest.mark.parametrize(
    ("files", "field"),
    [
        (InputFiles(frames=frames_of(BLANK), audio=wav(silent())), "audio"),
        (InputFiles(audio=wav(silent())), "audio"),
        (InputFiles(frames=frames_of(BLANK)), "frames"),
        (
            InputFiles(clip=made_clip(frames=[BLANK] * 3, sound=np.zeros((1, 9600), np.float32))),
            "clip",
        ),
    ],
    ids=["both", "sound alone", "pictures alone", "clip"],
)
def test_where_no_stream_carries_anything_there_is_nothing_to_classify(
    files: InputFiles, field: str
) -> None:
    problem = refused(files)
    assert (problem.error, problem.field) == (Error.UNUSABLE, field)
    assert problem.detail.startswith("There is nothing to classify: ")
    assert "silent" in problem.detail or "blank" in problem.detail


@pytest.mark.parametrize(
    ("gains", "channels", "mixed"),
    [((1.0,), 1, None), ((1.0, 0.7), 2, "average"), ((1.0, -1.0), 2, "strongest channel")],
)
def test_the_result_states_how_channels_were_mixed(
    gains: tuple[float, ...], channels: int, mixed: str | None
) -> None:
    sound = np.outer(gains, tone()).astype(np.float32)
    result = decoded(InputFiles(audio=sound_file(sound, 16_000)))
    assert result.streams["audio"].channels == channels
    assert result.streams["audio"].mixed == mixed
    one = decoded(InputFiles(audio=sound_file(sound[:1], 16_000)))
    np.testing.assert_allclose(
        result.prepared["audio"].tensor, one.prepared["audio"].tensor, atol=2e-2
    )


def test_the_result_states_which_sound_track_was_selected() -> None:
    sound = tone().astype(np.float32)[None]
    one = decoded(InputFiles(clip=tracks([sound]))).streams["audio"]
    assert (one.track, one.tracks) == (None, None)
    several = decoded(InputFiles(clip=tracks([np.zeros_like(sound), sound]))).streams["audio"]
    assert (several.used, several.track, several.tracks) == (True, 2, 2)
