"""`Client` and `AsyncClient`: the HTTP API and live streams, by httpx and websockets."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import Any, Self, TypeVar, Unpack

import httpx
from pydantic import BaseModel

from . import async_stream, stream
from .answers import Card, Classification, Models, ModelSummary
from .errors import ClientError, ProblemError, UnreachableError
from .requests import (
    ClassifyFields,
    batch_path,
    card_path,
    check,
    classify_path,
    parse,
    parse_batch,
    read_batch_form,
    read_form,
)
from .retries import ConnectionLostError, Retries
from .stream_messages import Input, StreamFields, StreamRequest

_AnswerT = TypeVar("_AnswerT", bound=BaseModel)
#: A key: what a header may have, without blanks.
_KEY = re.compile(r"[!-~]+")


class Client:
    """Client of a service.

    - `url`: of the service, also below a path: https://example.org/scmrl/
    - `key`: API key.
    - `timeout_s`: for the connection, and for each silence until the answer.
    - `retries`: when a request is sent again.

    Its methods raise ProblemError (the service answers an error), UnreachableError (there is no
    answer), and what reading a file raises. One client may be used by several threads.
    """

    def __init__(
        self,
        url: str,
        *,
        key: str | None = None,
        timeout_s: float = 60.0,
        retries: Retries | None = None,
    ) -> None:
        self._target = _Target(url, key, timeout_s, retries)
        self._http = httpx.Client(**self._target.options)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def classify(
        self, *, model: str | None = None, **fields: Unpack[ClassifyFields]
    ) -> Classification:
        """Classify the files of one clip with a checkpoint, by default the service's.

        `fields`: files and options, see `ClassifyFields`. Raises OSError for a file that cannot be
        read, TypeError for an unknown argument, and what the class says.
        """
        return self._ask(Classification, "POST", classify_path(model), **read_form(fields))

    def classify_batch(
        self,
        clips: Sequence[ClassifyFields],
        *,
        model: str | None = None,
        **options: Unpack[ClassifyFields],
    ) -> list[Classification | ProblemError]:
        """Classify several clips in one call, and return for each, in order, its answer or the
        error of this clip, which is not raised.

        `clips`: files and options of each, as the arguments of `classify`. `options`: of every clip
        that has none of its own. Errors of the whole call are raised, as by `classify`; ValueError
        for no clip, or one without a file.
        """
        form = read_batch_form(clips, options)
        return parse_batch(self._send("POST", batch_path(model), **form), len(clips))

    def models(self) -> list[ModelSummary]:
        """List the checkpoints, the default one first."""
        return self._ask(Models, "GET", "v1/models").models

    def card(self, name: str) -> dict[str, Any]:
        """Return a checkpoint's card, as in card.json. Raises ProblemError for an unknown name."""
        return parse(self._send("GET", card_path(name)), Card).root

    def stream(
        self, inputs: Sequence[Input], **fields: Unpack[StreamFields]
    ) -> AbstractContextManager[stream.Stream]:
        """Open a live stream: a context, whose end drops the connection.

        `inputs`: what is sent, `PictureInput()`, `SoundInput(sample_rate=…)` or both. `fields`: the
        other members of `start` (docs/streams.md); `max_unacknowledged` is 2 unless it is set, and
        answers are acknowledged when they are read. Raises StreamClosedError as well.
        """
        return stream.open_stream(self._target.stream(inputs, fields))

    def _ask(self, answer: type[_AnswerT], method: str, path: str, **content: Any) -> _AnswerT:
        return parse(self._send(method, path, **content), answer)

    def _send(self, method: str, path: str, **content: Any) -> httpx.Response:
        attempts = self._target.retries.begin()
        while True:
            try:
                response = self._http.request(method, path, **content)
                check(response)
                return response
            except httpx.HTTPError as exc:
                wait_s = attempts.wait_s(self._target.error_of(exc))
            except ClientError as exc:
                wait_s = attempts.wait_s(exc)
            time.sleep(wait_s)


