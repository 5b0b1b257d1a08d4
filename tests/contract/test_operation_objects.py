"""The clauses S of the contract: what an operation keeps in flight, what rides on it, that it is submitted again."""

from __future__ import annotations

import array
import gc
import sys
import tracemalloc
import weakref
from typing import Any

import pytest
from support import (
    BIG,
    Background,
    assert_cancelled,
    completion,
    completions,
    recv_exactly,
    run,
    succeed,
)

import unio

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
