"""The options of `scmrl evaluate` and `scmrl calibrate`: defaults, ranges and help.

The command line makes its flags from these dataclasses, so this module imports nothing slow.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from model.config import MAX_SEED, MAX_STEPS
from model.training.options import OptionsError, check_ranges, option


@dataclass(frozen=True)
class EvaluateOptions:
    """How to evaluate a checkpoint: its folder, the data folder, and numbers of clips.

    The first `curve_clips` of the `clips` are used for the curves over noise and T.
    """

    checkpoint: Path
    data: Path | None
    out: Path = option(Path("runs/figures"), "Folder for the figures.")
    clips: int = option(1000, "Clips for the accuracy.", between=(10, 100_000))
    curve_clips: int = option(300, "Clips for each point of a curve.", between=(1, 100_000))
    attention_clips: int = option(
        300,
        "Clips for the faithfulness of attention and class activation maps; only those with an "
        "off-centre object.",
        between=(1, 100_000),
    )
    foreign: Path | None = option(
        None,
        "Folder of pictures and sounds that belong to no class: measures how often they get a "
        "probability above 0.5.",
    )
    seed: int = option(7, "Random seed of the clips.", between=(0, MAX_SEED))
    device: str = "auto"
    only_calibration: bool = option(
        False,
        "Measure only calibration errors and clips of no class, as after `scmrl calibrate`. Other "
        "measurements in the card are kept.",
    )
    write_card: bool = option(False, "Write the results into the checkpoint's card.")

    def __post_init__(self) -> None:
        """Raise OptionsError, naming the option, where a value is out of range."""
        check_ranges(self)


@dataclass(frozen=True)
class CalibrateOptions:
    """How to calibrate a checkpoint: its folder, the data folder, and the clips.

    `steps`: numbers of time steps T, joined with commas, that get a temperature; those of other T
    stay as they are in the card. The first `clips` development clips, of each of `folds` if there
    are any.
    """

    checkpoint: Path
    data: Path | None
    steps: str = option("1,2,4,8", "Time steps T, joined with commas, that get a temperature.")
    clips: int = option(400, "Development clips, at most.", between=(20, 100_000))
    device: str = "auto"
    examples: int = option(
        600,
        "Clips of no class to draw for the out-of-distribution score, and examples of training to "
        "add to the development clips; 0: none.",
        between=(0, 100_000),
    )
    cache: Path = option(
        Path("runs"), "Folder in which synthesized words, and decoded clips of folder, are cached."
    )
    folds: tuple[Path, ...] = option(
        (),
        "A checkpoint of the same training with a part of the data left out; repeat for each part. "
        "The temperatures are fitted on the clips that each left out; the out-of-distribution "
        "score stays as it is.",
    )

    @property
    def time_steps(self) -> tuple[int, ...]:
        """The numbers of `steps`, in their order."""
        return tuple(int(text) for text in self.steps.split(","))

    def __post_init__(self) -> None:
        """Raise OptionsError, naming the option, where a value is out of range."""
        check_ranges(self)
        parts = self.steps.split(",")
        are_numbers = all(part.isascii() and part.isdecimal() and len(part) < 4 for part in parts)
        if not are_numbers or not all(1 <= int(part) <= MAX_STEPS for part in parts):
            raise OptionsError(
                f"--steps {self.steps}: must be whole numbers, 1 to {MAX_STEPS}, joined with commas"
            )
