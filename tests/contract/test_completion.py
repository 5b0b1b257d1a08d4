"""The clauses C of the contract: what a completion carries."""

from __future__ import annotations

import contextlib
import errno
import itertools
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support import (
    BIG,
    PATIENCE,
    assert_cancelled,
    assert_idle,
    completion,
    completions,
    connect,
    recv_exactly,
    reset,
    run,
    succeed,
)
from wine import wine_row

import unio

# Clause C1: key, operation, transferred, error


@pytest.mark.clause("C1")
def test_a_completion_is_a_tuple_of_key_operation_transferred_and_error(port: unio.Port, make_pair: Any) -> None:
    near, far = make_pair()
    operation = unio.Recv(port.associate(near, "key"), bytearray(8))
    port.submit(operation)
    far.send(b"data")
    found = completion(port)
    assert type(found) is unio.Completion
    key, same, transferred, error = found
    assert (key, same, transferred, error) == ("key", operation, 4, None)
    assert (found.key, found.operation, found.transferred, found.error) == tuple(found)
    assert found._fields == ("key", "operation", "transferred", "error")


@pytest.mark.clause("C1")
def test_what_a_completion_carries_is_on_the_operation_too(port: unio.Port, make_pair: Any) -> None:
    near, far = make_pair()
    operation = unio.Recv(port.associate(near, "key"), bytearray(8))
    assert (operation.key, operation.transferred, operation.error, operation.in_flight) == ("key", 0, None, False)
    for count in (4, 0, 2):
        port.submit(operation)
        if count:
            far.send(bytes(count))
        else:
            port.cancel(operation)
        found = completion(port)
        assert (operation.key, operation.transferred, operation.error) == (found.key, found.transferred, found.error)
        assert found.transferred == count
        assert (found.error is None) == (count > 0)
        assert not operation.in_flight


@pytest.mark.clause("C1")
def test_an_operation_without_a_handle_has_the_key_it_was_given(port: unio.Port) -> None:
    timer = unio.Timer(0, "timer")
    assert timer.key == "timer"
    assert timer.handle is None
    assert succeed(port, timer) == ("timer", timer, 0, None)
    with subprocess.Popen([sys.executable, "-S", "-E", "-c", "pass"]) as process:
        found = succeed(port, unio.ProcessExit(process, "process"))
        assert (found.key, found.transferred) == ("process", 0)


@pytest.mark.clause("C1")
def test_one_failed_operation_among_others_fails_nothing_but_itself(port: unio.Port, make_pair: Any) -> None:
    pairs = [make_pair() for _ in range(3)]
    for number, (near, _) in enumerate(pairs):
        port.submit(unio.Recv(port.associate(near, number), bytearray(8)))
    pairs[0][1].send(b"data")
    reset(pairs[1][1])
    pairs[2][1].send(b"data")
    found = {each.key: each for each in completions(port, 3)}
    assert [found[number].transferred for number in range(3)] == [4, 0, 4]
    assert [type(found[number].error) for number in range(3)] == [type(None), ConnectionResetError, type(None)]


# Clause C2: errors


@pytest.mark.clause("C2")
def test_a_refused_connection(port: unio.Port, make_listener: Any, resources: contextlib.ExitStack) -> None:
    with make_listener() as listening:
        address = listening.getsockname()
    found = run(port, unio.Connect(port.associate(resources.enter_context(socket.socket())), address))
    assert type(found.error) is ConnectionRefusedError
    assert found.error.errno == errno.ECONNREFUSED


@pytest.mark.clause("C2")
def test_a_reset_by_the_peer(port: unio.Port, make_pair: Any) -> None:
    near, far = make_pair()
    handle = port.associate(near)
    received = unio.Recv(handle, bytearray(8))
    port.submit(received)
    reset(far)
    found = completion(port)
    assert type(found.error) is ConnectionResetError
    assert found.error.errno == errno.ECONNRESET


