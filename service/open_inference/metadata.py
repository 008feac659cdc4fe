"""Metadata of the server and of checkpoints, with the member names of the protocol."""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from service.classification.upload_fields import checkpoint_fields
from service.errors import Error, Problem
from service.inference.models import Checkpoint, Checkpoints
from service.open_inference.outputs import output_names
from service.settings import Settings

if TYPE_CHECKING:
    from model.checkpoint import Card

NAME = "scmrl"
EXTENSIONS = ["binary_tensor_data", "classification", "model_configuration", "parameters"]
_CONFIG_TYPES = {"BYTES": "TYPE_STRING", "FP32": "TYPE_FP32"}
_STATES = {"ready": "READY", "loading": "LOADING", "failed": "UNAVAILABLE"}


def server() -> dict[str, Any]:
    """Return the server's name, version and extensions of the protocol."""
    return {"name": NAME, "version": version("scmrl"), "extensions": EXTENSIONS}


def check_version(model: Checkpoint, version: str) -> None:
    """Check that a checkpoint has this version, "" for any. Raises Problem UNKNOWN_MODEL."""
    if version not in ("", model.card.version):
        detail = f"The checkpoint {model.name} has the version {model.card.version}."
        raise Problem(Error.UNKNOWN_MODEL, f"{detail} There is no {version[:50]!r}.")


def model(served: Checkpoint) -> dict[str, Any]:
    """Return versions, inputs and outputs of a checkpoint, with the dimension of the clips."""
    card = served.card
    return {
        "name": served.name,
        "versions": [card.version],
        "platform": NAME,
        "inputs": _inputs(card),
        "outputs": [_output(card, name) for name in output_names(card)],
    }


def config(served: Checkpoint, settings: Settings) -> dict[str, Any]:
    """Return the configuration as Triton's clients read it: dimensions without that of the
    clips."""
    metadata = model(served)
    return {
        "name": served.name,
        "platform": NAME,
        "backend": NAME,
        "max_batch_size": settings.call_clips,
        "input": [_config(tensor) | {"optional": True} for tensor in metadata["inputs"]],
        "output": [_config(tensor) for tensor in metadata["outputs"]],
        "parameters": {
            "labels": {"string_value": ",".join(served.card.labels)},
            "steps": {"string_value": str(served.card.steps)},
        },
    }


def index(registry: Checkpoints, *, only_ready: bool) -> list[dict[str, str]]:
    """Return name, version and state of every checkpoint."""
    entries = []
    for name in registry.names:
        served = registry.find(name)
        state = _STATES["ready" if served is not None else registry.status(name)]
        reason = "the log has the reason" if state == "UNAVAILABLE" else ""
        card_version = "" if served is None else served.card.version
        entries.append({"name": name, "version": card_version, "state": state, "reason": reason})
    return [entry for entry in entries if entry["state"] == "READY" or not only_ready]


def _inputs(card: Card) -> list[dict[str, Any]]:
    """Return the files, then the streams. A stream's own field of files has the stream's name: it
    is an input of BYTES as well, but a name can be listed once."""
    files = [row for row in checkpoint_fields(card.kinds) if row.name not in card.streams]
    return [
        *(_tensor(row.name, "BYTES", [-1, -1 if row.max_files else 1]) for row in files),
        *(
            _tensor(name, "FP32", [-1, -1, spec.channels, *spec.size])
            for name, spec in card.streams.items()
        ),
    ]


def _output(card: Card, name: str) -> dict[str, Any]:
    labels = len(card.labels)
    shapes = {
        "probabilities": [-1, labels],
        "logits": [-1, labels],
        "contributions": [-1, len(card.streams) + 1, labels],
        "label": [-1, 1],
    }
    datatype = "BYTES" if name == "label" else "FP32"
    return _tensor(name, datatype, shapes.get(name, [-1, -1, -1]))


def _tensor(name: str, datatype: str, shape: list[int]) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": shape}


def _config(tensor: dict[str, Any]) -> dict[str, Any]:
    datatype = _CONFIG_TYPES[tensor["datatype"]]
    return {"name": tensor["name"], "data_type": datatype, "dims": tensor["shape"][1:]}
