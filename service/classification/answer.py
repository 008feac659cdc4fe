"""What the network said about one clip, as the service and the command line tell it."""

from __future__ import annotations

import base64
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from service.classification import schemas
from service.decoding.job import DecodeResult
from service.http.form import Options
from service.inference.batch_queue import InferenceResult

if TYPE_CHECKING:
    from model.checkpoint import Card


@dataclass(frozen=True)
class Parts:
    """All that an answer is made of. `name` is the one the checkpoint is called by."""

    name: str
    card: Card
    options: Options
    decoded: DecodeResult
    ran: InferenceResult
    steps: int


@dataclass(frozen=True)
class Explained:
    """Contributions by stream (and `bias`) and label, and the maps where they were asked for."""

    contributions: dict[str, dict[str, float]]
    attention: dict[str, schemas.StreamMaps] | None


def asked(options: Options) -> tuple[str, ...]:
    """What the engine is asked to explain beside its logits."""
    return () if options.attention == "none" else ("attention",)


def explained(parts: Parts) -> Explained:
    """Contributions and maps; takes milliseconds where overlays are drawn."""
    from model.explain import maps

    output = parts.ran.output
    shares = maps.contributions(output, list(parts.card.streams), parts.card.labels)
    if parts.options.attention == "none":
        return Explained(shares, None)
    return Explained(shares, {name: _maps(parts, name) for name in output.attention or {}})


def _maps(parts: Parts, name: str) -> schemas.StreamMaps:
    """One stream's maps, drawn as well where that was asked for."""
    from model.explain.maps import attention_maps
    from model.explain.overlay import overlay

    prepared, attention = parts.decoded.prepared[name], parts.ran.output.attention
    assert attention is not None
    maps = attention_maps(attention[name], prepared, parts.card.config.streams[name])
    spatial, temporal = maps.spatial, maps.temporal
    drawn = None
    if spatial is not None and parts.options.attention == "overlay":
        drawn = base64.b64encode(overlay(spatial, prepared)).decode()
    return schemas.StreamMaps(
        spatial=spatial
        and schemas.SpatialMap(
            values=spatial.values.tolist(),
            rows=spatial.rows,
            columns=spatial.columns,
            row_edges=spatial.row_edges.tolist(),
            column_edges=spatial.column_edges.tolist(),
        ),
        temporal=None if temporal is None else schemas.TemporalMap(values=temporal.tolist()),
        overlay_png=drawn,
    )


def build(
    parts: Parts, explained: Explained, *, request_id: str, total_s: float
) -> schemas.Classification:
    """The answer. `total_s` is the time since the upload's end."""
    labels = parts.card.labels
    probabilities = parts.ran.output.logits[0].softmax(0).tolist()
    ranked = sorted(range(len(labels)), key=lambda index: -probabilities[index])
    ranking = [
        schemas.Probability(label=labels[i], index=i, probability=probabilities[i])
        for i in ranked[: parts.options.top_k]
    ]
    decoded, ran = parts.decoded, parts.ran
    return schemas.Classification(
        id=request_id,
        model=schemas.ModelName(name=parts.name, version=parts.card.version),
        prediction=ranking[0],
        probabilities=ranking,
        contributions=explained.contributions,
        streams={name: schemas.Stream(**asdict(info)) for name, info in decoded.streams.items()},
        attention=explained.attention,
        steps=parts.steps,
        degraded=parts.options.steps is None and parts.steps < parts.card.steps,
        batch_size=ran.batch_size,
        timing_ms=schemas.Timing(
            decode=_ms(decoded.decode_s),
            preprocess=_ms(decoded.preprocess_s),
            queue=_ms(ran.queue_s),
            inference=_ms(ran.inference_s),
            total=_ms(total_s),
        ),
    )


def _ms(seconds: float) -> float:
    return round(1000 * seconds, 3)
