"""The configuration of a published checkpoint: from its command line, else from its weights."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from torch import Tensor

from model.checkpoint.card import CheckpointError
from model.checkpoint.published_tasks import Overrides, PublishedTask
from model.config import MAX_STEPS, STAGES, Attention, Config, Fusion, StreamConfig
from model.validation import describe

#: Attention heads and weight of the residual where the command line does not say.
_HEADS, _ALPHA = 16, 1.5
_ATTENTION: dict[str, Attention] = {
    "Spatial": "spatial",
    "Temporal": "temporal",
    "SpatialTemporal": "spatial-temporal",
}
_FUSION: dict[str, Fusion] = {"Add": "add", "Concat": "concat"}
#: Arguments that change what is computed, and their values that this network has.
_NEEDED: dict[str, tuple[Any, ...]] = {
    "model": ("AVspikformer", "spikformer"),
    "node_type": ("LIFNode",),
    "tau": (2.0,),
    "encode": ("direct",),
    "interaction": tuple(_FUSION),
    "attn_method": tuple(_ATTENTION),
}
_BLOCK = re.compile(r"block\.(\d+)\.mlp\..*")


@dataclass(frozen=True)
class PublishedConfig:
    """The network's configuration, its T, and what neither command line nor weights say."""

    config: Config
    steps: int
    assumed: tuple[str, ...]


def read_config(
    weights: Mapping[str, Any],
    arguments: Mapping[str, Any],
    task: PublishedTask,
    overrides: Overrides,
    file: Path,
) -> PublishedConfig:
    """Return the configuration of published weights.

    `arguments`: of the command line that trained them; empty where the file has none. Raise
    CheckpointError naming the argument or entry that does not fit the task or this network.
    """
    return _Reader(weights, arguments, task, overrides, file).read()


