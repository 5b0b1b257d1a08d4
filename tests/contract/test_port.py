"""The clauses P of the contract: the port as a queue that threads share."""

from __future__ import annotations

import contextlib
import gc
import math
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import warnings
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support import (
    PATIENCE,
    Background,
    asleep,
    assert_idle,
    completion,
    completions,
    connect,
    in_child,
    in_threads,
    inside_wait,
    needs_fork,
    recv_exactly,
    restless,
    succeed,
    until,
)

import unio

needs_interval_timer = pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="this system has no setitimer")


# Clause P1: a queue, first in, first out


@pytest.mark.clause("P1")
@pytest.mark.parametrize("limit", [1, 7, 64, 5000])
def test_posts_leave_in_the_order_in_which_they_came(port: unio.Port, limit: int) -> None:
    for number in range(1000):
        port.post(number)
    seen: list[int] = []
    while batch := port.wait(0, limit):
        seen += [found.key for found in batch]
    assert seen == list(range(1000))


@pytest.mark.clause("P1")
def test_a_completion_stands_between_the_posts_made_before_and_after_it(port: unio.Port, make_pair: Any) -> None:
    near, far = make_pair()
    handle = port.associate(near, "send")
    for number in range(50):
        port.post(("before", number))
        port.submit(unio.Send(handle, b"x"))
        recv_exactly(far, 1)  # it has ended, so that it is in the queue
        port.post(("after", number))
    seen = [found.key for found in completions(port, 150)]
    assert seen == [key for number in range(50) for key in (("before", number), "send", ("after", number))]


@pytest.mark.clause("P1")
def test_timers_are_queued_in_the_order_of_their_deadlines(port: unio.Port) -> None:
    for delay in (0.05, 0.01, 0.03, 0.04, 0.02):
        port.submit(unio.Timer(delay, delay))
    assert [found.key for found in completions(port, 5)] == [0.01, 0.02, 0.03, 0.04, 0.05]


@pytest.mark.clause("P1", "P2")
def test_each_of_several_waiting_threads_sees_the_queue_in_order(port: unio.Port) -> None:
    def take(_: int) -> list[int]:
        seen = []
        while True:
            for found in port.wait(PATIENCE, limit=3):
                if found.key is None:
                    port.post(None)  # for the next thread
                    return seen
                seen.append(found.key)

    takers = [Background(take, number) for number in range(4)]
    for number in range(5000):
        port.post(number)
    port.post(None)
    shares = [taker.result() for taker in takers]
    assert all(share == sorted(share) for share in shares)
    # The one that sees the end may hold what came before it in its own batch, but nothing is lost or doubled.
    assert sorted(number for share in shares for number in share) == list(range(5000))


@pytest.mark.clause("P1", "P8")
def test_what_one_thread_posts_stays_in_order_among_the_posts_of_others(port: unio.Port) -> None:
    def post(thread: int) -> None:
        for number in range(500):
            port.post(thread, transferred=number)

    posters = Background(in_threads, 8, post)
    seen: dict[int, list[int]] = {thread: [] for thread in range(8)}
    for found in completions(port, 8 * 500):
        seen[found.key].append(found.transferred)
    posters.result()
    assert all(numbers == list(range(500)) for numbers in seen.values())


# Clause P2: any thread, at any time


class Crowd:
    """What the threads of one test do with one port; each packet has a key and a number of its own."""

    rounds = 60

    def __init__(self, port: unio.Port) -> None:
        self.port = port
        self.seen: Counter[Any] = Counter()
        self.lock = threading.Lock()

    def wait(self) -> None:
        while True:
            batch = self.port.wait(PATIENCE, limit=5)
            assert batch
            for key, operation, transferred, _ in batch:
                if key is not None:
                    with self.lock:
                        self.seen[key, operation.state if operation else transferred] += 1
            if batch[-1].key is None:
                self.port.post(None)  # for the next thread
                return

    def post(self, thread: int) -> None:
        for number in range(self.rounds):
            self.port.post(("post", thread), transferred=number)

    def send(self, thread: int) -> None:
        near, far = socket.socketpair()
        with near, far:
            handle = self.port.associate(near, ("send", thread))
            for number in range(self.rounds):
                self.port.submit(unio.Send(handle, b"x", state=number))
            recv_exactly(far, self.rounds)

    def receive(self, thread: int) -> None:
        near, far = socket.socketpair()
        with far:
            handle = self.port.associate(near, ("receive", thread))
            for number in range(self.rounds):
                operation = unio.Recv(handle, bytearray(1), state=number)
                self.port.submit(operation)
                if number % 3 == 0:
                    self.port.cancel(operation)
                elif number % 3 == 1:
                    far.send(b"x")
            handle.close()

    def close(self, thread: int) -> None:
        for number in range(self.rounds):
            near, far = socket.socketpair()
            with far:
                handle = self.port.associate(near, ("close", thread))
                self.port.submit(unio.Recv(handle, bytearray(1), state=number))
                handle.close()


