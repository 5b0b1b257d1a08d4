"""Sending on byte streams, sockets and pipes: whole and in order, or with the error and the count so far."""

from __future__ import annotations

import array
import contextlib
import errno
import mmap
import threading
from typing import Any

import channels
import pytest
import support
from platforms import WINDOWS
from wine import wine_row

import unio


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
    data = channels.pattern(16 * support.MIB)
    send = unio.Send(port.associate(near), data)
    port.submit(send)
    support.assert_idle(port)
    drained = channels.drain(port, far, 1)
    assert drained.completions == [(None, send, len(data), None)]
    # All but what the system itself keeps for the reader had been read.
    assert drained.read_before[0] > 12 * support.MIB
    near.close()
    assert bytes(drained.data) + far.recv_to_end() == data


@pytest.mark.clause("O4", "C2")
@pytest.mark.parametrize("transport", ["tcp", "tcp6"])
def test_a_peer_that_resets_in_the_middle_of_a_send_is_an_error_with_the_count_so_far(
    port: unio.Port, resources: contextlib.ExitStack, transport: str
) -> None:
    near, far = channels.outgoing(resources, transport)
    send = unio.Send(port.associate(near), bytes(16 * support.MIB))
    port.submit(send)
    read = channels.read(port, far, support.MIB)
    far.reset()
    completion = support.completion(port)
    assert completion.operation is send
    assert type(completion.error) is ConnectionResetError
    assert completion.error.errno == errno.ECONNRESET
    assert support.MIB <= read <= completion.transferred < 16 * support.MIB
    assert send.transferred == completion.transferred


@pytest.mark.clause("O4", "C2")
@channels.every_stream
def test_a_peer_that_is_gone_is_the_same_error_for_every_send(
    port: unio.Port, resources: contextlib.ExitStack, transport: str
) -> None:
    near, far = channels.outgoing(resources, transport)
    send = unio.Send(port.associate(near), bytes(4 * support.MIB))
    port.submit(send)
    read = len(far.recv())
    far.close()
    expected = ConnectionResetError if transport in channels.SOCKETS else BrokenPipeError
    completion = support.completion(port)
    assert type(completion.error) is expected
    assert read <= completion.transferred < 4 * support.MIB
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
    send = unio.Send(port.associate(near), bytes(16 * support.MIB))
    port.submit(send)
    assert port.wait(0.02) == []  # nothing moves any more: there is no room, and nobody makes any
    far.close()
    completion = support.completion(port)
    assert type(completion.error) is (ConnectionResetError if transport in channels.SOCKETS else BrokenPipeError)
    assert 0 < completion.transferred < 16 * support.MIB


@pytest.mark.clause("O4", "O5")
@channels.every_stream
def test_a_peer_that_is_gone_ends_every_send_that_is_pending_in_their_order(
    port: unio.Port, resources: contextlib.ExitStack, transport: str
) -> None:
    near, far = channels.outgoing(resources, transport)
    handle = port.associate(near)
    sends = [unio.Send(handle, bytes(support.MIB)) for _ in range(10)]
    for send in sends:
        port.submit(send)
    far.recv()
    far.close()
    found = support.completions(port, 10)
    assert [completion.operation for completion in found] == sends
    failed = [completion for completion in found if completion.error is not None]
    assert failed == found[-len(failed) :]
    assert all(isinstance(completion.error, (ConnectionResetError, BrokenPipeError)) for completion in failed)
    assert all(completion.transferred == support.MIB for completion in found[: -len(failed)])
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
    sends = [unio.Send(handle, bytes(8 * support.MIB)), unio.Send(handle, b""), unio.Send(handle, b"end")]
    for send in sends:
        port.submit(send)
    support.assert_idle(port)
    drained = channels.drain(port, far, 3)
    assert [completion.operation for completion in drained.completions] == sends
    near.close()
    assert bytes(drained.data) + far.recv_to_end() == bytes(8 * support.MIB) + b"end"


@pytest.mark.clause("O4", "S6")
@channels.every_stream
def test_a_send_that_was_taken_in_pieces_is_sent_whole_again(
    port: unio.Port, resources: contextlib.ExitStack, transport: str
) -> None:
    near, far = channels.outgoing(resources, transport)
    data = channels.pattern(2 * support.MIB)
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
    data = channels.pattern(4 * support.MIB)
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
