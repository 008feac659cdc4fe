"""Build the CPU image and try it as a container, where no Docker engine runs.

    sudo python3 docker/try.py

Needs Debian or Ubuntu, root, and `apt-get install --no-install-recommends debootstrap buildah
podman runc`. The base image is made by debootstrap from the mirror that this machine's apt uses,
and stands in for the one that the Dockerfile names. pip's configuration and the local folders it
names are shown to the build read-only; TORCH_INDEX is handed on to it.

All that is made lies in $SCMRL_IMAGE_CACHE (default: ~/.cache/scmrl-image): the base and the
images, which make the next run a short one. Exit code 1 and the service's log where a check fails.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

ROOT = Path(__file__).resolve().parents[1]
DOCKERFILE = ROOT / "docker" / "Dockerfile"
CLIP = ROOT / "tests" / "data" / "clips" / "digit-7.webm"
CACHE = Path(os.environ.get("SCMRL_IMAGE_CACHE") or Path.home() / ".cache" / "scmrl-image")
IMAGE = "localhost/scmrl:cpu"
UID = 10001

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

#: Seconds that the service may take to be ready, to be on its fused path, and to stop.
READY_S, FUSED_S, STOP_S = 60, 120, 40

#: What the container is started with; as in docker/compose.yaml.
CONFINED = (
    "--network", "host", "--read-only", "--tmpfs", "/tmp:size=512m,mode=1777",
    "--cap-drop", "all", "--security-opt", "no-new-privileges", "--memory", "4g",
    "--pids-limit", "512", "--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024",
)  # fmt: skip

#: Run in the container, with the time of its start: prints what the checks look at, as JSON.
INSIDE = """
import json, os, pathlib, sys, torch
def refused(path):
    try:
        pathlib.Path(path).write_text("x")
    except OSError as error:
        return error.strerror
    return None
def field(status, name):
    return int(status.split(name + ":")[1].split()[0])
statuses = [p.read_text() for p in pathlib.Path("/proc").glob("[0-9]*/status")]
filters = [field(s, "Seccomp_filters") for s in statuses]
kernels = list(pathlib.Path("/var/cache/scmrl").rglob("*.nbc"))
print(json.dumps({
    "uid": os.getuid(), "gid": os.getgid(),
    "root": refused("/opt/scmrl/x"), "tmp": refused("/tmp/x"), "cuda": torch.version.cuda,
    "new_privileges": min(field(s, "NoNewPrivs") for s in statuses),
    "capabilities": [s.split("CapEff:")[1].split()[0].strip("0") for s in statuses],
    "confined": sum(f > min(filters) for f in filters),
    "checkpoints": sorted(p.name for p in pathlib.Path("weights").iterdir()),
    "kernels": len(kernels),
    "compiled_here": sum(p.stat().st_mtime > float(sys.argv[1]) for p in kernels),
}))
"""


def main() -> None:
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing or os.geteuid():
        sys.exit(f"needs root and {', '.join(TOOLS)}; not here: {', '.join(missing) or 'root'}")
    CACHE.mkdir(parents=True, exist_ok=True)
    name = re.findall(r"^FROM (\S+)", DOCKERFILE.read_text(), re.MULTILINE)[0]
    with timed("base image"):
        make_base(name)
    with timed("build"):
        build()
    size = int(output(*PODMAN, "image", "inspect", "--format", "{{.Size}}", IMAGE))
    base = int(output(*PODMAN, "image", "inspect", "--format", "{{.Size}}", name))
    tell("image size", f"{size / 1e6:.0f} MB, of which its base {base / 1e6:.0f} MB")
    container = f"scmrl-try-{uuid4().hex[:8]}"
    try:
        try_container(container)
    except BaseException:
        subprocess.run([*PODMAN, "logs", container], check=False)
        raise
    finally:
        quiet(*PODMAN, "rm", "--force", "--volumes", container)


def make_base(name: str) -> None:
    """An image of that name: Debian's Python where the official image has its own."""
    if not output(*BUILDAH, "images", "--quiet", "--filter", f"reference={name}"):
        tree = debian()
        working = output(*BUILDAH, "from", "scratch")
        quiet(*BUILDAH, "copy", working, str(tree), "/")
        quiet(*BUILDAH, "config", "--env", PATH, working)
        quiet(*BUILDAH, "commit", "--format", "docker", "--rm", working, name)


def debian() -> Path:
    """A folder with a minimal system, as the official images arrange it."""
    tree, partial = CACHE / "base", CACHE / "base.partial"
    if tree.exists():
        return tree
    shutil.rmtree(partial, ignore_errors=True)
    quiet(
        "debootstrap", "--variant=minbase", f"--include={PACKAGES}", SUITE, str(partial), mirror()
    )
    for link, target in (("python", "python3.11"), ("python3", "python3.11"), ("pip", "pip3")):
        (partial / "usr/local/bin" / link).symlink_to(f"/usr/bin/{target}")
    for marker in (partial / "usr/lib").glob("python3*/EXTERNALLY-MANAGED"):
        marker.unlink()
    for package in (partial / "var/cache/apt/archives").glob("*.deb"):
        package.unlink()
    return partial.rename(tree)