@pytest.mark.clause("P2", "S1")
def test_sixteen_threads_do_everything_at_once_and_each_packet_is_seen_exactly_once(
    port: unio.Port, resources: contextlib.ExitStack
) -> None:
    crowd = Crowd(port)
    resources.enter_context(restless())
    waiters = [Background(crowd.wait) for _ in range(4)]
    work = [(name, thread) for name in ("post", "send", "receive", "close") for thread in range(3)]
    in_threads(len(work), lambda index: getattr(crowd, work[index][0])(work[index][1]))
    expected = {(key, number) for key in work for number in range(crowd.rounds)}
    until(lambda: len(crowd.seen) >= len(expected))
    port.post(None)
    for waiter in waiters:
        waiter.result()
    assert set(crowd.seen) == expected
    assert set(crowd.seen.values()) == {1}
    assert completion(port).key is None
    assert_idle(port)


@pytest.mark.clause("P2")
def test_every_method_works_while_another_thread_waits(port: unio.Port, make_pair: Any) -> None:
    near, far = make_pair()
    waiter = Background(completions, port, 4)
    inside_wait(waiter)
    handle = port.associate(near, "socket")
    cancelled, received = unio.Recv(handle, bytearray(8)), unio.Recv(handle, bytearray(8))
    port.submit(cancelled)
    assert port.cancel(cancelled)
    port.submit(received)
    far.send(b"data")
    port.submit(unio.Timer(0.01, "timer"))
    port.flush()
    port.post("post")
    found = waiter.result()
    assert sorted(each.key for each in found) == ["post", "socket", "socket", "timer"]
    assert cancelled.error is not None
    assert received.transferred == 4


@pytest.mark.clause("P2")
def test_no_wake_up_is_missed_when_as_many_packets_come_as_threads_wait(
    port: unio.Port, resources: contextlib.ExitStack
) -> None:
    resources.enter_context(restless())
    for _ in range(100):
        waiters = [Background(completion, port) for _ in range(4)]
        for number in range(4):
            port.post(number)
        assert sorted(waiter.result().key for waiter in waiters) == [0, 1, 2, 3]


@pytest.mark.clause("P2")
def test_threads_that_hand_one_packet_around_never_fall_asleep_over_it(
    port: unio.Port, resources: contextlib.ExitStack
) -> None:
    # Nothing else happens on this port: one missed wake-up and it is still for ever.
    rounds = 3000

    def hand_on() -> int:
        while True:
            [found] = port.wait(PATIENCE)
            if found.transferred >= rounds:
                port.post("packet", transferred=rounds)
                return found.transferred
            port.post("packet", transferred=found.transferred + 1)

    resources.enter_context(restless())
    threads = [Background(hand_on) for _ in range(4)]
    port.post("packet")
    assert [thread.result() for thread in threads] == [rounds] * 4
    assert completion(port).transferred == rounds
    assert_idle(port)


@pytest.mark.clause("P2")
def test_a_thread_that_gives_up_leaves_the_watch_to_another(
    port: unio.Port, make_pair: Any, resources: contextlib.ExitStack
) -> None:
    near, far = make_pair(local=True)
    operation = unio.Recv(port.associate(near), bytearray(1))
    resources.enter_context(restless())
    for _ in range(100):
        first = Background(port.wait, 0.001)
        second = Background(completion, port)
        assert first.result() == []
        port.submit(operation)
        far.send(b"x")
        assert second.result().operation is operation


