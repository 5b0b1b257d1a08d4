"""Receiving on byte streams, sockets and pipes: data, the end, a reset, and receives without room."""

from __future__ import annotations

import contextlib
import errno
import socket
from typing import Any

import channels
import pytest
import support
from platforms import WINDOWS, needs_af_unix
from wine import met_row, wine_row

import unio

# Receiving


@pytest.mark.clause("O3", "C1")
@channels.every_stream
def test_a_receive_completes_with_what_there_is(
    port: unio.Port, resources: contextlib.ExitStack, transport: str
) -> None:
    near, far = channels.incoming(resources, transport)
    key = object()
    buffer = bytearray(b"." * 10)
    recv = unio.Recv(port.associate(near, key), buffer)
    port.submit(recv)
    support.assert_idle(port)
    far.send(b"hello")
    assert support.completion(port) == (key, recv, 5, None)
    assert buffer == b"hello....."
    assert (recv.transferred, recv.error) == (5, None)


@pytest.mark.clause("O3")
@channels.every_stream
def test_a_receive_takes_no_more_than_the_size_of_its_buffer(
    port: unio.Port, resources: contextlib.ExitStack, transport: str
) -> None:
    near, far = channels.incoming(resources, transport)
    handle = port.associate(near)
    far.send(b"abcdefgh")
    buffer = bytearray(3)
    recv = unio.Recv(handle, buffer)
    got = []
    for _ in range(3):
        count = support.succeed(port, recv).transferred
        got.append(bytes(buffer[:count]))
    assert got == [b"abc", b"def", b"gh"]
    port.submit(recv)
    support.assert_idle(port)


@pytest.mark.clause("O3")
@channels.every_stream
def test_what_came_before_the_handle_joined_is_received(
    port: unio.Port, resources: contextlib.ExitStack, transport: str
) -> None:
    near, far = channels.incoming(resources, transport)
    far.send(b"early")
    far.close()
    assert channels.receive_all(port, port.associate(near)) == b"early"


@pytest.mark.clause("O3")
@channels.every_stream
def test_the_end_of_the_stream_is_a_success_with_no_bytes_however_often_it_is_asked_for(
    port: unio.Port, resources: contextlib.ExitStack, transport: str
) -> None:
    near, far = channels.incoming(resources, transport)
    recv = unio.Recv(port.associate(near), bytearray(10))
    port.submit(recv)
    support.assert_idle(port)
    far.close()
    assert support.completion(port) == (None, recv, 0, None)
    for _ in range(5):
        assert support.run(port, recv) == (None, recv, 0, None)


@pytest.mark.clause("O3", "O5")
@channels.every_stream
def test_the_end_of_the_stream_completes_every_receive_that_is_pending(
    port: unio.Port, resources: contextlib.ExitStack, transport: str
) -> None:
    near, far = channels.incoming(resources, transport)
    handle = port.associate(near)
    receives = [unio.Recv(handle, bytearray(4)) for _ in range(5)]
    for recv in receives:
        port.submit(recv)
    far.send(b"123456")
    far.close()
    found = support.completions(port, 5)
    assert [completion.operation for completion in found] == receives
    assert sum(completion.transferred for completion in found) == 6
    counts = [completion.transferred for completion in found]
    assert 0 not in counts[: counts.index(0)]
    assert set(counts[counts.index(0) :]) == {0}
    assert {completion.error for completion in found} == {None}


@pytest.mark.clause("O3")
@pytest.mark.parametrize("size", [1, 3, 5, 100])
@channels.every_stream
def test_data_that_comes_together_with_the_end_is_received_whole_before_it(
    port: unio.Port, resources: contextlib.ExitStack, transport: str, size: Any
) -> None:
    near, far = channels.incoming(resources, transport)
    handle = port.associate(near)
    buffer = bytearray(size)
    recv = unio.Recv(handle, buffer)
    port.submit(recv)
    support.assert_idle(port)
    far.send(b"last words")
    far.close()
    received = b""
    while count := support.completion(port).transferred:
        received += buffer[:count]
        port.submit(recv)
    assert received == b"last words"


