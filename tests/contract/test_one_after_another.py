"""The clauses O1, L1, X1 and X3 where several operations of one direction are in flight: each ends as if it were alone.

Whoever attempts the first goes on with the next for a while. What happens between two of them is played here by what
the first has left: the program's own code runs when that is dropped.
"""

from __future__ import annotations

import socket
import statistics
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from platforms import WINDOWS
from scarcity import ALLOCATIONS, WHY_NOT, lacking
from support import (
    PATIENCE,
    Background,
    assert_cancelled,
    assert_idle,
    bare_wait,
    batch,
    completion,
    completions,
    connect,
    recv_exactly,
    recv_to_end,
)

import unio
from unio.backends.common.accelerator import has_fast_path

posix_only = pytest.mark.skipif(WINDOWS, reason="there, the kernel does what follows an operation by itself")
needs_c = pytest.mark.skipif(not has_fast_path, reason="without the part in C, all of it is Python")

COUNTS = [2, 15, 16, 17, 40]
"""How many are in flight: below, at and above what is attempted in one go."""

LONG = 6000
"""More than may be done before anything else has its turn."""


def submit_all(port: unio.Port, operations: list[Any]) -> None:
    """Submit as a thread that waits, whose submissions may be gathered."""
    assert port.wait(0) == []
    for operation in operations:
        port.submit(operation)


@pytest.mark.clause("O1", "O2")
@pytest.mark.parametrize("before", [False, True], ids=["connected later", "connected before"])
@pytest.mark.parametrize("count", COUNTS)
def test_each_of_several_accepts_has_a_connection_of_its_own(
    port: unio.Port, make_listener: Any, resources: Any, count: int, *, before: bool
) -> None:
    listening = make_listener()
    accepts = [unio.Accept(handle) for handle in [port.associate(listening)] * count]
    clients = [resources.enter_context(connect(listening)) for _ in range(count)] if before else []
    submit_all(port, accepts)
    clients += [resources.enter_context(connect(listening)) for _ in range(count - len(clients))]
    assert [each.operation for each in completions(port, count)] == accepts
    for accept in accepts:
        resources.enter_context(accept.socket)
    assert sorted(accept.address for accept in accepts) == sorted(client.getsockname() for client in clients)
    assert all(accept.address == accept.socket.getpeername() for accept in accepts)
    assert {accept.error for accept in accepts} == {None}
    assert_idle(port)


@pytest.mark.clause("O4")
@pytest.mark.parametrize("count", COUNTS)
def test_several_receives_are_filled_in_their_order(port: unio.Port, make_pair: Any, count: int) -> None:
    near, far = make_pair()
    receives = [unio.Recv(handle, bytearray(3)) for handle in [port.associate(near)] * count]
    submit_all(port, receives)
    data = b"".join(b"%03d" % number for number in range(count))
    far.sendall(data)
    found = completions(port, count)
    assert [each.operation for each in found] == receives
    if all(each.transferred == 3 for each in found):
        assert b"".join(bytes(receive.data) for receive in receives) == data


@pytest.mark.clause("O5", "O6")
@pytest.mark.parametrize("size", [1, 1000, 200_000])
@pytest.mark.parametrize("count", COUNTS)
def test_several_sends_leave_whole_and_in_their_order(port: unio.Port, make_pair: Any, count: int, size: int) -> None:
    near, far = make_pair()
    near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)
    sends = [
        unio.Send(handle, bytes([65 + number]) * size) for number, handle in enumerate([port.associate(near)] * count)
    ]
    reader = Background(recv_exactly, far, count * size)
    submit_all(port, sends)
    found = completions(port, count)
    assert [(each.operation, each.transferred) for each in found] == [(send, size) for send in sends]
    assert reader.result() == b"".join(bytes([65 + number]) * size for number in range(count))


def python_calls(function: Callable[[], object]) -> int:
    """How many functions of Python's are called: what C goes on with by itself takes none."""
    count = 0

    def watch(_frame: object, event: str, _argument: object) -> None:
        nonlocal count
        count += event == "call"

    sys.setprofile(watch)
    try:
        function()
    finally:
        sys.setprofile(None)
    return count


