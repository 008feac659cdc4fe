"""`python -m service.bench.litserve_app PORT MAX_BATCH`: serve our checkpoint with LitServe.

Network, decoding, preprocessing and answer are ours; queueing, batching, processes and HTTP are
LitServe's, as in its documentation. BENCH_WEIGHTS is the checkpoint's folder, BENCH_PATH "plain" or
"fused", BENCH_ACCELERATOR "auto", "cpu" or "cuda", BENCH_WORKERS the worker processes on each
device; OMP_NUM_THREADS is the number of threads of each.
"""

import os
import sys
from pathlib import Path
from typing import Any

import litserve
import torch
from fastapi import Request
from starlette.formparsers import MultiPartParser

from model import checkpoint
from model.engine import Engine
from model.engine.inputs import encode_batch
from service.classification.upload_fields import InputFiles
from service.decoding.files import decode
from service.decoding.job import DecodeRequest, DecodeResult
from service.runtime import cores


class Classifier(litserve.LitAPI):  # type: ignore[misc]  # LitServe is untyped
    """Classify the `clip` of a form: probabilities and attention maps."""

    def setup(self, device: str) -> None:
        cores.set_threads(cores.threads(0))
        cores.set_opencv_threads()
        network, self.card = checkpoint.load(Path(os.environ["BENCH_WEIGHTS"]))
        self.engine = Engine(network, device=device)
        if os.environ["BENCH_PATH"] == "fused" and not self.engine.fuse():
            raise RuntimeError("the fused path cannot be used on this machine")
        self.engine.warm_up(self.card.steps, [1, self.max_batch_size])
        self.decode_options = DecodeRequest.from_card(self.card, self.card.steps, canvas=False)

    # By this annotation LitServe knows that it must parse the form; it then passes the fields. It
    # needs the class itself, so this file has no `from __future__ import annotations`.
    def decode_request(self, request: Request) -> Any:
        return decode(InputFiles(clip=request["clip"].file.read()), self.decode_options)

    def batch(self, inputs: list[DecodeResult]) -> dict[str, torch.Tensor]:
        clips = [decoded.prepared for decoded in inputs]
        return encode_batch(clips, self.card.encoding, self.card.steps)

    def predict(self, x: dict[str, torch.Tensor]) -> Any:
        return self.engine.run(x, steps=self.card.steps, explain=["attention"])

    def unbatch(self, output: Any) -> list[dict[str, Any]]:
        probabilities = output.logits.softmax(1)
        answers = []
        for index in range(len(probabilities)):
            maps = {
                name: {
                    "spatial": attention.spatial[index].tolist(),
                    "temporal": attention.temporal[index].tolist(),
                }
                for name, attention in output.attention.items()
            }
            answers.append(
                {
                    "probabilities": probabilities[index].tolist(),
                    "attention": maps,
                    "batch_size": len(probabilities),
                }
            )
        return answers

    def encode_response(self, output: dict[str, Any]) -> Any:
        return output


if __name__ == "__main__":
    # Keep forms in memory: LitServe pickles them for its workers, and open files cannot be pickled.
    MultiPartParser.spool_max_size = 1 << 30
    port, max_batch = int(sys.argv[1]), int(sys.argv[2])
    api = Classifier(max_batch_size=max_batch, batch_timeout=0.002, api_path="/v1/classify")
    server = litserve.LitServer(
        api,
        accelerator=os.environ["BENCH_ACCELERATOR"],
        workers_per_device=int(os.environ["BENCH_WORKERS"]),
    )
    server.run(port=port, generate_client_file=False, log_level="warning")
