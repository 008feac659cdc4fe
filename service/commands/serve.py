"""`scmrl serve`: the service over HTTP. Its flags are the settings, name by name."""

from __future__ import annotations

import inspect
import os
import signal
import socket
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError
from pydantic.fields import FieldInfo

from service import logs
from service.settings import Settings

#: Exit codes: of a service that could not start, and of settings that make no sense.
FAILED, MISUSED = 1, 2

CLIP = Path(__file__).resolve().parents[2] / "tests" / "data" / "clips" / "digit-7.webm"

HELP = """Serve the checkpoints over HTTP until Ctrl-C or SIGTERM.

Every flag is a setting that the environment can give as well: `--max-batch 16` is
`SCMRL_MAX_BATCH=16`. None is needed. /docs describes what can be asked.

Examples:

    scmrl serve

    scmrl serve --host 0.0.0.0 --port 80 --device cuda

    SCMRL_MODELS=/srv/checkpoints scmrl serve --default-model mine
"""


def register(app: typer.Typer) -> None:
    """Add the command to `app`, with one option for each field of Settings."""

    def serve(**given: Any) -> None:
        set_here = {name: value for name, value in given.items() if value is not None}
        try:
            settings = Settings(**set_here)
        except ValidationError as exc:
            for error in exc.errors():
                name = str(error["loc"][0])
                typer.echo(f"{_flag(name)} (SCMRL_{name.upper()}): {error['msg']}", err=True)
            raise typer.Exit(MISUSED) from exc
        raise typer.Exit(run(settings))

    options = [_option(name, field) for name, field in Settings.model_fields.items()]
    serve.__signature__ = inspect.Signature(options)  # type: ignore[attr-defined]
    app.command("serve", help=HELP)(serve)


def run(settings: Settings) -> int:
    """Serve until a signal or a failure; the exit code."""
    import uvicorn

    from service.app import create_app

    logs.configure(settings.log_level, settings.log_format)
    try:
        listener = _listen(settings.host, settings.port)
    except OSError as exc:
        where = f"{settings.host}:{settings.port}"
        typer.echo(f"cannot listen on {where}: {exc.strerror}; try --port or --host", err=True)
        return FAILED

    failures: list[Exception] = []

    def fail(error: Exception) -> None:
        failures.append(error)
        server.should_exit = True

    app = create_app(settings, on_ready=lambda: _greet(listener), on_failure=fail)
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=int(settings.shutdown_grace_s),
    )
    server = uvicorn.Server(config)
    # uvicorn raises the signal that stopped it once more when it is done, to whoever handled
    # it before: a requested stop is a success, not a death by signal.
    for stop in (signal.SIGINT, signal.SIGTERM):
        signal.signal(stop, lambda *_: None)
    server.run(sockets=[listener])
    if settings.log_format == "console":  # else the log alone has it, as an object
        for failure in failures:
            typer.echo(f"scmrl serve: {failure}", err=True)
    return FAILED if failures else 0


def _option(name: str, field: FieldInfo) -> inspect.Parameter:
    """The command's option for one setting. Not given, the environment or the default holds."""
    extra = field.json_schema_extra
    unit = extra.get("unit") if isinstance(extra, dict) else None
    shown = str(field.default) + (f" {unit}" if unit else "")
    if isinstance(field.default, Path):
        shown = os.path.relpath(field.default)
    help_text = f"{field.description}. [default: {shown}]"
    kind = field.annotation if field.annotation in (int, float, Path) else str
    option = typer.Option(_flag(name), help=help_text, show_default=False)
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[kind | None, option],
    )


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _listen(host: str, port: int) -> socket.socket:
    """A bound socket, so that a port that is taken is told of before anything is loaded."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, backlog=2048)


def _greet(listener: socket.socket) -> None:
    """Say where the service is, and a line that tries it."""
    host, port = listener.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
    address = f"http://{host}:{port}"
    clip = os.path.relpath(CLIP) if CLIP.exists() else "CLIP.mp4"
    typer.echo(f"\nscmrl is ready on {address} (its description: {address}/docs)")
    typer.echo(f"\n  curl -F clip=@{clip} {address}/v1/classify\n")
