"""What an operator can set: environment variables SCMRL_NAME, or flags of `scmrl serve`.

What is secret is no flag: every user of a machine can read its processes' command lines.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, SecretStr
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

#: The checkpoints of this clone.
WEIGHTS = Path(__file__).resolve().parents[1] / "weights"

MIB = 1024 * 1024


def _setting(default: Any, what: str, unit: str = "", **bounds: Any) -> Any:
    """A field with its unit beside its description, so that tables can be made from it."""
    return Field(default, description=what, json_schema_extra={"unit": unit}, **bounds)


#: A web page's origin as browsers send it; one with a path or a slash would never match.
_ORIGIN = re.compile(r"\*|https?://[^\s/,*]+")


def _origins(given: Any) -> Any:
    """Origins from text with commas between them. Raises ValueError."""
    if not isinstance(given, str):
        return given
    origins = tuple(part.strip().lower() for part in given.split(",") if part.strip())
    for origin in origins:
        if not _ORIGIN.fullmatch(origin):
            raise ValueError(f"{origin!r} is neither * nor an origin like https://example.org")
    return origins


class Settings(BaseSettings):
    """Every setting has a name, a unit, a default and a description; none is required.

    A variable that is set to nothing counts as not set.
    """

    model_config = SettingsConfigDict(
        env_prefix="SCMRL_",
        env_ignore_empty=True,
        frozen=True,
        extra="forbid",
        hide_input_in_errors=True,  # it may be a key
    )

    models: Path = _setting(WEIGHTS, "Folder of checkpoints, one folder NAME each")
    default_model: str = _setting("avdigits", "Checkpoint that answers POST /v1/classify")
    compile: Literal["auto", "off", "on"] = _setting(
        "auto",
        "Fused kernels: auto compiles them behind the running service and changes over "
        "when they agree with the plain network; on waits for them; off does without",
    )
    precision: Literal["float32", "int8"] = _setting(
        "float32",
        "Weights of the fused path: int8 is faster and moves spikes near their threshold; it is "
        "taken where a checkpoint's card has its accuracy with it",
    )
    device: Literal["auto", "cpu", "cuda"] = _setting(
        "auto", "Where networks run; auto takes every CUDA device that there is, or else the CPU"
    )
    host: str = _setting("127.0.0.1", "Address to listen on")
    port: int = _setting(8000, "Port to listen on; 0 takes a free one", ge=0, le=65535)
    api_keys: SecretStr = _setting(
        SecretStr(""),
        "Keys of which every request needs one, `name:key` or `name:key:requests-per-minute`, "
        "with commas or ends of lines between them",
    )
    api_keys_file: Path | None = _setting(
        None, "File of API keys, `name:key` each, one a line, # for comments; read at the start"
    )
    admin_key: SecretStr = _setting(
        SecretStr(""), "The key of what is under /v1/admin, which is not there without one"
    )
    admin_key_file: Path | None = _setting(None, "File that holds the admin key and nothing else")
    rate_limit_per_min: int = _setting(
        0,
        "Requests of each key that has no number of its own, at once and a minute; 0: no limit",
        "requests/min",
        ge=0,
    )
    allow_anonymous: bool = _setting(
        False, "Serve without API keys on an address that others can reach"
    )
    cors_origins: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_origins)] = _setting(
        (), "Origins whose web pages may ask, with commas between them; * for all"
    )
    log_level: Literal["debug", "info", "warning", "error"] = _setting(
        "info", "Least severe messages that are logged"
    )
    log_format: Literal["console", "json"] = _setting(
        "console", "Lines of log: for people, or a JSON object each for machines"
    )

    max_body_bytes: int = _setting(128 * MIB, "Largest request body", "bytes", ge=1024)
    max_file_bytes: int = _setting(64 * MIB, "Largest single file", "bytes", ge=1024)
    max_uploads_bytes: int = _setting(
        1024 * MIB, "All bodies that are held at a time; more get 503", "bytes", ge=1024
    )
    upload_timeout_s: float = _setting(
        30.0, "Longest time that a request's body may take to arrive", "s", gt=0
    )
    max_parts: int = _setting(300, "Most parts in one form", "parts", ge=1)
    max_frames: int = _setting(256, "Most pictures in `frames`", "pictures", ge=1)
    max_duration_s: float = _setting(60.0, "Longest clip or sound", "s", gt=0)
    max_pixels: int = _setting(33_177_600, "Largest picture, width x height", "px", ge=1)
    max_channels: int = _setting(16, "Most channels of a sound", "channels", ge=1, le=64)
    max_sample_rate: int = _setting(384_000, "Highest rate of a sound", "Hz", ge=8000)
    max_steps: int = _setting(64, "Most time steps T that may be asked for", "steps", ge=1)

    max_batch: int = _setting(8, "Most requests that run together", "requests", ge=1, le=1024)
    max_batch_wait_ms: float = _setting(
        2.0, "Longest wait for requests that are still being decoded; alone: none", "ms", ge=0
    )
    queue_length: int = _setting(
        128, "Most accepted requests of one checkpoint at a time; more get 503", "requests", ge=1
    )
    max_wait_s: float = _setting(
        4.0,
        "Longest time to its answer that a request is accepted for, at the rate of the last ones; "
        "more get 503, and while any do it is a quarter of this",
        "s",
        gt=0,
    )
    shed_steps: int = _setting(
        0,
        "Fewest time steps T that requests may be lowered to under load, before any is refused; "
        "0: T is never lowered",
        "steps",
        ge=0,
        le=64,
    )
    request_deadline_s: float = _setting(
        30.0, "Longest time from the upload's end to the answer; then 504", "s", gt=0
    )
    stalled_after_s: float = _setting(
        4.0, "Time at one batch after which /readyz says no; longer than any batch takes", "s", gt=0
    )
    engine_timeout_s: float = _setting(
        20.0, "Time after which a batch counts as hanging and its worker is replaced", "s", gt=0
    )
    shutdown_delay_s: float = _setting(
        0.0, "Shortest time that new requests get 503 for before the service stops", "s", ge=0
    )
    shutdown_grace_s: float = _setting(
        30.0, "Time that accepted requests have to finish when the service stops", "s", ge=0
    )
    decode_workers: int = _setting(
        0, "Processes that decode uploads, one each at a time; 0: one a core", "processes", ge=0
    )
    decode_timeout_s: float = _setting(10.0, "Longest time to read one request's files", "s", gt=0)
    decode_memory_mib: int = _setting(
        1024, "Memory that one request's files may take while they are read", "MiB", ge=64
    )
    threads: int = _setting(
        0, "CPU threads of one network; 0 takes what the machine's quota allows", "threads", ge=0
    )
