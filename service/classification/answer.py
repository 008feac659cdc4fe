"""The answer for one classified clip: contributions, maps, probabilities and times."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import TYPE_CHECKING

from service.classification import schemas
from service.classification.early_exit import StepAnswer
from service.classification.leave_one_out import WithoutStreams
from service.classification.options import MapDetail, Options
from service.decoding.job import DecodeResult
from service.inference.batch_queue import InferenceResult

if TYPE_CHECKING:
    from model.checkpoint import Card
    from model.explain.maps import SpatialMap
    from model.preprocess.prepared import Prepared


@dataclass(frozen=True)
class ClassifiedClip:
    """A clip that the network has run on.

    - `name`: by which requests select the checkpoint.
    - `steps`: time steps T of the answer; `planned`: T without an early exit.
    - `trace`: the answers after fewer steps, and this one.
    - `without`: the runs with a stream left out; None where they were not requested.
    """

    name: str
    card: Card
    options: Options
    decoded: DecodeResult
    inference: InferenceResult
    steps: int
    planned: int
    trace: tuple[StepAnswer, ...]
    without: WithoutStreams | None = None


@dataclass(frozen=True)
class Explanation:
    """`contributions` by stream (and `bias`) and label. `leave_one_out`, `attention` maps by
    stream, and `class_activation`: None where they were not requested."""

    contributions: dict[str, dict[str, float]]
    leave_one_out: schemas.LeaveOneOut | None
    attention: dict[str, schemas.StreamMaps] | None
    class_activation: schemas.ClassActivation | None


def explain(clip: ClassifiedClip) -> Explanation:
    """Compute contributions and maps. Takes milliseconds where overlays are drawn."""
    from model.explain import maps

    output = clip.inference.output
    terms = maps.contributions(output, list(clip.card.streams), clip.card.labels)
    changes = None if clip.without is None else _leave_one_out(clip, clip.without)
    attention = None
    if clip.options.attention != "none":
        attention = {name: _stream_maps(clip, name) for name in output.attention or {}}
    return Explanation(terms, changes, attention, _class_activation(clip))


def _leave_one_out(clip: ClassifiedClip, without: WithoutStreams) -> schemas.LeaveOneOut:
    from model.explain.maps import leave_one_out

    if not without.outputs:
        return schemas.LeaveOneOut(reason=without.reason)
    output, card = clip.inference.output, clip.card
    changes = leave_one_out(output, without.outputs, list(card.streams), card.labels)
    return schemas.LeaveOneOut(changes=changes)


def _stream_maps(clip: ClassifiedClip, name: str) -> schemas.StreamMaps:
    """Return the attention maps of one stream, with the overlay where it was requested."""
    from model.explain.maps import attention_maps

    prepared, attention = clip.decoded.prepared[name], clip.inference.output.attention
    assert attention is not None
    maps = attention_maps(attention[name], prepared, clip.card.config.streams[name])
    spatial, temporal = maps.spatial, maps.temporal
    return schemas.StreamMaps(
        spatial=spatial and _spatial_map(spatial),
        temporal=None if temporal is None else schemas.TemporalMap(values=temporal.tolist()),
        overlay_png=spatial and _draw(spatial, clip.options.attention, prepared),
    )


def _class_activation(clip: ClassifiedClip) -> schemas.ClassActivation | None:
    """Return the class activation maps of the most probable label, where they were requested."""
    from model.explain.maps import class_activation_map

    detail, card = clip.options.class_activation, clip.card
    if detail == "none":
        return None
    index = clip.trace[-1].order[0]
    maps = {}
    for name, token_logits in clip.inference.output.token_logits.items():
        prepared = clip.decoded.prepared[name]
        spatial = class_activation_map(token_logits, index, prepared, card.config.streams[name])
        maps[name] = schemas.ClassActivationMap(
            spatial=_spatial_map(spatial), overlay_png=_draw(spatial, detail, prepared)
        )
    return schemas.ClassActivation(label=card.labels[index], index=index, maps=maps)


def _spatial_map(spatial: SpatialMap) -> schemas.SpatialMap:
    return schemas.SpatialMap(
        values=spatial.values.tolist(),
        rows=spatial.rows,
        columns=spatial.columns,
        row_edges=spatial.row_edges.tolist(),
        column_edges=spatial.column_edges.tolist(),
    )


def _draw(spatial: SpatialMap, detail: MapDetail, prepared: Prepared) -> str | None:
    """Return the overlay, base64 PNG, where it was requested."""
    from model.explain.overlay import overlay

    return base64.b64encode(overlay(spatial, prepared)).decode() if detail == "overlay" else None


def build_answer(
    clip: ClassifiedClip, explanation: Explanation, *, request_id: str, total_s: float
) -> schemas.Classification:
    """Return the answer. `total_s` is the time since the upload's end, in seconds."""
    ranking = _ranking(clip, clip.trace[-1])
    score = clip.trace[-1].ood_score
    abstained = _abstains(clip, ranking[0].probability, score)
    decoded, inference = clip.decoded, clip.inference
    return schemas.Classification(
        id=request_id,
        model=schemas.ModelName(name=clip.name, version=clip.card.version),
        prediction=_prediction(ranking[0], abstained),
        abstained=abstained,
        out_of_domain=None if score is None else round(score, 4),
        probabilities=ranking,
        contributions=explanation.contributions,
        leave_one_out=explanation.leave_one_out,
        streams={name: schemas.Stream(**vars(info)) for name, info in decoded.streams.items()},
        attention=explanation.attention,
        class_activation=explanation.class_activation,
        diagnostics=_diagnostics(clip),
        steps=clip.steps,
        steps_trace=_steps_trace(clip),
        exit=_exit(clip),
        degraded=clip.options.steps is None and clip.planned < clip.card.steps,
        batch_size=inference.batch_size,
        timing_ms=schemas.Timing(
            decode=_ms(decoded.decode_s),
            preprocess=_ms(decoded.preprocess_s),
            queue=_ms(inference.queue_s),
            inference=_ms(inference.inference_s),
            total=_ms(total_s),
        ),
    )


