"""What is special to pipes; what they have in common with sockets is tested with the streams."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import subprocess
import sys

import channels
import pytest
import support
from platforms import WINDOWS, needs_crt_files, needs_fifo, needs_non_blocking_mode

import unio

MIB = 1 << 20


@pytest.mark.clause("O12")
def test_a_pipe_is_an_end_to_receive_from_and_one_to_send_to(port: unio.Port, resources: contextlib.ExitStack) -> None:
    reader, writer = (resources.enter_context(end) for end in unio.pipe())
    assert reader.readable()
    assert not reader.writable()
    assert writer.writable()
    assert not writer.readable()
    assert not os.get_inheritable(reader.fileno())
    assert not os.get_inheritable(writer.fileno())
    receiving, sending = port.associate(reader, "reader"), port.associate(writer, "writer")
    assert (receiving.socket, sending.socket) == (None, None)
    recv, send = unio.Recv(receiving, bytearray(10)), unio.Send(sending, b"through")
    port.submit(recv)
    support.assert_idle(port)
    port.submit(send)
    found = {completion.key: completion for completion in support.completions(port, 2)}
    assert found["writer"] == ("writer", send, 7, None)
    assert found["reader"] == ("reader", recv, 7, None)
    assert recv.buffer[:7] == b"through"
    sending.close()
    assert support.run(port, recv) == ("reader", recv, 0, None)


@pytest.mark.clause("O12", "A2")
@needs_non_blocking_mode
@channels.every_pipe
def test_joining_a_port_makes_a_pipe_fit_for_overlapped_work(
    port: unio.Port, resources: contextlib.ExitStack, transport: str
) -> None:
    near, _ = channels.incoming(resources, transport)
    port.associate(near)
    assert not os.get_blocking(near.fileno())


@pytest.mark.clause("O12", "O4")
@channels.every_pipe
def test_a_full_pipe_takes_the_rest_as_it_is_emptied(
    port: unio.Port, resources: contextlib.ExitStack, transport: str
) -> None:
    near, far = channels.outgoing(resources, transport)
    data = channels.pattern(MIB)
    send = unio.Send(port.associate(near), data)
    port.submit(send)
    support.assert_idle(port)
    drained = channels.drain(port, far, 1, most=1000)
    assert drained.completions == [(None, send, MIB, None)]
    assert drained.read_before[0] > MIB - 2 * 65536 * 2
    near.close()
    assert bytes(drained.data) + far.recv_to_end() == data


@pytest.mark.clause("O12", "O4")
@channels.every_pipe
def test_small_sends_wait_whole_for_a_full_pipe(
    port: unio.Port, resources: contextlib.ExitStack, transport: str
) -> None:
    near, far = channels.outgoing(resources, transport)
    handle = port.associate(near)
    filled = channels.fill_descriptor(near)
    sends = [unio.Send(handle, b"%04d" % number * 100) for number in range(100)]
    for send in sends:
        port.submit(send)
    support.assert_idle(port)
    drained = channels.drain(port, far, 100)
    assert [completion.operation for completion in drained.completions] == sends
    near.close()
    received = bytes(drained.data) + far.recv_to_end()
    assert received == bytes(filled) + b"".join(b"%04d" % number * 100 for number in range(100))


@pytest.mark.clause("O12", "O4", "C2")
@channels.every_pipe
def test_a_pipe_that_nobody_reads_is_a_broken_pipe(
    port: unio.Port, resources: contextlib.ExitStack, transport: str
) -> None:
    near, far = channels.outgoing(resources, transport)
    send = unio.Send(port.associate(near), b"data")
    support.succeed(port, send)
    far.close()
    for _ in range(3):
        completion = support.run(port, send)
        assert type(completion.error) is BrokenPipeError
        assert completion.error.errno == errno.EPIPE
        assert completion.transferred == 0


@pytest.mark.clause("O12", "O4", "C2")
@channels.every_pipe
def test_a_reader_that_leaves_in_the_middle_of_a_send_is_a_broken_pipe_with_the_count_so_far(
    port: unio.Port, resources: contextlib.ExitStack, transport: str
) -> None:
    near, far = channels.outgoing(resources, transport)
    send = unio.Send(port.associate(near), bytes(MIB))
    port.submit(send)
    read = channels.read(port, far, 100_000)
    far.close()
    completion = support.completion(port)
    assert type(completion.error) is BrokenPipeError
    assert read <= completion.transferred < MIB


@pytest.mark.clause("O12", "O3")
@channels.every_pipe
def test_what_was_sent_before_the_writer_left_arrives_before_the_end(
    port: unio.Port, resources: contextlib.ExitStack, transport: str
) -> None:
    near, far = channels.incoming(resources, transport)
    handle = port.associate(near)
    far.send(bytes(5000))
    far.close()
    assert channels.receive_all(port, handle, 300) == bytes(5000)


@pytest.mark.clause("O12", "O3")
@needs_fifo
def test_a_fifo_goes_on_with_the_next_writer_after_the_end_of_one(
    port: unio.Port, resources: contextlib.ExitStack
) -> None:
    reader, far = channels.incoming(resources, "fifo")
    handle = port.associate(reader)
    recv = unio.Recv(handle, bytearray(10))
    far.send(b"first")
    far.close()
    assert channels.receive_all(port, handle) == b"first"
    path = far.end.name
    for _ in range(3):
        writer = channels.Far(resources.enter_context(unio.open(path, "wb")))
        port.submit(recv)
        support.assert_idle(port)  # there is a writer again, and the stream has not ended
        writer.send(b"next")
        assert support.completion(port) == (None, recv, 4, None)
        port.submit(recv)
        support.assert_idle(port)
        writer.close()
        assert support.completion(port) == (None, recv, 0, None)


@pytest.mark.clause("O12", "C2")
def test_the_wrong_end_of_a_pipe_is_an_error_of_the_completion(
    port: unio.Port, resources: contextlib.ExitStack
) -> None:
    reader, writer = (port.associate(resources.enter_context(end)) for end in unio.pipe())
    assert support.run(port, unio.Send(reader, b"data")).error.errno == errno.EBADF
    assert support.run(port, unio.Recv(writer, bytearray(4))).error.errno == errno.EBADF
    assert not reader.closed
    assert not writer.closed


@pytest.mark.clause("O12")
@needs_crt_files
def test_the_pipes_of_a_child_process_are_streams(port: unio.Port, resources: contextlib.ExitStack) -> None:
    code = "import sys; data = sys.stdin.buffer.read(); sys.stdout.buffer.write(data[::-1])"
    child = resources.enter_context(
        subprocess.Popen([sys.executable, "-S", "-E", "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    )
    resources.callback(child.kill)
    data = channels.pattern(300_000)
    writing, reading = port.associate(child.stdin), port.associate(child.stdout)
    assert support.succeed(port, unio.Send(writing, data)).transferred == len(data)
    writing.close()
    assert channels.receive_all(port, reading) == data[::-1]


@pytest.mark.clause("O12")
@needs_crt_files
def test_the_ends_of_a_pipe_join_by_their_numbers(port: unio.Port, resources: contextlib.ExitStack) -> None:
    reader, writer = os.pipe()
    resources.callback(os.close, reader)
    receiving, sending = port.associate(reader), port.associate(writer)
    support.succeed(port, unio.Send(sending, b"numbers"))
    assert channels.receive_exactly(port, receiving, 7) == b"numbers"
    sending.close()
    with pytest.raises(OSError, match="descriptor"):
        os.fstat(writer)
    assert channels.receive_all(port, receiving) == b""


@pytest.mark.clause("O12")
@pytest.mark.parametrize("kind", ["pair"] if WINDOWS else ["pair", "listener"])
def test_local_stream_sockets_are_streams(port: unio.Port, resources: contextlib.ExitStack, kind: str) -> None:
    if kind == "pair":
        near, far = (resources.enter_context(end) for end in socket.socketpair())
    else:
        listening = channels.listener(resources, "local")
        far = channels.client(resources, "local")
        far.connect(listening.getsockname())
        accept = unio.Accept(port.associate(listening))
        support.succeed(port, accept)
        near = resources.enter_context(accept.socket)
    far.settimeout(support.PATIENCE)
    handle = port.associate(near)
    support.succeed(port, unio.Send(handle, b"question"))
    assert far.recv(100) == b"question"
    far.sendall(b"answer")
    far.close()
    assert channels.receive_all(port, handle) == b"answer"


@pytest.mark.clause("O12", "O6")
@channels.every_pipe
def test_a_send_larger_than_the_pipe_in_several_buffers_is_whole(
    port: unio.Port, resources: contextlib.ExitStack, transport: str
) -> None:
    near, far = channels.outgoing(resources, transport)
    pieces = [channels.pattern(size) for size in (1, 4095, 4097, 65536, 65537, 200_000)]
    send = unio.Send(port.associate(near), pieces)
    port.submit(send)
    drained = channels.drain(port, far, 1, most=4000)
    assert drained.completions[0].transferred == sum(map(len, pieces))
    near.close()
    assert bytes(drained.data) + far.recv_to_end() == b"".join(pieces)


@pytest.mark.clause("O12", "C2")
def test_an_operation_of_sockets_is_refused_on_a_pipe_where_it_is_made(
    port: unio.Port, resources: contextlib.ExitStack
) -> None:
    reader, writer = (port.associate(resources.enter_context(end)) for end in unio.pipe())
    for make in (unio.Accept, unio.Shutdown, unio.Disconnect):
        with pytest.raises(TypeError, match="socket"):
            make(writer)
    with pytest.raises(TypeError, match="socket"):
        unio.RecvFrom(reader, bytearray(1))
    with pytest.raises(TypeError, match="file"):
        unio.Read(reader, bytearray(1), 0)
