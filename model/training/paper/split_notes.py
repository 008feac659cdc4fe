"""The split of a task of the paper: as notes of a card, and read back from them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from model.training.folder.split import DEVELOPMENT, TEST, TRAIN

if TYPE_CHECKING:
    from model.checkpoint import Card
    from model.preprocess.specs import Spec


def split_notes(seed: int, development_share: float, skip_faulty: bool) -> dict[str, str]:
    """Return the notes of a card that `fields_of_card` reads."""
    return {
        "split_seed": str(seed),
        "development_share": str(development_share),
        "skip_faulty": str(skip_faulty),
    }


def fields_of_card(card: Card, folder: Path) -> dict[str, Any]:
    """Return the fields that the card in this folder decides, which all tasks of the paper have."""
    notes = card.training.notes if card.training else {}
    return {
        "split_seed": int(notes.get("split_seed", 0)),
        "development_share": float(notes.get("development_share", 0)),
        "skip_faulty": notes.get("skip_faulty") == "True",
        "missing_streams": card.missing_streams,
        "specs": card.streams,
        "notes": notes,
        "checkpoint": folder,
    }


def specs_of_card(specs: Mapping[str, Spec], card: Card) -> Mapping[str, Spec]:
    """Return the specs of a task for the streams of a card, of which one was published alone.

    All of them where the card has none of these streams.
    """
    own = {name: spec for name, spec in specs.items() if name in card.streams}
    return own or specs


def defaults_of_counts(defaults: Mapping[str, Any], counts: Mapping[str, int]) -> dict[str, Any]:
    """Return defaults of TrainOptions with the numbers of clips by part.

    Without development clips, the epoch is chosen on the test clips.
    """
    chosen = counts[DEVELOPMENT] or counts[TEST]
    return {**defaults, "clips": max(2, counts[TRAIN]), "development_clips": max(1, chosen)}
