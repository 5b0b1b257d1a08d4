"""Receiving and sending on byte streams: sockets and pipes."""

from __future__ import annotations

import array
import contextlib
import errno
import itertools
import mmap
import socket
import threading
from typing import Any

import channels
import pytest
import support
from platforms import WINDOWS, needs_af_unix
from wine import met_row, wine_row

import unio

MIB = 1 << 20


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
@pytest.mark.parametrize("when", ["pending", pytest.param("submitted after", marks=wine_row("reset-before-data"))])
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
    recv, send = unio.Recv(handle, bytearray(10)), unio.Send(handle, bytes(16 * MIB))
    port.submit(recv)
    port.submit(send)
    support.assert_idle(port)
    far.reset()
    found = {completion.operation: completion for completion in support.completions(port, 2)}
    assert isinstance(found[send].error, ConnectionResetError)
    assert 0 < found[send].transferred < 16 * MIB
    assert found[recv].transferred == 0
    # The system reports a reset once; the one that did not get it may see the end of the stream instead.
    assert found[recv].error is None or isinstance(found[recv].error, ConnectionResetError)


@pytest.mark.clause("C2")
def test_receiving_on_a_socket_that_is_not_connected_is_an_error_of_the_completion(
    port: unio.Port, resources: contextlib.ExitStack
) -> None:
    handle = port.associate(channels.client(resources, "tcp"))
    assert support.run(port, unio.Recv(handle, bytearray(10))).error.errno == errno.ENOTCONN


@pytest.mark.clause("C2", "O4")
@wine_row("send-unconnected")
@channels.every_socket
def test_sending_on_a_socket_that_is_not_connected_is_an_error_of_the_completion(
    port: unio.Port, resources: contextlib.ExitStack, transport: str
) -> None:
    handle = port.associate(channels.client(resources, transport))
    completion = support.run(port, unio.Send(handle, b"data"))
    assert completion.error.errno == errno.ENOTCONN
    assert completion.transferred == 0


# Sending


@pytest.mark.clause("O4", "C1")
@channels.every_stream
def test_a_send_says_how_many_bytes_were_taken(
    port: unio.Port, resources: contextlib.ExitStack, transport: str
) -> None:
    near, far = channels.outgoing(resources, transport)
    key = object()
    send = unio.Send(port.associate(near, key), b"hello")
    assert support.run(port, send) == (key, send, 5, None)
    assert (send.transferred, send.error) == (5, None)
    assert far.recv() == b"hello"


@pytest.mark.clause("O4", "L4")
@channels.every_stream
def test_a_large_send_to_a_slow_reader_completes_only_when_all_of_it_was_taken(
    port: unio.Port, resources: contextlib.ExitStack, transport: str
) -> None:
    near, far = channels.outgoing(resources, transport)
    data = channels.pattern(16 * MIB)
    send = unio.Send(port.associate(near), data)
    port.submit(send)
    support.assert_idle(port)
    drained = channels.drain(port, far, 1)
    assert drained.completions == [(None, send, len(data), None)]
    # All but what the system itself keeps for the reader had been read.
    assert drained.read_before[0] > 12 * MIB
    near.close()
    assert bytes(drained.data) + far.recv_to_end() == data


@pytest.mark.clause("O4", "C2")
@pytest.mark.parametrize("transport", ["tcp", "tcp6"])
def test_a_peer_that_resets_in_the_middle_of_a_send_is_an_error_with_the_count_so_far(
    port: unio.Port, resources: contextlib.ExitStack, transport: str
) -> None:
    near, far = channels.outgoing(resources, transport)
    send = unio.Send(port.associate(near), bytes(16 * MIB))
    port.submit(send)
    read = channels.read(port, far, MIB)
    far.reset()
    completion = support.completion(port)
    assert completion.operation is send
    assert type(completion.error) is ConnectionResetError
    assert completion.error.errno == errno.ECONNRESET
    assert MIB <= read <= completion.transferred < 16 * MIB
    assert send.transferred == completion.transferred


