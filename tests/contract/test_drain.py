"""Clause H10 of the contract: the graceful end, Port.drain."""

from __future__ import annotations

import contextlib
import threading
import time
from typing import Any

import pytest
from support import BIG, PATIENCE, Background, assert_cancelled, running, until

import unio

pytestmark = pytest.mark.clause("H10")

LONG = 10 * PATIENCE
"""A grace that no test can wait for."""


def drained(
    port: unio.Port, grace: float = LONG, quiet: float = 0.05, threads: list[Background[None]] | None = None
) -> list[unio.Operation]:
    """Have a port drained that threads run, or else one, and return what was cut off."""
    found: list[list[unio.Operation]] = []

    async def end() -> None:
        try:
            found.append(await port.drain(grace, quiet))
        finally:
            port.stop()

    port.start(end())
    for thread in threads or [Background(port.run)]:
        thread.result()
    return found[0]


@pytest.mark.parametrize("threads", [1, 3])
def test_a_port_on_which_nothing_goes_on_is_drained_at_once(port: unio.Port, threads: int) -> None:
    assert drained(port, threads=running(port, threads)) == []
    assert port.draining
    port.stop()
    port.run()
    assert not port.draining


def test_accepts_end_also_those_that_are_submitted_anew(port: unio.Port, make_listener: Any) -> None:
    seen: list[unio.Completion] = []

    def accepted(found: unio.Completion) -> None:
        seen.append(found)
        if len(seen) < 3:
            port.submit(found.operation)

    port.submit(unio.Accept(port.associate(make_listener()), state=accepted))
    assert drained(port, quiet=LONG) == []
    assert len(seen) == 3
    for found in seen:
        assert_cancelled(found)


def test_what_waits_for_others_ends_when_it_has_been_quiet(port: unio.Port, make_pair: Any) -> None:
    seen: list[unio.Completion] = []
    near, _far = make_pair()
    handle = port.associate(near)
    waiting = [
        unio.Recv(handle, state=seen.append),
        unio.Poll(handle, unio.Readiness.READABLE, state=seen.append),
        unio.Timer(3600, state=seen.append),
    ]
    for operation in waiting:
        port.submit(operation)
    assert drained(port) == []
    assert {found.operation for found in seen} == set(waiting)
    for found in seen:
        assert_cancelled(found)
    assert not handle.closed


def assert_goes_on(port: unio.Port, draining: Background[Any]) -> None:
    """It is not over, with ample time for some looks."""
    until(lambda: port.draining)
    draining.join(0.2)
    assert draining.is_alive()


def test_a_receive_to_which_something_comes_in_time_is_not_ended(port: unio.Port, make_pair: Any) -> None:
    near, far = make_pair()
    recv = unio.Recv(port.associate(near))
    seen: list[int] = []

    async def serve() -> None:
        while (await recv).transferred:
            seen.append(recv.transferred)

    port.start(serve())
    draining = Background(drained, port, LONG, LONG)
    assert_goes_on(port, draining)
    far.sendall(b"x")
    until(lambda: seen)
    far.close()
    assert draining.result() == []
    assert seen == [1]


def test_what_does_something_may_end_until_the_time_is_up(port: unio.Port, make_pair: Any) -> None:
    near, far = make_pair()
    send = unio.Send(port.associate(near), bytes(BIG))
    seen: list[unio.Completion] = []
    send.state = seen.append
    port.submit(send)
    draining = Background(drained, port)
    until(lambda: port.draining)
    with contextlib.closing(far):
        left = BIG
        while left:
            left -= len(far.recv(1 << 20))
    assert draining.result() == []
    assert seen[0].error is None


def test_what_does_not_end_in_time_is_cut_off_and_told(port: unio.Port, make_pair: Any) -> None:
    near, _far = make_pair()
    handle = port.associate(near)
    send = unio.Send(handle, bytes(BIG))
    seen: list[BaseException] = []

    async def serve() -> None:
        try:
            await send
        except unio.Cancelled as error:
            seen.append(error)

    task = port.start(serve())
    began = time.monotonic()
    assert drained(port, grace=0.1) == [send]
    assert time.monotonic() - began >= 0.1
    assert len(seen) == 1
    assert task.done
    assert handle.closed


def test_without_grace_everything_is_ended_at_once(port: unio.Port, make_pair: Any, make_listener: Any) -> None:
    send = unio.Send(port.associate(make_pair()[0]), bytes(BIG), state=lambda _: None)
    recv = unio.Recv(port.associate(make_pair()[0]), state=lambda _: None)
    for operation in send, recv, unio.Accept(port.associate(make_listener()), state=lambda _: None):
        port.submit(operation)
    assert drained(port, grace=0, quiet=LONG) == [send]
    assert port.in_flight() == 0


def test_a_handler_that_is_at_work_in_another_thread_is_waited_for(port: unio.Port) -> None:
    working, go = threading.Event(), threading.Event()
    seen: list[unio.Completion] = []

    def work(_: unio.Completion) -> None:
        working.set()
        with port.blocking():
            assert go.wait(PATIENCE)
        port.submit(unio.Timer(0, state=seen.append))

    async def end() -> None:
        cut_off.extend(await port.drain(LONG, LONG))
        drained.set()
        port.stop()

    cut_off: list[unio.Operation] = []
    drained = threading.Event()
    threads = running(port, 2)
    port.post(work)
    assert working.wait(PATIENCE)
    port.start(end())
    until(lambda: port.draining)
    assert not drained.wait(0.2)  # with ample time for some looks
    go.set()
    for thread in threads:
        thread.result()
    assert cut_off == []
    assert len(seen) == 1


def test_a_task_that_is_always_about_to_have_its_turn_is_waited_for(port: unio.Port, make_pair: Any) -> None:
    near, far = make_pair()
    handle = port.associate(near, skip_on_success=True)
    far.setblocking(False)
    ended = False

    async def busy() -> None:
        while not ended:
            await unio.Send(handle, b"x")
            far.recv(10)

    task = port.start(busy())
    draining = Background(drained, port, LONG, LONG)
    assert_goes_on(port, draining)
    ended = True
    assert draining.result() == []
    assert task.done


@pytest.mark.parametrize(("grace", "quiet"), [(-1, 0), (0, -1), (float("nan"), 0)])
def test_what_is_no_time_is_refused(port: unio.Port, grace: float, quiet: float) -> None:
    seen: list[BaseException] = []

    async def end() -> None:
        try:
            await port.drain(grace, quiet)
        except ValueError as error:
            seen.append(error)
        port.stop()

    port.start(end())
    Background(port.run).result()
    assert len(seen) == 1
    assert not port.draining
