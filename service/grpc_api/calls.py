"""The parts common to every call: id, key, limits, log, metrics, and errors as gRPC statuses."""

from __future__ import annotations

import asyncio
import logging
import math
import re
import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from starlette.datastructures import Headers

from service.errors import Error, Problem
from service.keys.admission import KeyAdmission
from service.keys.key_file import Key
from service.observability.logs import Event
from service.observability.request_log import CLIENT_GONE, RequestLog
from service.request_record import CompletedRequest, RequestRecord, request_id

log = logging.getLogger("scmrl.grpc")

_ACCEPTABLE_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
#: The status of each kind of error, by its status over HTTP.
_CODES = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    408: grpc.StatusCode.DEADLINE_EXCEEDED,
    409: grpc.StatusCode.FAILED_PRECONDITION,
    413: grpc.StatusCode.INVALID_ARGUMENT,
    415: grpc.StatusCode.INVALID_ARGUMENT,
    422: grpc.StatusCode.INVALID_ARGUMENT,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}
#: Trailing metadata with milliseconds until a retry makes sense, which gRPC's own retries read.
_RETRY = "grpc-retry-pushback-ms"


@dataclass
class RpcCall:
    """One call: its `id`, `record`, gRPC's `context`, and the `key` that it was admitted with."""

    id: str
    record: RequestRecord
    context: Any
    key: Key | None = None

    async def read(self) -> Any:
        """Read its only message, once. Raises Problem UNREADABLE_FORM where there is none, or
        another one than the method takes."""
        message = readable(await self.context.read())
        if message is grpc.aio.EOF:  # of one that is too large, gRPC has answered the client itself
            detail = "The call has no message, or one beyond SCMRL_MAX_BODY_BYTES."
            raise Problem(Error.UNREADABLE_FORM, detail)
        return message


def parser(kind: Any) -> Callable[[bytes], Any]:
    """Return what parses messages of a kind. It returns the DecodeError of another message: gRPC
    would log what is raised as an error of the service."""

    def parse(data: bytes) -> Any:
        try:
            return kind.FromString(data)
        except DecodeError as exc:
            return exc

    return parse


def readable(message: Any) -> Any:
    """Return a message of `parser`. Raises Problem UNREADABLE_FORM where it could not be parsed."""
    if isinstance(message, DecodeError):
        raise Problem(Error.UNREADABLE_FORM, f"The message cannot be read: {message}.")
    return message


@dataclass(frozen=True)
class Calls:
    """Wraps the handlers of methods: `admission` of keys, and the `request_log`."""

    admission: KeyAdmission
    request_log: RequestLog
    open_methods: frozenset[str] = field(default_factory=frozenset)

    @asynccontextmanager
    async def call(self, method: str, context: Any) -> AsyncIterator[RpcCall]:
        """Handle one call of a method, by its full name: log it, and answer a Problem with its
        status. A method that is not open needs a key where keys are set."""
        started = time.perf_counter()
        metadata = context.invocation_metadata() or ()
        raw = [(k.encode(), v if isinstance(v, bytes) else v.encode()) for k, v in metadata]
        headers = Headers(raw=raw)
        proposed = headers.get("x-request-id", "")
        this_id = proposed if _ACCEPTABLE_ID.fullmatch(proposed) else uuid.uuid4().hex
        token = request_id.set(this_id)
        call = RpcCall(this_id, RequestRecord(), context)
        problem, status = None, CLIENT_GONE
        try:
            await context.send_initial_metadata((("x-request-id", this_id),))
            if method not in self.open_methods:
                call.key = await self.admission.admit(_bearer(headers))
                if call.key is not None:
                    call.record.notes["key"] = call.key.name
            yield call
            status = 200
        except Problem as exc:
            problem, status = exc, exc.error.status
            await _abort(context, exc)
        except (asyncio.CancelledError, grpc.aio.AbortError):
            raise
        except Exception:
            log.exception(Event("unexpected error", {"id": this_id}))
            detail = "This is a bug; the log has the details under this id."
            problem, status = Problem(Error.INTERNAL, detail), 500
            await _abort(context, problem)
        finally:
            self.request_log.complete(
                CompletedRequest(
                    id=this_id, method="POST", path=method, route=method, headers=headers,
                    status=status, started=started, ended=time.perf_counter(), record=call.record,
                    problem=problem,
                )
            )  # fmt: skip
            request_id.reset(token)


async def _abort(context: Any, problem: Problem) -> None:
    """End the call with the status of a problem; raises AbortError."""
    trailing: tuple[tuple[str, str], ...] = ()
    if problem.retry_after_s is not None:
        milliseconds = max(1, math.ceil(1000 * problem.retry_after_s))
        trailing = ((_RETRY, str(milliseconds)),)
    code = _CODES.get(problem.error.status, grpc.StatusCode.INTERNAL)
    await context.abort(code, problem.detail, trailing)


def _bearer(headers: Headers) -> bytes | None:
    scheme, _, secret = headers.get("authorization", "").partition(" ")
    return secret.strip(" ").encode() if scheme.lower() == "bearer" else None
