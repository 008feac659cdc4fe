"""Log lines: text for a console, or one JSON object per line.

The standard library's logging with two formatters. uvicorn and all other libraries use it as well,
so one handler writes all lines.
"""

from __future__ import annotations

import json
import logging
import os
import select
import stat
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal, TextIO

from service.observability.log_repeats import RepeatLimit, Suppressed
from service.request_record import request_id

Format = Literal["console", "json"]

#: Characters per write: at most the bytes that a writable pipe accepts without blocking.
_PIECE = 1000
#: Seconds to wait for the reader of a pipe.
_PIPE_TIMEOUT_S = 0.1
#: One line for each request; the rate of requests is limited elsewhere.
_ACCESS = "scmrl.access"


@dataclass(frozen=True)
class Event:
    """A message with fields: one line on a console, members of their own in JSON.

    A console line has the `message`, the `id` and the `console_fields`, by default all fields.
    """

    message: str
    fields: Mapping[str, Any] = field(default_factory=dict)
    console_fields: Mapping[str, Any] | None = None

    def __str__(self) -> str:
        fields = self.fields if self.console_fields is None else self.console_fields
        suffix = "".join(f" {name}={value!r}" for name, value in fields.items() if name != "id")
        prefix = f"id={self.fields['id']} " if "id" in self.fields else ""
        return prefix + self.message + suffix


class _Console(logging.Formatter):
    """Time, level, logger and message; the request's id before it where there is one."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 logging's name
        current_id = request_id.get()
        has_id = isinstance(record.msg, Event) and "id" in record.msg.fields
        if current_id is not None and not has_id:
            record.message = f"id={current_id} {record.message}"
        return super().formatMessage(record)


class _Json(logging.Formatter):
    """One object per line: time (UTC), level, logger, message, the request's id, and fields."""

    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
        }
        current_id = request_id.get()
        if current_id is not None:
            entry["id"] = current_id
        if isinstance(record.msg, Event):
            entry |= {"message": record.msg.message, **record.msg.fields}
        else:
            entry["message"] = record.getMessage()
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry, default=str)


class _Output(logging.StreamHandler[TextIO]):
    """Writes lines to stderr; a repeated warning is written once a minute, with its count.

    Counts lines that cannot be written. Does not block on a pipe whose reader is stuck, since
    every request would wait.
    """

    def __init__(self, limit: RepeatLimit | None = None) -> None:
        super().__init__()
        self.lost = 0
        self._stuck = False
        self._limit = limit or RepeatLimit()

    def emit(self, record: logging.LogRecord) -> None:
        try:
            # A critical line is the last one of the process: report all repeats before it.
            for suppressed in self._limit.ended(all_windows=record.levelno >= logging.CRITICAL):
                self._write(self.format(_summary(suppressed)))
            if not _is_limited(record) or self._limit.admit(*_source_and_text(record)):
                self._write(self.format(record))
        except Exception:
            self.handleError(record)

    def close(self) -> None:
        """Report suppressed lines."""
        with suppress(Exception):  # the stream may be closed
            for suppressed in self._limit.ended(all_windows=True):
                self._write(self.format(_summary(suppressed)))
        super().close()

    def _write(self, text: str) -> None:
        line = text + self.terminator
        for first in range(0, len(line), _PIECE):
            if not self._has_room():
                self.lost += 1
                return
            self.stream.write(line[first : first + _PIECE])
            self.flush()

    def _has_room(self) -> bool:
        """Return whether a piece can be written now, or soon if the last one was."""
        try:
            file = self.stream.fileno()
            mode = os.fstat(file).st_mode
            if not stat.S_ISFIFO(mode) and not stat.S_ISSOCK(mode):
                return True
        except OSError:  # not a file, or closed: the write will fail
            return True
        _, ready, _ = select.select([], [file], [], 0 if self._stuck else _PIPE_TIMEOUT_S)
        self._stuck = not ready
        return bool(ready)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 logging's name
        if isinstance(sys.exc_info()[1], OSError):
            self.lost += 1
        else:
            super().handleError(record)


def _is_limited(record: logging.LogRecord) -> bool:
    """Return whether repeats are suppressed: of warnings and errors outside the access log."""
    return record.levelno >= logging.WARNING and record.name != _ACCESS


def _source_and_text(record: logging.LogRecord) -> tuple[tuple[str, int], str]:
    """Return the place in the code that logs, and the text, with that of an exception."""
    text = record.getMessage()
    if record.exc_info and record.exc_info[1] is not None:
        text += f": {record.exc_info[1]!r}"
    return (record.pathname, record.lineno), text


def _summary(suppressed: Suppressed) -> logging.LogRecord:
    first_line = suppressed.text.partition("\n")[0]
    message = f"{suppressed.count} more such lines in {suppressed.seconds:.0f} s: {first_line}"
    fields = {"suppressed": suppressed.count, "seconds": round(suppressed.seconds, 1)}
    event = Event(message, fields, console_fields={})
    return logging.LogRecord("scmrl.logs", logging.WARNING, __file__, 0, event, None, None)


def lost() -> int:
    """Return the number of lines that could not be written: a full disk, a stuck reader."""
    return sum(h.lost for h in logging.getLogger().handlers if isinstance(h, _Output))


def formatter(kind: Format) -> logging.Formatter:
    """Return the formatter of one line per record; on a console a traceback has several."""
    if kind == "json":
        return _Json()
    return _Console("%(asctime)s %(levelname)s %(name)s %(message)s")


def configure(level: str, kind: Format) -> None:
    """Log to stderr: our own lines from `level` on, and the warnings of libraries."""
    handler = _Output()
    handler.setFormatter(formatter(kind))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    logging.captureWarnings(True)
    threading.excepthook = _log_thread_death
    logging.getLogger("scmrl").setLevel(level.upper())
    logging.getLogger("uvicorn").setLevel("DEBUG" if level == "debug" else "WARNING")
    # It warns of each damaged form, which the access log has already.
    logging.getLogger("python_multipart").setLevel("DEBUG" if level == "debug" else "ERROR")


def _log_thread_death(args: threading.ExceptHookArgs) -> None:
    """Log the exception that ended a thread."""
    if args.exc_type is SystemExit or args.exc_value is None:
        return
    name = args.thread.name if args.thread else "?"
    error = (args.exc_type, args.exc_value, args.exc_traceback)
    logging.getLogger("scmrl.threads").critical("the thread %s died", name, exc_info=error)
