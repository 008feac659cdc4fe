"""Write tests/data/golden: `python -m tests.model.make_golden` from the repository's root."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from model.config import Config, StreamConfig
from tests.model.networks import lively
from tests.model.reference import Array, Reference

FOLDER = Path(__file__).resolve().parent.parent / "data" / "golden"
#: No membrane potential lies closer to its threshold than this, unless it is exactly there: the
#: order of a float32 sum cannot flip a spike.
MARGIN = 3e-5
#: Inputs are stored as int8, in units of 1/32.
UNIT = 32


def _stream(channels: int, *size: int, splitting: str = "shallow") -> StreamConfig:
    return StreamConfig.model_validate({"channels": channels, "size": size, "splitting": splitting})


_TWO = {"audio": _stream(1, 12, 16), "visual": _stream(3, 12, 16)}
_SMALL = {"classes": 5, "embed_dim": 8, "heads": 2, "mlp_ratio": 2.0}


def _config(streams: dict[str, StreamConfig] = _TWO, **more: object) -> Config:
    return Config.model_validate({"streams": streams, **_SMALL, **more})


#: Every variant: its configuration, T, and whether one frame is held for all steps.
VARIANTS: dict[str, tuple[Config, int, bool]] = {
    "spatial-temporal": (
        _config(
            {
                "audio": _stream(1, 32, 48, splitting="deep"),
                "visual": _stream(3, 32, 48, splitting="deep"),
            },
            embed_dim=16,
            heads=4,
        ),
        4,
        True,
    ),
    "spatial": (
        _config({"audio": _stream(1, 12, 20), "visual": _stream(3, 16, 12)}, attention="spatial"),
        3,
        False,
    ),
    "temporal": (_config(attention="temporal"), 5, False),
    "no-cross": (_config(attention=None), 4, False),
    "no-alignment": (_config(alignment=False), 4, False),
    "concat": (_config(fusion="concat", alpha=0.5), 4, False),
    "shallow": (_config({"audio": _stream(2, 13, 18), "visual": _stream(2, 15, 17)}), 4, False),
    "single": (_config({"visual": _stream(3, 32, 16, splitting="deep")}, depth=2), 4, True),
    # Few tokens and many steps, or one of its six temporal attentions seldom fires.
    "three": (
        _config(
            {
                "audio": _stream(1, 8, 12),
                "visual": _stream(3, 8, 12),
                "tactile": _stream(2, 8, 12),
            }
        ),
        8,
        False,
    ),
}


def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, (config, steps, held) in VARIANTS.items():
        seed = next(s for s in range(10_000) if _fits(s, config, steps, held))
        file = FOLDER / f"{name}.safetensors"
        save_file(_content(seed, config, steps, held), file, {"config": config.model_dump_json()})
        print(f"{name}: seed {seed}, {file.stat().st_size} bytes")


def _weights(seed: int, config: Config) -> dict[str, Array]:
    network = lively(config, seed)
    return {name: x.double().numpy() for name, x in network.state_dict().items()}


def _inputs(seed: int, config: Config, steps: int, held: bool) -> dict[str, np.ndarray]:
    random = np.random.RandomState(seed)
    return {
        name: np.rint(
            UNIT * random.standard_normal((1 if held else steps, 2, stream.channels, *stream.size))
        ).clip(-127, 127)
        for name, stream in config.streams.items()
    }


def _run(seed: int, config: Config, steps: int, held: bool) -> tuple[Reference, Array]:
    reference = Reference(_weights(seed, config), config.model_dump())
    inputs = {
        name: np.broadcast_to(x / UNIT, (steps, *x.shape[1:]))
        for name, x in _inputs(seed, config, steps, held).items()
    }
    return reference, reference.logits(inputs)


def _fits(seed: int, config: Config, steps: int, held: bool) -> bool:
    """True where every layer fires, but not always, and no potential is near its threshold."""
    reference, _ = _run(seed, config, steps, held)
    rates = [x.mean() for x in reference.spikes.values()]
    alive = min(rates) > 0.01 and max(rates) < 0.95
    # Without alignment a residual is a product, which can be 0 though both its factors fire.
    felt = all(x.any() for x in reference.residuals.values())
    return reference.margin > MARGIN and alive and felt


def _content(seed: int, config: Config, steps: int, held: bool) -> dict[str, np.ndarray]:
    reference, logits = _run(seed, config, steps, held)
    weights = {f"weights.{n}": x.astype(np.float16) for n, x in reference.weights.items()}
    inputs = _inputs(seed, config, steps, held)
    return {
        **weights,
        **{f"inputs.{n}": x.astype(np.int8) for n, x in inputs.items()},
        **{f"spikes.{n}": np.packbits(x.astype(bool)) for n, x in reference.spikes.items()},
        **{f"residuals.{n}": x for n, x in reference.residuals.items()},
        **{f"spatial.{n}": x for n, x in reference.spatial.items()},
        **{f"temporal.{n}": x for n, x in reference.temporal.items()},
        "logits": logits,
        "steps": np.array(steps),
    }


if __name__ == "__main__":
    main()
