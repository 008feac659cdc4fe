"""`scmrl serve`: the service over HTTP. Its flags are the settings, name by name."""

from __future__ import annotations

import asyncio
import inspect
import ipaddress
import logging
import os
import socket
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import SecretStr, ValidationError
from pydantic.fields import FieldInfo

from service.commands.settings import shown
from service.decoding import sandbox
from service.keys.key_file import Keys, KeysError, exposed, read
from service.observability import logs
from service.runtime import gc, torch_import
from service.runtime.shutdown import SIGNALS, Stopping
from service.server.listener import listen, raise_file_limit
from service.settings import Settings, complaint, unknown_variables

if TYPE_CHECKING:
    from service.errors import StartupError

log = logging.getLogger("scmrl.serve")

#: Exit codes: of a service that could not start, and of settings that make no sense.
FAILED, MISUSED = 1, 2

CLIP = Path(__file__).resolve().parents[2] / "tests" / "data" / "clips" / "digit-7.webm"

HELP = """Serve the checkpoints over HTTP until Ctrl-C or SIGTERM.

Every flag is a setting that the environment can give as well: `--max-batch 16` is
`SCMRL_MAX_BATCH=16`. None is needed. /docs describes what can be asked.

Keys are no flags, since whoever can list processes can read them: set `SCMRL_API_KEYS` and
`SCMRL_ADMIN_KEY`, or name files; `scmrl keys new` makes one. On an address that others can reach,
API keys are needed.

Examples:

    scmrl serve

    scmrl serve --host 0.0.0.0 --api-keys-file keys.txt --device cuda

    SCMRL_MODELS=/srv/checkpoints scmrl serve --default-model mine
"""


def register(app: typer.Typer) -> None:
    """Add the command to `app`, with one option for each field of Settings that is no secret."""

    def serve(**flags: Any) -> None:
        set_here = {name: value for name, value in flags.items() if value is not None}
        try:
            settings = Settings(**set_here)
        except ValidationError as exc:
            for error in exc.errors():
                name = str(error["loc"][0])
                where = f"{_flag(name)} (SCMRL_{name.upper()})"
                typer.echo(f"{where}: {complaint(error)}", err=True)
            raise typer.Exit(MISUSED) from exc
        raise typer.Exit(run(settings))

    options = [
        _option(name, field)
        for name, field in Settings.model_fields.items()
        if field.annotation is not SecretStr
    ]
    serve.__signature__ = inspect.Signature(options)  # type: ignore[attr-defined]
    app.command("serve", help=HELP)(serve)


def run(settings: Settings) -> int:
    """Serve until a signal or a failure; the exit code."""
    with gc.uncollected():
        torch_import.preload()
        from service.app import LOADING, create_app
        from service.server.server import server_of

    for warning in unknown_variables(os.environ):
        typer.echo(f"scmrl serve: {warning}", err=True)
    try:
        keys = read(settings)
        _check_exposure(settings, keys)
    except KeysError as exc:
        typer.echo(f"scmrl serve: {exc}", err=True)
        return MISUSED
    for warning in exposed(settings):
        typer.echo(f"scmrl serve: {warning}", err=True)
    if settings.sandbox == "required":
        try:
            sandbox.check()
        except sandbox.SeccompUnavailable as exc:
            typer.echo(f"scmrl serve: {exc}", err=True)
            return FAILED
    logs.configure(settings.log_level, settings.log_format)
    raise_file_limit()
    try:
        listener = listen(settings.host, settings.port)
    except OSError as exc:
        where = f"{settings.host}:{settings.port}"
        typer.echo(f"cannot listen on {where}: {exc.strerror}; try --port or --host", err=True)
        return FAILED

    failures: list[StartupError] = []

    def fail(error: StartupError) -> None:
        failures.append(error)
        server.should_exit = True

    app = create_app(
        settings,
        start_keys=keys,
        hangups=lambda: SIGNALS.hangups,
        on_ready=lambda: _greet(listener, bool(keys.api)),
        on_failure=fail,
    )
    server = server_of(app)
    stopping = Stopping(server, app.state.scmrl.in_flight, settings, SIGNALS)
    server.handle_exit = stopping.on_signal  # type: ignore[method-assign]

    async def serve() -> None:
        async with app.router.lifespan_context(app):
            await server.serve(sockets=[listener])

    with asyncio.Runner(loop_factory=server.config.get_loop_factory()) as runner:
        runner.run(serve())
    if settings.log_format == "console":  # else the log alone has it, as an object
        for failure in failures:
            _say(f"scmrl serve: {failure}", to_stderr=True)
    _give_up_what_cannot_be_written()
    misused = any(failure.misused for failure in failures)
    code = MISUSED if misused else FAILED if failures else SIGNALS.exit_code
    if any(thread.name == LOADING for thread in threading.enumerate()):
        os._exit(code)  # torch, which may be computing in it, does not survive Python's own end
    return code


def _option(name: str, field: FieldInfo) -> inspect.Parameter:
    """The command's option for one setting. Not given, the environment or the default holds."""
    help_text = f"{field.description}. [default: {shown(field.default, field)}]"
    kind = field.annotation if field.annotation in (bool, int, float, Path) else str
    option = typer.Option(_flag(name), help=help_text, show_default=False)
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[kind | None, option],
    )


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _check_exposure(settings: Settings, keys: Keys) -> None:
    """Raises KeysError where anybody could ask from elsewhere and nobody has said so."""
    if keys.api or settings.allow_anonymous or _is_loopback(settings.host):
        return
    raise KeysError(
        f"on {settings.host or 'every address'} anybody who reaches it could ask. Either set API "
        "keys (SCMRL_API_KEYS=name:key, or SCMRL_API_KEYS_FILE, --api-keys-file), or listen to "
        "this machine alone (SCMRL_HOST, --host 127.0.0.1), or say that you want it so "
        "(SCMRL_ALLOW_ANONYMOUS=true, --allow-anonymous)"
    )


def _is_loopback(host: str) -> bool:
    """Whether only this machine can reach what listens there; a name other than localhost: no."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _greet(listener: socket.socket, needs_key: bool) -> None:
    """Say where the service is, and a line that tries it."""
    host, port = listener.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
    address = f"http://{host}:{port}"
    clip = os.path.relpath(CLIP) if CLIP.exists() else "CLIP.mp4"
    key = "-H 'Authorization: Bearer KEY' " if needs_key else ""
    _say(f"\nscmrl is ready on {address} (its description: {address}/docs)")
    _say(f"\n  curl {key}-F clip=@{clip} {address}/v1/classify\n")


def _say(text: str, to_stderr: bool = False) -> None:
    """A line for people. A full disk, or a reader that has gone, is no reason not to serve."""
    try:
        typer.echo(text, err=to_stderr)
    except OSError as exc:
        log.warning("%r cannot be written: %s", text.strip(), exc)


def _give_up_what_cannot_be_written() -> None:
    """Else Python tries once more at the very end, and exits with 120 where it fails again."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            with open(os.devnull, "w") as nothing:
                os.dup2(nothing.fileno(), stream.fileno())
