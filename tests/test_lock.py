"""requirements.lock: what a clone and the image are made of, on every Python that is supported."""

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


def test_the_lock_names_no_address() -> None:
    text = (ROOT / "requirements.lock").read_text()
    assert not re.search(r"://|--(extra-)?index|--find-links|@", text)
