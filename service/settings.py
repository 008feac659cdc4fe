"""The settings: environment variables SCMRL_NAME, or flags of `scmrl serve`.

Secrets have no flag, as every user of a machine can read the command lines of its processes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from model.config import MAX_STEPS, Precision
from service.default_checkpoint import DEFAULT_MODEL, WEIGHTS, default_model
from service.renamed_settings import RenamedEnvironment
from service.setting_fields import DAY_S, MAX_BYTES, Topic, seconds, setting, size
from service.setting_names import PREFIX
from service.setting_types import DeviceName, Origins, StoreAddress

MIB = 1024 * 1024
#: Upper bound of http_workers.
MAX_HTTP_WORKERS = 64


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

    @model_validator(mode="after")
    def _default_to_the_only_checkpoint(self) -> Self:
        """Set the default checkpoint to the only one of `models`, unless it is set."""
        if "default_model" not in self.model_fields_set and "models" in self.model_fields_set:
            # The settings are frozen.
            object.__setattr__(self, "default_model", default_model(self.models))
        return self

    @field_validator("compile", "precision", "sandbox", "log_level", "log_format", mode="before")
    @classmethod
    def _in_any_case(cls, value: object) -> object:
        """Accept a choice in any case: other programs have the level of a log in capitals."""
        return value.lower() if isinstance(value, str) else value

    # --- checkpoints and devices --------------------------------------------------------------

    models: Path = setting(
        Topic.CHECKPOINTS, WEIGHTS, "Folder of checkpoints, one sub-folder for each"
    )
    default_model: str = setting(
        Topic.CHECKPOINTS,
        DEFAULT_MODEL,
        "Checkpoint that answers POST /v1/classify; if not set and --models has a single "
        "checkpoint, that one",
    )
    device: DeviceName = setting(
        Topic.CHECKPOINTS,
        "auto",
        "Device that runs the networks: cpu, cuda (all CUDA devices), cuda:N (one of them), or "
        "auto: cuda if available, else cpu",
    )
    compile: Literal["auto", "off", "on"] = setting(
        Topic.CHECKPOINTS,
        "auto",
        "When to compile the fused kernels, which are used if they agree with the plain network: "
        "auto compiles them in the background after the start; on compiles them before the "
        "service is ready; off does not use them",
    )
    tune_s: float = setting(
        Topic.CHECKPOINTS,
        120.0,
        "Maximum time of measuring, on a GPU in the background after a checkpoint is served, how "
        "its fused kernels divide their work fastest; what is found is kept in TRITON_CACHE_DIR",
        "s",
        zero="not measured",
        ge=0,
        le=DAY_S,
    )
    precision: Precision = setting(
        Topic.CHECKPOINTS,
        "float32",
        "Precision of the weights that the fused network multiplies by spikes: float32; int8, on "
        "CPUs; or float16, on CUDA devices. int8 and float16 take less work and change some "
        "spikes; each is used only for checkpoints whose card has an accuracy measured with it",
    )
    threads: int = setting(
        Topic.CHECKPOINTS,
        0,
        "CPU threads of one network; 0: one for each core that affinity and CPU quota allow",
        "threads",
        zero="automatic",
        ge=0,
        le=1024,
    )

    # --- address and connections --------------------------------------------------------------

    host: str = setting(Topic.NETWORK, "127.0.0.1", "Address to listen on")
    port: int = setting(Topic.NETWORK, 8000, "Port to listen on; 0: any free port", ge=0, le=65535)
    http_workers: int = setting(
        Topic.NETWORK,
        0,
        "Processes that accept connections, decode and make answers, beside the one that runs the "
        "networks; 1: one process does everything; 0: one for each four cores where there is a GPU "
        "and at least eight cores, else 1",
        "processes",
        zero="automatic",
        ge=0,
        le=MAX_HTTP_WORKERS,
    )
    grpc_port: int = setting(
        Topic.NETWORK,
        0,
        "Port to listen on for gRPC (Open Inference Protocol); needs the extra grpc",
        zero="off",
        ge=0,
        le=65535,
    )
    page: bool = setting(
        Topic.NETWORK,
        True,
        "Serve the page at /, on which clips and live streams are classified in a browser; "
        "if off, / redirects to /docs",
    )
    max_connections: int = setting(
        Topic.NETWORK,
        4096,
        "Maximum open connections, reduced if the limit of open files is lower. Beyond it, a new "
        "connection closes the one that has been idle longest, or is refused if none is idle",
        "connections",
        ge=1,
        le=1_000_000,
    )
    keep_alive_s: int = setting(
        Topic.NETWORK,
        75,
        "Close a connection that has been idle for this long between two requests. Set it above "
        "the idle timeout of a load balancer, so that it does not reuse closed connections",
        "s",
        ge=1,
        le=DAY_S,
    )
    head_timeout_s: float = seconds(
        Topic.NETWORK,
        10.0,
        "Time limit for receiving the request line and headers, from the first byte or, on a new "
        "connection, from its start",
    )
    send_timeout_s: float = seconds(
        Topic.NETWORK,
        60.0,
        "Reset the connection when the client has not read a response within this time",
    )
    linger_s: float = seconds(
        Topic.NETWORK,
        5.0,
        "After a response that was sent before the whole request had arrived, keep reading and "
        "dropping the upload for this long, so that the client can read the response",
    )

    # --- keys and origins ---------------------------------------------------------------------

    api_keys: SecretStr = setting(
        Topic.KEYS,
        SecretStr(""),
        "API keys, separated by commas or line ends: `name:key` or `name:key:requests-per-minute`. "
        "A key may be replaced by `sha256:` and its SHA-256 in hex",
    )
    api_keys_file: Path | None = setting(
        Topic.KEYS,
        None,
        "File of API keys, one `name:key` per line, # for comments; reloaded when it changes",
    )
    admin_key: SecretStr = setting(
        Topic.KEYS, SecretStr(""), "Key for /v1/admin; without one, /v1/admin is 404"
    )
    admin_key_file: Path | None = setting(
        Topic.KEYS, None, "File that contains the admin key and nothing else"
    )
    allow_weak_keys: bool = setting(
        Topic.KEYS, False, "Accept keys that are shorter than 20 characters or easy to guess"
    )
    allow_anonymous: bool = setting(
        Topic.KEYS, False, "Serve without API keys on addresses that other machines can reach"
    )
    rate_limit_per_min: int = setting(
        Topic.KEYS,
        0,
        "Rate limit of each key that has none of its own; also the size of the largest burst. A "
        "request of several clips counts as so many",
        "requests/min",
        zero="no limit",
        ge=0,
        le=1_000_000,
    )
    limit_store: StoreAddress = setting(
        Topic.KEYS,
        SecretStr(""),
        "Address of a Redis or Valkey in which several processes share the rate limits and stream "
        "limits of keys, as redis://:PASSWORD@HOST:6379/0 (rediss:// with TLS, unix:// for a "
        "socket); needs the extra redis. Without it, or while it does not answer, each process "
        "applies them alone",
    )
    limit_store_timeout_s: float = seconds(
        Topic.KEYS, 0.25, "Time limit for an answer of the store of limits"
    )
    cors_origins: Origins = setting(
        Topic.KEYS,
        (),
        "Origins whose web pages may send requests (CORS), separated by commas; * for all",
    )

    # --- uploads ------------------------------------------------------------------------------

    max_body_bytes: int = size(Topic.UPLOADS, 128 * MIB, "Maximum size of a request body")
    max_file_bytes: int = size(Topic.UPLOADS, 64 * MIB, "Maximum size of one file in a form")
    max_total_upload_bytes: int = size(
        Topic.UPLOADS,
        1024 * MIB,
        "Reject with 503 when all request bodies in memory together exceed this",
    )
    upload_timeout_s: float = seconds(
        Topic.UPLOADS, 30.0, "Time limit for receiving a request body"
    )
    upload_min_rate: int = setting(
        Topic.UPLOADS,
        1024,
        "Reject a request body whose mean rate is below this, from its 10th second on",
        "bytes/s",
        ge=1,
        le=MAX_BYTES,
    )
    max_parts: int = setting(
        Topic.UPLOADS, 300, "Maximum parts of a form, for each clip", "parts", ge=1, le=100_000
    )
    max_json_mib: int = setting(
        Topic.UPLOADS, 32, "Maximum body of a request in JSON", "MiB", ge=1, le=4096
    )
    call_clips: int = setting(
        Topic.UPLOADS, 64, "Maximum clips in one call", "clips", ge=1, le=10_000
    )
    call_clips_in_flight: int = setting(
        Topic.UPLOADS,
        4,
        "Clips of one call that are decoded, queued or run at a time; the others of the call wait, "
        "so that it leaves room for other clients",
        "clips",
        ge=1,
        le=10_000,
    )
    max_frames: int = setting(
        Topic.UPLOADS, 256, "Maximum pictures in `frames`", "pictures", ge=1, le=100_000
    )

    # --- media limits -------------------------------------------------------------------------

    max_frame_shift: float = setting(
        Topic.MEDIA,
        0.0,
        "Use a key frame in place of the frame at the centre of a time step's part of the clip "
        "(its length / T), where it is at most this share of the part away: decoding is faster, "
        "and the pictures are other ones, which costs some checkpoints accuracy",
        "of a part",
        zero="always the frame at the centre",
        ge=0,
        le=0.5,
    )
    max_duration_s: float = seconds(Topic.MEDIA, 60.0, "Maximum duration of a clip or a sound")
    max_pixels: int = setting(
        Topic.MEDIA, 33_177_600, "Maximum size of a picture, width x height", "px", ge=1, le=1 << 30
    )
    max_decoded_pixels: int = setting(
        Topic.MEDIA,
        16_000_000_000,
        "Maximum pixels that are decoded of one video, width x height x frames",
        "px",
        ge=1,
        le=1 << 40,
    )
    max_composed_pixels: int = setting(
        Topic.MEDIA,
        1_000_000_000,
        "Maximum pixels that are composed to decode a GIF or APNG (width x height x pictures) or "
        "a progressive JPEG (width x height x scans)",
        "px",
        ge=1,
        le=1 << 40,
    )
    max_inflated_bytes: int = size(
        Topic.MEDIA,
        16 * MIB,
        "Of a PNG: maximum size of its decompressed metadata, and of pixel data beyond width x "
        "height. Of a container: maximum bytes by which its decompressed packets exceed the file "
        "size",
    )
    max_demux_cpu_s: float = seconds(
        Topic.MEDIA,
        0.4,
        "CPU time limit for parsing the headers and packets of a file; valid files need a tenth",
    )
    max_channels: int = setting(
        Topic.MEDIA, 16, "Maximum channels of a sound", "channels", ge=1, le=64
    )
    max_sample_rate: int = setting(
        Topic.MEDIA, 384_000, "Maximum sample rate of a sound", "Hz", ge=8000, le=100_000_000
    )

    max_events: int = setting(
        Topic.MEDIA,
        5_000_000,
        "Maximum events of an event camera or a cochlea",
        "events",
        ge=1,
        le=1_000_000_000,
    )

    # --- decoding processes -------------------------------------------------------------------

    decode_workers: int = setting(
        Topic.DECODING,
        0,
        "Processes that decode uploads, one request each; 0: one per core",
        "processes",
        zero="automatic",
        ge=0,
        le=1024,
    )
    decode_timeout_s: float = seconds(
        Topic.DECODING, 10.0, "Time limit for decoding the files of a request"
    )
    decode_memory_mib: int = setting(
        Topic.DECODING,
        1024,
        "Memory limit of each decoding process, beyond its libraries",
        "MiB",
        ge=64,
        le=1 << 20,
    )
    sandbox: Literal["auto", "required"] = setting(
        Topic.DECODING,
        "auto",
        "Sandbox of the decoding processes: auto uses every layer that the machine supports; "
        "with required the service does not start without seccomp",
    )

    # --- live streams -------------------------------------------------------------------------

    stream_sessions: int = setting(
        Topic.STREAMS,
        64,
        "Maximum open live streams (WebSocket sessions)",
        "streams",
        ge=0,
        le=100_000,
    )
    stream_sessions_per_key: int = setting(
        Topic.STREAMS, 16, "Maximum open live streams of one API key", "streams", ge=0, le=100_000
    )
    stream_idle_timeout_s: float = seconds(
        Topic.STREAMS,
        30.0,
        "Close a live stream after this time without a message",
    )
    stream_max_s: float = setting(
        Topic.STREAMS, 3600.0, "Maximum duration of a live stream", "s", gt=0, le=7 * DAY_S
    )
    stream_windows_in_flight: int = setting(
        Topic.STREAMS,
        0,
        "Windows of all live streams that are decoded, queued or run at a time; other streams "
        "wait for their turn, so that uploads wait for so many at most; 0: two for each decoding "
        "process",
        "windows",
        zero="automatic",
        ge=0,
        le=100_000,
    )
    stream_buffer_mib: int = setting(
        Topic.STREAMS,
        16,
        "Memory for what one live stream buffers of each input",
        "MiB",
        ge=1,
        le=4096,
    )
    stream_decoders: int = setting(
        Topic.STREAMS,
        16,
        "Maximum open live streams of H.264 or Opus, each with a decoding process of its own",
        "streams",
        ge=0,
        le=10_000,
    )
    stream_decoder_memory_mib: int = setting(
        Topic.STREAMS,
        512,
        "Memory limit of the decoding process of a live stream, beyond its libraries",
        "MiB",
        ge=64,
        le=1 << 20,
    )
    stream_messages_per_s: int = setting(
        Topic.STREAMS,
        200,
        "Maximum messages per second of one live stream",
        "messages/s",
        ge=1,
        le=100_000,
    )

    # --- batches, queue and overload ----------------------------------------------------------

    max_steps: int = setting(
        Topic.INFERENCE, MAX_STEPS, "Maximum time steps T of a request", "steps", ge=1, le=MAX_STEPS
    )
    max_batch: int = setting(
        Topic.INFERENCE,
        0,
        "Maximum requests in a batch; 0: 8, and on a GPU the smallest of 1, 2, 4, … 64 at which it "
        "answers nearly as many requests per second as at any, measured in the background after "
        "the start",
        "requests",
        zero="automatic",
        ge=0,
        le=1024,
    )
    max_batch_wait_ms: float = setting(
        Topic.INFERENCE,
        2.0,
        "Maximum time that a batch waits for requests that are being decoded; a lone request "
        "does not wait. Longer under load: `SCMRL_MAX_BATCH_WAIT_UNDER_LOAD_MS`",
        "ms",
        ge=0,
        le=60_000,
    )
    max_batch_wait_under_load_ms: float = setting(
        Topic.INFERENCE,
        40.0,
        "Maximum time that a request which has waited for a decoding process waits for a fuller "
        "batch, which takes less CPU: an eighth of that wait, at most this, and at least "
        "`SCMRL_MAX_BATCH_WAIT_MS`",
        "ms",
        zero="only `SCMRL_MAX_BATCH_WAIT_MS`",
        ge=0,
        le=60_000,
    )
    queue_length: int = setting(
        Topic.INFERENCE,
        128,
        "Reject with 503 when a checkpoint has this many requests in flight",
        "requests",
        ge=1,
        le=100_000,
    )
    max_wait_s: float = seconds(
        Topic.INFERENCE,
        2.0,
        "Reject with 503 when the estimated wait exceeds this, or half of it while requests "
        "are being rejected",
    )
    min_steps_under_load: int = setting(
        Topic.INFERENCE,
        0,
        "Before requests are rejected, reduce their time steps T, to this many at least",
        "steps",
        zero="never reduce",
        ge=0,
        le=MAX_STEPS,
    )
    request_deadline_s: float = seconds(
        Topic.INFERENCE, 30.0, "Answer 504 when this time has passed since the end of the upload"
    )

    # --- start, stop and supervision ----------------------------------------------------------

    load_timeout_s: float = seconds(
        Topic.TIMES,
        120.0,
        "Abandon loading a checkpoint after this time; at the start, the service exits if it is "
        "the default checkpoint",
    )
    stalled_after_s: float = seconds(
        Topic.TIMES,
        4.0,
        "Answer /readyz with 503 when a worker runs one batch, or every decoding process is at "
        "one file, for longer than this",
    )
    engine_timeout_s: float = seconds(
        Topic.TIMES, 20.0, "Replace a worker when one batch runs longer than this"
    )
    shutdown_delay_s: float = seconds(
        Topic.TIMES,
        0.0,
        "At shutdown, run on for at least this long and answer new requests with 503",
        ge=0,
    )
    shutdown_grace_s: float = seconds(
        Topic.TIMES, 30.0, "At shutdown, wait for requests in flight for at most this long", ge=0
    )

    # --- logs ---------------------------------------------------------------------------------

    log_level: Literal["debug", "info", "warning", "error"] = setting(
        Topic.LOGS, "info", "Minimum severity of log messages"
    )
    log_format: Literal["console", "json"] = setting(
        Topic.LOGS, "console", "Format of log lines: console (text), or json (one object per line)"
    )
