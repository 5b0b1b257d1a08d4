"""The clauses S of the contract: what a submit promises, and whose the operation and its buffer are meanwhile."""

from __future__ import annotations

import array
import contextlib
import errno
import gc
import math
import os
import random
import socket
import sys
import threading
import time
import tracemalloc
import weakref
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import (
    BIG,
    PATIENCE,
    PENDING,
    Background,
    arrived,
    assert_cancelled,
    assert_idle,
    assert_nothing_comes,
    completion,
    completions,
    connect,
    fill,
    inside_wait,
    pending,
    recv_exactly,
    restless,
    run,
    succeed,
    until,
)
from wine import wine_row

import unio

# Clause S1: exactly one completion


def any_operation(chance: random.Random, handle: unio.Handle, stored: unio.Handle) -> unio.Operation:
    """An operation of any kind, that may end at once, later, with an error or never by itself."""
    makers: list[Callable[[], unio.Operation]] = [
        lambda: unio.Send(handle, bytes(chance.randrange(1, 5000))),
        lambda: unio.Recv(handle, bytearray(chance.randrange(50))),
        lambda: unio.Poll(handle, chance.choice(list(unio.Readiness))),
        lambda: unio.Shutdown(handle),
        lambda: unio.Accept(handle),
        lambda: unio.Timer(chance.choice((0, 0.001, 3600))),
        lambda: unio.Write(stored, bytes(10), chance.randrange(100)),
        lambda: unio.Read(stored, bytearray(10), chance.randrange(100)),
    ]
    return chance.choice(makers)()


@pytest.mark.clause("S1")
def test_every_submit_leads_to_exactly_one_completion(
    port: unio.Port, make_pair: Any, resources: contextlib.ExitStack, tmp_path: Path
) -> None:
    chance = random.Random(7)
    seen: Counter[int] = Counter()
    submitted: list[unio.Operation] = []
    stored = port.associate(resources.enter_context(unio.open(tmp_path / "file", "w+b")))
    for round_ in range(30):
        near, far = make_pair(local=round_ % 2 == 0)
        handle = port.associate(near)
        for _ in range(chance.randrange(40)):
            operation = any_operation(chance, handle, stored)
            operation.state = len(submitted)
            assert port.submit(operation, chance.choice((None, None, None, 0, 0.001))) is False
            submitted.append(operation)
            if chance.random() < 0.2:
                far.send(bytes(chance.randrange(1, 50)))
            if chance.random() < 0.2:
                port.cancel(chance.choice(submitted))
            if chance.random() < 0.2:
                seen.update(found.operation.state for found in port.wait(0, limit=3))
        chance.choice((handle.close, near.close, handle.cancel))()
    for operation in submitted:
        port.cancel(operation)
    seen.update(found.operation.state for found in completions(port, len(submitted) - seen.total()))
    assert_nothing_comes(port, 0.05)
    assert set(seen) == set(range(len(submitted)))
    assert set(seen.values()) == {1}
    assert not any(operation.in_flight for operation in submitted)


@pytest.mark.clause("S1")
def test_nothing_that_happens_later_completes_an_operation_again(port: unio.Port, make_pair: Any) -> None:
    near, far = make_pair()
    handle = port.associate(near)
    far.send(b"data")
    operation = unio.Recv(handle, bytearray(8))
    succeed(port, operation)
    far.send(b"more")
    far.close()
    port.cancel(operation)
    handle.cancel()
    handle.close()
    assert_nothing_comes(port, 0.05)
    assert (operation.transferred, operation.error, operation.in_flight) == (4, None, False)


# Clause S2: not before submit has returned


