"""Objects of other libraries as handles: what their ``fileno()`` and ``close()`` may do, and raise."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import Any

import pytest
from descriptors import open_descriptors
from patience import PATIENCE
from platforms import WINDOWS
from support import (
    Background,
    asleep,
    assert_cancelled,
    assert_idle,
    batch,
    completion,
    completions,
    reuse,
    run,
    tcp_pair,
    until,
)

import unio


class LibraryError(Exception):
    """A library's own, which is neither an OSError nor a ValueError."""


class Connection:
    """A connection of some library's."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.says: list[Any] = []
        """What fileno() says, one after the other; the last for ever."""
        self.raises: BaseException | None = None
        """What close() raises when all is done."""

    def fileno(self) -> Any:
        says = self.sock.fileno() if not self.says else self.says[0] if len(self.says) == 1 else self.says.pop(0)
        if isinstance(says, BaseException):
            raise says
        if isinstance(says, int) and says == -1 and not self.says:
            raise LibraryError("the connection is closed")
        return says

    def close(self) -> None:
        self.sock.close()
        if self.raises is not None:
            raise self.raises


@pytest.fixture
def make_connection(make_pair: Any) -> Any:
    """Makes connections, each with the other end."""

    def make() -> tuple[Connection, socket.socket]:
        near, far = make_pair()
        return Connection(near), far

    return make


def next_pair(number: int, resources: contextlib.ExitStack) -> tuple[socket.socket, socket.socket]:
    """A pair of connected sockets, the first with this number, where numbers can be chosen."""
    if WINDOWS:
        near, far = map(resources.enter_context, tcp_pair())
        return near, far
    return reuse(number, resources)


CLOSED = [LibraryError("closed"), ZeroDivisionError(), ValueError(), OSError(), -1, 2**70]
"""What fileno() says or raises of an object that is closed."""

GARBAGE = ["3", None, 3.5]


def works(port: unio.Port, handle: unio.Handle, far: socket.socket) -> None:
    """A handle sends and receives."""
    received, sent = unio.Recv(handle, bytearray(8)), unio.Send(handle, b"pong")
    port.submit(received)
    far.send(b"ping")
    assert completion(port)[1:] == (received, 4, None)
    port.submit(sent)
    assert completion(port)[1:] == (sent, 4, None)
    assert far.recv(8) == b"pong"


# fileno()


@pytest.mark.clause("A2")
@pytest.mark.parametrize("says", [*CLOSED, *GARBAGE], ids=repr)
def test_an_object_whose_fileno_tells_no_number_is_refused_and_nothing_has_changed(
    port: unio.Port, make_connection: Any, says: Any
) -> None:
    connection, far = make_connection()
    connection.says = [says]
    before = open_descriptors()
    for _ in range(3):
        with pytest.raises(TypeError if says in GARBAGE else unio.AssociationError) as caught:
            port.associate(connection)
    if isinstance(says, LibraryError):
        assert caught.value.__cause__ is says
    assert open_descriptors() == before
    connection.says = []
    works(port, port.associate(connection), far)


@pytest.mark.clause("X3", "A3", "P6")
@pytest.mark.parametrize("says", [*CLOSED, *GARBAGE], ids=repr)
def test_an_object_whose_fileno_tells_no_number_any_more_counts_as_closed(
    port: unio.Port, make_connection: Any, says: Any
) -> None:
    connection, far = make_connection()
    handle = port.associate(connection)
    operations = [unio.Recv(handle, bytearray(1)), unio.Poll(handle, unio.Readiness.READABLE)]
    for operation in operations:
        port.submit(operation)
    connection.says = [says]
    if WINDOWS:  # which ends what is in flight when the socket is closed, whatever the object says
        connection.sock.close()
    for found, operation in zip(completions(port, len(operations)), operations, strict=True):
        assert found.operation is operation
        assert_cancelled(found)
    assert handle.closed
    assert handle.fileno() == -1
    assert "closed" in repr(handle)
    assert_cancelled(run(port, operations[0]))
    handle.close()
    assert WINDOWS or connection.sock.fileno() >= 0, "the port has closed what said that it is closed"
    assert_idle(port)
    far.close()


@pytest.mark.clause("S3", "X3")
def test_what_is_submitted_while_a_close_waits_for_another_thread_ends_behind_what_was_in_flight(
    port: unio.Port, make_connection: Any
) -> None:
    connection, _ = make_connection()
    handle = port.associate(connection)
    first, late = unio.Recv(handle, bytearray(1)), unio.Recv(handle, bytearray(1))
    asked, go = threading.Event(), threading.Event()

    def wait_once() -> int:  # as a library's fileno() may, for a lock of its own
        connection.fileno = lambda: Connection.fileno(connection)
        asked.set()
        assert go.wait(PATIENCE)
        return connection.sock.fileno()

    connection.fileno = wait_once
    submitting = Background(port.submit, first)
    assert asked.wait(PATIENCE)
    handle.close()
    assert port.submit(late) is False
    go.set()
    submitting.result()
    found = completions(port, 2)
    assert [each.operation for each in found] == [first, late]
    for each in found:
        assert_cancelled(each)
    assert_idle(port)


@pytest.mark.clause("A2", "X3")
def test_an_object_that_finds_no_memory_to_tell_its_number_is_not_closed(port: unio.Port, make_connection: Any) -> None:
    connection, far = make_connection()
    connection.says = [MemoryError()]
    with pytest.raises(MemoryError):
        port.associate(connection)
    connection.says = []
    handle = port.associate(connection)
    received = unio.Recv(handle, bytearray(8))
    port.submit(received)
    connection.says = [MemoryError()]
    with contextlib.suppress(MemoryError):
        assert port.wait(0.1) == []
    connection.says = []
    assert not handle.closed
    far.send(b"data")
    assert completion(port)[1:] == (received, 4, None)


@pytest.mark.process_wide
@pytest.mark.clause("A3", "X3")
@pytest.mark.parametrize("first", ["wait", "handle", "associate"])
def test_the_number_of_an_object_that_was_closed_can_join_again(
    port: unio.Port, make_connection: Any, resources: contextlib.ExitStack, first: str
) -> None:
    connection, _ = make_connection()
    number = connection.fileno()
    handle = port.associate(connection)
    received = unio.Recv(handle, bytearray(8))
    port.submit(received)
    connection.close()
    if first == "wait":
        assert_cancelled(completion(port))
    elif first == "handle":
        assert handle.closed
        handle.close()
        assert_cancelled(completion(port))
    near, far = next_pair(number, resources)
    other = port.associate(near)
    if first == "associate":
        assert_cancelled(completion(port))
    works(port, other, far)


@pytest.mark.clause("X3", "P6")
def test_a_wait_with_many_handles_survives_one_whose_fileno_raises(
    port: unio.Port, make_connection: Any, make_pair: Any
) -> None:
    near, far = make_pair()
    port.submit(unio.Recv(port.associate(near, "other"), bytearray(1)))
    connections = [make_connection()[0] for _ in range(100)]
    for number, connection in enumerate(connections):
        port.submit(unio.Recv(port.associate(connection, number), bytearray(1)))
    for connection in connections[::10]:
        connection.close()
    seen: set[int] = set()
    while len(seen) < 10:
        for found in batch(port):
            assert_cancelled(found)
            seen.add(found.key)
    assert seen == set(range(0, 100, 10))
    far.send(b"x")
    assert completion(port).key == "other"


@pytest.mark.clause("S1", "S6")
@pytest.mark.parametrize("kind", ["recv", "poll"])
def test_what_fileno_raises_to_end_the_program_comes_out_and_the_port_goes_on(
    port: unio.Port, make_connection: Any, kind: str
) -> None:
    connection, far = make_connection()
    connection.says = [KeyboardInterrupt()]
    with pytest.raises(KeyboardInterrupt):
        port.associate(connection)
    connection.says = []
    handle = port.associate(connection)
    far.send(b"data")
    operation: Any = unio.Recv(handle, bytearray(8)) if kind == "recv" else unio.Poll(handle, unio.Readiness.READABLE)
    connection.says = [KeyboardInterrupt()]
    with pytest.raises(KeyboardInterrupt):
        port.submit(operation)
    connection.says = []
    found = completion(port)  # as it was submitted
    assert found.operation is operation
    assert found.error is None or type(found.error) is unio.Cancelled
    operation = unio.Recv(handle, bytearray(8))
    if found.error is None and kind == "recv":
        far.send(b"data")
    port.submit(operation)
    assert completion(port)[1:] == (operation, 4, None)


@pytest.mark.clause("X3")
def test_a_close_in_which_fileno_raises_what_is_to_end_the_program_is_one_all_the_same(
    port: unio.Port, make_connection: Any, resources: contextlib.ExitStack
) -> None:
    connection, far = make_connection()
    number = connection.fileno()
    handle = port.associate(connection)
    operation = unio.Recv(handle, bytearray(8))
    port.submit(operation)
    connection.says = [KeyboardInterrupt()]
    with pytest.raises(KeyboardInterrupt):
        handle.close()
    handle.close()  # nobody asks any more
    assert_cancelled(completion(port))
    assert handle.closed
    assert connection.sock.fileno() == -1
    assert far.recv(1) == b""
    near, other = next_pair(number, resources)
    works(port, port.associate(near), other)


# close()


@pytest.mark.clause("X3", "A4")
@pytest.mark.parametrize("idle", [True, False])
@pytest.mark.parametrize("raises", [LibraryError("what close raises"), KeyboardInterrupt()], ids=repr)
def test_what_close_raises_comes_out_when_all_is_done(
    port: unio.Port, make_connection: Any, resources: contextlib.ExitStack, raises: BaseException, idle: bool
) -> None:
    connection, far = make_connection()
    connection.raises = raises
    number = connection.fileno()
    handle = port.associate(connection)
    operations = [] if idle else [unio.Recv(handle, bytearray(1)) for _ in range(3)]
    for operation in operations:
        port.submit(operation)
    with pytest.raises(type(raises)) as caught:
        handle.close()
    assert caught.value is raises
    for found, operation in zip(completions(port, len(operations)), operations, strict=True):
        assert found.operation is operation
        assert_cancelled(found)
    assert handle.closed
    assert far.recv(1) == b""
    handle.close()
    near, far = next_pair(number, resources)
    works(port, port.associate(near), far)


@pytest.mark.clause("X3", "P6")
def test_what_close_raises_never_comes_out_of_the_wait_of_another_thread(
    port: unio.Port, make_connection: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    reported: list[threading.ExceptHookArgs] = []
    monkeypatch.setattr(threading, "excepthook", reported.append)
    connection, far = make_connection()
    connection.raises = LibraryError("what close raises")
    handle = port.associate(connection, "received")
    operation = unio.Recv(handle, bytearray(1))

    def serve() -> list[Any]:
        port.submit(operation)
        return [found.key for found in completions(port, 2)]

    server = Background(serve)
    asleep(server)
    closer = Background(handle.close)
    until(lambda: not closer.is_alive())
    until(lambda: connection.sock.fileno() == -1)
    port.post("end")
    assert sorted(server.result()) == ["end", "received"]
    assert type(operation.error) is unio.Cancelled
    raised = []
    try:
        closer.result()
    except LibraryError as error:
        raised.append(error)
    until(lambda: len(raised) + len(reported) == 1)
    assert far.recv(1) == b""
