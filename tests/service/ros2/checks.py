"""What test_node.py runs in the environment of ROS: `checks.py NAME ARGUMENTS`."""

from __future__ import annotations

import base64
import importlib
import io
import json
import sys
import wave
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from rclpy.node import Node
from rclpy.qos import qos_profile_sensor_data
from scmrl_ros import node as scmrl
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import String

RATE = 16_000
HERTZ = 20


#: Packages of the messages of sound.
SOUNDS = {
    "UInt8MultiArray": "std_msgs.msg",
    "AudioData": "audio_common_msgs.msg",
    "AudioDataStamped": "audio_common_msgs.msg",
}


class Robot(Node):
    """Publishes a picture and a piece of a tone, 20 times a second, and collects the answers.

    `sound`: type of the messages of sound; `output`: of the answers.
    """

    def __init__(self, jpeg: bytes, sound: str, output: str) -> None:
        super().__init__("robot")
        self._sound = getattr(importlib.import_module(SOUNDS[sound]), sound)
        self.answers: list[dict[str, Any]] = []
        self.stamps: list[int] = []
        self._jpeg = jpeg
        length = RATE // HERTZ
        self._tone = (9000 * np.sin(np.arange(length) / 3)).astype("<i2").tobytes()
        self._image = self.create_publisher(CompressedImage, "image", qos_profile_sensor_data)
        self._audio = self.create_publisher(self._sound, "audio", qos_profile_sensor_data)
        kind = String
        if output == "Classification":
            kind = importlib.import_module("vision_msgs.msg").Classification
        self.create_subscription(kind, "classification", self._on_answer, 10)
        self.create_timer(1 / HERTZ, self._publish)

    def _publish(self) -> None:
        image = CompressedImage(format="jpeg", data=self._jpeg)
        image.header.stamp = self.get_clock().now().to_msg()
        image.header.frame_id = "camera"
        stamp = image.header.stamp
        self.stamps.append(stamp.sec * 10**9 + stamp.nanosec)
        self._image.publish(image)
        message = self._sound()
        if hasattr(message, "header"):
            message.header.stamp = stamp
            message.audio.data = self._tone
        else:
            message.data = self._tone
        self._audio.publish(message)

    def _on_answer(self, message: Any) -> None:
        """Keep the members of an answer; a Classification has fewer."""
        if isinstance(message, String):
            self.answers.append(json.loads(message.data))
            return
        stamp = {"sec": message.header.stamp.sec, "nanosec": message.header.stamp.nanosec}
        ranked = [{"label": r.class_id, "probability": r.score} for r in message.results]
        header = {"stamp": stamp, "frame_id": message.header.frame_id}
        self.answers.append({"header": header, "probabilities": ranked})


def stream(jpeg: str, count: str, sound: str, output: str) -> dict[str, Any]:
    """Publish until the last of `count` answers, and another second's worth, have come."""
    rclpy.init()
    robot = Robot(Path(jpeg).read_bytes(), sound, output)
    while len(robot.answers) < int(count) or robot.stamps[-1] - robot.stamps[0] < 10**9:
        rclpy.spin_once(robot)
    return {"answers": robot.answers, "stamps": robot.stamps}


def publish(jpeg: str) -> None:
    """Publish without end."""
    rclpy.init()
    rclpy.spin(Robot(Path(jpeg).read_bytes(), "UInt8MultiArray", "String"))


def files() -> dict[str, Any]:
    """Return files that the node makes of messages."""
    files: dict[str, Any] = {}
    pixels = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
    for encoding, data in (("rgb8", pixels), ("bgr8", pixels), ("mono8", pixels[:, :, :1])):
        row = data.shape[1] * data.shape[2]
        padded = np.zeros((4, row + 5), np.uint8)
        padded[:, :row] = data.reshape(4, row)
        image = Image(
            height=4, width=6, encoding=encoding, step=row + 5, data=padded.reshape(-1).tobytes()
        )
        files[encoding] = base64.b64encode(scmrl.picture_file(image)).decode()
    try:
        scmrl.picture_file(Image(encoding="bayer_rggb8"))
    except ValueError as exc:
        files["error"] = str(exc)
    piece = bytes(2 * RATE // 100)  # 10 ms
    sound = scmrl.wav([(0, piece), (50_000_000, piece), (1_010_000_000, piece)], RATE, 1)
    with wave.open(io.BytesIO(sound)) as reader:
        files["gap_s"] = reader.getnframes() / RATE
    files["ring"] = []
    second = 10**9
    put_back = (3 * second, 2 * second, 2 * second + second // 4, 2 * second + second // 2)
    for length_ns, stamps in ((2, (1, 3, 2, 4)), (2, (1000, 1)), (4 * second, put_back)):
        ring = scmrl.Ring(length_ns)
        for stamp in stamps:
            ring.add(stamp, "message")
        files["ring"].append([stamp for stamp, _ in ring.since(0)])
    return files


def installed() -> list[str]:
    """Return those packages of messages that there are."""
    names = []
    for name in ("audio_common_msgs", "vision_msgs"):
        try:
            importlib.import_module(f"{name}.msg")
        except ImportError:
            continue
        names.append(name)
    return names


def parameters() -> dict[str, Any]:
    return scmrl._PARAMETERS


if __name__ == "__main__":
    name, *arguments = sys.argv[1:]
    parts = {
        "stream": stream, "publish": publish, "files": files, "parameters": parameters,
        "installed": installed,
    }  # fmt: skip
    print(json.dumps(parts[name](*arguments)))
