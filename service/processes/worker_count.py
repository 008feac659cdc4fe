"""How many HTTP workers a service has."""

from __future__ import annotations

from pathlib import Path

from service.runtime import cores
from service.settings import Settings

#: Where NVIDIA's driver shows its devices.
_DEVICES = Path("/dev")
#: Cores from which a service with a GPU has HTTP workers, cores for each, and the most of them.
_MIN_CORES, _CORES_EACH, _MOST = 8, 4, 16


def http_workers(settings: Settings) -> int:
    """Return the number of HTTP workers; 1: this process serves by itself.

    For the setting 0, one for each four cores where there is a GPU and at least eight cores: a
    network on a CPU takes most of its cores, and one process keeps up with it. torch is not asked,
    since its import would delay the workers.
    """
    if settings.http_workers:
        return settings.http_workers
    count = cores.available()
    has_gpu = settings.device != "cpu" and any(_DEVICES.glob("nvidia[0-9]*"))
    return min(_MOST, count // _CORES_EACH) if has_gpu and count >= _MIN_CORES else 1
