"""Settings of Ray's replicas, and the command's messages; Ray is not needed."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from pydantic import ValidationError
from typer.testing import CliRunner

from service.commands.app import app
from service.keys.key_file import KeysError
from service.ray_serve.environment import NEEDS_KEYS, fitted, passed_on, read_keys
from service.ray_serve.scale import Scale
from service.settings import Settings

KEYS = "anna:correct-horse-17-battery"


def test_replicas_get_settings_with_absolute_paths_and_no_secrets(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    variables = {
        "SCMRL_API_KEYS": KEYS, "SCMRL_LIMIT_STORE": "redis://:secret@host", "HOME": "/root",
        "SCMRL_ALLOW_WEAK_KEYS": "true", "SCMRL_MODELS": "weights", "SCMRL_MAX_BATCH": "4",
        "SCMRL_PORT": "",
    }  # fmt: skip
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    passed = passed_on(variables, Settings())
    assert passed == {
        "SCMRL_ALLOW_WEAK_KEYS": "true", "SCMRL_MODELS": f"{Path.cwd()}/weights",
        "SCMRL_MAX_BATCH": "4", NEEDS_KEYS: "true",
    }  # fmt: skip
    assert read_keys(passed, Settings()).api
    monkeypatch.delenv("SCMRL_API_KEYS")
    with pytest.raises(KeysError, match="this node has none"):
        read_keys(passed, Settings())
    assert NEEDS_KEYS not in passed_on({}, Settings())
    with pytest.raises(KeysError, match="without a key"):
        read_keys({}, Settings(host="0.0.0.0"))


def test_a_replica_has_as_many_threads_as_cpus_unless_they_are_set() -> None:
    replica = fitted(Settings(grpc_port=8001), {"CPU": 2.5, "GPU": 0.5})
    assert (replica.threads, replica.decode_workers, replica.grpc_port) == (3, 3, 0)
    replica = fitted(Settings(threads=1, decode_workers=8), {"CPU": 2})
    assert (replica.threads, replica.decode_workers) == (1, 8)


def test_settings_that_replicas_do_not_support_are_refused() -> None:
    for wrong in ({"min_replicas": 0}, {"cpus": 0}, {"gpus": -1}, {"replicas": 3}):
        with pytest.raises(ValidationError):
            Scale(**wrong)


@pytest.mark.parametrize(
    ("variables", "code", "message"),
    [
        ({"SCMRL_HOST": "0.0.0.0"}, 2, "others could use the service without a key"),
        ({"SCMRL_GRPC_PORT": "8001"}, 2, "SCMRL_GRPC_PORT"),
        ({"SCMRL_MAX_BATCH": "-1"}, 2, "SCMRL_MAX_BATCH"),
        ({}, 1, "pip install 'scmrl[ray]'"),
    ],
)
def test_the_command_says_what_cannot_be(
    variables: dict[str, str], code: int, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)  # as where it is not installed
    completed = CliRunner().invoke(app, ["ray"], env=variables)
    assert completed.exit_code == code, completed.output
    assert message in completed.output


def test_only_the_service_of_a_cluster_is_stopped() -> None:
    completed = CliRunner().invoke(app, ["ray", "--stop"])
    assert completed.exit_code == 2
    assert "--stop needs --address" in completed.output
