"""The clauses S of the contract where memory is lacking: an operation is idle again, or it completes.

With each n in turn, the nth allocation of a call fails (scarcity).
"""

from __future__ import annotations

import contextlib
import socket
import sys
from collections import Counter
from collections.abc import Callable, Iterator

import pytest
from scarcity import ALLOCATIONS, WHY_NOT, lacking
from support import bare_wait, batch
from wine import wine_row

import unio
from unio.backends.common.locks import Lock

if WHY_NOT:
    pytest.skip(WHY_NOT, allow_module_level=True)


KINDS: dict[str, Callable[[unio.Handle], unio.Operation]] = {
    "recv": lambda handle: unio.Recv(handle, bytearray(10)),
    "own": unio.Recv,
    "several": lambda handle: unio.Recv(handle, [bytearray(5), bytearray(5)]),
    "gathered": lambda handle: unio.Send(handle, (b"hel", b"lo")),
    "empty": lambda handle: unio.Recv(handle, bytearray()),
    "send": lambda handle: unio.Send(handle, b"hello"),
    "timer": lambda _: unio.Timer(0),
    "poll": lambda handle: unio.Poll(handle, unio.Readiness.READABLE),
    "resolve": lambda _: unio.Resolve("127.0.0.1", 80),
    "connect to": lambda _: unio.ConnectTo("127.0.0.1", 1),
}

SEVERAL = [
    *(["recv"], ["recv"] * 3, ["empty", "recv"], ["own", "send"], ["timer", "recv"], ["poll", "recv"], ["send"]),
    *(["several", "recv"], ["gathered", "several"], ["poll", "poll"]),
    ["connect to", "recv"],
]


class World:
    """A port with a handle, and what was submitted to it and must complete."""

    def __init__(self, backend: str) -> None:
        self.port = unio.Port(backend=backend)
        self.near, self.far = socket.socketpair()
        self.handle = self.port.associate(self.near, "key")
        self.port.wait(0)  # so that this thread is one that waits
        self.must: list[unio.Operation] = []
        self.came: Counter[int] = Counter()

    def submit(self, *kinds: str) -> None:
        for kind in kinds:
            self.must.append(KINDS[kind](self.handle))
            self.port.submit(self.must[-1])

    def note(self, found: list[unio.Completion]) -> None:
        self.came.update(id(each.operation) for each in found)

    def finish(self) -> None:
        """See everything complete that must, and nothing twice."""
        for _ in range(2):
            with contextlib.suppress(OSError):  # it was closed
                self.far.send(b"x" * 100)
        self.note(self.port.wait(0))
        self.handle.close()
        while any(not self.came[id(each)] for each in self.must):
            self.note(batch(self.port))
        self.note(self.port.wait(0))
        assert {self.came[id(each)] for each in self.must} <= {1}
        assert not any(each.in_flight for each in self.must)


@contextlib.contextmanager
def world(backend: str) -> Iterator[World]:
    made = World(backend)
    with made.port, made.near, made.far:
        yield made


@pytest.mark.clause("S1", "S11")
@pytest.mark.parametrize("timeout", [None, 3600.0])
@pytest.mark.parametrize("kind", KINDS)
def test_a_submit_that_finds_no_memory_leaves_an_operation_that_is_idle_or_completes(
    backend: str, kind: str, timeout: float | None
) -> None:
    for number in range(ALLOCATIONS):
        with world(backend) as found:
            operation = KINDS[kind](found.handle)
            raised = lacking(number, found.port.submit, operation, *([] if timeout is None else [timeout]))
            if operation.in_flight or not isinstance(raised, MemoryError):
                found.must.append(operation)
            found.submit("recv")  # what comes behind goes on
            found.finish()


@pytest.mark.clause("S11", "P6")
@pytest.mark.parametrize("kinds", SEVERAL, ids="+".join)
def test_a_wait_that_finds_no_memory_loses_nothing_that_it_had_taken(backend: str, kinds: list[str]) -> None:
    for number in range(ALLOCATIONS):
        with world(backend) as found:
            found.submit(*kinds)
            found.far.send(b"data")
            found.port.post("posted")
            got = lacking(number, bare_wait(found.port), 0)
            posted = 0
            if not isinstance(got, MemoryError):
                found.note(got)
                posted += sum(each.key == "posted" for each in got)
            while not posted:
                got = batch(found.port)
                found.note(got)
                posted += sum(each.key == "posted" for each in got)
            assert posted == 1
            found.finish()


@pytest.mark.clause("S11", "X2", "X3")
@pytest.mark.parametrize("ending", ["cancel", "close"])
@pytest.mark.parametrize("kinds", SEVERAL, ids="+".join)
def test_a_handle_that_is_ended_without_memory_lets_all_of_its_operations_complete(
    backend: str, kinds: list[str], ending: str
) -> None:
    for number in range(ALLOCATIONS):
        with world(backend) as found:
            found.submit(*kinds)
            lacking(number, getattr(found.handle, ending))
            found.finish()