@pytest.mark.clause("O4", "C2")
@channels.every_stream
def test_a_peer_that_is_gone_is_the_same_error_for_every_send(
    port: unio.Port, resources: contextlib.ExitStack, transport: str
) -> None:
    near, far = channels.outgoing(resources, transport)
    send = unio.Send(port.associate(near), bytes(4 * MIB))
    port.submit(send)
    read = len(far.recv())
    far.close()
    expected = ConnectionResetError if transport in channels.SOCKETS else BrokenPipeError
    completion = support.completion(port)
    assert type(completion.error) is expected
    assert read <= completion.transferred < 4 * MIB
    for _ in range(3):
        completion = support.run(port, send)
        assert type(completion.error) is expected
        assert completion.transferred == 0


@pytest.mark.clause("O4", "C2")
@channels.every_stream
def test_a_peer_that_leaves_without_reading_ends_the_send_that_waits_for_it(
    port: unio.Port, resources: contextlib.ExitStack, transport: str
) -> None:
    near, far = channels.outgoing(resources, transport)
    send = unio.Send(port.associate(near), bytes(16 * MIB))
    port.submit(send)
    assert port.wait(0.02) == []  # nothing moves any more: there is no room, and nobody makes any
    far.close()
    completion = support.completion(port)
    assert type(completion.error) is (ConnectionResetError if transport in channels.SOCKETS else BrokenPipeError)
    assert 0 < completion.transferred < 16 * MIB


@pytest.mark.clause("O4", "O5")
@channels.every_stream
def test_a_peer_that_is_gone_ends_every_send_that_is_pending_in_their_order(
    port: unio.Port, resources: contextlib.ExitStack, transport: str
) -> None:
    near, far = channels.outgoing(resources, transport)
    handle = port.associate(near)
    sends = [unio.Send(handle, bytes(MIB)) for _ in range(10)]
    for send in sends:
        port.submit(send)
    far.recv()
    far.close()
    found = support.completions(port, 10)
    assert [completion.operation for completion in found] == sends
    failed = [completion for completion in found if completion.error is not None]
    assert failed == found[-len(failed) :]
    assert all(isinstance(completion.error, (ConnectionResetError, BrokenPipeError)) for completion in failed)
    assert all(completion.transferred == MIB for completion in found[: -len(failed)])
    assert all(completion.transferred == 0 for completion in failed[1:])


@pytest.mark.clause("O4")
@pytest.mark.parametrize(
    "data",
    [
        b"bytes of several kinds",
        bytearray(b"bytes of several kinds"),
        memoryview(b"some bytes of several kinds")[5:],
        array.array("i", range(1000)),
        array.array("d", [0.5] * 9),
        memoryview(bytearray(60)).cast("H", [5, 6]),
    ],
    ids=["bytes", "bytearray", "slice", "ints", "doubles", "matrix"],
)
def test_any_buffer_of_contiguous_bytes_is_sent_whole(
    port: unio.Port, resources: contextlib.ExitStack, data: Any
) -> None:
    near, far = channels.outgoing(resources, "tcp")
    expected = memoryview(data).tobytes()
    completion = support.run(port, unio.Send(port.associate(near), data))
    assert (completion.transferred, completion.error) == (len(expected), None)
    near.close()
    assert far.recv_to_end() == expected


@pytest.mark.clause("O3")
def test_any_writable_buffer_of_contiguous_bytes_is_filled(port: unio.Port, resources: contextlib.ExitStack) -> None:
    near, far = channels.incoming(resources, "tcp")
    handle = port.associate(near)
    numbers = array.array("i", range(100))
    far.send(numbers.tobytes())
    received = array.array("i", [0] * 100)
    assert support.succeed(port, unio.Recv(handle, received)).transferred == 400
    assert received == numbers

    far.send(b"slice")
    frame = bytearray(b"[          ]")
    assert support.succeed(port, unio.Recv(handle, memoryview(frame)[1:-1])).transferred == 5
    assert frame == b"[slice     ]"

    with mmap.mmap(-1, 4096) as memory:
        far.send(b"mapped")
        recv = unio.Recv(handle, memory)
        assert support.succeed(port, recv).transferred == 6
        assert memory[:6] == b"mapped"
        recv.buffer = bytearray()  # lets go of the mapping, so that it can be closed


@pytest.mark.clause("O4")
@pytest.mark.parametrize("empty", [b"", [], [b"", b""]], ids=["one", "none", "several"])
@channels.every_stream
def test_a_send_of_nothing_succeeds_and_sends_nothing(
    port: unio.Port, resources: contextlib.ExitStack, transport: str, empty: Any
) -> None:
    near, far = channels.outgoing(resources, transport)
    handle = port.associate(near)
    send = unio.Send(handle, empty)
    assert support.run(port, send) == (None, send, 0, None)
    support.succeed(port, unio.Send(handle, b"something"))
    assert far.recv() == b"something"


