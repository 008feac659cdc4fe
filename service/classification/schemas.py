"""Schemas of the service's JSON responses."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from model.config import EnginePath
from model.media.audio.downmix import DownmixMethod


class _Answer(BaseModel):
    model_config = ConfigDict(frozen=True)


class ModelName(_Answer):
    name: str = Field(examples=["avdigits"])
    version: str = Field(examples=["1.0.0"])


class Probability(_Answer):
    label: str = Field(examples=["7"])
    index: int = Field(description="Position among the checkpoint's labels.", examples=[7])
    probability: float = Field(ge=0, le=1, examples=[0.98])


class Prediction(_Answer):
    """The most probable label. Without `label` and `index` where the service abstains."""

    label: str | None = Field(None, examples=["7"])
    index: int | None = Field(
        None, description="Position among the checkpoint's labels.", examples=[7]
    )
    probability: float = Field(
        ge=0, le=1, description="The highest probability, of whichever label.", examples=[0.98]
    )


class Stream(_Answer):
    """The input of one stream; members that do not apply are left out."""

    used: bool
    reason: str | None = Field(
        None,
        description="Why it was not used: it is missing, or it is silent or blank and the "
        "checkpoint supports missing streams.",
        examples=["the sound is silent (nothing in it exceeds -90 dBFS)"],
    )
    duration_s: float | None = Field(
        None, description="Length of the sound, the events or the series.", examples=[1.9]
    )
    sample_rate: int | None = Field(None, description="Hz.", examples=[48000])
    channels: int | None = Field(None, description="Channels of the sound.", examples=[2])
    mixed: DownmixMethod | None = Field(
        None,
        description="How several channels were mixed to one: `average`, or `strongest channel` "
        "where they cancel each other in the average.",
        examples=["average"],
    )
    track: int | None = Field(
        None,
        description="Number of the sound track that was used, from 1, if the file has several: "
        "the default one, or the first that is not silent.",
        examples=[2],
    )
    tracks: int | None = Field(None, description="Number of sound tracks.", examples=[3])
    frames: int | None = Field(None, description="Pictures used.", examples=[4])
    width: int | None = Field(None, description="Pixels.", examples=[640])
    height: int | None = Field(None, description="Pixels.", examples=[480])
    events: int | None = Field(
        None, description="Events of a camera or a cochlea.", examples=[4096]
    )
    values: int | None = Field(None, description="Values of a series over time.", examples=[160])


class SpatialMap(_Answer):
    """A map over the token grid of a stream. Attention of the other streams to this one: values
    that sum to 1, or all 0 if nothing fired. Class activation: values of any sign."""

    values: list[list[float]] = Field(examples=[[[0.25, 0.25], [0.0, 0.5]]])
    rows: str = Field(examples=["frequency_hz"])
    columns: str = Field(examples=["time_s"])
    row_edges: list[float] = Field(description="Edges of the rows, one more than there are rows.")
    column_edges: list[float] = Field(
        description="Edges of the columns, one more than there are columns."
    )


class TemporalMap(_Answer):
    """Mean attention from the time step of the query (row) to that of the key (column)."""

    values: list[list[float]] = Field(examples=[[[0.2, 0.1], [0.1, 0.3]]])


class StreamMaps(_Answer):
    spatial: SpatialMap | None = None
    temporal: TemporalMap | None = None
    overlay_png: str | None = Field(
        None, description="With attention=overlay: the spatial map over the stream, base64 PNG."
    )


class ClassActivationMap(_Answer):
    spatial: SpatialMap
    overlay_png: str | None = Field(
        None,
        description="With class_activation=overlay: what is positive in the map over the stream, "
        "base64 PNG.",
    )


class ClassActivation(_Answer):
    """What each part of a stream adds to the logit of one label. The values of a map sum to the
    stream's contribution to it."""

    label: str = Field(description="The most probable label.", examples=["7"])
    index: int = Field(description="Position among the checkpoint's labels.", examples=[7])
    maps: dict[str, ClassActivationMap] = Field(
        description="By stream. Empty for fusions of which a contribution is no sum over parts."
    )


