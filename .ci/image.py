"""Build the image where no Docker engine runs, with debootstrap and buildah."""

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
    """Return the name and tag of the image that the Dockerfile begins with."""
    (name,) = re.findall(r"^ARG BASE=([^@\s]+)", DOCKERFILE.read_text(), re.MULTILINE)
    return str(name)


def make_base() -> None:
    """Make an image named `base_name()`, unless there is one.

    Its Python is Debian's; that of the official image is built from source.
    """
    name = base_name()
    if not output(*BUILDAH, "images", "--quiet", "--filter", f"reference={name}"):
        tree = make_root(CACHE / "base", SUITE, PACKAGES)
        name_python(tree)
        working = output(*BUILDAH, "from", "scratch")
        quiet(*BUILDAH, "copy", working, str(tree), "/")
        quiet(*BUILDAH, "config", "--env", PATH, working)
        quiet(*BUILDAH, "commit", "--format", "docker", "--rm", working, name)


def image_name(device: str) -> str:
    """Return the name of the image for "cpu" or "cuda"."""
    return f"localhost/scmrl:{device}"


def build(device: str) -> None:
    """Build the Dockerfile's image for "cpu" or "cuda"; `make_base` comes first."""
    index = os.environ.get("TORCH_INDEX", "")
    volumes = [f"--volume={path}:{path}:ro" for path in sorted(pip_needs())]
    quiet(
        *BUILDAH, "build", "--isolation", "chroot", "--network", "host", "--pull-never", "--layers",
        "--format", "docker", *volumes, "--ignorefile", f"{DOCKERFILE}.dockerignore",
        # Without the digest: the base made here has another one than the registry's.
        "--build-arg", f"BASE={base_name()}",
        "--build-arg", f"DEVICE={device}", "--build-arg", f"TORCH_INDEX={index}",
        "--file", str(DOCKERFILE), "--tag", image_name(device), str(ROOT),
    )  # fmt: skip