@pytest.mark.clause("S2")
def test_what_has_ended_within_submit_is_still_in_flight_after_it(port: unio.Port, make_pair: Any) -> None:
    near, far = make_pair(local=True)
    handle = port.associate(near)
    far.send(b"data")
    for operation in (unio.Send(handle, b"data"), unio.Recv(handle, bytearray(8)), unio.Timer(0)):
        assert not operation.in_flight
        port.submit(operation)
        assert operation.in_flight
        with pytest.raises(unio.InFlight):
            port.submit(operation)
        assert completion(port).operation is operation
        assert not operation.in_flight


@pytest.mark.clause("S2")
def test_no_code_of_the_callers_runs_inside_submit(port: unio.Port, make_pair: Any) -> None:
    class State:
        def _fail(self, *_: object) -> Any:
            raise AssertionError("not to be looked at")

        __eq__ = __hash__ = __bool__ = __len__ = __iter__ = __call__ = _fail

    class Received(unio.Recv):
        def on_completion(self, *_: object) -> None:
            raise AssertionError("not to be called")

    near, far = make_pair(local=True)
    handle = port.associate(near, State())
    far.send(b"data")
    operations = [
        Received(handle, bytearray(8), state=State()),
        unio.Send(handle, b"data", state=State()),
        unio.Recv(handle, bytearray(8), state=State()),
        unio.Timer(0, State(), state=State()),
    ]
    ran: list[str] = []

    def watch(frame: Any, event: str, _: object) -> None:
        if event == "call" and frame.f_code.co_filename == __file__:
            ran.append(frame.f_code.co_name)

    sys.setprofile(watch)
    try:
        for operation in operations:
            port.submit(operation)
    finally:
        sys.setprofile(None)
    assert ran == []
    port.cancel(operations[2])
    assert {id(found.operation) for found in completions(port, 4)} == {id(operation) for operation in operations}
    handle.close()


@pytest.mark.clause("S2", "S6", "P2")
def test_another_thread_may_submit_again_what_it_sees_completed(port: unio.Port, make_pair: Any) -> None:
    # The completion may reach another thread while submit returns in the first one: submit is then through with the
    # operation, so that it can be submitted again at once.
    near, far = make_pair(local=True)
    handle = port.associate(near)
    rounds = 500

    class Sent(unio.Send):
        left = rounds

    def relay() -> None:
        while True:
            for key, operation, _, error in port.wait(PATIENCE, limit=1):
                if key == "end":
                    return
                assert error is None
                assert not operation.in_flight
                operation.left -= 1
                if operation.left:
                    port.submit(operation)
                    continue
                with lock:
                    through.append(operation)
                    is_last = len(through) == len(sends)
                if is_last:
                    for _ in relays:
                        port.post("end")

    lock = threading.Lock()
    through: list[unio.Operation] = []
    sends = [Sent(handle, b"x") for _ in range(6)]
    relays: list[Background[None]] = []
    relays += [Background(relay) for _ in range(3)]
    for sent in sends:
        port.submit(sent)
    recv_exactly(far, rounds * len(sends))
    for thread in relays:
        thread.result()
    assert_idle(port)


# Clause S3: misuse raises, the system's word is a completion


@pytest.mark.clause("S3")
def test_an_operation_in_flight_is_refused_and_completes_all_the_same(port: unio.Port, make_pair: Any) -> None:
    near, far = make_pair()
    handle = port.associate(near)
    operation = unio.Recv(handle, bytearray(8))
    port.submit(operation)
    for timeout in (None, 0, 5):
        with pytest.raises(unio.InFlight):
            port.submit(operation, timeout)
    far.send(b"data")
    assert completion(port).operation is operation
    timer = unio.Timer(0.01)
    port.submit(timer)
    with pytest.raises(unio.InFlight):
        port.submit(timer)
    assert completion(port).operation is timer
    assert_nothing_comes(port, 0.03)


