"""The pipeline without HTTP: what it imports, and what calls it."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.classification.local import Classifier
from service.classification.options import Options
from service.classification.pipeline import Call
from service.classification.served import ServedClassifier
from service.classification.upload_fields import InputFiles
from service.decoding.fork_server import DecodeLimits
from service.decoding.pool import DecoderPool
from service.errors import Error, Problem
from service.inference.model_server import ModelServer
from service.settings import Settings

#: What the pipeline must not know of.
HTTP = ("starlette", "fastapi", "uvicorn", "python_multipart", "service.http", "service.app")


@pytest.mark.parametrize("module", ["pipeline", "served", "local", "upload_fields", "options"])
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
    local = Classifier(weights / "avdigits", "cpu").classify(files, Options(top_k=2))
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
