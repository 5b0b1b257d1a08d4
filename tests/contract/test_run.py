"""The clauses H1 to H4 of the contract: Port.run gives completions to their handlers, until Port.stop."""

from __future__ import annotations

import signal
import threading
from typing import Any

import pytest
from support import PATIENCE, Background, Hook, assert_idle, completion, in_threads, running, until

import unio


def run(port: unio.Port) -> None:
    """Run the port, in a thread of its own so that it can't last for ever."""
    Background(port.run).result()


@pytest.mark.clause("H1")
def test_run_calls_the_state_of_each_operation_and_the_key_of_a_packet(port: unio.Port, make_pair: Any) -> None:
    near, far = make_pair()
    seen: list[unio.Completion] = []

    def received(found: unio.Completion) -> None:
        seen.append(found)
        port.stop()

    recv = unio.Recv(port.associate(near, "key"), state=received)
    port.post(seen.append)
    port.submit(recv)
    far.sendall(b"hello")
    run(port)
    assert [found[1:] for found in seen] == [(None, 0, None), (recv, 5, None)]
    assert seen[1].key == "key"


@pytest.mark.clause("H1")
def test_a_packet_with_an_operation_goes_to_that_ones_state(port: unio.Port) -> None:
    seen: list[unio.Completion] = []
    timer = unio.Timer(0, state=seen.append)
    port.post("key", timer, 5)
    port.stop()
    run(port)
    assert seen == [("key", timer, 5, None)]


@pytest.mark.clause("H1")
@pytest.mark.parametrize("state", [None, "text", 5])
def test_a_state_that_can_not_be_called_is_reported_with_what_to_use(port: unio.Port, hook: Hook, state: Any) -> None:
    port.submit(unio.Timer(0, state=state))
    port.submit(unio.Timer(0.01, state=lambda _: port.stop()))
    run(port)
    [error] = hook.errors
    assert isinstance(error, TypeError)
    assert "unio.Recv(handle, state=function)" in str(error)
    assert "<unio.Timer" in error.__notes__[0]


@pytest.mark.clause("H1")
def test_a_coroutine_function_is_no_handler_and_is_reported_with_what_to_use(port: unio.Port, hook: Hook) -> None:
    async def handle(_: unio.Completion) -> None: ...

    port.post(handle)
    port.stop()
    run(port)
    [error] = hook.errors
    assert isinstance(error, TypeError)
    assert "port.start(coroutine)" in str(error)


@pytest.mark.clause("H2")
def test_no_completion_waits_for_the_handler_of_another_while_a_thread_is_free(port: unio.Port) -> None:
    seen: list[str] = []
    go, done = threading.Event(), threading.Event()

    def block(_: unio.Completion) -> None:
        with port.blocking():
            assert go.wait(PATIENCE)

    threads = running(port, 2)
    port.post(block)
    for number in range(10):
        port.post(lambda found: seen.append(found.transferred), transferred=number)
    port.post(lambda _: done.set())
    assert done.wait(PATIENCE)
    assert seen == list(range(10))
    go.set()
    port.stop()
    for thread in threads:
        thread.result()


@pytest.mark.clause("H2")
def test_what_one_thread_has_taken_and_not_begun_goes_to_the_next_that_comes(port: unio.Port) -> None:
    seen: list[int] = []
    blocks, go, done = threading.Event(), threading.Event(), threading.Event()

    def block(_: unio.Completion) -> None:
        blocks.set()
        with port.blocking():
            assert go.wait(PATIENCE)

    port.post(block)
    for number in range(10):
        port.post(lambda found: seen.append(found.transferred), transferred=number)
    port.post(lambda _: done.set())
    threads = [Background(port.run)]
    assert blocks.wait(PATIENCE)
    threads.append(Background(port.run))
    assert done.wait(PATIENCE)
    assert seen == list(range(10))
    go.set()
    port.stop()
    for thread in threads:
        thread.result()
    assert_idle(port)


@pytest.mark.clause("H3")
def test_what_a_handler_raises_is_reported_and_the_next_completion_has_its_turn(port: unio.Port, hook: Hook) -> None:
    seen: list[unio.Completion] = []

    def fail(_: unio.Completion) -> None:
        raise ValueError("mine")

    port.post(fail)
    port.post(seen.append)
    port.stop()
    run(port)
    assert len(seen) == 1
    assert [str(error) for error in hook.errors] == ["mine"]
    assert "A handler raised this for Completion(key=<function>" in hook.errors[0].__notes__[0]


