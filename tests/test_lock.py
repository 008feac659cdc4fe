"""The versions that a clone is made of, on every Python, and with hashes those of the image."""

from __future__ import annotations

import re
import tomllib
from typing import Any

import pytest
from packaging.markers import Environment
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from tests.conftest import ROOT

PYTHONS = ("3.11", "3.12", "3.13", "3.14")
MACHINES = ("x86_64", "aarch64")
#: The image's packages: but torch, and torch for each kind of device.
HASHED = {
    "all": "docker/requirements.txt",
    "cpu": "docker/requirements-cpu.txt",
    "cuda": "docker/requirements-cuda.txt",
}
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def environment(python: str, machine: str = "x86_64") -> Environment:
    return {
        "implementation_name": "cpython", "implementation_version": f"{python}.1",
        "os_name": "posix", "platform_machine": machine, "platform_release": "",
        "platform_python_implementation": "CPython", "platform_system": "Linux",
        "platform_version": "",
        "python_full_version": f"{python}.1", "python_version": python, "sys_platform": "linux",
    }  # fmt: skip


def locked(python: str, machine: str = "x86_64") -> dict[str, str]:
    """The version of each package that the lock has for a Python on a machine."""
    versions = {}
    for line in (ROOT / "requirements.lock").read_text().splitlines():
        if not line.startswith("#"):
            requirement = Requirement(line)
            marker = requirement.marker
            if marker is None or marker.evaluate(environment(python, machine)):
                (pin,) = requirement.specifier
                assert pin.operator == "==", line
                versions[canonicalize_name(requirement.name)] = pin.version
    return versions


def asked_for(python: str, machine: str = "x86_64") -> list[Requirement]:
    """All that pyproject.toml asks for, with every extra."""
    groups = [PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()]
    lines = [line for group in groups for line in group if not line.startswith("scmrl[")]
    requirements = [Requirement(line) for line in lines]
    return [
        requirement
        for requirement in requirements
        if requirement.marker is None or requirement.marker.evaluate(environment(python, machine))
    ]


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("python", PYTHONS)
def test_the_bounds_of_pyproject_allow_what_the_lock_has(python: str, machine: str) -> None:
    versions = locked(python, machine)
    for requirement in asked_for(python, machine):
        version = versions.get(canonicalize_name(requirement.name))
        assert version is not None, f"{requirement} is not in the lock; run make lock"
        assert requirement.specifier.contains(version), f"{requirement}, but {version} is locked"


def test_the_lock_covers_every_python_that_pyproject_allows() -> None:
    allowed = SpecifierSet(PROJECT["requires-python"])
    minors = [f"3.{minor}" for minor in range(20)]
    assert [python for python in minors if f"{python}.1" in allowed] == list(PYTHONS)


def test_every_runtime_dependency_has_a_lower_and_an_upper_bound() -> None:
    for requirement in map(Requirement, PROJECT["dependencies"]):
        operators = {clause.operator for clause in requirement.specifier}
        assert operators == {"=="} or {">=", "<"} <= operators, str(requirement)


@pytest.mark.parametrize("name", ["requirements.lock", *HASHED.values()])
def test_no_file_of_versions_names_an_address(name: str) -> None:
    text = (ROOT / name).read_text()
    assert not re.search(r"://|--(extra-)?index|--find-links|@", text)


def test_the_lock_has_no_hashes() -> None:
    # A constraint with a hash makes pip ask for the hash of the clone as well, which has none.
    assert "--hash" not in (ROOT / "requirements.lock").read_text()


# --- the image's files, for its Python on every machine --------------------------------------


def hashed(name: str) -> dict[str, tuple[str, list[str]]]:
    """The version of each package in a file with hashes, and its hashes."""
    text = (ROOT / name).read_text().replace("\\\n", "")
    pins = {}
    for line in text.splitlines():
        if not line.startswith("#"):
            match = re.fullmatch(
                r"([a-z0-9-]+)==([\w.+]+)((?: +--hash=sha256:[0-9a-f]{64})+) *", line
            )
            assert match, f"{name}: {line}"
            assert match[1] not in pins, f"{name}: {match[1]} is there twice"
            pins[match[1]] = match[2], re.findall(r"sha256:([0-9a-f]+)", match[3])
    return pins


def image_python() -> str:
    """The Python of the image that the Dockerfile begins with: major and minor."""
    text = (ROOT / "docker" / "Dockerfile").read_text()
    (version,) = re.findall(r"^ARG BASE=python:(\d+\.\d+)\.", text, re.MULTILINE)
    return str(version)


def packages() -> set[str]:
    lines = (ROOT / "docker" / "packages.txt").read_text().splitlines()
    return {line for line in lines if not line.startswith("#")}


@pytest.mark.parametrize("machine", MACHINES)
def test_the_image_has_the_versions_of_the_lock(machine: str) -> None:
    versions = locked(image_python(), machine)
    for name in HASHED.values():
        for package, (version, hashes) in hashed(name).items():
            assert version.partition("+")[0] == versions[package], f"{package}; run make lock"
            assert hashes


def test_the_hashed_packages_are_those_of_the_image_and_torch_is_apart() -> None:
    assert hashed(HASHED["all"]).keys() == packages() - {"torch"}


def test_torch_for_cpus_is_one_file_for_each_machine() -> None:
    ((package, (version, hashes)),) = hashed(HASHED["cpu"]).items()
    assert (package, version.partition("+")[2]) == ("torch", "cpu")
    assert len(hashes) == len(MACHINES)


@pytest.mark.parametrize("machine", MACHINES)
def test_torch_for_cuda_comes_with_all_that_the_lock_has_of_cuda(machine: str) -> None:
    cuda = re.compile(r"torch|triton|(nvidia|cuda)-.+")
    expected = {name for name in locked(image_python(), machine) if cuda.fullmatch(name)}
    pins = hashed(HASHED["cuda"])
    assert pins.keys() == expected
    assert "+" not in pins["torch"][0]


def test_the_image_is_installed_from_hashed_wheels_alone() -> None:
    text = (ROOT / "docker" / "Dockerfile").read_text().replace("\\\n", "")
    for line in re.findall(r"^.*pip .*install.*--requirement.*$", text, re.MULTILINE):
        assert {"--require-hashes", "--no-deps", "--only-binary"} <= set(line.split()), line
    files = set(re.findall(r"--requirement \"?([\w.$-]+)", text))
    assert files == {"requirements.txt", "requirements-$DEVICE.txt"}
