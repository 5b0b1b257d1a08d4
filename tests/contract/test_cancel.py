"""The clauses X of the contract: what a cancel ends, what it leaves, and what it races."""

from __future__ import annotations

import contextlib
import random
import socket
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from support import (
    BIG,
    PENDING,
    Background,
    arrived,
    assert_cancelled,
    assert_idle,
    assert_nothing_comes,
    batch,
    completion,
    completions,
    connect,
    in_threads,
    inside_wait,
    pending,
    recv_exactly,
    restless,
    run,
    succeed,
    until,
)
from wine import has_row, met_row

import unio

# Clause X1: cancel asks, and one completion answers


@pytest.mark.clause("X1")
@pytest.mark.parametrize("kind", PENDING)
def test_a_cancelled_operation_completes_once_and_can_be_submitted_again(
    port: unio.Port, resources: contextlib.ExitStack, tmp_path: Path, kind: str
) -> None:
    operation = pending(kind, port, resources, tmp_path)
    assert port.cancel(operation) is False, "it is not in flight"
    for _ in range(3):
        port.submit(operation)
        assert port.cancel(operation) is True
        port.cancel(operation)
        found = completion(port)
        assert found.operation is operation
        assert_cancelled(found)
        assert port.cancel(operation) is False
        assert_idle(port)
        if kind == "connect":  # a socket whose connecting was given up is not to be used again
            break


@pytest.mark.clause("X1")
def test_a_result_that_is_there_already_is_not_taken_back(port: unio.Port, make_pair: Any) -> None:
    near, far = make_pair(local=True)
    handle = port.associate(near)
    far.send(b"data")
    received, sent = unio.Recv(handle, bytearray(8)), unio.Send(handle, b"sent")
    for operation in (received, sent):
        port.submit(operation)
        assert port.cancel(operation) is False, "there is nothing to ask any more"
        assert completion(port)[1:] == (operation, 4, None)


@pytest.mark.clause("X1", "O1")
def test_a_client_that_is_there_already_is_not_lost_to_a_cancel(
    port: unio.Port, make_listener: Any, resources: contextlib.ExitStack
) -> None:
    listening = make_listener()
    accept = unio.Accept(port.associate(listening))
    client = resources.enter_context(connect(listening))
    arrived(listening)
    port.submit(accept)
    port.cancel(accept)
    found = completion(port)
    was_cancelled = found.error is not None
    if was_cancelled:
        assert_cancelled(found)
        found = run(port, accept)
    assert found[1:] == (accept, 0, None)
    assert accept.socket is not None
    with accept.socket:
        assert accept.address == client.getsockname()
    if was_cancelled:
        met_row("accept-later")


@pytest.mark.clause("X1", "P2")
def test_a_cancel_wakes_the_thread_that_waits(port: unio.Port, make_pair: Any) -> None:
    near, _ = make_pair()
    operation = unio.Recv(port.associate(near), bytearray(8))
    port.submit(operation)
    for _ in range(10):
        waiter = Background(completion, port)
        inside_wait(waiter)
        assert port.cancel(operation)
        assert_cancelled(waiter.result())
        port.submit(operation)


@pytest.mark.clause("X1", "O5")
def test_an_operation_taken_out_of_the_middle_leaves_the_order_of_the_others(port: unio.Port, make_pair: Any) -> None:
    near, far = make_pair()
    handle = port.associate(near)
    received = [unio.Recv(handle, bytearray(1), state=number) for number in range(5)]
    for operation in received:
        port.submit(operation)
    for number in (2, 0, 4):
        assert port.cancel(received[number])
        found = completion(port)
        assert found.operation is received[number]
        assert_cancelled(found)
    port.submit(received[2])
    far.send(b"abc")
    assert [found.operation.state for found in completions(port, 3)] == [1, 3, 2]
    assert [bytes(received[number].buffer) for number in (1, 3, 2)] == [b"a", b"b", b"c"]


