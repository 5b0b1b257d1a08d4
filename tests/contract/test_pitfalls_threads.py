"""Where emulations have gone wrong before, by what happened at the same time: cancels, threads, posts, closing.

Each test says in its docstring what went wrong elsewhere.
"""

from __future__ import annotations

import contextlib
import gc
import threading
from pathlib import Path
from typing import Any

import channels
import pytest
import support

import unio

# Cancelling


@pytest.mark.clause("X1", "S1")
def test_a_cancel_that_races_an_immediate_completion_leaves_one_completion(
    port: unio.Port, resources: contextlib.ExitStack
) -> None:
    """A cancel found an operation that was completing in its own submit, and it ended twice or not at all."""
    near, far = channels.incoming(resources, channels.NEAR_BY)
    handle = port.associate(near)
    recv = unio.Recv(handle, bytearray(1))
    done = threading.Event()

    def cancel():
        while not done.is_set():
            port.cancel(recv)

    with contextlib.ExitStack() as stack:
        canceller = support.Background(cancel)
        stack.callback(canceller.result)
        stack.callback(done.set)
        received = 0
        for _ in range(3000):
            far.send(b"x")
            port.submit(recv)
            completion = support.completion(port)
            assert completion.operation is recv
            if completion.error is None:
                assert completion.transferred == 1
                received += 1
            else:
                support.assert_cancelled(completion)
                assert completion.transferred == 0
    support.assert_idle(port)
    rest = 0
    near.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            rest += len(near.recv(100_000))
    assert received + rest == 3000


@pytest.mark.clause("X4")
@channels.every_stream
def test_a_cancel_that_comes_too_late_is_forgotten(
    port: unio.Port, resources: contextlib.ExitStack, transport: str
) -> None:
    """A mark that the cancel had left behind ended the next operation."""
    near, far = channels.incoming(resources, transport)
    handle = port.associate(near)
    recv = unio.Recv(handle, bytearray(1))
    for _ in range(20):
        far.send(b"x")
        port.submit(recv)
        port.cancel(recv)  # it has its result already
        assert support.completion(port) == (None, recv, 1, None)
        assert not port.cancel(recv)
        assert handle.cancel() == 0
        port.submit(recv)
        support.assert_idle(port)
        far.send(b"y")
        assert support.completion(port) == (None, recv, 1, None)


@pytest.mark.clause("X1", "O1")
def test_a_connection_is_never_lost_to_the_cancel_of_its_accept(
    port: unio.Port, resources: contextlib.ExitStack
) -> None:
    """An accept that won against its cancel was reported as cancelled, and its socket was leaked."""
    listening = channels.listener(resources, "tcp", 500)
    accept = unio.Accept(port.associate(listening))
    rounds = 300

    def connect():
        for _ in range(rounds):
            support.connect(listening).close()

    peer = support.Background(connect)
    accepted = 0
    while accepted < rounds:
        port.submit(accept)
        port.cancel(accept)
        completion = support.completion(port)
        if completion.error is None:
            accept.socket.close()
            accepted += 1
        else:
            support.assert_cancelled(completion)
    peer.result()
    port.submit(accept)
    support.assert_idle(port)


@pytest.mark.clause("S5")
def test_what_is_in_flight_outlives_the_interest_of_its_caller(
    port: unio.Port, resources: contextlib.ExitStack
) -> None:
    """The caller dropped operation and buffer, and the system wrote into memory that was another's by then."""
    near, far = channels.incoming(resources, "tcp")
    handle = port.associate(near)
    for number in range(100):
        port.submit(unio.Recv(handle, bytearray(8), state=number))
    gc.collect()
    far.send(b"12345678" * 100)
    found = support.completions(port, 100)
    assert [completion.operation.state for completion in found] == list(range(100))
    assert {bytes(completion.operation.buffer) for completion in found} == {b"12345678"}


@pytest.mark.clause("X2", "S1")
def test_cancelling_among_thousands_of_operations_ends_each_once(
    port: unio.Port, resources: contextlib.ExitStack
) -> None:
    """Cancels looked through all that was in flight, and some were missed or met twice."""
    near, _ = channels.incoming(resources, "tcp")
    handle = port.associate(near)
    receives = [unio.Recv(handle, bytearray(1), state=number) for number in range(5000)]
    for recv in receives:
        port.submit(recv)
    single = receives[::2]
    assert all(port.cancel(recv) for recv in single)
    assert handle.cancel() == 2500
    found = [completion.operation for completion in support.completions(port, 5000)]
    assert found[:2500] == single
    assert found[2500:] == receives[1::2]
    support.assert_idle(port)


# Waking up


@pytest.mark.clause("P2", "P8")
def test_no_wake_up_is_ever_missed(make_port: Any) -> None:
    """A wake-up that came just before the sleep, or a second one right after the first, was swallowed."""
    here, there = make_port(), make_port()
    rounds = 3000

    def answer():
        for number in range(rounds):
            assert support.completion(there).key == number
            here.post(number)

    other = support.Background(answer)
    for number in range(rounds):
        there.post(number)
        assert support.completion(here).key == number
    other.result()


