"""`scmrl ray`: the service in replicas on the machines of a Ray cluster."""

from __future__ import annotations

import os
import signal
import threading
from contextlib import suppress
from types import ModuleType
from typing import Annotated, NoReturn

import typer
from pydantic import ValidationError

from service.commands.serve import FAILED, MISUSED
from service.keys.exposure import check_exposure
from service.keys.key_file import KeysError, read
from service.ray_serve.scale import Scale
from service.settings import Settings
from service.settings_messages import describe_invalid_variables, variable_warnings

HELP = """Serve from several machines by Ray Serve; needs the extra `ray`.

With --address it deploys into a running cluster and returns; called again, it replaces the replicas
one by one. Without --address it starts Ray on this machine and serves until Ctrl-C or SIGTERM.

Settings are SCMRL_ variables, as of `scmrl serve`; replicas get those that are set here, except
secrets: SCMRL_API_KEYS, SCMRL_ADMIN_KEY and SCMRL_LIMIT_STORE must be set where `ray start` runs.
SCMRL_HOST and SCMRL_PORT are the address on each machine. Every machine needs the same version of
scmrl, and the files that settings name.

Examples:

    scmrl ray --min-replicas 2

    ray start --head; scmrl ray --address auto --max-replicas 32 --cpus 4 --gpus 1
"""


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("ray", help=HELP)(ray)


def ray(
    address: Annotated[
        str | None, typer.Option(help="Address of a cluster, such as auto or HOST:6379.")
    ] = None,
    min_replicas: Annotated[
        int, typer.Option(min=1, metavar="N", help="Minimum number of replicas.")
    ] = 1,
    max_replicas: Annotated[
        int, typer.Option(min=1, metavar="N", help="Maximum number of replicas.")
    ] = 8,
    cpus: Annotated[
        float, typer.Option(min=0.1, metavar="X", help="CPU cores of a replica.")
    ] = 2.0,
    gpus: Annotated[
        float, typer.Option(min=0, metavar="X", help="GPUs of a replica; 0.5: half of one.")
    ] = 0.0,
    target_ongoing_requests: Annotated[
        float,
        typer.Option(
            min=0.1,
            metavar="X",
            help="Requests and streams in flight of a replica before another is started.",
        ),
    ] = 8.0,
    downscale_delay_s: Annotated[
        float,
        typer.Option(min=0, metavar="X", help="Seconds of less load before a replica is stopped."),
    ] = 300.0,
    stop: Annotated[
        bool, typer.Option("--stop", metavar="", help="End the service at --address instead.")
    ] = False,
) -> None:
    """Deploy the service, or end it; see HELP."""
    if stop:
        _stop(address)
        return
    settings = _settings()
    scale = Scale(
        min_replicas=min_replicas,
        max_replicas=max_replicas,
        cpus=cpus,
        gpus=gpus,
        target_ongoing_requests=target_ongoing_requests,
        downscale_delay_s=downscale_delay_s,
    )
    _deploy(address, settings, scale)


def _settings() -> Settings:
    """Read and check the settings; exit where they cannot be used."""
    for warning in variable_warnings(os.environ):
        typer.echo(f"scmrl ray: {warning}", err=True)
    try:
        settings = Settings()
        check_exposure(settings, read(settings))
    except ValidationError as exc:
        _fail(describe_invalid_variables(exc), MISUSED)
    except KeysError as exc:
        _fail(str(exc), MISUSED)
    if settings.grpc_port:
        _fail("SCMRL_GRPC_PORT: replicas on Ray do not serve gRPC; use /v2 over HTTP", MISUSED)
    return settings


def _deploy(address: str | None, settings: Settings, scale: Scale) -> None:
    """Deploy, and serve until a signal where Ray was started here."""
    cluster, serve, deployment = _join(address)
    url = f"http://{settings.host}:{settings.port}"
    if address is not None:
        _run(serve, deployment, scale, settings)
        typer.echo(f"scmrl is ready on port {settings.port} of each machine of the cluster")
        return
    with suppress(KeyboardInterrupt):
        _run(serve, deployment, scale, settings)
        typer.echo(f"scmrl is ready on {url} (API: {url}/docs)")
        threading.Event().wait()
    # A shutdown alone would end the proxy before the replicas have answered what they have.
    _delete(serve, deployment.NAME)
    serve.shutdown()
    cluster.shutdown()


def _stop(address: str | None) -> None:
    """End the service of a cluster, and nothing else that it serves."""
    if address is None:
        _fail("--stop needs --address", MISUSED)
    _, serve, deployment = _join(address)
    if not _delete(serve, deployment.NAME):
        _fail(f"the cluster {address} does not serve scmrl", FAILED)
    typer.echo("scmrl has ended")


def _delete(serve: ModuleType, name: str) -> bool:
    """Delete the application; return when its requests are answered. False: there is none."""
    was_deployed = name in serve.status().applications
    while name in serve.status().applications:
        with suppress(TimeoutError):  # after a minute, which the grace period may exceed
            serve.delete(name)
    return was_deployed


def _run(serve: ModuleType, deployment: ModuleType, scale: Scale, settings: Settings) -> None:
    """Deploy, and return when replicas are ready; exit where they cannot get ready."""
    try:
        serve.start(
            proxy_location="EveryNode",
            http_options={
                "host": settings.host,
                "port": settings.port,
                "keep_alive_timeout_s": settings.keep_alive_s,
            },
        )
        serve.run(deployment.application(scale), name=deployment.NAME, route_prefix="/")
    except RuntimeError as exc:  # the proxy cannot listen, or no replica got ready
        _fail(str(getattr(exc, "cause", exc)), FAILED)  # without a traceback of another process


def _join(address: str | None) -> tuple[ModuleType, ModuleType, ModuleType]:
    """Start Ray here, or join the cluster at `address`; exit where that cannot be. Return the
    modules of Ray, Ray Serve and our application."""
    try:
        import ray as cluster
        from ray import serve

        from service.ray_serve import app
    except ImportError as exc:
        _fail(f"needs the extra ray (pip install 'scmrl[ray]'): {exc}", FAILED)
    if address is not None:
        # One attempt, of 40 s where nothing answers. Ray's 20 would take a quarter of an hour.
        os.environ.setdefault("RAY_gcs_server_port_wait_time_s", "1")
    try:
        cluster.init(address=address or "local", namespace=app.NAME, log_to_driver=address is None)
    except (ConnectionError, RuntimeError, ValueError) as exc:
        cause = str(exc.__cause__ or "")  # it may have a traceback
        why = f"{exc}: {cause}" if cause and "\n" not in cause else str(exc)
        if address is None:
            _fail(f"Ray does not start: {why}", FAILED)
        _fail(
            f"cannot join the Ray cluster {address}: {why}\n"
            "A node of the cluster must have started on this machine: `ray start --head`, or "
            "`ray start --address=HOST:6379`, of the same versions of Ray and Python",
            FAILED,
        )
    # Ray's handler of SIGTERM would abort with a dump.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    return cluster, serve, app


def _fail(message: str, code: int) -> NoReturn:
    typer.echo(f"scmrl ray: {message}", err=True)
    raise typer.Exit(code)
