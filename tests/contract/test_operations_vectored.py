"""Receiving into several buffers at once, and sending several as one."""

from __future__ import annotations

import array
import contextlib
import itertools
from typing import Any

import channels
import pytest
import support

import unio

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


@pytest.mark.clause("O6", "O5", "S9")
@channels.every_stream
def test_vectored_sends_that_are_submitted_together_leave_whole_and_in_order(
    port: unio.Port, resources: contextlib.ExitStack, transport: str
) -> None:
    near, far = channels.outgoing(resources, transport)
    handle = port.associate(near)
    support.assert_idle(port)
    sends = [unio.Send(handle, (b"<%d" % number, b"", bytearray(b">"))) for number in range(50)]
    for send in sends:
        port.submit(send)
    assert [each.operation for each in support.completions(port, 50)] == sends
    wanted = b"".join(b"<%d>" % number for number in range(50))
    received = b""
    while len(received) < len(wanted):
        received += far.recv(len(wanted) - len(received))
    assert received == wanted
    for number, send in enumerate(sends):
        send.buffer = [b"again", b"%d" % number] if number % 2 else b"one"
        assert support.run(port, send) == (None, send, len(b"".join(send.buffer)) if number % 2 else 3, None)


@pytest.mark.clause("O6", "O4")
@channels.every_socket
def test_a_short_vectored_send_of_which_there_is_room_for_a_part_goes_on_behind_it(
    port: unio.Port, resources: contextlib.ExitStack, transport: str
) -> None:
    near, far = channels.outgoing(resources, transport)
    handle = port.associate(near)
    support.assert_idle(port)
    data = channels.pattern(64 * 3777)
    sends = [unio.Send(handle, [data[:3001], data[3001:3002], data[3002:200_000], data[200_000:]]) for _ in range(64)]
    for send in sends:
        port.submit(send)
    drained = channels.drain(port, far, 64)
    assert [(each.operation, each.error) for each in drained.completions] == [(send, None) for send in sends]
    rest = 64 * len(data) - len(drained.data)
    tail = b""
    while len(tail) < rest:
        tail += far.recv(rest - len(tail))
    assert bytes(drained.data) + tail == 64 * data


@pytest.mark.clause("O6", "S5")
@channels.every_stream
def test_buffers_that_are_refused_leave_those_that_an_operation_had(
    port: unio.Port, resources: contextlib.ExitStack, transport: str
) -> None:
    near, far = channels.incoming(resources, transport)
    handle = port.associate(near)
    buffers = [bytearray(2), bytearray(4)]
    recv = unio.Recv(handle, buffers)
    wrong: list[Any] = [[bytearray(2), b"read-only"], (bytearray(2), "text"), [bytearray(2), None], [[bytearray(2)]]]
    for each in wrong:
        with pytest.raises(TypeError):
            recv.buffer = each
        assert recv.buffer is buffers
    with pytest.raises(ValueError, match="contiguous"):
        recv.buffer = [memoryview(bytearray(8))[::2]]
    port.submit(recv)
    with pytest.raises(unio.InFlight):
        recv.buffer = (bytearray(1), bytearray(1))
    with pytest.raises(BufferError):
        buffers[1].append(0)
    far.send(b"abcdef")
    assert support.completion(port) == (None, recv, 6, None)
    assert buffers == [b"ab", b"cdef"]
    recv.buffer = b = (bytearray(0), bytearray(3))
    buffers[1].append(0)  # it was let go
    far.send(b"xyz")
    assert support.run(port, recv).transferred == 3
    assert b == (b"", b"xyz")


@pytest.mark.clause("O6", "O4")
@channels.every_stream
def test_a_vectored_send_resumes_in_the_middle_of_a_buffer(
    port: unio.Port, resources: contextlib.ExitStack, transport: str
) -> None:
    near, far = channels.outgoing(resources, transport)
    data = channels.pattern(8 * support.MIB)
    cuts = [0, 1, 100, 70_001, support.MIB, support.MIB + 3, 5 * support.MIB - 1, 8 * support.MIB]
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
