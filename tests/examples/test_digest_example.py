"""examples/digest.py"""

from __future__ import annotations

import hashlib
import random
import socket
from collections.abc import Callable
from typing import Any

import support

Serve = Callable[..., Any]


def test_several_clients_at_once_get_the_hash_of_what_each_has_sent(serve: Serve) -> None:
    server = serve("digest")

    def ask(number: int) -> None:
        payload = random.Random(number).randbytes(number << 17)
        with server.connect() as client:
            client.sendall(payload)
            client.shutdown(socket.SHUT_WR)
            assert support.recv_to_end(client) == f"{hashlib.sha256(payload).hexdigest()}\n".encode()

    support.in_threads(8, ask)


def test_a_client_that_resets_is_forgotten(serve: Serve) -> None:
    server = serve("digest")
    support.reset(server.connect())
    with server.connect() as client:
        client.shutdown(socket.SHUT_WR)
        assert support.recv_to_end(client) == f"{hashlib.sha256().hexdigest()}\n".encode()