class _Reader:
    def __init__(
        self,
        weights: Mapping[str, Any],
        arguments: Mapping[str, Any],
        task: PublishedTask,
        overrides: Overrides,
        file: Path,
    ) -> None:
        self._weights = weights
        self._arguments = arguments
        self._task = task
        self._overrides = overrides
        self._file = file
        self._assumed: list[str] = []

    def read(self) -> PublishedConfig:
        self._check_arguments()
        streams = self._streams()
        classes, width = self._shape("head.weight", 2)
        prefix = self._patch(next(iter(streams)), streams)
        embed_dim = self._shape(f"{prefix}.rpe_conv.weight", 4)[0]
        mlp = "mlp.0.mlp" if len(streams) > 1 else "block.0.mlp"
        hidden = self._shape(f"{mlp}.fc1_conv.weight", 3)[0]
        attention, alignment = self._attention(streams)
        try:
            config = Config(
                streams=streams,
                classes=classes,
                embed_dim=embed_dim,
                heads=self._value("heads", "num_heads", int, _HEADS),
                mlp_ratio=hidden / max(embed_dim, 1),
                attention=attention,
                alignment=alignment,
                alpha=self._alpha(streams, attention),
                fusion="concat" if width == embed_dim * len(streams) > embed_dim else "add",
                depth=self._depth() if len(streams) == 1 else 1,
            )
        except ValidationError as exc:
            first = exc.errors()[0]
            field = ".".join(map(str, first["loc"]))
            raise self._error(field or "config", describe(first)) from exc
        interaction = self._arguments.get("interaction")
        if len(streams) > 1 and interaction and _FUSION[interaction] != config.fusion:
            raise self._error(
                "head.weight",
                f"is of [{classes}, {width}], but args.interaction is {interaction!r} of streams "
                f"of {embed_dim} channels",
            )
        steps = self._value("steps", "step", int, self._task.steps)
        if not 1 <= steps <= MAX_STEPS:
            raise self._error("args.step", f"is {steps}; can be 1 to {MAX_STEPS}")
        return PublishedConfig(config, steps, tuple(self._assumed))

    def _check_arguments(self) -> None:
        for name, allowed in _NEEDED.items():
            value = self._arguments.get(name, allowed[0])
            if name == "attn_method" and not self._arguments.get("cross_attn"):
                continue
            if value not in allowed:
                raise self._error(
                    f"args.{name}",
                    f"is {value!r}; this network has {' or '.join(map(str, allowed))}",
                )
        dataset = self._arguments.get("dataset", self._task.dataset)
        if dataset != self._task.dataset:
            raise self._error(
                "args.dataset",
                f"is {dataset!r}, but --task {self._task.name} is {self._task.dataset!r}",
            )
        size = self._arguments.get("event_size")
        is_events = self._task.streams["visual"].channels == 2
        if is_events and size is not None and (size, size) != self._task.streams["visual"].size:
            side = self._task.streams["visual"].size[0]
            raise self._error("args.event_size", f"is {size!r}; the published one is {side}")

    def _streams(self) -> dict[str, StreamConfig]:
        """Return the streams, with the channels and patch splitting of the weights."""
        names = [name for name in self._task.streams if f"{name}_patch_embed.rpe_conv.weight" in
                 self._weights]  # fmt: skip
        if not names and "patch_embed.rpe_conv.weight" in self._weights:
            names = [self._only_stream()]
        if len(names) not in (1, len(self._task.streams)) or not names:
            raise self._error(
                "state_dict",
                "has no patch embeddings of a published network: expected "
                "audio_patch_embed and visual_patch_embed, or patch_embed",
            )
        expected = {name: self._task.streams[name] for name in names}
        streams = {}
        for name, stream in expected.items():
            prefix = self._patch(name, expected)
            channels = self._shape(f"{prefix}.proj_conv.weight", 4)[1]
            stages = sum(f"{prefix}.proj_conv{i or ''}.weight" in self._weights for i in range(9))
            splitting = next((s for s, count in STAGES.items() if count == stages), None)
            if splitting is None:
                raise self._error(prefix, f"has {stages} stages; this network has 2 or 4")
            if (channels, splitting) != (stream.channels, stream.splitting):
                raise self._error(
                    f"{prefix}.proj_conv.weight",
                    f"is of {channels} channels in {splitting} patch splitting, but --task "
                    f"{self._task.name} has {stream.channels} in {stream.splitting}",
                )
            streams[name] = stream
        return streams

    def _only_stream(self) -> str:
        """Return the stream of a network that has one: that of the command line, or by channels."""
        modality = self._arguments.get("modality")
        if modality in self._task.streams:
            return str(modality)
        channels = self._shape("patch_embed.proj_conv.weight", 4)[1]
        named = {stream.channels: name for name, stream in self._task.streams.items()}
        if channels not in named:
            raise self._error(
                "patch_embed.proj_conv.weight",
                f"is of {channels} channels; --task {self._task.name} has {sorted(named)}",
            )
        return named[channels]

    def _patch(self, stream: str, streams: Mapping[str, StreamConfig]) -> str:
        return "patch_embed" if len(streams) == 1 else f"{stream}_patch_embed"

    def _attention(self, streams: Mapping[str, StreamConfig]) -> tuple[Attention | None, bool]:
        """Return the attention between two streams, and whether alignment follows it."""
        alignment = "block.0.trans_linear.weight" in self._weights
        if len(streams) == 1:
            return Config.model_fields["attention"].default, alignment
        chosen = self._overrides.attention
        if chosen == "none":
            return None, alignment
        if chosen is not None:
            return chosen, alignment
        if "cross_attn" in self._arguments:
            if not self._arguments["cross_attn"]:
                return None, alignment
            return _ATTENTION[self._arguments.get("attn_method", "SpatialTemporal")], alignment
        if "block.0.attn.spatial_attn.q_conv.weight" in self._weights:
            return "spatial-temporal", alignment
        raise self._error(
            "block.0.attn",
            "is the same for attention over space, over time and none, and the file has no "
            "command line: say --attention spatial, temporal or none",
        )

    def _alpha(self, streams: Mapping[str, StreamConfig], attention: Attention | None) -> float:
        if len(streams) == 1 or attention is None:
            return _ALPHA  # not used
        return float(self._value("alpha", "alpha", float, _ALPHA))

    def _value(self, name: str, argument: str, kind: type[Any], default: Any) -> Any:
        """Return an override, an argument of this kind, or the default, which is then assumed."""
        override = getattr(self._overrides, name)
        if override is not None:
            return override
        value = self._arguments.get(argument)
        if value is None:
            self._assumed.append(f"{name} {default}")
            return default
        if isinstance(value, bool) or not isinstance(value, int | kind):
            raise self._error(f"args.{argument}", f"is {value!r}; expected a number")
        return kind(value)

    def _depth(self) -> int:
        return len({match[1] for name in self._weights if (match := _BLOCK.fullmatch(name))})

    def _shape(self, entry: str, dimensions: int) -> tuple[int, ...]:
        tensor = self._weights.get(entry)
        if not isinstance(tensor, Tensor):
            raise self._error(entry, "is missing: these are not weights of a published network")
        if tensor.dim() != dimensions:
            raise self._error(entry, f"is of shape {list(tensor.shape)}; expected {dimensions} "
                              "dimensions")  # fmt: skip
        return tuple(tensor.shape)

    def _error(self, field: str, problem: str) -> CheckpointError:
        return CheckpointError(self._file, field, problem)
