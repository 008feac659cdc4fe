"""Messages of any size and number of parts arrive whole, over a socket that splits them."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from functools import partial

import numpy as np
import pytest

from model.preprocess.prepared import Prepared
from service.classification.upload_fields import InputFiles
from service.decoding import wire
from service.decoding.job import DecodeRequest, DecodeResult

REQUEST = DecodeRequest(name="of a test", streams={}, missing_streams=False, steps=4)


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    """The service's end of a socket with a small buffer, and the process's."""
    service, process = socket.socketpair()
    with service, process:
        for end in (service, process):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        yield service, process


def prepared(size: int) -> Prepared:
    tensor = np.arange(size, dtype=np.float32).reshape(1, 1, 1, size)
    edges = np.arange(size + 1, dtype=np.float64)
    canvas = np.empty((0, 0, 3), np.uint8)
    return Prepared(tensor, "y", "x", np.arange(2.0), edges, partial(np.asarray, canvas))


def test_files_arrive_as_sent(ends: tuple[socket.socket, socket.socket]) -> None:
    sent = InputFiles(clip=bytes(100_000), frames=[b"%d" % n * (n % 7) for n in range(3000)])
    arrived: list[tuple[InputFiles, DecodeRequest]] = []
    process = threading.Thread(target=lambda: arrived.append(wire.receive_request(ends[1])))
    process.start()
    deadline = wire.Deadline(60)
    wire.send_request(ends[0], sent, REQUEST, deadline)
    wire.receive_acknowledgement(ends[0], deadline)
    process.join()
    files, request = arrived[0]
    assert dict(files) == dict(sent)
    assert request == REQUEST


def test_tensors_arrive_as_sent(ends: tuple[socket.socket, socket.socket]) -> None:
    sent = {f"stream {n}": prepared(size) for n, size in enumerate((1, 0, 70_000, *range(400)))}
    result = DecodeResult(sent, {}, 0.5, 0.25)
    process = threading.Thread(target=wire.send_result, args=(ends[1], result, True))
    process.start()
    arrived = wire.receive_result(ends[0], wire.Deadline(60))
    process.join()
    assert list(arrived.prepared) == list(sent)
    for name, found in arrived.prepared.items():
        for array in ("tensor", "row_edges", "column_edges"):
            expected = getattr(sent[name], array)
            assert getattr(found, array).dtype == expected.dtype
            assert np.array_equal(getattr(found, array), expected)


def test_a_result_that_breaks_off_is_a_loss(ends: tuple[socket.socket, socket.socket]) -> None:
    service, process = ends
    result = DecodeResult({"audio": prepared(10)}, {}, 0.5, 0.25)
    wire.send_result(process, result, True)
    message = service.recv(100_000)
    process.sendall(message[:-1])
    process.shutdown(socket.SHUT_WR)
    with pytest.raises(wire.PeerLost, match="closed"):
        wire.receive_result(service, wire.Deadline(60))
