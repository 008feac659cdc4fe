"""What an operator can set: environment variables SCMRL_NAME, or flags of `scmrl serve`.

What is secret is no flag: every user of a machine can read its processes' command lines.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from model.config import MAX_STEPS
from model.device import DeviceError, check_name

#: The checkpoints of this clone.
WEIGHTS = Path(__file__).resolve().parents[1] / "weights"

MIB = 1024 * 1024
#: Largest of what is counted in bytes, and longest of what is a time, in seconds.
_MOST_BYTES, _DAY_S = 1 << 40, 86_400


def _setting(default: Any, what: str, unit: str = "", **bounds: Any) -> Any:
    """A field with its unit beside its description, so that tables can be made from it.

    A number needs bounds on both sides: infinity and what no machine has are refused at the start.
    """
    if type(default) is float:
        bounds["allow_inf_nan"] = False
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


def _device(name: str) -> str:
    """Raises ValueError."""
    try:
        return check_name(name)
    except DeviceError as exc:
        raise ValueError(str(exc)) from None


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
    device: Annotated[str, AfterValidator(_device)] = _setting(
        "auto",
        "Where networks run: cpu, cuda (every CUDA device that there is) or cuda:N (one of them); "
        "auto takes cuda where there is one, or else the CPU",
    )
    host: str = _setting("127.0.0.1", "Address to listen on")
    port: int = _setting(8000, "Port to listen on; 0 takes a free one", ge=0, le=65535)
    api_keys: SecretStr = _setting(
        SecretStr(""),
        "Keys of which every request needs one, `name:key` or `name:key:requests-per-minute`, "
        "where `sha256:` and a key's SHA-256 in hex can stand for the key; "
        "with commas or ends of lines between them",
    )
    api_keys_file: Path | None = _setting(
        None,
        "File of API keys, `name:key` each, one a line, # for comments; read again when it changes",
    )
    admin_key: SecretStr = _setting(
        SecretStr(""), "The key of what is under /v1/admin, which is not there without one"
    )
    admin_key_file: Path | None = _setting(None, "File that holds the admin key and nothing else")
    allow_weak_keys: bool = _setting(
        False, "Take keys that are shorter than 20 characters or can be guessed"
    )
    rate_limit_per_min: int = _setting(
        0,
        "Requests of each key that has no number of its own, at once and a minute; 0: no limit",
        "requests/min",
        ge=0,
        le=1_000_000,
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

    max_body_bytes: int = _setting(
        128 * MIB, "Largest request body", "bytes", ge=1024, le=_MOST_BYTES
    )
    max_file_bytes: int = _setting(
        64 * MIB, "Largest single file", "bytes", ge=1024, le=_MOST_BYTES
    )
    max_uploads_bytes: int = _setting(
        1024 * MIB,
        "All bodies that are held at a time; more get 503",
        "bytes",
        ge=1024,
        le=_MOST_BYTES,
    )
    upload_timeout_s: float = _setting(
        30.0, "Longest time that a request's body may take to arrive", "s", gt=0, le=_DAY_S
    )
    upload_min_rate: int = _setting(
        1024,
        "Slowest that a request's body may arrive on the average, after its first 10 s",
        "bytes/s",
        ge=1,
        le=_MOST_BYTES,
    )
    max_parts: int = _setting(300, "Most parts in one form", "parts", ge=1, le=100_000)
    max_frames: int = _setting(256, "Most pictures in `frames`", "pictures", ge=1, le=100_000)
    max_duration_s: float = _setting(60.0, "Longest clip or sound", "s", gt=0, le=_DAY_S)
    max_pixels: int = _setting(
        33_177_600, "Largest picture, width x height", "px", ge=1, le=1 << 30
    )
    max_composed_pixels: int = _setting(
        1_000_000_000,
        "Most pixels that a GIF or APNG (width x height x pictures) or the scans of a JPEG "
        "(width x height x scans) compose",
        "px",
        ge=1,
        le=1 << 40,
    )
    max_inflated_bytes: int = _setting(
        16 * MIB,
        "Most bytes that texts, profiles and surplus pixel data of a PNG inflate to; by how much a "
        "container's packets, inflated, may exceed the file",
        "bytes",
        ge=1024,
        le=_MOST_BYTES,
    )
    max_decoded_pixels: int = _setting(
        16_000_000_000,
        "Most pixels of a video (width x height x frames) that are decoded for its pictures",
        "px",
        ge=1,
        le=1 << 40,
    )
    max_demux_cpu_s: float = _setting(
        0.4,
        "Longest CPU time to find a file's headers and packets; good files take a tenth of it",
        "s",
        gt=0,
        le=_DAY_S,
    )
    max_channels: int = _setting(16, "Most channels of a sound", "channels", ge=1, le=64)
    max_sample_rate: int = _setting(
        384_000, "Highest rate of a sound", "Hz", ge=8000, le=100_000_000
    )
    max_steps: int = _setting(
        MAX_STEPS, "Most time steps T that may be asked for", "steps", ge=1, le=MAX_STEPS
    )

    max_batch: int = _setting(8, "Most requests that run together", "requests", ge=1, le=1024)
    max_batch_wait_ms: float = _setting(
        2.0,
        "Longest wait for requests that are still being decoded; alone: none",
        "ms",
        ge=0,
        le=60_000,
    )
    queue_length: int = _setting(
        128,
        "Most accepted requests of one checkpoint at a time; more get 503",
        "requests",
        ge=1,
        le=100_000,
    )
    max_wait_s: float = _setting(
        4.0,
        "Longest time to its answer that a request is accepted for, at the rate of the last ones; "
        "more get 503, and while any do it is a quarter of this",
        "s",
        gt=0,
        le=_DAY_S,
    )
    shed_steps: int = _setting(
        0,
        "Fewest time steps T that requests may be lowered to under load, before any is refused; "
        "0: T is never lowered",
        "steps",
        ge=0,
        le=MAX_STEPS,
    )
    request_deadline_s: float = _setting(
        30.0, "Longest time from the upload's end to the answer; then 504", "s", gt=0, le=_DAY_S
    )
    stalled_after_s: float = _setting(
        4.0,
        "Time at one batch after which /readyz says no; longer than any batch takes",
        "s",
        gt=0,
        le=_DAY_S,
    )
    engine_timeout_s: float = _setting(
        20.0,
        "Time after which a batch counts as hanging and its worker is replaced",
        "s",
        gt=0,
        le=_DAY_S,
    )
    keep_alive_s: int = _setting(
        75,
        "Time that a connection is kept open between two requests; longer than the load "
        "balancer's in front, or it sends requests on connections that are being closed",
        "s",
        ge=1,
        le=_DAY_S,
    )
    head_timeout_s: float = _setting(
        10.0,
        "Longest time for a request's head to arrive, on a new connection from its start",
        "s",
        gt=0,
        le=_DAY_S,
    )
    send_timeout_s: float = _setting(
        60.0,
        "Longest time for a client to read an answer; then the connection is reset",
        "s",
        gt=0,
        le=_DAY_S,
    )
    linger_s: float = _setting(
        5.0,
        "Time that a connection stays open for its client to read the answer, where that came "
        "before the request's end",
        "s",
        gt=0,
        le=_DAY_S,
    )
    max_connections: int = _setting(
        4096,
        "Most open connections, fewer where the limit of open files is lower; more close the one "
        "that has been idle longest, or are refused where none is idle",
        "connections",
        ge=1,
        le=1_000_000,
    )
    shutdown_delay_s: float = _setting(
        0.0,
        "Shortest time that new requests get 503 for before the service stops",
        "s",
        ge=0,
        le=_DAY_S,
    )
    shutdown_grace_s: float = _setting(
        30.0,
        "Time that accepted requests have to finish when the service stops",
        "s",
        ge=0,
        le=_DAY_S,
    )
    decode_workers: int = _setting(
        0,
        "Processes that decode uploads, one each at a time; 0: one a core",
        "processes",
        ge=0,
        le=1024,
    )
    decode_timeout_s: float = _setting(
        10.0, "Longest time to read one request's files", "s", gt=0, le=_DAY_S
    )
    decode_memory_mib: int = _setting(
        1024,
        "Memory that one request's files may take while they are read",
        "MiB",
        ge=64,
        le=1 << 20,
    )
    sandbox: Literal["auto", "required"] = _setting(
        "auto",
        "Walls around the processes that decode uploads: auto takes those that the machine has; "
        "required does not start without seccomp",
    )
    load_timeout_s: float = _setting(
        120.0,
        "Longest time to load a checkpoint; then it is given up, and at the start the service ends",
        "s",
        gt=0,
        le=_DAY_S,
    )
    threads: int = _setting(
        0,
        "CPU threads of one network; 0 takes what the machine's quota allows",
        "threads",
        ge=0,
        le=1024,
    )


#: Variables of the same prefix that are no settings: what else reads them.
ELSEWHERE = {
    "SCMRL_CPUS": "docker/compose.yaml",
    "SCMRL_IMAGE_CACHE": "the trials of the image",
}


def unknown_variables(environment: Iterable[str]) -> list[str]:
    """What to warn of: names of variables that look like settings and are none."""
    prefix = "SCMRL_"
    known = [prefix + name.upper() for name in Settings.model_fields]
    warnings = []
    for name in sorted(environment):
        if not name.upper().startswith(prefix) or name.upper() in (*known, *ELSEWHERE):
            continue
        nearest = difflib.get_close_matches(name.upper(), known, n=1, cutoff=0.8)
        hint = f"did you mean {nearest[0]}?" if nearest else "`scmrl settings` lists what there is"
        warnings.append(f"{name} is no setting, and has no effect; {hint}")
    return warnings


def complaint(error: ErrorDetails) -> str:
    """What is wrong with a setting, of those that a ValidationError has, and what it can be."""
    name = str(error["loc"][0])
    message = error["msg"].removeprefix("Value error, ")
    field = Settings.model_fields.get(name)
    bounds = field_bounds(field) if field is not None else ""
    return f"{message}; can be {bounds}" if bounds else message


def field_bounds(field: FieldInfo) -> str:
    """The range of a number with its unit, as in `1 to 1024 requests`; of other settings nothing.

    Every number has a lower bound that it may have (ge) or not (gt), and an upper one (le).
    """
    limits = {
        key: getattr(mark, key)
        for mark in field.metadata
        for key in ("gt", "ge", "le")
        if getattr(mark, key, None) is not None
    }
    if "le" not in limits:
        return ""
    lowest = f"{limits['ge']}" if "ge" in limits else f"more than {limits['gt']}"
    extra = field.json_schema_extra
    unit = extra.get("unit", "") if isinstance(extra, dict) else ""
    return f"{lowest} to {limits['le']} {unit}".strip()
