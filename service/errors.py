"""All kinds of errors of the service; `service.http.problem_document` is their form over HTTP."""

from __future__ import annotations

from enum import Enum


class Error(Enum):
    """A kind of error: HTTP status and title. Its type is `urn:scmrl:error:` and its name."""

    MALFORMED = (400, "Malformed HTTP request")
    UNREADABLE_FORM = (400, "The form could not be read")
    KEY_NEEDED = (401, "An API key is required")
    KEY_REFUSED = (403, "The key does not permit this request")
    ORIGIN_REFUSED = (403, "Pages of this origin may not open a WebSocket")
    NOT_FOUND = (404, "No such path")
    UNKNOWN_MODEL = (404, "No such checkpoint")
    METHOD_NOT_ALLOWED = (405, "Method not allowed for this path")
    HEAD_TIMEOUT = (408, "The request headers took too long")
    UPLOAD_TIMEOUT = (408, "The upload took too long")
    CONFLICT = (409, "The state of the checkpoint does not allow this")
    TOO_LARGE = (413, "The upload exceeds a limit")
    UNKNOWN_FORMAT = (415, "Unsupported file format")
    UNSUPPORTED_ENCODING = (415, "Unsupported encoding of the body or of a part")
    UNUSABLE = (422, "The file was read but cannot be used")
    INVALID_FIELD = (422, "A field of the form is missing, unknown or out of range")
    RATE_LIMIT = (429, "Rate limit of the key exceeded")
    HEAD_TOO_LARGE = (431, "The request headers are too large")
    INTERNAL = (500, "Internal error")
    NOT_READY = (503, "The checkpoint is not ready")
    MODEL_FAILED = (503, "The checkpoint could not be loaded")
    STOPPING = (503, "The service is shutting down")
    FULL = (503, "The service is at capacity")
    DEADLINE = (504, "The deadline of the request has passed")
    LOAD_TIMEOUT = (504, "The checkpoint took too long to load")
    DECODE_TIMEOUT = (504, "The file took too long to read")

    def __init__(self, status: int, title: str) -> None:
        self.status = status
        self.title = title

    @property
    def kind(self) -> str:
        """The name of the kind of error, as `unknown-format`."""
        return self.name.lower().replace("_", "-")

    @property
    def type(self) -> str:
        """The URI that names the kind of error."""
        return f"urn:scmrl:error:{self.kind}"


class Problem(Exception):
    """An error that is returned to the client.

    - `detail`: what was wrong with this request, and what would be accepted.
    - `field`: the form field that caused it; `file`: the number of its file, from 0, where it may
      have several.
    - `retry_after_s`: seconds after which a retry makes sense.
    """

    def __init__(
        self,
        error: Error,
        detail: str,
        *,
        field: str | None = None,
        file: int | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(detail)
        self.error = error
        self.detail = detail
        self.field = field
        self.file = file
        self.retry_after_s = retry_after_s


def out_of_memory() -> Problem:
    """Return the problem of a request for which this machine has no memory."""
    detail = "The service has too little memory for this request at the moment. Retry."
    return Problem(Error.FULL, detail, retry_after_s=5)


class StartupError(Exception):
    """The service cannot start or continue. The message has the reason, for the operator.

    `misused`: a setting is invalid.
    """

    def __init__(self, message: str, *, misused: bool = False) -> None:
        super().__init__(message)
        self.misused = misused
