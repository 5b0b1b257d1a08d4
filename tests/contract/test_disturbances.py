"""Clause L4 of the contract: what never reaches the caller, of signals, of small pieces, of readiness that was none."""

from __future__ import annotations

import contextlib
import random
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support import (
    PATIENCE,
    Background,
    assert_idle,
    completion,
    completions,
    connect,
    inside_wait,
    local_pair,
    recv_exactly,
    succeed,
    tcp_pair,
)

import unio


@contextlib.contextmanager
def interrupted(seconds: float) -> Iterator[list[int]]:
    """Signals at an interval; the system calls of the main thread end with EINTR."""
    if not hasattr(signal, "setitimer"):
        pytest.skip("this system has no setitimer")
    taken: list[int] = []
    previous = signal.signal(signal.SIGALRM, lambda number, _: taken.append(number))
    signal.setitimer(signal.ITIMER_REAL, seconds, seconds)
    try:
        yield taken
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


@pytest.mark.clause("L4")
@pytest.mark.process_wide
def test_signals_disturb_no_operation(
    port: unio.Port, make_pair: Any, make_listener: Any, resources: contextlib.ExitStack, tmp_path: Path
) -> None:
    content = random.Random(5).randbytes(1 << 23)
    near, far = make_pair()
    listening = make_listener()
    handle, listener_handle = port.associate(near), port.associate(listening)
    file = resources.enter_context(unio.open(tmp_path / "file", "w+b"))
    stored = port.associate(file)

    def peer() -> bytes:
        received = recv_exactly(far, len(content))
        far.sendall(received)
        return received

    with interrupted(0.001) as taken:
        echo = Background(peer)
        assert succeed(port, unio.Send(handle, content)).transferred == len(content)
        received = bytearray()
        operation = unio.Recv(handle, bytearray(1 << 16))
        while len(received) < len(content):
            received += operation.buffer[: succeed(port, operation).transferred]
        assert received == content
        assert succeed(port, unio.Write(stored, content, 0)).transferred == len(content)
        back = unio.Read(stored, bytearray(len(content)), 0)
        assert succeed(port, back).transferred == len(content)
        assert back.buffer == content
        accept = unio.Accept(listener_handle)
        for _ in range(20):
            client = Background(connect, listening)
            succeed(port, accept)
            assert accept.socket is not None
            accept.socket.close()
            client.result().close()
        succeed(port, unio.Timer(0.02))
        start = time.monotonic()
        assert port.wait(0.02) == []
        assert time.monotonic() - start >= 0.02
    assert taken
    assert echo.result() == content


@pytest.mark.clause("L4", "O4")
@pytest.mark.parametrize("make", [local_pair, tcp_pair])
def test_a_send_that_goes_out_in_small_pieces_completes_once(
    port: unio.Port, resources: contextlib.ExitStack, make: Callable[[], tuple[socket.socket, socket.socket]]
) -> None:
    near, far = make()
    resources.enter_context(near)
    resources.enter_context(far)
    near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)  # the system makes that the least it can
    content = random.Random(6).randbytes(200_000)
    handle = port.associate(near)
    chance = random.Random(7)
    ends = sorted(chance.sample(range(len(content)), 2999))
    pieces = [content[start:end] for start, end in zip([0, *ends], [*ends, len(content)], strict=True)]
    pieces.insert(5, b"")
    first, second = unio.Send(handle, content), unio.Send(handle, pieces)
    port.submit(first)
    port.submit(second)
    assert first.in_flight
    reader = Background(recv_exactly, far, 2 * len(content))
    assert [found[1:] for found in completions(port, 2)] == [(each, len(content), None) for each in (first, second)]
    assert reader.result() == content * 2


@pytest.mark.clause("L4", "O12")
def test_a_pipe_takes_more_than_it_holds_in_one_operation(port: unio.Port, resources: contextlib.ExitStack) -> None:
    reader, writer = unio.pipe()
    resources.enter_context(reader)
    resources.enter_context(writer)
    content = random.Random(8).randbytes(1_000_000)
    sent = unio.Send(port.associate(writer, "writer"), content)
    received = unio.Recv(port.associate(reader, "reader"), bytearray(30_000))
    port.submit(sent)
    port.submit(received)
    arrived = bytearray()
    while len(arrived) < len(content):
        found = completion(port)
        assert found.error is None
        if found.operation is received:
            arrived += received.buffer[: found.transferred]
            if len(arrived) < len(content):
                port.submit(received)
        else:
            assert found.transferred == len(content)
    assert arrived == content
    if sent.in_flight:
        assert completion(port)[1:] == (sent, len(content), None)


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX only")
@pytest.mark.clause("L4")
def test_readiness_that_came_to_nothing_leaves_the_operation_pending(port: unio.Port, make_pair: Any) -> None:
    # The event says that there is something; by the time of the receive somebody else has taken it.
    if port.backend == "io_uring":
        pytest.skip("the kernel itself receives what comes, so that nobody is quicker")
    near, far = make_pair(local=True)
    with near.dup() as thief:
        operation = unio.Recv(port.associate(near), bytearray(8))
        port.submit(operation)
        for _ in range(10):
            far.send(b"stolen")
            assert recv_exactly(thief_of(thief), 6) == b"stolen"
            assert_idle(port)
        assert operation.in_flight
        far.send(b"data")
        assert completion(port)[1:] == (operation, 4, None)


def thief_of(sock: socket.socket) -> socket.socket:
    sock.settimeout(PATIENCE)
    return sock


@pytest.mark.skipif(sys.platform == "win32", reason="a handle joins one port, and with it all its duplicates")
@pytest.mark.clause("L4", "O1")
def test_two_ports_share_a_listener_and_neither_hears_of_what_the_other_got(
    make_port: Any, make_listener: Any, resources: contextlib.ExitStack
) -> None:
    listening = make_listener()
    ports = [make_port(), make_port()]
    duplicate = resources.enter_context(listening.dup())
    accepts = [unio.Accept(port.associate(each)) for port, each in zip(ports, (listening, duplicate), strict=True)]
    for port, accept in zip(ports, accepts, strict=True):
        port.submit(accept)
    for number in range(20):
        with connect(listening) as client:
            taken: list[unio.Accept] = []
            while not taken:
                taken = [found.operation for port in ports for found in port.wait(0.001)]
            [accept] = taken
            assert accept.error is None
            assert accept.socket is not None
            with accept.socket:
                assert accept.address == client.getsockname()
            ports[accepts.index(accept)].submit(accept)
            del number


@pytest.mark.clause("L4", "P2")
def test_a_waiting_thread_is_disturbed_by_nothing_that_is_not_its_own(port: unio.Port, make_pair: Any) -> None:
    near, far = make_pair()
    handle = port.associate(near)
    waiter = Background(completion, port)
    inside_wait(waiter)
    far.send(b"for nobody yet")
    port.start_gathered()
    far.send(b"still not")
    received = unio.Recv(handle, bytearray(100))
    assert not received.in_flight
    port.post("here")
    assert waiter.result().key == "here"
    assert succeed(port, received).transferred > 0
