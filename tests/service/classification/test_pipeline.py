"""The pipeline without HTTP: what it imports, and what calls it."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from model.checkpoint import read_card
from model.media.reader import read_clip
from model.preprocess.prepare import prepare
from service.classification.local_classifier import LocalClassifier
from service.classification.options import Options
from service.classification.pipeline import Call
from service.classification.served_classifier import ServedClassifier
from service.classification.upload_fields import InputFiles
from service.decoding.fork_server import DecodeLimits
from service.decoding.pool import DecoderPool
from service.errors import Error, Problem
from service.inference.model_server import ModelServer
from service.settings import Settings

#: What the pipeline must not know of.
HTTP = ("starlette", "fastapi", "uvicorn", "python_multipart", "service.http", "service.app")


MODULES = ("pipeline", "served_classifier", "local_classifier", "upload_fields", "options")


@pytest.mark.parametrize("module", MODULES)
def test_nothing_that_it_imports_knows_of_http(module: str) -> None:
    """Directly or by way of others; in a process of its own."""
    script = (
        f"import sys, service.classification.{module}\n"
        f"http = [name for name in sys.modules if (name + '.').startswith({HTTP!r})]\n"
        "print(sorted(http))"
    ).replace(repr(HTTP), repr(tuple(name + "." for name in HTTP)))
    imported = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert imported.stdout.strip() == "[]"


def test_the_table_imports_nothing_heavy() -> None:
    script = (
        "import sys, service.classification.upload_fields\n"
        "print(sorted({'torch', 'av', 'cv2', 'numpy', 'pydantic'} & sys.modules.keys()))"
    )
    imported = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert imported.stdout.strip() == "[]"


@pytest.fixture(scope="module")
def classifier(weights: Path) -> Iterator[ServedClassifier]:
    """The checkpoints, queues and decoding processes of a service, without its application."""
    settings = Settings(models=weights, compile="off", device="cpu")
    models = ModelServer(settings)
    decoders = DecoderPool(1, DecodeLimits(seconds=60, memory_bytes=1 << 30))
    decoders.start()
    models.startup.load_default()
    watching = threading.Thread(target=decoders.watch, daemon=True)
    watching.start()
    try:
        yield ServedClassifier(models.in_flight, decoders, settings)
    finally:
        models.stop()
        decoders.stop()
        watching.join()


def test_a_caller_without_http_gets_the_answer_and_a_record(
    classifier: ServedClassifier, weights: Path, clip: bytes
) -> None:
    call = Call("of-a-robot")
    files = InputFiles(clip=clip)
    answer = asyncio.run(classifier.classify(files, Options(top_k=2, attention="overlay"), call))
    assert (answer.id, len(answer.probabilities)) == ("of-a-robot", 2)
    assert call.record.notes["streams"] == "audio+visual"
    stages = [s.name for s in sorted(call.record.stages, key=lambda stage: stage.started)]
    assert stages == ["decode_wait", "decode", "preprocess", "queue", "inference", "explain"]
    local = LocalClassifier(weights / "avdigits", "cpu").classify(files, Options(top_k=2))
    assert [p.label for p in local.probabilities] == [p.label for p in answer.probabilities]
    assert local.prediction.probability == pytest.approx(answer.prediction.probability, abs=1e-5)


@pytest.mark.parametrize(
    ("files", "model", "error"),
    [
        (InputFiles(), None, Error.INVALID_FIELD),
        (InputFiles(clip=b"c", audio=b"a"), None, Error.INVALID_FIELD),
        (InputFiles(clip=b"not a clip" * 9), None, Error.UNKNOWN_FORMAT),
        (InputFiles(clip=b"c"), "nobody", Error.UNKNOWN_MODEL),
    ],
    ids=["no file", "files that exclude each other", "no clip", "unknown checkpoint"],
)
def test_problems_are_raised_to_the_caller(
    classifier: ServedClassifier, files: InputFiles, model: str | None, error: Error
) -> None:
    with pytest.raises(Problem) as caught:
        asyncio.run(classifier.classify(files, Options(model=model), Call()))
    assert caught.value.error is error


def tensors_of(weights: Path, clip: bytes, steps: int) -> dict[str, NDArray[np.float32]]:
    """The tensors that the service itself makes of a clip."""
    specs = read_card(weights / "avdigits").streams
    decoded = read_clip(clip, steps)
    prepared = prepare(specs, decoded.sound, decoded.pictures, steps)
    return {name: stream.tensor for name, stream in prepared.items()}


@pytest.mark.parametrize("streams", [("audio", "visual"), ("audio",)])
def test_prepared_tensors_are_answered_as_the_clip_is(
    classifier: ServedClassifier, weights: Path, clip: bytes, streams: tuple[str, ...]
) -> None:
    tensors = tensors_of(weights, clip, 4)
    chosen = {name: tensors[name] for name in streams}
    call = Call()
    answer = asyncio.run(classifier.classify_tensors(chosen, Options(attention="overlay"), call))
    assert {n for n, info in answer.streams.items() if info.used} == set(streams)
    assert answer.timing_ms.decode == 0
    assert {s.name for s in call.record.stages} == {"queue", "inference", "explain"}
    if len(streams) > 1:
        whole = asyncio.run(classifier.classify(InputFiles(clip=clip), Options(), Call()))
        assert answer.contributions == whole.contributions
        assert answer.attention is not None
        assert whole.attention is not None
        ours, theirs = answer.attention["visual"].spatial, whole.attention["visual"].spatial
        assert ours is not None
        assert theirs is not None
        assert ours.values == theirs.values
        assert (ours.rows, ours.row_edges[-1], ours.column_edges[-1]) == ("row", 96, 128)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"tactile": np.zeros((1, 1, 4, 4))}, Error.INVALID_FIELD, "no stream tactile"),
        ({"visual": np.zeros((3, 1, 96, 128))}, Error.INVALID_FIELD, r"needed is \[1 or 4, 1, 96"),
        ({"visual": np.zeros((1, 96, 128))}, Error.INVALID_FIELD, r"is \[1, 96, 128\]"),
        ({"audio": np.full((1, 1, 64, 192), np.nan)}, Error.INVALID_FIELD, "not finite"),
        ({"audio": np.full((1, 1, 64, 192), 1e300)}, Error.INVALID_FIELD, "not finite"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(
    classifier: ServedClassifier, weights: Path, clip: bytes,
    change: dict[str, NDArray[np.float32]], error: Error, message: str,
) -> None:  # fmt: skip
    tensors = tensors_of(weights, clip, 4) | change
    with pytest.raises(Problem, match=message) as caught:
        asyncio.run(classifier.classify_tensors(tensors, Options(), Call()))
    assert caught.value.error is error
    assert caught.value.field == next(iter(change))


def test_no_tensors_are_nothing_to_classify(classifier: ServedClassifier) -> None:
    with pytest.raises(Problem, match="needs a tensor of audio and visual"):
        asyncio.run(classifier.classify_tensors({}, Options(), Call()))