@pytest.mark.clause("S3", "S5")
def test_an_operation_in_flight_can_not_be_changed(port: unio.Port, make_pair: Any, tmp_path: Path) -> None:
    near, far = make_pair()
    handle = port.associate(near)
    received, timer = unio.Recv(handle, bytearray(8)), unio.Timer(0.01)
    other, other_far = make_pair()
    polled = unio.Poll(port.associate(other), unio.Readiness.READABLE)
    for operation in (received, timer, polled):
        port.submit(operation)
    with pytest.raises(unio.InFlight):
        received.buffer = bytearray(1)
    with pytest.raises(unio.InFlight):
        timer.delay = 7
    with pytest.raises(unio.InFlight):
        polled.readiness = unio.Readiness.WRITABLE
    assert len(received.buffer) == 8
    assert timer.delay == 0.01
    far.send(b"data")
    other_far.send(b"data")
    completions(port, 3)
    received.buffer = bytearray(1)
    timer.delay = 7
    polled.readiness = unio.Readiness.WRITABLE


@pytest.mark.clause("S3")
def test_a_handle_that_is_closed_or_another_ports_is_refused(make_port: Any, make_pair: Any) -> None:
    port, other = make_port(), make_port()
    near, far = make_pair()
    handle = port.associate(near)
    operation = unio.Recv(handle, bytearray(8))
    with pytest.raises(unio.NotAssociated):
        other.submit(operation)
    with pytest.raises(unio.NotAssociated):
        other.cancel(operation)
    assert not operation.in_flight
    port.submit(operation)
    with pytest.raises(unio.NotAssociated):
        other.cancel(operation)
    far.send(b"data")
    assert completion(port).operation is operation
    handle.close()
    with pytest.raises(unio.NotAssociated):
        port.submit(operation)
    assert not operation.in_flight
    for each in (port, other):
        assert_idle(each)


@pytest.mark.clause("S3")
def test_what_is_no_operation_is_refused(port: unio.Port) -> None:
    wrong: Any
    for wrong in (None, "recv", b"", 5, object(), unio.Recv, unio.Timer):
        with pytest.raises(TypeError):
            port.submit(wrong)
        with pytest.raises(TypeError):
            port.cancel(wrong)
    assert_idle(port)


@pytest.mark.clause("S3", "S8")
@pytest.mark.parametrize(
    ("timeout", "error"),
    [
        *[(timeout, ValueError) for timeout in (-1, -1e-9, math.nan, -math.inf)],
        *[(timeout, TypeError) for timeout in ("1", True, [])],
    ],
)
def test_a_time_out_that_is_none_is_refused(port: unio.Port, make_pair: Any, timeout: Any, error: type) -> None:
    near, _ = make_pair()
    operation = unio.Send(port.associate(near), b"data")
    with pytest.raises(error):
        port.submit(operation, timeout)
    assert not operation.in_flight
    assert_idle(port)
    assert succeed(port, operation).transferred == 4


@pytest.mark.clause("S3")
def test_wrong_arguments_of_operations_are_refused_when_they_are_made(
    port: unio.Port, make_pair: Any, tmp_path: Path
) -> None:
    near, _ = make_pair()
    handle = port.associate(near)
    with unio.open(tmp_path / "file", "w+b") as file:
        stored = port.associate(file)
        wrong: list[Callable[[], object]] = [
            lambda: unio.Recv(near, bytearray(1)),  # type: ignore[arg-type]
            lambda: unio.Recv(None, bytearray(1)),  # type: ignore[arg-type]
            lambda: unio.Recv(handle, b"read-only"),
            lambda: unio.Recv(handle, memoryview(b"read-only")),
            lambda: unio.Recv(handle, [bytearray(1), b"read-only"]),
            lambda: unio.Recv(handle, "text"),  # type: ignore[arg-type]
            lambda: unio.Recv(handle, 100),  # type: ignore[arg-type]
            lambda: unio.Send(handle, "text"),  # type: ignore[arg-type]
            lambda: unio.Send(handle, None),  # type: ignore[arg-type]
            lambda: unio.Recv(stored, bytearray(1)),
            lambda: unio.Read(handle, bytearray(1), 0),
            lambda: unio.Read(stored, b"read-only", 0),
            lambda: unio.Read(stored, bytearray(1), 1.0),  # type: ignore[arg-type]
            lambda: unio.Poll(handle, 1),  # type: ignore[arg-type]
            lambda: unio.Timer("1"),  # type: ignore[arg-type]
            lambda: unio.ProcessExit("1"),  # type: ignore[arg-type]
        ]
        for make in wrong:
            with pytest.raises(TypeError):
                make()
        out_of_range: list[Callable[[], object]] = [
            lambda: unio.Read(stored, bytearray(1), -1),
            lambda: unio.Write(stored, b"x", 2**63),
            lambda: unio.Timer(-1),
            lambda: unio.Timer(math.nan),
            lambda: unio.ProcessExit(0),
            lambda: unio.ProcessExit(-1),
            lambda: unio.Send(handle, memoryview(bytes(10))[::2]),
        ]
        for make in out_of_range:
            with pytest.raises(ValueError, match=r"."):
                make()
    assert_idle(port)


