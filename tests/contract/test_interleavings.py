"""Two threads and one port: what the second one does falls between any two lines of what the first one does.

Threads that merely run at the same time meet at the interesting points by chance, and seldom. Here the first one is
stopped before each line of unio's code that it comes to, one after the other, the second one does its part, as far as
no lock keeps it from that, and the first one goes on. Whatever comes of it, the promises hold: each submit that was
accepted leads to one completion, nobody sleeps over what there is to do, and no byte is lost.
"""

from __future__ import annotations

import itertools
import socket
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import pytest
from support import (
    BIG,
    Background,
    Stepped,
    asleep,
    assert_idle,
    batch,
    completion,
    completions,
    inside_wait,
    local_pair,
    reuse,
    until,
)
from wine import ERROR_ALERTED, met_row

import unio

CHUNK = 1 << 16
"""How many bytes of a send a pipe takes at a time, and holds."""

REFUSED = (unio.InFlight, unio.PortClosed)


class Scene:
    """A port with a connection, an operation that waits on it, and what the two threads do with them."""

    def __init__(self, backend: str) -> None:
        self.port = unio.Port(backend=backend)
        self.near, self.far = socket.socketpair()
        self.handle = self.port.associate(self.near, "socket")
        self.pending = unio.Recv(self.handle, bytearray(1))
        self.owed: Counter[object] = Counter()
        self.seen: list[unio.Completion] = []
        self.bytes_sent = 0
        self.submit_pending()

    # What a thread may do

    def submit(self) -> None:
        self._submit(unio.Recv(self.handle, bytearray(1)))

    def submit_pending(self) -> None:
        self._submit(self.pending)

    def submit_with_time_out(self) -> None:
        self._submit(unio.Recv(self.handle, bytearray(1)), 0.0001)

    def submit_what_ends_at_once(self) -> None:
        self._submit(unio.Send(self.handle, b"x"))

    def submit_poll(self) -> None:
        self._submit(unio.Poll(self.handle, unio.Readiness.WRITABLE))

    def submit_timer(self) -> None:
        self._submit(unio.Timer(0))

    def _submit(self, operation: unio.Operation, timeout: float | None = None) -> None:
        self.port.submit(operation, timeout)
        self.owed[operation] += 1

    def post(self) -> None:
        self.port.post("post", "post")
        self.owed["post"] += 1

    def send_data(self) -> None:
        with suppress(BrokenPipeError):
            self.far.send(b"x")
            self.bytes_sent += 1

    def cancel(self) -> None:
        self.port.cancel(self.pending)

    def cancel_all(self) -> None:
        self.handle.cancel()

    def close_handle(self) -> None:
        self.handle.close()

    def close_plainly(self) -> None:
        self.near.close()

    def close_port(self) -> None:
        self.port.close()

    def look(self) -> None:
        self.seen += self.port.wait(0)

    def wait(self) -> None:
        self.seen += batch(self.port)

    # What must have come of it

    def check(self) -> None:
        """What there is to do gets done, and closing ends the rest: each once."""
        if self.port.closed:
            assert not any(operation.in_flight for operation in self.owed if isinstance(operation, unio.Operation))
            return
        if not self.handle.closed and self.near.fileno() >= 0:
            while self.something_to_do():
                self.seen += completions(self.port, 1)
        self.handle.close()
        self.seen += completions(self.port, self.owed.total() - len(self.seen))
        assert_idle(self.port)
        assert Counter(found.operation for found in self.seen) == self.owed
        for found in self.seen:
            assert found.error is None or type(found.error) in (unio.Cancelled, TimeoutError)
        assert self.bytes_received() <= self.bytes_sent

    def something_to_do(self) -> bool:
        """Whether a completion must come though nobody does anything any more."""
        left = self.owed - Counter(found.operation for found in self.seen)
        waiting = [each for each in left if type(each) is unio.Recv]
        return len(waiting) < len(left) or (bool(waiting) and self.bytes_received() < self.bytes_sent)

    def bytes_received(self) -> int:
        return sum(found.transferred for found in self.seen if isinstance(found.operation, unio.Recv))