ROUNDS = 300


def send_and_leave(listening, rounds):
    """A peer that sends some bytes to each that it accepts, and closes at once."""
    for number in range(rounds):
        accepted, _ = listening.accept()
        accepted.sendall(b"x" * (number % 7 + 1))
        accepted.close()


def come_send_and_leave(listening, rounds):
    """A peer that connects, sends some bytes and closes at once, again and again."""
    for number in range(rounds):
        with socket.socket(listening.family) as client:
            client.settimeout(support.PATIENCE)
            client.connect(listening.getsockname())
            client.sendall(b"x" * (number % 7 + 1))


def assert_short_read_and_end(port, handle, count):
    """Receive those bytes with a larger buffer, which is a short read, and then the end."""
    recv = unio.Recv(handle, bytearray(100))
    received = 0
    while completion := support.succeed(port, recv):
        if not completion.transferred:
            break
        received += completion.transferred
    assert received == count
    handle.close()


@pytest.mark.clause("O3")
@channels.every_socket
def test_an_end_that_follows_a_short_read_is_never_lost_on_an_accepted_socket(
    port: unio.Port, resources: contextlib.ExitStack, transport: str
) -> None:
    listening = channels.listener(resources, transport, ROUNDS)
    accept = unio.Accept(port.associate(listening))
    peer = support.Background(come_send_and_leave, listening, ROUNDS)
    for number in range(ROUNDS):
        support.succeed(port, accept)
        assert_short_read_and_end(port, port.associate(accept.socket), number % 7 + 1)
    peer.result()


@pytest.mark.clause("O3")
@channels.every_socket
def test_an_end_that_follows_a_short_read_is_never_lost_on_a_connected_socket(
    port: unio.Port, resources: contextlib.ExitStack, transport: str
) -> None:
    listening = channels.listener(resources, transport)
    listening.settimeout(support.PATIENCE)
    peer = support.Background(send_and_leave, listening, ROUNDS)
    for number in range(ROUNDS):
        with socket.socket(listening.family) as client:
            handle = port.associate(client)
            support.succeed(port, unio.Connect(handle, listening.getsockname()))
            assert_short_read_and_end(port, handle, number % 7 + 1)
    peer.result()


@pytest.mark.clause("O3", "O12")
@pytest.mark.parametrize("transport", ["pipe"] if WINDOWS else ["local", "pipe"])
def test_an_end_that_follows_a_short_read_is_never_lost_on_a_pair(
    port: unio.Port, resources: contextlib.ExitStack, transport: str
) -> None:
    for number in range(ROUNDS):
        near, far = channels.incoming(resources, transport)
        handle = port.associate(near)

        def send_and_close(far=far, number=number):
            far.send(b"x" * (number % 7 + 1))
            far.close()

        peer = support.Background(send_and_close)
        assert_short_read_and_end(port, handle, number % 7 + 1)
        peer.result()


@pytest.mark.clause("O3")
@channels.every_socket
def test_a_half_close_of_the_peer_ends_the_stream_and_only_that(
    port: unio.Port, resources: contextlib.ExitStack, transport: str
) -> None:
    near, far = channels.incoming(resources, transport)
    handle = port.associate(near)
    far.send(b"request")
    far.end.shutdown(socket.SHUT_WR)
    assert channels.receive_all(port, handle) == b"request"
    support.succeed(port, unio.Send(handle, b"response"))
    assert far.recv() == b"response"


# Receives without room