@pytest.mark.clause("S3", "C1")
def test_what_the_system_says_is_the_error_of_the_completion(
    port: unio.Port, make_pair: Any, resources: contextlib.ExitStack, tmp_path: Path
) -> None:
    unconnected = port.associate(resources.enter_context(socket.socket()), "unconnected")
    for operation in (unio.Recv(unconnected, bytearray(1)), unio.Shutdown(unconnected), unio.Disconnect(unconnected)):
        found = run(port, operation)
        assert found.error is not None
        assert found.error.errno == errno.ENOTCONN
        assert (found.key, found.transferred) == ("unconnected", 0)
    path = tmp_path / "file"
    with unio.open(path, "wb") as file:
        found = run(port, unio.Read(port.associate(file, "write-only"), bytearray(1), 0))
        assert isinstance(found.error, OSError)
        assert found.error.errno == errno.EBADF
    with unio.open(path, "rb") as file:
        found = run(port, unio.Write(port.associate(file, "read-only"), b"x", 0))
        assert isinstance(found.error, OSError)
        assert found.error.errno == errno.EBADF


@wine_row("accept-misuse")
@pytest.mark.clause("S3", "C1")
def test_accepting_where_nobody_listens_is_an_error_of_the_completion(port: unio.Port, make_pair: Any) -> None:
    near, _ = make_pair()
    found = run(port, unio.Accept(port.associate(near)), 1)
    assert isinstance(found.error, OSError)
    assert found.error.errno == errno.EINVAL


@pytest.mark.clause("S3")
def test_an_object_closed_before_the_submit_is_refused_or_a_cancelled_completion(
    port: unio.Port, make_pair: Any
) -> None:
    near, _ = make_pair()
    handle = port.associate(near)
    near.close()
    operation = unio.Send(handle, b"data")
    try:
        port.submit(operation)
    except unio.NotAssociated:
        assert handle.closed
    else:
        assert_cancelled(completion(port))
    assert not operation.in_flight
    assert_nothing_comes(port, 0.02)


# Clause S4: success at once


@pytest.mark.clause("S4")
def test_success_at_once_queues_exactly_one_packet(port: unio.Port, make_pair: Any) -> None:
    near, far = make_pair(local=True)
    handle = port.associate(near)
    assert not handle.skip_on_success
    far.send(b"data")
    for operation in (unio.Send(handle, b"data"), unio.Recv(handle, bytearray(8))):
        assert port.submit(operation) is False
        assert [found[1:] for found in port.wait(PATIENCE)] == [(operation, 4, None)]
        assert_idle(port)


