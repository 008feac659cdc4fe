"""The image, built where no Docker engine runs: by debootstrap and buildah."""

from __future__ import annotations

import os
import re
from pathlib import Path

from debian import make_root, name_python, output, pip_needs, quiet

ROOT = Path(__file__).resolve().parents[1]
DOCKERFILE = ROOT / "docker" / "Dockerfile"
CACHE = Path(os.environ.get("SCMRL_IMAGE_CACHE") or Path.home() / ".cache" / "scmrl-image")

TOOLS = ("debootstrap", "buildah", "podman", "runc")
STORE = ("--root", str(CACHE / "images"), "--runroot", "/run/scmrl-image")
BUILDAH = ("buildah", *STORE, "--storage-driver", "overlay")
PODMAN = (
    "podman", *STORE, "--storage-driver", "overlay",
    "--cgroup-manager", "cgroupfs", "--events-backend", "file", "--runtime", "runc",
)  # fmt: skip

SUITE = "bookworm"
PACKAGES = (
    "ca-certificates", "netbase", "tzdata", "python3.11", "python3.11-venv", "python3-pip",
)  # fmt: skip
PATH = "PATH=/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin"


def base_name() -> str:
    """The image that the Dockerfile begins with, without its digest."""
    (name,) = re.findall(r"^ARG BASE=([^@\s]+)", DOCKERFILE.read_text(), re.MULTILINE)
    return str(name)


def make_base() -> None:
    """An image of that name, with Debian's Python where the official image has its own."""
    name = base_name()
    if not output(*BUILDAH, "images", "--quiet", "--filter", f"reference={name}"):
        tree = make_root(CACHE / "base", SUITE, PACKAGES)
        name_python(tree)
        working = output(*BUILDAH, "from", "scratch")
        quiet(*BUILDAH, "copy", working, str(tree), "/")
        quiet(*BUILDAH, "config", "--env", PATH, working)
        quiet(*BUILDAH, "commit", "--format", "docker", "--rm", working, name)


def image_name(device: str) -> str:
    return f"localhost/scmrl:{device}"


def build(device: str) -> None:
    """The Dockerfile's image for "cpu" or "cuda"."""
    index = os.environ.get("TORCH_INDEX", "")
    shown = [f"--volume={path}:{path}:ro" for path in sorted(pip_needs())]
    quiet(
        *BUILDAH, "build", "--isolation", "chroot", "--network", "host", "--pull-never", "--layers",
        "--format", "docker", *shown, "--ignorefile", f"{DOCKERFILE}.dockerignore",
        # By its tag alone: an image that is made here has another digest than the registry's.
        "--build-arg", f"BASE={base_name()}",
        "--build-arg", f"DEVICE={device}", "--build-arg", f"TORCH_INDEX={index}",
        "--file", str(DOCKERFILE), "--tag", image_name(device), str(ROOT),
    )  # fmt: skip
