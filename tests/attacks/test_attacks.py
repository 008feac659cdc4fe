"""A good clip is answered after a second of each attack, if need be after a retry."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Iterator
from http.client import HTTPResponse

import pytest

from service.bench import servers
from tests.attacks.attack import ATTACKS, attack
from tests.attacks.requests import GOOD, clip_request
from tests.conftest import ROOT

pytestmark = pytest.mark.slow

ANSWERED_WITHIN_S = 60.0


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with servers.run_scmrl(ROOT / "weights" / "avdigits", SCMRL_COMPILE="off") as server:
        yield int(server.url.split(":")[2].split("/")[0])


def post_clip(port: int) -> HTTPResponse:
    """Send a good clip on a connection of its own."""
    with socket.create_connection(("127.0.0.1", port), timeout=ANSWERED_WITHIN_S) as connection:
        connection.sendall(clip_request(GOOD.read_bytes()))
        response = HTTPResponse(connection)
        response.begin()
        response.read()
    return response


@pytest.mark.parametrize("name", ATTACKS)
def test_a_good_clip_is_answered_after_an_attack(port: int, name: str) -> None:
    asyncio.run(attack(name, port, 1.0))
    deadline = time.monotonic() + ANSWERED_WITHIN_S
    # On a slow machine the attack's own clips may still fill the queue: a client that is rejected
    # with Retry-After comes again.
    while (response := post_clip(port)).status == 503 and time.monotonic() < deadline:
        time.sleep(float(response.headers["Retry-After"]))
    assert response.status == 200
