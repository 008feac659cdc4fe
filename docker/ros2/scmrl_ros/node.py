"""A ROS 2 node that classifies pictures and sound by an scmrl service.

It keeps the last seconds of both topics. At each hop, while no request is in flight, the window
that ends with the newest message is classified, and the answer published with that message's
stamp: so an answer is always about the newest, and nothing piles up.

Publishes vision_msgs/Classification on `classification`, or where that package is not installed
JSON as std_msgs/String. docs/robots.md has the parameters.
"""

from __future__ import annotations

import importlib
import io
import json
import struct
import threading
import time
import wave
import zlib
from bisect import bisect_right
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy
from scmrl_client import Classification, Client, ClientError, ProblemError, Retries
from std_msgs.msg import String

_NS = 1_000_000_000
#: Sensor data: what is lost is not sent again. Sound comes in many small messages.
_QOS = QoSProfile(
    reliability=ReliabilityPolicy.BEST_EFFORT, history=HistoryPolicy.KEEP_LAST, depth=50
)
#: Packages of the messages that are subscribed.
_IMAGES = {"CompressedImage": "sensor_msgs.msg", "Image": "sensor_msgs.msg"}
_SOUNDS = {
    "AudioDataStamped": "audio_common_msgs.msg",
    "AudioData": "audio_common_msgs.msg",
    "UInt8MultiArray": "std_msgs.msg",
}
_PARAMETERS: dict[str, Any] = {
    "url": "http://127.0.0.1:8000", "key_file": "", "model": "",
    "image_topic": "image", "image_type": "CompressedImage",
    "audio_topic": "audio", "audio_type": "AudioDataStamped", "audio_format": "pcm16",
    "sample_rate": 16000, "channels": 1,
    "output_type": "Classification",
    "window_s": 2.0, "hop_s": 0.5, "pictures": 4, "top_k": 5, "timeout_s": 5.0,
}  # fmt: skip
#: By how much the stamps of late messages advance where their clock was put back.
_RESTART_NS = 500_000_000
#: Difference of a stamp from the end of the sound before, in seconds, that is no gap; and in ns, by
#: which sound without stamps may arrive early or late, as messages come in bursts.
_JITTER_S, _BURST_NS = 0.08, 500_000_000
#: Channels of an encoding of Image, and their order as red, green, blue.
_ENCODINGS = {
    "rgb8": (3, (0, 1, 2)), "bgr8": (3, (2, 1, 0)), "rgba8": (4, (0, 1, 2)),
    "bgra8": (4, (2, 1, 0)), "mono8": (1, (0,)), "8UC1": (1, (0,)), "8UC3": (3, (2, 1, 0)),
}  # fmt: skip


@dataclass
class Ring:
    """Messages of one topic with their stamps in ns, of the last `length_ns`."""

    length_ns: int
    messages: deque[tuple[int, Any]] = field(default_factory=deque)
    first_late_ns: int = -1

    def add(self, time_ns: int, message: Any) -> None:
        """Add a message. Where the clock was put back, as that of a simulation is, the ring begins
        anew: by more than its length, or only late messages come for half a second. One that is
        late otherwise is dropped."""
        if time_ns >= self.newest_ns:
            self.first_late_ns = -1
        else:
            if self.first_late_ns < 0:
                self.first_late_ns = time_ns
            is_put_back = time_ns - self.first_late_ns >= _RESTART_NS
            if not is_put_back and self.newest_ns - time_ns <= self.length_ns:
                return
            self.messages.clear()
            self.first_late_ns = -1
        self.messages.append((time_ns, message))
        while self.messages[0][0] < time_ns - self.length_ns:
            self.messages.popleft()

    @property
    def newest_ns(self) -> int:
        """The newest stamp; -1 without messages."""
        return self.messages[-1][0] if self.messages else -1

    def since(self, begin_ns: int) -> list[tuple[int, Any]]:
        """Return the messages from this stamp on."""
        return [message for message in self.messages if message[0] >= begin_ns]


@dataclass(frozen=True)
class Window:
    """What is classified: messages with their stamps, and the stamp and frame of the newest."""

    end_ns: int
    frame_id: str
    pictures: list[Any]
    sounds: list[tuple[int, bytes]]


