"""The names of a setting: its environment variable, and its flags of `scmrl serve`."""

from __future__ import annotations

#: Prefix of every environment variable.
PREFIX = "SCMRL_"


def variable(name: str) -> str:
    """Return the environment variable of a setting."""
    return PREFIX + name.upper()


def flag(name: str) -> str:
    """Return the flag of `scmrl serve` for a setting."""
    return "--" + name.replace("_", "-")


def off_flag(name: str) -> str:
    """Return the flag of `scmrl serve` that switches a setting off."""
    return "--no-" + name.replace("_", "-")
