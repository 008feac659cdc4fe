"""Try a clone on clean Debians, each with its own Python, as a newcomer would.

    sudo python3 .ci/try_python.py [SUITE ...] [--versions locked|newest|lowest] [--short]

For each suite (bookworm has Python 3.11, trixie 3.13, sid 3.14): a minimal root by debootstrap,
a clone of the last commit, `make serve`, a clip by curl, SIGTERM, `make test`. `--versions` says
which dependencies are installed: those of requirements.lock, the newest or the lowest that
pyproject.toml allows. `--short` leaves `make test` out, and keeps the environment for next time.

Needs root and debootstrap. The roots lie in $DEBIAN_ROOTS (default: ~/.cache/scmrl-roots). pip's
configuration and the local folders that it names are mounted read-only. The last line
for each suite is a row for docs/python-versions.md. Exit code 1 where anything fails.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from debian import make_root, pip_needs, quiet
from probe import free_port, status

ROOT = Path(__file__).resolve().parents[1]
CACHE = Path(os.environ.get("DEBIAN_ROOTS") or Path.home() / ".cache" / "scmrl-roots")
SUITES = ("bookworm", "trixie", "sid")
PACKAGES = ("ca-certificates", "curl", "git", "make", "python3", "python3-venv")
TOOLS = ("debootstrap", "unshare", "git")

#: Paths in the trial's root.
CLONE, VENV, LOWEST = "/root/scmrl", "/root/venv", "/root/lowest.lock"
CLIP, LABEL = "tests/data/clips/digit-7.webm", "7"
#: Longest times in seconds: for an installation or a start, for the tests, and for stopping.
INSTALL_S, TEST_S, END_S = 1800, 3600, 40

#: Packages whose versions are in a row.
REPORTED = ("torch", "av", "numpy", "numba", "opencv-python-headless", "fastapi", "pydantic")
VERSIONS = f"""
import json, platform
from importlib.metadata import version
print(json.dumps({{"python": platform.python_version()}} | {{n: version(n) for n in {REPORTED}}}))
"""

#: Mounts /proc, /dev and the paths that pip needs into a root, and runs a command in it.
ENTER = """
set -eu
tree=$1; paths=$2; shift 2
mount --rbind /proc "$tree/proc"
mount --rbind /dev "$tree/dev"
for path in $paths; do
    if [ -d "$path" ]; then mkdir -p "$tree$path"; else mkdir -p "$tree$(dirname "$path")"; fi
    [ -e "$tree$path" ] || : > "$tree$path"
    mount --rbind --options ro "$path" "$tree$path"
