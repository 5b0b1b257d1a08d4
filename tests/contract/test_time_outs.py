"""The clauses S of the contract: the time-out of a submission."""

from __future__ import annotations

import contextlib
import errno
import math
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from support import (
    BIG,
    PENDING,
    Background,
    assert_cancelled,
    assert_idle,
    assert_nothing_comes,
    batch,
    completion,
    completions,
    connect,
    inside_wait,
    pending,
    recv_exactly,
    restless,
    run,
    shortly,
    succeed,
    until,
)

import unio

# Clause S8: time-outs


@pytest.mark.clause("S8")
@pytest.mark.parametrize("kind", PENDING)
def test_a_submission_that_takes_too_long_ends_with_a_time_out_and_not_early(
    port: unio.Port, resources: contextlib.ExitStack, tmp_path: Path, kind: str
) -> None:
    operation = pending(kind, port, resources, tmp_path)
    for timeout in (0.03, 0.001):
        start = time.monotonic()
        port.submit(operation, timeout)
        found = completion(port)
        assert time.monotonic() - start >= timeout
        assert found.operation is operation
        assert type(found.error) is TimeoutError
        assert found.error.errno == errno.ETIMEDOUT
        assert not operation.in_flight
        if kind == "connect":  # a socket whose connecting was given up is not to be used again
            break
    assert_nothing_comes(port, 0.02)


@pytest.mark.clause("S8", "O11")
@pytest.mark.parametrize("kind", ["time-out", "timer"])
def test_a_port_that_is_busy_keeps_its_deadlines_no_earlier(port: unio.Port, make_pair: Any, kind: str) -> None:
    near, _ = make_pair()
    handle = port.associate(near)
    for _ in range(5):
        start = time.monotonic()
        if kind == "timer":
            port.submit(unio.Timer(0.02, "deadline"))
        else:
            port.submit(unio.Recv(handle, bytearray(1)), 0.02)
        while True:
            port.post("busy")
            batch = port.wait(0)
            if [found for found in batch if found.key != "busy"]:
                break
        assert time.monotonic() - start >= 0.02


@pytest.mark.clause("S8")
def test_a_time_out_of_zero_lets_only_what_is_there_through(
    port: unio.Port, make_pair: Any, make_listener: Any, resources: contextlib.ExitStack
) -> None:
    near, far = make_pair(local=True)
    operation = unio.Recv(port.associate(near), bytearray(8))
    assert isinstance(run(port, operation, 0).error, TimeoutError)
    far.send(b"data")
    assert run(port, operation, 0)[2:] == (4, None)
    listening = make_listener()
    accept = unio.Accept(port.associate(listening))
    assert isinstance(run(port, accept, 0).error, TimeoutError)
    resources.enter_context(connect(listening))
    until(lambda: run(port, accept, 0).error is None)  # the system may offer the connection a moment later
    assert accept.socket is not None
    accept.socket.close()
    assert isinstance(run(port, unio.Timer(3600), 0).error, TimeoutError)
    assert run(port, unio.Timer(0), 0).error is None


@pytest.mark.clause("S8")
def test_a_time_out_loses_nothing_that_comes_later(
    port: unio.Port, make_pair: Any, make_listener: Any, resources: contextlib.ExitStack
) -> None:
    near, far = make_pair()
    listening = make_listener()
    received = unio.Recv(port.associate(near), bytearray(8))
    accept = unio.Accept(port.associate(listening))
    for operation in (received, accept):
        assert isinstance(run(port, operation, 0.001).error, TimeoutError)
    far.send(b"data")
    client = resources.enter_context(connect(listening))
    assert succeed(port, received).transferred == 4
    succeed(port, accept)
    assert accept.socket is not None
    with accept.socket:
        assert accept.address == client.getsockname()