@pytest.mark.clause("P2")
def test_data_that_comes_while_a_thread_submits_and_another_waits_is_not_missed(
    port: unio.Port, make_pair: Any, resources: contextlib.ExitStack
) -> None:
    # The submitting thread finds nothing while the waiting one hears that there is something: whoever goes last must
    # know of the other.
    near, far = make_pair(local=True)
    operation = unio.Recv(port.associate(near), bytearray(1))
    rounds = 1000
    go, done = threading.Semaphore(0), threading.Semaphore(0)

    def send() -> None:
        for _ in range(rounds):
            assert go.acquire(timeout=PATIENCE)
            far.send(b"x")

    def wait() -> None:
        for _ in range(rounds):
            assert completion(port)[1:] == (operation, 1, None)
            done.release()

    resources.enter_context(restless())
    threads = [Background(send), Background(wait)]
    for _ in range(rounds):
        go.release()
        port.submit(operation)
        assert done.acquire(timeout=PATIENCE)
    for thread in threads:
        thread.result()
    assert_idle(port)


WAKERS: dict[str, Callable[[unio.Port, unio.Handle, unio.Handle, socket.socket, unio.Recv], object]] = {
    "post": lambda port, handle, file, far, pending: port.post("here"),
    "operation that ends at once": lambda port, handle, file, far, pending: port.submit(unio.Send(handle, b"x")),
    "data": lambda port, handle, file, far, pending: far.send(b"x"),
    "cancel": lambda port, handle, file, far, pending: port.cancel(pending),
    "cancel of all": lambda port, handle, file, far, pending: handle.cancel(),
    "close": lambda port, handle, file, far, pending: handle.close(),
    "time-out": lambda port, handle, file, far, pending: port.submit(unio.Recv(handle, bytearray(1)), 0.001),
    "timer": lambda port, handle, file, far, pending: port.submit(unio.Timer(0.001)),
    "timer with a time-out": lambda port, handle, file, far, pending: port.submit(unio.Timer(3600), 0.001),
    "file": lambda port, handle, file, far, pending: port.submit(unio.Read(file, bytearray(1), 0)),
}


@pytest.mark.clause("P2")
@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("waker", WAKERS)
def test_whatever_completes_wakes_a_thread_that_waits(
    port: unio.Port, make_pair: Any, resources: contextlib.ExitStack, waker: str, count: int
) -> None:
    near, far = make_pair()
    handle = port.associate(near)
    file = port.associate(resources.enter_context(unio.open(__file__)))
    pending = unio.Recv(handle, bytearray(1))
    port.submit(pending)
    waiters = [Background(completion, port) for _ in range(count)]
    for waiter in waiters:
        inside_wait(waiter)
    asleep(waiters[0])
    WAKERS[waker](port, handle, file, far, pending)
    until(lambda: not all(waiter.is_alive() for waiter in waiters))
    for _ in range(count - 1):
        port.post("for the others")
    for waiter in waiters:
        waiter.result()


@pytest.mark.clause("P2")
def test_a_waiting_thread_learns_of_a_deadline_that_comes_before_the_one_it_sleeps_for(port: unio.Port) -> None:
    port.submit(unio.Timer(3600, "late"))
    waiter = Background(completion, port)
    inside_wait(waiter)
    port.submit(unio.Timer(0.01, "early"))
    assert waiter.result().key == "early"


@pytest.mark.clause("P2")
def test_deadlines_are_kept_when_the_thread_that_watched_them_leaves(port: unio.Port, make_pair: Any) -> None:
    # Of several waiting threads one may be the one that watches the clock and the sockets. It leaves with a packet,
    # and another must take its place.
    near, far = make_pair()
    handle = port.associate(near, "socket")
    for _ in range(50):
        waiters = [Background(completion, port) for _ in range(3)]
        for waiter in waiters:
            inside_wait(waiter)
        port.post("post")
        port.submit(unio.Recv(handle, bytearray(1)))
        port.submit(unio.Timer(0.001, "timer"))
        far.send(b"x")
        assert sorted(waiter.result().key for waiter in waiters) == ["post", "socket", "timer"]


# Clause P6: what a wait returns