@pytest.mark.clause("S4")
def test_success_at_once_is_skipped_where_that_was_asked_for(port: unio.Port, make_pair: Any) -> None:
    near, far = make_pair(local=True)
    handle = port.associate(near, skip_on_success=True)
    assert handle.skip_on_success
    sent, received = unio.Send(handle, b"data"), unio.Recv(handle, bytearray(8))
    far.send(b"answer")
    for operation, transferred in ((sent, 4), (received, 6)):
        for timeout in (None, 0, 0.01):
            if operation is received:
                arrived(near)
            assert port.submit(operation, timeout) is True
            assert not operation.in_flight
            assert (operation.transferred, operation.error) == (transferred, None)
            if operation is received:
                assert bytes(received.buffer[:6]) == b"answer"
                far.send(b"answer")
    assert_nothing_comes(port, 0.03)
    assert recv_exactly(far, 12) == b"data" * 3
    recv_exactly_left = bytearray(8)
    received.buffer = recv_exactly_left
    arrived(near)
    assert port.submit(received) is True
    far.close()
    arrived(near)
    assert port.submit(received) is True, "the end of the stream is a success"
    assert (received.transferred, received.error) == (0, None)


@pytest.mark.clause("S4", "C3")
def test_an_accept_that_is_skipped_has_its_socket(
    port: unio.Port, make_listener: Any, resources: contextlib.ExitStack
) -> None:
    listening = make_listener()
    operation = unio.Accept(port.associate(listening, skip_on_success=True))
    client = resources.enter_context(connect(listening))
    if not port.submit(operation):
        assert completion(port).operation is operation
    assert operation.socket is not None
    with operation.socket:
        assert operation.address == operation.socket.getpeername() == client.getsockname()
    assert_idle(port)


@pytest.mark.clause("S4")
def test_what_was_pending_queues_also_where_success_is_skipped(port: unio.Port, make_pair: Any) -> None:
    near, far = make_pair()
    handle = port.associate(near, "key", skip_on_success=True)
    first, second = unio.Recv(handle, bytearray(4)), unio.Recv(handle, bytearray(4))
    assert port.submit(first) is False
    assert port.submit(second) is False
    assert first.in_flight
    assert_idle(port)
    far.send(b"onetwo")
    assert [found[1:] for found in completions(port, 2)] == [(first, 4, None), (second, 2, None)]
    assert port.submit(unio.Timer(0)) is False, "an operation without a handle always queues"
    completion(port)
    assert_idle(port)


@pytest.mark.clause("S4")
def test_failure_at_once_queues_also_where_success_is_skipped(
    port: unio.Port, make_pair: Any, resources: contextlib.ExitStack
) -> None:
    handle = port.associate(resources.enter_context(socket.socket()), skip_on_success=True)
    operation = unio.Shutdown(handle)
    assert port.submit(operation) is False
    found = completion(port)
    assert found.operation is operation
    assert found.error is not None
    near, _ = make_pair()
    ended = unio.Recv(port.associate(near, skip_on_success=True), bytearray(8))
    port.submit(ended)
    port.cancel(ended)
    assert_cancelled(completion(port))
    port.submit(ended, 0)
    assert isinstance(completion(port).error, TimeoutError)
    assert_idle(port)


@pytest.mark.clause("S4", "P2")
def test_each_submit_of_many_threads_is_either_skipped_or_queued(port: unio.Port, make_pair: Any) -> None:
    near, far = make_pair(local=True)
    handle = port.associate(near, skip_on_success=True)
    rounds = 200
    queued: list[int] = []
    waiter_end = threading.Event()

    def wait() -> None:
        while not waiter_end.is_set():
            queued.extend(found.operation.state for found in port.wait(PATIENCE) if found.operation is not None)

    def send(thread: int) -> list[int]:
        numbers = range(thread * rounds, (thread + 1) * rounds)
        return [number for number in numbers if port.submit(unio.Send(handle, b"x", state=number))]

    waiter = Background(wait)
    senders = [Background(send, number) for number in range(4)]
    recv_exactly(far, 4 * rounds)
    skipped = [number for sender in senders for number in sender.result()]
    until(lambda: len(queued) + len(skipped) >= 4 * rounds)
    waiter_end.set()
    port.post(None)
    waiter.result()
    assert sorted([*queued, *skipped]) == list(range(4 * rounds))


