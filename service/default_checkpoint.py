"""The checkpoints that come with the code, and which of a folder answers by default."""

from __future__ import annotations

from pathlib import Path

from model.checkpoint import CARD
from service.runtime.daemon_thread import result_within

#: The checkpoints that come with the code.
WEIGHTS = Path(__file__).resolve().parents[1] / "weights"
#: Name of the checkpoint that answers by default.
DEFAULT_MODEL = "avdigits"
#: Time limit in seconds for listing a folder of checkpoints.
_LIST_TIMEOUT_S = 2.0


def default_model(models: Path) -> str:
    """Return the name of the only checkpoint in a folder, or DEFAULT_MODEL.

    A disk that hangs delays the answer by _LIST_TIMEOUT_S at most.
    """
    cards = result_within(_LIST_TIMEOUT_S, lambda: list(models.glob(f"*/{CARD}")))
    return cards[0].parent.name if cards is not None and len(cards) == 1 else DEFAULT_MODEL
