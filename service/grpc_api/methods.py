"""The methods of the protocol."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from google.protobuf import json_format

from service.classification.pipeline import Call
from service.classification.served_classifier import ServedClassifier
from service.errors import Error, Problem
from service.grpc_api.calls import RpcCall
from service.grpc_api.conversion import parse_request, write_response
from service.grpc_api.messages import message
from service.inference.models import Checkpoint, Models
from service.keys.admission import KeyAdmission
from service.open_inference import metadata
from service.open_inference.inference import Inference
from service.runtime.upload_budget import UploadBudget

#: Methods of the protocol that need no key.
OPEN = frozenset({"ServerLive", "ServerReady"})


@dataclass(frozen=True)
class Methods:
    """The methods of GRPCInferenceService by their names; each reads its request and returns its
    response, or raises Problem.

    - `is_ready`: returns whether clips can be answered now.
    - `reading`: how many requests are read at a time, each of at most `max_body_bytes`.
    """

    models: Models
    is_ready: Callable[[], Awaitable[bool]]
    classifier: ServedClassifier
    admission: KeyAdmission
    uploads: UploadBudget
    reading: asyncio.Semaphore

    async def ServerLive(self, call: RpcCall) -> Any:  # noqa: N802 names of the protocol
        return message("ServerLiveResponse")(live=True)

    async def ServerReady(self, call: RpcCall) -> Any:  # noqa: N802
        return message("ServerReadyResponse")(ready=await self.is_ready())

    async def ModelReady(self, call: RpcCall) -> Any:  # noqa: N802
        request = await call.read()
        try:
            self._get(request.name, request.version)
            is_ready = await self.models.is_served(request.name)
        except Problem as problem:
            if problem.error is Error.UNKNOWN_MODEL:
                raise
            return message("ModelReadyResponse")(ready=False)
        return message("ModelReadyResponse")(ready=is_ready)

    async def ServerMetadata(self, call: RpcCall) -> Any:  # noqa: N802
        return _message("ServerMetadataResponse", metadata.server())

    async def ModelMetadata(self, call: RpcCall) -> Any:  # noqa: N802
        request = await call.read()
        served = self._get(request.name, request.version)
        return _message("ModelMetadataResponse", metadata.model(served))

    async def ModelConfig(self, call: RpcCall) -> Any:  # noqa: N802
        request = await call.read()
        served = self._get(request.name, request.version)
        config = metadata.config(served, self.classifier.settings)
        return _message("ModelConfigResponse", {"config": config})

    async def RepositoryIndex(self, call: RpcCall) -> Any:  # noqa: N802
        request = await call.read()
        models = metadata.index(self.models.registry, only_ready=request.ready)
        return _message("RepositoryIndexResponse", {"models": models})

    async def ModelInfer(self, call: RpcCall) -> Any:  # noqa: N802
        """Classify the clips of a request."""
        ready = list(self.models.registry.ready.values())
        if len(ready) == 1:  # else the message says which, and has to be read
            ready[0].check_capacity()
        request = await self._read(call)
        with self.uploads.hold(request.ByteSize()):
            return await self._infer(call, request)

    async def _read(self, call: RpcCall) -> Any:
        """Read a large message. Raises Problem UPLOAD_TIMEOUT."""
        seconds = self.classifier.settings.upload_timeout_s
        try:
            async with asyncio.timeout(seconds), self.reading:
                return await call.read()
        except TimeoutError:
            detail = f"The request has not arrived within {seconds:g} s (SCMRL_UPLOAD_TIMEOUT_S)."
            raise Problem(Error.UPLOAD_TIMEOUT, detail) from None

    async def _infer(self, call: RpcCall, request: Any) -> Any:
        name = request.model_name
        call.record.model = name if name in self.models.registry.names else None
        with self.models.in_flight.request(name) as served:
            metadata.check_version(served, request.model_version)
            parsed = await asyncio.to_thread(parse_request, request)
            inference = await asyncio.to_thread(Inference.of, parsed, served, self.classifier)
            await self.admission.count_clips(call.key, len(inference.clips))
            call.record.notes["clips"] = len(inference.clips)
            outputs = await inference.run(self.classifier, Call(call.id, call.record))
            version = served.card.version
        return await asyncio.to_thread(write_response, name, version, parsed.id or call.id, outputs)

    def _get(self, name: str, version: str) -> Checkpoint:
        """Raises Problem."""
        served = self.models.registry.get(name)
        metadata.check_version(served, version)
        return served


def _message(name: str, content: dict[str, Any]) -> Any:
    return json_format.ParseDict(content, message(name)(), ignore_unknown_fields=True)
