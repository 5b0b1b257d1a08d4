"""The clauses L1 to L3 of the contract: nobody starves, and what is idle costs nothing."""

from __future__ import annotations

import contextlib
import socket
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support import (
    BIG,
    PATIENCE,
    Background,
    assert_idle,
    assert_nothing_comes,
    batch,
    completion,
    completions,
    connect,
    reset,
    send_all,
)

import unio

posix_only = pytest.mark.skipif(sys.platform == "win32", reason="POSIX only")

BUSY_MAX = 3000
"""After how many completions of others the one that is waited for must have come. The contract names no number; what
starves never comes at all."""


def completions_until(port: unio.Port, key: object, limit: int, again: Callable[[unio.Completion], None]) -> int:
    """How many others come before the completion with this key; each is passed on to keep the port busy."""
    others = 0
    while others < BUSY_MAX:
        for found in batch(port, limit):
            if found.key == key:
                return others
            others += 1
            again(found)
    raise AssertionError(f"{others} completions came, and none for {key!r}")


def submit_again(port: unio.Port) -> Callable[[unio.Completion], None]:
    return lambda found: port.submit(found.operation) and None


# Clause L1: a busy handle


@pytest.mark.clause("L1")
@pytest.mark.parametrize("limit", [1, 64])
def test_a_handle_with_much_to_receive_does_not_starve_another(port: unio.Port, make_pair: Any, limit: int) -> None:
    busy, busy_far = make_pair()
    quiet, quiet_far = make_pair()
    send_all(busy_far, bytes(500_000))
    handle = port.associate(busy, "busy")
    for _ in range(3):
        port.submit(unio.Recv(handle, bytearray(1)))
    waiting = unio.Recv(port.associate(quiet, "quiet"), bytearray(1))
    for _ in range(10):
        port.submit(waiting)
        quiet_far.send(b"x")
        completions_until(port, "quiet", limit, submit_again(port))


@pytest.mark.clause("L1")
def test_a_long_queue_of_receives_on_one_handle_does_not_starve_another(port: unio.Port, make_pair: Any) -> None:
    busy, busy_far = make_pair()
    quiet, quiet_far = make_pair()
    handle = port.associate(busy, "busy")
    for _ in range(2 * BUSY_MAX):
        port.submit(unio.Recv(handle, bytearray(1)))
    waiting = unio.Recv(port.associate(quiet, "quiet"), bytearray(1))
    port.submit(waiting)
    busy_far.send(bytes(2 * BUSY_MAX))
    quiet_far.send(b"x")
    if port.backend == "iocp":  # the kernel itself receives what comes, as it comes: all of that was before
        assert {found.key for found in completions(port, 2 * BUSY_MAX + 1)} == {"busy", "quiet"}
    else:
        completions_until(port, "quiet", 64, lambda found: None)


@pytest.mark.clause("L1")
@pytest.mark.parametrize("skip", [False, True])
def test_what_is_left_when_a_handle_has_had_its_turn_is_done_later(
    port: unio.Port, make_pair: Any, *, skip: bool
) -> None:
    # All the data comes with one event: nothing but the port itself remembers that there is more to do.
    near, far = make_pair()
    handle = port.associate(near, skip_on_success=skip)
    for _ in range(1000):
        port.submit(unio.Recv(handle, bytearray(1)))
    far.send(bytes(1000))
    for found in completions(port, 1000):
        assert found[2:] == (1, None)
    assert_idle(port)


@pytest.mark.clause("L1")
@pytest.mark.parametrize("kind", ["send", "send one buffer", "send_file"])
def test_a_big_send_to_a_fast_reader_does_not_starve_another(
    port: unio.Port, make_pair: Any, resources: contextlib.ExitStack, tmp_path: Path, kind: str
) -> None:
    size = 1 << 28
    busy, busy_far = make_pair(local=True)
    quiet, quiet_far = make_pair(local=True)

    def read() -> int:
        buffer = bytearray(1 << 20)
        received = 0
        while received < size:
            received += busy_far.recv_into(buffer)
        return received

    handle = port.associate(busy, "busy")
    operation: unio.Operation
    if kind == "send":
        operation = unio.Send(handle, [bytes(1 << 16)] * (size >> 16))
    elif kind == "send one buffer":
        operation = unio.Send(handle, bytes(size))
    else:
        file = resources.enter_context(unio.open(tmp_path / "file", "w+b"))
        file.truncate(size)
        operation = unio.SendFile(handle, file)
    waiting = unio.Recv(port.associate(quiet, "quiet"), bytearray(1))
    port.submit(waiting)
    reader = Background(read)
    port.submit(operation)
    answered = 0
    while operation.in_flight:
        if not waiting.in_flight:
            port.submit(waiting)
        quiet_far.send(b"x")
        for found in completions(port, 1):
            answered += found.key == "quiet"
    assert operation.error is None
    assert reader.result() == operation.transferred == size
    assert answered >= 3, "the other one was served while the big send went on"


