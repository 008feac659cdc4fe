"""Build the image and try it as a container, where no Docker engine runs.

    sudo python3 .ci/try_image.py [cpu|cuda]

By default the one for CPUs. The one for GPUs is tried on the CPU, which it falls back to: 7 GB, of
which pip fetches half.

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
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from uuid import uuid4

from debian import output, quiet
from image import CACHE, PODMAN, ROOT, TOOLS, base_name, build, image_name, make_base
from probe import free_port, status

CLIP = ROOT / "tests" / "data" / "clips" / "digit-7.webm"
UID = 10001

#: Seconds that the service may take to be ready, to be on its fused path, and to stop.
READY_S, FUSED_S, STOP_S = 60, 120, 40

#: What the container is started with; as in docker/compose.yaml.
CONFINED = (
    "--network", "host", "--read-only", "--tmpfs", "/tmp:size=64m,mode=1777",
    "--cap-drop", "all", "--security-opt", "no-new-privileges", "--memory", "4g",
    "--pids-limit", "512", "--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024",
)  # fmt: skip

#: Run in the container, with the time of its start: prints what the checks look at, as JSON.
INSIDE = """
import json, os, pathlib, shutil, sys, torch
import opentelemetry.exporter.otlp.proto.http.trace_exporter
def field(status, name):
    return int(status.split(name + ":")[1].split()[0])
statuses = [p.read_text() for p in pathlib.Path("/proc").glob("[0-9]*/status")]
filters = [field(s, "Seccomp_filters") for s in statuses]
kernels = list(pathlib.Path("/var/cache/scmrl").rglob("*.nbc"))
print(json.dumps({
    "uid": os.getuid(), "gid": os.getgid(),
    "read_only": [bool(os.statvfs(p).f_flag & os.ST_RDONLY) for p in ("/", "/tmp")],
    "cuda": torch.version.cuda, "compiler": shutil.which("gcc") is not None,
    "new_privileges": min(field(s, "NoNewPrivs") for s in statuses),
    "capabilities": [s.split("CapEff:")[1].split()[0].strip("0") for s in statuses],
    "confined": sum(f > min(filters) for f in filters),
    "checkpoints": sorted(p.name for p in pathlib.Path("weights").iterdir()),
    "kernels": len(kernels),
    "compiled_here": sum(p.stat().st_mtime > float(sys.argv[1]) for p in kernels),
}))
"""


def main(device: str) -> None:
    if device not in ("cpu", "cuda"):
        sys.exit(f"{device}: can be cpu or cuda")
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing or os.geteuid():
        sys.exit(f"needs root and {', '.join(TOOLS)}; not here: {', '.join(missing) or 'root'}")
    CACHE.mkdir(parents=True, exist_ok=True)
    with timed("base image"):
        make_base()
    with timed("build"):
        build(device)
    size = int(output(*PODMAN, "image", "inspect", "--format", "{{.Size}}", image_name(device)))
    base = int(output(*PODMAN, "image", "inspect", "--format", "{{.Size}}", base_name()))
    tell("image size", f"{size / 1e6:.0f} MB, of which its base {base / 1e6:.0f} MB")
    container = f"scmrl-try-{uuid4().hex[:8]}"
    try:
        try_container(container, device)
    except BaseException:
        print(log(container), file=sys.stderr)
        raise
    finally:
        quiet(*PODMAN, "rm", "--force", "--volumes", container)


def try_container(container: str, device: str) -> None:
    """Start the image as its own user on a read-only root, ask it, and stop it."""
    port = free_port()
    # --no-healthcheck: podman would need systemd to ask at intervals.
    started, clock = time.monotonic(), time.time()
    quiet(
        *PODMAN, "run", "--detach", "--name", container, *CONFINED, "--no-healthcheck",
        "--env", f"SCMRL_PORT={port}", "--env", "SCMRL_ALLOW_ANONYMOUS=true",
        image_name(device),
    )  # fmt: skip
    until(READY_S, "/readyz says yes", lambda: status(port, "/readyz") == 200)
    tell("ready after", f"{time.monotonic() - started:.1f} s")

    label, seconds = classify(port)
    check("the clip of a seven is a 7", label == "7", label)
    tell("first clip", f"{seconds * 1000:.0f} ms")
    health = json.loads(output(*PODMAN, "image", "inspect", image_name(device)))[0]["Healthcheck"][
        "Test"
    ]
    asked = subprocess.run([*PODMAN, "exec", container, *health[1:]], check=False)
    check("the image's HEALTHCHECK says healthy", asked.returncode == 0, asked.returncode)

    until(FUSED_S, "the fused path is taken", lambda: "fused path" in log(container))
    label, seconds = classify(port)
    check("and the seven still is one", label == "7", label)
    tell("a clip then", f"{seconds * 1000:.0f} ms")
    look_inside(container, device, clock)

    stopping = time.monotonic()
    quiet(*PODMAN, "kill", "--signal", "TERM", container)
    code = output("timeout", str(STOP_S), *PODMAN, "wait", container)
    check("SIGTERM ends it with exit code 0", code == "0", code)
    tell("stopped after", f"{time.monotonic() - stopping:.1f} s")


def look_inside(container: str, device: str, started: float) -> None:
    seen = json.loads(output(*PODMAN, "exec", container, "python", "-c", INSIDE, str(started)))
    check(f"its user is {UID}", (seen["uid"], seen["gid"]) == (UID, UID), seen)
    check("its root is read-only, /tmp is not", seen["read_only"] == [True, False], seen)
    check("no process has a capability or may gain privileges",
          seen["new_privileges"] == 1 and not any(seen["capabilities"]), seen)  # fmt: skip
    check("decoding is confined by seccomp", seen["confined"] > 0, seen)
    check(f"it is made for {device}", (seen["cuda"] is not None) == (device == "cuda"), seen)
    # Triton has the C compiler make what launches its kernels.
    check("a C compiler is there for CUDA alone", seen["compiler"] == (device == "cuda"), seen)
    shipped = sorted(card.parent.name for card in ROOT.glob("weights/*/card.json"))
    check("it holds the checkpoints of this clone", seen["checkpoints"] == shipped, seen)
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


def until(seconds: float, what: str, done: Callable[[], bool]) -> None:
    """Wait for `done`, or end the trial after `seconds`."""
    deadline = time.monotonic() + seconds
    while not done():
        if time.monotonic() > deadline:
            sys.exit(f"FAILED: within {seconds:g} s {what}")
        time.sleep(0.2)
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
    """What the service has logged, without the questions whether it is ready."""
    logged = subprocess.run([*PODMAN, "logs", container], capture_output=True, text=True).stderr
    return "\n".join(line for line in logged.splitlines() if "/readyz" not in line)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "cpu")
