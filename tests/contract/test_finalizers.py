"""Code of the program's that Python runs in the middle of unio's own: finalizers, and callbacks of weak references.

The garbage collector comes at almost any step, and what it runs may reach the port. None of that may hang, and nothing
may be lost.
"""

from __future__ import annotations

import contextlib
import gc
import socket
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import pytest
import support
from support import Background, assert_cancelled, completions

import unio
from unio.backends.common.locks import holds_lock


class Finalized:
    """Calls a function when the garbage collector finds it, as only a cycle leads to it."""

    def __init__(self, function: Callable[[], object]) -> None:
        self.function = function
        self.itself = self

    def __del__(self) -> None:
        self.function()


@contextlib.contextmanager
def once_within_a_lock(function: Callable[[], object]) -> Iterator[None]:
    """At the first line of unio's own that this thread comes to with a lock of unio's, the function is called."""
    left = [function]

    def trace(frame: FrameType, event: str, _: object) -> Callable[..., Any] | None:
        if not frame.f_code.co_filename.startswith(support.HOME):
            return None
        if event == "line" and left and holds_lock():
            left.pop()()
        return trace

    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(None)
    assert not left


@contextlib.contextmanager
def collecting_within_locks(function: Callable[[], object]) -> Iterator[list[str]]:
    """Before each line of unio's own that this thread comes to with a lock of unio's, the collector comes.

    It finds something whose finalizer calls the function. Gives the names of the functions in whose middle it came.
    """
    where: list[str] = []
    lines: set[tuple[str, int]] = set()  # each once, as what is put off takes locks in its turn

    def trace(frame: FrameType, event: str, _: object) -> Callable[..., Any] | None:
        if not frame.f_code.co_filename.startswith(support.HOME):
            return None
        line = (frame.f_code.co_filename, frame.f_lineno)
        if event == "line" and line not in lines and holds_lock():
            lines.add(line)
            where.append(frame.f_code.co_name)
            Finalized(function)
            gc.collect(0)
        return trace

    sys.settrace(trace)
    try:
        yield where
    finally:
        sys.settrace(None)


class World:
    """A port with one of everything in flight."""

    def __init__(self, backend: str, resources: contextlib.ExitStack) -> None:
        self.port = resources.enter_context(unio.Port(backend=backend))
        self.resources = resources
        self.near, self.far = self.pair()
        self.handle = self.port.associate(self.near, "first")
        self.receives: list[Any] = [unio.Recv(self.handle, bytearray(1)) for _ in range(3)]
        self.timer = unio.Timer(3600)
        for operation in (*self.receives, self.timer):
            self.port.submit(operation)

    def pair(self) -> tuple[socket.socket, socket.socket]:
        near, far = (self.resources.enter_context(each) for each in socket.socketpair())
        return near, far

    def drive(self) -> list[Any]:
        """Do what takes each of unio's locks. Returns what must complete, each once, if nothing else was done."""
        port = self.port
        other, its_far = self.pair()
        handle = port.associate(other, "second")
        other_receives = [unio.Recv(handle, bytearray(1)) for _ in range(3)]
        send, timed = unio.Send(handle, b"x"), unio.Recv(handle, bytearray(1))
        poll, timer = unio.Poll(handle, unio.Readiness.READABLE), unio.Timer(0)
        connect = unio.ConnectTo("127.0.0.1", 1)  # where nobody listens
        for operation in (*other_receives, send, poll, timer, connect):
            port.submit(operation)
        port.submit(timed, 3600)
        port.cancel(other_receives[1])
        its_far.send(b"ab")
        with contextlib.suppress(BrokenPipeError):  # the finalizer has closed the other end
            self.far.send(b"a")
        found = [port.wait(0)]
        port.start_gathered()
        handle.close()
        found.append(port.wait(0))
        del found
        return [*other_receives, send, timed, poll, timer, connect]


WHAT: dict[str, Callable[[World, list[Any]], object]] = {
    "cancel": lambda world, _: world.port.cancel(world.receives[2]),
    "cancel a timer": lambda world, _: world.port.cancel(world.timer),
    "cancel all": lambda world, _: world.handle.cancel(),
    "close": lambda world, _: world.handle.close(),
    "close the port": lambda world, _: world.port.close(),
    "drop a port": lambda world, _: drop_port(world),
    "start gathered": lambda world, _: world.port.start_gathered(),
    "post": lambda world, _: world.port.post("posted"),
    "submit": lambda world, more: submit(world, more, unio.Recv(world.handle, bytearray(1))),
    "submit a timer": lambda world, more: submit(world, more, unio.Timer(0, "timer")),
    "submit with a time-out": lambda world, more: submit(world, more, unio.Send(world.handle, b"y"), 3600.0),
}


def drop_port(world: World) -> None:
    near, _ = world.pair()
    other = unio.Port(backend=world.port.backend)
    other.submit(unio.Recv(other.associate(near), bytearray(1)))
    del other


def submit(world: World, more: list[Any], operation: unio.Operation, timeout: float | None = None) -> None:
    with contextlib.suppress(unio.PortClosed):
        world.port.submit(operation, timeout)
        assert operation.in_flight
        more.append(operation)


@pytest.mark.clause("P2", "S1", "X1")
@pytest.mark.parametrize("what", WHAT)
@pytest.mark.filterwarnings("ignore::ResourceWarning")  # of the port that is dropped
def test_a_finalizer_in_the_middle_of_any_step_neither_hangs_nor_loses_anything(
    backend: str, resources: contextlib.ExitStack, what: str
) -> None:
    world = World(backend, resources)
    more: list[Any] = []
    came: list[str] = []

    def run() -> list[Any]:
        try:
            with collecting_within_locks(lambda: WHAT[what](world, more)) as where:
                return world.drive()
        except unio.PortClosed:
            return []
        finally:
            came.extend(where)

    operations = [*Background(run).result(), *more]
    assert came, "the port takes locks in Python, however it is built, for what is not plain"
    if world.port.closed:
        assert not any(operation.in_flight for operation in (*world.receives, world.timer, *more))
        return
    world.port.cancel(world.timer)
    world.handle.close()
    with contextlib.suppress(AssertionError):
        completions(world.port, 10_000, patience=0.5)
    operations += [*world.receives, world.timer]
    assert [operation for operation in operations if operation.in_flight] == []