def _ranking(clip: ClassifiedClip, answer: StepAnswer) -> list[schemas.Probability]:
    """Return the labels by their probability, as many as the options ask for."""
    labels, probabilities = clip.card.labels, answer.probabilities
    return [
        schemas.Probability(label=labels[i], index=i, probability=probabilities[i])
        for i in answer.order[: clip.options.top_k]
    ]


def _steps_trace(clip: ClassifiedClip) -> list[schemas.StepAnswer] | None:
    if not clip.options.steps_trace:
        return None
    return [
        schemas.StepAnswer(steps=step.steps, probabilities=_ranking(clip, step))
        for step in clip.trace
    ]


def _exit(clip: ClassifiedClip) -> schemas.Exit | None:
    if clip.options.exit_margin is None:
        return None
    return schemas.Exit(
        margin=clip.trace[-1].margin,
        early=clip.steps < clip.planned,
        steps_run=sum(step.steps for step in clip.trace),
    )


def _diagnostics(clip: ClassifiedClip) -> schemas.Diagnostics | None:
    """Return the operations of the clip, where they were requested."""
    operations = clip.inference.output.operations
    if operations is None:
        return None
    layers = {
        name: schemas.LayerDiagnostics(
            firing_rate=None
            if layer.firing_rate is None
            else round(float(layer.firing_rate[0]), 5),
            accumulates=round(float(layer.accumulates[0])),
            multiply_accumulates=round(float(layer.multiply_accumulates[0])),
            dense=layer.dense,
        )
        for name, layer in operations.items()
    }
    energy = sum(float(layer.energy_pj[0]) for layer in operations.values())
    dense = sum(layer.dense_energy_pj for layer in operations.values())
    return schemas.Diagnostics(
        layers=layers, energy_uj=round(energy / 1e6, 4), dense_energy_uj=round(dense / 1e6, 4)
    )


def _abstains(clip: ClassifiedClip, probability: float, score: float | None) -> bool:
    options, card = clip.options, clip.card
    lowest = card.abstain_below if options.abstain_below is None else options.abstain_below
    highest = card.abstain_beyond if options.abstain_beyond is None else options.abstain_beyond
    is_beyond = score is not None and highest is not None and score > highest
    return probability < lowest or is_beyond


def _prediction(first: schemas.Probability, abstained: bool) -> schemas.Prediction:
    if abstained:
        return schemas.Prediction(probability=first.probability)
    return schemas.Prediction(**vars(first))


def _ms(seconds: float) -> float:
    return round(1000 * seconds, 3)
