"""The ROS 2 node by real rclpy, against a running service.

rclpy is in an environment of its own, which `COMMAND` makes; without it these tests are skipped.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import cv2
import httpx
import numpy as np
import pytest
import yaml

from tests.conftest import ROOT
from tests.service.conftest import CLIPS

PACKAGE = ROOT / "docker" / "ros2"
PYTHON = Path(os.environ.get("ROS_PYTHON", ROOT / ".ros" / "bin" / "python"))
COMMAND = "python tests/service/ros2/make_environment.py"
JPEG = CLIPS.parent / "seeds" / "rgb.jpg"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not PYTHON.exists(), reason=f"needs rclpy in .ros: {COMMAND}"),
]


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What the processes of ROS find: the client and the node of this clone, and each other."""
    folder = tmp_path_factory.mktemp("modules")
    (folder / "scmrl_client").symlink_to(ROOT / "service" / "client")
    return os.environ | {
        "PYTHONPATH": f"{folder}:{PACKAGE}",
        "PYTHONDONTWRITEBYTECODE": "1",
        "ROS_DOMAIN_ID": str(1 + os.getpid() % 100),
        "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
        "LD_LIBRARY_PATH": str(PYTHON.parents[1] / "lib"),
        "ROS_LOG_DIR": str(folder / "log"),
    }


def check(name: str, environment: dict[str, str], *arguments: object) -> Any:
    """Run a part of checks.py, and return the JSON that it prints."""
    script = Path(__file__).with_name("checks.py")
    command = [str(word) for word in (PYTHON, script, name, *arguments)]
    completed = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=120
    )
    assert completed.returncode == 0, completed.stdout + completed.stderr
    return json.loads(completed.stdout)


@contextmanager
def node(environment: dict[str, str], **parameters: object) -> Iterator[subprocess.Popen[str]]:
    """The node in a process of its own, with its parameters file."""
    command = [PYTHON, "-m", "scmrl_ros.node", "--ros-args"]
    command += ["--params-file", PACKAGE / "config" / "scmrl.yaml"]
    for name, value in parameters.items():
        command += ["-p", f"{name}:={json.dumps(value)}"]
    words = [str(word) for word in command]
    with subprocess.Popen(words, env=environment, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.fixture(scope="module")
def installed(environment: dict[str, str]) -> set[str]:
    """The packages of messages that there are."""
    return set(check("installed", environment))


@pytest.mark.parametrize(
    ("sound", "output", "needs"),
    [
        ("UInt8MultiArray", "String", set()),
        ("AudioData", "String", {"audio_common_msgs"}),
        ("AudioDataStamped", "Classification", {"audio_common_msgs", "vision_msgs"}),
    ],
)
def test_pictures_and_sound_are_answered_with_their_stamps(
    sound: str,
    output: str,
    needs: set[str],
    service: httpx.Client,
    environment: dict[str, str],
    installed: set[str],
) -> None:
    if not needs <= installed:
        pytest.skip(f"needs {', '.join(needs - installed)}: {COMMAND} --messages")
    parameters = {"audio_type": sound, "output_type": output, "window_s": 1.0, "hop_s": 0.2}
    with node(environment, url=str(service.base_url), **parameters, top_k=2) as process:
        received = check("stream", environment, JPEG, 3, sound, output)
        process.send_signal(signal.SIGINT)
        _, logged = process.communicate(timeout=60)
    assert process.returncode == 0, logged
    assert "Traceback" not in logged
    answers, stamps = received["answers"], set(received["stamps"])
    ends = [a["header"]["stamp"]["sec"] * 10**9 + a["header"]["stamp"]["nanosec"] for a in answers]
    assert ends == sorted(set(ends)), "each answer is about something newer"
    assert stamps & set(ends), "stamps of pictures are kept"
    last = answers[-1]
    assert last["header"]["frame_id"] == "camera"
    assert len(last["probabilities"]) == 2
    assert last["probabilities"][0]["probability"] >= last["probabilities"][1]["probability"]
    if output == "String":
        assert [stream["used"] for stream in last["streams"].values()] == [True, True]
        assert last["streams"]["visual"]["frames"] == 4
        assert 0.3 < last["streams"]["audio"]["duration_s"] <= 1.06


def test_pictures_alone_are_answered_as_their_upload(
    service: httpx.Client, environment: dict[str, str]
) -> None:
    parameters = {"audio_type": "", "output_type": "String", "hop_s": 0.1}
    with node(environment, url=str(service.base_url), **parameters):
        received = check("stream", environment, JPEG, 1, "UInt8MultiArray", "String")
    files = [("frames", ("a.jpg", JPEG.read_bytes()))] * 4
    uploaded = service.post("/v1/classify", files=files, data={"attention": "none"}).json()
    assert received["answers"][0]["contributions"] == uploaded["contributions"]


def test_the_node_survives_the_end_of_the_service(
    environment: dict[str, str], installed: set[str]
) -> None:
    with node(environment, url="http://127.0.0.1:1", hop_s=0.1) as process:
        published = subprocess.Popen(
            [str(PYTHON), str(Path(__file__).with_name("checks.py")), "publish", str(JPEG)],
            env=environment,
        )
        assert process.stderr is not None
        logged = ""
        while "cannot be reached" not in logged:
            line = process.stderr.readline()
            assert line, logged
            logged += line
        assert process.poll() is None
        published.kill()
        published.wait()
    is_logged = "audio_common_msgs.msg is not installed" in logged
    assert is_logged is ("audio_common_msgs" not in installed)


def test_raw_pictures_and_sound_become_files(environment: dict[str, str]) -> None:
    files = check("files", environment)
    pixels = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
    for encoding, expected in (
        ("rgb8", pixels),
        ("bgr8", pixels[:, :, ::-1]),
        ("mono8", np.repeat(pixels[:, :, :1], 3, 2)),
    ):
        data = np.frombuffer(base64.b64decode(files[encoding]), np.uint8)
        decoded = cv2.imdecode(data, cv2.IMREAD_COLOR)
        assert decoded is not None
        assert np.array_equal(decoded[:, :, ::-1], expected), encoding
    assert "must be one of rgb8" in files["error"]
    assert files["gap_s"] == pytest.approx(1.02, abs=0.001), "what is missing is silence"
    assert files["ring"] == [[3, 4], [1], [2_500_000_000]], (
        "late messages are dropped, a restarted clock begins anew"
    )


def test_the_package_is_whole(environment: dict[str, str], tmp_path: Path) -> None:
    (parameters,) = yaml.safe_load((PACKAGE / "config" / "scmrl.yaml").read_text()).values()
    assert parameters["ros__parameters"] == check("parameters", environment)
    root = ElementTree.parse(PACKAGE / "package.xml").getroot()
    assert root.findtext("name") == "scmrl_ros"
    assert root.findtext("export/build_type") == "ament_python"
    source = shutil.copytree(PACKAGE, tmp_path / "source")
    out = tmp_path / "out"
    command = [str(PYTHON), "setup.py", "-q", "build", "-b", str(out / "build"), "install"]
    command += ["--root", str(out), "--prefix", "/p", "--single-version-externally-managed"]
    completed = subprocess.run(command, cwd=source, env=environment, capture_output=True, text=True)
    assert completed.returncode == 0, completed.stderr
    for name in (
        "lib/scmrl_ros/classifier",  # where `ros2 run scmrl_ros classifier` looks
        "share/scmrl_ros/package.xml",
        "share/scmrl_ros/launch/scmrl.launch.py",
        "share/ament_index/resource_index/packages/scmrl_ros",
    ):
        assert (out / "p" / name).exists(), name