# Clause S5: the buffer


@pytest.mark.clause("S5")
def test_a_buffer_can_not_be_resized_in_flight(port: unio.Port, make_pair: Any) -> None:
    near, far = make_pair()
    handle = port.associate(near)
    buffer = bytearray(8)
    operation = unio.Recv(handle, buffer)
    port.submit(operation)
    for change in (lambda: buffer.append(1), buffer.clear, lambda: buffer.extend(b"x"), buffer.pop):
        with pytest.raises(BufferError):
            change()
    far.send(b"data")
    completion(port)
    assert buffer == b"data" + bytes(4)
    operation.buffer = bytearray(1)  # lets go
    buffer.clear()
    buffers = [bytearray(2), bytearray(2)]
    operation.buffer = buffers
    port.submit(operation)
    for each in buffers:
        with pytest.raises(BufferError):
            each.append(1)
    far.send(b"abc")
    completion(port)
    assert buffers == [b"ab", b"c\0"]


@pytest.mark.clause("S5")
@pytest.mark.parametrize("end", ["data", "cancel", "close"])
def test_what_the_caller_drops_is_kept_until_the_completion(port: unio.Port, make_pair: Any, end: str) -> None:
    class Buffer(bytearray):
        pass

    near, far = make_pair()
    handle = port.associate(near)
    buffer = Buffer(1 << 16)
    gone = weakref.ref(buffer)
    port.submit(unio.Recv(handle, buffer))
    del buffer
    gc.collect()
    assert gone() is not None
    if end == "data":
        far.send(b"data")
    elif end == "cancel":
        handle.cancel()
    else:
        handle.close()
    found = completion(port)
    assert found.operation.buffer is gone()
    if end == "data":
        assert bytes(found.operation.buffer[:4]) == b"data"
    del found
    gc.collect()
    assert gone() is None


@pytest.mark.clause("S5")
def test_buffers_of_many_kinds_are_filled_in_place(port: unio.Port, make_pair: Any) -> None:
    near, far = make_pair(local=True)
    handle = port.associate(near)
    numbers = array.array("I", [0, 0])
    large = bytearray(b"........")
    grid = memoryview(bytearray(8)).cast("B", (2, 4))
    for buffer in (numbers, memoryview(large)[2:], grid, [bytearray(3), memoryview(bytearray(5))], (bytearray(8),)):
        far.send(b"\1\0\0\0\2\0\0\0"[: 6 if isinstance(buffer, memoryview) and buffer.ndim == 1 else 8])
        succeed(port, unio.Recv(handle, buffer))
    assert list(numbers) == [1, 2] or sys.byteorder == "big"
    assert large == b"..\1\0\0\0\2\0"
    assert grid.tolist() == [[1, 0, 0, 0], [2, 0, 0, 0]]


