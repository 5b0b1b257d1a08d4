"""What a thread that waits has submitted may be gathered; whatever could make a difference to it starts it first."""

from __future__ import annotations

import contextlib
import itertools
import os
import queue
import socket
import threading
from collections.abc import Callable
from typing import Any

import pytest
from platforms import WINDOWS
from support import (
    PATIENCE,
    Background,
    Stepped,
    asleep,
    assert_cancelled,
    assert_idle,
    batch,
    completion,
    completions,
    connect,
    inside_wait,
    listener,
    recv_exactly,
)

import unio


def this_thread_waits(port: unio.Port) -> None:
    port.post("this thread waits")
    assert completion(port).key == "this thread waits"


def cancel_another(port: unio.Port, handle: unio.Handle) -> None:
    port.cancel(unio.Recv(handle, bytearray(1)))


def cancel_all_of_a_handle(_: unio.Port, handle: unio.Handle) -> None:
    handle.cancel()


def block(port: unio.Port, _: unio.Handle) -> None:
    with port.blocking():
        pass


STARTS: list[Callable[[unio.Port, unio.Handle], object]] = [cancel_another, cancel_all_of_a_handle, block]


@pytest.mark.clause("S9")
@pytest.mark.parametrize("start", STARTS, ids=lambda start: start.__name__)
def test_what_was_gathered_is_started_by(
    port: unio.Port, make_pair: Any, start: Callable[[unio.Port, unio.Handle], object]
) -> None:
    near, far = make_pair()
    handle = port.associate(near)
    this_thread_waits(port)
    send = unio.Send(handle, b"data")
    port.submit(send)
    start(port, handle)
    assert recv_exactly(far, 4) == b"data"
    assert completion(port)[1:] == (send, 4, None)


@pytest.mark.clause("S9", "X3")
def test_a_close_comes_after_the_sends_that_were_submitted_before_it(port: unio.Port, make_pair: Any) -> None:
    near, far = make_pair()
    handle = port.associate(near)
    this_thread_waits(port)
    port.submit(unio.Send(handle, b"the last words"))
    handle.close()
    assert recv_exactly(far, 14) == b"the last words"
    assert far.recv(1) == b""
    assert completion(port).error is None


@pytest.mark.clause("S9", "P5")
def test_a_thread_that_ends_or_goes_to_another_port_leaves_nothing_unstarted(
    port: unio.Port, make_port: Callable[[], unio.Port], make_pair: Any
) -> None:
    near, far = make_pair()
    handle = port.associate(near)
    other = make_port()

    def end(send: unio.Send) -> None:
        this_thread_waits(port)
        port.submit(send)

    def go(send: unio.Send) -> None:
        end(send)
        other.wait(0)

    for leave in (end, go):
        Background(leave, unio.Send(handle, leave.__name__.encode())).result()
        assert recv_exactly(far, len(leave.__name__)) == leave.__name__.encode()
        assert completion(port).error is None


@pytest.mark.clause("S9", "P2")
def test_what_one_thread_gathered_another_may_start(port: unio.Port, make_pair: Any) -> None:
    near, far = make_pair()
    handle = port.associate(near)
    gathered, go_on = threading.Event(), threading.Event()

    def submit() -> None:
        this_thread_waits(port)
        port.submit(unio.Send(handle, b"data"))
        gathered.set()
        assert go_on.wait(PATIENCE)

    submitting = Background(submit)
    assert gathered.wait(PATIENCE)
    assert completion(port).error is None
    assert recv_exactly(far, 4) == b"data"
    go_on.set()
    submitting.result()


@pytest.mark.clause("S9", "O5")
def test_many_are_gathered_and_keep_their_order(port: unio.Port, make_pair: Any) -> None:
    pairs = [make_pair() for _ in range(20)]
    handles = [port.associate(near) for near, _ in pairs]
    this_thread_waits(port)
    for number in range(40):
        for handle in handles:
            port.submit(unio.Send(handle, bytes([number])))
    found = completions(port, 800)
    assert all(each.error is None for each in found)
    assert [each[1].buffer for each in found if each.operation.handle is handles[0]] == [bytes([n]) for n in range(40)]
    for _, far in pairs:
        assert recv_exactly(far, 40) == bytes(range(40))