REACHING: dict[str, Callable[[unio.Port, unio.Recv], object]] = {
    "cancel": lambda port, recv: port.cancel(recv),
    "cancel all": lambda _, recv: recv.handle.cancel(),
    "close": lambda _, recv: recv.handle.close(),
    "submit": lambda port, recv: port.submit(unio.Recv(recv.handle, bytearray(1)), 3600),
}


@pytest.mark.clause("P2", "S1")
@pytest.mark.parametrize("reach", REACHING)
def test_two_threads_in_the_middle_of_a_step_may_each_reach_for_what_the_other_is_at(
    port: unio.Port, make_pair: Any, reach: str
) -> None:
    pairs = [make_pair(), make_pair()]
    handles = [port.associate(near) for near, _ in pairs]
    first = [unio.Recv(handle, bytearray(1)) for handle in handles]
    for recv in first:
        port.submit(recv)
    both = threading.Barrier(2)

    def run(mine: int) -> unio.Recv:
        def meet() -> None:
            both.wait(support.PATIENCE)
            REACHING[reach](port, first[1 - mine])

        second = unio.Recv(handles[mine], bytearray(1))
        with once_within_a_lock(meet):
            port.submit(second, 3600)
        return second

    threads = [Background(run, mine) for mine in range(2)]
    second = [thread.result() for thread in threads]
    for handle in handles:
        handle.close()
    while any(operation.in_flight for operation in (*first, *second)):
        support.batch(port)


@pytest.mark.clause("S1", "P7")
def test_a_completion_that_closes_its_handle_as_it_goes_leaves_the_rest_to_the_wait(
    port: unio.Port, make_pair: Any
) -> None:
    class Connection:
        def __init__(self, handle: unio.Handle) -> None:
            self.handle = handle

        def __del__(self) -> None:
            self.handle.close()

    near, far = make_pair()
    handle = port.associate(near)
    second: Any = unio.Recv(handle, bytearray(1))

    def drain() -> list[unio.Operation]:  # in one thread, as without the GIL what another one has made goes later
        first: Any = unio.Recv(handle, bytearray(1), state=Connection(handle))
        port.submit(first)
        port.submit(second)
        del first
        far.send(b"x")
        support.completion(port)  # with the first goes its state
        return [support.completion(port).operation]

    assert Background(drain).result() == [second]
    assert second.error is not None
    assert_cancelled(unio.Completion(None, second, 0, second.error))
    Background(port.close).result()


@pytest.mark.clause("P11", "A1")
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_ports_that_the_collector_drops_while_another_associates_hang_nothing(
    port: unio.Port, backend: str, resources: contextlib.ExitStack
) -> None:
    def run() -> None:
        for _ in range(60):
            near, far = socket.socketpair()
            dropped: list[Any] = [unio.Port(backend=backend)]
            dropped[0].submit(unio.Recv(dropped[0].associate(near, dropped), bytearray(1)))
            dropped.append(dropped)
            del dropped
            mine, its = socket.socketpair()
            port.associate(mine).close()
            for each in (near, far, its):
                each.close()
        gc.collect()

    thresholds = gc.get_threshold()
    gc.set_threshold(1)
    try:
        Background(run).result()
    finally:
        gc.set_threshold(*thresholds)


@pytest.mark.clause("X2")
def test_a_weak_references_callback_may_cancel_a_handle_at_any_moment(port: unio.Port, make_pair: Any) -> None:
    near, _ = make_pair()
    handle = port.associate(near)
    thresholds = gc.get_threshold()

    def run() -> None:
        for _ in range(300):
            thing = Finalized(lambda: None)
            weakref.finalize(thing, handle.cancel)
            recv, timer = unio.Recv(handle, bytearray(1)), unio.Timer(3600)
            del thing
            port.submit(recv, 3600)
            port.submit(timer)
            port.cancel(recv)
            port.cancel(timer)
            port.wait(0)
        gc.collect()

    gc.set_threshold(1)
    try:
        Background(run).result()
    finally:
        gc.set_threshold(*thresholds)


@pytest.mark.clause("P6")
@pytest.mark.parametrize("what", ["wait", "detach"])
def test_a_wait_or_a_detach_in_the_middle_of_a_step_is_refused(
    backend: str, resources: contextlib.ExitStack, what: str
) -> None:
    world = World(backend, resources)
    refused: list[str] = []
    idle = world.port.associate(world.pair()[0])

    def wait() -> None:
        with pytest.raises(RuntimeError, match="let it post, and do that elsewhere"):
            world.port.wait(0) if what == "wait" else idle.detach()
        refused.append("")

    def run() -> None:
        with collecting_within_locks(wait):
            world.drive()

    Background(run).result()
    assert refused


@pytest.mark.clause("A1")
def test_a_finalizer_may_associate_in_the_middle_of_a_step(backend: str, resources: contextlib.ExitStack) -> None:
    world = World(backend, resources)
    joined: list[unio.Handle] = []

    def associate() -> None:
        joined.append(world.port.associate(world.pair()[0]))

    def run() -> None:
        with collecting_within_locks(associate):
            world.drive()

    Background(run).result()
    assert joined
    assert not any(handle.closed for handle in joined)