@needs_c
@posix_only
@pytest.mark.clause("L2")
@pytest.mark.parametrize("kind", ["accept", "recv", "send"])
def test_what_follows_in_a_direction_needs_no_python_either(
    port: unio.Port, make_listener: Any, make_pair: Any, resources: Any, kind: str
) -> None:
    def once(count: int) -> int:
        near, far = make_pair()
        listening = make_listener()
        handle = port.associate(listening if kind == "accept" else near)
        assert_idle(port)
        operations: list[unio.Operation]
        wait = bare_wait(port)
        if kind == "accept":
            clients = [resources.enter_context(connect(listening)) for _ in range(count)]
            operations = [unio.Accept(handle) for _ in clients]
        elif kind == "recv":
            far.sendall(bytes(count))
            operations = [unio.Recv(handle, bytearray(1)) for _ in range(count)]
        else:
            operations = [unio.Send(handle, b"x") for _ in range(count)]

        def go(wait: Callable[..., list[unio.Completion]]) -> None:
            for operation in operations:
                port.submit(operation)
            got = 0
            while got < count:
                got += len(wait(None))

        taken = python_calls(lambda: go(wait))
        for operation in operations:
            assert operation.error is None
            if isinstance(operation, unio.Accept):
                resources.enter_context(operation.socket)
        handle.close()
        return taken

    # The usual number: now and then the port looks after other things.
    few, many = (statistics.median(once(count) for _ in range(9)) for count in (1, 15))
    assert many == few


@posix_only
@pytest.mark.clause("L1")
def test_a_long_row_of_receives_is_broken_off_for_what_comes_after_it_has_begun(
    port: unio.Port, make_pair: Any
) -> None:
    (busy, busy_far), (quiet, quiet_far) = make_pair(), make_pair()
    handle = port.associate(busy, "busy")
    late = unio.Recv(port.associate(quiet, "quiet"), bytearray(1))
    submit_all(port, [late, *[unio.Recv(handle, bytearray(1)) for _ in range(LONG)]])
    busy_far.sendall(bytes(LONG))
    found = batch(port, 2 * LONG)
    assert len(found) < LONG / 2, "the rest is left for later"
    quiet_far.send(b"x")
    while not any(each.operation is late for each in found):
        found += batch(port, 2 * LONG)
    assert len(found) < LONG
    found += completions(port, LONG + 1 - len(found))
    assert {(each.transferred, each.error) for each in found} == {(1, None)}


class Left:
    """What the program has put into an accept, in the place of the socket that it had: it ends when another comes."""

    def __init__(self, act: Callable[[], object]) -> None:
        self.act = act

    def __del__(self) -> None:
        self.act()


def several_accepts(
    port: unio.Port, listening: socket.socket, count: int, act: Callable[[list[unio.Accept]], object]
) -> Any:
    """Accepts in flight, between the first and the second of which *act* is called."""
    accepts = [unio.Accept(handle) for handle in [port.associate(listening)] * count]
    accepts[0].socket = Left(lambda: act(accepts))  # type: ignore[assignment]
    return accepts


@posix_only
@pytest.mark.clause("X3", "S1")
def test_a_handle_that_another_thread_closes_between_two_accepts_accepts_no_more(
    port: unio.Port, make_listener: Any, resources: Any
) -> None:
    listening = make_listener()
    accepts = several_accepts(port, listening, 5, lambda found: Background(found[0].handle.close).result())
    submit_all(port, accepts)
    for _ in range(5):
        resources.enter_context(connect(listening))
    found = completions(port, 5)
    assert {each.operation for each in found} == set(accepts)
    assert accepts[0].error is None
    for accept in accepts:
        if accept.error is None:
            accept.socket.close()
    assert sum(accept.error is None for accept in accepts) <= 2, "one that was being attempted may still succeed"
    assert listening.fileno() == -1
    assert_idle(port)


@posix_only
@pytest.mark.clause("X1", "X2")
def test_a_cancel_between_two_accepts_ends_the_one_that_it_means(
    port: unio.Port, make_listener: Any, resources: Any
) -> None:
    listening = make_listener()
    asked: list[bool] = []
    first, second, third = accepts = several_accepts(
        port, listening, 3, lambda found: asked.append(port.cancel(found[1]))
    )
    submit_all(port, accepts)
    resources.enter_context(connect(listening))
    found = completions(port, 2)
    resources.enter_context(first.socket)
    assert {each.operation for each in found} == {first, second}
    assert asked == [True]
    assert_cancelled(next(each for each in found if each.operation is second))
    assert third.in_flight
    client = resources.enter_context(connect(listening))
    assert completion(port)[1:] == (third, 0, None)
    assert third.address == client.getsockname()
    resources.enter_context(third.socket)