class LeaveOneOut(_Answer):
    """Change by each stream: the logits of all streams that were used, minus the logits without
    this stream."""

    changes: dict[str, dict[str, float]] | None = Field(
        None,
        description="By stream and label. Only differences between labels change probabilities: a "
        "stream speaks for the label that it changes most. A stream that was not used has 0.",
        examples=[{"audio": {"7": 2.1}, "visual": {"7": 3.4}}],
    )
    reason: str | None = Field(
        None,
        description="Why there are no changes.",
        examples=["only audio was used, and without it nothing is left to classify"],
    )


class LayerDiagnostics(_Answer):
    """One layer of the network, over all time steps of this clip."""

    firing_rate: float | None = Field(
        None, description="Spikes a neuron and step, 0 to 1; absent without neurons."
    )
    accumulates: int = Field(description="Additions of a weight, one for each spike and target.")
    multiply_accumulates: int = Field(description="Products with values that are not spikes.")
    dense: int = Field(description="Products of the layer in a network of real values, run once.")


class Diagnostics(_Answer):
    """Operations of the network as published, counted from the spikes of this clip."""

    layers: dict[str, LayerDiagnostics] = Field(description="By the layer's name, in their order.")
    energy_uj: float = Field(
        description="Estimate in microjoules: 0.9 pJ an accumulate, 4.6 pJ a multiply-accumulate "
        "(45 nm, float32: Horowitz, ISSCC 2014). Neurons and memory are not counted."
    )
    dense_energy_uj: float = Field(
        description="The same estimate of a network of real values with these layers, run once."
    )


class StepAnswer(_Answer):
    """The answer of the network to the first `steps` time steps of the clip's input."""

    steps: int = Field(examples=[1])
    probabilities: list[Probability] = Field(description="Most probable first, `top_k` of them.")


class Exit(_Answer):
    """Where a clip stopped."""

    margin: float = Field(
        description="The highest probability minus the next, at the end.", examples=[0.97]
    )
    early: bool = Field(description="Whether it stopped before the last time step.")
    steps_run: int = Field(
        description="Time steps of all runs together: each begins anew.", examples=[3]
    )


class Timing(_Answer):
    """Milliseconds from the upload's end to the answer. `inference` is the whole batch's."""

    decode: float
    preprocess: float
    queue: float
    inference: float
    total: float