class AsyncClient:
    """`Client` with coroutines; the same arguments and errors. It belongs to one event loop."""

    def __init__(
        self,
        url: str,
        *,
        key: str | None = None,
        timeout_s: float = 60.0,
        retries: Retries | None = None,
    ) -> None:
        self._target = _Target(url, key, timeout_s, retries)
        self._http = httpx.AsyncClient(**self._target.options)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def classify(
        self, *, model: str | None = None, **fields: Unpack[ClassifyFields]
    ) -> Classification:
        """Classify the files of one clip with a checkpoint, by default the service's."""
        form = await asyncio.to_thread(read_form, fields)  # disks are slow at times
        return parse(await self._send("POST", classify_path(model), **form), Classification)

    async def classify_batch(
        self,
        clips: Sequence[ClassifyFields],
        *,
        model: str | None = None,
        **options: Unpack[ClassifyFields],
    ) -> list[Classification | ProblemError]:
        """Classify several clips in one call; as `Client.classify_batch`."""
        form = await asyncio.to_thread(read_batch_form, clips, options)
        return parse_batch(await self._send("POST", batch_path(model), **form), len(clips))

    async def models(self) -> list[ModelSummary]:
        """List the checkpoints, the default one first."""
        return parse(await self._send("GET", "v1/models"), Models).models

    async def card(self, name: str) -> dict[str, Any]:
        """Return a checkpoint's card."""
        return parse(await self._send("GET", card_path(name)), Card).root

    def stream(
        self, inputs: Sequence[Input], **fields: Unpack[StreamFields]
    ) -> AbstractAsyncContextManager[async_stream.AsyncStream]:
        """Open a live stream: an asynchronous context, otherwise as `Client.stream`."""
        return async_stream.open_stream(self._target.stream(inputs, fields))

    async def _send(self, method: str, path: str, **content: Any) -> httpx.Response:
        attempts = self._target.retries.begin()
        while True:
            try:
                response = await self._http.request(method, path, **content)
                check(response)
                return response
            except httpx.HTTPError as exc:
                wait_s = attempts.wait_s(self._target.error_of(exc))
            except ClientError as exc:
                wait_s = attempts.wait_s(exc)
            await asyncio.sleep(wait_s)


def _address(url: str) -> httpx.URL:
    """Return the address of a service, with a slash at its end. Raises ValueError."""
    expected = "must be the address of a service, as http://127.0.0.1:8000"
    try:
        address = httpx.URL(url)
    except httpx.InvalidURL as exc:
        raise ValueError(f"{url!r}: {expected}: {exc}") from exc
    if address.scheme not in ("http", "https") or not address.host or address.query:
        raise ValueError(f"{url!r}: {expected}")
    path = address.raw_path if address.raw_path.endswith(b"/") else address.raw_path + b"/"
    return address.copy_with(raw_path=path, fragment=None)


class _Target:
    """Address and key of a service, and how its answers are waited for."""

    def __init__(
        self, url: str, key: str | None, timeout_s: float, retries: Retries | None
    ) -> None:
        self.url = _address(url)
        if key and not _KEY.fullmatch(key):
            raise ValueError(  # without the key: errors are logged
                "key: has characters that no key has; a line break at its end is that of its file?"
            )
        self.headers = {"Authorization": f"Bearer {key}"} if key else {}
        self.timeout_s = timeout_s
        self.retries = retries or Retries()

    @property
    def options(self) -> dict[str, Any]:
        """The options of an httpx client."""
        return {"base_url": self.url, "headers": self.headers, "timeout": self.timeout_s}

    def stream(self, inputs: Sequence[Input], fields: StreamFields) -> StreamRequest:
        scheme = "wss" if self.url.scheme == "https" else "ws"
        address = str(self.url.copy_with(scheme=scheme).join("v1/stream"))
        return StreamRequest(
            address, self.headers, self.timeout_s, self.retries, tuple(inputs), fields
        )

    def error_of(self, error: httpx.HTTPError) -> UnreachableError:
        """Return the error of a request without an answer: one of a connection may be retried."""
        wrapped: UnreachableError
        if isinstance(error, httpx.TimeoutException) and not isinstance(
            error, httpx.ConnectTimeout
        ):
            wrapped = UnreachableError(f"{self.url} did not answer within {self.timeout_s:g} s.")
        else:
            reason = str(error).rstrip(".") or type(error).__name__
            wrapped = ConnectionLostError(f"{self.url} cannot be reached: {reason}.")
        wrapped.__cause__ = error
        return wrapped