@pytest.mark.clause("P2", "S1")
def test_one_packet_is_given_to_one_of_many_threads(port: unio.Port, resources: contextlib.ExitStack) -> None:
    """One event woke every thread that waited, and more than one of them took it."""
    near, far = channels.incoming(resources, "tcp")
    handle = port.associate(near, "data")
    seen = []

    def wait(number):
        while (completion := support.completion(port)).key != "exit":
            seen.append(completion.key)
            if completion.key == "data":
                port.submit(completion.operation)
                far.send(b"x") if len(seen) < 1000 else port.post("done")

    threads = [support.Background(wait, number) for number in range(8)]
    port.submit(unio.Recv(handle, bytearray(1)))
    far.send(b"x")
    support.until(lambda: "done" in seen)
    for _ in threads:
        port.post("exit")
    for thread in threads:
        thread.result()
    assert seen.count("done") == 1
    assert seen.count("data") == len(seen) - 1 == 1000


@pytest.mark.clause("P8")
def test_posts_that_nobody_takes_never_block(port: unio.Port) -> None:
    """The pipe that woke the waiting thread was full, and the post blocked or was lost."""
    for number in range(100_000):
        port.post(number)
    found = []
    while len(found) < 100_000:
        found += [completion.key for completion in support.batch(port, limit=10_000)]
    assert found == list(range(100_000))


@pytest.mark.clause("P7", "P2")
def test_closing_the_port_amid_all_its_work_blocks_nobody(
    make_port: Any, resources: contextlib.ExitStack, tmp_path: Path
) -> None:
    """The close waited for threads that waited for the close."""
    path = tmp_path / "file"
    path.write_bytes(bytes(support.MIB))
    for _ in range(10):
        port = make_port()
        near, far = support.local_pair()
        with near, far, unio.open(path) as file:
            stream, stored = port.associate(near), port.associate(file)

            def work(number, port=port, stream=stream, stored=stored):
                while True:
                    operation = [
                        unio.Recv(stream, bytearray(1)),
                        unio.Read(stored, bytearray(1000), 0),
                        unio.Timer(0.0001),
                    ][number % 3]
                    port.submit(operation, 1)
                    port.post(number)
                    if number % 2:
                        port.cancel(operation)
                    port.wait(support.PATIENCE)

            threads = [support.Background(work, number) for number in range(6)]
            for _ in range(20):
                far.send(b"xxxxxxxx")
                port.post("more")
            port.close()
            for thread in threads:
                with pytest.raises(unio.PortClosed):
                    thread.result()


@pytest.mark.clause("S1", "P1")
def test_thousands_of_results_that_nobody_takes_are_all_kept(port: unio.Port, resources: contextlib.ExitStack) -> None:
    """The kernel's queue of results had a size, and what came on top was dropped."""
    near, far = channels.incoming(resources, channels.NEAR_BY)
    handle = port.associate(near, "data")
    for _ in range(10_000):
        far.send(b"x")
        for operation in (unio.Timer(0, "timer"), unio.Recv(handle, bytearray(1))):
            port.submit(operation)
        port.post("post")
    keys = [completion.key for completion in support.completions(port, 30_000)]
    assert [keys.count(key) for key in ("timer", "data", "post")] == [10_000] * 3
    support.assert_idle(port)


ASKED = """
import socket, sys
import unio

class Named:
    def __init__(self, sock):
        self.sock, self.asks = sock, None

    def fileno(self):
        if self.asks is not None:
            asks, self.asks = self.asks, None
            asks()
            self.asks = asks
        return self.sock.fileno()

    def close(self):
        self.sock.close()

port = unio.Port(backend=sys.argv[1])
near, far = socket.socketpair()
named = Named(near)
handle = port.associate(named)
found = []
named.asks = lambda: (found.extend(port.wait(0)), handle.cancel())
receives = [unio.Recv(handle, bytearray(1)) for _ in range(3)]
polls = [unio.Poll(handle, unio.Readiness.READABLE) for _ in range(3)]
for operation in [*receives, *polls]:
    port.submit(operation)
port.cancel(receives[0])
while len(found) < 6:
    found += port.wait(30)
assert {type(each.error) for each in found} == {unio.Cancelled}, found
far.send(b"xyz")
for operation in [*receives, *polls]:
    port.submit(operation)
handle.close()
while len(found) < 12:
    found += port.wait(30)
assert sorted(map(id, (each.operation for each in found))) == sorted(2 * list(map(id, [*receives, *polls])))
port.close()
far.close()
"""


@pytest.mark.clause("X1", "X2", "S1")
def test_an_object_that_is_asked_for_its_number_may_use_the_port(backend: str) -> None:
    """It was asked while a lock was held, which its own call then waited for."""
    assert channels.run_script(ASKED, backend) == ""
