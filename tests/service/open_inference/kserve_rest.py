"""`python kserve_rest.py ADDRESS FOLDER`: what KServe's REST client gets, as JSON.

FOLDER has `clip`. It imports nothing of ours: an environment that has kserve may run it.
"""

from __future__ import annotations

import asyncio
import base64
import json
import sys
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from kserve import InferenceRESTClient, InferInput, InferRequest, RESTConfig

ADDRESS, FOLDER = sys.argv[1], Path(sys.argv[2])
MODEL = "avdigits"


def request(data: bytes, *, binary: bool) -> InferRequest:
    clip = InferInput("clip", [1, 1], "BYTES")
    clip.set_data_from_numpy(np.array([[data]], object), binary_data=binary)
    return InferRequest(MODEL, [clip], parameters={"steps": 3})


async def main() -> None:
    client = InferenceRESTClient(RESTConfig(protocol="v2", timeout=60))
    data = (FOLDER / "clip").read_bytes()
    answers: dict[str, Any] = {
        "live": await client.is_server_live(ADDRESS),
        "ready": await client.is_server_ready(ADDRESS),
        "model": await client.is_model_ready(ADDRESS, MODEL),
        "other": await client.is_model_ready(ADDRESS, "nobody"),
    }
    for name, each in (
        ("binary", request(data, binary=True)),
        ("json", request(base64.b64encode(data), binary=False)),
    ):
        response = await client.infer(ADDRESS, each, MODEL)
        outputs = {output.name: output for output in response.outputs}
        answers[name] = outputs["logits"].as_numpy().tolist()
        answers["name"] = response.model_name
    try:
        await client.infer(ADDRESS, request(b"Dear diary", binary=True), MODEL)
    except httpx.HTTPStatusError as exc:
        answers["error"] = [exc.response.status_code, str(exc)]
    await client.close()
    print(json.dumps(answers))


asyncio.run(main())
