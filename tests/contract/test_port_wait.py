"""The clauses P of the contract: the time-out and the limit of a wait, and what is refused."""

from __future__ import annotations

import contextlib
import math
import signal
import socket
import sys
import threading
import time
from typing import Any

import pytest
from support import (
    Background,
    assert_idle,
    completion,
    inside_wait,
    interval_timer,
    needs_interval_timer,
    shortly,
    times_slept,
)

import unio

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
def test_a_wait_for_nothing_sleeps_however_soon_those_before_it_ended(port: unio.Port, make_pair: Any) -> None:
    """A backend may ask the kernel a few times before it sleeps, where that has always answered at once."""
    near, far = make_pair(local=True)
    operation = unio.Recv(port.associate(near), bytearray(8))
    for _ in range(3):
        for _ in range(100):
            port.submit(operation)
            assert_idle(port)
            far.send(b"data")
            assert completion(port).transferred == 4
        slept, start = times_slept(threading.current_thread()), time.monotonic()
        assert port.wait(0.05) == []
        assert time.monotonic() - start >= 0.05
        if sys.platform == "linux":
            assert times_slept(threading.current_thread()) > slept


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
@pytest.mark.parametrize("timeout", [None, math.inf, 1e9, 1e18, sys.float_info.max, 10**20, 10**400, 3600], ids=shortly)
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