@pytest.mark.clause("C2", "O4")
@pytest.mark.parametrize("local", [False, True])
def test_a_send_to_a_peer_that_has_gone(port: unio.Port, make_pair: Any, *, local: bool) -> None:
    near, far = make_pair(local=local)
    handle = port.associate(near)
    port.submit(unio.Send(handle, bytes(BIG)))
    assert_idle(port)
    far.close()  # with unread bytes, so that it is a reset
    found = completion(port)
    assert type(found.error) is ConnectionResetError
    assert found.error.errno == errno.ECONNRESET
    assert 0 < found.transferred < BIG
    assert type(run(port, unio.Send(handle, b"more")).error) is ConnectionResetError


@pytest.mark.clause("C2")
def test_a_write_side_that_was_ended_here(port: unio.Port, make_pair: Any) -> None:
    near, far = make_pair()
    handle = port.associate(near)
    succeed(port, unio.Shutdown(handle))
    found = run(port, unio.Send(handle, b"late"))
    assert type(found.error) is BrokenPipeError
    assert found.error.errno == errno.EPIPE
    far.send(b"data")
    assert succeed(port, unio.Recv(handle, bytearray(8))).transferred == 4


@pytest.mark.clause("C2")
def test_a_pipe_that_nobody_reads(port: unio.Port, resources: contextlib.ExitStack) -> None:
    reader, writer = unio.pipe()
    resources.enter_context(writer)
    reader.close()
    found = run(port, unio.Send(port.associate(writer), b"data"))
    assert type(found.error) is BrokenPipeError
    assert found.error.errno == errno.EPIPE


ENDS = ("cancel", "cancel all", "close", "plain close")


@pytest.mark.clause("C2", "X1", "X3")
@pytest.mark.parametrize(
    ("kind", "end"),
    [
        *itertools.product(("recv", "recv of nothing", "accept", "poll"), ENDS),
        *[("send", end) for end in ENDS[:-1]],
        pytest.param("send", ENDS[-1], marks=wine_row("close-with-send-pending")),
    ],
)
def test_what_is_ended_here_is_one_distinct_error(
    port: unio.Port, make_pair: Any, make_listener: Any, patience: float, kind: str, end: str
) -> None:
    near, _ = make_pair()
    given = make_listener() if kind == "accept" else near
    handle = port.associate(given)
    operation: unio.Operation = {
        "recv": lambda: unio.Recv(handle, bytearray(8)),
        "send": lambda: unio.Send(handle, bytes(BIG)),
        "accept": lambda: unio.Accept(handle),
        "poll": lambda: unio.Poll(handle, unio.Readiness.READABLE),
        "recv of nothing": lambda: unio.Recv(handle, bytearray()),
    }[kind]()
    port.submit(operation)
    if end == "cancel":
        port.cancel(operation)
    elif end == "cancel all":
        handle.cancel()
    elif end == "close":
        handle.close()
    else:
        given.close()
    found = completion(port, patience)
    assert_cancelled(found)
    assert isinstance(found.error, OSError)
    assert found.error.errno == errno.ECANCELED
    assert not isinstance(found.error, (ConnectionError, TimeoutError, BrokenPipeError))
    assert str(found.error)


@pytest.mark.clause("C2")
def test_a_time_out_is_no_cancel_and_a_cancel_no_time_out(port: unio.Port) -> None:
    timer = unio.Timer(3600)
    found = run(port, timer, 0.001)
    assert type(found.error) is TimeoutError
    assert found.error.errno == errno.ETIMEDOUT
    port.submit(timer, 3600)
    port.cancel(timer)
    assert_cancelled(completion(port))


@pytest.mark.clause("C2")
def test_an_error_belongs_to_its_completion_alone(port: unio.Port, make_pair: Any) -> None:
    # One error object that were shared would collect the tracebacks of everybody who raises it.
    near, _ = make_pair()
    handle = port.associate(near)
    operations = [unio.Recv(handle, bytearray(8)) for _ in range(3)]
    for operation in operations:
        port.submit(operation)
    handle.cancel()
    errors = [found.error for found in completions(port, 3)]
    assert len({id(error) for error in errors}) == 3
    assert all(error is not None and error.__traceback__ is None for error in errors)


