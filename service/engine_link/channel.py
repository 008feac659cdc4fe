"""Messages between an HTTP worker and the engine process, over a socket.

A message is the lengths of its head and its body, the head as JSON, and the body as bytes. A call
has a number and gets one reply with it; a note gets none. Messages arrive in the order sent.
"""

from __future__ import annotations

import asyncio
import json
import logging
import struct
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any, cast

from service.errors import Error, Problem

log = logging.getLogger("scmrl.workers")

_LENGTHS = struct.Struct("!II")


@dataclass(frozen=True)
class Reply:
    """What a call gets: a JSON `value`, and bytes, sent as `parts` and received as a single one."""

    value: Any = None
    parts: Sequence[bytes | memoryview] = ()


#: Handles a call or a note by its arguments: at once, or in a task, which a `cancel` cancels.
#: Raises Problem.
Handler = Callable[[dict[str, Any]], "Reply | Awaitable[Reply] | None"]


class ChannelLost(Exception):
    """The process at the other end has ended."""


class RemoteFailure(Exception):
    """An unexpected exception of the process at the other end; the message has its text."""


class Channel(asyncio.Protocol):
    """One end of the connection. `handlers`: of the methods that the other end calls, by name.

    `on_lost` is called once, when the other end has closed it.
    """

    def __init__(self, handlers: Mapping[str, Handler], on_lost: Callable[[], None]) -> None:
        self._handlers = handlers
        self._on_lost = on_lost
        self._numbers = count(1)
        self._calls: dict[int, asyncio.Future[Reply]] = {}
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._transport: asyncio.Transport | None = None
        self._received = bytearray()
        self.is_lost = False

    # --- calls -----------------------------------------------------------------------------------

    async def call(self, method: str, **arguments: Any) -> Reply:
        """Call a method of the other end and wait for its reply; cancelled, it cancels it there.

        Raises Problem as the method does, RemoteFailure, ChannelLost.
        """
        if self.is_lost:
            raise ChannelLost
        number = next(self._numbers)
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._calls[number] = future
        self._send({"method": method, "call": number, "arguments": arguments})
        try:
            return await future
        except asyncio.CancelledError:
            self._send({"cancel": number})
            raise
        finally:
            self._calls.pop(number, None)

    def note(self, method: str, **arguments: Any) -> None:
        """Call a method of the other end without waiting; nothing happens where it is lost."""
        self._send({"method": method, "arguments": arguments})

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    # --- asyncio.Protocol ------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_lost = True
        for task in list(self._tasks.values()):
            task.cancel()
        for future in self._calls.values():
            if not future.done():
                future.set_exception(ChannelLost())
        self._on_lost()

    def data_received(self, data: bytes) -> None:
        received = self._received
        received += data
        begin = 0
        while len(received) - begin >= _LENGTHS.size:
            head_size, body_size = _LENGTHS.unpack_from(received, begin)
            head_at = begin + _LENGTHS.size
            body_at = head_at + head_size
            if len(received) < body_at + body_size:
                break
            head = json.loads(received[head_at:body_at])
            begin = body_at + body_size
            self._dispatch(head, bytes(received[body_at:begin]))
        if begin:
            del received[:begin]

    def _dispatch(self, head: dict[str, Any], body: bytes) -> None:
        if "reply" in head:
            self._settle(head, body)
        elif "cancel" in head:
            if (task := self._tasks.get(head["cancel"])) is not None:
                task.cancel()
        else:
            self._handle(head)

    def _settle(self, head: dict[str, Any], body: bytes) -> None:
        future = self._calls.get(head["reply"])
        if future is None or future.done():
            return
        if "problem" in head:
            future.set_exception(_problem(head["problem"]))
        elif "failure" in head:
            future.set_exception(RemoteFailure(head["failure"]))
        else:
            future.set_result(Reply(head["value"], (body,)))

    def _handle(self, head: dict[str, Any]) -> None:
        number: int | None = head.get("call")
        try:
            result = self._handlers[head["method"]](head["arguments"])
        except Exception as exc:
            self._reply(number, exc)
            return
        if result is None or isinstance(result, Reply):
            self._reply(number, result or Reply())
            return
        task = asyncio.ensure_future(self._reply_later(number, result))
        if number is not None:
            self._tasks[number] = task
            task.add_done_callback(lambda _: self._tasks.pop(number))

    async def _reply_later(self, number: int | None, result: Awaitable[Reply]) -> None:
        try:
            reply = await result
        except Exception as exc:
            self._reply(number, exc)
        else:
            self._reply(number, reply)

    def _reply(self, number: int | None, result: Reply | Exception) -> None:
        if number is None:
            if isinstance(result, Exception):
                log.error("a message of another process failed: %r", result)
            return
        if isinstance(result, Problem):
            self._send({"reply": number, "problem": _members(result)})
        elif isinstance(result, Exception):
            self._send({"reply": number, "failure": f"{type(result).__name__}: {result}"})
        else:
            self._send({"reply": number, "value": result.value}, result.parts)

    def _send(self, head: dict[str, Any], parts: Sequence[bytes | memoryview] = ()) -> None:
        if self._transport is None or self.is_lost:
            return
        encoded = json.dumps(head).encode()
        size = sum(len(part) for part in parts)
        self._transport.writelines([_LENGTHS.pack(len(encoded), size), encoded, *parts])


def _members(problem: Problem) -> dict[str, Any]:
    return {
        "error": problem.error.name,
        "detail": problem.detail,
        "field": problem.field,
        "retry_after_s": problem.retry_after_s,
    }


def _problem(members: dict[str, Any]) -> Problem:
    return Problem(
        Error[members["error"]],
        members["detail"],
        field=members["field"],
        retry_after_s=members["retry_after_s"],
    )
