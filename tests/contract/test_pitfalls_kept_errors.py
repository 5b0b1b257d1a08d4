"""Sockets that keep errors for who asks for them, as Linux has it: they are readable and writable for ever, say polls.

What is waited for meanwhile has to sleep, and to hear of what comes.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import sys
from collections.abc import Callable
from typing import Any

import channels
import pytest
import support

import unio

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux keeps a queue of errors with a socket")

IP_RECVERR, SO_TIMESTAMPING, SENT_IN_SOFTWARE = 11, 37, 1 << 1 | 1 << 4
"""Linux' numbers, of which Python has no names."""

RECEIVES: dict[str, Callable[[unio.Handle], unio.Recv | unio.RecvFrom]] = {
    "datagram": lambda handle: unio.RecvFrom(handle, bytearray(10)),
    "datagram in many parts": lambda handle: unio.RecvFrom(handle, [bytearray(1) for _ in range(2000)]),
    "no room": lambda handle: unio.RecvFrom(handle, bytearray()),
    "message": lambda handle: unio.Recv(handle, bytearray(10)),
}

every_receive = pytest.mark.parametrize("make", RECEIVES.values(), ids=RECEIVES)


def refused(sock: socket.socket) -> Any:
    """The address of nobody."""
    with socket.socket(type=socket.SOCK_DGRAM) as gone:
        gone.bind(("127.0.0.1", 0))
        return gone.getsockname()


@pytest.fixture
def keeping(resources: contextlib.ExitStack) -> socket.socket:
    """A socket that keeps the error of what it has sent to nobody, of which nobody need be told any more."""
    sock: socket.socket = resources.enter_context(support.datagram_socket())
    sock.setsockopt(socket.IPPROTO_IP, IP_RECVERR, 1)
    sock.sendto(b"x", refused(sock))
    support.until(lambda: sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNREFUSED)
    return sock


@pytest.mark.clause("O7", "L2")
@every_receive
def test_a_receive_sleeps_and_is_told_of_data(
    port: unio.Port, keeping: socket.socket, resources: contextlib.ExitStack, make: Any
) -> None:
    far = resources.enter_context(support.datagram_socket())
    recv = make(port.associate(keeping))
    for _ in range(2):
        port.submit(recv)
        channels.assert_sleeps(port)
        far.sendto(b"data", keeping.getsockname())
        assert support.completion(port) == (None, recv, min(recv._size, 4), None)
        if not recv._size:
            keeping.recv(10)


@pytest.mark.clause("O7", "S1")
@every_receive
def test_a_receive_that_sleeps_is_told_of_another_error(port: unio.Port, keeping: socket.socket, make: Any) -> None:
    handle = port.associate(keeping)
    recv = make(handle)
    for _ in range(3):
        port.submit(recv)
        support.assert_nothing_comes(port, 0.05)
        send = unio.SendTo(handle, b"x", refused(keeping))
        port.submit(send)
        found = {completion.operation: completion for completion in support.completions(port, 2)}
        assert found[send].error is None
        assert isinstance(found[recv].error, ConnectionRefusedError)


@pytest.mark.clause("X1", "S8")
@every_receive
def test_a_receive_that_sleeps_can_be_ended(
    port: unio.Port, keeping: socket.socket, resources: contextlib.ExitStack, make: Any
) -> None:
    handle = port.associate(keeping)
    recv = make(handle)
    for _ in range(2):
        port.submit(recv)
        support.assert_nothing_comes(port, 0.05)
        assert port.cancel(recv)
        support.assert_cancelled(support.completion(port))
        assert isinstance(support.run(port, recv, 0.05).error, TimeoutError)
    far = resources.enter_context(support.datagram_socket())
    far.sendto(b"data", keeping.getsockname())
    assert support.run(port, recv) == (None, recv, min(recv._size, 4), None)
    if not recv._size:
        keeping.recv(10)
    port.submit(recv)
    support.assert_nothing_comes(port, 0.05)
    handle.close()
    support.assert_cancelled(support.completion(port))


@pytest.mark.clause("S1")
@every_receive
def test_a_receive_goes_on_when_the_thread_has_ended_that_submitted_it(
    port: unio.Port, keeping: socket.socket, resources: contextlib.ExitStack, make: Any
) -> None:
    recv = make(port.associate(keeping))

    def submit() -> None:
        port.submit(recv)
        support.assert_nothing_comes(port, 0.05)

    support.Background(submit).result()
    channels.assert_sleeps(port)
    far = resources.enter_context(support.datagram_socket())
    far.sendto(b"data", keeping.getsockname())
    assert support.completion(port) == (None, recv, min(recv._size, 4), None)


@pytest.mark.clause("O3", "O4", "O9", "L2")
@pytest.mark.parametrize("kind", ["send", "several", "file"])
def test_a_stream_that_keeps_the_times_of_its_sends_sleeps_until_there_is_room(
    port: unio.Port, resources: contextlib.ExitStack, tmp_path: Any, kind: str
) -> None:
    near, far = channels.outgoing(resources, "tcp")
    near.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPING, SENT_IN_SOFTWARE)
    handle = port.associate(near)
    data = channels.pattern(support.MIB)
    (tmp_path / "file").write_bytes(data)
    file = resources.enter_context(unio.open(tmp_path / "file"))
    send = {
        "send": lambda: unio.Send(handle, data),
        "several": lambda: unio.Send(handle, [data[:1000], data[1000:]]),
        "file": lambda: unio.SendFile(handle, file),
    }[kind]()
    recv = unio.Recv(handle, bytearray(10))
    port.submit(recv)
    port.submit(send)
    support.assert_nothing_comes(port, 0.05)  # until nothing moves any more
    channels.assert_sleeps(port)
    drained = channels.drain(port, far, 1)
    assert drained.completions == [(None, send, len(data), None)]
    far.send(b"data")
    assert support.completion(port) == (None, recv, 4, None)
    assert bytes(drained.data) + channels.take(far, len(data) - len(drained.data)) == data
