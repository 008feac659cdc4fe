"""Write the SBOM of the image's Python packages: CycloneDX 1.6, as JSON.

    python .ci/sbom.py FOLDER

Writes sbom-cpu.json and sbom-cuda.json, one for each kind of image, into FOLDER. Each lists the
packages of docker/requirements.txt and docker/requirements-{cpu,cuda}.txt with their versions,
purls and the SHA-256 of every wheel that the image may be installed from.

Licences and dependencies are those that packages declare. They are read from the packages
installed beside this Python, where the versions are the same; nothing is downloaded. Packages whose
licence is not known are printed.

Debian's packages in the image, and libraries inside wheels, such as FFmpeg in `av`, are not listed:
`docker buildx build --sbom=true` lists the former.
"""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.contrib.this.builders import this_component
from cyclonedx.model import HashAlgorithm, HashType, Property
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.license import DisjunctiveLicense, License
from cyclonedx.output.json import JsonV1Dot6
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packageurl import PackageURL
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
DEVICES = ("cpu", "cuda")
#: The machine that the dependencies are evaluated for.
_IMAGE = {
    "os_name": "posix", "sys_platform": "linux", "platform_system": "Linux",
    "platform_machine": "x86_64", "implementation_name": "cpython",
    "platform_python_implementation": "CPython", "extra": "",
}  # fmt: skip


@dataclass(frozen=True)
class Pin:
    """A package that the image installs.

    Attributes:
        name: In the form in which indexes compare names.
        version: With its local part, as in `2.13.0+cpu`.
        hashes: SHA-256 of each accepted wheel, in hexadecimal digits.
    """

    name: str
    version: str
    hashes: tuple[str, ...]


def main(folder: Path) -> None:
    """Write an SBOM for each kind of device into a folder, which is made where it is missing."""
    folder.mkdir(parents=True, exist_ok=True)
    for device in DEVICES:
        pins = image_pins(device)
        text = write(describe(pins, device))
        file = folder / f"sbom-{device}.json"
        file.write_text(text + "\n")
        unknown = [pin.name for pin in pins if not licences(pin)]
        print(f"{file}: {len(pins)} packages; licence not known: {', '.join(unknown) or 'none'}")


def image_pins(device: str) -> list[Pin]:
    """Return the packages that the Dockerfile installs for "cpu" or "cuda", sorted by name."""
    files = ("requirements.txt", f"requirements-{device}.txt")
    pins = [pin for name in files for pin in read_pins((ROOT / "docker" / name).read_text())]
    return sorted(pins, key=lambda pin: pin.name)


def read_pins(text: str) -> list[Pin]:
    """Return the pins of a file of hashed requirements.

    Raises:
        ValueError: A line is not `name==version` with hashes.
    """
    pins = []
    for line in text.replace("\\\n", " ").splitlines():
        if line.strip() and not line.startswith("#"):
            match = re.fullmatch(r"([\w.-]+)==(\S+)((?:\s+--hash=sha256:[0-9a-f]{64})+)\s*", line)
            if match is None:
                raise ValueError(f"expected name==version --hash=sha256:..., not {line[:200]!r}")
            hashes = tuple(re.findall(r"sha256:([0-9a-f]+)", match[3]))
            pins.append(Pin(canonicalize_name(match[1]), match[2], hashes))
    return pins


def describe(pins: Iterable[Pin], device: str) -> Bom:
    """Return the SBOM of the image for "cpu" or "cuda", which has these packages."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    service = Component(
        name=project["name"], version=project["version"], type=ComponentType.APPLICATION,
        bom_ref=project["name"], description=project["description"],
        licenses=[LicenseFactory().make_from_string(project["license"])],
        purl=PackageURL("pypi", None, project["name"], project["version"]),
    )  # fmt: skip
    components = {pin.name: component(pin) for pin in pins}
    bom = Bom(components=components.values())
    bom.metadata.component = service
    bom.metadata.tools.components.add(this_component())
    bom.metadata.properties.add(Property(name="scmrl:device", value=device))
    note = "one for each wheel, by Python and machine: the image is installed from one of them"
    bom.metadata.properties.add(Property(name="scmrl:hashes", value=note))

    direct = [*project["dependencies"], *project["optional-dependencies"]["otel"]]
    bom.register_dependency(service, chosen(components, direct))
    for pin in pins:
        package = installed(pin)
        dependencies = [] if package is None else chosen(components, package.requires or [])
        bom.register_dependency(components[pin.name], dependencies)
    return bom


def component(pin: Pin) -> Component:
    """Return the SBOM's entry for a package."""
    purl = PackageURL("pypi", None, pin.name, pin.version)
    return Component(
        name=pin.name, version=pin.version, type=ComponentType.LIBRARY, purl=purl,
        bom_ref=str(purl), licenses=licences(pin),
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=digest) for digest in pin.hashes],
    )  # fmt: skip


def installed(pin: Pin) -> Distribution | None:
    """Return the package installed beside this Python; None where its version differs.

    Local parts of versions, as in `2.13.0+cpu`, are not compared.
    """
    try:
        package = distribution(pin.name)
    except PackageNotFoundError:
        return None
    same = package.version.partition("+")[0] == pin.version.partition("+")[0]
    return package if same else None


def licences(pin: Pin) -> list[License]:
    """Return the declared licences: an SPDX expression, else classifiers, else one line of text."""
    package = installed(pin)
    if package is None:
        return []
    factory = LicenseFactory()
    declared = package.metadata.get_all
    if expressions := declared("License-Expression"):
        return [factory.make_from_string(expressions[0])]
    classifiers = declared("Classifier") or []
    names = [
        line.rsplit(" :: ", 1)[-1] for line in classifiers if line.startswith("License :: OSI")
    ]
    text = "".join(declared("License") or []).strip()
    if not names and text and "\n" not in text:
        return [factory.make_from_string(text)]
    return [DisjunctiveLicense(name=name) for name in names]


def chosen(components: dict[str, Component], lines: Iterable[str]) -> list[Component]:
    """Return the components that requirements name, those without a component left out.

    Markers are evaluated for the image's machine and Python.
    """
    python = image_python()
    environment = {**_IMAGE, "python_version": python, "python_full_version": f"{python}.0"}
    requirements = map(Requirement, lines)
    names = [
        canonicalize_name(requirement.name)
        for requirement in requirements
        if requirement.marker is None or requirement.marker.evaluate(environment)
    ]
    return [components[name] for name in dict.fromkeys(names) if name in components]


def image_python() -> str:
    """Return the image's Python version, as in "3.11"."""
    text = (ROOT / "docker" / "Dockerfile").read_text()
    (version,) = re.findall(r"^ARG BASE=python:(\d+\.\d+)\.", text, re.MULTILINE)
    return str(version)


def write(bom: Bom) -> str:
    """Return the document as JSON, validated against its schema.

    Raises:
        ValueError: The schema rejects it.
    """
    text = JsonV1Dot6(bom).output_as_string(indent=2)
    problem = JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)
    if problem is not None:
        raise ValueError(f"not CycloneDX 1.6: {problem}")
    return text


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]))