@pytest.mark.clause("S9", "A3", "X3")
def test_what_was_gathered_never_touches_a_number_that_was_closed_and_reused(port: unio.Port, make_pair: Any) -> None:
    near, far = make_pair()
    handle = port.associate(near)
    this_thread_waits(port)
    send, number = unio.Send(handle, b"for nobody else"), near.fileno()
    port.submit(send)
    near.close()
    with contextlib.ExitStack() as stack:
        successors = [stack.enter_context(each) for _ in range(4) for each in socket.socketpair()]
        reused = [each for each in successors if each.fileno() == number]
        found = completion(port)
        assert found.operation is send
        if found.error is not None:  # or else it was started at once
            assert_cancelled(found)
        if os.name == "posix":
            assert reused
        for each in successors:
            each.setblocking(False)
            with pytest.raises(BlockingIOError):
                each.recv(1)
    assert far.recv(100) in (b"", b"for nobody else")


@pytest.mark.clause("S9", "P7")
def test_closing_the_port_ends_what_was_gathered(port: unio.Port, make_pair: Any) -> None:
    near, _ = make_pair()
    send = unio.Send(port.associate(near), b"data")
    this_thread_waits(port)
    port.submit(send)
    port.close()
    assert not send.in_flight


@pytest.mark.clause("S9", "S2")
def test_a_thread_that_submits_while_another_sleeps_in_the_kernel_does_not_need_it(
    port: unio.Port, make_pair: Any
) -> None:
    near, far = make_pair()
    handle = port.associate(near)
    this_thread_waits(port)
    sleeping = Background(port.wait)
    inside_wait(sleeping)
    port.submit(unio.Send(handle, b"data"))
    port.start_gathered()
    assert recv_exactly(far, 4) == b"data"
    assert [each.error for each in sleeping.result()] == [None]
    assert_idle(port)


def asleep_on(port: unio.Port, count: int) -> list[Background[list[unio.Completion]]]:
    """Threads that have gone to sleep in a wait for one completion each; one of them leads, the others are parked."""
    threads = []
    for _ in range(count):
        threads.append(Background(batch, port, 1))
        asleep(threads[-1])
    return threads


@pytest.mark.clause("S9", "P2")
@pytest.mark.parametrize("sleepers", [1, 3])
def test_what_a_flush_completes_goes_to_those_that_sleep(
    backend: str, resources: contextlib.ExitStack, make_pair: Any, sleepers: int
) -> None:
    port = resources.enter_context(unio.Port(backend=backend, concurrency=sleepers + 1))
    handles = [port.associate(make_pair()[0]) for _ in range(sleepers)]
    this_thread_waits(port)
    sleeping = asleep_on(port, sleepers)
    for handle in handles:
        port.submit(unio.Send(handle, b"data"))
    port.start_gathered()  # and this thread runs on
    assert [[each.error for each in thread.result()] for thread in sleeping] == [[None]] * sleepers


@pytest.mark.clause("S9", "P2")
def test_what_a_wait_completes_and_leaves_goes_to_one_that_sleeps(
    backend: str, resources: contextlib.ExitStack, make_pair: Any
) -> None:
    port = resources.enter_context(unio.Port(backend=backend, concurrency=2))
    sends = [unio.Send(port.associate(make_pair()[0]), b"data") for _ in range(2)]
    this_thread_waits(port)
    (sleeping,) = asleep_on(port, 1)
    for send in sends:
        port.submit(send)
    found = [completion(port), *sleeping.result()]  # and this thread runs on in between
    assert {each.operation for each in found} == set(sends)


@pytest.mark.clause("A3", "S1")
def test_what_is_behind_a_receive_that_has_ended_ends_where_the_socket_was_closed_meanwhile(
    port: unio.Port, make_pair: Any
) -> None:
    near, far = make_pair()
    handle = port.associate(near)
    receives = [unio.Recv(handle) for _ in range(2)]
    assert_idle(port)
    for recv in receives:
        port.submit(recv)
        assert_idle(port)
    far.send(b"x")
    near.close()
    found = completions(port, 2)
    assert [each.operation for each in found] == receives
    assert found[1].error is not None


# Threads and finalizers that come in the middle


class Meeting:
    """A thread that submits what it is given and then does not come back to its port, until it is given more."""

    def __init__(self, port: unio.Port) -> None:
        self.port = port
        self.given: queue.SimpleQueue[unio.Operation | None] = queue.SimpleQueue()
        self.begun, self.over = threading.Event(), threading.Event()
        self.thread = Background(self._submit)

    def _submit(self) -> None:
        this_thread_waits(self.port)
        while (operation := self.given.get()) is not None:
            self.begun.set()
            self.port.submit(operation)
            self.over.set()

    def submits(self, operation: unio.Operation) -> None:
        """Have it submit an operation; returns when it is about to."""
        self.begun.clear()
        self.over.clear()
        self.given.put(operation)
        assert self.begun.wait(PATIENCE)

    def end(self) -> None:
        self.given.put(None)
        self.thread.result()


