"""The data sets of spoken digits, as cards name them."""

from __future__ import annotations

from model.checkpoint import Source


def speech_sources(synthetic_takes: int) -> tuple[Source, ...]:
    """Return the sources of the spoken digits; `synthetic_takes` of each digit are espeak-ng's."""
    recorded = Source(
        name="Free Spoken Digit Dataset",
        what="spoken digits: speakers jackson, lucas and nicolas, 50 takes a digit each",
        licence="CC BY-SA 4.0",
    )
    if not synthetic_takes:
        return (recorded,)
    synthetic = Source(
        name="espeak-ng voices",
        what=f"synthetic speech made by this project, {synthetic_takes} takes a digit",
        licence="MIT, as this project",
    )
    return (recorded, synthetic)
