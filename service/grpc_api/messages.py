"""The messages of the protocol, from the descriptors that `make protos` writes.

They are in a pool of their own: in protobuf's default pool they would meet the same messages of a
client library that is imported into the same process.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

INFERENCE = "inference.GRPCInferenceService"
HEALTH = "grpc.health.v1.Health"


@cache
def _pool() -> descriptor_pool.DescriptorPool:
    content = files(__package__).joinpath("protos.binpb").read_bytes()
    pool = descriptor_pool.DescriptorPool()
    for file in descriptor_pb2.FileDescriptorSet.FromString(content).file:
        pool.Add(file)
    return pool


@cache
def message(name: str) -> Any:
    """Return the class of a message of the package `inference`, or of a full name."""
    full_name = name if "." in name else f"inference.{name}"
    return message_factory.GetMessageClass(_pool().FindMessageTypeByName(full_name))


@cache
def request_types(service: str) -> dict[str, Any]:
    """Return the class of the request of each method of a service, by the method's name."""
    methods = _pool().FindServiceByName(service).methods
    return {method.name: message(method.input_type.full_name) for method in methods}
