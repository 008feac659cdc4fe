"""`python triton_client.py http|grpc ADDRESS FOLDER`: what Triton's client gets, as JSON.

FOLDER has `clip`, and `audio.npy` and `visual.npy`, float32 [N, T or 1, C, H, W]. It imports
nothing of ours: an environment that has tritonclient may run it.
"""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

TRANSPORT, ADDRESS, FOLDER = sys.argv[1], sys.argv[2], Path(sys.argv[3])
IS_GRPC = TRANSPORT == "grpc"
MODEL = "avdigits"
triton: Any = importlib.import_module(f"tritonclient.{TRANSPORT}")
AS_JSON = {"as_json": True} if IS_GRPC else {}
IN_JSON = {} if IS_GRPC else {"binary_data": False}
ZIPPED: dict[str, str] = (
    {"compression_algorithm": "gzip"}
    if IS_GRPC
    else {"request_compression_algorithm": "gzip", "response_compression_algorithm": "gzip"}
)


def clips(count: int) -> Any:
    clip = triton.InferInput("clip", [count, 1], "BYTES")
    data = (FOLDER / "clip").read_bytes()
    clip.set_data_from_numpy(np.array([[data]] * count, object))
    return clip


def main() -> None:
    with triton.InferenceServerClient(ADDRESS) as client:
        config = client.get_model_config(MODEL, **AS_JSON)
        index = client.get_model_repository_index(**AS_JSON)
        answers: dict[str, Any] = {
            "live": client.is_server_live(),
            "ready": client.is_server_ready(),
            "model": client.is_model_ready(MODEL),
            "server": client.get_server_metadata(**AS_JSON),
            "metadata": client.get_model_metadata(MODEL, **AS_JSON),
            "config": config["config"] if IS_GRPC else config,
            "index": index["models"] if IS_GRPC else index,
        }
        try:  # over gRPC, another model is an error
            answers["other"] = client.is_model_ready("nobody")
        except triton.InferenceServerException:
            answers["other"] = False
        result = client.infer(
            MODEL, [clips(2)], model_version="0.0.1", request_id="mine", parameters={"steps": 3},
            **ZIPPED,
        )  # fmt: skip
        head = result.get_response(**AS_JSON)
        answers["id"] = head["id"]
        answers["logits"] = result.as_numpy("logits").tolist()
        answers["label"] = [text.decode() for text in result.as_numpy("label").ravel()]
        tensors = []
        for name in ("audio", "visual"):
            values = np.load(FOLDER / f"{name}.npy")
            tensors.append(triton.InferInput(name, list(values.shape), "FP32"))
            tensors[-1].set_data_from_numpy(values)
        outputs = [
            triton.InferRequestedOutput("contributions", **IN_JSON),
            triton.InferRequestedOutput("attention.visual.spatial"),
            triton.InferRequestedOutput("probabilities", class_count=3),
        ]
        result = client.infer(MODEL, tensors, outputs=outputs)
        answers["contributions"] = result.as_numpy("contributions").tolist()
        answers["map"] = result.as_numpy("attention.visual.spatial").tolist()
        answers["top"] = [text.decode() for text in result.as_numpy("probabilities")[0]]
        try:
            client.infer(MODEL, [clips(1)], outputs=[triton.InferRequestedOutput("colour")])
        except triton.InferenceServerException as exc:
            answers["error"] = [exc.status(), exc.message()]
    print(json.dumps(answers))


main()
