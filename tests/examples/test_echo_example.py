"""examples/echo.py"""

from __future__ import annotations

import random
import socket
from collections.abc import Callable
from typing import Any

import support

Serve = Callable[..., Any]


def test_several_clients_at_once_get_a_mebibyte_back(serve: Serve) -> None:
    server = serve("echo")

    def converse(number: int) -> None:
        payload = random.Random(number).randbytes(1 << 20)
        with server.connect() as client:
            receiver = support.Background(support.recv_exactly, client, len(payload))
            client.sendall(payload)
            assert receiver.result() == payload
            client.shutdown(socket.SHUT_WR)
            assert client.recv(1) == b""

    support.in_threads(8, converse)


def test_a_client_that_resets_is_forgotten(serve: Serve) -> None:
    server = serve("echo")
    support.reset(server.connect())
    with server.connect() as client:
        client.sendall(b"still there?")
        assert support.recv_exactly(client, 12) == b"still there?"


def test_a_client_that_does_not_read_holds_up_nobody(serve: Serve) -> None:
    server = serve("echo")
    with server.connect() as silent, server.connect() as client:
        support.fill(silent)
        client.sendall(b"next, please")
        assert support.recv_exactly(client, 12) == b"next, please"