@pytest.mark.clause("P6")
def test_a_time_out_of_zero_looks_and_returns(port: unio.Port) -> None:
    assert port.wait(0) == []
    assert port.wait(0.0) == []
    assert port.wait(-0.0) == []
    port.post("here")
    assert [found.key for found in port.wait(0)] == ["here"]
    assert port.wait(0) == []


@pytest.mark.clause("P6")
def test_a_time_out_of_zero_sees_what_the_system_has_ready(port: unio.Port, make_pair: Any) -> None:
    near, far = make_pair(local=True)
    operation = unio.Recv(port.associate(near), bytearray(8))
    port.submit(operation)
    assert_idle(port)
    far.send(b"data")
    assert [found.transferred for found in port.wait(0)] == [4]


@pytest.mark.clause("P6")
@pytest.mark.parametrize("timeout", [1e-9, 0.0004, 0.001, 0.0015, 0.01, 0.05])
def test_a_wait_never_returns_early_with_nothing(port: unio.Port, timeout: float) -> None:
    for _ in range(5):
        start = time.monotonic()
        assert port.wait(timeout) == []
        assert time.monotonic() - start >= timeout


@pytest.mark.clause("P6")
def test_what_completes_nothing_does_not_end_a_wait_early(port: unio.Port, make_pair: Any) -> None:
    near, far = make_pair()
    port.associate(near)
    other, _ = make_pair()
    handle = port.associate(other)
    start = time.monotonic()
    waiter = Background(port.wait, 0.1)
    inside_wait(waiter)
    far.send(b"for nobody")
    far.shutdown(socket.SHUT_WR)
    port.submit(unio.Recv(handle, bytearray(1)), 3600)
    port.submit(unio.Timer(3600))
    assert waiter.result() == []
    assert time.monotonic() - start >= 0.1


@pytest.mark.clause("P6")
def test_a_packet_that_another_thread_took_does_not_end_a_wait_early(port: unio.Port) -> None:
    def wait(_: int) -> tuple[int, float]:
        start = time.monotonic()
        return len(port.wait(0.1)), time.monotonic() - start

    waiters = [Background(wait, number) for number in range(6)]
    for waiter in waiters:
        inside_wait(waiter)
    port.post("for one of them")
    found = [waiter.result() for waiter in waiters]
    assert sorted(count for count, _ in found) == [0, 0, 0, 0, 0, 1]
    assert all(elapsed >= 0.1 for count, elapsed in found if not count)


@needs_interval_timer
@pytest.mark.clause("P6", "L4")
@pytest.mark.process_wide
def test_signals_neither_end_nor_fail_a_wait(port: unio.Port) -> None:
    with interval_timer(0.002, lambda: None):
        start = time.monotonic()
        assert port.wait(0.1) == []
        assert time.monotonic() - start >= 0.1


@pytest.mark.clause("P6")
def test_a_time_out_is_given_once(port: unio.Port) -> None:
    for _ in range(2):  # in a thread that has waited before as in one that has not
        with pytest.raises(TypeError, match="timeout"):
            port.wait(0, timeout=0)  # type: ignore[call-overload, misc]
        assert_idle(port)


@needs_interval_timer
@pytest.mark.clause("P2")
@pytest.mark.process_wide
def test_a_thread_that_waits_on_another_port_in_the_middle_of_a_wait_keeps_no_place(
    backend: str, resources: contextlib.ExitStack
) -> None:
    port = resources.enter_context(unio.Port(backend=backend, concurrency=1))
    other = resources.enter_context(unio.Port(backend=backend))

    class Loop:
        """Something with a port of its own, which it drains when it is dropped."""

        def __del__(self) -> None:
            assert_idle(other)
            port.post("dropped")

    loops: list[Loop] = []
    resources.callback(signal.signal, signal.SIGALRM, signal.signal(signal.SIGALRM, lambda *_: loops.clear()))
    for number in range(3):
        loops.append(Loop())
        assert_idle(port)
        signal.setitimer(signal.ITIMER_REAL, 0.005)
        assert completion(port).key == "dropped"
        port.post(number)
        assert completion(port).key == number, "the place is there for the next wait"


