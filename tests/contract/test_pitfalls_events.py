"""Where emulations have gone wrong before, by what they took an event or a number for.

Each test says in its docstring what went wrong elsewhere. What only another kernel can get wrong is tested with that
kernel's backend; the other failures are everybody's to avoid, and are tested here over every backend.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import time
from pathlib import Path
from typing import Any

import channels
import pytest
import support
from descriptors import open_descriptors
from platforms import needs_af_unix
from wine import wine_row

import unio

READABLE, WRITABLE = unio.Readiness.READABLE, unio.Readiness.WRITABLE

try:
    import resource

    RUSAGE_THREAD = resource.RUSAGE_THREAD
except (ImportError, AttributeError):
    RUSAGE_THREAD = None

posix_only = pytest.mark.skipif(os.name != "posix", reason="descriptor numbers are reused and duplicated on POSIX")


# Identity


@posix_only
@pytest.mark.clause("A3", "X3")
@pytest.mark.parametrize("through", ["the handle", "the object"])
def test_a_number_that_is_reused_within_a_batch_gets_nothing_of_its_predecessor(
    port: unio.Port, resources: contextlib.ExitStack, through: Any
) -> None:
    """The events of one call were kept by number: after a close in the middle they went to whoever came next."""
    pairs = [support.local_pair() for _ in range(10)]
    handles = []
    for number, (near, far) in enumerate(pairs):
        resources.enter_context(near)
        resources.enter_context(far)
        handles.append(port.associate(near, number))
        port.submit(unio.Recv(handles[-1], bytearray(10)))
    for _, far in pairs:
        far.send(b"old")
    [first] = support.batch(port, limit=1)
    for old, (near, _) in zip(handles, pairs, strict=True):
        if old.key == first.key:
            continue
        number = near.fileno()
        old.close() if through == "the handle" else near.close()
        successor, _ = support.reuse(number, resources)
        port.submit(unio.Recv(port.associate(successor, "new"), bytearray(10)))
    found = support.completions(port, 9)
    assert sorted(completion.key for completion in found) == sorted(set(range(10)) - {first.key})
    assert all(completion.transferred == 3 or type(completion.error) is unio.Cancelled for completion in found)
    assert port.wait(0.02) == []


@posix_only
@pytest.mark.clause("A3")
@pytest.mark.parametrize("through", ["the handle", "the object"])
@pytest.mark.parametrize("transport", ["tcp", "local", "pipe"])
def test_a_duplicate_never_keeps_a_closed_handle_firing(
    port: unio.Port, resources: contextlib.ExitStack, transport: str, through: Any
) -> None:
    """The kernel watches the open file and not its number: with a duplicate alive, events went on for ever."""
    near, far = channels.incoming(resources, transport)
    handle = port.associate(near)
    recv = unio.Recv(handle, bytearray(10))
    port.submit(recv)
    resources.callback(os.close, os.dup(near.fileno()))
    handle.close() if through == "the handle" else near.close()
    support.assert_cancelled(support.completion(port))
    for _ in range(5):
        far.send(b"data")
        assert port.wait(0.01) == []
    channels.assert_sleeps(port)
    far.close()
    channels.assert_sleeps(port)


@pytest.mark.clause("A3", "X3", "L2")
@pytest.mark.skipif(RUSAGE_THREAD is None, reason="the system does not count how often a thread sleeps")
@pytest.mark.parametrize("through", ["the handle", "the object"])
def test_what_a_duplicate_receives_does_not_wake_the_port_again_and_again(
    port: unio.Port, resources: contextlib.ExitStack, through: str
) -> None:
    """Each byte for the duplicate woke the loop that had closed its own descriptor long before."""
    near, far = support.local_pair()
    resources.enter_context(far)
    handle = port.associate(near)
    duplicate = resources.enter_context(near.dup())
    handle.close() if through == "the handle" else near.close()

    def wait() -> int:
        before = resource.getrusage(RUSAGE_THREAD).ru_nvcsw
        assert [completion.key for completion in support.batch(port)] == ["done"]
        return resource.getrusage(RUSAGE_THREAD).ru_nvcsw - before

    waiter = support.Background(wait)
    support.inside_wait(waiter)
    for _ in range(300):
        far.send(b"x")
        assert duplicate.recv(10) == b"x"
        # Nothing waits for this: it gives a thread that is woken the time to sleep again, so that each wake-up counts.
        # Where it is too short fewer are counted, and of the 300 a hundred are enough.
        time.sleep(0.0005)
    port.post("done")
    assert waiter.result() < 100


@posix_only
@pytest.mark.clause("A3", "X3")
def test_operations_in_flight_keep_no_duplicate_of_the_descriptor(
    port: unio.Port, resources: contextlib.ExitStack
) -> None:
    """One duplicate for each operation used up the descriptors, and a closed handle's peer stayed connected."""
    near, far = channels.incoming(resources, "tcp")
    handle = port.associate(near)
    before = len(open_descriptors())
    operations = [
        unio.Recv(handle, bytearray(10)),
        unio.Poll(handle, READABLE),
        unio.Send(handle, bytes(16 * support.MIB)),
    ]
    for operation in operations:
        port.submit(operation)
    assert len(open_descriptors()) == before
    handle.close()
    found = support.completions(port, 3)
    assert [completion.operation for completion in found] == operations
    assert {type(completion.error) for completion in found} == {unio.Cancelled}
    assert len(far.recv_to_end()) == found[2].transferred  # the peer sees the end


