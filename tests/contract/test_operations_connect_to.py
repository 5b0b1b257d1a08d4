"""ConnectTo: connecting by name, with one completion whatever it takes."""

from __future__ import annotations

import contextlib
import errno
import gc
import socket
import sys
import warnings
import weakref
from typing import Any

import pytest
from resolvers import Resolver, address_of
from support import (
    Background,
    asleep,
    assert_cancelled,
    assert_idle,
    assert_nothing_comes,
    completion,
    full_listener,
    in_threads,
    listener,
    run,
    succeed,
    until,
)

import unio

NAME = "name.example"


def nobody(resources: contextlib.ExitStack) -> Any:
    """An address, as a lookup gives it, at which nobody listens."""
    bound = resources.enter_context(socket.socket())
    bound.bind(("127.0.0.1", 0))
    return address_of(bound)


def pends(resources: contextlib.ExitStack) -> Any:
    """One that doesn't answer."""
    return (socket.AF_INET, socket.SOCK_STREAM, 0, "", full_listener(resources))


@pytest.fixture
def server(resources: contextlib.ExitStack) -> socket.socket:
    return resources.enter_context(listener())


@pytest.mark.clause("O16", "C1")
@pytest.mark.parametrize("host", ["localhost", b"localhost", "127.0.0.1"])
def test_it_brings_a_connection_of_the_port_with_the_operations_key(
    port: unio.Port, server: socket.socket, host: Any
) -> None:
    key, state = object(), object()
    connect = unio.ConnectTo(host, server.getsockname()[1], key, state=state, family=socket.AF_INET)
    assert run(port, connect) == (key, connect, 0, None)
    assert connect.state is state
    assert connect.handle is None
    handle = connect.connection
    assert handle is not None
    assert handle.key is key
    peer, address = server.accept()
    with peer:
        assert handle.socket is not None
        assert address == handle.socket.getsockname()
        assert connect.address == server.getsockname()
        peer.sendall(b"data")
        recv = unio.Recv(handle)
        assert run(port, recv) == (key, recv, 4, None)
        assert run(port, unio.Send(handle, b"back")).transferred == 4
        assert peer.recv(10) == b"back"
    handle.close()
    assert_idle(port)