@pytest.mark.clause("P6")
def test_the_limit_is_honoured(port: unio.Port) -> None:
    for number in range(10):
        port.post(number)
    assert [len(port.wait(0, limit)) for limit in (3, 1, 3, 3, 3)] == [3, 1, 3, 3, 0]


@pytest.mark.clause("P6")
def test_the_limit_is_honoured_by_what_the_system_has_ready(port: unio.Port, make_pair: Any) -> None:
    pairs = [make_pair(local=True) for _ in range(10)]
    for number, (near, _) in enumerate(pairs):
        port.submit(unio.Recv(port.associate(near, number), bytearray(1)))
    for _, far in pairs:
        far.send(b"x")
    batches = [port.wait(0, 4), port.wait(0, 4), port.wait(0, 4)]
    assert [len(batch) for batch in batches] == [4, 4, 2]
    assert sorted(found.key for batch in batches for found in batch) == list(range(10))


@pytest.mark.clause("P6")
def test_a_huge_limit_is_a_limit(port: unio.Port) -> None:
    for number in range(1000):
        port.post(number)
    assert len(port.wait(0, 10**12)) == 1000
    assert port.wait(0, 10**12) == []


@pytest.mark.clause("P6")
@pytest.mark.parametrize("timeout", [None, math.inf, 1e9, 1e18, sys.float_info.max, 10**20, 3600])
def test_a_wait_without_an_end_in_sight_ends_with_the_packet(port: unio.Port, timeout: float | None) -> None:
    waiter = Background(port.wait, timeout)
    inside_wait(waiter)
    port.post("here")
    assert [found.key for found in waiter.result()] == ["here"]


@pytest.mark.clause("P6")
@pytest.mark.parametrize("timeout", [-1, -1e-9, -math.inf, math.nan])
def test_a_time_out_that_is_no_duration_is_refused(port: unio.Port, timeout: float) -> None:
    port.post("kept")
    with pytest.raises(ValueError, match="negative or NaN"):
        port.wait(timeout)
    assert [found.key for found in port.wait(0)] == ["kept"]


@pytest.mark.clause("P6")
@pytest.mark.parametrize("limit", [0, -1, -(10**9)])
def test_a_limit_below_one_is_refused(port: unio.Port, limit: int) -> None:
    port.post("kept")
    with pytest.raises(ValueError, match="limit"):
        port.wait(0, limit)
    assert [found.key for found in port.wait(0)] == ["kept"]


@pytest.mark.clause("P6")
def test_arguments_of_the_wrong_type_are_refused(port: unio.Port) -> None:
    port.post("kept")
    wrong: Any
    for wrong in ("1", b"1", [1], 1j):
        with pytest.raises(TypeError):
            port.wait(wrong)
    for wrong in ("1", 1.5, None):
        with pytest.raises(TypeError):
            port.wait(0, wrong)
    assert [found.key for found in port.wait(0)] == ["kept"]


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
        port.flush,
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


# Clause P8: packets of the caller's own


@pytest.mark.clause("P8", "C1")
def test_a_post_comes_back_verbatim(port: unio.Port) -> None:
    key, operation = object(), object()
    packets = [
        (key, operation, 7),
        (key, None, 0),
        (None, None, 0),
        (None, key, -1),
        ("key", ["list"], 2**70),
    ]
    for packet in packets:
        port.post(*packet)
    found = completions(port, len(packets))
    for packet, each in zip(packets, found, strict=True):
        assert type(each) is unio.Completion
        assert each.key is packet[0]
        assert each.operation is packet[1]
        assert each.transferred == packet[2]
        assert each.error is None
    port.post("only a key")
    assert completion(port) == ("only a key", None, 0, None)


@pytest.mark.clause("P8")
def test_a_posted_operation_is_not_submitted_by_that(port: unio.Port) -> None:
    timer = unio.Timer(3600)
    port.post("key", timer, 3)
    assert not timer.in_flight
    assert completion(port) == ("key", timer, 3, None)
    assert timer.transferred == 0
    port.submit(timer)
    port.post("key", timer)
    assert completion(port).operation is timer
    assert timer.in_flight, "its own completion is still to come"


