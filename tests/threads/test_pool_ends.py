"""The end of a unio.Pool: shut down, with its port, with the process."""

from __future__ import annotations

import contextlib
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from concurrent import futures
from typing import Any

import pytest
from pools import LONG, Gate, Record, run
from support import (
    BIG,
    PATIENCE,
    Background,
    assert_cancelled,
    assert_idle,
    completions,
    in_child,
    in_threads,
    needs_fork,
    restless,
    until,
)

import unio

MakePair = Callable[..., tuple[socket.socket, socket.socket]]


# Shutting down


@pytest.mark.parametrize("threads", [1, 2, 3, 16])
def test_what_is_queued_is_done_and_no_packet_is_left_behind(port: unio.Port, threads: int) -> None:
    with restless():
        for _ in range(20):
            record = Record()
            pool = unio.Pool(port, record, threads, grace=LONG)
            for number in range(50):
                port.post(number)
            calls = [pool.submit(abs, -number) for number in range(50)]
            pool.shutdown()
            pool.shutdown()
            assert [call.result(0) for call in calls] == list(range(50))
            assert sorted(record.keys) == list(range(50))
            assert_idle(port)


def test_after_the_shutdown_no_call_is_taken(port: unio.Port) -> None:
    pool = unio.Pool(port, Record())
    pool.shutdown()
    with pytest.raises(RuntimeError, match="shut down"):
        pool.submit(int)
    assert_idle(port)
    with unio.Pool(port, Record()) as successor:  # and the port is as good as new
        assert successor.submit(int, "1").result(PATIENCE) == 1


def test_what_is_in_flight_is_waited_for_and_what_follows_from_it_as_well(port: unio.Port, make_pair: MakePair) -> None:
    near, far = make_pair()
    handle = port.associate(near)
    received = bytearray()

    def handle_recv(found: unio.Completion) -> None:
        received.extend(found.operation.buffer[: found.transferred])
        if found.transferred:
            port.submit(found.operation)
        else:
            handle.close()

    pool = unio.Pool(port, handle_recv, threads=4, grace=LONG)
    port.submit(unio.Recv(handle, bytearray(4)))
    pool.shutdown(wait=False)
    far.sendall(b"a" * 50)
    until(lambda: len(received) == 50)
    far.sendall(b"b" * 50)
    far.close()
    Background(pool.join).result()
    assert received == b"a" * 50 + b"b" * 50
    assert_idle(port)


def test_a_handler_that_runs_while_others_find_nothing_in_flight_may_begin_something(port: unio.Port) -> None:
    gate = Gate()
    ended = threading.Event()

    def handle(found: unio.Completion) -> None:
        if found.key == "begin":
            gate()
            port.submit(unio.Timer(0.02, "timer"))
        else:
            ended.set()

    pool = unio.Pool(port, handle, threads=4, grace=LONG)
    port.post("begin")
    assert gate.is_entered()
    pool.shutdown(wait=False)
    gate.go.set()
    Background(pool.join).result()
    assert ended.is_set()


def test_what_does_not_end_in_time_is_cut_off_and_told(port: unio.Port, make_pair: MakePair) -> None:
    record = Record()
    near, _far = make_pair()
    send = unio.Send(port.associate(near), bytes(BIG))
    port.submit(send)
    began = time.monotonic()
    with unio.Pool(port, record, grace=0.1) as pool:
        pass
    assert time.monotonic() - began >= 0.1
    assert [found.operation for found in record.seen] == [send]
    assert_cancelled(record.seen[0])
    assert pool.cut_off == [send]


def test_a_shutdown_ends_accepts_and_idle_receives(port: unio.Port, make_pair: MakePair, make_listener: Any) -> None:
    record = Record()
    near, _far = make_pair()
    recv = unio.Recv(port.associate(near))
    accept = unio.Accept(port.associate(make_listener()))
    port.submit(recv)
    port.submit(accept)
    pool = unio.Pool(port, record, grace=LONG)
    Background(pool.shutdown).result()
    assert {found.operation for found in record.seen} == {recv, accept}
    for found in record.seen:
        assert_cancelled(found)
    assert pool.cut_off == []
    assert not near._closed  # type: ignore[attr-defined]


def test_a_stop_of_the_port_ends_the_pool(port: unio.Port) -> None:
    pool = unio.Pool(port, Record())
    port.stop()
    Background(pool.join).result()
    with pytest.raises(RuntimeError, match="shut down"):
        pool.submit(int)
    pool.shutdown()
    assert_idle(port)


def test_a_flood_that_renews_itself_is_ended_by_the_time_limit(port: unio.Port, make_pair: MakePair) -> None:
    def renew(found: unio.Completion) -> None:
        port.post(found.key) if found.operation is None else port.submit(found.operation)

    near, _far = make_pair()
    recv = unio.Recv(port.associate(near, "never"), bytearray(1))
    with unio.Pool(port, renew, threads=1, grace=0.05):
        port.submit(recv)
        port.submit(unio.Timer(0, "a timer"))
        port.post("a packet")
    # Each was in flight or queued when the last thread left.
    port.cancel(recv)
    assert sorted(found.key for found in completions(port, 3)) == ["a packet", "a timer", "never"]
    assert_idle(port)