@pytest.mark.clause("O4", "O5")
@channels.every_stream
def test_a_send_of_nothing_keeps_its_place_behind_a_large_one(
    port: unio.Port, resources: contextlib.ExitStack, transport: str
) -> None:
    near, far = channels.outgoing(resources, transport)
    handle = port.associate(near)
    sends = [unio.Send(handle, bytes(8 * MIB)), unio.Send(handle, b""), unio.Send(handle, b"end")]
    for send in sends:
        port.submit(send)
    support.assert_idle(port)
    drained = channels.drain(port, far, 3)
    assert [completion.operation for completion in drained.completions] == sends
    near.close()
    assert bytes(drained.data) + far.recv_to_end() == bytes(8 * MIB) + b"end"


@pytest.mark.clause("O4", "S6")
@channels.every_stream
def test_a_send_that_was_taken_in_pieces_is_sent_whole_again(
    port: unio.Port, resources: contextlib.ExitStack, transport: str
) -> None:
    near, far = channels.outgoing(resources, transport)
    data = channels.pattern(2 * MIB)
    send = unio.Send(port.associate(near), data)
    received = b""
    for _ in range(3):
        port.submit(send)
        drained = channels.drain(port, far, 1)
        assert drained.completions == [(None, send, len(data), None)]
        received += drained.data
    near.close()
    assert received + far.recv_to_end() == data * 3


@pytest.mark.clause("O4", "O3")
@channels.every_socket
def test_both_directions_go_on_at_once(port: unio.Port, resources: contextlib.ExitStack, transport: str) -> None:
    near, far = channels.incoming(resources, transport)
    handle = port.associate(near)
    data = channels.pattern(4 * MIB)
    reader = support.Background(support.recv_exactly, far.end, len(data))
    writer = support.Background(far.send, data)
    port.submit(unio.Send(handle, data))
    recv = unio.Recv(handle, bytearray(100_000))
    port.submit(recv)
    received, sent = bytearray(), 0
    while len(received) < len(data) or not sent:
        completion = support.completion(port)
        assert completion.error is None
        if completion.operation is not recv:
            sent = completion.transferred
            continue
        received += recv.buffer[: completion.transferred]
        if len(received) < len(data):
            port.submit(recv)
    assert sent == len(data)
    assert received == data
    assert reader.result() == data
    writer.result()


# Order


@pytest.mark.clause("O5")
@channels.every_stream
def test_pending_receives_fill_in_the_order_of_their_submission(
    port: unio.Port, resources: contextlib.ExitStack, transport: str
) -> None:
    near, far = channels.incoming(resources, transport)
    handle = port.associate(near)
    receives = [unio.Recv(handle, bytearray(10)) for _ in range(50)]
    for recv in receives:
        port.submit(recv)
    support.assert_idle(port)
    data = channels.pattern(500)
    far.send(data)
    found = support.completions(port, 50)
    assert [completion.operation for completion in found] == receives
    assert b"".join(recv.buffer for recv in receives) == data
    support.assert_idle(port)


@pytest.mark.clause("O5")
@channels.every_stream
def test_each_piece_that_arrives_goes_to_the_oldest_receive(
    port: unio.Port, resources: contextlib.ExitStack, transport: str
) -> None:
    near, far = channels.incoming(resources, transport)
    handle = port.associate(near)
    receives = [unio.Recv(handle, bytearray(10)) for _ in range(50)]
    for recv in receives:
        port.submit(recv)
    for number, recv in enumerate(receives):
        far.send(bytes([number]))
        assert support.completion(port) == (None, recv, 1, None)
        assert recv.buffer[0] == number
    support.assert_idle(port)


@pytest.mark.clause("O5")
@channels.every_stream
def test_a_receive_never_overtakes_an_older_one_when_data_is_there_at_its_submission(
    port: unio.Port, resources: contextlib.ExitStack, transport: str
) -> None:
    near, far = channels.incoming(resources, transport)
    handle = port.associate(near)
    first, second = unio.Recv(handle, bytearray(4)), unio.Recv(handle, bytearray(4))
    port.submit(first)
    support.assert_idle(port)
    far.send(b"aaaabbbb")
    port.submit(second)  # the data is there, and the first receive has not been told yet
    assert [completion.operation for completion in support.completions(port, 2)] == [first, second]
    assert (first.buffer, second.buffer) == (b"aaaa", b"bbbb")


