"""The answers of a service, typed. Members that are not known here are kept: a newer service may
have more (`answer.model_extra`)."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, RootModel

from .errors import Problem


class _Answer(BaseModel):
    model_config = ConfigDict(frozen=True, extra="allow", protected_namespaces=())


class ModelName(_Answer):
    name: str
    version: str


class Probability(_Answer):
    """A label, its position among the checkpoint's labels, and its probability, 0 to 1."""

    label: str
    index: int
    probability: float


class Prediction(_Answer):
    """The most probable label; without `label` and `index` where the service abstains."""

    label: str | None = None
    index: int | None = None
    probability: float


class StreamInput(_Answer):
    """The input of one stream: `used`, or the `reason` why not. Others by kind: seconds, Hz,
    pixels, counts."""

    used: bool
    reason: str | None = None
    duration_s: float | None = None
    sample_rate: int | None = None
    channels: int | None = None
    mixed: str | None = None
    track: int | None = None
    tracks: int | None = None
    frames: int | None = None
    width: int | None = None
    height: int | None = None
    events: int | None = None
    values: int | None = None


class SpatialMap(_Answer):
    """Values [rows, columns] that sum to 1, and the edges of their cells in units of `rows` and
    `columns`."""

    values: list[list[float]]
    rows: str
    columns: str
    row_edges: list[float]
    column_edges: list[float]


class TemporalMap(_Answer):
    """Attention [T, T] from the time step of the query (row) to that of the key (column)."""

    values: list[list[float]]


class StreamMaps(_Answer):
    """Maps over one stream; `overlay_png` is base64."""

    spatial: SpatialMap | None = None
    temporal: TemporalMap | None = None
    overlay_png: str | None = None


class ClassActivationMap(_Answer):
    """What each part of a stream adds to a logit: values of any sign; `overlay_png` is base64."""

    spatial: SpatialMap
    overlay_png: str | None = None


class ClassActivation(_Answer):
    """The maps by stream of the most probable label."""

    label: str
    index: int
    maps: dict[str, ClassActivationMap]


class LeaveOneOut(_Answer):
    """Change of each logit by stream and label, or the `reason` why there is none."""

    changes: dict[str, dict[str, float]] | None = None
    reason: str | None = None


class LayerDiagnostics(_Answer):
    """Operations of one layer; `firing_rate` in spikes a neuron and step."""

    firing_rate: float | None = None
    accumulates: int
    multiply_accumulates: int
    dense: int


class Diagnostics(_Answer):
    """Operations by layer, and energy in microjoules."""

    layers: dict[str, LayerDiagnostics]
    energy_uj: float
    dense_energy_uj: float


class StepAnswer(_Answer):
    """Probabilities after `steps` time steps."""

    steps: int
    probabilities: list[Probability]


class Exit(_Answer):
    """Early exit of a clip: the margin of its two highest probabilities, and steps of all runs."""

    margin: float
    early: bool
    steps_run: int


class Timing(_Answer):
    """Milliseconds; `total` from the upload's end to the answer."""

    decode: float
    preprocess: float
    queue: float
    inference: float
    total: float


class Classification(_Answer):
    """The answer to one clip; docs/http-api.md has the meaning of its members.

    `probabilities`: 0 to 1, the highest first. `contributions`: by stream (and "bias") and label,
    the terms whose sum is the logit. `out_of_domain`: OOD score, from 0; 97 % of known clips are
    below 1.
    """

    id: str
    model: ModelName
    prediction: Prediction
    abstained: bool = False
    out_of_domain: float | None = None
    probabilities: list[Probability]
    contributions: dict[str, dict[str, float]]
    leave_one_out: LeaveOneOut | None = None
    streams: dict[str, StreamInput]
    attention: dict[str, StreamMaps] | None = None
    class_activation: ClassActivation | None = None
    diagnostics: Diagnostics | None = None
    steps: int
    steps_trace: list[StepAnswer] | None = None
    exit: Exit | None = None
    degraded: bool = False
    batch_size: int
    timing_ms: Timing


class ClipResult(_Answer):
    """The answer to one clip of several, or its problem: seconds after which a retry makes sense,
    or None."""

    answer: Classification | None = None
    problem: Problem | None = None
    retry_after_s: float | None = None


class ClipResults(_Answer):
    """The results of several clips, in their order."""

    id: str
    results: list[ClipResult]


class ModelSummary(_Answer):
    """A checkpoint that is served; what is not known before it is loaded is None."""

    name: str
    default: bool
    status: str
    version: str | None = None
    description: str | None = None
    streams: list[str] | None = None
    labels: list[str] | None = None
    steps: int | None = None
    missing_streams: bool | None = None
    device: str | None = None
    path: str | None = None


class Models(_Answer):
    models: list[ModelSummary]


class Card(RootModel[dict[str, Any]]):
    """A checkpoint's card, as in card.json."""


class Ready(_Answer):
    """The parameters of a live stream; `window_s` and `hop_s` in seconds."""

    type: Literal["ready"] = "ready"
    id: str
    model: str
    window_s: float
    hop_s: float
    steps: int | None = None


class Window(_Answer):
    """Capture times in ns: of the window, and of the newest message by input."""

    begin_ns: int
    end_ns: int
    newest_ns: dict[str, int]


class Answer(_Answer):
    """The answer of a live stream to one window; docs/streams.md has the meaning of its members."""

    type: Literal["answer"] = "answer"
    number: int
    final: bool
    segment: int
    window: Window
    dropped: dict[str, int]
    skipped: int
    packets: dict[str, dict[str, int]] | None = None
    smoothed: dict[str, float]
    behind_ms: float
    result: Classification


class StreamProblem(_Answer):
    """A window that could not be classified, or packets that could not be decoded; the live stream
    goes on."""

    type: Literal["problem"] = "problem"
    error: str
    status: int
    detail: str
    retry_after_s: float | None = None


class Summary(_Answer):
    """Counts of a whole live stream, the last message of one that the client closes."""

    type: Literal["summary"] = "summary"
    seconds: float
    answers: int
    skipped: int
    messages: dict[str, int]
    dropped: dict[str, int]
    packets: dict[str, dict[str, int]] | None = None
    segments: int