@pytest.mark.clause("O3")
@pytest.mark.parametrize("buffer", [bytearray(), [], [bytearray(), bytearray()]], ids=["one", "none", "several"])
@channels.every_stream
def test_a_receive_without_room_waits_for_data_and_takes_none(
    port: unio.Port, resources: contextlib.ExitStack, transport: str, buffer: Any
) -> None:
    near, far = channels.incoming(resources, transport)
    handle = port.associate(near, "key")
    recv = unio.Recv(handle, buffer)
    port.submit(recv)
    support.assert_idle(port)
    assert recv.in_flight
    far.send(b"data")
    assert support.completion(port) == ("key", recv, 0, None)
    assert support.run(port, recv) == ("key", recv, 0, None)  # at once, since the data is there
    assert channels.receive_exactly(port, handle, 4) == b"data"
    port.submit(recv)
    support.assert_idle(port)  # and nothing is left
    far.send(b"more")
    assert support.completion(port) == ("key", recv, 0, None)
    assert channels.receive_exactly(port, handle, 4) == b"more"


@pytest.mark.clause("O3")
@pytest.mark.parametrize("when", ["before", "after"])
@channels.every_stream
def test_a_receive_without_room_completes_at_the_end_of_the_stream(
    port: unio.Port, resources: contextlib.ExitStack, transport: str, when: Any
) -> None:
    near, far = channels.incoming(resources, transport)
    handle = port.associate(near)
    recv = unio.Recv(handle, bytearray())
    if when == "before":
        port.submit(recv)
        support.assert_idle(port)
        far.close()
    else:
        far.close()
        port.submit(recv)
    assert support.completion(port) == (None, recv, 0, None)
    assert support.run(port, recv) == (None, recv, 0, None)
    assert channels.receive_all(port, handle) == b""


@pytest.mark.clause("O3")
@channels.every_stream
def test_a_receive_without_room_before_the_last_data_leaves_both_data_and_end(
    port: unio.Port, resources: contextlib.ExitStack, transport: str
) -> None:
    near, far = channels.incoming(resources, transport)
    handle = port.associate(near)
    recv = unio.Recv(handle, bytearray())
    port.submit(recv)
    far.send(b"last")
    far.close()
    assert support.completion(port) == (None, recv, 0, None)
    assert channels.receive_all(port, handle) == b"last"


@pytest.mark.clause("O3", "O5")
@channels.every_stream
def test_receives_with_and_without_room_keep_their_order(
    port: unio.Port, resources: contextlib.ExitStack, transport: str
) -> None:
    near, far = channels.incoming(resources, transport)
    handle = port.associate(near)
    receives = [unio.Recv(handle, bytearray(size)) for size in (2, 0, 0, 3, 0)]
    for recv in receives:
        port.submit(recv)
    support.assert_idle(port)
    far.send(b"abcdef")
    found = support.completions(port, 5)
    assert [completion.operation for completion in found] == receives
    assert [completion.transferred for completion in found] == [2, 0, 0, 3, 0]
    assert [bytes(recv.buffer) for recv in receives] == [b"ab", b"", b"", b"cde", b""]
    assert channels.receive_exactly(port, handle, 1) == b"f"


@pytest.mark.clause("O3", "C2")
def test_a_receive_without_room_does_not_hide_a_reset(port: unio.Port, resources: contextlib.ExitStack) -> None:
    near, far = channels.incoming(resources, "tcp")
    handle = port.associate(near)
    empty = unio.Recv(handle, bytearray())
    port.submit(empty)
    far.reset()
    first = support.completion(port)
    assert first.transferred == 0
    second = support.run(port, unio.Recv(handle, bytearray(10)))
    assert ConnectionResetError in (type(first.error), type(second.error))


@pytest.mark.clause("O3")
@pytest.mark.parametrize("size", [2, 100])
@pytest.mark.parametrize("transport", ["tcp", "tcp6"])
def test_urgent_data_in_the_middle_holds_nothing_up(
    port: unio.Port, resources: contextlib.ExitStack, transport: str, size: int
) -> None:
    near, far = channels.incoming(resources, transport)
    recv = unio.Recv(port.associate(near), bytearray(size))
    for round_ in range(3):
        if round_:
            port.submit(recv)
            support.assert_idle(port)
        far.send(b"before")
        far.end.send(b"!", socket.MSG_OOB)
        far.send(b"after")
        received = b""
        while len(received) < 11:
            if not recv.in_flight:
                port.submit(recv)
            received += recv.buffer[: support.completion(port).transferred]
        assert received == b"beforeafter"  # the urgent byte goes its own way


