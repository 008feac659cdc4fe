"""Client of an scmrl service, without torch: clips and live streams.

    from scmrl_client import Client  # of the main distribution: from service.client import Client

    with Client("http://127.0.0.1:8000") as client:
        answer = client.classify(clip="CLIP.mp4", top_k=3)
        print(answer.prediction.label)

`AsyncClient` has the same methods as coroutines. Names of files, options and answers are those of
docs/http-api.md and docs/streams.md. This folder imports nothing else of the repository:
pyproject.toml in it makes the distribution `scmrl-client`.
"""

from .answers import Answer, Classification, ModelSummary, Ready, StreamProblem, Summary
from .async_stream import AsyncStream
from .clients import AsyncClient, Client
from .errors import ClientError, Problem, ProblemError, StreamClosedError, UnreachableError
from .requests import ClassifyFields, File
from .retries import Retries
from .stream import Stream
from .stream_messages import OpusInput, PictureInput, SeriesInput, SoundInput, VideoInput

__all__ = [
    "Answer",
    "AsyncClient",
    "AsyncStream",
    "Classification",
    "ClassifyFields",
    "Client",
    "ClientError",
    "File",
    "ModelSummary",
    "OpusInput",
    "PictureInput",
    "Problem",
    "ProblemError",
    "Ready",
    "Retries",
    "SeriesInput",
    "SoundInput",
    "Stream",
    "StreamClosedError",
    "StreamProblem",
    "Summary",
    "UnreachableError",
    "VideoInput",
]
