"""A good clip is answered after a second of each attack."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator

import pytest

from service.bench import servers
from tests.attacks.attack import ATTACKS, attack
from tests.attacks.requests import GOOD, clip_request
from tests.conftest import ROOT

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with servers.run_scmrl(ROOT / "weights" / "avdigits", SCMRL_COMPILE="off") as server:
        yield int(server.url.split(":")[2].split("/")[0])


@pytest.mark.parametrize("name", ATTACKS)
def test_a_good_clip_is_answered_after_an_attack(port: int, name: str) -> None:
    asyncio.run(attack(name, port, 1.0))
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        connection.sendall(clip_request(GOOD.read_bytes()))
        assert connection.recv(12) == b"HTTP/1.1 200"
