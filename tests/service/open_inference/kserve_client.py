"""`python kserve_client.py ADDRESS GRPC_ADDRESS FOLDER`: what KServe's clients get, as JSON.

FOLDER has `clip`. It imports nothing of ours: an environment that has kserve may run it.
"""

from __future__ import annotations

import asyncio
import base64
import json
import sys
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
from kserve import (
    InferenceGRPCClient,
    InferenceRESTClient,
    InferInput,
    InferRequest,
    RESTConfig,
)

ADDRESS, GRPC_ADDRESS, FOLDER = sys.argv[1], sys.argv[2], Path(sys.argv[3])
MODEL = "avdigits"


def request(data: bytes, *, binary: bool) -> InferRequest:
    clip = InferInput("clip", [1, 1], "BYTES")
    clip.set_data_from_numpy(np.array([[data]], object), binary_data=binary)
    return InferRequest(MODEL, [clip], parameters={"steps": 3})


async def rest(data: bytes) -> dict[str, Any]:
    client = InferenceRESTClient(RESTConfig(protocol="v2", timeout=60))
    answers: dict[str, Any] = {
        "live": await client.is_server_live(ADDRESS),
        "ready": await client.is_server_ready(ADDRESS),
        "model": await client.is_model_ready(ADDRESS, MODEL),
        "other": await client.is_model_ready(ADDRESS, "nobody"),
    }
    in_json = request(base64.b64encode(data), binary=False)
    for name, each in (("binary", request(data, binary=True)), ("json", in_json)):
        response = await client.infer(ADDRESS, each, MODEL)
        outputs = {output.name: output for output in response.outputs}
        answers[name] = outputs["logits"].as_numpy().tolist()
    try:
        await client.infer(ADDRESS, request(b"Dear diary", binary=True), MODEL)
    except httpx.HTTPStatusError as exc:
        answers["error"] = [exc.response.status_code, str(exc)]
    await client.close()
    return answers


async def over_grpc(data: bytes) -> dict[str, Any]:
    answers: dict[str, Any] = {}
    async with InferenceGRPCClient(GRPC_ADDRESS) as client:
        answers["live"] = await client.is_server_live()
        answers["ready"] = await client.is_server_ready()
        answers["model"] = await client.is_model_ready(MODEL)
        response = await client.infer(request(data, binary=True))
        outputs = {output.name: output for output in response.outputs}
        answers["binary"] = outputs["logits"].as_numpy().tolist()
        try:
            await client.infer(request(b"Dear diary", binary=True))
        except grpc.aio.AioRpcError as exc:
            answers["error"] = [exc.code().name, exc.details()]
    return answers


async def main() -> None:
    data = (FOLDER / "clip").read_bytes()
    print(json.dumps({"rest": await rest(data), "grpc": await over_grpc(data)}))


asyncio.run(main())