class Classification(_Answer):
    """The answer to one clip."""

    model_config = ConfigDict(
        frozen=True,
        json_schema_extra={
            "examples": [
                {
                    "id": "0b5e2c1a4d7f4a6e9d38c1f2a7b6e5d4",
                    "model": {"name": "avdigits", "version": "1.0.0"},
                    "prediction": {"label": "7", "index": 7, "probability": 0.98},
                    "abstained": False,
                    "out_of_domain": 0.6,
                    "probabilities": [{"label": "7", "index": 7, "probability": 0.98}],
                    "contributions": {
                        "audio": {"7": 3.1},
                        "visual": {"7": 4.4},
                        "bias": {"7": 0.02},
                    },
                    "leave_one_out": {
                        "changes": {"audio": {"7": 2.1}, "visual": {"7": 3.4}},
                    },
                    "streams": {
                        "audio": {
                            "used": True,
                            "duration_s": 1.9,
                            "sample_rate": 48000,
                            "channels": 2,
                            "mixed": "average",
                        },
                        "visual": {"used": True, "frames": 4, "width": 640, "height": 480},
                    },
                    "attention": {
                        "visual": {
                            "spatial": {
                                "values": [[0.1, 0.2], [0.3, 0.4]],
                                "rows": "y",
                                "columns": "x",
                                "row_edges": [0.0, 240.0, 480.0],
                                "column_edges": [0.0, 320.0, 640.0],
                            },
                            "temporal": {"values": [[0.2, 0.1], [0.1, 0.3]]},
                        }
                    },
                    "class_activation": {
                        "label": "7",
                        "index": 7,
                        "maps": {
                            "visual": {
                                "spatial": {
                                    "values": [[0.02, -0.1], [0.9, 0.2]],
                                    "rows": "y",
                                    "columns": "x",
                                    "row_edges": [0.0, 240.0, 480.0],
                                    "column_edges": [0.0, 320.0, 640.0],
                                }
                            }
                        },
                    },
                    "diagnostics": {
                        "layers": {
                            "patch.audio.stages.1": {
                                "firing_rate": 0.023,
                                "accumulates": 6830208,
                                "multiply_accumulates": 0,
                                "dense": 14155776,
                            }
                        },
                        "energy_uj": 109.4,
                        "dense_energy_uj": 600.7,
                    },
                    "steps": 2,
                    "steps_trace": [
                        {
                            "steps": 1,
                            "probabilities": [{"label": "7", "index": 7, "probability": 0.6}],
                        },
                        {
                            "steps": 2,
                            "probabilities": [{"label": "7", "index": 7, "probability": 0.98}],
                        },
                    ],
                    "exit": {"margin": 0.97, "early": True, "steps_run": 3},
                    "degraded": False,
                    "batch_size": 8,
                    "timing_ms": {
                        "decode": 11.2,
                        "preprocess": 3.0,
                        "queue": 1.1,
                        "inference": 6.0,
                        "total": 22.4,
                    },
                }
            ]
        },
    )

    id: str = Field(description="The request's id, also in the X-Request-ID header and the log.")
    model: ModelName
    prediction: Prediction
    abstained: bool = Field(
        description="Whether the highest probability is below `abstain_below`, or `out_of_domain` "
        "above `abstain_beyond`; `prediction` then has no label, and `probabilities` still has the "
        "ranking."
    )
    out_of_domain: float | None = Field(
        None,
        description="Distance from the clips that the checkpoint was calibrated with: 97 % of them "
        "score below 1. Absent where the card has no reference for "
        "this T and these streams.",
    )
    probabilities: list[Probability] = Field(
        description="Most probable first, `top_k` of them: the share of clips like this one for "
        "which the label is right. Beyond the known clips (`out_of_domain` above 1) they approach "
        "equal ones, where the checkpoint's card says so; their order never changes. They are not "
        "the softmax of the sum of `contributions`, which are of the uncalibrated logits."
    )
    contributions: dict[str, dict[str, float]] = Field(
        description="By stream, and `bias`: the terms of each label's logit, which is their sum. A "
        "stream's term is that of its tower, whose features have already received the other "
        "streams' residuals: it is not what the stream alone brings, for which see "
        "`leave_one_out`. A stream that was not used has 0."
    )
    leave_one_out: LeaveOneOut | None = Field(
        None, description="With contributions=leave_one_out only."
    )
    streams: dict[str, Stream]
    attention: dict[str, StreamMaps] | None = Field(
        None, description="By the stream that the map is drawn on; absent with attention=none."
    )
    class_activation: ClassActivation | None = Field(
        None, description="Absent with class_activation=none."
    )
    diagnostics: Diagnostics | None = Field(None, description="With diagnostics=true only.")
    steps: int = Field(description="Time steps T that the network ran for.")
    steps_trace: list[StepAnswer] | None = Field(
        None, description="With steps_trace=true only: the answer after each run, the last is this."
    )
    exit: Exit | None = Field(None, description="With `exit_margin` only.")
    degraded: bool = Field(description="Whether T was reduced because of the load.")
    batch_size: int = Field(description="Requests in the batch, this one included.")
    timing_ms: Timing


class ModelSummary(_Answer):
    name: str = Field(examples=["avdigits"])
    default: bool = Field(description="Whether it answers POST /v1/classify.")
    status: Literal["loading", "ready", "failed"]
    version: str | None = None
    description: str | None = None
    streams: list[str] | None = Field(None, examples=[["audio", "visual"]])
    labels: list[str] | None = None
    steps: int | None = Field(None, description="Default number of time steps T.")
    missing_streams: bool | None = Field(None, description="Whether a stream may be missing.")
    device: str | None = Field(None, examples=["cpu"])
    path: EnginePath | None = Field(
        None,
        description="Engine path: `plain` is layer by layer, the others use fused kernels "
        "or CUDA graphs.",
    )


class Models(_Answer):
    models: list[ModelSummary]


class Health(_Answer):
    status: Literal["alive"]


class Readiness(_Answer):
    status: Literal["ready"]
    sandbox: list[str] = Field(
        description="Sandbox layers of the decoding processes.",
        examples=[["limits", "no_new_privs", "seccomp"]],
    )
