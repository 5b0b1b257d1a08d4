"""Readiness, which moves no data."""

from __future__ import annotations

import contextlib
import errno
import socket
from typing import Any

import channels
import pytest
import support
from platforms import needs_pollable_pipes
from wine import wine_row

import unio

READABLE, WRITABLE = unio.Readiness.READABLE, unio.Readiness.WRITABLE
BOTH = READABLE | WRITABLE


# Readiness


@pytest.mark.clause("O14", "C1", "C3")
@channels.every_pollable
def test_a_poll_completes_once_there_is_something_to_receive_and_takes_nothing(
    port: unio.Port, resources: contextlib.ExitStack, transport: str
) -> None:
    near, far = channels.incoming(resources, transport)
    key = object()
    handle = port.associate(near, key)
    poll = unio.Poll(handle, READABLE)
    port.submit(poll)
    support.assert_idle(port)
    far.send(b"data")
    assert support.completion(port) == (key, poll, 0, None)
    assert poll.found == READABLE
    assert channels.receive_exactly(port, handle, 4) == b"data"


@pytest.mark.clause("O14")
@channels.every_pollable
def test_a_poll_completes_at_once_for_as_long_as_there_is_something(
    port: unio.Port, resources: contextlib.ExitStack, transport: str
) -> None:
    near, far = channels.incoming(resources, transport)
    far.send(b"data")
    handle = port.associate(near)
    poll = unio.Poll(handle, READABLE)
    for _ in range(3):
        assert support.run(port, poll) == (None, poll, 0, None)
    # Somebody else, who knows nothing of the port, takes it bit by bit.
    for _ in range(4):
        assert support.run(port, poll).error is None
        assert len(near.recv(1) if isinstance(near, socket.socket) else near.read(1)) == 1
    port.submit(poll)
    support.assert_idle(port)
    far.send(b"more")
    assert support.completion(port).operation is poll


@pytest.mark.clause("O14")
@channels.every_pollable
def test_a_poll_for_room_completes_at_once_if_there_is_some(
    port: unio.Port, resources: contextlib.ExitStack, transport: str
) -> None:
    near, far = channels.outgoing(resources, transport)
    handle = port.associate(near)
    poll = unio.Poll(handle, WRITABLE)
    for _ in range(3):
        assert support.run(port, poll) == (None, poll, 0, None)
        assert poll.found == WRITABLE
    support.succeed(port, unio.Send(handle, b"room"))
    assert far.recv() == b"room"


@pytest.mark.clause("O14")
@needs_pollable_pipes
@pytest.mark.parametrize("transport", ["local", "pipe", "fifo"])
def test_a_poll_for_room_waits_until_there_is_some(
    port: unio.Port, resources: contextlib.ExitStack, transport: str
) -> None:
    near, far = channels.outgoing(resources, transport)
    handle = port.associate(near)
    poll = unio.Poll(handle, WRITABLE)
    for _ in range(2):
        filled = channels.fill_descriptor(near)
        port.submit(poll)
        support.assert_idle(port)
        assert channels.take(far, filled) == bytes(filled)
        assert support.completion(port) == (None, poll, 0, None)
        assert poll.found == WRITABLE


@pytest.mark.clause("O14")
@channels.every_socket
def test_a_poll_for_both_says_which_is_ready(port: unio.Port, resources: contextlib.ExitStack, transport: str) -> None:
    near, far = channels.incoming(resources, transport)
    handle = port.associate(near)
    poll = unio.Poll(handle, BOTH)
    support.succeed(port, poll)
    assert poll.found == WRITABLE
    far.send(b"data")
    support.succeed(port, poll)
    assert poll.found == BOTH
    poll.readiness = READABLE
    support.succeed(port, poll)
    assert poll.found == READABLE
    assert channels.receive_exactly(port, handle, 4) == b"data"
    port.submit(poll)
    support.assert_idle(port)


@pytest.mark.clause("O14")
@channels.every_pollable
def test_the_end_of_the_stream_is_something_to_receive(
    port: unio.Port, resources: contextlib.ExitStack, transport: str
) -> None:
    near, far = channels.incoming(resources, transport)
    handle = port.associate(near)
    poll = unio.Poll(handle, READABLE)
    port.submit(poll)
    support.assert_idle(port)
    far.close()
    assert support.completion(port) == (None, poll, 0, None)
    assert poll.found == READABLE
    assert support.run(port, poll).error is None
    assert channels.receive_all(port, handle) == b""


@wine_row("receive-after-reset")
@pytest.mark.clause("O14")
def test_a_reset_counts_as_both_and_is_left_for_the_next_call(port: unio.Port, resources: contextlib.ExitStack) -> None:
    near, far = channels.incoming(resources, "tcp")
    handle = port.associate(near)
    poll, both = unio.Poll(handle, READABLE), unio.Poll(handle, BOTH)
    port.submit(poll)
    support.assert_idle(port)
    far.reset()
    assert support.completion(port) == (None, poll, 0, None)
    support.succeed(port, both)
    assert both.found == BOTH
    with pytest.raises(ConnectionResetError):
        near.recv(10)


@pytest.mark.clause("O14")
@needs_pollable_pipes
@channels.every_pipe
def test_a_pipe_that_nobody_reads_any_more_counts_as_writable(
    port: unio.Port, resources: contextlib.ExitStack, transport: str
) -> None:
    near, far = channels.outgoing(resources, transport)
    handle = port.associate(near)
    channels.fill_descriptor(near)
    far.close()
    poll = unio.Poll(handle, WRITABLE)
    support.succeed(port, poll)
    assert poll.found == WRITABLE