# Clause C3: results that are no count


@pytest.mark.clause("C3", "O1")
def test_the_accepted_socket_and_its_peer_are_on_the_operation(
    port: unio.Port, make_listener: Any, resources: contextlib.ExitStack
) -> None:
    listening = make_listener()
    operation = unio.Accept(port.associate(listening, "listener"))
    assert operation.socket is None
    seen = []
    for _ in range(3):
        port.submit(operation)
        client = resources.enter_context(connect(listening))
        assert completion(port) == ("listener", operation, 0, None)
        assert operation.socket is not None
        seen.append(resources.enter_context(operation.socket))
        assert operation.address == operation.socket.getpeername() == client.getsockname()
        client.send(b"data")
        received = unio.Recv(port.associate(operation.socket), bytearray(8))
        assert succeed(port, received).transferred == 4
    assert len({accepted.fileno() for accepted in seen}) == 3


@pytest.mark.clause("C3", "O7")
def test_the_sender_of_a_datagram_is_on_the_operation(port: unio.Port, resources: contextlib.ExitStack) -> None:
    def datagram_socket() -> socket.socket:
        sock = resources.enter_context(socket.socket(type=socket.SOCK_DGRAM))
        sock.bind(("127.0.0.1", 0))
        sock.settimeout(PATIENCE)
        return sock

    receiver, first, second = (datagram_socket() for _ in range(3))
    operation = unio.RecvFrom(port.associate(receiver), bytearray(8))
    for sender in (first, second, first):
        port.submit(operation)
        sender.sendto(b"data", receiver.getsockname())
        assert completion(port)[2:] == (4, None)
        assert operation.address == sender.getsockname()


@pytest.mark.clause("C3", "O14")
def test_what_was_found_ready_is_on_the_operation(port: unio.Port, make_pair: Any) -> None:
    near, far = make_pair(local=True)
    operation = unio.Poll(port.associate(near), unio.Readiness.READABLE | unio.Readiness.WRITABLE)
    succeed(port, operation)
    assert operation.found == unio.Readiness.WRITABLE
    far.send(b"data")
    succeed(port, operation)
    assert operation.found == unio.Readiness.READABLE | unio.Readiness.WRITABLE


@pytest.mark.clause("C3", "O13")
def test_the_exit_status_is_on_the_operation(port: unio.Port) -> None:
    with subprocess.Popen([sys.executable, "-S", "-E", "-c", "raise SystemExit(7)"]) as process:
        operation = unio.ProcessExit(process)
        succeed(port, operation)
        assert operation.status == 7
        assert process.wait(PATIENCE) == 7


@pytest.mark.clause("C1", "C3")
def test_what_was_read_is_in_the_buffer_and_its_count_on_the_completion(
    port: unio.Port, make_pair: Any, tmp_path: Path
) -> None:
    near, far = make_pair()
    handle = port.associate(near)
    buffers = [bytearray(3), bytearray(8)]
    port.submit(unio.Recv(handle, buffers))
    far.send(b"hello")
    assert completion(port).transferred == 5
    assert buffers == [b"hel", b"lo" + bytes(6)]
    with unio.open(tmp_path / "file", "w+b") as file:
        stored = port.associate(file, "file")
        assert succeed(port, unio.Write(stored, b"content", 3))[::2] == ("file", 7)
        buffer = bytearray(100)
        assert succeed(port, unio.Read(stored, buffer, 0)).transferred == 10
        assert buffer[:10] == bytes(3) + b"content"
        assert succeed(port, unio.SendFile(handle, file, 3)).transferred == 7
        assert recv_exactly(far, 7) == b"content"