@pytest.mark.process_wide
@pytest.mark.clause("O16")
def test_where_the_first_address_does_not_answer_the_next_is_tried_beside_it(
    port: unio.Port, server: socket.socket, resources: contextlib.ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolver = Resolver(monkeypatch, [pends(resources), address_of(server)])
    connect = unio.ConnectTo(NAME, 80, "key")
    succeed(port, connect)
    assert connect.address == server.getsockname()
    assert resolver.asked[0][3] == socket.SOCK_STREAM
    assert connect.connection is not None
    connect.connection.close()
    assert_nothing_comes(port, 0.02)  # of what was tried besides


@pytest.mark.process_wide
@pytest.mark.clause("O16")
def test_where_an_address_refuses_the_next_is_tried(
    port: unio.Port, server: socket.socket, resources: contextlib.ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusing = [nobody(resources) for _ in range(3)]
    Resolver(monkeypatch, [*refusing, (socket.AF_INET, 12345, 0, "", ("127.0.0.1", 1)), address_of(server)])
    connect = unio.ConnectTo(NAME, 80)
    for _ in range(2):
        succeed(port, connect)
        assert connect.connection is not None
        connect.connection.close()
    assert_idle(port)


@pytest.mark.process_wide
@pytest.mark.clause("O16", "C2")
def test_where_none_answers_one_error_lists_what_each_said(
    port: unio.Port, resources: contextlib.ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusing = [nobody(resources) for _ in range(3)]
    Resolver(monkeypatch, refusing)
    connect = unio.ConnectTo(NAME, 80)
    error = run(port, connect).error
    assert isinstance(error, ConnectionRefusedError)
    for each in refusing:
        assert str(each[4]) in str(error)
    assert NAME in str(error)
    assert connect.connection is None
    assert_idle(port)


@pytest.mark.process_wide
@pytest.mark.clause("O16", "C2")
def test_without_an_address_the_error_is_that_of_the_lookup(port: unio.Port, monkeypatch: pytest.MonkeyPatch) -> None:
    error = run(port, unio.ConnectTo("127.0.0.1", 80, family=socket.AF_INET6)).error
    assert type(error) is socket.gaierror
    Resolver(monkeypatch, [])
    error = run(port, unio.ConnectTo(NAME, 80)).error
    assert error is not None
    assert error.errno == errno.EADDRNOTAVAIL


@pytest.mark.process_wide
@pytest.mark.clause("O16", "X1", "S8")
@pytest.mark.parametrize("how", ["cancel", "time-out"])
@pytest.mark.parametrize("stage", ["looking up", "connecting", "two beside each other"])
def test_it_ends_at_once_where_it_is_ended_and_leaves_nothing_open(
    port: unio.Port, resources: contextlib.ExitStack, monkeypatch: pytest.MonkeyPatch, how: str, stage: str
) -> None:
    resolver = Resolver(monkeypatch, [pends(resources), pends(resources)], hangs=stage == "looking up")
    connect = unio.ConnectTo(NAME, 80)
    port.submit(connect, {"cancel": None, "time-out": 0.6 if "two" in stage else 0.02}[how])
    until(lambda: resolver.asked)
    if how == "cancel":
        assert port.wait(0.3 if "two" in stage else 0.02) == []
        assert port.cancel(connect)
        assert not port.cancel(connect)
    found = completion(port)
    assert found.operation is connect
    assert type(found.error) is (TimeoutError if how == "time-out" else unio.Cancelled)
    assert connect.connection is None
    resolver.go()
    assert_nothing_comes(port, 0.02)


@pytest.mark.process_wide
@pytest.mark.clause("O16", "P7")
def test_closing_the_port_ends_it_and_closes_its_sockets(
    backend: str, resources: contextlib.ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    Resolver(monkeypatch, [pends(resources), pends(resources)])
    connect = unio.ConnectTo(NAME, 80)
    with unio.Port(backend=backend) as port:
        port.submit(connect)
        assert port.wait(0.3) == []
        assert connect.in_flight
    assert not connect.in_flight
    assert connect.connection is None


@pytest.mark.process_wide
@pytest.mark.clause("O16", "P11")
def test_a_port_that_is_dropped_says_that_one_operation_was_in_flight(
    backend: str, resources: contextlib.ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    Resolver(monkeypatch, [pends(resources), pends(resources)])
    connect = unio.ConnectTo(NAME, 80)
    port = unio.Port(backend=backend)
    port.submit(connect)
    assert port.wait(0.02) == []
    gone = weakref.ref(port)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        del port
        gc.collect()
    assert [str(each.message) for each in said if "with 1 operations in flight" in str(each.message)]
    said.clear()  # a warning has its source
    assert gone() is None
    assert not connect.in_flight


@pytest.mark.clause("O16", "S1", "X1")
def test_a_cancel_that_races_the_connection_leaves_one_of_the_two(port: unio.Port, server: socket.socket) -> None:
    connect = unio.ConnectTo("127.0.0.1", server.getsockname()[1])
    ends = set()
    for number in range(60):
        port.submit(connect)
        found = port.wait(0) if number % 3 else []
        if not found:
            port.cancel(connect)
            found = [completion(port)]
        [each] = found
        ends.add(type(each.error))
        if each.error is None:
            assert connect.connection is not None
            connect.connection.close()
        else:
            assert_cancelled(each)
            assert connect.connection is None
    assert_nothing_comes(port, 0.02)
    assert unio.Cancelled in ends


@pytest.mark.clause("O16", "P2", "S1")
def test_many_at_once_among_threads_that_wait_complete_once_each(port: unio.Port, server: socket.socket) -> None:
    connects = [unio.ConnectTo("localhost", server.getsockname()[1], family=socket.AF_INET) for _ in range(30)]

    def take(_: int) -> list[unio.Completion]:
        taken: list[unio.Completion] = []
        while True:
            for each in port.wait(limit=1):
                if each.key == "over":
                    return taken
                taken.append(each)

    threads = [Background(take, number) for number in range(3)]
    in_threads(3, lambda number: [port.submit(each) for each in connects[number::3]])
    until(lambda: not any(each.in_flight for each in connects))
    for _ in threads:
        port.post("over")
    taken = [each for thread in threads for each in thread.result()]
    assert {id(each.operation) for each in taken} == {id(each) for each in connects}
    assert len(taken) == len(connects)
    for each in connects:
        assert each.error is None
        assert each.connection is not None
        each.connection.close()


@pytest.mark.process_wide
@pytest.mark.clause("O16", "P3")
def test_the_thread_that_sleeps_in_the_kernel_goes_on_with_it_whoever_ends_a_step(
    port: unio.Port, server: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The name is found by another thread, while all that wait are asleep."""
    resolver = Resolver(monkeypatch, [address_of(server)], hangs=True)
    waiting = [Background(port.wait, None, 1) for _ in range(3)]
    connect = unio.ConnectTo(NAME, 80)
    port.submit(connect)
    until(lambda: resolver.asked)
    for thread in waiting:
        asleep(thread)
    resolver.go()
    until(lambda: not connect.in_flight)
    for _ in waiting[1:]:
        port.post("over")
    taken = [each for thread in waiting for each in thread.result()]
    assert sorted(str(each.key) for each in taken) == ["None", "over", "over"]
    assert connect.error is None
    assert connect.connection is not None
    connect.connection.close()


@pytest.mark.skipif(not socket.has_ipv6 or sys.platform == "win32", reason="needs IPv6 on the loopback interface")
@pytest.mark.process_wide
@pytest.mark.clause("O16")
def test_the_families_take_turns(
    port: unio.Port, server: socket.socket, resources: contextlib.ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    six = (socket.AF_INET6, socket.SOCK_STREAM, 0, "", ("::1", 1, 0, 0))
    first, second = nobody(resources), nobody(resources)
    Resolver(monkeypatch, [first, second, six])
    text = str(run(port, unio.ConnectTo(NAME, 80)).error)
    assert text.index(str(first[4])) < text.index("::1") < text.index(str(second[4]))