@contextmanager
def a_scene(backend: str) -> Iterator[Scene]:
    scene = Scene(backend)
    try:
        yield scene
        scene.check()
    finally:
        scene.port.close()
        scene.near.close()
        scene.far.close()


def try_to(action: Callable[[], object]) -> None:
    """Do it, unless what the other thread has done forbids it."""
    with suppress(*REFUSED):
        action()


ACTIONS = (
    "cancel",
    "cancel_all",
    "close_handle",
    "close_port",
    "look",
    "post",
    "submit",
    "submit_poll",
    "submit_timer",
    "submit_what_ends_at_once",
    "submit_with_time_out",
)
CHANGES = (
    "cancel",
    "close_handle",
    "close_plainly",
    "close_port",
    "look",
    "post",
    "send_data",
    "submit_pending",
    "submit_what_ends_at_once",
)


MARKS: dict = {}
PAIRS = [pytest.param(*pair, marks=MARKS.get(pair, [])) for pair in itertools.product(ACTIONS, CHANGES)]


@pytest.mark.clause("P2", "P7", "S1", "X1", "X3")
@pytest.mark.parametrize(("action", "change"), list(itertools.product(ACTIONS, CHANGES)))
def test_whatever_happens_between_two_lines_each_operation_ends_once(backend: str, action: str, change: str) -> None:
    reached = True
    for line in itertools.count(1):
        with a_scene(backend) as scene:
            if action == "look":
                scene.submit_timer()
                scene.send_data()
            first = Stepped(line, try_to, getattr(scene, action))
            reached = first.reached()
            second = Background(try_to, getattr(scene, change))
            second.join(0.003)  # a lock that the first one holds may keep it
            first.go()
            first.result()
            second.result()
        if not reached:
            break


@pytest.mark.clause("P2", "P7")
@pytest.mark.parametrize(
    "change", [each for each in CHANGES if each not in ("close_plainly", "look", "submit_pending")]
)
def test_whatever_ends_a_wait_ends_it_between_any_two_lines(backend: str, change: str) -> None:
    reached = True
    for line in itertools.count(1):
        with a_scene(backend) as scene:
            first = Stepped(line, try_to, scene.wait)
            reached = first.reached()
            second = Background(try_to, getattr(scene, change))
            second.join(0.003)
            first.go()
            first.result()
            second.result()
            assert scene.seen or scene.port.closed
        if not reached:
            break


@pytest.mark.clause("P2")
def test_a_thread_that_gives_up_between_any_two_lines_of_another_leaves_it_the_watch(backend: str) -> None:
    reached = True
    for line in itertools.count(1):
        with a_scene(backend) as scene:
            leader = Background(scene.port.wait, 0.02)
            inside_wait(leader)
            first = Stepped(line, scene.wait)
            reached = first.reached()
            assert leader.result() == []
            first.go()
            scene.send_data()
            first.result()
            assert scene.bytes_received() == 1
        if not reached:
            break


@pytest.mark.clause("P2", "P8")
@pytest.mark.parametrize("before", [0, 1], ids=["nobody else waits", "behind another"])
def test_one_that_falls_asleep_between_any_two_lines_of_a_post_is_woken(backend: str, before: int) -> None:
    reached = True
    for line in itertools.count(1):
        with unio.Port(backend=backend, concurrency=2) as port:
            waiting = [Background(batch, port, 1) for _ in range(before)]
            for thread in waiting:
                asleep(thread)
            first = Stepped(line, port.post, "post")
            reached = first.reached()
            waiting.append(Background(batch, port, 1))
            asleep(waiting[-1])
            first.go()
            first.result()
            until(lambda waiting=waiting: not all(thread.is_alive() for thread in waiting))
            for _ in range(before):
                port.post("post")
            assert [[each.key for each in thread.result()] for thread in waiting] == [["post"]] * len(waiting)
        if not reached:
            break


