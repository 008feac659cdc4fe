"""The state of a training run, to resume it: its file, and the settings it was started with."""

from __future__ import annotations

import fcntl
from collections.abc import Mapping
from dataclasses import dataclass, fields
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from model.training import run_state_migration
from model.training.options import TrainOptions, flag
from model.whole_file import replacing

Weights = dict[str, Tensor]

#: File of a run's folder that the process which trains holds a lock on.
_LOCK = ".lock"

#: Options that may differ when a run is resumed, since they do not affect the weights. The data may
#: be moved, since its contents are compared.
_FREE = frozenset(
    {"task", "data", "out", "resume", "workers", "command", "name", "device", "patience"}
    | {"test_clips", "calibrate"}
)


class RunError(ValueError):
    """A run that cannot be resumed: names the file, or the option and both of its values."""


@dataclass(frozen=True)
class RunState:
    """A run after an epoch.

    `epoch`: epochs that are done. `best`: the best score so far. `last_weights`: those of the
    last epochs, which are averaged at the end. `settings`: of the run's start, as text.
    """

    network: Weights
    optimizer: dict[str, Any]
    epoch: int
    best: float
    last_weights: list[Weights]
    settings: dict[str, str]

    def save(self, file: Path) -> None:
        """Write the state; a kill leaves the file old or new. Raises OSError."""
        content = BytesIO()  # torch raises RuntimeError where a file cannot be written
        torch.save({field.name: getattr(self, field.name) for field in fields(self)}, content)
        with replacing(file) as stream:
            stream.write(content.getbuffer())


def load(file: Path) -> RunState:
    """Read the state that `RunState.save` wrote. No code that the file carries is run.

    Raises RunError where it is missing, damaged or something else.
    """
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except OSError as exc:
        raise RunError(f"{file}: {exc.strerror or exc}; there is no run to resume") from exc
    except Exception as exc:  # the unpickler raises many kinds of errors for damaged bytes
        # torch's message advises to load with weights_only=False, which would run the file's code.
        raise RunError(f"{file}: damaged, or not the state of a run") from exc
    if not isinstance(content, dict) or content.keys() != _TYPES.keys():
        raise RunError(f"{file}: not the state of a run, or that of an earlier version")
    for name, kind in _TYPES.items():
        if not isinstance(content[name], kind):
            raise RunError(f"{file}: not the state of a run: {name} is not a {kind.__name__}")
    try:
        return RunState(**run_state_migration.convert(content))
    except (KeyError, TypeError, AttributeError) as exc:
        raise RunError(f"{file}: damaged: {exc}") from exc


_TYPES: dict[str, type] = {
    "network": dict,
    "optimizer": dict,
    "epoch": int,
    "best": float,
    "last_weights": list,
    "settings": dict,
}


def claim(folder: Path) -> BinaryIO | None:
    """Keep other processes from training in a folder for as long as the returned file is open.

    None where the file system has no locks. Raises RunError where another one trains there.
    """
    lock = (folder / _LOCK).open("ab")
    try:
        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):  # as POSIX permits
        lock.close()
        raise RunError(f"{folder}: another run writes to it; choose another --out") from None
    except OSError:
        lock.close()
        return None
    return lock


def settings(options: TrainOptions, data_sha256: str) -> dict[str, str]:
    """Return the options that affect the weights, as text by their names."""
    values: dict[str, object] = {
        field.name: getattr(options, field.name)
        for field in fields(options)
        if field.name not in _FREE
    }
    values |= {name: float(getattr(options, name)) for name in _floats(options)}
    values["init_from"] = options.init_from.resolve() if options.init_from else None
    values |= options.task.learning_settings()
    texts = {name: _text(value) for name, value in values.items()}
    return texts | {"task": options.task.name, "data": f"contents of SHA-256 {data_sha256[:16]}"}


def _floats(options: TrainOptions) -> list[str]:
    """Return the names of the options of type float, for which 1 and 1.0 are the same."""
    return [field.name for field in fields(options) if isinstance(field.default, float)]


def _text(value: object) -> str:
    if isinstance(value, Mapping):
        value = ",".join(f"{name}={float(number)}" for name, number in value.items())
    return "none" if value is None or value == "" else str(value)


def check_same(file: Path, saved: Mapping[str, str], now: Mapping[str, str]) -> None:
    """Raise RunError, naming each setting that differs from that of the run's start."""
    differences = [
        f"{flag(name)} {now.get(name, 'none')}, but the run has {saved.get(name, 'none')}"
        for name in [*now, *(saved.keys() - now.keys())]
        if now.get(name) != saved.get(name)
    ]
    if differences:
        raise RunError(
            f"{file} was started with other settings: {'; '.join(differences)}; "
            "resume it with the same settings, or choose another --out"
        )