# Clause L2: what is idle


@contextlib.contextmanager
def many_descriptors(count: int) -> Iterator[None]:
    """Room for that many, or the test is skipped."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count + 200
    if hard != resource.RLIM_INFINITY and hard < wanted:
        pytest.skip(f"the system allows {hard} descriptors")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def calls(function: Callable[[], object]) -> int:
    """How many functions are called, of Python's and of C's: a cost that no other load of the machine changes."""
    count = 0

    def watch(frame: object, event: str, argument: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(watch)
    try:
        function()
    finally:
        sys.setprofile(None)
    return count


def usual_calls_of_a_completion(port: unio.Port, handle: unio.Handle, far: socket.socket) -> float:
    """Of a receive that pends, and is completed by the kernel's event."""
    operation = unio.Recv(handle, bytearray(1))

    def once() -> None:
        port.submit(operation)
        far.send(b"x")
        assert completion(port).operation is operation

    # The usual one: now and then a port may look after the idle ones, as long as that is rare.
    return statistics.median(calls(once) for _ in range(101))


@posix_only
@pytest.mark.clause("L2")
@pytest.mark.parametrize("timeout", [None, 3600])
def test_the_cost_of_a_completion_does_not_grow_with_the_number_of_idle_handles(
    port: unio.Port, make_pair: Any, resources: contextlib.ExitStack, timeout: float | None
) -> None:
    near, far = make_pair(local=True)
    handle = port.associate(near, "busy")
    idle = 0

    def more_idle(until: int) -> None:
        nonlocal idle
        while idle < until:
            sock = resources.enter_context(socket.socket(type=socket.SOCK_DGRAM))
            sock.bind(("127.0.0.1", 0))
            port.submit(unio.RecvFrom(port.associate(sock), bytearray(1)), timeout)
            idle += 1

    with many_descriptors(2000):
        more_idle(10)
        few = usual_calls_of_a_completion(port, handle, far)
        more_idle(2000)
        many = usual_calls_of_a_completion(port, handle, far)
    assert many <= few


@posix_only
@pytest.mark.clause("L2")
def test_the_cost_of_a_completion_does_not_grow_with_the_operations_that_wait_on_its_handle(
    port: unio.Port, make_pair: Any
) -> None:
    near, far = make_pair(local=True)
    handle = port.associate(near)

    def cost() -> float:
        return statistics.median(
            calls(lambda: (far.send(b"x"), port.wait(PATIENCE, 1), port.submit(unio.Recv(handle, bytearray(1)))))
            for _ in range(51)
        )

    for _ in range(10):
        port.submit(unio.Recv(handle, bytearray(1)))
    few = cost()
    for _ in range(5000):
        port.submit(unio.Recv(handle, bytearray(1)))
    assert cost() <= few


@posix_only
@pytest.mark.clause("L2")
@pytest.mark.parametrize("end", ["half-closed", "closed", "reset", "data", "urgent data"])
@pytest.mark.parametrize("pending", [False, True])
def test_a_peer_that_has_gone_or_waits_keeps_nobody_busy(
    port: unio.Port, make_pair: Any, end: str, *, pending: bool
) -> None:
    # A hang-up stays true for ever; a port that is told of it again and again would spin.
    near, far = make_pair()
    handle = port.associate(near)
    if pending:
        port.submit(unio.Send(handle, bytes(BIG)))
    if end == "half-closed":
        far.shutdown(socket.SHUT_WR)
    elif end == "closed":
        far.close()
    elif end == "reset":
        reset(far)
    elif end == "data":
        far.send(b"for nobody")
    else:
        far.send(b"!", socket.MSG_OOB)
    if pending and end in ("closed", "reset"):
        assert completion(port).error is not None
    assert_idle(port)
    assert calls(lambda: assert_nothing_comes(port, 0.2)) < 500


@posix_only
@pytest.mark.clause("L2")
def test_a_pipe_without_a_reader_or_a_writer_keeps_nobody_busy(
    port: unio.Port, resources: contextlib.ExitStack
) -> None:
    for kept in (0, 1):
        ends = unio.pipe()
        port.associate(resources.enter_context(ends[kept]))
        ends[1 - kept].close()
    assert_idle(port)
    assert calls(lambda: assert_nothing_comes(port, 0.2)) < 500


@posix_only
@pytest.mark.clause("L2", "P2")
def test_threads_that_wait_for_nothing_are_not_busy(port: unio.Port, make_pair: Any) -> None:
    near, _ = make_pair()
    port.submit(unio.Recv(port.associate(near), bytearray(1)))

    def wait() -> int:
        return calls(lambda: assert_nothing_comes(port, 0.3))

    waiters = [Background(wait) for _ in range(4)]
    for waiter in waiters:
        assert waiter.result() < 500


# Clause L3: floods


