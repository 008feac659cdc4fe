"""The command line: `scmrl serve`, `classify`, `models`, `settings`, `keys`, `train`, `evaluate`
and `bench`.

What is heavy (torch, OpenCV, the web framework) is imported by the commands that need it, so
that `scmrl --help` answers at once.
"""

from __future__ import annotations

import typer

from service.commands import bench, classify, evaluate, keys, models, serve, settings, train

app = typer.Typer(
    name="scmrl",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_show_locals=False,
    help="S-CMRL: a spiking network that sees and hears. Classify clips, serve them over HTTP, "
    "train and measure.",
    epilog="Start with `scmrl serve`, or `scmrl classify CLIP`. Each command has its own --help.",
)

serve.register(app)
classify.register(app)
models.register(app)
settings.register(app)
keys.register(app)
train.register(app)
evaluate.register(app)
bench.register(app)
