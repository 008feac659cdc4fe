"""`scmrl serve`: the service over HTTP. Each setting is a flag."""

from __future__ import annotations

import asyncio
import inspect
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import SecretStr, ValidationError
from pydantic.fields import FieldInfo

from service.commands.checkpoint_flags import value_name
from service.commands.settings import format_value, topic_of
from service.decoding import sandbox
from service.default_checkpoint import DEFAULT_MODEL
from service.keys.exposure import check_exposure
from service.keys.key_file import Keys, KeysError, exposed, read
from service.observability import logs
from service.processes.worker_count import http_workers
from service.renamed_settings import RENAMED, renamed_warning
from service.runtime import garbage_collection, torch_import
from service.runtime.shutdown import SIGNALS, Stopping, UvicornServer
from service.server.listener import listen, raise_file_limit
from service.setting_names import flag, off_flag, variable
from service.settings import Settings
from service.settings_messages import describe_error, describe_values, variable_warnings

if TYPE_CHECKING:
    from service.errors import StartupError

log = logging.getLogger("scmrl.serve")

#: Exit codes: the service could not start; a setting is invalid.
FAILED, MISUSED = 1, 2

CLIP = Path(__file__).resolve().parents[2] / "tests" / "data" / "clips" / "digit-7.webm"

HELP = """Serve checkpoints over HTTP until Ctrl-C or SIGTERM.

Every flag is also an environment variable: `--max-batch 16` is `SCMRL_MAX_BATCH=16`, and
`--no-page` is `SCMRL_PAGE=false`. None is required. The path /docs describes the API.

Secrets have no flag, as every user of a machine can read its command lines: set `SCMRL_API_KEYS`,
`SCMRL_ADMIN_KEY` and `SCMRL_LIMIT_STORE`, or pass files of keys; `scmrl keys new` generates a key.
API keys are required on addresses that other machines can reach.

Examples:

    scmrl serve

    scmrl serve --host 0.0.0.0 --api-keys-file keys.txt --device cuda

    SCMRL_MODELS=/srv/checkpoints scmrl serve --default-model mine
"""


def register(app: typer.Typer) -> None:
    """Add the command to `app`, with an option for each setting that is not a secret."""

    def serve(**options: Any) -> None:
        flags = {name: value for name, value in options.items() if value is not None}
        warnings = []
        for old in sorted(RENAMED.keys() & flags.keys()):
            new = RENAMED[old]
            warnings.append(renamed_warning(flag(old), flag(new)))
            flags.setdefault(new, flags.pop(old))
        try:
            settings = Settings(**flags)
        except ValidationError as exc:
            for warning in warnings:
                typer.echo(f"scmrl serve: {warning}", err=True)
            for error in exc.errors():
                name = str(error["loc"][0])
                option = f"{flag(name)} ({variable(name)})"
                typer.echo(f"{option}: {describe_error(error)}", err=True)
            raise typer.Exit(MISUSED) from exc
        raise typer.Exit(run(settings, warnings))

    fields = Settings.model_fields
    parameters = [
        _option(name, field) for name, field in fields.items() if field.annotation is not SecretStr
    ]
    parameters += [_option(old, fields[new], hidden=True) for old, new in RENAMED.items()]
    serve.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    app.command("serve", help=HELP)(serve)


class _CannotStart(Exception):
    """The service cannot start; the message is for people."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


def run(settings: Settings, warnings: Sequence[str] = ()) -> int:
    """Report warnings, serve until a signal or a failure, and return the exit code."""
    with garbage_collection.disabled():  # the imports make many objects, all of which stay
        torch_import.preload()
        import service.app
        import service.server.server  # noqa: F401

    logs.configure(settings.log_level, settings.log_format)
    for warning in (*warnings, *variable_warnings(os.environ)):
        _report(warning, settings)
    try:
        keys = _check(settings)
        listener = _listen(settings)
    except _CannotStart as exc:
        _report(str(exc), settings, logging.CRITICAL)
        return exc.code
    serve = _serve if http_workers(settings) == 1 else _serve_with_workers
    failures = serve(settings, keys, listener)
    if settings.log_format == "console":  # with JSON, only the log has it
        for failure in failures:
            _report(str(failure), settings)
    _discard_unwritable_output()
    misused = any(failure.misused for failure in failures)
    code = MISUSED if misused else FAILED if failures else SIGNALS.exit_code
    _exit_while_loading(code)
    return code


def _check(settings: Settings) -> Keys:
    """Report exposed keys, and return the keys. Raises _CannotStart for keys that cannot be used,
    for one port twice, and for a required sandbox that is not available."""
    if settings.port and settings.grpc_port == settings.port:
        message = (
            f"--grpc-port (SCMRL_GRPC_PORT) is {settings.port}, and so is --port (SCMRL_PORT); "
            "they must differ"
        )
        raise _CannotStart(message, MISUSED)
    try:
        keys = read(settings)
        check_exposure(settings, keys)
    except KeysError as exc:
        raise _CannotStart(str(exc), MISUSED) from exc
    for warning in exposed(settings):
        _report(warning, settings)
    if settings.sandbox == "required":
        try:
            sandbox.check()
        except sandbox.SeccompUnavailable as exc:
            raise _CannotStart(str(exc), FAILED) from exc
    return keys


def _listen(settings: Settings) -> socket.socket:
    """Configure the limit of open files, and listen. Raises _CannotStart."""
    raise_file_limit()
    try:
        return listen(settings.host, settings.port)
    except OSError as exc:
        address = f"{settings.host}:{settings.port}"
        advice = "set SCMRL_PORT (--port) or SCMRL_HOST (--host)"
        message = f"cannot listen on {address}: {exc.strerror}; {advice}"
        raise _CannotStart(message, FAILED) from exc


def _serve(settings: Settings, keys: Keys, listener: socket.socket) -> list[StartupError]:
    """Serve in this process until a signal or a failure, and return the failures."""
    from service.app import create_app
    from service.server.server import server_of

    failures: list[StartupError] = []

    def fail(error: StartupError) -> None:
        failures.append(error)
        app.state.scmrl.in_flight.drain()
        server.should_exit = True

    app = create_app(
        settings,
        start_keys=keys,
        hangups=lambda: SIGNALS.hangups,
        on_ready=lambda: _greet(listener, bool(keys.api), settings),
        on_failure=fail,
    )
    server = server_of(app)
    stopping = Stopping(UvicornServer(server), app.state.scmrl.in_flight, settings, SIGNALS)
    server.handle_exit = stopping.on_signal  # type: ignore[method-assign]

    async def serve() -> None:
        async with app.router.lifespan_context(app):
            await server.serve(sockets=[listener])

    with asyncio.Runner(loop_factory=server.config.get_loop_factory()) as runner:
        runner.run(serve())
    return failures


def _exit_while_loading(code: int) -> None:
    """End the process at once where a checkpoint is still being loaded: torch may be computing in
    that thread, and would crash in Python's finalization."""
    from service.inference.loading import LOAD_THREAD

    if any(thread.name == LOAD_THREAD for thread in threading.enumerate()):
        os._exit(code)


