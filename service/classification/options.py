"""The options of a classification, independent of the protocol of the request."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

MapDetail = Literal["none", "grid", "overlay"]
MAP_DETAILS: tuple[MapDetail, ...] = get_args(MapDetail)
Contributions = Literal["tower", "leave_one_out"]
CONTRIBUTIONS: tuple[Contributions, ...] = get_args(Contributions)


@dataclass(frozen=True)
class Options:
    """The options of one classification.

    - `model`: the checkpoint's name; None: the default one.
    - `steps`: time steps T; None: the checkpoint's own.
    - `top_k`: number of probabilities that are returned, most probable first; None: all.
    - `attention`: "none"; "grid": the maps as numbers; "overlay": drawn as PNGs as well.
    - `class_activation`: the same for the maps of what each part of a stream adds to the logit of
      the most probable label.
    - `contributions`: "tower": the term of each stream's tower; "leave_one_out": also the change of
      each logit when a stream is left out, which needs one more run of the network for each stream.
    - `abstain_below`: abstain where the highest probability is lower, 0 to 1; None: the card's.
    - `abstain_beyond`: abstain where the out-of-distribution score is higher; None: the card's.
    - `diagnostics`: whether to return firing rates, operations and energy by layer, for which the
      plain network runs as well.
    - `steps_trace`: whether to return the probabilities after each time step, for which the network
      runs once for each.
    - `exit_margin`: stop after 1, 2, 4, … steps where the highest probability exceeds the next by
      this, 0 to 1; None: run all.
    - `degrade`: whether fewer steps may be run under load where `steps` is None.
    """

    model: str | None = None
    steps: int | None = None
    top_k: int | None = None
    attention: MapDetail = "grid"
    class_activation: MapDetail = "none"
    contributions: Contributions = "tower"
    abstain_below: float | None = None
    abstain_beyond: float | None = None
    diagnostics: bool = False
    steps_trace: bool = False
    exit_margin: float | None = None
    degrade: bool = True

    @property
    def explain(self) -> tuple[str, ...]:
        """The explanations to request from `Engine.run`."""
        has_maps = (self.attention, self.class_activation) != ("none", "none")
        maps = ("attention",) if has_maps else ()
        return (*maps, "operations") if self.diagnostics else maps

    @property
    def canvas(self) -> bool:
        """Whether the pictures that maps are drawn on are needed."""
        return "overlay" in (self.attention, self.class_activation)
