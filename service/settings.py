"""The settings: environment variables SCMRL_NAME, or flags of `scmrl serve`.

Secrets have no flag, as every user of a machine can read the command lines of its processes.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, SecretStr
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from model.config import MAX_STEPS
from model.device import DeviceError, check_name
from service.renamed_settings import PREFIX, RenamedEnvironment
from service.setting_fields import DAY_S, MAX_BYTES, Topic, seconds, setting, size

#: The checkpoints that come with the code.
WEIGHTS = Path(__file__).resolve().parents[1] / "weights"

MIB = 1024 * 1024
#: An origin as browsers send it: one with a path or a slash would never match.
_ORIGIN = re.compile(r"\*|https?://[^\s/,*]+")


def _parse_origins(value: Any) -> Any:
    """Parse origins separated by commas. Raises ValueError."""
    if not isinstance(value, str):
        return value
    origins = tuple(part.strip().lower() for part in value.split(",") if part.strip())
    for origin in origins:
        if not _ORIGIN.fullmatch(origin):
            raise ValueError(f"{origin!r} is neither * nor an origin like https://example.org")
    return origins


def _check_device(name: str) -> str:
    """Return the name of a device. Raises ValueError."""
    try:
        return check_name(name)
    except DeviceError as exc:
        raise ValueError(str(exc)) from None


class Settings(BaseSettings):
    """All settings. None is required, and an empty environment variable counts as not set.

    Names of the last release work, with a warning: see `renamed_settings`.
    """

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_ignore_empty=True,
        frozen=True,
        extra="forbid",
        hide_input_in_errors=True,  # it may be a key
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings, RenamedEnvironment(settings_cls)

    # --- checkpoints and devices --------------------------------------------------------------

    models: Path = setting(
        Topic.CHECKPOINTS, WEIGHTS, "Folder of checkpoints, with one folder for each name"
    )
    default_model: str = setting(
        Topic.CHECKPOINTS, "avdigits", "Checkpoint that answers POST /v1/classify"
    )
    device: Annotated[str, AfterValidator(_check_device)] = setting(
        Topic.CHECKPOINTS,
        "auto",
        "Device of the networks: cpu, cuda (all CUDA devices) or cuda:N (one of them); auto is "
        "cuda where available, else cpu",
    )
    compile: Literal["auto", "off", "on"] = setting(
        Topic.CHECKPOINTS,
        "auto",
        "Fused kernels: auto compiles them in the background and switches to them once they "
        "agree with the plain network; on compiles them before the service is ready; off never",
    )
    precision: Literal["float32", "int8"] = setting(
        Topic.CHECKPOINTS,
        "float32",
        "Weights of the fused network; int8 is faster, changes spikes near the threshold, and "
        "applies to checkpoints whose card has an accuracy measured with it",
    )
    threads: int = setting(
        Topic.CHECKPOINTS,
        0,
        "CPU threads of one network; 0 uses the cores in the CPU quota",
        "threads",
        ge=0,
        le=1024,
    )

    # --- address and connections --------------------------------------------------------------

    host: str = setting(Topic.NETWORK, "127.0.0.1", "Address to listen on")
    port: int = setting(
        Topic.NETWORK, 8000, "Port to listen on; 0 picks a free one", ge=0, le=65535
    )
    max_connections: int = setting(
        Topic.NETWORK,
        4096,
        "Maximum open connections, lower where the limit of open files is; beyond it, a new "
        "connection closes the one that has been idle longest, or is refused where none is idle",
        "connections",
        ge=1,
        le=1_000_000,
    )
    keep_alive_s: int = setting(
        Topic.NETWORK,
        75,
        "Close a connection that is idle for this long between two requests; set it above the "
        "idle timeout of a load balancer in front, which else reuses closed connections",
        "s",
        ge=1,
        le=DAY_S,
    )
    head_timeout_s: float = seconds(
        Topic.NETWORK,
        10.0,
        "Time limit for a request's head, from its first byte or from the start of a connection",
    )
    send_timeout_s: float = seconds(
        Topic.NETWORK,
        60.0,
        "Time limit for the client to read a response; then the connection is reset",
    )
    linger_s: float = seconds(
        Topic.NETWORK,
        5.0,
        "Keep a connection open for this long after a response that was sent before the end of "
        "the request, so that the client can read it",
    )

    # --- keys and origins ---------------------------------------------------------------------

    api_keys: SecretStr = setting(
        Topic.KEYS,
        SecretStr(""),
        "API keys, separated by commas or line ends: `name:key` or `name:key:requests-per-minute`; "
        "`sha256:` and the SHA-256 of the key in hex may stand for the key",
    )
    api_keys_file: Path | None = setting(
        Topic.KEYS,
        None,
        "File of API keys, one `name:key` a line, # for comments; read again when it changes",
    )
    admin_key: SecretStr = setting(
        Topic.KEYS, SecretStr(""), "Key of /v1/admin, which answers 404 without one"
    )
    admin_key_file: Path | None = setting(
        Topic.KEYS, None, "File that contains the admin key and nothing else"
    )
    allow_weak_keys: bool = setting(
        Topic.KEYS, False, "Accept keys that are shorter than 20 characters or easy to guess"
    )
    allow_anonymous: bool = setting(
        Topic.KEYS, False, "Serve without API keys on an address that others can reach"
    )
    rate_limit_per_min: int = setting(
        Topic.KEYS,
        0,
        "Requests per minute, and at once, for each key without a rate of its own; 0 is no limit",
        "requests/min",
        ge=0,
        le=1_000_000,
    )
    cors_origins: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_parse_origins)] = setting(
        Topic.KEYS,
        (),
        "Origins whose web pages may send requests, separated by commas; * for all",
    )

    # --- uploads ------------------------------------------------------------------------------

    max_body_bytes: int = size(Topic.UPLOADS, 128 * MIB, "Maximum size of a request body")
    max_file_bytes: int = size(Topic.UPLOADS, 64 * MIB, "Maximum size of one file in a form")
    max_total_upload_bytes: int = size(
        Topic.UPLOADS,
        1024 * MIB,
        "Maximum size of all request bodies in memory together; beyond it, reject with 503",
    )
    upload_timeout_s: float = setting(
        Topic.UPLOADS, 30.0, "Time limit for a request body to arrive", "s", gt=0, le=DAY_S
    )
    upload_min_rate: int = setting(
        Topic.UPLOADS,
        1024,
        "Minimum mean rate at which a request body has to arrive, from its 10th second on",
        "bytes/s",
        ge=1,
        le=MAX_BYTES,
    )
    max_parts: int = setting(
        Topic.UPLOADS, 300, "Maximum parts of a form", "parts", ge=1, le=100_000
    )
    max_frames: int = setting(
        Topic.UPLOADS, 256, "Maximum pictures in `frames`", "pictures", ge=1, le=100_000
    )

    # --- media limits -------------------------------------------------------------------------

    max_duration_s: float = setting(
        Topic.MEDIA, 60.0, "Maximum duration of a clip or a sound", "s", gt=0, le=DAY_S
    )
    max_pixels: int = setting(
        Topic.MEDIA,
        33_177_600,
        "Maximum size of a picture, width x height",
        "px",
        ge=1,
        le=1 << 30,
    )
    max_decoded_pixels: int = setting(
        Topic.MEDIA,
        16_000_000_000,
        "Maximum pixels of a video that are decoded to reach its frames, width x height x frames",
        "px",
        ge=1,
        le=1 << 40,
    )
    max_composed_pixels: int = setting(
        Topic.MEDIA,
        1_000_000_000,
        "Maximum pixels that a GIF or APNG (width x height x pictures) or a progressive JPEG "
        "(width x height x scans) composes",
        "px",
        ge=1,
        le=1 << 40,
    )
    max_inflated_bytes: int = size(
        Topic.MEDIA,
        16 * MIB,
        "Maximum size of the inflated texts, profiles and surplus pixel data of a PNG; also by "
        "how much the inflated packets of a container may exceed its file",
    )
    max_demux_cpu_s: float = seconds(
        Topic.MEDIA,
        0.4,
        "CPU time limit for the headers and packets of a file; valid files need a tenth of it",
    )
    max_channels: int = setting(
        Topic.MEDIA, 16, "Maximum channels of a sound", "channels", ge=1, le=64
    )
    max_sample_rate: int = setting(
        Topic.MEDIA, 384_000, "Maximum sample rate of a sound", "Hz", ge=8000, le=100_000_000
    )

    # --- decoding processes -------------------------------------------------------------------

    decode_workers: int = setting(
        Topic.DECODING,
        0,
        "Processes that decode uploads, one request each; 0 is one per core",
        "processes",
        ge=0,
        le=1024,
    )
    decode_timeout_s: float = setting(
        Topic.DECODING, 10.0, "Time limit to read the files of a request", "s", gt=0, le=DAY_S
    )
    decode_memory_mib: int = setting(
        Topic.DECODING,
        1024,
        "Memory limit to read the files of a request",
        "MiB",
        ge=64,
        le=1 << 20,
    )
    sandbox: Literal["auto", "required"] = setting(
        Topic.DECODING,
        "auto",
        "Sandbox of the decoding processes: auto uses each layer that the machine supports; "
        "required does not start without seccomp",
    )

    # --- batches, queue and overload ----------------------------------------------------------

    max_steps: int = setting(
        Topic.INFERENCE,
        MAX_STEPS,
        "Maximum time steps T of a request",
        "steps",
        ge=1,
        le=MAX_STEPS,
    )
    max_batch: int = setting(
        Topic.INFERENCE, 8, "Maximum requests in a batch", "requests", ge=1, le=1024
    )
    max_batch_wait_ms: float = setting(
        Topic.INFERENCE,
        2.0,
        "Maximum time that a batch waits for requests that are still being decoded; a request "
        "that is alone does not wait",
        "ms",
        ge=0,
        le=60_000,
    )
    queue_length: int = setting(
        Topic.INFERENCE,
        128,
        "Maximum requests in flight for each checkpoint; beyond it, reject with 503",
        "requests",
        ge=1,
        le=100_000,
    )
    max_wait_s: float = seconds(
        Topic.INFERENCE,
        4.0,
        "Reject with 503 when the estimated wait exceeds this; drops to a quarter while requests "
        "are being rejected",
    )
    min_steps_under_load: int = setting(
        Topic.INFERENCE,
        0,
        "Under load, reduce the time steps T of requests to no fewer than this before any is "
        "rejected; 0 never reduces them",
        "steps",
        ge=0,
        le=MAX_STEPS,
    )
    request_deadline_s: float = seconds(
        Topic.INFERENCE, 30.0, "Answer 504 when this has passed since the end of the upload"
    )

    # --- start, stop and supervision ----------------------------------------------------------

    load_timeout_s: float = seconds(
        Topic.TIMES,
        120.0,
        "Time limit to load a checkpoint; at the start, the service ends when it has passed",
    )
    stalled_after_s: float = seconds(
        Topic.TIMES, 4.0, "Report not ready when one batch runs longer than this"
    )
    engine_timeout_s: float = seconds(
        Topic.TIMES, 20.0, "Replace a worker when one batch runs longer than this"
    )
    shutdown_delay_s: float = seconds(
        Topic.TIMES,
        0.0,
        "At shutdown, keep running for at least this long while new requests get 503",
        ge=0,
    )
    shutdown_grace_s: float = seconds(
        Topic.TIMES, 30.0, "At shutdown, wait at most this long for requests in flight", ge=0
    )

    # --- logs ---------------------------------------------------------------------------------

    log_level: Literal["debug", "info", "warning", "error"] = setting(
        Topic.LOGS, "info", "Minimum severity of log messages"
    )
    log_format: Literal["console", "json"] = setting(
        Topic.LOGS, "console", "Format of log lines: text, or one JSON object a line"
    )