@pytest.mark.clause("O5", "O4")
@channels.every_stream
def test_pending_sends_leave_whole_in_the_order_of_their_submission(
    port: unio.Port, resources: contextlib.ExitStack, transport: str
) -> None:
    near, far = channels.outgoing(resources, transport)
    handle = port.associate(near)
    pieces = [bytes([number]) * (100_000 + number) for number in range(50)]
    sends = [unio.Send(handle, piece) for piece in pieces]
    for send in sends:
        port.submit(send)
    drained = channels.drain(port, far, 50)
    assert [completion.operation for completion in drained.completions] == sends
    assert [completion.transferred for completion in drained.completions] == [len(piece) for piece in pieces]
    near.close()
    assert bytes(drained.data) + far.recv_to_end() == b"".join(pieces)


@pytest.mark.clause("O5", "P2")
@pytest.mark.parametrize("transport", ["tcp", "pipe"] if WINDOWS else ["tcp", "local", "pipe"])
def test_large_sends_of_several_threads_never_interleave(
    port: unio.Port, resources: contextlib.ExitStack, transport: str
) -> None:
    near, far = channels.outgoing(resources, transport)
    handle = port.associate(near)
    size, each, count = 200_000, 10, 4
    reader = support.Background(far.recv_to_end)
    sent = threading.Event()

    def submit(thread):
        for number in range(each):
            port.submit(unio.Send(handle, bytes([thread, number]) * (size // 2)))
        sent.wait(support.PATIENCE)  # what becomes of a send whose thread has ended is another question

    senders = support.Background(support.in_threads, count, submit)
    found = support.completions(port, count * each)
    sent.set()
    senders.result()
    assert {(completion.transferred, str(completion.error)) for completion in found} == {(size, "None")}
    near.close()
    received = reader.result()
    pieces = [received[start : start + size] for start in range(0, len(received), size)]
    assert all(piece == piece[:2] * (size // 2) for piece in pieces)
    for thread in range(count):
        assert [piece[1] for piece in pieces if piece[0] == thread] == list(range(each))


# Several buffers


@pytest.mark.clause("O6")
@channels.every_stream
def test_a_vectored_receive_fills_its_buffers_one_after_the_other(
    port: unio.Port, resources: contextlib.ExitStack, transport: str
) -> None:
    near, far = channels.incoming(resources, transport)
    handle = port.associate(near)
    buffers = [bytearray(b"..."), bytearray(), bytearray(b"....."), bytearray(b"....")]
    recv = unio.Recv(handle, buffers)
    port.submit(recv)
    support.assert_idle(port)
    far.send(b"abcdefghij")
    assert support.completion(port) == (None, recv, 10, None)
    assert buffers == [b"abc", b"", b"defgh", b"ij.."]
    far.send(b"XY")
    assert support.run(port, recv).transferred == 2
    assert buffers == [b"XYc", b"", b"defgh", b"ij.."]


@pytest.mark.clause("O6")
@channels.every_stream
def test_a_vectored_receive_takes_no_more_than_its_buffers_hold(
    port: unio.Port, resources: contextlib.ExitStack, transport: str
) -> None:
    near, far = channels.incoming(resources, transport)
    handle = port.associate(near)
    far.send(b"abcdef")
    buffers = (bytearray(2), bytearray(3))
    assert support.succeed(port, unio.Recv(handle, buffers)).transferred == 5
    assert buffers == (b"ab", b"cde")
    assert channels.receive_exactly(port, handle, 1) == b"f"


@pytest.mark.clause("O6")
@channels.every_stream
def test_a_vectored_send_leaves_as_one(port: unio.Port, resources: contextlib.ExitStack, transport: str) -> None:
    near, far = channels.outgoing(resources, transport)
    handle = port.associate(near)
    pieces = [b"head", b"", bytearray(b" body"), memoryview(b" and tail")[:5], array.array("B", b"!")]
    assert support.succeed(port, unio.Send(handle, pieces)).transferred == 15
    assert far.recv() == b"head body and !"


@pytest.mark.clause("O6", "L4")
@pytest.mark.parametrize("size", [1, 7, 5000])
@channels.every_stream
def test_a_vectored_send_of_more_buffers_than_the_system_takes_at_once_is_sent_whole(
    port: unio.Port, resources: contextlib.ExitStack, transport: str, size: Any
) -> None:
    near, far = channels.outgoing(resources, transport)
    data = channels.pattern(3000 * size)
    pieces = []
    for start in range(0, len(data), size):
        pieces.append(data[start : start + size])
        if start % 3 == 0:
            pieces.append(b"")
    send = unio.Send(port.associate(near), pieces)
    port.submit(send)
    drained = channels.drain(port, far, 1)
    assert drained.completions == [(None, send, len(data), None)]
    near.close()
    assert bytes(drained.data) + far.recv_to_end() == data


@pytest.mark.clause("O6", "L4")
@channels.every_stream
def test_a_vectored_receive_of_more_buffers_than_the_system_takes_at_once_is_no_error(
    port: unio.Port, resources: contextlib.ExitStack, transport: str
) -> None:
    near, far = channels.incoming(resources, transport)
    handle = port.associate(near)
    data = channels.pattern(3000)
    far.send(data)
    received = b""
    while len(received) < len(data):
        buffers = [bytearray(1) for _ in range(3000)]
        count = support.succeed(port, unio.Recv(handle, buffers)).transferred
        assert count > 0
        received += b"".join(buffers[:count])
    assert received == data


@pytest.mark.clause("O6", "O3")
@channels.every_stream
def test_a_vectored_receive_that_begins_with_many_empty_buffers_waits_for_data(
    port: unio.Port, resources: contextlib.ExitStack, transport: str
) -> None:
    near, far = channels.incoming(resources, transport)
    recv = unio.Recv(port.associate(near), [bytearray() for _ in range(3000)] + [bytearray(5)])
    port.submit(recv)
    support.assert_idle(port)
    far.send(b"hello")
    assert support.completion(port) == (None, recv, 5, None)
    assert recv.buffer[-1] == b"hello"


@pytest.mark.clause("O6", "O4")
@channels.every_stream
def test_a_vectored_send_resumes_in_the_middle_of_a_buffer(
    port: unio.Port, resources: contextlib.ExitStack, transport: str
) -> None:
    near, far = channels.outgoing(resources, transport)
    data = channels.pattern(8 * MIB)
    cuts = [0, 1, 100, 70_001, MIB, MIB + 3, 5 * MIB - 1, 8 * MIB]
    send = unio.Send(port.associate(near), [data[start:end] for start, end in itertools.pairwise(cuts)])
    for _ in range(2):
        port.submit(send)
        drained = channels.drain(port, far, 1, most=10_007)
        assert drained.completions == [(None, send, len(data), None)]
        rest = len(data) - len(drained.data)
        tail = b""
        while len(tail) < rest:
            tail += far.recv(rest - len(tail))
        assert bytes(drained.data) + tail == data


# Ending


@pytest.mark.clause("O10")
@channels.every_socket
def test_a_half_close_ends_the_stream_after_the_sends_before_it(
    port: unio.Port, resources: contextlib.ExitStack, transport: str
) -> None:
    near, far = channels.outgoing(resources, transport)
    handle = port.associate(near)
    data = channels.pattern(4 * MIB)
    operations = [unio.Send(handle, data), unio.Send(handle, b"end"), unio.Shutdown(handle)]
    for operation in operations:
        port.submit(operation)
    support.assert_idle(port)
    drained = channels.drain(port, far, 3)
    assert [completion.operation for completion in drained.completions] == operations
    assert [completion.transferred for completion in drained.completions] == [len(data), 3, 0]
    assert {completion.error for completion in drained.completions} == {None}
    assert bytes(drained.data) + far.recv_to_end() == data + b"end"


@pytest.mark.clause("O10", "O3")
@channels.every_socket
def test_receiving_goes_on_after_a_half_close(port: unio.Port, resources: contextlib.ExitStack, transport: str) -> None:
    near, far = channels.incoming(resources, transport)
    handle = port.associate(near)
    recv = unio.Recv(handle, bytearray(20))
    port.submit(recv)
    shutdown = unio.Shutdown(handle)
    assert support.run(port, shutdown) == (None, shutdown, 0, None)
    assert far.recv() == b""
    support.assert_idle(port)
    far.send(b"still here")
    assert support.completion(port) == (None, recv, 10, None)
    far.close()
    assert support.run(port, recv) == (None, recv, 0, None)


@pytest.mark.clause("O10", "O4")
@channels.every_socket
def test_a_send_after_a_half_close_is_a_broken_pipe(
    port: unio.Port, resources: contextlib.ExitStack, transport: str
) -> None:
    near, far = channels.outgoing(resources, transport)
    handle = port.associate(near)
    shutdown, send = unio.Shutdown(handle), unio.Send(handle, b"too late")
    port.submit(shutdown)
    port.submit(send)
    found = support.completions(port, 2)
    assert [completion.operation for completion in found] == [shutdown, send]
    assert type(found[1].error) is BrokenPipeError
    assert found[1].transferred == 0
    assert far.recv() == b""


@pytest.mark.clause("O10")
@channels.every_socket
def test_a_disconnect_ends_both_directions_after_the_sends_before_it(
    port: unio.Port, resources: contextlib.ExitStack, transport: str
) -> None:
    near, far = channels.outgoing(resources, transport)
    handle = port.associate(near)
    data = channels.pattern(4 * MIB)
    operations = [unio.Send(handle, data), unio.Disconnect(handle)]
    for operation in operations:
        port.submit(operation)
    support.assert_idle(port)
    drained = channels.drain(port, far, 2)
    assert [completion.operation for completion in drained.completions] == operations
    assert {completion.error for completion in drained.completions} == {None}
    assert bytes(drained.data) + far.recv_to_end() == data
    assert support.run(port, unio.Recv(handle, bytearray(10))).transferred == 0
    assert type(support.run(port, unio.Send(handle, b"too late")).error) is BrokenPipeError
    assert not handle.closed
    handle.close()


@pytest.mark.clause("O10", "S1")
@channels.every_socket
def test_a_disconnect_completes_a_pending_receive(
    port: unio.Port, resources: contextlib.ExitStack, transport: str
) -> None:
    near, far = channels.incoming(resources, transport)
    handle = port.associate(near)
    recv, disconnect = unio.Recv(handle, bytearray(10)), unio.Disconnect(handle)
    port.submit(recv)
    support.assert_idle(port)
    port.submit(disconnect)
    found = {completion.operation: completion for completion in support.completions(port, 2)}
    assert found[disconnect].error is None
    assert found[recv].transferred == 0
    assert far.recv() == b""


@pytest.mark.clause("O10", "X1")
def test_a_disconnect_that_is_cancelled_beside_one_that_is_done_leaves_the_stream_ended(
    port: unio.Port, make_pair: Any
) -> None:
    near, _far = make_pair()
    handle = port.associate(near)
    operations = [unio.Disconnect(handle) for _ in range(3)]
    for operation in operations:
        port.submit(operation)
    port.cancel(operations[1])
    found = {each.operation: each for each in support.completions(port, 3)}
    assert found[operations[0]].error is None
    assert support.succeed(port, unio.Recv(handle, bytearray(10))).transferred == 0


@pytest.mark.clause("O10", "C2")
@pytest.mark.parametrize("make", [unio.Shutdown, unio.Disconnect])
@pytest.mark.parametrize("transport", ["tcp", "tcp6"])  # Linux lets a local socket be shut down at any time
def test_ending_what_is_not_connected_is_an_error_of_the_completion(
    port: unio.Port, resources: contextlib.ExitStack, transport: str, make: Any
) -> None:
    completion = support.run(port, make(port.associate(channels.client(resources, transport))))
    assert completion.error.errno == errno.ENOTCONN


@pytest.mark.clause("O10", "O4")
def test_a_peer_that_resets_before_a_half_close_fails_the_sends_and_not_the_wait(
    port: unio.Port, resources: contextlib.ExitStack
) -> None:
    near, far = channels.outgoing(resources, "tcp")
    handle = port.associate(near)
    operations = [unio.Send(handle, bytes(8 * MIB)), unio.Shutdown(handle), unio.Disconnect(handle)]
    for operation in operations:
        port.submit(operation)
    channels.read(port, far, 1)
    far.reset()
    found = support.completions(port, 3)
    assert [completion.operation for completion in found] == operations
    assert type(found[0].error) is ConnectionResetError
    assert all(completion.error is None or isinstance(completion.error, OSError) for completion in found[1:])
    support.assert_idle(port)
