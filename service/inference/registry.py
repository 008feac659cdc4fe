"""The checkpoints by name, and the state of each: loading, ready or failed."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, Literal, Protocol, TypeVar

from service.errors import Error, Problem

Status = Literal["loading", "ready", "failed"]


class _Named(Protocol):
    @property
    def name(self) -> str: ...


_Model = TypeVar("_Model", bound=_Named)


@dataclass(frozen=True)
class _Entry(Generic[_Model]):
    status: Status
    model: _Model | None = None  # where it is ready


class Registry(Generic[_Model]):
    """A table of checkpoints, the default one first. Written by loading threads, read by any.
    `on_change` is called in the thread of a change.

    State of a name: listed -> loading -> ready | failed; failed -> ready; ready -> ready, when it
    is loaded again; ready | failed -> removed. The default one is listed from the start.
    """

    def __init__(self, default_name: str) -> None:
        self.default_name = default_name
        self.on_change: Callable[[], None] = lambda: None
        # Replaced as a whole, so that readers need no lock.
        self._entries: Mapping[str, _Entry[_Model]] = {default_name: _Entry("loading")}
        self._writing = threading.Lock()

    # --- state -----------------------------------------------------------------------------------

    @property
    def names(self) -> list[str]:
        """Every checkpoint that has a folder, the default one first."""
        return list(self._entries)

    @property
    def ready(self) -> dict[str, _Model]:
        """The checkpoints that are served."""
        return {name: e.model for name, e in self._entries.items() if e.model is not None}

    def status(self, name: str) -> Status:
        """Return the state of a checkpoint; "loading" for an unknown name."""
        return entry.status if (entry := self._entries.get(name)) is not None else "loading"

    def find(self, name: str) -> _Model | None:
        """Return the checkpoint of this name if it is served."""
        return entry.model if (entry := self._entries.get(name)) is not None else None

    def get(self, name: str) -> _Model:
        """Return the checkpoint of this name.

        Raises Problem UNKNOWN_MODEL, NOT_READY or MODEL_FAILED.
        """
        entries = self._entries
        entry = entries.get(name)
        if entry is None:
            names = ", ".join(entries)
            detail = f"No such checkpoint: {name[:100]!r}; available: {names}."
            raise Problem(Error.UNKNOWN_MODEL, detail)
        if entry.model is not None:
            return entry.model
        if entry.status == "failed":
            detail = f"The checkpoint {name} could not be loaded. The log has the reason."
            raise Problem(Error.MODEL_FAILED, detail)
        raise Problem(Error.NOT_READY, f"The checkpoint {name} is being loaded.", retry_after_s=1)

    # --- transitions -----------------------------------------------------------------------------

    def list_names(self, names: Sequence[str]) -> None:
        """List the names that have a folder, each loading unless it has a state already."""
        with self._writing:
            listed: dict[str, _Entry[_Model]] = {name: _Entry("loading") for name in names}
            self._entries = listed | dict(self._entries)
        self.on_change()

    def publish(self, model: _Model) -> None:
        """Serve a checkpoint from now on, in place of the one of its name if there is one."""
        with self._writing:
            self._entries = {**self._entries, model.name: _Entry("ready", model)}
        self.on_change()

    def fail(self, name: str) -> None:
        """Mark a listed checkpoint as failed, unless it is served."""
        with self._writing:
            entry = self._entries.get(name)
            if entry is not None and entry.model is None:
                self._entries = {**self._entries, name: _Entry("failed")}
        self.on_change()

    def remove(self, name: str) -> _Model | None:
        """Forget a checkpoint; return it if it was served."""
        with self._writing:
            entries = dict(self._entries)
            entry = entries.pop(name, None)
            self._entries = entries
        self.on_change()
        return None if entry is None else entry.model

    def mirror(self, entries: Sequence[tuple[str, Status, _Model | None]]) -> None:
        """Take over the names of another registry, with the state and checkpoint of each."""
        with self._writing:
            self._entries = {name: _Entry(status, model) for name, status, model in entries}
        self.on_change()