@pytest.mark.clause("S1")
@channels.every_pollable
def test_what_has_ended_is_never_completed_by_a_later_event(
    port: unio.Port, resources: contextlib.ExitStack, transport: str
) -> None:
    """An operation that had been cancelled was found again by the event that came after, and was completed twice."""
    near, far = channels.incoming(resources, transport)
    handle = port.associate(near)
    ended = [unio.Recv(handle, bytearray(10)), unio.Poll(handle, READABLE), unio.Recv(handle, bytearray())]
    for operation in ended:
        port.submit(operation)
    assert handle.cancel() == 3
    for completion in support.completions(port, 3):
        support.assert_cancelled(completion)
    far.send(b"data")
    far.close()
    assert port.wait(0.01) == []
    assert not any(operation.in_flight for operation in ended)
    assert channels.receive_all(port, handle) == b"data"


# Hang-ups and errors


@pytest.mark.clause("O4", "O14")
@channels.every_socket
def test_the_end_of_what_the_peer_sends_does_not_end_what_it_receives(
    port: unio.Port, resources: contextlib.ExitStack, transport: str
) -> None:
    """A half-close was taken for a hang-up: writes were tried again and again, or were given up."""
    near, far = channels.outgoing(resources, transport)
    handle = port.associate(near)
    far.end.shutdown(socket.SHUT_WR)
    data = channels.pattern(8 * support.MIB)
    send = unio.Send(handle, data)
    port.submit(send)
    channels.assert_sleeps(port)
    drained = channels.drain(port, far, 1)
    assert drained.completions == [(None, send, len(data), None)]
    near.close()
    assert bytes(drained.data) + far.recv_to_end() == data


@pytest.mark.clause("O14")
@needs_af_unix
def test_a_full_socket_whose_peer_has_ended_its_side_is_not_writable(
    port: unio.Port, resources: contextlib.ExitStack
) -> None:
    """A half-close was taken for a hang-up, which counts as writable."""
    near, far = channels.outgoing(resources, "local")
    handle = port.associate(near)
    far.end.shutdown(socket.SHUT_WR)
    filled = channels.fill_descriptor(near)
    poll = unio.Poll(handle, WRITABLE)
    port.submit(poll)
    channels.assert_sleeps(port)
    assert channels.take(far, filled) == bytes(filled)
    assert support.completion(port) == (None, poll, 0, None)


HANG_UPS = {
    "never connected": lambda near, far: None,
    "reset": lambda near, far: far.reset(),
    "ended": lambda near, far: far.close(),
    "half-closed by both": lambda near, far: (near.shutdown(socket.SHUT_WR), far.end.shutdown(socket.SHUT_WR)),
    "local": lambda near, far: far.close(),
    "pipe": lambda near, far: far.close(),
}


@pytest.mark.clause("L2")
@pytest.mark.parametrize("kind", HANG_UPS)
@pytest.mark.parametrize("joined", ["before", "after"])
def test_a_hang_up_that_concerns_no_operation_lets_the_port_sleep(
    port: unio.Port, resources: contextlib.ExitStack, kind: str, joined: str
) -> None:
    """Hang-ups and errors are reported whether they were asked for or not, and kept the program spinning."""
    near, far = channels.outgoing(resources, kind if kind in channels.TRANSPORTS else "tcp")
    if kind == "never connected":
        near = channels.client(resources, "tcp")
    if joined == "before":
        port.associate(near)
    HANG_UPS[kind](near, far)
    if joined == "after":
        port.associate(near)
    assert port.wait(0) == []
    channels.assert_sleeps(port)


