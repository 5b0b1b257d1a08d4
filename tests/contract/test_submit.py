"""The clauses S of the contract: a submit leads to one completion; what is refused, and success at once."""

from __future__ import annotations

import contextlib
import errno
import math
import random
import socket
import sys
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import (
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
    pending,
    recv_exactly,
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
            for key, operation, _, error in batch(port, limit=1):
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
def test_a_handle_that_is_another_ports_is_refused(make_port: Any, make_pair: Any) -> None:
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
def test_accepting_where_nobody_listens_is_an_error_of_the_completion(
    port: unio.Port, make_pair: Any, patience: float
) -> None:
    near, _ = make_pair()
    found = run(port, unio.Accept(port.associate(near)), patience)
    assert isinstance(found.error, OSError)
    assert found.error.errno == errno.EINVAL


@pytest.mark.clause("S3")
@pytest.mark.parametrize("form", ["through unio", "plain", "plain, and noticed"])
@pytest.mark.parametrize("kind", [kind for kind in PENDING if kind not in ("timer", "process_exit")])
@pytest.mark.parametrize("timeout", [None, 0, 3600.0])
def test_a_submit_to_a_handle_closed_before_completes_once_as_cancelled(
    port: unio.Port, resources: contextlib.ExitStack, tmp_path: Path, form: str, kind: str, timeout: float | None
) -> None:
    operation = pending(kind, port, resources, tmp_path)
    handle = operation.handle
    if form == "through unio":
        handle.close()
    else:
        close_plainly(handle)
    if "noticed" in form:
        assert_nothing_comes(port, 0.06)
    assert handle.closed
    for _ in range(2):
        assert port.submit(operation, timeout) is False
        found = completion(port)
        assert (found.operation, found.transferred, found.key) == (operation, 0, handle.key)
        if timeout == 0 and "plain" in form:  # where nobody has noticed the close, its time may be over first
            assert type(found.error) in (unio.Cancelled, TimeoutError)
        else:
            assert_cancelled(found)
        assert not operation.in_flight
    assert_nothing_comes(port, 0.02)


def close_plainly(handle: unio.Handle) -> None:
    given: Any = handle.object
    given.close()


@pytest.mark.clause("S3", "S4")
def test_a_submit_to_a_closed_handle_is_no_success_that_is_skipped(port: unio.Port, make_pair: Any) -> None:
    near, _ = make_pair()
    handle = port.associate(near, skip_on_success=True)
    handle.close()
    send = unio.Send(handle, b"data")
    for _ in range(2):
        assert port.submit(send) is False
        assert_cancelled(completion(port))
    assert_idle(port)


@pytest.mark.clause("S3", "S5")
def test_misuse_of_a_closed_handle_still_raises(port: unio.Port, make_port: Any, make_pair: Any) -> None:
    near, _ = make_pair()
    handle = port.associate(near)
    handle.close()
    recv = unio.Recv(handle, bytearray(8))
    with pytest.raises(unio.NotAssociated):
        make_port().submit(recv)
    with pytest.raises(ValueError, match="negative"):
        port.submit(recv, -1)
    port.submit(recv)
    with pytest.raises(unio.InFlight):
        port.submit(recv)
    assert_cancelled(completion(port))
    port.close()
    with pytest.raises(unio.PortClosed):
        port.submit(recv)
    assert not recv.in_flight


@pytest.mark.clause("S3", "S1")
def test_a_thread_that_waits_may_submit_again_what_another_has_closed(port: unio.Port, make_pair: Any) -> None:
    near, far = make_pair()
    handle = port.associate(near)
    recv = unio.Recv(handle)
    port.submit(recv)
    far.send(b"first")
    assert completion(port).transferred == 5  # from here on this thread's submissions may be gathered
    Background(handle.close).result()
    port.submit(recv)
    assert recv.in_flight
    assert_cancelled(completion(port))
    assert_idle(port)


# Clause S4: success at once


@pytest.mark.clause("S4")
def test_success_at_once_queues_exactly_one_packet(port: unio.Port, make_pair: Any) -> None:
    near, far = make_pair(local=True)
    handle = port.associate(near)
    assert not handle.skip_on_success
    far.send(b"data")
    for operation in (unio.Send(handle, b"data"), unio.Recv(handle, bytearray(8))):
        assert port.submit(operation) is False
        assert [found[1:] for found in batch(port)] == [(operation, 4, None)]
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
            queued.extend(found.operation.state for found in batch(port) if found.operation is not None)

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