@pytest.mark.clause("O3")
@needs_af_unix
def test_a_receive_that_a_passed_descriptor_cuts_short_leaves_the_rest_to_the_next(
    port: unio.Port, resources: contextlib.ExitStack
) -> None:
    near, far = channels.incoming(resources, "local")
    handle = port.associate(near)
    recv = unio.Recv(handle, bytearray(100))
    for _ in range(3):
        port.submit(recv)
        support.assert_idle(port)
        socket.send_fds(far.end, [b"with one, "], [far.end.fileno()])
        far.send(b"without")
        received = b""
        while len(received) < 17:
            if not recv.in_flight:
                port.submit(recv)
            received += recv.buffer[: support.completion(port).transferred]
        assert received == b"with one, without"


@pytest.mark.clause("O3", "A2")
@pytest.mark.skipif(WINDOWS, reason="Windows has no low-water marks: it refuses the option")
@pytest.mark.parametrize("transport", ["tcp", "tcp6"])
@pytest.mark.parametrize("blocking", [True, False])
def test_a_low_water_mark_keeps_no_data_back(
    port: unio.Port, resources: contextlib.ExitStack, transport: str, blocking: Any
) -> None:
    listening = channels.listener(resources, transport)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 10)  # which what it accepts may have from it
    for _ in range(2):  # the second one has the number of one that has left its port, and joins the short way
        far = channels.client(resources, transport)
        far.connect(listening.getsockname())
        far.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        near = resources.enter_context(listening.accept()[0])
        near.setblocking(blocking)
        near.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 10)
        recv = unio.Recv(port.associate(near), bytearray(100))
        for size in (3, 10, 3, 1, 12, 3):
            port.submit(recv)
            support.assert_idle(port)
            far.send(bytes(size))
            assert support.completion(port) == (None, recv, size, None)
        empty = unio.Recv(recv.handle, bytearray())
        port.submit(empty)
        support.assert_idle(port)
        far.send(b"x")
        assert support.completion(port) == (None, empty, 0, None)
        recv.handle.close()


@pytest.mark.clause("O3")
@needs_af_unix
@pytest.mark.skipif(not hasattr(socket, "SOCK_SEQPACKET"), reason="needs sockets that keep messages apart")
@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
@pytest.mark.parametrize("blocking", [True, False])
def test_a_receive_that_the_end_of_a_message_cuts_short_leaves_the_rest_to_the_next(
    port: unio.Port, resources: contextlib.ExitStack, family: int, blocking: Any
) -> None:
    """SCTP has streams that keep messages apart. Where the kernel has none, a local socket stands for one."""
    without = resources.enter_context(socket.socket(family))
    without.setblocking(False)
    port.associate(without)  # what is known of this one says nothing of the others
    for _ in range(2):  # the second one has the number of one that has left its port, and joins the short way
        local, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        resources.enter_context(far)
        sctp = 132
        near = resources.enter_context(socket.socket(family, socket.SOCK_STREAM, sctp, local.detach()))
        near.setblocking(blocking)
        recv = unio.Recv(port.associate(near), bytearray(100))
        for _ in range(2):
            port.submit(recv)
            support.assert_idle(port)
            for size in (3, 10, 5):
                far.send(bytes(size))
            assert support.completion(port) == (None, recv, 3, None)
            assert [support.succeed(port, recv).transferred for _ in range(2)] == [10, 5]
        recv.handle.close()


# Resets


