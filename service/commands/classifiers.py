"""The classifiers of commands: a checkpoint in this process, or a server."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import typer

from service.commands.remote import make_client, reporting_errors
from service.default_checkpoint import default_model

if TYPE_CHECKING:
    from service.classification.local_classifier import LocalClassifier
    from service.classification.options import Options
    from service.classification.schemas import Classification
    from service.client import Client

#: The files of one clip, by upload field.
Files = Mapping[str, Sequence[bytes]]


class ClipClassifier(Protocol):
    """Classifies the files of one clip: returns the answer, or the document of the problem."""

    def classify(self, files: Files, options: Options) -> Classification | Mapping[str, Any]: ...

    def steps(self) -> int:
        """Return the checkpoint's time steps T."""


@dataclass(frozen=True)
class LoadedCheckpoint:
    """A checkpoint in this process."""

    classifier: LocalClassifier

    def classify(self, files: Files, options: Options) -> Classification | Mapping[str, Any]:
        from service.classification.upload_fields import InputFiles
        from service.errors import Problem
        from service.http.problem_document import make_document

        try:
            return self.classifier.classify(InputFiles(**files), options)
        except Problem as exc:
            return make_document(exc)

    def steps(self) -> int:
        return self.classifier.card.steps


@dataclass(frozen=True)
class Server:
    """A server, and the name of a checkpoint there; None: its default one."""

    client: Client
    model: str | None

    def classify(self, files: Files, options: Options) -> Classification | Mapping[str, Any]:
        from service.classification.schemas import Classification
        from service.client import ProblemError

        fields: dict[str, Any] = asdict(options) | {"model": self.model}
        with reporting_errors():
            try:
                answer = self.client.classify(streams=files, **fields)
            except ProblemError as exc:
                return exc.problem.model_dump(exclude_none=True)
        return Classification.model_validate(answer.model_dump())

    def steps(self) -> int:
        with reporting_errors():
            listed = self.client.models()
        steps = {model.name: model.steps for model in listed}
        names = [self.model] if self.model else [model.name for model in listed if model.default]
        if not names or (default_steps := steps.get(names[0])) is None:
            typer.echo(f"the server has no checkpoint {self.model or ''} that is ready", err=True)
            raise typer.Exit(1)
        return default_steps


def connect(stack: ExitStack, url: str, key: str | None, model: str | None) -> Server:
    """Return a server; `stack` closes the connections to it. Raises BadParameter."""
    return Server(stack.enter_context(make_client(url, key)), model)


def connect_or_load(
    stack: ExitStack,
    *,
    url: str | None,
    key: str | None,
    model: str | None,
    models: Path,
    device: str,
) -> ClipClassifier:
    """Return the server at `url`, or without one a checkpoint on this machine.

    `stack` closes connections. Raises BadParameter, also for a key without a server.
    """
    if url:
        return connect(stack, url, key, model)
    if key is not None:
        raise typer.BadParameter("is for a server; pass its --url as well", param_hint="--key")
    return load(model or default_model(models), models, device)


def load(model: str, models: Path, device: str) -> LoadedCheckpoint:
    """Load a checkpoint, by its name among `models` or by its folder; else end the command."""
    from service.runtime import cores, garbage_collection
    from service.runtime.torch_import import import_torch

    with garbage_collection.disabled():
        import_torch()
        from model.checkpoint import CARD, CheckpointError
        from service.classification.local_classifier import LocalClassifier

    cores.set_threads(cores.threads(0))
    cores.set_opencv_threads()
    folder = Path(model) if (Path(model) / CARD).exists() else models / model
    if not (folder / CARD).exists():
        names = sorted(path.parent.name for path in models.glob(f"*/{CARD}"))
        listed = ", ".join(names) or "none"
        typer.echo(f"no checkpoint {model!r} in {models}; there are: {listed}", err=True)
        raise typer.Exit(1)
    try:
        with garbage_collection.disabled():
            return LoadedCheckpoint(LocalClassifier(folder, device))
    except (CheckpointError, RuntimeError, ValueError) as exc:
        typer.echo(f"cannot use the checkpoint {model}: {exc}", err=True)
        raise typer.Exit(1) from exc
