"""The image, built where no Docker engine runs: by debootstrap and buildah."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

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
PACKAGES = "ca-certificates,netbase,tzdata,python3.11,python3.11-venv,python3-pip"
PATH = "PATH=/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin"


def base_name() -> str:
    """The image that the Dockerfile begins with."""
    return str(re.findall(r"^FROM (\S+)", DOCKERFILE.read_text(), re.MULTILINE)[0])


def make_base() -> None:
    """An image of that name, with Debian's Python where the official image has its own."""
    name = base_name()
    if not output(*BUILDAH, "images", "--quiet", "--filter", f"reference={name}"):
        tree = debian()
        working = output(*BUILDAH, "from", "scratch")
        quiet(*BUILDAH, "copy", working, str(tree), "/")
        quiet(*BUILDAH, "config", "--env", PATH, working)
        quiet(*BUILDAH, "commit", "--format", "docker", "--rm", working, name)


def debian() -> Path:
    """A folder with a minimal system and Python."""
    tree, partial = CACHE / "base", CACHE / "base.partial"
    if tree.exists():
        return tree
    shutil.rmtree(partial, ignore_errors=True)
    quiet(
        "debootstrap", "--variant=minbase", f"--include={PACKAGES}", SUITE, str(partial), mirror()
    )
    arrange(partial)
    return partial.rename(tree)


def arrange(tree: Path) -> None:
    """Name Python as the official images do, let pip install, and drop what apt fetched."""
    for link, target in (("python", "python3.11"), ("python3", "python3.11"), ("pip", "pip3")):
        (tree / "usr/local/bin" / link).symlink_to(f"/usr/bin/{target}")
    for marker in (tree / "usr/lib").glob("python3*/EXTERNALLY-MANAGED"):
        marker.unlink()
    for fetched in ("var/cache/apt/archives/*.deb", "var/lib/apt/lists/*_*"):
        for file in tree.glob(fetched):
            file.unlink()


def mirror() -> str:
    """The address from which this machine's apt has the suite."""
    columns = "$(CREATED_BY) $(SUITE) $(CODENAME) $(REPO_URI)"
    for line in output("apt-get", "indextargets", "--format", columns).splitlines():
        index, *names, address = line.split()
        if index == "Packages" and SUITE in names:
            return address
    raise SystemExit(f"this machine's apt has no {SUITE} (apt-get update may help)")


def image_name(device: str) -> str:
    return f"localhost/scmrl:{device}"


def build(device: str) -> None:
    """The Dockerfile's image for "cpu" or "cuda"."""
    index = os.environ.get("TORCH_INDEX", "")
    shown = [f"--volume={path}:{path}:ro" for path in sorted(pip_needs())]
    quiet(
        *BUILDAH, "build", "--isolation", "chroot", "--network", "host", "--pull-never", "--layers",
        "--format", "docker", *shown, "--ignorefile", f"{DOCKERFILE}.dockerignore",
        "--build-arg", f"DEVICE={device}", "--build-arg", f"TORCH_INDEX={index}",
        "--file", str(DOCKERFILE), "--tag", image_name(device), str(ROOT),
    )  # fmt: skip


def pip_needs() -> set[Path]:
    """pip's files of configuration, and the certificates and folders of packages they name."""
    pip = (sys.executable, "-m", "pip", "config")
    found = re.findall(r"^\s*(\S+), exists: True", output(*pip, "debug"), re.MULTILINE)
    for word in re.findall(r"[^\s'\"=]+", output(*pip, "list")):
        if word.startswith("file://"):  # the index's pages point to files beside it
            found.append(str(Path(word.removeprefix("file://")).parent))
        elif word.startswith("/"):
            found.append(word)
    return {Path(path) for path in found if Path(path).exists()}


def quiet(*command: str) -> None:
    """Run a command whose output matters only where it fails."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)}\n{done.stdout[-8000:]}\nexit code {done.returncode}")


def output(*command: str) -> str:
    """What a command prints."""
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)}\n{done.stdout}\nexit code {done.returncode}")
    return done.stdout.strip()