@pytest.mark.clause("O3", "C2")
@pytest.mark.parametrize("transport", ["tcp", "tcp6"])
def test_a_reset_is_a_connection_reset_error_and_not_an_end(
    port: unio.Port, resources: contextlib.ExitStack, transport: str
) -> None:
    near, far = channels.incoming(resources, transport)
    recv = unio.Recv(port.associate(near), bytearray(10))
    port.submit(recv)
    support.assert_idle(port)
    far.reset()
    completion = support.completion(port)
    assert type(completion.error) is ConnectionResetError
    assert completion.error.errno == errno.ECONNRESET
    assert completion.transferred == 0


@pytest.mark.clause("O3")
@pytest.mark.parametrize(
    "when", ["pending", pytest.param("submitted after", marks=wine_row("reset-before-data", always=False))]
)
@pytest.mark.parametrize("transport", ["tcp", "tcp6"])
def test_data_that_came_before_a_reset_is_delivered_first(
    port: unio.Port, resources: contextlib.ExitStack, transport: str, when: Any
) -> None:
    near, far = channels.incoming(resources, transport)
    handle = port.associate(near)
    buffers = [bytearray(4) for _ in range(4)]
    receives = [unio.Recv(handle, buffer) for buffer in buffers]
    if when == "pending":
        for recv in receives:
            port.submit(recv)
        support.assert_idle(port)
    far.send(b"last words")
    far.reset()
    if when == "submitted after":
        for recv in receives:
            port.submit(recv)
    found = support.completions(port, 4)
    assert [completion.operation for completion in found] == receives
    received = [bytes(buffer[: completion.transferred]) for buffer, completion in zip(buffers, found, strict=True)]
    whole = [each for each in received if each]
    assert [type(completion.error) for completion in found[len(whole) :]] == [ConnectionResetError] * (4 - len(whole))
    assert [completion.error for completion in found[: len(whole)]] == [None] * len(whole)
    if when == "pending" and len(whole) < 3:
        assert whole == [b"last", b" wor"][: len(whole)]
        met_row("reset-before-data")
    assert received == [b"last", b" wor", b"ds", b""]


@pytest.mark.clause("O3", "C2")
@wine_row("receive-after-reset")
def test_a_reset_that_came_while_nothing_was_pending_is_told_to_the_next_receive(
    port: unio.Port, resources: contextlib.ExitStack
) -> None:
    for _ in range(20):
        near, far = channels.incoming(resources, "tcp")
        handle = port.associate(near)
        far.reset()
        support.assert_idle(port)  # the port has seen the reset, and keeps it for whom it concerns
        completion = support.run(port, unio.Recv(handle, bytearray(10)))
        assert type(completion.error) is ConnectionResetError
        handle.close()


@pytest.mark.clause("O3", "O4", "C2")
def test_a_reset_completes_both_receives_and_sends(port: unio.Port, resources: contextlib.ExitStack) -> None:
    near, far = channels.incoming(resources, "tcp")
    handle = port.associate(near)
    recv, send = unio.Recv(handle, bytearray(10)), unio.Send(handle, bytes(16 * support.MIB))
    port.submit(recv)
    port.submit(send)
    support.assert_idle(port)
    far.reset()
    found = {completion.operation: completion for completion in support.completions(port, 2)}
    assert isinstance(found[send].error, ConnectionResetError)
    assert 0 < found[send].transferred < 16 * support.MIB
    assert found[recv].transferred == 0
    # The system reports a reset once; the one that did not get it may see the end of the stream instead.
    assert found[recv].error is None or isinstance(found[recv].error, ConnectionResetError)


@pytest.mark.clause("C2")
def test_receiving_on_a_socket_that_is_not_connected_is_an_error_of_the_completion(
    port: unio.Port, resources: contextlib.ExitStack
) -> None:
    handle = port.associate(channels.client(resources, "tcp"))
    assert support.run(port, unio.Recv(handle, bytearray(10))).error.errno == errno.ENOTCONN
