"""The checkpoints that are served: folders, loaded and warmed in the background."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Literal

from model.device import DeviceError
from service.errors import Error, Problem
from service.inference.file_watch import CARD, FileWatch, files, may_have_card
from service.inference.loading import LOADING, STOPPING, Attempt, GivenUp, Loads, timed_out
from service.inference.served_model import Model, load, warm
from service.runtime import cores, gc
from service.runtime.torch_import import import_torch
from service.settings import Settings

log = logging.getLogger("scmrl.registry")

#: Seconds between two looks at the workers, and at a checkpoint that is being unloaded.
_WATCH_S, _RETIRE_S = 1.0, 0.05
#: Seconds from when the default checkpoint can answer until others are loaded and compiled, which
#: takes the cores, and Python's lock, from the first requests.
_AT_EASE_S = 1.0
#: Seconds after which the load of a checkpoint that takes longer no longer holds up the next one.
_OVERTAKE_S = 5.0
#: Folders that may be asked for by name.
_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}")


class StartupError(Exception):
    """The service cannot start; the message says why, for the operator.

    `misused`: a setting is to blame.
    """

    def __init__(self, message: str, *, misused: bool = False) -> None:
        super().__init__(message)
        self.misused = misused


class Registry:
    """Checkpoints by name.

    Filled by `load_default` and `load_others` in a thread, read by the event loop.
    """

    def __init__(
        self, settings: Settings, on_fatal: Callable[[Exception], None] = lambda error: None
    ) -> None:
        self._settings = settings
        self._on_fatal = on_fatal
        self._ready: dict[str, Model] = {}
        self._failed: set[str] = set()
        self._names: list[str] = []
        self._using: Counter[Model] = Counter()  # touched by the event loop alone
        self._cancelled = 0
        self._files = FileWatch(settings.models)
        self._changing = threading.Lock()  # of names, ready and failed; held for moments
        self._draining = False
        self._made_at = time.monotonic()
        self._stopping = threading.Event()
        self._loads = Loads(
            settings.load_timeout_s, lambda: self._draining or self._stopping.is_set()
        )

    @property
    def default_name(self) -> str:
        return self._settings.default_model

    @property
    def names(self) -> list[str]:
        """Every checkpoint that has a folder, the default one first."""
        return list(self._names or [self.default_name])

    @property
    def ready(self) -> Mapping[str, Model]:
        return self._ready

    def status(self, name: str) -> Literal["loading", "ready", "failed"]:
        if name in self._ready:
            return "ready"
        return "failed" if name in self._failed else "loading"

    def get(self, name: str) -> Model:
        """The checkpoint of this name. Raises Problem UNKNOWN_MODEL, NOT_READY, MODEL_FAILED."""
        if name in self._ready:
            return self._ready[name]
        if name in self._failed:
            raise Problem(
                Error.MODEL_FAILED, f"The checkpoint {name} cannot be served; the log says why."
            )
        if name in self.names:
            detail = f"The checkpoint {name} is being loaded."
            raise Problem(Error.NOT_READY, detail, retry_after_s=1)
        names = ", ".join(self.names)
        raise Problem(
            Error.UNKNOWN_MODEL, f"There is no checkpoint {name[:100]!r}; there are: {names}."
        )

    @contextmanager
    def using(self, name: str) -> Iterator[Model]:
        """The checkpoint for one request: until the block ends it is not unloaded.

        Raises Problem as `get` does, and STOPPING once the service drains.
        """
        if self._draining:
            detail = "The service is being stopped; another instance may answer."
            raise Problem(Error.STOPPING, detail, retry_after_s=5)
        model = self.get(name)
        self._using[model] += 1
        try:
            yield model
        except asyncio.CancelledError:  # by the server, whose time to stop is over
            self._cancelled += self._draining
            raise
        finally:
            self._using[model] -= 1

    def drain(self) -> None:
        """Take no more requests; those that are inside go on."""
        self._draining = True

    @property
    def in_use(self) -> int:
        """Requests that are inside."""
        return sum(self._using.values())

    @property
    def unanswered(self) -> int:
        """Accepted requests that have no answer, or 503 because the time to stop was over."""
        return self.in_use + self._cancelled

    def why_not_ready(self) -> str | None:
        """The reason for /readyz to say no; None when the default checkpoint can answer."""
        if self._draining:
            return STOPPING
        model = self._ready.get(self.default_name)
        if model is None:
            return f"The default checkpoint {self.default_name} {self._why_no_default()}."
        return model.batcher.trouble(self._settings.stalled_after_s)

    def _why_no_default(self) -> str:
        if self.default_name in self._failed:
            return "cannot be served; the log says why"
        seconds = time.monotonic() - self._made_at
        return (
            f"is being loaded, for {seconds:.0f} s so far; a load is given up after "
            f"{self._settings.load_timeout_s:g} s"
        )

    def load_default(self) -> None:
        """List the folders that hold a card, then load the default one and start its queue.

        Raises StartupError where it cannot be served, Problem STOPPING where the service ends.
        """
        name = self.default_name
        try:
            attempt = self._loads.reserve(name)
            self._loads.run(attempt, lambda: self._list(attempt))
            import_torch()
            # torch's own spin on for milliseconds after each use, on cores that others need.
            cores.set_threads(1)
            attempt = self._loads.reserve(name)
            self._loads.run(attempt, lambda: self._load(attempt))
        except Problem:
            raise
        except Exception as exc:
            self._failed.add(name)
            if isinstance(exc, StartupError):
                raise
            if isinstance(exc, DeviceError):
                raise StartupError(f"--device (SCMRL_DEVICE): {exc}", misused=True) from exc
            hint = "; --load-timeout-s (SCMRL_LOAD_TIMEOUT_S)" if isinstance(exc, GivenUp) else ""
            raise StartupError(f"cannot serve the checkpoint {name}: {exc}{hint}") from exc

    def watch(self) -> None:
        """Replace workers that die or hang, until the registry stops; a thread's whole work."""
        irreplaceable: set[str] = set()  # names whose worker cannot be replaced: logged once
        while not self._stopping.wait(_WATCH_S):
            for name, model in list(self._ready.items()):
                try:
                    model.batcher.revive(self._settings.engine_timeout_s)
                    irreplaceable.discard(name)
                except Exception:
                    if name not in irreplaceable:
                        log.exception("the worker of %s cannot be replaced; it is tried on", name)
                    irreplaceable.add(name)

    def watch_files(self) -> None:
        """Look at the files of what is served, until the registry stops; a thread's whole work."""
        while not self._stopping.wait(_WATCH_S):
            for name in list(self._ready):
                self._files.look(name)

    def loader(self, name: str) -> Callable[[], None]:
        """Reserve a name; return the work that loads its checkpoint, anew if need be, for a thread.

        One that is served already goes on until the new one is ready; requests that are inside
        keep the one that they began with. Raises Problem CONFLICT where the name is being loaded
        or unloaded, FULL where too many loads have not ended. The work raises Problem
        UNKNOWN_MODEL, UNUSABLE, LOAD_TIMEOUT or STOPPING, and changes nothing then.
        """
        attempt = self._loads.reserve(name)
        return lambda: self._load_reserved(attempt)

    def _load_reserved(self, attempt: Attempt) -> None:
        name = attempt.name
        before = self._ready.get(name)
        kept = "; the one that was served goes on" if before else ""
        try:
            self._loads.run(attempt, lambda: self._load_again(attempt, kept))
        except Problem:
            raise
        except GivenUp as exc:
            log.error("cannot serve the checkpoint %s: %s", name, exc)
            detail = f"{name}: {exc} (SCMRL_LOAD_TIMEOUT_S), and is given up{kept}."
            raise timed_out(detail) from exc
        except Exception as exc:
            log.error("cannot serve the checkpoint %s: %s", name, exc)
            detail = str(exc).replace(f"{self._settings.models}{os.sep}", "")
            raise Problem(Error.UNUSABLE, f"{detail}{kept}") from exc
        if before is not None:
            self._retire(before)
            del before
            gc.sweep()

    def _load_again(self, attempt: Attempt, kept: str) -> None:
        name = attempt.name
        if not _NAME.fullmatch(name) or not os.path.exists(self._settings.models / name / CARD):
            detail = f"There is no {CARD} in a folder {name[:100]!r} of SCMRL_MODELS{kept}."
            raise Problem(Error.UNKNOWN_MODEL, detail)
        self._load_and_fuse(attempt)

    def unloader(self, name: str) -> Callable[[], None]:
        """Reserve a name; return the work that ends serving its checkpoint, for a thread.

        Requests that are inside are answered. Raises Problem UNKNOWN_MODEL, NOT_READY, and CONFLICT
        for the default checkpoint and for a name that is being loaded or unloaded, FULL where too
        many loads have not ended.
        """
        if name == self.default_name:
            detail = f"{name} is the default checkpoint, without which nothing can be asked."
            raise Problem(Error.CONFLICT, detail)
        attempt = self._loads.reserve(name)
        try:
            if name not in self._ready and name not in self._failed:
                self.get(name)  # raises: there is none, or it has not been loaded yet
        except Problem:
            self._loads.release(attempt)
            raise
        return lambda: self._unload_reserved(attempt)

    def _unload_reserved(self, attempt: Attempt) -> None:
        name = attempt.name
        try:
            with self._changing:
                self._names = [other for other in self._names if other != name]
                self._failed.discard(name)
                model = self._ready.pop(name, None)
            if model is not None:
                self._retire(model)
                del model
                gc.sweep()
                log.info("checkpoint %s is unloaded", name)
        finally:
            self._loads.release(attempt)

    def _retire(self, model: Model) -> None:
        """End a checkpoint's workers once nobody is inside any more.

        The first wait is for a request that has been given the checkpoint and not counted yet.
        """
        while not self._stopping.wait(_RETIRE_S) and self._using[model]:
            pass
        model.batcher.stop()
        self._using.pop(model, None)

    def intact(self, name: str) -> bool:
        """Whether a checkpoint's files are still those that it was loaded from."""
        return self._files.intact(name)

    def load_others(self) -> None:
        """Attempt the others; one that cannot be served is logged and left out.

        Each checkpoint changes over to its fused path, as far as the settings want that, once it
        is served: the first requests do not wait for a compiler.
        """
        if self._stopping.wait(_AT_EASE_S):
            return
        cores.set_opencv_threads()
        self._fuse(self.default_name)
        threads: list[threading.Thread] = []
        for name in self.names[1:]:
            if self._stopping.is_set():
                return
            threads.append(
                threading.Thread(target=self._load_other, args=(name,), name=LOADING, daemon=True)
            )
            threads[-1].start()
            threads[-1].join(_OVERTAKE_S)
        for thread in threads:
            thread.join()

    def _load_other(self, name: str) -> None:
        try:
            attempt = self._loads.reserve(name)
            self._loads.run(attempt, lambda: self._load_unless_done(attempt))
        except Problem as problem:
            if problem.error is Error.FULL:
                self._failed.add(name)
                log.error("cannot serve the checkpoint %s: %s", name, problem)
            # else an operator loads it, or the service is being stopped
        except Exception as exc:
            self._failed.add(name)
            log.error("cannot serve the checkpoint %s: %s", name, exc)

    def _load_unless_done(self, attempt: Attempt) -> None:
        if attempt.name in self._names and attempt.name not in self._ready:
            self._load_and_fuse(attempt)  # else an operator was faster

    def _load_and_fuse(self, attempt: Attempt) -> None:
        if self._load(attempt):
            with self._loads.turn(attempt):
                self._fuse(attempt.name)

    def _fuse(self, name: str) -> None:
        if self._settings.compile != "auto" or self._stopping.is_set():
            return
        started = time.monotonic()
        if self._fused(self._ready[name]):
            seconds = time.monotonic() - started
            log.info("checkpoint %s runs on its fused path after %.1f s", name, seconds)

    def _fused(self, model: Model) -> bool:
        precision = self._settings.precision
        if precision != "float32" and not model.card.measured_with(precision):
            log.warning(
                "checkpoint %s stays in float32: its card has no accuracy with %s; measure it "
                "with `scmrl evaluate --write-card`", model.name, precision,
            )  # fmt: skip
            precision = "float32"
        return all(engine.fuse(precision, model.card.steps) for engine in model.engines)

    def stop(self) -> None:
        self._stopping.set()
        for model in list(self._ready.values()):
            model.batcher.stop()

    def _list(self, attempt: Attempt) -> None:
        """Raises StartupError."""
        names = self._listed()
        if attempt.commit():
            self._names = names

    def _listed(self) -> list[str]:
        folder, default = self._settings.models, self.default_name
        if not folder.is_dir():
            raise StartupError(f"models: {folder} is not a folder (SCMRL_MODELS, --models)")
        names = [name for name in sorted(os.listdir(folder)) if may_have_card(folder / name)]
        if default not in names:
            there = f"there are: {', '.join(names)}" if names else "there are none"
            raise StartupError(
                f"default_model: {folder / default / CARD} does not exist; {there} "
                "(SCMRL_DEFAULT_MODEL, --default-model)"
            )
        return [default, *(name for name in names if name != default)]

    def _load(self, attempt: Attempt) -> bool:
        """Attempt a checkpoint and serve it; False where the load was given up meanwhile."""
        name, started = attempt.name, time.monotonic()
        loaded_from = files(self._settings.models / name)
        model = load(self._settings.models / name, self._settings, self._on_fatal)
        with self._loads.turn(attempt):
            if self._settings.compile == "on" and not self._fused(model):
                raise StartupError("compile is on, but there is no fused path (SCMRL_COMPILE)")
            warm(model, self._settings.max_batch)
        if not attempt.commit():
            return False
        model.batcher.start()
        with self._changing:
            self._files.note(name, loaded_from)
            self._ready[name] = model
            self._failed.discard(name)
            if name not in self._names:
                self._names = [*self._names, name]
        if self._stopping.is_set():  # `stop` may have come too early to see it
            model.batcher.stop()
        seconds = time.monotonic() - started
        log.info(
            "checkpoint %s %s is ready on %s after %.1f s",
            name, model.card.version, ", ".join(str(e.device) for e in model.engines), seconds,
        )  # fmt: skip
        return True