done
exec chroot "$tree" "$@"
"""


class Failed(Exception):
    """A step failed; the message has the end of its output."""


@dataclass(frozen=True)
class Trial:
    """One suite with one choice of dependencies.

    Attributes:
        suite: Of Debian, such as "trixie".
        versions: "locked", "newest" or "lowest".
        short: Keep the environment for the next trial, and leave the tests out.
    """

    suite: str
    versions: str
    short: bool

    @property
    def tree(self) -> Path:
        """The folder that is the trial's root; a short trial keeps it."""
        return CACHE / f"trial-{self.suite}-{'short' if self.short else self.versions}"

    @property
    def lock(self) -> str:
        """The argument of `make` that names the lock file; none for the newest versions."""
        return {"locked": "LOCK=requirements.lock", "newest": "LOCK=", "lowest": f"LOCK={LOWEST}"}[
            self.versions
        ]

    def run(self) -> str:
        """Run the trial; return its row for docs/python-versions.md. Raises Failed."""
        self._prepare()
        if self.versions == "lowest":
            self._resolve_lowest()
        ready_s, answer = self._serve()
        installed = json.loads(self._output(f"{VENV}/bin/python", "-c", VERSIONS))
        tests = "not run" if self.short else self._test()
        label, probability = answer["label"], answer["probability"]
        packages = ", ".join(f"{name} {installed[name]}" for name in REPORTED)
        today = datetime.datetime.now(datetime.UTC).date()
        return (
            f"| {today} | {self.suite} | {installed['python']} | {self.versions} | {packages} "
            f"| ready {ready_s:.1f} s, {label} at {probability:.2f} | {tests} |"
        )

    def _prepare(self) -> None:
        base = make_root(CACHE / self.suite, self.suite, PACKAGES)
        if not (self.short and self.tree.exists()):
            shutil.rmtree(self.tree, ignore_errors=True)
            quiet("cp", "--archive", "--reflink=auto", str(base), str(self.tree))
        shutil.rmtree(f"{self.tree}{CLONE}", ignore_errors=True)
        quiet("git", "clone", "--quiet", "--no-hardlinks", str(ROOT), f"{self.tree}{CLONE}")

    def _resolve_lowest(self) -> None:
        """Write a lock with the lowest version of each direct dependency that has a wheel."""
        resolve = (
            f"python3 -m venv /root/uv && /root/uv/bin/pip install --quiet "
            f"--constraint {CLONE}/requirements.lock uv && cd {CLONE} && /root/uv/bin/uv pip "
            "compile --quiet --resolution lowest-direct --only-binary :all: --extra dev "
            f"--python-version $(python3 -c 'import platform; print(platform.python_version())') "
            f"--output-file {LOWEST} pyproject.toml"
        )
        self._output("sh", "-c", resolve)

    def _serve(self) -> tuple[float, dict[str, str | float]]:
        """Install, start, classify the clip and stop.

        Returns the seconds from `make serve` to ready, without installing, and the prediction.
        """
        self._make("serve", "ARGS=--help", log="install", seconds=INSTALL_S)
        port = free_port()
        started = time.monotonic()
        with self._started("serve", f"ARGS=--port {port}", log="serve") as process:
            while status(port, "/readyz") != 200:
                if process.poll() is not None or time.monotonic() - started > INSTALL_S:
                    raise Failed(f"make serve is not ready:\n{self._tail('serve')}")
                time.sleep(0.1)
            ready_s = time.monotonic() - started
            url = f"http://127.0.0.1:{port}/v1/classify"
            answer = self._output("curl", "--silent", "-F", f"clip=@{CLONE}/{CLIP}", url)
        prediction = json.loads(answer).get("prediction", {})
        if prediction.get("label") != LABEL:
            raise Failed(f"the clip of a seven is answered with {answer}\n{self._tail('serve')}")
        if "Traceback" in self._tail("serve"):
            raise Failed(f"the log has a traceback:\n{self._tail('serve')}")
        return ready_s, prediction

    def _test(self) -> str:
        """Run `make test`; return its last line."""
        self._make("test", log="test", seconds=TEST_S)
        return self._tail("test").splitlines()[-1].strip("= ")

    def _make(self, *arguments: str, log: str, seconds: float) -> None:
        with self._started(*arguments, log=log) as process:
            try:
                code = process.wait(seconds)
            except subprocess.TimeoutExpired:
                raise Failed(f"not done after {seconds:g} s:\n{self._tail(log)}") from None
        if code:
            raise Failed(f"make {arguments[0]} ends with {code}:\n{self._tail(log)}")

    @contextmanager
    def _started(self, *arguments: str, log: str) -> Iterator[subprocess.Popen[bytes]]:
        """Run `make` in the clone; stop it by SIGTERM at the end, and its session by SIGKILL."""
        make = shlex.join(["make", f"VENV={VENV}", self.lock, *arguments])
        with self._log(log).open("wb") as file:
            process = subprocess.Popen(
                self._command("sh", "-c", f"cd {CLONE} && exec {make}"),
                env=environment(), stdin=subprocess.DEVNULL, stdout=file, stderr=file,
                start_new_session=True,
            )  # fmt: skip
            try:
                yield process
            finally:
                process.terminate()  # make ends its child by the same signal
                with suppress(subprocess.TimeoutExpired):
                    process.wait(END_S)
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def _output(self, *command: str) -> str:
        """Return what a command in the trial's root prints. Raises Failed."""
        completed = subprocess.run(
            self._command(*command), env=environment(), capture_output=True, text=True
        )
        if completed.returncode:
            printed = completed.stdout + completed.stderr
            raise Failed(f"{shlex.join(command)}\n{printed}")
        return completed.stdout

    def _command(self, *command: str) -> list[str]:
        paths = " ".join(map(str, sorted({*pip_needs(), Path("/etc/resolv.conf")})))
        enter = ["sh", "-c", ENTER, "enter", str(self.tree), paths]
        return ["unshare", "--mount", "--propagation", "private", *enter, *command]

    def _log(self, name: str) -> Path:
        return CACHE / f"{self.tree.name}.{name}.log"

    def _tail(self, name: str) -> str:
        return self._log(name).read_text(errors="replace")[-6000:]


def main() -> int:
    """Run a trial for each suite on the command line; return 1 where one fails."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("suites", nargs="*", default=SUITES, metavar="SUITE")
    parser.add_argument("--versions", choices=("locked", "newest", "lowest"), default="locked")
    parser.add_argument("--short", action="store_true", help="serve and one clip, no tests")
    arguments = parser.parse_args()
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing or os.geteuid():
        sys.exit(f"needs root and {', '.join(TOOLS)}; not here: {', '.join(missing) or 'root'}")
    failures = 0
    for suite in arguments.suites:
        trial = Trial(suite, arguments.versions, arguments.short)
        try:
            print(trial.run(), flush=True)
        except Failed as failure:
            failures += 1
            print(f"FAILED on {suite}, {arguments.versions}: {failure}", flush=True)
        else:
            if not trial.short:
                shutil.rmtree(trial.tree)
    return min(failures, 1)


def environment() -> dict[str, str]:
    """Return a minimal environment, with the variables that pip needs on this machine."""
    needed = {
        name: value
        for name, value in os.environ.items()
        if name.startswith(("PIP_", "OPENBLAS_")) or "CERT" in name or "_proxy" in name.lower()
    }
    path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    return needed | {"PATH": path, "HOME": "/root", "LANG": "C.UTF-8", "TERM": "dumb"}


if __name__ == "__main__":
    sys.exit(main())
