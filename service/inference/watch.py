"""Periodic checks while checkpoints are served, each in a thread: of workers and of files."""

from __future__ import annotations

import logging
import threading
import time

from model import allocator
from service.inference.file_watch import FileWatch
from service.inference.registry import Registry
from service.inference.served_model import ServedModel

log = logging.getLogger("scmrl.registry")

#: Seconds between two checks.
_WATCH_S = 1.0
#: Longest wait of a check for replacements, of all checkpoints together, in seconds: so an error is
#: in the log at once, as a rule.
_PATIENCE_S = 2.0
#: Consecutive checks without a request in flight, after which freed memory is returned to the
#: kernel.
_IDLE_CHECKS = 10
#: Checks with a request in flight after which that is done all the same: live streams never leave
#: the service idle, and it takes about 10 ms.
_BUSY_CHECKS = 30


def watch_workers(
    registry: Registry[ServedModel], hung_after_s: float, stopping: threading.Event
) -> None:
    """Replace workers that die, or run one batch for `hung_after_s`, until `stopping` is set.

    Freed memory is returned to the kernel every `_IDLE_CHECKS` checks without a request in flight,
    and every `_BUSY_CHECKS` checks with one.
    """
    failing: set[str] = set()  # names whose worker cannot be replaced: logged once
    idle_checks = busy_checks = 0
    while not stopping.wait(_WATCH_S):
        is_busy = _has_request(registry)
        idle_checks, busy_checks = (0, busy_checks + 1) if is_busy else (idle_checks + 1, 0)
        if (idle_checks and idle_checks % _IDLE_CHECKS == 0) or busy_checks >= _BUSY_CHECKS:
            allocator.trim()
            busy_checks = 0
        _replace_lost_workers(registry, hung_after_s, failing)


def _has_request(registry: Registry[ServedModel]) -> bool:
    return any(model.batcher.in_flight for model in registry.ready.values())


def _replace_lost_workers(
    registry: Registry[ServedModel], hung_after_s: float, failing: set[str]
) -> None:
    """Check once. A function of its own, so that no model is referenced between two checks."""
    models = registry.ready
    for model in models.values():  # all, before any is waited for
        model.batcher.begin_replacements(hung_after_s)
    until = time.monotonic() + _PATIENCE_S
    for name, model in models.items():
        try:
            model.batcher.await_replacements(until)
            if model.batcher.has_all_workers:  # else one may be about to fail again
                failing.discard(name)
        except Exception:
            if name not in failing:
                log.exception(
                    "the worker of %s cannot be replaced; retrying every %g s", name, _WATCH_S
                )
            failing.add(name)


def watch_files(
    registry: Registry[ServedModel], files: FileWatch, stopping: threading.Event
) -> None:
    """Check the files of served checkpoints, until `stopping` is set."""
    while not stopping.wait(_WATCH_S):
        for name in registry.ready:
            files.check(name)