class Classifier(Node):
    """The node."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__("scmrl", **arguments)
        for name, default in _PARAMETERS.items():
            self.declare_parameter(name, default)
        length_ns = round(self._get("window_s") * _NS)
        self._images, self._sounds = Ring(length_ns), Ring(length_ns)
        self._lock = threading.Lock()  # of the rings, between callbacks and the request
        self._pool = ThreadPoolExecutor(1)
        self._is_in_flight = False
        self._answered_ns = self._sound_end_ns = -1
        self._resumes = 0.0  # by time.monotonic: the service said when to come back
        self._client = Client(
            self._get("url"), key=self._key(), timeout_s=self._get("timeout_s"),
            retries=Retries(0),  # the next window is newer
        )  # fmt: skip
        self._subscribe("image", _IMAGES, self._on_image)
        self._subscribe("audio", _SOUNDS, self._on_sound)
        self._classification, self._hypothesis = self._vision_messages()
        kind = self._classification or String
        self._publisher = self.create_publisher(kind, "classification", 10)
        self.create_timer(self._get("hop_s"), self._on_hop)
        self.get_logger().info(f"classifies by {self._get('url')}, publishes {kind.__name__}")

    def _get(self, name: str) -> Any:
        return self.get_parameter(name).value

    def _key(self) -> str | None:
        file = self._get("key_file")
        return Path(file).read_text().strip() if file else None

    def _subscribe(self, topic: str, packages: dict[str, str], callback: Any) -> None:
        """Subscribe a topic, unless its type is empty or its messages are not installed."""
        kind = self._get(f"{topic}_type")
        if not kind:
            return
        if kind not in packages:
            raise ValueError(f"{topic}_type is {kind!r}; it must be one of {', '.join(packages)}")
        try:
            message = getattr(importlib.import_module(packages[kind]), kind)
        except ImportError as exc:
            self.get_logger().warning(f"no {topic}: {packages[kind]} is not installed ({exc})")
            return
        self.create_subscription(message, self._get(f"{topic}_topic"), callback, _QOS)

    def _vision_messages(self) -> tuple[Any, Any]:
        """Return the messages of an answer; None where it is a String."""
        kind = self._get("output_type")
        if kind not in ("Classification", "String"):
            raise ValueError(f"output_type is {kind!r}; it must be Classification or String")
        if kind == "String":
            return None, None
        try:
            module = importlib.import_module("vision_msgs.msg")
        except ImportError as exc:
            self.get_logger().warning(f"publishes JSON: vision_msgs is not installed ({exc})")
            return None, None
        return module.Classification, module.ObjectHypothesis

    # --- receiving ------------------------------------------------------------------------------

    def _on_image(self, message: Any) -> None:
        with self._lock:
            self._images.add(self._stamp_ns(message), message)

    def _on_sound(self, message: Any) -> None:
        """Keep sound. A message without a stamp follows the one before, or else ends now."""
        data = bytes(getattr(message, "audio", message).data)
        begin_ns = self._stamp_ns(message)
        if not hasattr(message, "header"):
            begin_ns -= self._length_ns(data)
            if abs(begin_ns - self._sound_end_ns) < _BURST_NS:
                begin_ns = self._sound_end_ns
            self._sound_end_ns = begin_ns + self._length_ns(data)
        with self._lock:
            self._sounds.add(begin_ns, data)

    def _length_ns(self, data: bytes) -> int:
        """Return the length of PCM; 0 for compressed sound."""
        if self._get("audio_format") != "pcm16":
            return 0
        return len(data) * _NS // (2 * self._get("channels") * self._get("sample_rate"))

    def _stamp_ns(self, message: Any) -> int:
        header = getattr(message, "header", None)
        stamp_ns = header.stamp.sec * _NS + header.stamp.nanosec if header else 0
        return stamp_ns or int(self.get_clock().now().nanoseconds)

    # --- answering ------------------------------------------------------------------------------

    def _on_hop(self) -> None:
        """Ask for an answer, unless a request is in flight or there is nothing new."""
        if self._is_in_flight or time.monotonic() < self._resumes:
            return
        window = self._window()
        if window is None or window.end_ns == self._answered_ns:
            return
        self._answered_ns = window.end_ns
        self._is_in_flight = True
        self._pool.submit(self._classify, window)

    def _window(self) -> Window | None:
        length_ns = round(self._get("window_s") * _NS)
        with self._lock:
            end_ns = max(self._images.newest_ns, self._sounds.newest_ns)
            # Sound without stamps is placed by its arrival: pictures say what time it is, if any.
            if self._sound_end_ns >= 0 and end_ns - self._images.newest_ns < length_ns:
                end_ns = self._images.newest_ns
            begin_ns = end_ns - length_ns
            images, sounds = self._images.since(begin_ns), self._sounds.since(begin_ns)
        if not images and not sounds:
            return None
        pictures = select(images, begin_ns, end_ns, self._get("pictures"))
        frame_id = pictures[-1].header.frame_id if pictures else ""
        return Window(end_ns, frame_id, pictures, sounds)

    def _classify(self, window: Window) -> None:
        """Classify, and publish the answer; in the thread of the requests."""
        try:
            frames = [picture_file(message) for message in window.pictures]
            sound = self._sound_file(window.sounds)
            answer = self._client.classify(
                model=self._get("model") or None, frames=frames or None, audio=sound,
                attention="none", top_k=self._get("top_k"),
            )  # fmt: skip
            self._publisher.publish(self._message(window, answer))
        except ProblemError as exc:
            self._resumes = time.monotonic() + (exc.retry_after_s or 0.0)
            self.get_logger().warning(str(exc), throttle_duration_sec=5.0)
        except (ClientError, ValueError) as exc:
            self.get_logger().warning(str(exc), throttle_duration_sec=5.0)
        except Exception as exc:
            if rclpy.ok(context=self.context):  # else it was shut down meanwhile
                self.get_logger().error(f"{type(exc).__name__}: {exc}")
        finally:
            self._is_in_flight = False

    def _sound_file(self, sounds: list[tuple[int, bytes]]) -> bytes | None:
        if not sounds:
            return None
        if self._get("audio_format") != "pcm16":
            return b"".join(data for _, data in sounds)
        return wav(sounds, self._get("sample_rate"), self._get("channels"))

    def _message(self, window: Window, answer: Classification) -> Any:
        seconds, nanoseconds = divmod(window.end_ns, _NS)
        if self._classification is None:
            members = answer.model_dump(exclude_none=True)
            stamp = {"sec": seconds, "nanosec": nanoseconds}
            header = {"stamp": stamp, "frame_id": window.frame_id}
            return String(data=json.dumps({"header": header, **members}))
        message = self._classification()
        message.header.stamp.sec, message.header.stamp.nanosec = seconds, nanoseconds
        message.header.frame_id = window.frame_id
        message.results = [
            self._hypothesis(class_id=entry.label, score=entry.probability)
            for entry in answer.probabilities
        ]
        return message

    def destroy_node(self) -> None:
        """Wait for the request in flight, and end."""
        self._pool.shutdown(wait=True)
        self._client.close()
        super().destroy_node()


def select(messages: list[tuple[int, Any]], begin_ns: int, end_ns: int, count: int) -> list[Any]:
    """Return the pictures at the centres of `count` equal parts of the window: in each the last one
    by its centre, or else the first after, as live streams do."""
    if not messages:
        return []
    times = [time_ns for time_ns, _ in messages]
    length = end_ns - begin_ns
    centres = [begin_ns + (2 * part + 1) * length // (2 * count) for part in range(count)]
    return [messages[max(0, bisect_right(times, centre) - 1)][1] for centre in centres]


def picture_file(message: Any) -> bytes:
    """Return the file of a CompressedImage, or a PNG of an Image. Raises ValueError."""
    if hasattr(message, "format"):
        return bytes(message.data)
    if message.encoding not in _ENCODINGS:
        raise ValueError(
            f"image encoding {message.encoding}: must be one of {', '.join(_ENCODINGS)}, or "
            "republished as CompressedImage"
        )
    channels, order = _ENCODINGS[message.encoding]
    rows = np.frombuffer(message.data, np.uint8).reshape(message.height, message.step)
    pixels = rows[:, : message.width * channels].reshape(message.height, message.width, channels)
    return png(pixels[:, :, order])


def png(pixels: Any) -> bytes:
    """Encode pixels [height, width, 1 or 3] of 8 bits; fast rather than small."""
    height, width, channels = pixels.shape
    rows = np.zeros((height, 1 + width * channels), np.uint8)  # filter 0 before each row
    rows[:, 1:] = pixels.reshape(height, -1)
    colour = {1: 0, 3: 2}[channels]
    header = struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(rows.tobytes(), 1)), (b"IEND", b""))
    chunks = (
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in parts
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def wav(sounds: list[tuple[int, bytes]], sample_rate: int, channels: int) -> bytes:
    """Return PCM of 16 bits as a WAV file; what is missing between stamps is silence."""
    samples = bytearray()
    for time_ns, data in sounds:
        late_s = (time_ns - sounds[0][0]) / _NS - len(samples) / (2 * channels * sample_rate)
        if late_s > _JITTER_S:
            samples += bytes(round(late_s * sample_rate) * 2 * channels)
        samples += data
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setnchannels(channels)
        writer.setsampwidth(2)
        writer.setframerate(sample_rate)
        writer.writeframes(samples)
    return file.getvalue()


def main() -> None:
    """Run the node until it is shut down."""
    rclpy.init()
    node = Classifier()
    try:
        rclpy.spin(node)
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    finally:
        node.destroy_node()
        rclpy.try_shutdown()


if __name__ == "__main__":
    main()