@pytest.mark.clause("S5")
def test_a_send_in_flight_keeps_its_bytes(port: unio.Port, make_pair: Any) -> None:
    near, far = make_pair()
    handle = port.associate(near)
    port.submit(unio.Send(handle, bytes(range(256)) * (BIG // 256)))
    gc.collect()
    reader = Background(recv_exactly, far, BIG)
    assert completion(port)[2:] == (BIG, None)
    assert reader.result() == bytes(range(256)) * (BIG // 256)


# Clause S6: submitted again


@pytest.mark.clause("S6")
def test_an_operation_is_submitted_again_after_its_completion(port: unio.Port, make_pair: Any) -> None:
    near, far = make_pair()
    handle = port.associate(near)
    received, sent, timer = unio.Recv(handle, bytearray(1)), unio.Send(handle, b"x"), unio.Timer(0)
    for number in range(200):
        port.submit(received)
        port.submit(sent)
        port.submit(timer)
        far.send(bytes([number]))
        assert {id(found.operation) for found in completions(port, 3)} == {id(received), id(sent), id(timer)}
        assert received.buffer[0] == number
    recv_exactly(far, 200)


@pytest.mark.clause("S6", "C1")
def test_an_operation_is_submitted_again_after_every_kind_of_end(port: unio.Port, make_pair: Any) -> None:
    near, far = make_pair()
    operation = unio.Recv(port.associate(near), bytearray(8))
    for _ in range(3):
        port.submit(operation)
        port.cancel(operation)
        assert_cancelled(completion(port))
        assert isinstance(operation.error, unio.Cancelled)
        assert isinstance(run(port, operation, 0.001).error, TimeoutError)
        far.send(b"data")
        assert succeed(port, operation).transferred == 4
        assert operation.error is None
    far.close()
    for _ in range(3):
        assert succeed(port, operation).transferred == 0


@pytest.mark.clause("S6")
@pytest.mark.parametrize(
    "end", ["success", "time-out set", "timed out", "cancelled", "skipped", "skipped, time-out set", "timer"]
)
def test_submitting_again_needs_no_more_memory(port: unio.Port, make_pair: Any, end: str) -> None:
    near, far = make_pair(local=True)
    handle = port.associate(near, skip_on_success=end.startswith("skipped"))
    received, timer = unio.Recv(handle, bytearray(1)), unio.Timer(0)

    def once() -> None:
        if end == "timer":
            port.submit(timer)
        elif end.startswith("skipped"):
            far.send(b"x")
            assert port.submit(received, 3600 if "time-out" in end else None)
            return
        else:
            port.submit(received, {"time-out set": 3600, "timed out": 0}.get(end))
            if end == "cancelled":
                port.cancel(received)
            elif end != "timed out":
                far.send(b"x")
        completion(port)

    port.submit(unio.Timer(1800))  # due before the others, so that what is left of them can't just be passed by
    for _ in range(500):
        once()
    gc.collect()
    tracemalloc.start()
    try:
        for _ in range(500):
            once()
        gc.collect()
        before, _ = tracemalloc.get_traced_memory()
        for _ in range(2000):
            once()
        gc.collect()
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # A byte for each round would be seen; what remains is the noise of dictionaries and of the tracing itself.
    assert after - before < 2000


# Clause S7: the caller's own state


@pytest.mark.clause("S7")
def test_state_rides_on_the_operation(port: unio.Port, make_pair: Any) -> None:
    near, far = make_pair()
    handle = port.associate(near)
    state = object()
    operations = [
        unio.Recv(handle, bytearray(8), state=state),
        unio.Send(handle, b"x", state=state),
        unio.Timer(0, state=state),
        unio.Poll(handle, unio.Readiness.WRITABLE, state=state),
    ]
    for operation in operations:
        port.submit(operation)
    far.send(b"data")
    for found in completions(port, 4):
        assert found.operation in operations
        assert found.operation.state is state
    operation.state = "the caller's to change, also in flight"
    port.submit(operation)
    operation.state = state
    assert completion(port).operation.state is state


@pytest.mark.clause("S7")
def test_a_subclass_carries_what_its_caller_adds(port: unio.Port, make_pair: Any) -> None:
    class Session:
        pass

    class Request(unio.Recv):
        def __init__(self, handle: unio.Handle, session: Session) -> None:
            super().__init__(handle, bytearray(16))
            self.session = session
            self.parsed: list[bytes] = []

    class Deadline(unio.Timer):
        __slots__ = ("session",)

        session: Session

    near, far = make_pair()
    handle = port.associate(near)
    session = Session()
    request, deadline = Request(handle, session), Deadline(0)
    deadline.session = session
    port.submit(request)
    request.parsed.append(b"while in flight")
    far.send(b"data")
    found = completion(port)
    assert found.operation is request
    assert type(found.operation) is Request
    assert found.operation.session is session
    assert found.operation.parsed == [b"while in flight"]
    port.submit(deadline)
    assert completion(port).operation.session is session


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
            for key, operation, _, error in port.wait(PATIENCE, limit=1):
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
@pytest.mark.parametrize("timeout", [math.inf, 1e300, 10**18, 3600])
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


# Clause S9: started at once, or at the next wait


@pytest.mark.clause("S9")
def test_what_a_thread_that_does_not_wait_submits_is_started_at_once(
    port: unio.Port, make_pair: Any, make_listener: Any, resources: contextlib.ExitStack, tmp_path: Path
) -> None:
    pairs = [make_pair() for _ in range(3)]
    sender, file_sender, ender = [port.associate(near) for near, _ in pairs]
    path = tmp_path / "file"
    file = resources.enter_context(unio.open(path, "w+b"))
    listening = make_listener()
    client = resources.enter_context(socket.socket())
    operations = [
        unio.Send(sender, b"sent"),
        unio.SendFile(file_sender, resources.enter_context(unio.open(__file__)), 0, 3),
        unio.Shutdown(ender),
        unio.Connect(port.associate(client), listening.getsockname()),
        unio.Write(port.associate(file), b"written", 0),
    ]
    for operation in operations:
        port.submit(operation)
    assert recv_exactly(pairs[0][1], 4) == b"sent"
    assert recv_exactly(pairs[1][1], 3) == b'"""'
    assert pairs[2][1].recv(1) == b""
    listening.settimeout(PATIENCE)
    accepted, address = listening.accept()
    accepted.close()
    assert address == client.getsockname()
    until(lambda: path.read_bytes() == b"written")
    assert all(operation.in_flight for operation in operations)
    found = completions(port, 5)
    assert [each.error for each in found] == [None] * 5
    assert sorted(id(each.operation) for each in found) == sorted(id(operation) for operation in operations)


@pytest.mark.clause("S9")
def test_flush_starts_what_a_thread_that_waits_has_submitted(port: unio.Port, make_pair: Any) -> None:
    near, far = make_pair()
    handle = port.associate(near)
    port.flush()
    for number in range(5):
        port.post("this thread waits")
        completion(port)
        operation = unio.Send(handle, bytes([number]))
        port.submit(operation)
        port.flush()
        assert far.recv(1) == bytes([number])
        assert completion(port).operation is operation
    port.flush()
    assert_idle(port)


@pytest.mark.clause("S9")
def test_what_a_thread_that_waits_has_submitted_is_started_at_its_next_wait(port: unio.Port, make_pair: Any) -> None:
    near, far = make_pair()
    handle = port.associate(near)
    assert_idle(port)
    port.submit(unio.Send(handle, b"data"))
    port.wait(0)
    assert recv_exactly(far, 4) == b"data"


@pytest.mark.clause("S9")
def test_a_thread_may_end_after_its_submit(port: unio.Port, make_pair: Any) -> None:
    near, far = make_pair(local=True)
    handle = port.associate(near)
    assert fill(near) > 0
    received, sent = unio.Recv(handle, bytearray(8)), unio.Send(handle, b"end")
    Background(lambda: (port.submit(received), port.submit(sent))).result()
    far.send(b"data")
    assert completion(port).operation is received
    reader = Background(recv_until, far, b"end")
    assert completion(port)[1:] == (sent, 3, None)
    reader.result()


def recv_until(sock: socket.socket, end: bytes) -> None:
    tail = b""
    while not tail.endswith(end):
        tail = (tail + sock.recv(1 << 16))[-len(end) :]


@pytest.mark.skipif(not hasattr(os, "sched_yield"), reason="POSIX only")
@pytest.mark.clause("S9", "P7")
def test_flush_of_a_closed_port_is_refused(port: unio.Port) -> None:
    port.close()
    with pytest.raises(unio.PortClosed):
        port.flush()
