"""The clauses P of the contract: a port that is closed, and one that is dropped."""

from __future__ import annotations

import contextlib
import gc
import os
import socket
import threading
import warnings
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import channels
import pytest
from support import (
    PATIENCE,
    Background,
    connect,
    in_threads,
    inside_wait,
    recv_exactly,
    succeed,
)

import unio

# Clause P7: closing


@pytest.mark.clause("P7")
@pytest.mark.parametrize("count", [1, 2, 8])
def test_closing_wakes_every_waiter_with_one_clear_error(port: unio.Port, count: int) -> None:
    waiters = [Background(port.wait) for _ in range(count)]
    for waiter in waiters:
        inside_wait(waiter)
    port.close()
    for waiter in waiters:
        with pytest.raises(unio.PortClosed):
            waiter.result()


@pytest.mark.clause("P7")
def test_closing_races_waiters_that_come_and_go(backend: str, resources: contextlib.ExitStack) -> None:
    for _ in range(8):
        port, took = unio.Port(backend=backend), threading.Event()

        def wait(port: unio.Port = port, took: threading.Event = took) -> None:
            if port.wait(0.001):
                took.set()

        waiters = [Background(forever, wait) for _ in range(3)]
        posters = [Background(forever, port.post, "packet") for _ in range(2)]
        submitters = [Background(forever, lambda port=port: port.submit(unio.Timer(0))) for _ in range(2)]
        assert took.wait(PATIENCE)
        port.close()
        for thread in waiters + posters + submitters:
            with pytest.raises(unio.PortClosed):
                thread.result()


def forever(function: Callable[..., object], *arguments: Any) -> None:
    while True:
        function(*arguments)


@pytest.mark.clause("P7")
def test_every_later_call_raises_the_same_error(port: unio.Port, make_pair: Any) -> None:
    near, far = make_pair()
    handle = port.associate(near)
    operation = unio.Recv(handle, bytearray(1))
    port.post("dropped")
    port.close()
    calls: list[Callable[[], object]] = [
        port.wait,
        lambda: port.wait(0),
        lambda: port.wait(0.01, 1),
        lambda: port.post("late"),
        lambda: port.submit(operation),
        lambda: port.submit(unio.Timer(0)),
        lambda: port.cancel(operation),
        lambda: port.associate(far),
        port.start_gathered,
        handle.cancel,
    ]
    for call in calls:
        for _ in range(2):
            with pytest.raises(unio.PortClosed):
                call()
    assert port.closed
    assert far.gettimeout() == PATIENCE, "a refused association changes nothing"


@pytest.mark.clause("P7")
def test_closing_twice_does_nothing(port: unio.Port) -> None:
    assert not port.closed
    port.close()
    port.close()
    assert port.closed
    in_threads(4, lambda _: port.close())


@pytest.mark.clause("P7")
def test_a_with_block_can_not_be_entered_with_a_closed_port(backend: str) -> None:
    port = unio.Port(backend=backend)
    with port:
        pass
    with pytest.raises(unio.PortClosed), port:
        pytest.fail("the block was entered")


@pytest.mark.clause("P7")
def test_the_end_of_a_with_block_closes(backend: str) -> None:
    with unio.Port(backend=backend) as port:
        assert not port.closed
    assert port.closed
    with pytest.raises(ZeroDivisionError), unio.Port(backend=backend) as port:
        raise ZeroDivisionError
    assert port.closed
    with pytest.raises(unio.PortClosed):
        port.post("late")


@pytest.mark.clause("P7")
def test_the_objects_of_a_closed_port_stay_open_and_its_operations_touch_them_no_more(
    port: unio.Port, make_pair: Any
) -> None:
    near, far = make_pair()
    handle = port.associate(near)
    buffer = bytearray(8)
    port.submit(unio.Recv(handle, buffer))
    port.close()
    far.send(b"data")
    near.settimeout(PATIENCE)
    assert recv_exactly(near, 4) == b"data"
    assert buffer == bytes(8)
    near.send(b"three")
    assert recv_exactly(far, 5) == b"three"


@pytest.mark.clause("P7", "S6")
def test_the_operations_of_a_closed_port_are_no_longer_in_flight(make_port: Any, make_pair: Any) -> None:
    port, other = make_port(), make_port()
    near, _ = make_pair(local=True)
    handle = port.associate(near)
    pending, due, sent = unio.Timer(3600), unio.Timer(0), unio.Send(handle, b"x")
    received = unio.Recv(handle, bytearray(1))
    for operation in (pending, due, sent, received):
        port.submit(operation, 3600)
    port.close()
    assert not any(operation.in_flight for operation in (pending, due, sent, received))
    pending.delay = 0
    for timer in (pending, due):
        succeed(other, timer)
    received.buffer = bytearray(2)


@pytest.mark.clause("P7")
def test_closing_cancels_a_pending_accept_and_loses_no_connection(
    port: unio.Port, make_listener: Any, resources: contextlib.ExitStack
) -> None:
    listening = make_listener()
    port.submit(unio.Accept(port.associate(listening)))
    port.close()
    client = resources.enter_context(connect(listening))
    listening.settimeout(PATIENCE)
    accepted, address = listening.accept()
    with accepted:
        assert address == client.getsockname()


@pytest.mark.clause("P7")
def test_closing_while_files_are_read_keeps_the_memory(
    backend: str, resources: contextlib.ExitStack, tmp_path: Path
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"content" * 100_000)
    for _ in range(20):
        with unio.open(path) as file, unio.Port(backend=backend) as port:
            handle = port.associate(file)
            for number in range(8):
                port.submit(unio.Read(handle, bytearray(700_000), number))
            del handle
        gc.collect()  # what is not kept is gone now, under the feet of whoever still writes into it


