"""Connecting once more on the same socket, with a receive beside it, and with the first bytes (TCP fast open)."""

from __future__ import annotations

import contextlib
import errno
import socket
import sys
from pathlib import Path
from typing import Any

import channels
import pytest
import support
from platforms import WINDOWS

import unio

TCP_FASTOPEN_CONNECT = 30  # linux/tcp.h
TCP_FASTOPEN_NO_COOKIE = 34

CLIENT = 1  # a bit of the setting: sockets that connect may open a connection with data

SETTING = Path("/proc/sys/net/ipv4/tcp_fastopen")

needs_fast_open = pytest.mark.skipif(
    sys.platform != "linux" or not SETTING.exists() or not int(SETTING.read_text()) & CLIENT,
    reason="needs a system that lets a connect send its first bytes along (TCP_FASTOPEN_CONNECT of Linux)",
)

takes_failed_sockets = pytest.mark.skipif(
    not WINDOWS and sys.platform != "linux",
    reason="needs a socket that can connect once it has failed to; POSIX leaves that open, and macOS and BSD refuse",
)


def unheard(resources: contextlib.ExitStack, transport: str) -> socket.socket:
    """A socket with an address that it does not listen on."""
    bound = channels.client(resources, transport)
    bound.bind(("::1" if transport == "tcp6" else "127.0.0.1", 0))
    return bound


# Once more


@pytest.mark.clause("O2", "S6")
@takes_failed_sockets
@pytest.mark.parametrize("transport", ["tcp", "tcp6"])
def test_a_socket_that_was_refused_connects_when_somebody_listens(
    port: unio.Port, resources: contextlib.ExitStack, transport: str
) -> None:
    nobody = unheard(resources, transport)
    client = channels.client(resources, transport)
    connect = unio.Connect(port.associate(client), nobody.getsockname())
    for _ in range(3):
        assert type(support.run(port, connect).error) is ConnectionRefusedError
    nobody.listen()
    support.succeed(port, connect)
    assert client.getpeername() == nobody.getsockname()
    support.succeed(port, unio.Send(connect.handle, b"hello"))
    assert support.recv_exactly(resources.enter_context(nobody.accept()[0]), 5) == b"hello"
    assert getattr(support.run(port, connect).error, "errno", None) == errno.EISCONN


@pytest.mark.clause("O2", "S6")
@takes_failed_sockets
def test_a_socket_that_was_refused_connects_to_another_address(
    port: unio.Port, resources: contextlib.ExitStack
) -> None:
    listening = channels.listener(resources, "tcp")
    client = channels.client(resources, "tcp")
    connect = unio.Connect(port.associate(client), unheard(resources, "tcp").getsockname())
    assert type(support.run(port, connect).error) is ConnectionRefusedError
    connect.address = listening.getsockname()
    support.succeed(port, connect)
    assert client.getpeername() == listening.getsockname()


@pytest.mark.clause("O2")
@takes_failed_sockets
def test_so_does_one_whose_refusal_the_program_has_seen_itself(
    port: unio.Port, resources: contextlib.ExitStack
) -> None:
    nobody = unheard(resources, "tcp")
    client = channels.client(resources, "tcp")
    with pytest.raises(ConnectionRefusedError):
        client.connect(nobody.getsockname())
    nobody.listen()
    support.succeed(port, unio.Connect(port.associate(client), nobody.getsockname()))
    assert client.getpeername() == nobody.getsockname()


@pytest.mark.clause("O2", "X1", "S8")
def test_a_connect_that_was_given_up_is_not_taken_for_the_next_one(
    port: unio.Port, resources: contextlib.ExitStack
) -> None:
    elsewhere = channels.listener(resources, "tcp")
    client = channels.client(resources, "tcp")
    connect = unio.Connect(port.associate(client), support.full_listener(resources))
    assert type(support.run(port, connect, 0.05).error) is TimeoutError
    connect.address = elsewhere.getsockname()  # the system is still about the first one
    error = support.run(port, connect).error
    if error is not None:
        assert error.errno in (errno.EALREADY, errno.EINVAL)
    else:  # where the system has let go of the first one
        assert client.getpeername() == elsewhere.getsockname()


@pytest.mark.clause("O2", "C2")
def test_a_receive_beside_a_connect_does_not_take_its_error(port: unio.Port, resources: contextlib.ExitStack) -> None:
    nobody = unheard(resources, "tcp")
    for _ in range(20):
        handle = port.associate(channels.client(resources, "tcp"))
        connect, recv = unio.Connect(handle, nobody.getsockname()), unio.Recv(handle)
        port.submit(connect)
        port.submit(recv)
        ended = {id(found.operation): found for found in support.completions(port, 2)}
        assert type(ended[id(connect)].error) is ConnectionRefusedError
        handle.close()


# With the first bytes


def opening(port: unio.Port, resources: contextlib.ExitStack) -> unio.Handle:
    """A socket whose connection is to be opened by the first bytes that it sends."""
    client = channels.client(resources, "tcp")
    client.setsockopt(socket.IPPROTO_TCP, TCP_FASTOPEN_CONNECT, 1)
    client.setsockopt(socket.IPPROTO_TCP, TCP_FASTOPEN_NO_COOKIE, 1)
    return port.associate(client)


@pytest.mark.clause("O2", "O4")
@needs_fast_open
def test_a_connect_succeeds_whose_connection_the_first_send_opens(
    port: unio.Port, resources: contextlib.ExitStack
) -> None:
    listening = channels.listener(resources, "tcp")
    handle = opening(port, resources)
    support.succeed(port, unio.Connect(handle, listening.getsockname()))
    recv: Any = unio.Recv(handle)
    port.submit(recv)
    support.assert_idle(port)
    listening.settimeout(0)
    with pytest.raises(BlockingIOError):  # the peer has heard of nothing yet
        listening.accept()
    support.succeed(port, unio.Send(handle, b"question"))
    assert handle.socket is not None
    assert handle.socket.getpeername() == listening.getsockname()
    listening.settimeout(support.PATIENCE)
    accepted = resources.enter_context(listening.accept()[0])
    assert support.recv_exactly(accepted, 8) == b"question"
    accepted.sendall(b"answer")
    assert support.completion(port).operation is recv
    assert bytes(recv.data) == b"answer"


@pytest.mark.clause("O2", "C2")
@needs_fast_open
def test_where_the_first_send_opens_the_connection_what_comes_after_it_hears_of_a_refusal(
    port: unio.Port, resources: contextlib.ExitStack
) -> None:
    handle = opening(port, resources)
    support.succeed(port, unio.Connect(handle, unheard(resources, "tcp").getsockname()))
    support.succeed(port, unio.Send(handle, b"question"))
    assert type(support.run(port, unio.Recv(handle)).error) is ConnectionRefusedError


@pytest.mark.clause("O2")
@needs_fast_open
def test_without_the_peers_consent_such_a_socket_connects_like_any_other(
    port: unio.Port, resources: contextlib.ExitStack
) -> None:
    listening = channels.listener(resources, "tcp")
    client = channels.client(resources, "tcp")
    client.setsockopt(socket.IPPROTO_TCP, TCP_FASTOPEN_CONNECT, 1)  # for which a peer gives cookies, or does not
    support.succeed(port, unio.Connect(port.associate(client), listening.getsockname()))
    assert client.getpeername() == listening.getsockname()
