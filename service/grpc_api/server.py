"""The server of gRPC, on the event loop of the service."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc

from service.classification.served_classifier import ServedClassifier
from service.errors import Error, Problem, StartupError
from service.grpc_api.calls import Calls, parser, readable
from service.grpc_api.messages import HEALTH, INFERENCE, message, request_types
from service.grpc_api.methods import OPEN, Methods
from service.inference.models import Models
from service.keys.admission import KeyAdmission
from service.observability.request_log import RequestLog
from service.runtime.upload_budget import UploadBudget

log = logging.getLogger("scmrl.grpc")

#: Seconds between two looks at the readiness for a client that watches it.
_WATCH_S = 1.0
#: Seconds for calls whose response is being sent when the service has stopped.
_GRACE_S = 1.0
_CHECK, _WATCH = f"/{HEALTH}/Check", f"/{HEALTH}/Watch"
_STATUS = "grpc.health.v1.HealthCheckResponse"
_SERVING, _NOT_SERVING, _SERVICE_UNKNOWN = 1, 2, 3


class GrpcServer:
    """Listens from `start` to `stop`. Make it in the event loop that it runs on."""

    def __init__(
        self,
        models: Models,
        is_ready: Callable[[], Awaitable[bool]],
        classifier: ServedClassifier,
        admission: KeyAdmission,
        uploads: UploadBudget,
        request_log: RequestLog,
    ) -> None:
        settings = classifier.settings
        self._settings = settings
        readers = max(1, settings.max_total_upload_bytes // settings.max_body_bytes)
        self._is_ready = is_ready
        self._methods = Methods(
            models, is_ready, classifier, admission, uploads, asyncio.Semaphore(readers)
        )
        is_open = frozenset(f"/{INFERENCE}/{name}" for name in OPEN) | {_CHECK, _WATCH}
        self._calls = Calls(admission, request_log, is_open)
        self._server = grpc.aio.server(
            options=(
                ("grpc.max_receive_message_length", settings.max_body_bytes),
                ("grpc.max_send_message_length", -1),
                ("grpc.max_connection_idle_ms", 1000 * settings.keep_alive_s),
                ("grpc.so_reuseport", 0),
            ),
            maximum_concurrent_rpcs=settings.max_connections,
        )
        self._server.add_generic_rpc_handlers(
            (
                grpc.method_handlers_generic_handler(INFERENCE, self._inference_handlers()),
                grpc.method_handlers_generic_handler(HEALTH, self._health_handlers()),
            )
        )
        self.port = 0

    async def start(self) -> None:
        """Listen. Raises StartupError."""
        host = self._settings.host
        address = f"[{host}]" if ":" in host else host
        try:
            self.port = self._server.add_insecure_port(f"{address}:{self._settings.grpc_port}")
            await self._server.start()
        except RuntimeError as exc:
            listen_address = f"{address}:{self._settings.grpc_port}"
            reason = f"cannot listen for gRPC on {listen_address} (SCMRL_GRPC_PORT): {exc}"
            raise StartupError(reason) from exc
        log.info("gRPC on %s:%d", address, self.port)

    async def stop(self) -> None:
        """End all calls that are left."""
        await self._server.stop(_GRACE_S)

    def _inference_handlers(self) -> dict[str, Any]:
        return {
            name: self._handler(f"/{INFERENCE}/{name}", getattr(self._methods, name), request)
            for name, request in request_types(INFERENCE).items()
        }

    def _handler(self, method: str, answer: Callable[..., Any], request: Any) -> Any:
        async def handle(_: Any, context: Any) -> Any:
            async with self._calls.call(method, context) as call:
                return await answer(call)

        # A stream to gRPC, so that the message is read after the key and the load are checked; a
        # client sees no difference.
        return grpc.stream_unary_rpc_method_handler(handle, parser(request), _serialize)

    def _health_handlers(self) -> dict[str, Any]:
        requests = request_types(HEALTH)

        async def check(request: Any, context: Any) -> Any:
            async with self._calls.call(_CHECK, context):
                status = await self._status(readable(request).service)
                if status == _SERVICE_UNKNOWN:
                    detail = f"No such service: {request.service[:100]!r}; there is {INFERENCE}."
                    raise Problem(Error.NOT_FOUND, detail)
                return message(_STATUS)(status=status)

        async def watch(request: Any, context: Any) -> AsyncIterator[Any]:
            async with self._calls.call(_WATCH, context):
                name, last = readable(request).service, None
                while True:
                    if (status := await self._status(name)) != last:
                        last = status
                        yield message(_STATUS)(status=status)
                    await asyncio.sleep(_WATCH_S)

        return {
            "Check": grpc.unary_unary_rpc_method_handler(
                check, parser(requests["Check"]), _serialize
            ),
            "Watch": grpc.unary_stream_rpc_method_handler(
                watch, parser(requests["Watch"]), _serialize
            ),
        }

    async def _status(self, service: str) -> int:
        if service not in ("", INFERENCE):
            return _SERVICE_UNKNOWN
        return _SERVING if await self._is_ready() else _NOT_SERVING


def _serialize(response: Any) -> bytes:
    content: bytes = response.SerializeToString()
    return content
