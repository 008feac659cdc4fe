"""Draw docs/figures/two-objects.png: maps on pictures of two objects, one of which is said.

    python .ci/two_objects_figure.py ../shared/data

Needs the extra `train`, and the data of avdigits and handsigns.
"""

from __future__ import annotations

import sys
from itertools import islice
from pathlib import Path

import matplotlib as mpl
import numpy as np

mpl.use("Agg")
from matplotlib import pyplot

from model.arrays import UInt8Array
from model.explain.maps import attention_maps, class_activation_map
from model.explain.overlay import draw_over_frame
from model.media.types import Clip
from model.training.evaluate import load_data
from model.training.evaluator import Evaluator
from model.training.two_objects import TwoObjectData

ROOT = Path(__file__).resolve().parents[1]
FIGURE = ROOT / "docs" / "figures" / "two-objects.png"
#: Checkpoint, its data below the folder of all, and which of the pictures.
ROWS = (("avdigits", "avdigits", 1), ("handsigns", ".", 4))
SEED, STREAM = 7, "visual"


def pictures(checkpoint: Path, data: Path, number: int) -> list[tuple[str, UInt8Array]]:
    """Return the picture and its maps, each with a title."""
    evaluator = Evaluator(checkpoint, "cpu")
    card, steps = evaluator.card, evaluator.card.steps
    loaded = load_data(evaluator, checkpoint, data)
    assert isinstance(loaded, TwoObjectData)
    (pair,) = islice(loaded.two_objects(number + 1, SEED), number, None)
    prepared = [evaluator.prepare(Clip(sound, pair.pictures), steps) for sound in pair.sounds]
    output = evaluator.run(prepared, steps, explain=("attention",))
    assert output.attention is not None
    frame, stream = pair.pictures.frames[0], card.config.streams[STREAM]
    drawn: list[tuple[str, UInt8Array]] = [("picture", frame)]
    said = [f"“{card.labels[label]}” is said" for label in pair.labels]
    for i, inputs in enumerate(prepared):
        spatial = attention_maps(output.attention[STREAM], inputs[STREAM], stream, i).spatial
        assert spatial is not None
        drawn.append((f"attention\n{said[i]}", draw_over_frame(spatial, frame)))
    for i, inputs in enumerate(prepared):
        label = int(output.logits[i].argmax())
        activation = class_activation_map(
            output.token_logits[STREAM], label, inputs[STREAM], stream, i
        )
        drawn.append((f"class activation\n{said[i]}", draw_over_frame(activation, frame)))
    return drawn


def main(data: Path) -> None:
    """Draw the figure from the data in a folder."""
    rows = [pictures(ROOT / "weights" / name, data / part, n) for name, part, n in ROWS]
    figure, axes = pyplot.subplots(len(rows), len(rows[0]), figsize=(11, 4.4))
    for row, places in zip(rows, axes, strict=True):
        for (title, picture), place in zip(row, np.ravel(places), strict=True):
            place.imshow(picture)
            place.set_title(title, fontsize=9)
            place.set_xticks([])
            place.set_yticks([])
    figure.tight_layout()
    figure.savefig(FIGURE, dpi=110)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
