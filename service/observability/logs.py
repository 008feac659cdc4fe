"""Lines of log: for people on a console, or one JSON object each for machines.

The standard library's logging, with two formatters: uvicorn and every other library log through
it as well, so one handler writes all that there is.
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

#: Characters that are written at a time: never more bytes than a pipe with room takes at once.
_PIECE = 1000
#: Seconds that a pipe's reader is waited for.
_PATIENCE_S = 0.1
#: Has one line for each request, whose number is limited elsewhere.
_ACCESS = "scmrl.access"


@dataclass(frozen=True)
class Event:
    """A message with fields: one line on a console, members of their own in JSON.

    The console shows `message` and of the fields the `id` and those in `shown`, or all of them.
    """

    message: str
    fields: Mapping[str, Any] = field(default_factory=dict)
    shown: Mapping[str, Any] | None = None

    def __str__(self) -> str:
        shown = self.fields if self.shown is None else self.shown
        rest = "".join(f" {name}={value!r}" for name, value in shown.items() if name != "id")
        prefix = f"id={self.fields['id']} " if "id" in self.fields else ""
        return prefix + self.message + rest


class _Console(logging.Formatter):
    """Time, level, logger and message; the request's id before it where there is one."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 logging's name
        known = request_id.get()
        has_one = isinstance(record.msg, Event) and "id" in record.msg.fields
        if known is not None and not has_one:
            record.message = f"id={known} {record.message}"
        return super().formatMessage(record)


class _Json(logging.Formatter):
    """One object a line: time (UTC), level, logger, message, the request's id, and fields."""

    def format(self, record: logging.LogRecord) -> str:
        told: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
        }
        known = request_id.get()
        if known is not None:
            told["id"] = known
        if isinstance(record.msg, Event):
            told |= {"message": record.msg.message, **record.msg.fields}
        else:
            told["message"] = record.getMessage()
        if record.exc_info:
            told["exception"] = self.formatException(record.exc_info)
        return json.dumps(told, default=str)


class _Output(logging.StreamHandler[TextIO]):
    """Writes lines to stderr; a warning that repeats is written once a minute, with its number.

    Counts lines that cannot be written, and does not wait for a pipe that nobody reads: every
    request would wait.
    """

    def __init__(self, limit: RepeatLimit | None = None) -> None:
        super().__init__()
        self.lost = 0
        self._stuck = False
        self._limit = limit or RepeatLimit()

    def emit(self, record: logging.LogRecord) -> None:
        try:
            # A critical line is the last that the process writes: nothing is left for after it.
            for suppressed in self._limit.ended(all_windows=record.levelno >= logging.CRITICAL):
                self._write(self.format(_summary(suppressed)))
            if not _is_limited(record) or self._limit.admit(*_source_and_text(record)):
                self._write(self.format(record))
        except Exception:
            self.handleError(record)

    def close(self) -> None:
        """Write what was suppressed and not yet reported."""
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
        """Whether a piece can be written now, or soon, where the last one could be."""
        try:
            file = self.stream.fileno()
            mode = os.fstat(file).st_mode
            if not stat.S_ISFIFO(mode) and not stat.S_ISSOCK(mode):
                return True
        except OSError:  # no file at all, or one that is closed: writing tells
            return True
        _, ready, _ = select.select([], [file], [], 0 if self._stuck else _PATIENCE_S)
        self._stuck = not ready
        return bool(ready)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 logging's name
        if isinstance(sys.exc_info()[1], OSError):
            self.lost += 1
        else:
            super().handleError(record)


def _is_limited(record: logging.LogRecord) -> bool:
    """Whether repeats are suppressed: of warnings and errors that are not about one request."""
    return record.levelno >= logging.WARNING and record.name != _ACCESS


def _source_and_text(record: logging.LogRecord) -> tuple[tuple[str, int], str]:
    """The place in the code that logs, and what it says, with the error's text if there is one."""
    text = record.getMessage()
    if record.exc_info and record.exc_info[1] is not None:
        text += f": {record.exc_info[1]!r}"
    return (record.pathname, record.lineno), text


def _summary(suppressed: Suppressed) -> logging.LogRecord:
    first_line = suppressed.text.partition("\n")[0]
    message = f"{suppressed.count} more such lines in {suppressed.seconds:.0f} s: {first_line}"
    fields = {"suppressed": suppressed.count, "seconds": round(suppressed.seconds, 1)}
    event = Event(message, fields, shown={})
    return logging.LogRecord("scmrl.logs", logging.WARNING, __file__, 0, event, None, None)


def lost() -> int:
    """Lines of log that could not be written, as where a disk is full or nobody reads."""
    return sum(h.lost for h in logging.getLogger().handlers if isinstance(h, _Output))


def formatter(kind: Format) -> logging.Formatter:
    """What writes a record as one line; a traceback makes several on a console."""
    if kind == "json":
        return _Json()
    return _Console("%(asctime)s %(levelname)s %(name)s %(message)s")


def configure(level: str, kind: Format) -> None:
    """Write what this process logs to stderr: ours from `level` on, warnings of libraries."""
    handler = _Output()
    handler.setFormatter(formatter(kind))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    logging.captureWarnings(True)
    threading.excepthook = _log_death
    logging.getLogger("scmrl").setLevel(level.upper())
    logging.getLogger("uvicorn").setLevel("DEBUG" if level == "debug" else "WARNING")
    # It warns of each damaged form, which a line of our own tells already.
    logging.getLogger("python_multipart").setLevel("DEBUG" if level == "debug" else "ERROR")


def _log_death(died: threading.ExceptHookArgs) -> None:
    """A thread's last words, as lines of log like all others."""
    if died.exc_type is SystemExit or died.exc_value is None:
        return
    name = died.thread.name if died.thread else "?"
    error = (died.exc_type, died.exc_value, died.exc_traceback)
    logging.getLogger("scmrl.threads").critical("the thread %s died", name, exc_info=error)