@pytest.mark.clause("H3")
@pytest.mark.parametrize("raised", [SystemExit, KeyboardInterrupt, GeneratorExit])
def test_outside_of_the_main_thread_nothing_that_a_handler_raises_ends_run(
    port: unio.Port, hook: Hook, raised: type[BaseException]
) -> None:
    def fail(_: unio.Completion) -> None:
        raise raised

    port.post(fail)
    port.stop()
    run(port)
    [error] = hook.errors
    assert type(error) is raised or type(error.__cause__) is raised


@pytest.mark.clause("H3")
@pytest.mark.parametrize("raised", [SystemExit, KeyboardInterrupt])
@pytest.mark.parametrize("stopped", [False, True])
def test_what_ends_the_program_comes_out_of_run_when_all_that_was_taken_is_handled(
    port: unio.Port, raised: type[BaseException], *, stopped: bool
) -> None:
    seen: list[str] = []

    def fail(_: unio.Completion) -> None:
        raise raised

    if stopped:
        port.stop()
    port.post(fail)
    port.post(lambda _: seen.append("handled"))
    with pytest.raises(raised):
        port.run()
    assert seen == ["handled"]
    assert_idle(port)
    port.post(lambda _: port.stop())
    port.run()  # once more


@pytest.mark.clause("H4")
def test_what_was_queued_before_a_stop_is_handled(port: unio.Port) -> None:
    seen: list[int] = []
    for number in range(200):
        port.post(lambda found: seen.append(found.transferred), transferred=number)
    port.stop()
    run(port)
    assert seen == list(range(200))
    assert_idle(port)


@pytest.mark.clause("H4")
def test_one_stop_ends_all_threads_and_leaves_nothing_behind(port: unio.Port) -> None:
    threads = running(port, 4)
    port.stop()
    port.stop()
    for thread in threads:
        thread.result()
    assert_idle(port)
    port.post("not dispatched")
    assert completion(port).key == "not dispatched"


@pytest.mark.clause("H4")
def test_run_may_be_called_again(port: unio.Port) -> None:
    seen: list[int] = []
    for number in range(3):
        port.post(lambda found: seen.append(found.transferred), transferred=number)
        port.post(lambda _: port.stop())
        run(port)
    assert seen == [0, 1, 2]


@pytest.mark.clause("H4")
def test_a_signal_handler_may_stop_run(port: unio.Port) -> None:
    before = signal.signal(signal.SIGINT, lambda *_: port.stop())
    try:
        port.post(lambda _: signal.raise_signal(signal.SIGINT))
        port.run()
    finally:
        signal.signal(signal.SIGINT, before)
    assert_idle(port)


@pytest.mark.clause("H4", "P7")
def test_a_port_that_is_closed_ends_run_with_port_closed(port: unio.Port) -> None:
    running = threading.Event()
    port.post(lambda _: running.set())
    thread = Background(port.run)
    assert running.wait(PATIENCE)
    port.close()
    with pytest.raises(unio.PortClosed):
        thread.result()
    for call in port.run, port.stop, port.in_flight:
        with pytest.raises(unio.PortClosed):
            call()  # type: ignore[operator]


@pytest.mark.clause("S1")
def test_in_flight_counts_the_operations_until_a_wait_returns_them(port: unio.Port, make_pair: Any) -> None:
    near, far = make_pair()
    handle = port.associate(near)
    recv, timer = unio.Recv(handle), unio.Timer(3600)
    assert port.in_flight() == 0
    port.submit(recv)
    port.submit(timer)
    port.post("a packet is none")
    assert port.in_flight() == 2
    far.sendall(b"x")
    assert port.in_flight() == 2
    until(lambda: recv in [found.operation for found in port.wait(PATIENCE)])
    assert port.in_flight() == 1


@pytest.mark.clause("H1", "H4")
def test_threads_that_run_one_port_handle_each_completion_once(port: unio.Port) -> None:
    seen: list[int] = []
    left = threading.Semaphore(0)

    def handle(found: unio.Completion) -> None:
        seen.append(found.transferred)
        left.release()

    threads = running(port, 4)

    def post(thread: int) -> None:
        for number in range(250):
            port.post(handle, transferred=1000 * thread + number)

    in_threads(2, post)
    for _ in range(500):
        assert left.acquire(timeout=PATIENCE)
    port.stop()
    for thread in threads:
        thread.result()
    assert sorted(seen) == [base + number for base in (0, 1000) for number in range(250)]