@pytest.mark.clause("X1", "O4", "O5")
def test_a_cancelled_send_says_how_much_has_left_and_the_next_one_follows(port: unio.Port, make_pair: Any) -> None:
    near, far = make_pair()
    handle = port.associate(near)
    content = bytes(range(251)) * (BIG // 251)
    first, second, third = unio.Send(handle, content), unio.Send(handle, b"never"), unio.Send(handle, b"third")
    for operation in (first, second, third):
        port.submit(operation)
    assert port.cancel(second)
    found = completion(port)
    assert found[1:3] == (second, 0)
    assert_cancelled(found)
    assert port.cancel(first)
    found = completion(port)
    assert found.operation is first
    assert_cancelled(found)
    assert 0 < found.transferred < len(content)
    reader = Background(recv_exactly, far, found.transferred + 5)
    assert completion(port)[1:] == (third, 5, None)
    assert reader.result() == content[: found.transferred] + b"third"


@pytest.mark.clause("X1", "S1")
def test_a_cancel_that_races_a_connection_never_loses_it(port: unio.Port, make_listener: Any) -> None:
    listening = make_listener()
    operation = unio.Accept(port.associate(listening))
    outcomes: Counter[bool] = Counter()

    def race(number: int) -> socket.socket | bool:
        return port.cancel(operation) if number else connect(listening)

    for _ in range(150):
        port.submit(operation)
        client, asked = in_threads(2, race)
        assert isinstance(client, socket.socket)
        with client:
            found = completion(port)
            outcomes[found.error is None] += 1
            if found.error is None:
                assert not operation.in_flight
            else:
                assert_cancelled(found)
                assert asked is True
                succeed(port, operation)
            assert_idle(port)
            assert operation.socket is not None
            with operation.socket:
                assert operation.address == client.getsockname()
    assert outcomes.total() == 150


@pytest.mark.clause("X1", "S1", "P2")
def test_a_cancel_that_races_the_data_never_loses_any(port: unio.Port, make_pair: Any) -> None:
    near, far = make_pair(local=True)
    handle = port.associate(near)
    operation = unio.Recv(handle, bytearray(3))
    content = random.Random(3).randbytes(3000)
    received = bytearray()

    def send() -> None:
        for start in range(0, len(content), 3):
            far.send(content[start : start + 3])

    stop = threading.Event()

    def cancel() -> None:
        while not stop.is_set():
            port.cancel(operation)

    sender, canceller = Background(send), Background(cancel)
    try:
        while len(received) < len(content):
            found = run(port, operation)
            if found.error is None:
                received += operation.buffer[: found.transferred]
            else:
                assert_cancelled(found)
                assert found.transferred == 0
    finally:
        stop.set()
    sender.result()
    canceller.result()
    assert bytes(received) == content
    assert_idle(port)


@pytest.mark.clause("X1", "O4", "P2")
def test_a_cancel_that_races_a_send_leaves_a_count_that_is_true(port: unio.Port, make_pair: Any) -> None:
    near, far = make_pair(local=True)
    handle = port.associate(near)
    stop = threading.Event()
    operation = unio.Send(handle, b"")
    received = bytearray()

    def read() -> None:
        while chunk := far.recv(1 << 16):
            received.extend(chunk)

    def cancel() -> None:
        while not stop.is_set():
            port.cancel(operation)

    sent = bytearray()
    reader, canceller = Background(read), Background(cancel)
    try:
        for number in range(100):
            content = bytes([number]) * 300_000
            operation.buffer = content
            sent += content[: run(port, operation).transferred]
    finally:
        stop.set()
    canceller.result()
    near.shutdown(socket.SHUT_WR)
    reader.result()
    assert received == sent


@pytest.mark.clause("X1", "P2")
@pytest.mark.parametrize("kind", ["send", "send_file"])
@pytest.mark.parametrize("end", ["cancel", "cancel all", "close", "time-out"])
@pytest.mark.process_wide
def test_a_send_without_an_end_is_ended_while_another_thread_is_at_it(
    port: unio.Port, make_pair: Any, resources: contextlib.ExitStack, tmp_path: Path, kind: str, end: str
) -> None:
    near, far = make_pair()
    handle = port.associate(near)
    size = 1 << 36
    operation: unio.Operation
    if kind == "send":
        if sys.platform == "win32":
            size = 1 << 31  # one call, whose count of bytes is a DWORD
        operation = unio.Send(handle, [bytes(1 << 24)] * (size >> 24))
    else:
        file = resources.enter_context(unio.open(tmp_path / "file", "w+b"))
        file.truncate(size)
        operation = unio.SendFile(handle, file)
    received = 0

    def read() -> None:
        nonlocal received
        buffer = bytearray(1 << 20)
        while count := far.recv_into(buffer):
            received += count

    reader = Background(read)
    port.submit(operation, 0.05 if end == "time-out" else None)
    waiter = Background(completion, port)
    if end != "time-out":
        until(lambda: received > 1 << 24)
    if end == "cancel":
        port.cancel(operation)
    elif end == "cancel all":
        handle.cancel()
    elif end == "close":
        handle.close()
    found = waiter.result()
    assert found.operation is operation
    assert type(found.error) is (TimeoutError if end == "time-out" else unio.Cancelled)
    handle.close()
    reader.result()
    assert found.transferred < size
    assert_idle(port)
    if (kind, end, found.transferred) == ("send", "close", 0):
        met_row("close-amid-retry")
    if kind == "send" or not has_row("cancelled-send-file"):
        assert received == found.transferred


@pytest.mark.clause("X1", "S1", "S8", "P2")
def test_cancels_that_race_deadlines_leave_one_completion_each(
    port: unio.Port, make_pair: Any, resources: contextlib.ExitStack
) -> None:
    near, _ = make_pair(local=True)
    handle = port.associate(near)
    count = 400
    seen: Counter[int] = Counter()
    lock = threading.Lock()

    def wait(_: int) -> None:
        while True:
            some = batch(port, limit=10)
            for found in some:
                if found.key != "end":
                    with lock:
                        seen[found.operation.state] += 1
                    assert found.error is None or type(found.error) in (unio.Cancelled, TimeoutError)
            if some[-1].key == "end":
                port.post("end")  # for the other one
                return

    def all_seen() -> bool:
        with lock:
            return seen.total() >= count

    resources.enter_context(restless())
    waiters = [Background(wait, number) for number in range(2)]
    operations: list[unio.Operation] = []
    for number in range(count):
        operation: unio.Operation
        if number % 2:
            operation = unio.Timer(0.0005, state=number)
            port.submit(operation)
        else:
            operation = unio.Recv(handle, bytearray(1), state=number)
            port.submit(operation, 0.0005)
        operations.append(operation)
        port.cancel(operations[number // 2])
        port.cancel(operations[-1 - number % 7 % len(operations)])
    handle.cancel()
    for operation in operations:
        port.cancel(operation)
    until(all_seen)
    port.post("end")
    for waiter in waiters:
        waiter.result()
    assert completion(port).key == "end"
    assert set(seen) == set(range(count))
    assert set(seen.values()) == {1}
    assert_nothing_comes(port, 0.02)


@pytest.mark.clause("X1", "O8")
def test_cancelled_file_operations_complete_once_each_with_their_result_or_none_of_it(
    port: unio.Port, tmp_path: Path
) -> None:
    path = tmp_path / "file"
    with unio.open(path, "w+b") as file:
        handle = port.associate(file)
        operations = [unio.Write(handle, bytes([1]) * 50_000, number * 50_000) for number in range(60)]
        for operation in operations:
            port.submit(operation)
        asked = {id(operation): port.cancel(operation) for operation in operations}
        for found in completions(port, len(operations)):
            written = found.error is None
            assert found.transferred == (50_000 if written else 0)
            if not written:
                assert_cancelled(found)
                assert asked[id(found.operation)]
        assert_idle(port)
    content = path.read_bytes()
    for operation in operations:
        there = content[operation.offset : operation.offset + 50_000]
        assert (there == bytes([1]) * 50_000) == (operation.error is None)


# Clause X2: all of a handle's operations


@pytest.mark.clause("X2")
def test_cancelling_all_of_a_handle_ends_each_in_order_and_nothing_else(port: unio.Port, make_pair: Any) -> None:
    near, far = make_pair()
    other, other_far = make_pair()
    handle, other_handle = port.associate(near, "one"), port.associate(other, "other")
    assert handle.cancel() == 0
    operations: list[unio.Operation] = []
    for _ in range(3):
        operations.append(unio.Recv(handle, bytearray(1)))
        operations.append(unio.Send(handle, bytes(BIG)))
        operations.append(unio.Poll(handle, unio.Readiness.READABLE))
    untouched = unio.Recv(other_handle, bytearray(8))
    timer = unio.Timer(3600)
    for operation in (*operations, untouched, timer):
        port.submit(operation)
    assert handle.cancel() == len(operations)
    found = completions(port, len(operations))
    for each in found:
        assert_cancelled(each)
    assert [each.operation for each in found] == operations
    assert handle.cancel() == 0
    assert_idle(port)
    assert untouched.in_flight
    assert timer.in_flight
    other_far.send(b"data")
    assert completion(port)[:3] == ("other", untouched, 4)
    far.send(b"data")
    received = unio.Recv(handle, bytearray(8))
    assert succeed(port, received).transferred == 4, "the handle works on"
    port.cancel(timer)
    completion(port)


@pytest.mark.clause("X2")
def test_a_thousand_operations_are_cancelled_in_order(port: unio.Port, make_pair: Any) -> None:
    near, _ = make_pair()
    handle = port.associate(near)
    operations = [unio.Recv(handle, bytearray(1)) for _ in range(1000)]
    for operation in operations:
        port.submit(operation)
    assert handle.cancel() == 1000
    found = completions(port, 1000)
    assert [each.operation for each in found] == operations
    assert {type(each.error) for each in found} == {unio.Cancelled}


@pytest.mark.clause("X2", "X3")
def test_a_closed_handle_has_nothing_to_cancel(port: unio.Port, make_pair: Any) -> None:
    near, _ = make_pair()
    handle = port.associate(near)
    port.submit(unio.Recv(handle, bytearray(1)))
    handle.close()
    assert handle.cancel() == 0
    assert_cancelled(completion(port))
    assert handle.cancel() == 0
    assert_idle(port)


# Clause X4: a cancel never hits the next submission


@pytest.mark.clause("X4")
def test_a_cancel_that_came_too_late_does_not_cancel_the_next_submission(port: unio.Port, make_pair: Any) -> None:
    near, far = make_pair(local=True)
    handle = port.associate(near)
    operation = unio.Recv(handle, bytearray(8))
    for number in range(100):
        far.send(b"data")
        port.submit(operation)
        if number % 2:
            port.cancel(operation)
        else:
            handle.cancel()
        assert completion(port)[1:] == (operation, 4, None)
        port.cancel(operation)
        handle.cancel()
        port.submit(operation)
        assert_idle(port)
        assert operation.in_flight
        far.send(b"data")
        assert completion(port)[1:] == (operation, 4, None)


@pytest.mark.clause("X4", "X1", "P2")
@pytest.mark.parametrize("skip", [False, True])
def test_cancels_that_race_immediate_completions_do_not_cancel_the_next_submission(
    port: unio.Port, make_pair: Any, *, skip: bool
) -> None:
    # The data is there, so that submit ends the operation itself while another thread asks for its end. Once that
    # thread has stopped asking, a submission that has to wait is no longer its business.
    near, far = make_pair(local=True)
    handle = port.associate(near, skip_on_success=skip)
    operation = unio.Recv(handle, bytearray(1))
    for number in range(30):
        stop = threading.Event()

        def cancel(stop: threading.Event = stop, number: int = number) -> None:
            while not stop.is_set():
                if number % 2:
                    port.cancel(operation)
                else:
                    handle.cancel()

        canceller = Background(cancel)
        for _ in range(50):
            far.send(b"x")
            if not port.submit(operation) and completion(port).error is not None:
                assert near.recv(1) == b"x", "what was cancelled has taken nothing"
        stop.set()
        canceller.result()
        assert not operation.in_flight
        assert_idle(port)
        port.submit(operation)
        assert_idle(port)
        assert operation.in_flight
        far.send(b"y")
        assert completion(port)[1:] == (operation, 1, None)


@pytest.mark.clause("X4")
def test_a_late_cancel_of_a_timer_does_not_cancel_its_next_submission(port: unio.Port) -> None:
    timer = unio.Timer(0)
    for _ in range(50):
        port.submit(timer)
        Background(port.cancel, timer).result()
        found = completion(port)
        assert found.error is None or type(found.error) is unio.Cancelled
        port.cancel(timer)
        assert succeed(port, timer).operation is timer
