"""Classify a webcam's frame and a sound with a graph of `scmrl export onnx`, without torch.

python classify_onnx.py avdigits.onnx voice.wav [CAMERA or picture or video]
"""

import json
import sys

import cv2
import numpy as np
import onnxruntime
import soundfile
from pydantic import TypeAdapter

from model.media.types import Pictures, Sound
from model.preprocess.prepare import prepare
from model.preprocess.specs import Specs


def main(graph: str, voice: str, camera: str = "0") -> None:
    session = onnxruntime.InferenceSession(graph)
    about = session.get_modelmeta().custom_metadata_map
    steps, labels = int(about["scmrl.steps"]), json.loads(about["scmrl.labels"])
    specs = TypeAdapter(Specs).validate_json(about["scmrl.streams"])

    samples, rate = soundfile.read(voice, dtype="float32", always_2d=True)
    is_read, frame = cv2.VideoCapture(int(camera) if camera.isdigit() else camera).read()
    if not is_read:
        sys.exit(f"no picture comes from {camera}")
    picture = np.ascontiguousarray(frame[:, :, ::-1])  # BGR to RGB
    clip = prepare(specs, Sound(samples.T, rate), Pictures((picture,), (0.0,)), steps)

    feeds = {}
    for stream in session.get_inputs():
        frames = clip[stream.name].tensor  # [T or 1, C, H, W]
        repeats = stream.shape[1] // len(frames)
        feeds[stream.name] = np.repeat(frames, repeats, axis=0)[None]
    (probabilities,) = session.run(["probabilities"], feeds)[0]
    for index in np.argsort(-probabilities)[:3]:
        print(f"{labels[index]}: {probabilities[index]:.4f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