@pytest.mark.clause("P8")
def test_a_post_never_blocks_however_many_nobody_takes(port: unio.Port) -> None:
    count = 200_000
    for number in range(count):
        port.post(number)
    assert [found.key for found in completions(port, count)] == list(range(count))
    assert_idle(port)


@pytest.mark.clause("P8")
def test_threads_get_their_work_and_are_told_to_exit_by_posts(port: unio.Port) -> None:
    results: list[int] = []

    def serve() -> None:
        while True:
            for number, _, _, _ in port.wait(PATIENCE, limit=1):
                if number is None:
                    return
                results.append(number * number)

    servers = [Background(serve) for _ in range(4)]
    for number in range(100):
        port.post(number)
    for _ in servers:
        port.post(None)
    for server in servers:
        server.result()
    assert sorted(results) == [number * number for number in range(100)]


def signal_main_thread(handled: threading.Event) -> None:
    """Send the main thread a signal in its wait, again and again until its handler has run.

    One is not enough: Python calls a handler between two instructions, and a signal that comes just before a system
    call has to wait for the end of that call.
    """
    inside_wait(threading.main_thread())
    while not handled.is_set():
        os.kill(os.getpid(), signal.SIGUSR1)
        handled.wait(0.02)


@pytest.mark.skipif(sys.platform == "win32", reason="os.kill sends no such signal here")
@pytest.mark.clause("P8")
@pytest.mark.process_wide
def test_a_signal_handler_ends_the_wait_of_the_main_thread_by_a_post(port: unio.Port) -> None:
    handled = threading.Event()

    def handle_signal(*_: object) -> None:
        if not handled.is_set():
            port.post("signal")
            handled.set()

    with signal_handler(signal.SIGUSR1, handle_signal):
        for _ in range(20):
            handled.clear()
            sender = Background(signal_main_thread, handled)
            assert completion(port).key == "signal"
            sender.result()
    assert_idle(port)


@needs_interval_timer
@pytest.mark.clause("P8")
@pytest.mark.process_wide
def test_a_signal_handler_posts_whatever_the_main_thread_is_doing(port: unio.Port, make_pair: Any) -> None:
    # The handler runs between two instructions of the main thread, also within a post, a submit or a wait: one that
    # takes a lock which the interrupted call holds would wait for itself for ever.
    near, far = make_pair(local=True)
    handle = port.associate(near, "socket")
    posted = 0

    def handle_signal() -> None:
        nonlocal posted
        port.post("signal")
        posted += 1

    expected: Counter[str] = Counter()
    seen: Counter[str] = Counter()
    with interval_timer(0.0005, handle_signal):
        while posted < 300:
            timer = unio.Timer(0, "timer")
            received = unio.Recv(handle, bytearray(1))
            port.submit(timer)
            port.submit(received)
            port.post("post")
            if expected["post"] % 2:
                far.send(b"x")
            else:
                port.cancel(received)
            expected.update(("timer", "socket", "post"))
            seen.update(found.key for found in port.wait(0.0001))
            seen.update(found.key for found in port.wait(0))
    expected["signal"] = posted
    seen.update(found.key for found in completions(port, expected.total() - seen.total()))
    assert seen == expected
    assert_idle(port)


@pytest.mark.skipif(sys.platform == "win32", reason="os.kill sends no such signal here")
@pytest.mark.clause("P8")
@pytest.mark.process_wide
def test_an_exception_of_a_signal_handler_leaves_the_wait_and_the_port_works_on(
    port: unio.Port, make_pair: Any
) -> None:
    class Interrupted(Exception):
        pass

    handled = threading.Event()

    def interrupt(*_: object) -> None:
        if not handled.is_set():
            handled.set()
            raise Interrupted

    near, far = make_pair()
    handle = port.associate(near)
    received = unio.Recv(handle, bytearray(8))
    port.submit(received)
    with signal_handler(signal.SIGUSR1, interrupt):
        sender = Background(signal_main_thread, handled)
        with pytest.raises(Interrupted):
            port.wait(PATIENCE)
        sender.result()
    far.send(b"data")
    assert completion(port).operation is received
    port.post("next")
    assert Background(completion, port).result().key == "next"


