"""The maximum batch of each device."""

from __future__ import annotations

from service.settings import Settings


def max_batch(device: str, settings: Settings) -> int:
    """Return the maximum requests in one batch of a device ("cpu", "cuda:N").

    Today that is the setting for every device. To make it depend on the device, return another
    value here: admission, queue and workers read `engine.max_batch`.
    """
    return settings.max_batch