@posix_only
@pytest.mark.clause("S1", "O1")
def test_an_accept_that_was_submitted_between_two_comes_behind_them(
    port: unio.Port, make_listener: Any, resources: Any
) -> None:
    listening = make_listener()
    added: list[unio.Accept] = []

    def add(found: list[unio.Accept]) -> None:
        added.append(unio.Accept(found[0].handle))
        port.submit(added[0])

    accepts = several_accepts(port, listening, 2, add)
    submit_all(port, accepts)
    clients = [resources.enter_context(connect(listening)) for _ in range(3)]
    assert [each.operation for each in completions(port, 3)] == [*accepts, *added]
    for accept, client in zip([*accepts, *added], clients, strict=True):
        assert resources.enter_context(accept.socket).getpeername() == client.getsockname()


SKIPPING = """
import socket, sys, unio

second = None


def hear(event, arguments):
    global second
    if event == "socket.__new__" and handle is not None and second is None:
        second = unio.Accept(handle)
        assert not port.submit(second)


handle = None
sys.addaudithook(hear)
with unio.Port(backend=sys.argv[1]) as port, socket.create_server(("127.0.0.1", 0)) as listening:
    port.wait(0)
    clients = [socket.create_connection(listening.getsockname()) for _ in range(2)]
    handle = port.associate(listening, skip_on_success=True)
    first = unio.Accept(handle)
    assert port.submit(first), "it has succeeded within submit"
    found = port.wait(60)
    assert [each.operation for each in found] == [second], found
    for accept in (first, second):
        accept.socket.close()
    for client in clients:
        client.close()
"""
"""An operation is submitted while the one before it is attempted: when its socket is made, the program hears of it."""


@posix_only
@pytest.mark.clause("S4")
def test_what_is_behind_an_operation_that_need_not_be_queued_is_queued(backend: str) -> None:
    subprocess.run([sys.executable, "-c", SKIPPING, backend], check=True, timeout=PATIENCE)


# Where memory is lacking


needs_scarcity = pytest.mark.skipif(bool(WHY_NOT) or WINDOWS, reason=WHY_NOT or "there, the kernel does what follows")
SEVERAL = 4


@needs_scarcity
@pytest.mark.skipif(not has_fast_path, reason="Python's own accept loses a descriptor that it has no memory to tell of")
@pytest.mark.clause("S1", "S11")
def test_no_connection_is_lost_where_memory_lacks_between_two_accepts(backend: str, make_listener: Any) -> None:
    for number in range(ALLOCATIONS):
        with unio.Port(backend=backend) as port:
            listening = make_listener()
            handle = port.associate(listening)
            accepts = [unio.Accept(handle) for _ in range(SEVERAL)]
            submit_all(port, accepts)
            clients = {client.getsockname(): client for client in [connect(listening) for _ in accepts]}
            got = lacking(number, bare_wait(port), 0)
            found = [] if isinstance(got, MemoryError) else got
            found += completions(port, SEVERAL - len(found))
            assert sorted(map(id, accepts)) == sorted(id(each.operation) for each in found)
            assert {accept.error for accept in accepts} == {None}
            for accept in accepts:
                with accept.socket as near, clients.pop(accept.address) as client:
                    client.sendall(b"x")
                    near.setblocking(True)
                    assert near.recv(1) == b"x"
            assert not clients
            assert_idle(port)


@needs_scarcity
@pytest.mark.clause("S1", "S11")
@pytest.mark.parametrize("kind", ["recv", "send"])
def test_no_byte_is_lost_or_doubled_where_memory_lacks_between_two_operations(
    backend: str, make_pair: Any, kind: str
) -> None:
    data = b"".join(b"%03d" % number for number in range(SEVERAL))
    for number in range(ALLOCATIONS):
        with unio.Port(backend=backend) as port:
            near, far = make_pair(local=True)
            handle = port.associate(near)
            operations: list[unio.Recv] | list[unio.Send]
            if kind == "recv":
                operations = [unio.Recv(handle, bytearray(3)) for _ in range(SEVERAL)]
            else:
                operations = [unio.Send(handle, data[3 * place : 3 * place + 3]) for place in range(SEVERAL)]
            submit_all(port, list(operations))
            if kind == "recv":
                far.sendall(data)
            got = lacking(number, bare_wait(port), 0)
            found = [] if isinstance(got, MemoryError) else got
            found += completions(port, SEVERAL - len(found))
            assert [each.operation for each in found] == operations
            moved = [
                each for each in operations if each.transferred
            ]  # in Python alone, one may fail for want of memory
            assert {(each.transferred, each.error) for each in moved} == {(3, None)}
            assert len(moved) >= SEVERAL - (not has_fast_path)
            handle.close()
            there = data[: 3 * len(moved)] if kind == "recv" else recv_to_end(far)
            assert b"".join(bytes(each.buffer) for each in moved) == there  # type: ignore[arg-type]
            assert_idle(port)
