"""Errors of the client: a problem that the service answers, no answer, a stream that ended."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Problem(BaseModel):
    """A problem document (RFC 9457). `field`: of the form; `id`: of the request, as the
    log has it."""

    model_config = ConfigDict(frozen=True, extra="allow")

    type: str = "about:blank"
    title: str = ""
    status: int
    detail: str = ""
    field: str | None = None
    id: str | None = None

    @property
    def kind(self) -> str:
        """The kind of error, as `invalid-field`: the last part of `type`."""
        return self.type.rpartition(":")[2]


class ClientError(Exception):
    """Any error of the client."""


class ProblemError(ClientError):
    """The service's answer is an error.

    `problem`: the problem document. `retry_after_s`: seconds after which a retry makes sense, or
    None. `of_proxy`: whether it is not the service's, but of something in between.
    """

    def __init__(
        self, problem: Problem, retry_after_s: float | None = None, of_proxy: bool = False
    ) -> None:
        super().__init__(problem.detail or problem.title)
        self.problem = problem
        self.retry_after_s = retry_after_s
        self.of_proxy = of_proxy

    @property
    def kind(self) -> str:
        return self.problem.kind

    @property
    def status(self) -> int:
        return self.problem.status

    def __str__(self) -> str:
        return f"{self.status} {self.kind}: {super().__str__()}"


class UnreachableError(ClientError):
    """There was no answer, or none of an scmrl service."""


class StreamClosedError(ClientError):
    """A live stream ended in another way than by `close()`. `code`, `reason`: of the close."""

    def __init__(self, code: int, reason: str = "") -> None:
        super().__init__(
            reason or _CLOSE_CODES.get(code, f"The stream was closed with code {code}.")
        )
        self.code = code
        self.reason = reason


_CLOSE_CODES = {
    1006: "The connection of the stream was lost.",
    1009: "A message was larger than 1 MiB.",
    1011: "The service failed; its log has the details.",
    1012: "The service is shutting down.",
    1013: "The checkpoint is not ready.",
    4404: "There is no such checkpoint.",
    4408: "No message was sent for too long.",
    4409: "The stream was as long as the service allows.",
    4429: "Too many streams are open.",
    4430: "Too many messages were sent.",
    4431: "The decoder of the stream was lost; open another stream.",
}