def test_calls_are_made_after_the_time_limit_too_unless_they_are_cancelled(port: unio.Port) -> None:
    gate = Gate()
    pool = unio.Pool(port, Record(), threads=1, grace=0)
    pool.submit(gate)
    assert gate.is_entered()
    later = pool.submit(int, "1")
    pool.shutdown(wait=False)
    gate.go.set()
    assert later.result(PATIENCE) == 1
    Background(pool.join).result()  # until then it takes what is the next one's

    gate = Gate()
    pool = unio.Pool(port, Record(), threads=1)
    running = pool.submit(gate)
    assert gate.is_entered()
    never = [pool.submit(int, "1") for _ in range(10)]
    pool.shutdown(wait=False, cancel_futures=True)
    assert all(call.cancelled() for call in never)
    gate.go.set()
    assert running.result(PATIENCE) is None
    Background(pool.join).result()
    assert_idle(port)


def test_handlers_may_shut_the_pool_down_and_do_not_wait_for_themselves(port: unio.Port) -> None:
    together = threading.Barrier(2)
    returned = threading.Semaphore(0)

    def shut_down(_: object = None) -> None:
        with contextlib.suppress(threading.BrokenBarrierError):  # one thread after the other is as good
            together.wait(0.2)
        pool.shutdown()
        returned.release()

    pool = unio.Pool(port, shut_down, threads=2, grace=LONG)
    port.post("stop")
    pool.submit(shut_down)
    Background(pool.join).result()
    assert returned.acquire(timeout=0)
    assert returned.acquire(timeout=0)
    assert_idle(port)


def test_a_thread_of_the_pool_can_not_wait_for_its_end(port: unio.Port) -> None:
    with unio.Pool(port, Record()) as pool, pytest.raises(RuntimeError, match="of the pool"):
        pool.submit(pool.join).result(PATIENCE)


def test_several_threads_may_shut_it_down_at_once(port: unio.Port) -> None:
    with restless():
        for _ in range(20):
            pool = unio.Pool(port, Record(), threads=4, grace=LONG)
            in_threads(4, lambda _, pool=pool: pool.shutdown())
            assert_idle(port)


# The port is closed


def test_a_pool_whose_port_is_closed_is_over_and_its_calls_are_cancelled(backend: str, threads_before: Any) -> None:
    gate = Gate()
    port = unio.Port(backend=backend)
    pool = unio.Pool(port, Record(), threads=2)
    running = [pool.submit(gate), pool.submit(gate)]
    assert gate.is_entered()
    waiting = [pool.submit(int) for _ in range(5)]
    port.close()
    gate.go.set()
    Background(pool.join).result()
    # One of the two may not have been begun when the port was closed.
    assert futures.wait([*running, *waiting], PATIENCE).not_done == set()
    assert None in [call.result() for call in running if not call.cancelled()]
    assert all(call.cancelled() for call in waiting)
    with pytest.raises(unio.PortClosed):
        pool.submit(int)
    pool.shutdown()


# The process


def test_a_program_that_ends_without_a_word_ends_its_pools_in_order(port: unio.Port) -> None:
    program = (
        "import unio, time\n"
        "port = unio.Port()\n"
        "pool = unio.Pool(port, lambda found: print(found.key))\n"
        "port.submit(unio.Timer(0.2, 'timer'))\n"
        "pool.submit(print, 'call')\n"
        "del port, pool\n"
    )
    done = run(port, program)
    assert (done.returncode, done.stdout.split(), done.stderr) == (0, ["call", "timer"], "")


@pytest.mark.skipif(sys.platform == "win32", reason="there, Ctrl-C goes to all processes of a console")
def test_ctrl_c_ends_a_program_that_waits_for_its_pool(port: unio.Port) -> None:
    program = (
        "import signal, threading, unio\n"
        "def interrupt(found):\n"
        "    signal.pthread_kill(threading.get_ident(), signal.SIGINT)\n"  # which does not wake the main thread
        "    port.submit(unio.Timer(0.1, state=print))\n"
        "def handle(found):\n"
        "    found.operation.state('drained') if found.operation else interrupt(found)\n"
        "with unio.Port() as port, unio.Pool(port, handle) as pool:\n"
        "    port.post('now')\n"
        "    pool.join()\n"
    )
    done = run(port, program)
    assert done.returncode == -signal.SIGINT
    assert done.stdout.split() == ["drained"]
    assert done.stderr.rstrip().endswith("KeyboardInterrupt")


def test_a_signal_handler_may_shut_it_down_in_the_middle_of_a_submit(
    port: unio.Port, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = unio.Pool(port, Record(), grace=LONG)
    post = port.post

    def interrupted(*packet: Any) -> None:
        monkeypatch.undo()
        signal.raise_signal(signal.SIGINT)
        post(*packet)

    monkeypatch.setattr(port, "post", interrupted)
    before = signal.signal(signal.SIGINT, lambda *_: pool.shutdown(wait=False))
    try:
        call = pool.submit(int, "7")
    finally:
        signal.signal(signal.SIGINT, before)
    Background(pool.join).result()
    assert call.result(0) == 7
    assert_idle(port)


@needs_fork
def test_a_forked_child_can_not_use_the_pool_and_does_no_harm_to_it(port: unio.Port) -> None:
    def child() -> None:
        with pytest.raises(RuntimeError, match="fork"):
            pool.submit(int)
        pool.shutdown()
        pool.join()

    with unio.Pool(port, Record(), threads=4) as pool, restless():
        busy = Background(lambda: [pool.submit(int).result(PATIENCE) for _ in range(3000)])
        for _ in range(5):
            in_child(child)
        assert busy.result() == [0] * 3000
