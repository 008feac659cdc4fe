"""The command line: `scmrl serve`, `ray`, `classify`, `models`, `settings`, `keys`, `train`,
`evaluate`, `calibrate`, `import`, `export`, `study`, `cochlea`, `watch`, `bag` and `bench`.

Commands import heavy modules (torch, OpenCV, the web framework) themselves, so that `scmrl --help`
is fast.
"""

from __future__ import annotations

import typer

from service.commands import (
    bag,
    bench,
    calibrate,
    classify,
    cochlea,
    evaluate,
    export,
    import_checkpoint,
    keys,
    models,
    ray,
    serve,
    settings,
    study,
    train,
    watch,
)

app = typer.Typer(
    name="scmrl",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_show_locals=False,
    help="Serve, run, train and evaluate S-CMRL, a spiking audio-visual network.",
    epilog="Start with `scmrl serve` or `scmrl classify CLIP`. Each command has its own --help.",
)

serve.register(app)
ray.register(app)
classify.register(app)
models.register(app)
settings.register(app)
keys.register(app)
train.register(app)
evaluate.register(app)
calibrate.register(app)
import_checkpoint.register(app)
export.register(app)
study.register(app)
cochlea.register(app)
watch.register(app)
bag.register(app)
bench.register(app)