def mirror() -> str:
    """The address from which this machine's apt has the suite."""
    columns = "$(CREATED_BY) $(SUITE) $(CODENAME) $(REPO_URI)"
    for line in output("apt-get", "indextargets", "--format", columns).splitlines():
        index, *names, address = line.split()
        if index == "Packages" and SUITE in names:
            return address
    raise SystemExit(f"this machine's apt has no {SUITE} (apt-get update may help)")


def build() -> None:
    index = os.environ.get("TORCH_INDEX", "")
    shown = [f"--volume={path}:{path}:ro" for path in sorted(pip_needs())]
    quiet(
        *BUILDAH, "build", "--isolation", "chroot", "--network", "host", "--pull-never", "--layers",
        "--format", "docker", *shown, "--ignorefile", f"{DOCKERFILE}.dockerignore",
        "--build-arg", "DEVICE=cpu", "--build-arg", f"TORCH_INDEX={index}",
        "--file", str(DOCKERFILE), "--tag", IMAGE, str(ROOT),
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


def try_container(container: str) -> None:
    """Start the image as its own user on a read-only root, ask it, and stop it."""
    port = free_port()
    # --no-healthcheck: podman would need systemd to ask at intervals.
    started, clock = time.monotonic(), time.time()
    quiet(
        *PODMAN, "run", "--detach", "--name", container, *CONFINED, "--no-healthcheck",
        "--env", f"SCMRL_PORT={port}", "--env", "SCMRL_ALLOW_ANONYMOUS=true", IMAGE,
    )  # fmt: skip
    until(READY_S, "/readyz says yes", lambda: status(port, "/readyz") == 200)
    tell("ready after", f"{time.monotonic() - started:.1f} s")

    label, seconds = classify(port)
    check("the clip of a seven is a 7", label == "7", label)
    tell("first clip", f"{seconds * 1000:.0f} ms")
    health = json.loads(output(*PODMAN, "image", "inspect", IMAGE))[0]["HealthCheck"]["Test"]
    asked = subprocess.run([*PODMAN, "exec", container, *health[1:]], check=False)
    check("the image's HEALTHCHECK says healthy", asked.returncode == 0, asked.returncode)

    until(FUSED_S, "the fused path is taken", lambda: "fused path" in log(container))
    label, seconds = classify(port)
    check("and the seven still is one", label == "7", label)
    tell("a clip then", f"{seconds * 1000:.0f} ms")
    look_inside(container, clock)

    stopping = time.monotonic()
    quiet(*PODMAN, "kill", "--signal", "TERM", container)
    code = output("timeout", str(STOP_S), *PODMAN, "wait", container)
    check("SIGTERM ends it with exit code 0", code == "0", code)
    tell("stopped after", f"{time.monotonic() - stopping:.1f} s")


def look_inside(container: str, started: float) -> None:
    seen = json.loads(output(*PODMAN, "exec", container, "python", "-c", INSIDE, str(started)))
    check(f"its user is {UID}", (seen["uid"], seen["gid"]) == (UID, UID), seen)
    check("its root is read-only, /tmp is not", seen["root"] and not seen["tmp"], seen)
    check("no process has a capability or may gain privileges",
          seen["new_privileges"] == 1 and not any(seen["capabilities"]), seen)  # fmt: skip
    check("decoding is confined by seccomp", seen["confined"] > 0, seen)
    check("CUDA is left out", seen["cuda"] is None, seen)
    check("of checkpoints it holds avdigits alone", seen["checkpoints"] == ["avdigits"], seen)
    check("the kernels come with it", seen["kernels"] > 0 and not seen["compiled_here"], seen)


def classify(port: int) -> tuple[str, float]:
    """The label of the answer to the clip, and the seconds it took."""
    edge = uuid4().hex
    head = (
        f'--{edge}\r\nContent-Disposition: form-data; name="clip"; filename="{CLIP.name}"\r\n\r\n'
    )
    body = head.encode() + CLIP.read_bytes() + f"\r\n--{edge}--\r\n".encode()
    kind = {"Content-Type": f"multipart/form-data; boundary={edge}"}
    started = time.monotonic()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("POST", "/v1/classify", body, kind)
    answer = json.load(connection.getresponse())
    return str(answer.get("prediction", answer).get("label", answer)), time.monotonic() - started


def status(port: int, path: str) -> int | None:
    """The status of a GET; None while nobody listens."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    except OSError:
        return None


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


def until(seconds: float, what: str, done: Callable[[], bool]) -> None:
    """Wait for `done`, or end the trial after `seconds`."""
    deadline = time.monotonic() + seconds
    while not done():
        if time.monotonic() > deadline:
            sys.exit(f"FAILED: within {seconds:g} s {what}")
        time.sleep(0.05)
    print(f"ok     {what}", flush=True)


def check(what: str, holds: object, seen: object) -> None:
    """Say that it holds, or end the trial with what was seen instead."""
    if not holds:
        sys.exit(f"FAILED: {what}: {seen}")
    print(f"ok     {what}", flush=True)


def tell(what: str, value: str) -> None:
    print(f"       {what}: {value}", flush=True)


@contextmanager
def timed(what: str) -> Iterator[None]:
    started = time.monotonic()
    yield
    tell(what, f"{time.monotonic() - started:.0f} s")


def log(container: str) -> str:
    """What the service has logged."""
    return subprocess.run(
        [*PODMAN, "logs", container], capture_output=True, text=True, check=True
    ).stderr


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


if __name__ == "__main__":
    main()