@pytest.mark.clause("O14")
@channels.every_socket
def test_a_listener_is_readable_once_somebody_connects(
    port: unio.Port, resources: contextlib.ExitStack, transport: str
) -> None:
    listening = channels.listener(resources, transport)
    poll = unio.Poll(port.associate(listening), READABLE)
    port.submit(poll)
    support.assert_idle(port)
    channels.client(resources, transport).connect(listening.getsockname())
    assert support.completion(port).operation is poll
    resources.enter_context(listening.accept()[0])
    port.submit(poll)
    support.assert_idle(port)


@pytest.mark.clause("O14", "O7")
def test_a_datagram_that_was_polled_for_is_still_there(port: unio.Port, resources: contextlib.ExitStack) -> None:
    near = resources.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    near.bind(("127.0.0.1", 0))
    far = resources.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    poll = unio.Poll(port.associate(near), READABLE)
    for data in (b"data", b""):
        port.submit(poll)
        support.assert_idle(port)
        far.sendto(data, near.getsockname())
        assert support.completion(port).operation is poll
        assert near.recv(10) == data


@pytest.mark.clause("O14")
def test_a_poll_tells_when_a_connect_of_another_library_is_done(
    port: unio.Port, resources: contextlib.ExitStack
) -> None:
    listening = channels.listener(resources, "tcp")
    for joined in ("before", "after"):
        client = channels.client(resources, "tcp")
        client.setblocking(False)
        handle = port.associate(client) if joined == "before" else None
        client.connect_ex(listening.getsockname())
        handle = handle or port.associate(client)
        poll = unio.Poll(handle, WRITABLE)
        assert support.run(port, poll).error is None
        assert client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
        assert client.getpeername() == listening.getsockname()


@pytest.mark.clause("O14")
def test_a_poll_leaves_the_refusal_of_a_connect_to_the_other_library(
    port: unio.Port, resources: contextlib.ExitStack
) -> None:
    bound = channels.client(resources, "tcp")
    bound.bind(("127.0.0.1", 0))
    client = channels.client(resources, "tcp")
    client.setblocking(False)
    handle = port.associate(client)
    client.connect_ex(bound.getsockname())
    poll = unio.Poll(handle, WRITABLE)
    assert support.run(port, poll).error is None
    assert client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNREFUSED


@pytest.mark.clause("O14", "O3")
@channels.every_pollable
def test_a_poll_completes_also_while_a_receive_is_pending(
    port: unio.Port, resources: contextlib.ExitStack, transport: str
) -> None:
    near, far = channels.incoming(resources, transport)
    handle = port.associate(near)
    poll, recv = unio.Poll(handle, READABLE), unio.Recv(handle, bytearray(1))
    port.submit(poll)
    port.submit(recv)
    support.assert_idle(port)
    far.send(b"xy")  # one for the receive, and one that is left to be found
    found = {completion.operation: completion for completion in support.completions(port, 2)}
    assert found[recv].transferred == 1
    assert (found[poll].transferred, found[poll].error) == (0, None)
    assert channels.receive_exactly(port, handle, 1) == b"y"


@pytest.mark.clause("O14", "S1")
@channels.every_pollable
def test_several_polls_of_one_handle_all_complete(
    port: unio.Port, resources: contextlib.ExitStack, transport: str
) -> None:
    near, far = channels.incoming(resources, transport)
    handle = port.associate(near)
    polls = [unio.Poll(handle, READABLE, state=number) for number in range(5)]
    for poll in polls:
        port.submit(poll)
    support.assert_idle(port)
    far.send(b"x")
    assert {completion.operation for completion in support.completions(port, 5)} == set(polls)


@pytest.mark.clause("O14", "S1")
@channels.every_socket
def test_polls_of_both_directions_complete_apart(
    port: unio.Port, resources: contextlib.ExitStack, transport: str
) -> None:
    near, far = channels.incoming(resources, transport)
    handle = port.associate(near)
    readable, writable = unio.Poll(handle, READABLE), unio.Poll(handle, WRITABLE)
    port.submit(readable)
    port.submit(writable)
    assert support.completion(port).operation is writable
    support.assert_idle(port)
    far.send(b"x")
    assert support.completion(port).operation is readable


@pytest.mark.clause("O14", "X1", "S8")
@channels.every_pollable
def test_a_poll_is_cancelled_or_times_out(port: unio.Port, resources: contextlib.ExitStack, transport: str) -> None:
    near, far = channels.incoming(resources, transport)
    poll = unio.Poll(port.associate(near), READABLE)
    assert type(support.run(port, poll, timeout=0.01).error) is TimeoutError
    port.submit(poll)
    assert port.cancel(poll)
    support.assert_cancelled(support.completion(port))
    far.send(b"x")
    support.assert_idle(port)
    assert support.run(port, poll).error is None


@pytest.mark.clause("O14")
@pytest.mark.parametrize("readiness", [unio.Readiness(0), 1, "readable", None])
def test_what_is_no_readiness_is_refused_where_it_is_given(
    port: unio.Port, resources: contextlib.ExitStack, readiness: Any
) -> None:
    near, _ = channels.incoming(resources, "tcp")
    with pytest.raises(TypeError, match="Readiness"):
        unio.Poll(port.associate(near), readiness)
