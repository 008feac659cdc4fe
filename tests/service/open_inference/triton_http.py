"""`python triton_http.py ADDRESS FOLDER`: what Triton's HTTP client gets, as JSON.

FOLDER has `clip`, and `audio.npy` and `visual.npy`, float32 [N, T or 1, C, H, W]. It imports
nothing of ours: an environment that has tritonclient may run it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import tritonclient.http as triton

ADDRESS, FOLDER = sys.argv[1].removeprefix("http://"), Path(sys.argv[2])
MODEL = "avdigits"


def clips(count: int, *, binary: bool = True) -> Any:
    clip = triton.InferInput("clip", [count, 1], "BYTES")
    data = (FOLDER / "clip").read_bytes()
    clip.set_data_from_numpy(np.array([[data]] * count, object), binary_data=binary)
    return clip


def main() -> None:
    with triton.InferenceServerClient(ADDRESS) as client:
        answers: dict[str, Any] = {
            "live": client.is_server_live(),
            "ready": client.is_server_ready(),
            "model": client.is_model_ready(MODEL),
            "other": client.is_model_ready("nobody"),
            "server": client.get_server_metadata(),
            "metadata": client.get_model_metadata(MODEL),
            "config": client.get_model_config(MODEL),
            "index": client.get_model_repository_index(),
        }
        result = client.infer(
            MODEL, [clips(2)], model_version="0.0.1", request_id="mine",
            request_compression_algorithm="gzip", response_compression_algorithm="gzip",
            parameters={"steps": 3},
        )  # fmt: skip
        answers["id"] = result.get_response()["id"]
        answers["logits"] = result.as_numpy("logits").tolist()
        answers["label"] = [text.decode() for text in result.as_numpy("label").ravel()]
        tensors = []
        for name in ("audio", "visual"):
            values = np.load(FOLDER / f"{name}.npy")
            tensors.append(triton.InferInput(name, list(values.shape), "FP32"))
            tensors[-1].set_data_from_numpy(values)
        outputs = [
            triton.InferRequestedOutput("contributions", binary_data=False),
            triton.InferRequestedOutput("attention.visual.spatial"),
            triton.InferRequestedOutput("probabilities", class_count=3),
        ]
        result = client.infer(MODEL, tensors, outputs=outputs,
                              request_compression_algorithm="deflate")  # fmt: skip
        answers["contributions"] = result.as_numpy("contributions").tolist()
        answers["map"] = result.as_numpy("attention.visual.spatial").tolist()
        answers["top"] = [text.decode() for text in result.as_numpy("probabilities")[0]]
        try:
            client.infer(MODEL, [clips(1)], outputs=[triton.InferRequestedOutput("colour")])
        except triton.InferenceServerException as exc:
            answers["error"] = [exc.status(), exc.message()]
    print(json.dumps(answers))


main()
