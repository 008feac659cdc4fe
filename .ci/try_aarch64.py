"""Resolve the runtime dependencies for 64-bit ARM: Jetson, Raspberry Pi, cloud machines.

    python3 .ci/try_aarch64.py WHEEL

pip resolves the wheel with the versions of requirements.lock from wheels alone, for glibc 2.17 to
2.35 (Ubuntu 22.04, JetPack 6) and the running Python. Nothing is installed, and nothing is run:
that needs such a machine. Exit code 1, with pip's message, where a package has no wheel.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

LOCK = Path(__file__).resolve().parents[1] / "requirements.lock"
PLATFORMS = ["manylinux2014_aarch64", *(f"manylinux_2_{minor}_aarch64" for minor in range(17, 36))]


def main(wheel: str) -> None:
    """Print the packages that pip resolves for a wheel; exit where one has no wheel."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = [
            sys.executable, "-m", "pip", "install", "--dry-run", "--quiet", "--ignore-installed",
            "--only-binary", ":all:", "--target", folder, "--constraint", str(LOCK),
            "--report", str(report), *(f"--platform={name}" for name in PLATFORMS), wheel,
        ]  # fmt: skip
        completed = subprocess.run(command, stderr=subprocess.PIPE, text=True)
        if completed.returncode:
            sys.exit(completed.stderr)
        packages = json.loads(report.read_text())["install"]
    for package in packages:
        name, version = package["metadata"]["name"], package["metadata"]["version"]
        file = package["download_info"]["url"].rsplit("/", 1)[-1]
        print(f"{name} {version}: {'for aarch64' if 'aarch64' in file else 'for any machine'}")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
