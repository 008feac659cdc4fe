"""Load and save checkpoints: a folder of weights (safetensors) and their card."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from model.checkpoint.card import CARD, WEIGHTS, Card, CheckpointError, read_card, read_file
from model.config import Config
from model.network import SCMRL
from model.whole_file import replacing

#: A list of numbers in indented JSON, one on each line.
_NUMBERS = re.compile(r"\[\s+((?:-?\d[-+.\deE]*,\s+)*-?\d[-+.\deE]*)\s+\]")
#: Largest weights that are read, in bytes. Published networks have up to 300 MB.
MAX_WEIGHTS_BYTES = 2 << 30


def load(path: Path | str) -> tuple[SCMRL, Card]:
    """Return the network of a checkpoint's folder, in eval mode on the CPU, and its card.

    No code from the folder is run. Raises CheckpointError naming file and field.
    """
    folder = Path(path)
    card = read_card(folder)
    weights = folder / WEIGHTS
    data = read_file(weights, MAX_WEIGHTS_BYTES)
    digest = hashlib.sha256(data).hexdigest()
    if digest != card.sha256:
        raise CheckpointError(
            folder / CARD, "sha256", f"is {card.sha256 or 'empty'}, but {WEIGHTS} has {digest}"
        )
    try:
        tensors = load_tensors(data)
    except (SafetensorError, KeyError, TypeError) as exc:  # or types that torch does not have
        raise CheckpointError(weights, "", f"not a safetensors file: {exc}") from exc
    return build(card.config, tensors, weights), card


def save(path: Path | str, network: SCMRL, card: Card) -> Card:
    """Write a checkpoint's folder, and return the card with the weights' SHA-256 filled in.

    Neither file is ever incomplete; between the two renames `load` rejects the folder by its
    SHA-256. The same weights give the same bytes. Raises CheckpointError where the card is of
    another network, OSError where the folder cannot be written.
    """
    folder = Path(path)
    if card.config != network.config:
        raise CheckpointError(folder / CARD, "config", "is not that of the network")
    tensors = {name: x.detach().cpu().contiguous() for name, x in network.state_dict().items()}
    data = save_tensors(tensors)
    card = card.model_copy(update={"sha256": hashlib.sha256(data).hexdigest()})
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / CARD) as card_file:
        _write_synced(card_file, _card_text(card).encode())
        with replacing(folder / WEIGHTS) as weights_file:
            _write_synced(weights_file, data)
    return card


def _write_synced(file: BinaryIO, content: bytes) -> None:
    file.write(content)
    file.flush()
    os.fsync(file.fileno())


def empty_network(config: Config) -> SCMRL:
    """Return the network on the meta device: names and shapes of its weights without memory."""
    with torch.device("meta"):
        return SCMRL(config)


def build(config: Config, tensors: Mapping[str, Tensor], file: Path | str) -> SCMRL:
    """Return the network with these weights, in eval mode.

    Raises CheckpointError naming `file` and the tensor whose name, shape, type or values are wrong.
    """
    network = empty_network(config)
    expected = network.state_dict()
    for name in tensors.keys() - expected.keys():
        raise CheckpointError(file, name, "is not part of a network of this config")
    for name, like in expected.items():
        if name not in tensors:
            raise CheckpointError(file, name, "is missing")
        tensor = tensors[name]
        if tensor.shape != like.shape or tensor.dtype != like.dtype:
            raise CheckpointError(
                file,
                name,
                f"is {describe(tensor)}, but the config needs {describe(like)}",
            )
        if not tensor.isfinite().all():
            raise CheckpointError(file, name, "holds values that are not finite")
        if name.endswith("threshold") and float(tensor) <= 0:
            raise CheckpointError(file, name, f"is {float(tensor):g}; must be above 0")
    network.load_state_dict(dict(tensors), assign=True)
    return network.eval()


def _card_text(card: Card) -> str:
    """Return the card as indented JSON, with each row of numbers on one line."""
    text = card.model_dump_json(indent=2) + "\n"
    return _NUMBERS.sub(lambda row: "[" + ", ".join(row[1].split()).replace(",,", ",") + "]", text)


def describe(x: Tensor) -> str:
    """Return type and shape of a tensor for a message."""
    return f"{str(x.dtype).removeprefix('torch.')} {list(x.shape)}"