@pytest.mark.clause("P7")
def test_closing_lets_go_of_the_keys_and_the_operations(backend: str, make_pair: Any) -> None:
    near, _ = make_pair()

    class Key:
        pass

    key = Key()
    port = unio.Port(backend=backend)
    port.submit(unio.Recv(port.associate(near, key), bytearray(1), state=key))
    port.submit(unio.Timer(3600, key))
    port.post(key)
    port.close()
    gone = weakref.ref(key)
    del key
    gc.collect()
    assert gone() is None


# Clause P11: a port that is dropped


Start = Callable[[unio.Port, socket.socket, Path], None]


def start_recv(port: unio.Port, near: socket.socket, path: Path) -> None:
    port.submit(unio.Recv(port.associate(near), bytearray(8)))


def start_timer(port: unio.Port, near: socket.socket, path: Path) -> None:
    port.submit(unio.Timer(3600))


def start_recv_with_time_out(port: unio.Port, near: socket.socket, path: Path) -> None:
    port.submit(unio.Recv(port.associate(near), bytearray(8)), 3600)


def start_read(port: unio.Port, near: socket.socket, path: Path) -> None:
    with unio.open(path, "w+b") as file:
        handle = port.associate(os.dup(file.fileno()))
    port.submit(unio.Read(handle, bytearray(1 << 20), 0))


def start_send(port: unio.Port, near: socket.socket, path: Path) -> None:
    port.submit(unio.Send(port.associate(near), bytearray(1 << 26)))


@pytest.mark.clause("P11")
@pytest.mark.parametrize("by", ["its last user", "the garbage collection"])  # which empties weak references first
@pytest.mark.parametrize("start", [start_recv, start_timer, start_recv_with_time_out, start_send])
def test_a_port_dropped_with_operations_in_flight_warns(
    backend: str, make_pair: Any, tmp_path: Path, start: Start, by: str
) -> None:
    near, far = make_pair()
    port = unio.Port(backend=backend)
    start(port, near, tmp_path / "file")
    users: list[Any] = [port]
    if by == "the garbage collection":
        users.append(users)
    with pytest.warns(ResourceWarning, match="was dropped with 1 operations? in flight"):  # noqa: PT031
        del port, users
        gc.collect()
    near.settimeout(PATIENCE)
    far.send(b"data")
    assert recv_exactly(near, 4) == b"data", "the socket is the caller's, and nobody receives on it any more"


@pytest.mark.clause("P11", "S9")
@pytest.mark.parametrize("by", ["its last user", "the garbage collection"])
def test_what_a_dropped_port_was_gathering_is_in_flight_no_more(backend: str, make_pair: Any, by: str) -> None:
    near, _ = make_pair()
    port = unio.Port(backend=backend)
    handle = port.associate(near)
    port.post("this thread waits")
    port.wait(PATIENCE)
    operation = unio.Recv(handle)
    port.submit(operation)
    users: list[Any] = [port]
    if by == "the garbage collection":
        users.append(users)
    with pytest.warns(ResourceWarning, match="was dropped with 1 operations? in flight"):  # noqa: PT031
        del port, users
        gc.collect()
    assert not operation.in_flight


@pytest.mark.clause("P11")
def test_a_port_dropped_while_a_file_is_read_frees_nothing_too_early(
    backend: str, resources: contextlib.ExitStack, tmp_path: Path
) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(1 << 20))
    for _ in range(10):
        with unio.open(path) as file, warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)  # it is silent when the reads have ended already
            port = unio.Port(backend=backend)
            handle = port.associate(file)
            for _ in range(20):
                port.submit(unio.Read(handle, bytearray(1 << 20), 0))
            del port, handle
            gc.collect()


@pytest.mark.clause("P11")
def test_a_port_that_the_key_of_its_handle_leads_to_is_dropped_with_it(backend: str, make_pair: Any) -> None:
    class Server:
        def __init__(self, sock: socket.socket) -> None:
            self.port = unio.Port(backend=backend)
            self.handle = self.port.associate(sock, self)

    near, _ = make_pair()
    dropped = weakref.ref(Server(near).port)
    gc.collect()
    assert dropped() is None


@pytest.mark.clause("P11")
def test_a_port_dropped_with_nothing_in_flight_is_silent(backend: str, make_pair: Any) -> None:
    near, _ = make_pair()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        port = unio.Port(backend=backend)
        handle = port.associate(near)
        succeed(port, unio.Send(handle, b"x"))
        port.post("not an operation")
        del port, handle
        gc.collect()
        port = unio.Port(backend=backend)
        port.submit(unio.Timer(3600))
        port.close()
        del port
        gc.collect()


@pytest.mark.clause("P11")
def test_a_program_that_ends_with_operations_in_flight_ends_well(backend: str, tmp_path: Path) -> None:
    program = """
import socket, sys, threading, unio
port = unio.Port(backend=sys.argv[1])
near, far = socket.socketpair()
port.submit(unio.Recv(port.associate(near), bytearray(8)))
port.submit(unio.Timer(3600))
file = unio.open(sys.argv[2], "w+b")
handle = port.associate(file)
for number in range(50):
    port.submit(unio.Write(handle, bytes(100_000), number * 100_000))
threading.Thread(target=port.wait, args=(3600, 10**6), daemon=True).start()
print("end")
"""
    done = channels.run_program(program, backend, str(tmp_path / "file"))
    assert done.stdout == "end\n"


@pytest.mark.clause("P11")
def test_the_making_of_a_port_that_fails_leaves_nothing_behind(backend: str, resources: contextlib.ExitStack) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        wrong: Any
        for wrong in ({"backend": "no such"}, {"unknown": 1}):
            with pytest.raises((unio.BackendUnavailable, TypeError)):
                unio.Port(**wrong)
        gc.collect()