@contextlib.contextmanager
def signal_handler(number: int, handler: Callable[..., None]) -> Iterator[None]:
    previous = signal.signal(number, handler)
    try:
        yield
    finally:
        signal.signal(number, previous)


@contextlib.contextmanager
def interval_timer(seconds: float, function: Callable[[], None]) -> Iterator[None]:
    """Signals at an interval; the function runs in the handler, in the main thread."""
    with signal_handler(signal.SIGALRM, lambda *_: function()):
        signal.setitimer(signal.ITIMER_REAL, seconds, seconds)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)


# Clause P9: keys


class Hostile:
    """A key that fails whatever looks at it."""

    def _fail(self, *_: object) -> Any:
        raise AssertionError("a key is not to be looked at")

    __eq__ = __hash__ = __bool__ = __len__ = __iter__ = __call__ = _fail


@pytest.mark.clause("P9")
@pytest.mark.parametrize("key", [None, False, 0, "text", (), [], {}, object(), Hostile(), Hostile], ids=lambda key: "")
def test_a_key_is_any_object_and_comes_back_as_the_same(port: unio.Port, make_pair: Any, key: Any) -> None:
    near, far = make_pair(local=True)
    handle = port.associate(near, key)
    far.send(b"x")
    operations = [unio.Send(handle, b"x"), unio.Recv(handle, bytearray(1)), unio.Timer(0, key)]
    for operation in operations:
        port.submit(operation)
    port.post(key)
    found = completions(port, 4)
    assert len(found) == 4
    assert all(each.key is key for each in found)
    assert handle.key is key
    assert all(operation.key is key for operation in operations)
    handle.close()


@pytest.mark.clause("P9")
def test_handles_may_share_a_key(port: unio.Port, make_pair: Any) -> None:
    key = object()
    for _ in range(3):
        near, _far = make_pair(local=True)
        port.submit(unio.Send(port.associate(near, key), b"x"))
    assert [found.key for found in completions(port, 3)] == [key] * 3


@pytest.mark.clause("P9")
def test_a_key_is_not_kept_longer_than_its_handle(port: unio.Port, make_pair: Any) -> None:
    class Key:
        pass

    key = Key()
    near, _ = make_pair()
    handle = port.associate(near, key)
    succeed(port, unio.Send(handle, b"x"))
    port.submit(unio.Recv(handle, bytearray(1)))
    handle.close()
    assert completion(port).key is key
    gone = weakref.ref(key)
    del key, handle
    gc.collect()
    assert gone() is None


# Clause P10: fork


def every_method_raises(port: unio.Port, handle: unio.Handle, operation: unio.Operation) -> None:
    near, _far = socket.socketpair()
    calls: list[Callable[[], object]] = [
        port.wait,
        lambda: port.wait(0),
        lambda: port.post("child"),
        lambda: port.submit(unio.Timer(0)),
        lambda: port.submit(operation),
        lambda: port.cancel(operation),
        lambda: port.associate(near),
        port.flush,
        handle.cancel,
    ]
    for call in calls:
        with pytest.raises(RuntimeError) as caught:
            call()
        assert type(caught.value) is RuntimeError, caught.value
        assert "fork" in str(caught.value)
    assert port.closed


@needs_fork
@pytest.mark.clause("P10")
def test_in_a_forked_child_every_method_raises(port: unio.Port, make_pair: Any) -> None:
    near, far = make_pair()
    handle = port.associate(near)
    operation = unio.Recv(handle, bytearray(8))
    port.submit(operation)
    in_child(lambda: every_method_raises(port, handle, operation))
    far.send(b"data")
    assert completion(port).transferred == 4


@needs_fork
@pytest.mark.clause("P10")
def test_what_a_forked_child_closes_and_drops_leaves_the_port_of_the_parent_untouched(
    port: unio.Port, make_pair: Any, make_listener: Any, resources: contextlib.ExitStack
) -> None:
    near, far = make_pair()
    listening = make_listener()
    handle = port.associate(near, "socket")
    port.submit(unio.Recv(handle, bytearray(8)))
    accept = unio.Accept(port.associate(listening, "listener"))
    port.submit(accept)
    port.submit(unio.Timer(0.01, "timer"))

    def child() -> None:
        port.close()
        port.close()
        handle.close()
        near.close()
        listening.close()
        gc.collect()

    in_child(child)
    client = resources.enter_context(connect(listening))
    far.send(b"data")
    port.post("post")
    assert sorted(found.key for found in completions(port, 4)) == ["listener", "post", "socket", "timer"]
    assert accept.socket is not None
    with accept.socket:
        assert accept.address == client.getsockname()
    assert succeed(port, unio.Send(handle, b"data")).transferred == 4