def _serve_with_workers(
    settings: Settings, keys: Keys, listener: socket.socket
) -> list[StartupError]:
    """Run the networks in this process, and serve in HTTP workers: see _serve."""
    import uvloop

    from service.app import once
    from service.engine_link.board import Board
    from service.errors import StartupError
    from service.processes.engine_process import EngineProcess

    failures: list[StartupError] = []

    async def serve() -> None:
        def fail(error: StartupError) -> None:
            failures.append(error)
            process.in_flight.drain()
            process.stop(int(settings.shutdown_grace_s))

        try:
            board = Board()
        except OSError as exc:  # the number of open files or the size of files is limited
            reason = f"no memory can be shared with HTTP workers: {exc.strerror}"
            failures.append(StartupError(f"{reason}; SCMRL_HTTP_WORKERS=1 needs none"))
            return
        process = EngineProcess(
            settings,
            keys,
            listener,
            http_workers(settings),
            board,
            hangups=lambda: SIGNALS.hangups,
            on_ready=lambda: _greet(listener, bool(keys.api), settings),
            on_failure=once(fail),
        )
        stopping = Stopping(process, process.in_flight, settings, SIGNALS)
        for signum in (signal.SIGTERM, signal.SIGINT):
            signal.signal(signum, stopping.on_signal)
        await process.run()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve())
    return failures


def _option(name: str, field: FieldInfo, hidden: bool = False) -> inspect.Parameter:
    """Return the option for a setting; without it, the environment or the default applies."""
    default = format_value(field.default, field)
    values = describe_values(field)
    notes = f"[{values}] [default: {default}]" if values else f"[default: {default}]"
    help_text = f"{field.description}. {notes}"
    kind = field.annotation if field.annotation in (bool, int, float, Path) else str
    flags = f"{flag(name)}/{off_flag(name)}" if kind is bool else flag(name)
    # Switches have two names each: beside them, long names of other flags would be cut off.
    panel = f"{topic_of(field)}: switches" if kind is bool else topic_of(field)
    option = typer.Option(
        flags,
        help=help_text,
        show_default=False,
        hidden=hidden,
        metavar=value_name(kind),
        rich_help_panel=panel,
    )
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[kind | None, option],
    )


def _greet(listener: socket.socket, needs_key: bool, settings: Settings) -> None:
    """Print the address of the service, and a command that tries it. With JSON, log the address:
    where stdout and stderr are collected together, every line must be an object."""
    host, port = listener.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
    address = f"http://{host}:{port}"
    if settings.log_format == "json":
        log.info("scmrl is ready on %s", address)
        return
    has_clip = settings.default_model == DEFAULT_MODEL and CLIP.exists()
    clip = os.path.relpath(CLIP) if has_clip else "CLIP.mp4"
    key = "-H 'Authorization: Bearer KEY' " if needs_key else ""
    _say(f"\nscmrl is ready on {address} (API: {address}/docs)")
    _say(f"\n  curl {key}-F clip=@{clip} {address}/v1/classify\n")


def _report(text: str, settings: Settings, level: int = logging.WARNING) -> None:
    """Print a line on stderr; with JSON, where each line must be an object, log it."""
    if settings.log_format == "json":
        log.log(level, text)
    else:
        _say(f"scmrl serve: {text}", to_stderr=True)


def _say(text: str, to_stderr: bool = False) -> None:
    """Print a line for people. A full disk or a closed pipe must not stop the service."""
    try:
        typer.echo(text, err=to_stderr)
    except OSError as exc:
        log.warning("%r cannot be written: %s", text.strip(), exc)


def _discard_unwritable_output() -> None:
    """Discard what stdout and stderr cannot write: Python would try again and exit with 120."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            with open(os.devnull, "w") as nothing:
                os.dup2(nothing.fileno(), stream.fileno())