@pytest.mark.clause("P2", "S1")
def test_data_that_come_between_any_two_lines_of_a_submitting_thread_are_received(backend: str) -> None:
    reached = True
    for line in itertools.count(1):
        with unio.Port(backend=backend) as port, ExitStack() as stack:
            pairs = [tuple(map(stack.enter_context, local_pair())) for _ in range(3)]
            broken, *handles = [port.associate(near) for near, _ in pairs]
            pairs[0][0].shutdown(socket.SHUT_WR)
            receive, other = [unio.Recv(handle, bytearray(1)) for handle in handles]
            port.submit(other)
            leading = Collecting(port, other)
            first = Stepped(line, submit_together, port, unio.Send(broken, b"fails"), receive)
            reached = first.reached()
            for _, far in pairs[1:]:
                far.send(b"x")
            # When it has the second event, it has seen the first; a lock that the first thread holds may keep it.
            leading.has_it.wait(0.1)
            first.go()
            first.result()
            assert receive in leading.result()
            if getattr(receive.error, "winerror", None) == ERROR_ALERTED:
                met_row("thread-ends-amid-retry")
            assert receive.error is None
        if not reached:
            break


def submit_together(port: unio.Port, *operations: unio.Operation) -> None:
    """Submit as a thread that waits, whose submissions may be gathered: those behind one that fails, with it."""
    assert port.wait(0) == []
    for operation in operations:
        port.submit(operation)
    port.start_gathered()


class Collecting(Background[list[unio.Operation]]):
    """A thread that takes three completions, and tells when it has that of *operation*."""

    def __init__(self, port: unio.Port, operation: unio.Operation) -> None:
        self.has_it = threading.Event()
        super().__init__(self._collect, port, operation)
        inside_wait(self)

    def _collect(self, port: unio.Port, operation: unio.Operation) -> list[unio.Operation]:
        found: list[unio.Operation] = []
        while len(found) < 3:
            found.append(completion(port).operation)
            if found[-1] is operation:
                self.has_it.set()
        return found


@pytest.mark.clause("S8", "X4")
def test_a_time_out_that_passes_between_any_two_lines_ends_only_its_own_submission(backend: str) -> None:
    reached = True
    for line in itertools.count(1):
        with unio.Port(backend=backend) as port:
            near, far = socket.socketpair()
            with near, far:
                operation = unio.Recv(port.associate(near), bytearray(1))
                port.submit(operation, 0)
                first = Stepped(line, port.wait, 0.01)
                reached = first.reached()
                second = Background(lambda port=port, operation=operation: (port.cancel(operation), port.wait(0)))
                second.join(0.003)
                again = not second.is_alive() and not operation.in_flight
                if again:
                    port.submit(operation)
                first.go()
                found = [*first.result(), *second.result()[1]]
                if again:
                    assert operation.in_flight, "nothing has ended the second submission"
                    port.cancel(operation)
                    completion(port)
                if not found:
                    found = [completion(port)]
                assert [type(each.error) in (unio.Cancelled, TimeoutError) for each in found] == [True]
        if not reached:
            break


@pytest.mark.clause("S1", "S4", "X3")
def test_a_close_between_any_two_lines_of_a_submit_that_ends_at_once_loses_none_of_the_others(backend: str) -> None:
    reached = True
    for line in itertools.count(1):
        with unio.Port(backend=backend) as port, ExitStack() as stack:
            near, far = map(stack.enter_context, local_pair())
            handle = port.associate(near, skip_on_success=True)
            receive, send = unio.Recv(handle, bytearray(1)), unio.Send(handle, b"x")
            port.submit(receive)
            submitted: list[bool] = []
            first = Stepped(line, try_to, lambda port=port, send=send, to=submitted: to.append(port.submit(send)))
            reached = first.reached()

            def close_and_look(port: unio.Port = port, handle: unio.Handle = handle, far: Any = far) -> Any:
                handle.close()
                with suppress(OSError):
                    far.send(b"x")
                return port.wait(0)

            second = Background(close_and_look)
            second.join(0.05)
            first.go()
            first.result()
            found = second.result()
            owed = {receive, send} if submitted == [False] else {receive}
            found += completions(port, len(owed) - len(found))
            assert {each.operation for each in found} == owed
            assert_idle(port)
        if not reached:
            break


