"""The checkpoints by name, and the state of each: loading, ready or failed."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from service.errors import Error, Problem
from service.inference.served_model import ServedModel

Status = Literal["loading", "ready", "failed"]


@dataclass(frozen=True)
class _Entry:
    status: Status
    model: ServedModel | None = None  # where it is ready


_LOADING, _FAILED = _Entry("loading"), _Entry("failed")


class Registry:
    """A table of checkpoints, the default one first. Written by loading threads, read by any.

    State of a name: listed -> loading -> ready | failed; failed -> ready; ready -> ready, when it
    is loaded again; ready | failed -> removed. The default one is listed from the start.
    """

    def __init__(self, default_name: str) -> None:
        self.default_name = default_name
        # Replaced as a whole, so that readers need no lock.
        self._entries: Mapping[str, _Entry] = {default_name: _LOADING}
        self._writing = threading.Lock()

    # --- state -----------------------------------------------------------------------------------

    @property
    def names(self) -> list[str]:
        """Every checkpoint that has a folder, the default one first."""
        return list(self._entries)

    @property
    def ready(self) -> dict[str, ServedModel]:
        """The checkpoints that are served."""
        return {name: e.model for name, e in self._entries.items() if e.model is not None}

    def status(self, name: str) -> Status:
        """Return the state of a checkpoint; "loading" for an unknown name."""
        return self._entries.get(name, _LOADING).status

    def find(self, name: str) -> ServedModel | None:
        """Return the checkpoint of this name if it is served."""
        return self._entries.get(name, _LOADING).model

    def get(self, name: str) -> ServedModel:
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
            listed = {name: self._entries.get(name, _LOADING) for name in names}
            self._entries = {**listed, **self._entries}

    def publish(self, model: ServedModel) -> None:
        """Serve a checkpoint from now on, in place of the one of its name if there is one."""
        with self._writing:
            self._entries = {**self._entries, model.name: _Entry("ready", model)}

    def fail(self, name: str) -> None:
        """Mark a listed checkpoint as failed, unless it is served."""
        with self._writing:
            entry = self._entries.get(name)
            if entry is not None and entry.model is None:
                self._entries = {**self._entries, name: _FAILED}

    def remove(self, name: str) -> ServedModel | None:
        """Forget a checkpoint; return it if it was served."""
        with self._writing:
            entries = dict(self._entries)
            entry = entries.pop(name, _LOADING)
            self._entries = entries
            return entry.model