@pytest.mark.clause("S11", "P7")
@pytest.mark.parametrize("kinds", SEVERAL, ids="+".join)
def test_a_port_that_is_closed_without_memory_has_nothing_in_flight(backend: str, kinds: list[str]) -> None:
    for number in range(ALLOCATIONS):
        with world(backend) as found:
            found.submit(*kinds)
            lacking(number, found.port.close)
            if not found.port.closed:  # it failed before it did anything
                found.port.close()
            assert not any(each.in_flight for each in found.must)


@wine_row("leave-port")
@pytest.mark.clause("S11", "A5")
def test_a_detach_that_finds_no_memory_is_made_again_and_loses_nothing(backend: str) -> None:
    for number in range(ALLOCATIONS):
        with world(backend) as found, unio.Port(backend=backend) as other:
            found.far.send(b"data")
            if isinstance(lacking(number, found.handle.detach), MemoryError):
                assert found.handle.detach() is found.near
            recv = unio.Recv(other.associate(found.near), bytearray(4))
            other.submit(recv)
            assert [each.transferred for each in batch(other)] == [4]


@pytest.mark.clause("S11", "X1", "X4")
@pytest.mark.parametrize("ending", ["cancel", "time-out"])
def test_what_is_ended_without_memory_before_its_turn_came_ends_once_and_can_be_submitted_again(
    backend: str, ending: str
) -> None:
    for number in range(ALLOCATIONS):
        reader, writer = unio.pipe()  # whose receives have their turns one by one
        with unio.Port(backend=backend) as port, reader, writer:
            port.wait(0)  # so that this thread is one that waits
            handle = port.associate(reader)
            first, second = unio.Recv(handle, bytearray(2)), unio.Recv(handle, bytearray(5))
            port.submit(first)
            port.submit(second, 0 if ending == "time-out" else None)
            took = lacking(number, *((port.cancel, second) if ending == "cancel" else (bare_wait(port), 0, 1)))
            found = took if ending != "cancel" and not isinstance(took, MemoryError) else port.wait(0, 1)
            if not found:
                assert ending == "cancel"
                assert isinstance(took, MemoryError)
                continue
            assert [each.operation for each in found] == [second]
            port.submit(second)
            assert port.wait(0) == []
            send = unio.Send(port.associate(writer), b"onto")
            port.submit(send)
            moved: dict[unio.Operation, int] = {}
            while len(moved) < 3:
                moved.update((each.operation, each.transferred) for each in batch(port))
            assert moved == {first: 2, second: 2, send: 4}


@pytest.mark.clause("S8", "S11")
@pytest.mark.parametrize("cancelled", [0, 63, 64, 65])  # up to 64 deadlines stay though they were taken back
def test_a_timer_that_is_due_while_memory_is_lacking_completes_all_the_same(backend: str, cancelled: int) -> None:
    for number in range(ALLOCATIONS):
        with unio.Port(backend=backend) as port:
            port.wait(0)  # so that this thread is one that waits
            others = [unio.Timer(3600) for _ in range(cancelled)]
            for each in others:
                port.submit(each)
            for each in others:
                port.cancel(each)
            while cancelled and any(each.in_flight for each in others):
                batch(port)
            timer = unio.Timer(0)
            port.submit(timer)
            got = lacking(number, bare_wait(port), 0)
            if isinstance(got, MemoryError) or not got:
                got = batch(port)
            assert [each.operation for each in got] == [timer]


@pytest.mark.clause("S1", "S11")
@pytest.mark.parametrize("kind", KINDS)
def test_what_a_finalizer_submits_in_the_middle_of_a_step_completes_once_where_memory_is_lacking(
    backend: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "unraisablehook", lambda _: None)  # which is told that there was no memory

    lock = Lock()

    def within_a_lock(found: World, operation: unio.Operation) -> None:
        with lock:
            found.port.submit(operation)

    for number in range(ALLOCATIONS):
        with world(backend) as found:
            operation = KINDS[kind](found.handle)
            lacking(number, within_a_lock, found, operation)
            if operation.in_flight:
                found.must.append(operation)
            while kind == "send" and operation.in_flight:
                found.note(batch(found.port))
            if operation.transferred and kind == "send":
                assert found.far.recv(100) == b"hello"
            found.submit("recv")
            found.finish()


@pytest.mark.clause("S11", "X3", "P7")
def test_a_close_that_found_no_memory_is_finished_by_the_close_of_the_port(backend: str) -> None:
    for number in range(ALLOCATIONS):
        with world(backend) as found:
            found.submit("recv")
            lacking(number, found.handle.close)
            was_closed = found.handle.closed
            found.port.close()
            assert (found.near.fileno() < 0) == was_closed


@pytest.mark.clause("S8", "S11")
def test_a_time_out_that_passes_where_memory_is_lacking_is_what_the_operation_ends_with(backend: str) -> None:
    for number in range(ALLOCATIONS):
        with world(backend) as found:
            receive = unio.Recv(found.handle, bytearray(1))
            found.port.submit(receive, 0)
            got = lacking(number, bare_wait(found.port), 0)
            if isinstance(got, MemoryError) or not got:
                got = batch(found.port)
            assert [(each.operation, type(each.error)) for each in got] == [(receive, TimeoutError)]