@needs_fork
@pytest.mark.clause("P10")
def test_a_fork_while_threads_are_busy_with_the_port_blocks_no_one(port: unio.Port, make_pair: Any) -> None:
    # The child gets a copy of the locks at an arbitrary moment, held by threads that it does not have.
    near, far = make_pair()
    handle = port.associate(near)
    operation = unio.Recv(handle, bytearray(8))
    port.submit(operation)
    stop = threading.Event()

    def work(_: int) -> int:
        seen = 0
        while not stop.is_set():
            port.post("work")
            port.submit(unio.Timer(0, "work"))
            seen += len(completions(port, 2))
        return seen

    workers = [Background(work, number) for number in range(3)]
    try:
        for _ in range(10):
            in_child(lambda: (every_method_raises(port, handle, operation), port.close()))
    finally:
        stop.set()
    assert all(worker.result() % 2 == 0 for worker in workers)
    far.send(b"data")
    assert completion(port).operation is operation


@needs_fork
@pytest.mark.clause("P10", "A1")
@pytest.mark.process_wide
def test_a_forked_child_makes_a_port_of_its_own_for_what_it_inherited(
    port: unio.Port, backend: str, make_listener: Any, resources: contextlib.ExitStack
) -> None:
    listening = make_listener()
    handle = port.associate(listening, "parent's")

    def child() -> None:
        with unio.Port(backend=backend) as own, connect(listening) as client:
            accept = unio.Accept(own.associate(listening, "child's"))
            own.submit(accept)
            assert completion(own).key == "child's"
            assert accept.address == client.getsockname()

    in_child(child)
    accept = unio.Accept(handle)
    port.submit(accept)
    client = resources.enter_context(connect(listening))
    assert completion(port).key == "parent's"
    assert accept.socket is not None
    with accept.socket:
        assert accept.address == client.getsockname()


@needs_fork
@pytest.mark.clause("P10")
def test_a_forked_child_that_exits_in_the_ordinary_way_leaves_the_port_of_the_parent_untouched(backend: str) -> None:
    program = """
import os, socket, sys, warnings, unio
warnings.simplefilter("ignore", DeprecationWarning)
port = unio.Port(backend=sys.argv[1])
near, far = socket.socketpair()
handle = port.associate(near, "socket")
port.submit(unio.Recv(handle, bytearray(8)))
port.submit(unio.Timer(0.01, "timer"))
pid = os.fork()
if pid:
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    far.send(b"data")
    found = []
    while len(found) < 2:
        found += [completion.key for completion in port.wait(30) or sys.exit("nothing came")]
    assert sorted(found) == ["socket", "timer"], found
    port.close()
    print("parent")
else:
    print("child", flush=True)
"""
    done = run_program(program, backend)
    assert done.stdout.split() == ["child", "parent"]


# Clause P11: a port that is dropped


def run_program(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python code in a process of its own, with all of Python's own checks; it must end well."""
    command = [sys.executable, "-X", "dev", "-c", program, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    return done


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
@pytest.mark.parametrize("start", [start_recv, start_timer, start_recv_with_time_out, start_send])
def test_a_port_dropped_with_operations_in_flight_warns(
    backend: str, make_pair: Any, tmp_path: Path, start: Start
) -> None:
    near, far = make_pair()
    port = unio.Port(backend=backend)
    start(port, near, tmp_path / "file")
    with pytest.warns(ResourceWarning, match="was dropped with 1 operations? in flight"):  # noqa: PT031
        del port
        gc.collect()
    near.settimeout(PATIENCE)
    far.send(b"data")
    assert recv_exactly(near, 4) == b"data", "the socket is the caller's, and nobody receives on it any more"


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
    done = run_program(program, backend, str(tmp_path / "file"))
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
