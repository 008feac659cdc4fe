"""`make sbom` lists what the image installs, in a form that other tools read."""

from __future__ import annotations

import json
import re
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from packaging.utils import canonicalize_name

from tests.ci import load
from tests.conftest import ROOT

pytest.importorskip("cyclonedx", reason="cyclonedx-python-lib is in the extra dev")
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packageurl import PackageURL

pytestmark = pytest.mark.slow

sbom = load("sbom")
DEVICES = ("cpu", "cuda")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that `make sbom` has written its files into."""
    folder = tmp_path_factory.mktemp("sbom")
    sbom.main(folder)
    return folder


def read(folder: Path, device: str) -> Any:
    return json.loads((folder / f"sbom-{device}.json").read_text())


def required(device: str) -> dict[str, tuple[str, set[str]]]:
    """The version and hashes of each package that the Dockerfile installs."""
    files = [ROOT / "docker" / name for name in ("requirements.txt", f"requirements-{device}.txt")]
    text = "\n".join(file.read_text() for file in files)
    starts = list(re.finditer(r"^([\w-]+)==(\S+)", text, re.MULTILINE))
    ends = [start.start() for start in starts[1:]] + [len(text)]
    return {
        start[1]: (start[2], set(re.findall(r"sha256:(\w+)", text[start.end() : end])))
        for start, end in zip(starts, ends, strict=True)
    }


@pytest.mark.parametrize("device", DEVICES)
def test_the_schema_of_cyclonedx_accepts_it(folder: Path, device: str) -> None:
    text = (folder / f"sbom-{device}.json").read_text()
    validator = JsonStrictValidator(SchemaVersion.V1_6)
    assert validator.validate_str(text) is None
    # The validator reads hashes: a document with one that is too short is refused.
    digest = read(folder, device)["components"][0]["hashes"][0]["content"]
    assert validator.validate_str(text.replace(digest, digest[:-1])) is not None


@pytest.mark.parametrize("device", DEVICES)
def test_it_has_every_package_with_the_version_and_hashes_that_the_image_accepts(
    folder: Path, device: str
) -> None:
    listed = {
        part["name"]: (part["version"], {entry["content"] for entry in part["hashes"]})
        for part in read(folder, device)["components"]
    }
    assert listed == required(device)


@pytest.mark.parametrize("device", DEVICES)
def test_every_package_has_the_purl_of_its_name_and_version(folder: Path, device: str) -> None:
    for part in read(folder, device)["components"]:
        purl = PackageURL.from_string(part["purl"])
        assert (purl.type, purl.name, purl.version) == ("pypi", part["name"], part["version"])


def test_torch_is_the_file_of_the_device(folder: Path) -> None:
    versions = {
        device: next(p for p in read(folder, device)["components"] if p["name"] == "torch")[
            "version"
        ]
        for device in DEVICES
    }
    assert versions["cpu"] == f"{versions['cuda']}+cpu"


def test_a_package_has_the_licence_that_it_declares(folder: Path) -> None:
    licences = {p["name"]: p.get("licenses") for p in read(folder, "cpu")["components"]}
    expected = {
        "fastapi": [{"license": {"id": "MIT"}}],
        "packaging": [{"expression": "Apache-2.0 OR BSD-2-Clause"}],
        "certifi": [{"license": {"name": "Mozilla Public License 2.0 (MPL 2.0)"}}],
    }
    for name, declared in expected.items():
        pinned, _ = required("cpu")[name]
        assert licences[name] == (declared if version(name) == pinned else None), name


def test_a_licence_of_another_version_is_not_taken() -> None:
    (real,) = [pin for pin in sbom.image_pins("cpu") if pin.name == "fastapi"]
    assert sbom.licences(sbom.Pin("fastapi", f"{version('fastapi')}", real.hashes))
    assert not sbom.licences(sbom.Pin("fastapi", "0.0.1", real.hashes))
    assert not sbom.licences(sbom.Pin("no-such-package", "1.0", real.hashes))


def test_dependencies_are_packages_of_the_image(folder: Path) -> None:
    document = read(folder, "cpu")
    references = {part["bom-ref"] for part in document["components"]} | {"scmrl"}
    needs = {entry["ref"]: set(entry.get("dependsOn", [])) for entry in document["dependencies"]}
    assert needs.keys() == references
    assert all(others <= references for others in needs.values())
    named = {
        canonicalize_name(reference.split("/")[-1].split("@")[0]) for reference in needs["scmrl"]
    }
    assert {"torch", "uvicorn", "httptools", "uvloop", "opentelemetry-sdk"} <= named
    assert "anyio" not in named  # Starlette asks for it, the service does not


@pytest.mark.parametrize(
    "line",
    ["idna", "idna==3.20", "idna>=3 --hash=sha256:" + "0" * 64, "idna==3.20 --hash=sha256:12",
     "-r other.txt", "idna @ file:///x --hash=sha256:" + "0" * 64],
)  # fmt: skip
def test_a_requirement_without_a_version_and_hash_is_refused(line: str) -> None:
    with pytest.raises(ValueError, match="expected name==version"):
        sbom.read_pins(f"# made by a test\n{line}\n")
