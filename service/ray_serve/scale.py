"""How many replicas there are on Ray, and what each of them gets. It does not need Ray."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class Scale(BaseModel):
    """Arguments of `service.ray_serve.app.application`.

    - `cpus`, `gpus`: of a replica, which Ray reserves; parts of a GPU are possible.
    - `target_ongoing_requests`: requests and streams in flight of a replica beyond which another is
      started.
    - `upscale_delay_s`, `downscale_delay_s`: how long the load must ask for it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    min_replicas: int = Field(1, ge=1)
    max_replicas: int = Field(8, ge=1)
    cpus: float = Field(2.0, gt=0)
    gpus: float = Field(0.0, ge=0)
    target_ongoing_requests: float = Field(8.0, gt=0)
    upscale_delay_s: float = Field(10.0, ge=0)
    downscale_delay_s: float = Field(300.0, ge=0)