@pytest.mark.clause("L3")
@pytest.mark.parametrize("limit", [1, 64])
@pytest.mark.parametrize("timeout", [0, PATIENCE])
def test_a_flood_of_posts_starves_neither_input_nor_timers(
    port: unio.Port, make_pair: Any, limit: int, timeout: float
) -> None:
    near, far = make_pair()
    port.submit(unio.Recv(port.associate(near, "socket"), bytearray(1)))
    port.submit(unio.Timer(0, "timer"))
    port.submit(unio.Timer(3600, "time-out"), 0)
    far.send(b"x")
    for _ in range(100):
        port.post("flood")
    wanted = {"socket", "timer", "time-out"}
    posts = 0
    while wanted:
        for found in port.wait(timeout, limit):
            if found.key == "flood":
                port.post("flood")  # there is always another one
                posts += 1
            else:
                wanted.remove(found.key)
        assert posts < BUSY_MAX, f"{posts} posts came, and nothing of {wanted}"


@pytest.mark.clause("L3")
@pytest.mark.parametrize("timers", [0, 1])
def test_slow_handlers_of_a_flood_keep_input_waiting_for_few_of_them(
    port: unio.Port, make_pair: Any, timers: int
) -> None:
    """How many packets are taken before the system is asked again was a number only, however long each of them took."""
    near, far = make_pair()
    for _ in range(timers):
        port.submit(unio.Timer(3600))
    operation = unio.Recv(port.associate(near, "socket"), bytearray(1))
    for _ in range(10):
        port.submit(operation)
        assert_idle(port)
        port.post("flood")
        far.send(b"x")
        handled = 0
        while completion(port).key == "flood":
            port.post("flood")
            handled += 1
            end = time.monotonic() + 0.002
            while time.monotonic() < end:
                pass
        assert handled < 10
        assert completion(port).key == "flood"  # the last one


@pytest.mark.clause("L3")
def test_a_flood_of_posts_does_not_starve_a_file_or_an_accept(
    port: unio.Port, make_listener: Any, resources: contextlib.ExitStack, tmp_path: Path
) -> None:
    listening = make_listener()
    file = resources.enter_context(unio.open(tmp_path / "file", "w+b"))
    accept = unio.Accept(port.associate(listening, "listener"))
    port.submit(accept)
    written = unio.Write(port.associate(file, "file"), b"data", 0)
    port.submit(written)
    resources.enter_context(connect(listening))
    port.post("flood")
    wanted = {"listener", "file"}
    deadline = time.monotonic() + PATIENCE
    while wanted:  # a thread of the pool does the writing: how many posts that takes is not the port's to say
        assert time.monotonic() < deadline
        for found in port.wait(0, 1):
            if found.key == "flood":
                port.post("flood")
            else:
                wanted.remove(found.key)
    assert accept.socket is not None
    accept.socket.close()


@pytest.mark.clause("L3")
@pytest.mark.parametrize("limit", [1, 64])
def test_a_flood_of_input_and_output_starves_neither_timers_nor_posts(
    port: unio.Port, make_pair: Any, limit: int
) -> None:
    near, far = make_pair()
    handle = port.associate(near, "busy")
    send_all(far, bytes(1_000_000))
    for operation in (unio.Recv(handle, bytearray(1)), unio.Recv(handle, bytearray(1)), unio.Send(handle, b"")):
        port.submit(operation)
    again = submit_again(port)
    port.submit(unio.Timer(0, "timer"))
    completions_until(port, "timer", limit, again)
    port.post("post")
    completions_until(port, "post", limit, again)
    start = time.monotonic()
    port.submit(unio.Timer(0.005, "later"))
    while time.monotonic() - start < 0.005:
        for found in batch(port, limit):
            if found.key == "later":
                return
            again(found)
    completions_until(port, "later", limit, again)


@pytest.mark.clause("L3")
def test_a_flood_of_timers_does_not_starve_input(port: unio.Port, make_pair: Any) -> None:
    near, far = make_pair()
    waiting = unio.Recv(port.associate(near, "socket"), bytearray(1))
    for _ in range(20):
        port.submit(unio.Timer(0, "flood"))
    for _ in range(5):
        port.submit(waiting)
        far.send(b"x")
        completions_until(port, "socket", 1, submit_again(port))


@pytest.mark.clause("L3", "P2")
def test_a_flood_starves_no_input_where_several_threads_wait(port: unio.Port, make_pair: Any) -> None:
    near, far = make_pair()
    waiting = unio.Recv(port.associate(near, "socket"), bytearray(1))
    seen: Counter[object] = Counter()

    def serve() -> None:
        while True:
            for found in batch(port, limit=1):
                if found.key == "end":
                    port.post("end")
                    return
                seen[found.key] += 1
                if found.key == "flood":
                    port.post("flood")
                elif seen["socket"] < 50:
                    port.submit(waiting)
                    far.send(b"x")
                else:
                    port.post("end")

    port.submit(waiting)
    for _ in range(8):
        port.post("flood")
    servers = [Background(serve) for _ in range(3)]
    far.send(b"x")
    for server in servers:
        server.result()
    assert seen["socket"] == 50
