"""The clauses P of the contract: the port as a queue that threads share, in order and with no wake-up missed."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from support import (
    PATIENCE,
    Background,
    asleep,
    assert_idle,
    batch,
    completion,
    completions,
    in_threads,
    inside_wait,
    recv_exactly,
    restless,
    until,
)

import unio

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
            for found in batch(port, limit=3):
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
            found = batch(self.port, limit=5)
            for key, operation, transferred, _ in found:
                if key is not None:
                    with self.lock:
                        self.seen[key, operation.state if operation else transferred] += 1
            if found[-1].key is None:
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
    port.start_gathered()
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
            [found] = batch(port)
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