@pytest.mark.clause("L2")
@pytest.mark.parametrize("kind", support.PENDING)
def test_an_operation_that_pends_lets_the_port_sleep(
    port: unio.Port, resources: contextlib.ExitStack, tmp_path: Path, kind: str
) -> None:
    """What could not be done yet was tried again and again, or made the events that led to its own next attempt."""
    operation = support.pending(kind, port, resources, tmp_path)
    port.submit(operation)
    assert port.wait(0.02) == []
    channels.assert_sleeps(port)
    assert operation.in_flight


@pytest.mark.clause("O3")
@channels.every_stream
def test_the_end_of_the_stream_never_overtakes_the_data_before_it(
    port: unio.Port, resources: contextlib.ExitStack, transport: str
) -> None:
    """The end was reported together with the last data, and the data was thrown away."""
    near, far = channels.incoming(resources, transport)
    handle = port.associate(near)
    data = channels.pattern(50_000)
    buffer = bytearray(999)
    recv = unio.Recv(handle, buffer)
    port.submit(recv)
    support.assert_idle(port)
    peer = support.Background(lambda: (far.send(data), far.close()))
    received = bytearray()
    while count := support.completion(port).transferred:
        received += buffer[:count]
        port.submit(recv)
    peer.result()
    assert received == data


@pytest.mark.clause("O10", "O3", "O14")
@pytest.mark.parametrize("waiting", ["receive", "poll"])
@channels.every_socket
def test_the_end_of_what_is_sent_here_is_not_taken_for_the_end_of_what_is_received(
    port: unio.Port, resources: contextlib.ExitStack, transport: str, waiting: str
) -> None:
    """The event of one's own half-close was read as the peer's."""
    near, far = channels.incoming(resources, transport)
    handle = port.associate(near)
    operation = unio.Recv(handle, bytearray(10)) if waiting == "receive" else unio.Poll(handle, READABLE)
    port.submit(operation)
    support.succeed(port, unio.Shutdown(handle))
    channels.assert_sleeps(port)
    far.send(b"data")
    assert support.completion(port) == (None, operation, 4 if waiting == "receive" else 0, None)


@pytest.mark.clause("O3", "C2")
@pytest.mark.parametrize("pending", [pytest.param(False, marks=wine_row("receive-after-reset")), True])
def test_a_reset_and_an_end_are_told_apart(port: unio.Port, resources: contextlib.ExitStack, pending: bool) -> None:
    """Both were reported as 0 bytes, so that a broken transfer looked like a finished one."""
    for leave, expected in (("close", type(None)), ("reset", ConnectionResetError)):
        near, far = channels.incoming(resources, "tcp")
        recv = unio.Recv(port.associate(near), bytearray(10))
        if pending:
            port.submit(recv)
            support.assert_idle(port)
        getattr(far, leave)()
        if not pending:
            port.wait(0)
            port.submit(recv)
        completion = support.completion(port)
        assert (completion.transferred, type(completion.error)) == (0, expected)


# Connecting


@pytest.mark.clause("O2")
@pytest.mark.parametrize("joined", ["long before", "just before"])
def test_an_event_from_before_is_never_taken_for_a_connection(
    port: unio.Port, resources: contextlib.ExitStack, joined: str
) -> None:
    """A socket reports that it is writable before it connects at all, and that was read as success."""
    full = support.full_listener(resources)
    client = channels.client(resources, "tcp")
    handle = port.associate(client)
    if joined == "long before":
        assert port.wait(0.01) == []  # whatever events there are have been fetched
    connect = unio.Connect(handle, full)
    port.submit(connect)
    assert port.wait(0.1) == []
    with pytest.raises(OSError) as caught:  # noqa: PT011 - its number is looked at below
        client.getpeername()
    assert caught.value.errno == errno.ENOTCONN
    assert port.cancel(connect)
    support.assert_cancelled(support.completion(port))


@pytest.mark.clause("O2", "C2")
@pytest.mark.parametrize("company", ["alone", "with a poll"])
def test_a_refusal_always_reaches_the_connect(port: unio.Port, resources: contextlib.ExitStack, company: Any) -> None:
    """The system tells an error once, and whoever looked first left the connect with a success or nothing at all."""
    bound = channels.client(resources, "tcp")
    bound.bind(("127.0.0.1", 0))
    for number in range(50):
        client = channels.client(resources, "tcp")
        handle = port.associate(client, number)
        if company == "with a poll":
            port.submit(unio.Poll(handle, READABLE))
        connect = unio.Connect(handle, bound.getsockname())
        port.submit(connect)
        found = support.completions(port, 2 if company == "with a poll" else 1)
        [error] = [completion.error for completion in found if completion.operation is connect]
        assert type(error) is ConnectionRefusedError
        handle.close()
