"""The configuration of an HTTP worker: a memory file, whose descriptor it inherits."""

from __future__ import annotations

import os
from typing import Any

from pydantic import BaseModel, ConfigDict, SecretStr

from service.settings import Settings


class WorkerConfig(BaseModel):
    """One HTTP worker.

    - `number`: of it, from 0. `settings`: all but secrets.
    - `keys`: as `engine_link.key_members` writes them.
    - `decode_workers`, `stream_windows`, `max_connections`: its share.
    - `is_replacement`: whether it begins to accept connections only once it is ready, since the
      others accept them meanwhile.
    - Descriptors: of the `listener`, of the sockets for `control` and `blocks`, of the `board`, and
      of a pipe that ends with the engine process, the `lifeline`.
    """

    model_config = ConfigDict(frozen=True)

    number: int
    settings: dict[str, Any]
    keys: dict[str, Any]
    decode_workers: int
    stream_windows: int
    max_connections: int
    is_replacement: bool
    listener: int
    control: int
    blocks: int
    board: int
    lifeline: int

    @property
    def inherited(self) -> tuple[int, ...]:
        """The descriptors that the worker needs."""
        return self.listener, self.control, self.blocks, self.board, self.lifeline

    def write(self) -> int:
        """Return the descriptor of a memory file that holds this."""
        fd = os.memfd_create("scmrl-worker")
        os.write(fd, self.model_dump_json().encode())
        os.lseek(fd, 0, os.SEEK_SET)
        return fd

    @classmethod
    def read(cls, fd: int) -> WorkerConfig:
        """Read what `write` wrote, and close the file."""
        with open(fd, "rb") as file:
            return cls.model_validate_json(file.read())

    def make_settings(self) -> Settings:
        """Return the settings."""
        return Settings(**self.settings)


def dump_settings(settings: Settings) -> dict[str, Any]:
    """Return settings as a worker gets them, without secrets: it asks the engine process."""
    secret = {name for name, value in settings if isinstance(value, SecretStr)}
    return settings.model_dump(mode="json", exclude=secret)
