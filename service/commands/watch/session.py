"""A session of watching: threads that capture, one that sends, and the answers."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from service.client import PictureInput, SoundInput, StreamClosedError, Summary
from service.client.stream_messages import Input, Message
from service.commands.watch.capture import READ_ERRORS, Picture, Sound, Source

if TYPE_CHECKING:
    from service.client import Stream

#: Pictures and pieces of sound that may wait to be sent: a second or two. More are dropped.
_WAITING = 100


@dataclass(frozen=True)
class Shown:
    """A message, and the pictures and pieces of sound that this side has dropped so far."""

    message: Message
    unsent: int


@dataclass
class Session:
    """Sends what `sources` capture, and passes the answers on. `failures`: sources that failed."""

    sources: Sequence[Source]
    fps: float
    width: int
    failures: list[str] = field(default_factory=list)
    _queue: queue.Queue[Picture | Sound] = field(default_factory=lambda: queue.Queue(_WAITING))
    _unsent: int = 0

    @property
    def inputs(self) -> list[Input]:
        """The inputs that the stream is opened with."""
        inputs: list[Input] = []
        if any(source.has_pictures for source in self.sources):
            inputs.append(PictureInput(format="jpeg"))
        sounds = [source.sound for source in self.sources if source.sound]
        if sounds:
            rate, channels = sounds[0]
            inputs.append(SoundInput(sample_rate=rate, channels=channels))
        return inputs

    def run(self, stream: Stream, show: Callable[[Shown], None]) -> Summary | None:
        """Send until the sources end or Ctrl-C; return the summary of the stream.

        Raises StreamClosedError where the service ends the stream.
        """
        threads = [threading.Thread(target=self._capture, args=(s,)) for s in self.sources]
        sender = threading.Thread(target=self._send, args=(stream, threads))
        for thread in (*threads, sender):
            thread.start()
        try:
            self._show_all(stream, show)
        finally:
            self._stop()
            for thread in (*threads, sender):
                thread.join()
        return stream.summary

    def _show_all(self, stream: Stream, show: Callable[[Shown], None]) -> None:
        try:
            for message in stream:
                show(Shown(message, self._unsent))
        except KeyboardInterrupt:  # the sender then closes the stream, and the last answer comes
            self._stop()
            for message in stream:
                show(Shown(message, self._unsent))

    def _stop(self) -> None:
        for source in self.sources:
            source.stop()

    def _capture(self, source: Source) -> None:
        try:
            for piece in source.read(self.fps, self.width):
                try:
                    self._queue.put_nowait(piece)
                except queue.Full:
                    self._unsent += 1
        except READ_ERRORS as exc:
            self.failures.append(f"{source.name}: {exc}")

    def _send(self, stream: Stream, captures: Sequence[threading.Thread]) -> None:
        """Send what is captured, and close the stream when nothing more comes."""
        try:
            while any(thread.is_alive() for thread in captures) or not self._queue.empty():
                try:
                    piece = self._queue.get(timeout=0.1)
                except queue.Empty:
                    continue
                if isinstance(piece, Picture):
                    stream.send_picture(piece.data, piece.time_ns)
                else:
                    stream.send_sound(piece.data, piece.time_ns)
            stream.close()
        except StreamClosedError:
            self._stop()  # the reader says why
