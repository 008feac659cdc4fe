"""Files to the streams of a checkpoint, as its card says."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from model.checkpoint import Card
from model.config import Config
from model.media import Limits
from service.decoding.files import decode
from service.decoding.job import Decoded, Wanted
from service.encoding import encoded
from service.errors import Error, Problem
from service.form import Media
from tests.service import checkpoints
from tests.service.checkpoints import CONFIG, SPECS, STEPS
from tests.service.media_files import png, tone, wav, without_sound

BOTH = checkpoints.card()


def only(stream: str) -> Card:
    """A card of one stream."""
    config = Config(streams={stream: CONFIG.streams[stream]}, classes=10, embed_dim=16, heads=4)
    return checkpoints.card(config=config, streams={stream: SPECS[stream]})


def decoded(files: Media, card: Card = BOTH, limits: Limits = Limits()) -> Decoded:  # noqa: B008
    return decode(files, Wanted.of(card, STEPS, limits))


def inputs(files: Media, card: Card = BOTH) -> dict[str, Tensor]:
    return encoded(decoded(files, card).prepared, card, STEPS)


def refused(files: Media, card: Card = BOTH) -> Problem:
    with pytest.raises(Problem) as caught:
        decoded(files, card)
    return caught.value


def test_a_clip_becomes_what_the_network_takes(clip: bytes) -> None:
    found = decoded(Media(clip=clip))
    tensors = encoded(found.prepared, BOTH, STEPS)
    assert {name: tuple(x.shape) for name, x in tensors.items()} == {
        "audio": (1, SPECS["audio"].channels, *SPECS["audio"].size),
        "visual": (STEPS, SPECS["visual"].channels, *SPECS["visual"].size),
    }
    assert all(x.dtype == torch.float32 for x in tensors.values())
    assert found.decode_s > 0
    assert found.preprocess_s > 0


@pytest.mark.parametrize("encoding", ["rate", "latency"])
def test_a_card_that_asks_for_spikes_gets_them_at_every_step(clip: bytes, encoding: str) -> None:
    card = checkpoints.card(encoding=encoding)
    found = inputs(Media(clip=clip), card)
    for x in found.values():
        assert len(x) == STEPS
        assert set(x.unique().tolist()) <= {0.0, 1.0}
    again = inputs(Media(clip=clip), card)
    assert all(torch.equal(x, again[name]) for name, x in found.items())


def test_a_stream_of_a_clip_that_is_not_needed_is_not_missed(clip: bytes) -> None:
    assert set(inputs(Media(clip=without_sound(clip)), only("visual"))) == {"visual"}
    assert set(inputs(Media(clip=wav(tone())), only("audio"))) == {"audio"}


def test_a_file_that_the_checkpoint_has_no_stream_for_is_refused_by_name(clip: bytes) -> None:
    for files, card, field in (
        (Media(video=clip, audio=clip), only("audio"), "video"),
        (Media(video=clip, audio=clip), only("visual"), "audio"),
        (Media(frames=(png(np.zeros((9, 9, 3), np.uint8)),), audio=clip), only("audio"), "frames"),
    ):
        problem = refused(files, card)
        assert (problem.error, problem.field) == (Error.INVALID_FIELD, field)


def test_nothing_to_classify_is_told_with_the_reason(clip: bytes) -> None:
    problem = refused(Media(clip=without_sound(clip)), only("audio"))
    assert (problem.error, problem.field) == (Error.UNUSABLE, "clip")
    assert "no sound" in problem.detail


def test_large_frames_share_the_limit_of_pixels() -> None:
    """As the frames of a video do: many large pictures would take gigabytes."""
    frames = tuple(png(np.full((80, 120, 3), n, np.uint8)) for n in range(8))
    found = decoded(Media(frames=frames), limits=replace(Limits(), max_total_pixels=2400))
    visual = found.streams["visual"]
    assert visual.width is not None
    assert visual.height is not None
    assert visual.width * visual.height <= 600
    assert visual.width / visual.height == pytest.approx(1.5, abs=0.1)


def test_frames_that_are_not_needed_are_read_as_well() -> None:
    good = png(np.zeros((9, 9, 3), np.uint8))
    frames = [good] * 40
    frames[1] = good[:50]  # none of the four that are taken
    problem = refused(Media(frames=tuple(frames)))
    assert (problem.error, problem.field) == (Error.UNUSABLE, "frames")
    assert "picture 2 of 40" in problem.detail
