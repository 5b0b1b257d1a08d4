"""examples/forward.py"""

from __future__ import annotations

import contextlib
import random
import socket
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import support

Serve = Callable[..., Any]


@pytest.fixture
def target() -> Iterator[socket.socket]:
    """A listening socket: the server behind the forwarder."""
    with support.listener() as listening:
        listening.settimeout(support.PATIENCE)
        yield listening


@pytest.fixture
def linked(serve: Serve, target: socket.socket) -> Iterator[tuple[socket.socket, socket.socket]]:
    """A client of the forwarder, and the connection that its target got for it."""
    server = serve("forward", *target.getsockname())
    with server.connect() as client:
        served, _ = target.accept()
        served.settimeout(support.PATIENCE)
        with served:
            yield client, served


def test_both_directions_at_once(linked: tuple[socket.socket, socket.socket]) -> None:
    payloads = [random.Random(number).randbytes(4 << 20) for number in range(2)]
    receivers = [support.Background(support.recv_exactly, end, 4 << 20) for end in linked]
    senders = [support.Background(end.sendall, payload) for end, payload in zip(linked, payloads, strict=True)]
    for sender in senders:
        sender.result()
    assert [receiver.result() for receiver in receivers] == payloads[::-1]


@pytest.mark.parametrize("first", [0, 1], ids=["client", "target"])
def test_a_half_close_is_passed_on_and_the_other_direction_stays_open(
    linked: tuple[socket.socket, socket.socket], first: int
) -> None:
    asking, answering = linked[first], linked[1 - first]
    asking.sendall(b"question")
    asking.shutdown(socket.SHUT_WR)
    assert support.recv_to_end(answering) == b"question"
    answering.sendall(b"answer")
    assert support.recv_exactly(asking, 6) == b"answer"
    answering.shutdown(socket.SHUT_WR)
    assert asking.recv(1) == b""


def test_clients_are_kept_apart(serve: Serve, target: socket.socket) -> None:
    server = serve("forward", *target.getsockname())

    def answer(connection: socket.socket) -> None:
        with connection:
            connection.settimeout(support.PATIENCE)
            connection.sendall(support.recv_to_end(connection))

    def ask(number: int) -> None:
        payload = random.Random(number).randbytes(300_001)
        with server.connect() as client:
            client.sendall(payload)
            client.shutdown(socket.SHUT_WR)
            assert support.recv_to_end(client) == payload

    clients = [support.Background(ask, number) for number in range(6)]
    answers = [support.Background(answer, target.accept()[0]) for _ in clients]
    for thread in [*clients, *answers]:
        thread.result()


def test_it_takes_no_more_from_one_side_than_the_other_reads(linked: tuple[socket.socket, socket.socket]) -> None:
    client, served = linked
    sent = support.fill(client)  # comes to an end only because the forwarder takes no more
    client.shutdown(socket.SHUT_WR)
    assert len(support.recv_to_end(served)) == sent


def test_a_reset_of_one_side_ends_the_other(linked: tuple[socket.socket, socket.socket]) -> None:
    client, served = linked
    support.reset(client)
    with contextlib.suppress(ConnectionResetError):
        assert support.recv_to_end(served) == b""


def test_resets_amid_traffic_end_those_clients_only(serve: Serve, target: socket.socket) -> None:
    server = serve("forward", *target.getsockname())

    def echo() -> None:
        connection, _ = target.accept()
        with connection, contextlib.suppress(ConnectionError):
            connection.settimeout(support.PATIENCE)
            while data := connection.recv(1 << 16):
                connection.sendall(data)

    for _ in range(50):
        echoing = support.Background(echo)
        client = server.connect()
        client.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while client.send(bytes(1 << 16)):
                pass
        client.settimeout(support.PATIENCE)
        support.recv_exactly(client, 1 << 16)
        support.reset(client)
        echoing.result()
    echoing = support.Background(echo)
    with server.connect() as client:
        client.sendall(b"last")
        assert support.recv_exactly(client, 4) == b"last"
    echoing.result()


def test_a_target_that_refuses_ends_that_client_only(serve: Serve, target: socket.socket) -> None:
    server = serve("forward", *target.getsockname())
    name = target.getsockname()
    target.close()
    with server.connect() as client, contextlib.suppress(ConnectionResetError):
        assert support.recv_to_end(client) == b""
    with socket.create_server(name) as again:
        again.settimeout(support.PATIENCE)
        with server.connect() as client:
            served, _ = again.accept()
            with served:
                served.sendall(b"back")
            assert support.recv_to_end(client) == b"back"


@pytest.mark.skipif(sys.platform != "linux", reason="only there can the limit of a running process be lowered")
@pytest.mark.parametrize("limit", [24, 25])  # in one case it is the client's that is lacking, in the other the target's
def test_descriptors_that_run_out_are_survived(serve: Serve, target: socket.socket, limit: int) -> None:
    resource = pytest.importorskip("resource")

    def answer_the_first_that_asks() -> None:
        asked = b""
        while not asked:
            connection, _ = target.accept()
            with connection, contextlib.suppress(ConnectionError):
                connection.settimeout(support.PATIENCE)
                asked = support.recv_to_end(connection)
                connection.sendall(asked)

    server = serve("forward", *target.getsockname())
    resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, (limit, limit))
    answering = support.Background(answer_the_first_that_asks)
    with contextlib.ExitStack() as stack:
        for _ in range(24):
            stack.enter_context(server.connect())

    def ask() -> bool:
        with server.connect() as client, contextlib.suppress(OSError):  # it may have been refused already
            client.sendall(b"still there?")
            client.shutdown(socket.SHUT_WR)
            return support.recv_to_end(client) == b"still there?"
        return False

    support.until(ask)
    answering.result()
