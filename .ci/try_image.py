"""Build the image and try it as a container, where no Docker engine runs.

    sudo python3 .ci/try_image.py [cpu|cuda]

The default is the image for CPUs. That for GPUs has 7 GB, half of which pip fetches; it is tried on
the CPU, to which it falls back.

Needs Debian or Ubuntu, root, and `apt-get install --no-install-recommends debootstrap buildah
podman runc`. The base image is made by debootstrap from the mirror that this machine's apt uses,
and stands in for the one that the Dockerfile names. pip's configuration and the local folders it
names are mounted read-only into the build; TORCH_INDEX is passed on to it.

The base and the images are kept in $SCMRL_IMAGE_CACHE (default: ~/.cache/scmrl-image), so that the
next run is short. Where a check fails, the exit code is 1 and the service's log is printed.
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

#: Longest times in seconds until the service is ready, is on its fused path, and has stopped.
READY_S, FUSED_S, STOP_S = 60, 120, 40

#: Options of `podman run`; as in docker/compose.yaml.
CONFINED = (
    "--network", "host", "--read-only", "--tmpfs", "/tmp:size=64m,mode=1777",
    "--cap-drop", "all", "--security-opt", "no-new-privileges", "--memory", "4g",
    "--pids-limit", "512", "--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024",
)  # fmt: skip

#: Program for the container: prints what `look_inside` checks, as JSON. Its argument is the time at
#: which the container was started, in seconds since the epoch.
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
    """Build the image for "cpu" or "cuda" and try it; exit where a check fails."""
    if device not in ("cpu", "cuda"):
        sys.exit(f"{device}: expected cpu or cuda")
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
    report("image size", f"{size / 1e6:.0f} MB, of which its base {base / 1e6:.0f} MB")
    container = f"scmrl-try-{uuid4().hex[:8]}"
    try:
        try_container(container, device)
    except BaseException:
        print(log(container), file=sys.stderr)
        raise
    finally:
        quiet(*PODMAN, "rm", "--force", "--volumes", container)


def try_container(container: str, device: str) -> None:
    """Start the image as its own user on a read-only root, classify clips, and stop it."""
    port = free_port()
    # --no-healthcheck: podman would need systemd to run the check at intervals.
    started, clock = time.monotonic(), time.time()
    quiet(
        *PODMAN, "run", "--detach", "--name", container, *CONFINED, "--no-healthcheck",
        "--env", f"SCMRL_PORT={port}", "--env", "SCMRL_ALLOW_ANONYMOUS=true",
        image_name(device),
    )  # fmt: skip
    until(READY_S, "/readyz answers 200", lambda: status(port, "/readyz") == 200)
    report("ready after", f"{time.monotonic() - started:.1f} s")

    label, seconds = classify(port)
    check("the clip of a seven is a 7", label == "7", label)
    report("first clip", f"{seconds * 1000:.0f} ms")
    health = json.loads(output(*PODMAN, "image", "inspect", image_name(device)))[0]["Healthcheck"][
        "Test"
    ]
    healthcheck = subprocess.run([*PODMAN, "exec", container, *health[1:]], check=False)
    code = healthcheck.returncode
    check("the image's HEALTHCHECK says healthy", code == 0, code)

    until(FUSED_S, "the fused path is taken", lambda: "fused path" in log(container))
    label, seconds = classify(port)
    check("the clip of a seven still is a 7", label == "7", label)
    report("a clip then", f"{seconds * 1000:.0f} ms")
    look_inside(container, device, clock)

    stopping = time.monotonic()
    quiet(*PODMAN, "kill", "--signal", "TERM", container)
    waited = output("timeout", str(STOP_S), *PODMAN, "wait", container)
    check("SIGTERM ends it with exit code 0", waited == "0", waited)
    report("stopped after", f"{time.monotonic() - stopping:.1f} s")


def look_inside(container: str, device: str, started: float) -> None:
    """Check the confinement and the contents of a container started at time.time() `started`."""
    state = json.loads(output(*PODMAN, "exec", container, "python", "-c", INSIDE, str(started)))
    check(f"its user is {UID}", (state["uid"], state["gid"]) == (UID, UID), state)
    check("its root is read-only, /tmp is not", state["read_only"] == [True, False], state)
    check("no process has a capability or may gain privileges",
          state["new_privileges"] == 1 and not any(state["capabilities"]), state)  # fmt: skip
    check("decoding is confined by seccomp", state["confined"] > 0, state)
    check(f"it is made for {device}", (state["cuda"] is not None) == (device == "cuda"), state)
    # Triton compiles the launchers of its kernels as C.
    check("only CUDA's image has a C compiler", state["compiler"] == (device == "cuda"), state)
    shipped = sorted(card.parent.name for card in ROOT.glob("weights/*/card.json"))
    check("it holds the checkpoints of this clone", state["checkpoints"] == shipped, state)
    check("the kernels come with it", state["kernels"] > 0 and not state["compiled_here"], state)


def classify(port: int) -> tuple[str, float]:
    """Return the label of the clip, or the whole answer where it has none, and the seconds."""
    boundary = uuid4().hex
    disposition = f'Content-Disposition: form-data; name="clip"; filename="{CLIP.name}"'
    head, tail = f"--{boundary}\r\n{disposition}\r\n\r\n", f"\r\n--{boundary}--\r\n"
    body = head.encode() + CLIP.read_bytes() + tail.encode()
    headers = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
    started = time.monotonic()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("POST", "/v1/classify", body, headers)
    answer = json.load(connection.getresponse())
    return str(answer.get("prediction", answer).get("label", answer)), time.monotonic() - started


def until(seconds: float, statement: str, holds: Callable[[], bool]) -> None:
    """Wait until a statement holds; exit where it does not after `seconds`."""
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            sys.exit(f"FAILED: within {seconds:g} s {statement}")
        time.sleep(0.2)
    print(f"ok     {statement}", flush=True)


def check(statement: str, holds: object, actual: object) -> None:
    """Print a statement that holds; exit with the actual value where it does not."""
    if not holds:
        sys.exit(f"FAILED: {statement}: {actual}")
    print(f"ok     {statement}", flush=True)


def report(name: str, value: str) -> None:
    """Print a measurement."""
    print(f"       {name}: {value}", flush=True)


@contextmanager
def timed(name: str) -> Iterator[None]:
    """Report the seconds that a step took."""
    started = time.monotonic()
    yield
    report(name, f"{time.monotonic() - started:.0f} s")


def log(container: str) -> str:
    """Return the service's log, without its requests to /readyz."""
    text = subprocess.run([*PODMAN, "logs", container], capture_output=True, text=True).stderr
    return "\n".join(line for line in text.splitlines() if "/readyz" not in line)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "cpu")
