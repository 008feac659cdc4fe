"""The service as a deployment of Ray Serve: each replica is the app of `service.app`, unchanged.

`application` is what `scmrl ray` and a RayService deploy.
"""

from __future__ import annotations

import asyncio
import os

import ray
from fastapi import FastAPI
from ray import serve
from ray.serve.config import AutoscalingConfig, BackpressureConfig

from service.app import create_app
from service.errors import StartupError
from service.http.state import State
from service.observability import logs
from service.ray_serve.environment import fitted, passed_on, read_keys
from service.ray_serve.scale import Scale
from service.server.listener import raise_file_limit
from service.settings import Settings

#: Name of the deployment and of the application.
NAME = "scmrl"

#: Seconds between two looks at a replica that is starting.
_POLL_S = 0.1
#: Requests of a replica beside clips and streams: health, metrics, descriptions.
_OTHERS = 64
#: Seconds for a replica to stop once its requests are answered.
_STOP_S = 10.0


class Replica:
    """One replica. Its app is at `app`, which `serve.ingress` sets."""

    app: FastAPI

    async def check_health(self) -> None:
        """Return when clips can be answered. Raises RuntimeError where they cannot.

        A replica gets no request before its first check has returned, which waits for the
        checkpoint. Ray replaces a replica whose checks fail three times in a row.
        """
        state: State = self.app.state.scmrl
        failures: list[StartupError] = self.app.state.failures
        is_first = not self.app.state.was_ready
        while reason := await state.not_ready_reason():
            if failures:
                raise RuntimeError(str(failures[0]))
            if not is_first:
                raise RuntimeError(reason)
            await asyncio.sleep(_POLL_S)
        self.app.state.was_ready = True


def application(scale: Scale) -> serve.Application:
    """Return the application to deploy, of the SCMRL_ settings of this process.

    Replicas read their settings from the environment that `passed_on` returns, and secrets from
    that of their node.
    """
    settings = Settings()
    ingress = serve.deployment(
        serve.ingress(build_app)(Replica),
        name=NAME,
        ray_actor_options={
            "num_cpus": scale.cpus,
            "num_gpus": scale.gpus,
            "runtime_env": {"env_vars": passed_on(os.environ, settings)},
        },
        autoscaling_config=AutoscalingConfig(
            min_replicas=scale.min_replicas,
            max_replicas=max(scale.min_replicas, scale.max_replicas),
            target_ongoing_requests=scale.target_ongoing_requests,
            upscale_delay_s=scale.upscale_delay_s,
            downscale_delay_s=scale.downscale_delay_s,
        ),
        # The replica itself rejects what it cannot answer in time, with its own 503.
        max_ongoing_requests=settings.queue_length + settings.stream_sessions + _OTHERS,
        # What no replica takes waits in the proxy, which is to reject as well.
        max_queued_requests=settings.queue_length,
        backpressure_config=BackpressureConfig(status_code=503, retry_after_s=1),
        graceful_shutdown_wait_loop_s=0.5,
        graceful_shutdown_timeout_s=settings.shutdown_grace_s + _STOP_S,
        health_check_period_s=5,
        health_check_timeout_s=30,
    )
    return ingress.bind()


def build_app() -> FastAPI:
    """Build the app of a replica. Raises KeysError."""
    settings = fitted(Settings(), ray.get_runtime_context().get_assigned_resources())
    logs.configure(settings.log_level, settings.log_format)
    raise_file_limit()
    keys = read_keys(os.environ, settings)
    failures: list[StartupError] = []
    app = create_app(settings, start_keys=keys, on_failure=failures.append)
    app.state.failures = failures
    app.state.was_ready = False
    return app