def has_ended(operation: unio.Operation) -> bool:
    """Whether an operation is idle, or its completion can be taken; Windows may tell of that in the next wait."""
    return WINDOWS or "pending" not in repr(operation)


@pytest.mark.clause("S9", "X1")
def test_a_cancel_that_meets_a_submit_ends_the_operation_though_its_thread_does_not_wait(
    port: unio.Port, make_pair: Any
) -> None:
    meeting = Meeting(port)
    this_thread_waits(port)
    for _ in range(200):
        recv = unio.Recv(port.associate(make_pair()[0]))
        meeting.submits(recv)
        while not port.cancel(recv):  # until it is in flight, and not a moment later
            pass
        assert meeting.over.wait(PATIENCE)
        assert has_ended(recv)
        assert_cancelled(completion(port))
        recv.handle.close()
    meeting.end()


@pytest.mark.clause("S9", "X3")
def test_a_close_that_meets_a_submit_ends_the_operation_though_its_thread_does_not_wait(
    port: unio.Port, make_pair: Any
) -> None:
    meeting = Meeting(port)
    this_thread_waits(port)
    for line in itertools.count(1):
        handle = port.associate(make_pair()[0])
        recv, send = unio.Recv(handle), unio.Send(handle, b"data")
        port.submit(recv)
        closing = Stepped(line, handle.close)
        reached = closing.reached()
        if reached:
            meeting.submits(send)
            meeting.over.wait(0.1)  # or a lock keeps it from that
        closing.go()
        closing.result()
        assert not reached or meeting.over.wait(PATIENCE)
        assert has_ended(send)
        found = completions(port, 1 + send.in_flight)
        assert {each.operation for each in found} <= {recv, send}
        assert not recv.in_flight
        assert not send.in_flight
        if not reached:
            break
    meeting.end()


class Dropped(socket.socket):
    """A socket that calls a function when it is dropped."""

    when_dropped: Callable[[], object]

    def __del__(self) -> None:
        self.when_dropped()
        self.close()


def accept_that_drops(handle: unio.Handle, when_dropped: Callable[[], object]) -> unio.Accept:
    """An accept that drops a socket when it has another one, which is there already."""
    accept = unio.Accept(handle)
    accept.socket = Dropped()
    accept.socket.when_dropped = when_dropped
    return accept


@pytest.mark.clause("S9", "P5")
def test_a_finalizer_may_go_to_another_port_while_what_was_gathered_is_started(
    port: unio.Port, make_port: Callable[[], unio.Port]
) -> None:
    other = make_port()
    seen: list[list[unio.Completion]] = []
    with listener() as listening, connect(listening):
        handle = port.associate(listening)
        this_thread_waits(port)
        port.submit(accept_that_drops(handle, lambda: seen.append(other.wait(0))))
        found = completion(port)
        assert found.error is None
        found.operation.socket.close()
    assert seen == [[]]
    assert_idle(port)


@pytest.mark.clause("S9")
def test_a_finalizer_may_submit_while_more_than_can_be_gathered_is_started(port: unio.Port, make_pair: Any) -> None:
    handles = [port.associate(make_pair()[0]) for _ in range(300)]
    with listener() as listening, connect(listening):
        handle = port.associate(listening)
        this_thread_waits(port)
        recvs = [unio.Recv(each) for each in handles]
        accept = accept_that_drops(handle, lambda: [port.submit(each) for each in recvs[256:]])
        gathered, go_on = threading.Event(), threading.Event()

        def gather() -> None:
            this_thread_waits(port)
            port.submit(accept)
            gathered.set()
            assert go_on.wait(PATIENCE)

        another = Background(gather)
        assert gathered.wait(PATIENCE)
        for each in recvs[:256]:  # with the last of them all is started, the accept of the other thread first
            port.submit(each)
        found = completion(port)
        assert found.error is None
        found.operation.socket.close()
        assert all(each.in_flight for each in recvs)
        for each in recvs:
            port.cancel(each)
        for each in completions(port, len(recvs)):
            assert_cancelled(each)
        go_on.set()
        another.result()