@pytest.mark.clause("X1")
@pytest.mark.parametrize("kind", ["pipe", "socket"])
def test_a_cancel_between_any_two_lines_of_a_send_that_goes_on_ends_it(backend: str, kind: str) -> None:
    reached = True
    for line in itertools.count(1):
        with unio.Port(backend=backend) as port, ExitStack() as stack:
            far, near = map(stack.enter_context, unio.pipe() if kind == "pipe" else local_pair())
            send = unio.Send(port.associate(near), bytes(BIG if kind == "socket" else 3 * CHUNK))
            port.submit(send)
            assert_idle(port)
            if kind == "pipe":
                assert far.read(CHUNK)
            else:
                assert far.recv(CHUNK)
            first = Stepped(line, port.wait, 0.02)
            reached = first.reached()
            second = Background(port.cancel, send)
            second.join(0.003)
            first.go()
            found = first.result()
            asked = second.result()
            assert asked or found, "there was something to ask"
            [found] = found or completions(port, 1)
            assert type(found.error) is unio.Cancelled
        if not reached:
            break


@pytest.mark.skipif(sys.platform == "win32", reason="there, a number is not the lowest that is free")
@pytest.mark.process_wide
@pytest.mark.clause("A3", "X3", "P2")
def test_a_plain_close_between_any_two_lines_touches_nothing_of_who_gets_the_number(backend: str) -> None:
    reached = True
    for line in itertools.count(1):
        with unio.Port(backend=backend) as port, ExitStack() as stack:
            near, far = map(stack.enter_context, local_pair())
            number, handle = near.fileno(), port.associate(near)
            operations = [unio.Recv(handle, bytearray(1)), unio.Recv(handle, bytearray(100)), unio.Send(handle, b"old")]
            far.send(b"x")
            first = Stepped(line, submit_and_wait, port, *operations)
            reached = first.reached()
            near.close()
            new_near, new_far = reuse(number, stack)
            new_far.send(b"for the new one")
            first.go()
            submitted, found = first.result()
            found += completions(port, len(submitted) - len(found))
            assert {each.operation for each in found} == set(submitted)
            assert new_near.recv(100) == b"for the new one"
            new_near.close()
            assert new_far.recv(100) == b"", "nor was anything sent there"
        if not reached:
            break


def submit_and_wait(port: unio.Port, *operations: unio.Operation) -> tuple[list[unio.Operation], list[unio.Completion]]:
    """Submit as a thread that waits, whose submissions may be gathered."""
    assert port.wait(0) == []
    for operation in operations:
        port.submit(operation)
    return list(operations), port.wait(0.01)


@pytest.mark.skipif(sys.platform == "win32", reason="there, a number is not the lowest that is free")
@pytest.mark.process_wide
@pytest.mark.clause("A3", "X3", "P2")
@pytest.mark.parametrize("action", ["associate", "close"])
def test_who_gets_the_number_between_any_two_lines_of_its_predecessor_joins_like_any_other(
    backend: str, action: str
) -> None:
    reached = True
    for line in itertools.count(1):
        with unio.Port(backend=backend) as port, ExitStack() as stack:
            near, _far = map(stack.enter_context, local_pair())
            number = near.fileno()
            if action == "associate":
                first = Stepped(line, join_if_open, port, near)
            else:
                handle = port.associate(near)
                port.submit(unio.Recv(handle, bytearray(1)))
                first = Stepped(line, handle.close)
            reached = first.reached()
            near.close()
            new_near, new_far = reuse(number, stack)
            second = Background(join_and_receive, port, new_near)
            second.join(0.003)
            first.go()
            first.result()
            receive = second.result()
            new_far.send(b"x")
            found = completions(port, 2 if action == "close" else 1)
            assert found[-1][1:] == (receive, 1, None)
        if not reached:
            break


def join_if_open(port: unio.Port, sock: socket.socket) -> None:
    """Associate a socket that may be closed meanwhile."""
    with suppress(unio.AssociationError, OSError):
        port.associate(sock)


def join_and_receive(port: unio.Port, sock: socket.socket) -> unio.Operation:
    """Associate a socket and submit a receive."""
    receive = unio.Recv(port.associate(sock), bytearray(8))
    port.submit(receive)
    return receive