@pytest.mark.clause("S8", "O4")
def test_a_send_that_timed_out_says_how_many_bytes_have_left(port: unio.Port, make_pair: Any) -> None:
    near, far = make_pair()
    handle = port.associate(near)
    content = bytes(range(256)) * (BIG // 256)
    found = run(port, unio.Send(handle, content), 0.01)
    assert isinstance(found.error, TimeoutError)
    assert 0 < found.transferred < BIG
    reader = Background(recv_exactly, far, found.transferred + 3)
    assert succeed(port, unio.Send(handle, b"end")).transferred == 3
    assert reader.result() == content[: found.transferred] + b"end"


@pytest.mark.clause("S8")
def test_what_ends_in_time_hears_no_more_of_its_time_out(port: unio.Port, make_pair: Any) -> None:
    near, far = make_pair()
    operation = unio.Recv(port.associate(near), bytearray(8))
    port.submit(operation, 0.02)
    far.send(b"data")
    assert completion(port)[2:] == (4, None)
    port.submit(operation, 0.02)
    port.cancel(operation)
    assert_cancelled(completion(port))
    assert_nothing_comes(port, 0.05)


@pytest.mark.clause("S8")
@pytest.mark.parametrize("end", ["success", "cancelled", "success before the wait", "skipped success"])
def test_a_stale_time_out_does_not_end_the_next_submission(port: unio.Port, make_pair: Any, end: str) -> None:
    near, far = make_pair()
    operation = unio.Recv(port.associate(near, skip_on_success=end == "skipped success"), bytearray(8))
    if end in ("success before the wait", "skipped success"):
        far.send(b"data")
        if port.submit(operation, 0.02):
            port.post("in its place")
    else:
        port.submit(operation, 0.02)
        if end == "success":
            far.send(b"data")
        else:
            port.cancel(operation)
    completion(port)
    port.submit(operation)
    assert_nothing_comes(port, 0.05)
    port.cancel(operation)
    completion(port)
    port.submit(operation, 3600)
    far.send(b"data")
    assert completion(port)[2:] == (4, None)
    timer = unio.Timer(3600)
    assert isinstance(run(port, timer, 0.01).error, TimeoutError)
    timer.delay = 0
    assert run(port, timer, 0.01).error is None
    timer.delay = 0.05
    assert run(port, timer).error is None
    assert_nothing_comes(port, 0.02)


@pytest.mark.clause("S8", "P2")
def test_a_time_out_that_passes_while_threads_submit_again_ends_only_its_own_submission(
    port: unio.Port, make_pair: Any, resources: contextlib.ExitStack
) -> None:
    near, _ = make_pair(local=True)
    handle = port.associate(near)
    rounds = 150

    class Received(unio.Recv):
        has_time_out = True
        left = rounds

    def again(operation: Received) -> None:
        operation.left -= 1
        operation.has_time_out = operation.left % 2 == 0
        port.submit(operation, 0.0002 if operation.has_time_out else None)
        if not operation.has_time_out or operation.left % 4:
            port.post("cancel", operation)  # in a while, by whatever thread that will be

    def work() -> None:
        while True:
            for key, operation, _, error in batch(port, limit=1):
                if key == "end":
                    port.post("end")
                    return
                if key == "cancel":
                    port.cancel(operation)
                    continue
                assert type(error) is unio.Cancelled or (type(error) is TimeoutError and operation.has_time_out)
                if operation.left:
                    again(operation)
                elif not any(each.left or each.in_flight for each in operations):
                    port.post("end")

    operations = [Received(handle, bytearray(1)) for _ in range(10)]
    resources.enter_context(restless())
    for operation in operations:
        again(operation)
    for thread in [Background(work) for _ in range(3)]:
        thread.result()


@pytest.mark.clause("S8")
def test_many_time_outs_pass_in_their_order_each_once(port: unio.Port, make_pair: Any) -> None:
    pairs = [make_pair(local=True) for _ in range(40)]
    operations = []
    for round_ in range(10):
        for number, (near, _) in enumerate(pairs):
            handle = operations[number].handle if round_ else port.associate(near)
            operations.append(unio.Recv(handle, bytearray(1), state=(round_ * 7 + number * 3) % 20))
    for operation in operations:
        port.submit(operation, operation.state / 1000)
    found = completions(port, len(operations))
    assert all(isinstance(each.error, TimeoutError) for each in found)
    assert {id(each.operation) for each in found} == {id(operation) for operation in operations}
    assert_nothing_comes(port, 0.03)


@pytest.mark.clause("S8")
def test_a_time_out_counts_from_the_submit_also_behind_others_and_while_nobody_waits(
    port: unio.Port, make_pair: Any
) -> None:
    near, far = make_pair()
    handle = port.associate(near)
    first, second, third = (unio.Recv(handle, bytearray(1)) for _ in range(3))
    port.submit(first)
    port.submit(second, 0.01)
    port.submit(third)
    start = time.monotonic()
    until(lambda: time.monotonic() - start > 0.01)
    found = port.wait(0)
    assert [each.operation for each in found] == [second]
    assert isinstance(found[0].error, TimeoutError)
    far.send(b"xy")
    assert [each.operation for each in completions(port, 2)] == [first, third]


@pytest.mark.clause("S8", "S1")
def test_a_time_out_that_races_the_data_leaves_one_completion_and_all_bytes(port: unio.Port, make_pair: Any) -> None:
    near, far = make_pair(local=True)
    operation = unio.Recv(port.associate(near), bytearray(1))
    sent = received = 0
    outcomes: Counter[bool] = Counter()
    for number in range(200):
        port.submit(operation, 0.0002 * (number % 4))
        sender = Background(far.send, b"x")
        found = completion(port)
        received += found.transferred
        outcomes[found.error is None] += 1
        sent += sender.result()
        assert_idle(port)
    while received < sent:
        received += succeed(port, operation).transferred
    assert isinstance(run(port, operation, 0).error, TimeoutError)


@pytest.mark.clause("S8")
@pytest.mark.parametrize("timeout", [math.inf, 1e300, sys.float_info.max, 10**18, 10**400, 3600], ids=shortly)
def test_a_time_out_that_never_passes(port: unio.Port, make_pair: Any, timeout: float) -> None:
    near, far = make_pair()
    operation = unio.Recv(port.associate(near), bytearray(8))
    port.submit(operation, timeout)
    timer = unio.Timer(timeout)
    port.submit(timer)
    assert_nothing_comes(port, 0.01)
    far.send(b"data")
    assert completion(port)[2:] == (4, None)
    assert port.cancel(timer)
    assert_cancelled(completion(port))


@pytest.mark.clause("S8")
def test_a_time_out_of_a_file_operation_is_its_only_completion_or_none(port: unio.Port, tmp_path: Path) -> None:
    with unio.open(tmp_path / "file", "w+b") as file:
        handle = port.associate(file)
        operations = [unio.Write(handle, bytes(100_000), 0) for _ in range(50)]
        for operation in operations:
            port.submit(operation, 0)
        for found in completions(port, 50):
            assert found.error is None or type(found.error) is TimeoutError
            assert found.transferred == (100_000 if found.error is None else 0)
        assert_nothing_comes(port, 0.02)


@pytest.mark.clause("S8", "P2")
def test_a_waiting_thread_learns_of_the_time_out_of_another_threads_submission(port: unio.Port, make_pair: Any) -> None:
    near, _ = make_pair()
    handle = port.associate(near)
    for _ in range(20):
        waiter = Background(completion, port)
        inside_wait(waiter)
        port.submit(unio.Recv(handle, bytearray(1)), 0.001)
        assert isinstance(waiter.result().error, TimeoutError)
