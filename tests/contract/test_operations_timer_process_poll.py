"""Timers, the exit of processes, and readiness."""

from __future__ import annotations

import contextlib
import errno
import itertools
import math
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
import types
from typing import Any

import channels
import pytest
import support
from platforms import WINDOWS, needs_parentage, needs_pollable_pipes, needs_signals
from wine import wine_row

import unio

READABLE, WRITABLE = unio.Readiness.READABLE, unio.Readiness.WRITABLE
BOTH = READABLE | WRITABLE


# Timers


@pytest.mark.clause("O11", "C1")
def test_a_timer_completes_with_its_key_and_no_bytes(port: unio.Port) -> None:
    key, state = object(), object()
    timer = unio.Timer(0.01, key, state=state)
    assert support.run(port, timer) == (key, timer, 0, None)
    assert timer.state is state
    assert timer.handle is None


@pytest.mark.clause("O11")
@pytest.mark.parametrize("delay", [0, 1e-9, 1e-4, 0.0009, 0.001, 0.00149, 0.0015, 0.0105, 0.02, 0.0333])
def test_a_timer_never_completes_before_its_deadline(port: unio.Port, delay: Any) -> None:
    timer = unio.Timer(delay)
    for _ in range(5):
        start = time.monotonic()
        support.succeed(port, timer)
        assert time.monotonic() >= start + delay


@pytest.mark.clause("O11")
def test_a_timer_waits_for_its_delay(port: unio.Port) -> None:
    timer = unio.Timer(3600)
    port.submit(timer)
    support.assert_idle(port)
    assert timer.in_flight


@pytest.mark.clause("O11", "S2")
def test_a_timer_without_delay_completes_at_the_next_wait(port: unio.Port) -> None:
    timers = [unio.Timer(0, number) for number in range(10)]
    for timer in timers:
        port.submit(timer)
        assert timer.in_flight
    assert [completion.operation for completion in support.completions(port, 10)] == timers


@pytest.mark.clause("O11")
def test_timers_complete_in_the_order_of_their_deadlines(port: unio.Port) -> None:
    delays = [number * 0.002 for number in range(60)]
    random.Random(1).shuffle(delays)
    earliest, latest = {}, {}
    for delay in delays:
        timer = unio.Timer(delay)
        earliest[timer] = time.monotonic() + delay
        port.submit(timer)
        latest[timer] = time.monotonic() + delay
    order = [completion.operation for completion in support.completions(port, len(delays))]
    for sooner, later in itertools.pairwise(order):
        assert earliest[sooner] <= latest[later]


@pytest.mark.clause("O11", "S1")
def test_thousands_of_timers_complete_once_each_and_none_early(port: unio.Port) -> None:
    generator = random.Random(2)
    deadlines = {}
    for number in range(5000):
        timer = unio.Timer(generator.uniform(0, 0.5), number)
        deadlines[timer] = time.monotonic() + timer.delay
        port.submit(timer)
    found = set()
    while len(found) < 5000:
        batch = port.wait(support.PATIENCE, limit=1000)
        assert batch
        now = time.monotonic()
        for completion in batch:
            assert completion.error is None
            assert completion.operation not in found
            assert now >= deadlines[completion.operation]
            found.add(completion.operation)
    support.assert_idle(port)


@pytest.mark.clause("O11", "X1")
def test_a_cancelled_timer_completes_as_cancelled_and_never_again(port: unio.Port) -> None:
    timer = unio.Timer(0.02, "key")
    port.submit(timer)
    assert port.cancel(timer)
    completion = support.completion(port)
    assert (completion.key, completion.operation, completion.transferred) == ("key", timer, 0)
    support.assert_cancelled(completion)
    assert not port.cancel(timer)
    support.succeed(port, unio.Timer(0.04))  # past the deadline that was
    support.assert_idle(port)


@pytest.mark.clause("O11", "X1")
def test_cancelling_some_of_many_timers_leaves_the_others(port: unio.Port) -> None:
    timers = [unio.Timer(0.05 + number % 7 * 0.01, number) for number in range(2000)]
    for timer in timers:
        port.submit(timer)
    asked = {timer for timer in timers if timer.key % 3 and port.cancel(timer)}
    found = {completion.operation: completion for completion in support.completions(port, 2000)}
    assert found.keys() == set(timers)
    for timer, completion in found.items():
        if timer.key % 3 == 0:
            assert completion.error is None
        elif timer in asked:  # unless it had completed before it was asked, which a slow machine may bring about
            assert completion.error is None or type(completion.error) is unio.Cancelled
    support.assert_idle(port)


@pytest.mark.clause("O11", "S6")
def test_a_timer_is_submitted_again_with_another_delay(port: unio.Port) -> None:
    timer = unio.Timer(0)
    for delay in (0, 0.01, 0, 0.005, 0):
        timer.delay = delay
        start = time.monotonic()
        assert support.run(port, timer) == (None, timer, 0, None)
        assert time.monotonic() >= start + delay


@pytest.mark.clause("O11", "X4")
def test_a_timer_submitted_again_after_a_cancel_has_its_whole_delay(port: unio.Port) -> None:
    timer = unio.Timer(0.01)
    port.submit(timer)
    port.cancel(timer)
    support.assert_cancelled(support.completion(port))
    timer.delay = 0.05
    start = time.monotonic()
    assert support.run(port, timer).error is None
    assert time.monotonic() >= start + 0.05


@pytest.mark.clause("O11", "P2")
def test_a_timer_wakes_a_thread_that_waits_already(port: unio.Port) -> None:
    waiting = support.Background(support.completion, port)
    timer = unio.Timer(0.01)
    port.submit(timer)
    assert waiting.result().operation is timer


@pytest.mark.clause("O11", "P2")
def test_an_earlier_timer_overtakes_a_later_one_that_a_thread_waits_for(port: unio.Port) -> None:
    late = unio.Timer(3600)
    port.submit(late)
    waiting = support.Background(support.completion, port)
    early = unio.Timer(0.01)
    port.submit(early)
    assert waiting.result().operation is early
    assert late.in_flight


@pytest.mark.clause("O11")
@pytest.mark.parametrize("delay", [1e9, 1e18, 1e300, math.inf])
def test_a_timer_may_be_as_long_as_one_likes(port: unio.Port, delay: Any) -> None:
    timer = unio.Timer(delay)
    port.submit(timer)
    assert port.wait(0.01) == []
    port.post("awake")
    assert support.completion(port).key == "awake"
    assert port.cancel(timer)
    support.assert_cancelled(support.completion(port))


@pytest.mark.clause("O11", "S8")
def test_the_time_out_of_a_timer_that_passes_first_is_a_time_out(port: unio.Port) -> None:
    timer = unio.Timer(3600)
    completion = support.run(port, timer, timeout=0.01)
    assert type(completion.error) is TimeoutError
    timer.delay = 0.01
    assert support.run(port, timer, timeout=3600).error is None


@pytest.mark.clause("O11")
@pytest.mark.parametrize("delay", [-1, -1e-9, math.nan])
def test_an_impossible_delay_is_refused_where_it_is_given(delay: Any) -> None:
    with pytest.raises(ValueError, match="delay"):
        unio.Timer(delay)


@pytest.mark.clause("O11", "L3")
def test_a_timer_completes_while_other_work_never_pauses(port: unio.Port) -> None:
    near, far = socket.socketpair()
    with near, far:
        handle = port.associate(near, "socket")
        recv = unio.Recv(handle, bytearray(1))
        timers = [unio.Timer(0.001 * number, "timer") for number in range(20)]
        for timer in timers:
            port.submit(timer)
        port.submit(recv)
        far.send(b"x")
        port.post("post")
        seen = 0
        while seen < len(timers):
            for key, operation, _, error in port.wait(support.PATIENCE, limit=1):
                assert error is None
                if key == "timer":
                    seen += 1
                elif key == "post":
                    port.post("post")
                else:
                    port.submit(operation)
                    far.send(b"x")


# The exit of processes


@pytest.fixture
def start(resources):
    """Starts a Python that runs some code; it is gone at the end of the test."""

    def start(code):
        process = resources.enter_context(
            subprocess.Popen([sys.executable, "-S", "-E", "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        )
        resources.callback(process.kill)
        return process

    return start


UNTIL_TOLD = "import sys; sys.stdin.read(); sys.exit({})"


def has_ended(process):
    """Wait until the process has ended, and leave its status to its owner."""
    if WINDOWS:
        import _winapi  # noqa: PLC0415 - Windows only

        assert _winapi.WaitForSingleObject(int(process._handle), int(support.PATIENCE * 1000)) == _winapi.WAIT_OBJECT_0
    else:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)


@pytest.mark.clause("O13", "C1", "C3")
@pytest.mark.parametrize("status", [0, 1, 7, 255])
def test_the_end_of_a_process_completes_with_its_exit_status(port: unio.Port, start: Any, status: Any) -> None:
    process = start(UNTIL_TOLD.format(status))
    key = object()
    exit_ = unio.ProcessExit(process, key)
    port.submit(exit_)
    support.assert_idle(port)
    assert exit_.status is None
    process.stdin.close()
    assert support.completion(port) == (key, exit_, 0, None)
    assert exit_.status == status


@pytest.mark.clause("O13")
@needs_signals
@pytest.mark.parametrize("number", [signal.Signals(9), signal.SIGTERM] if not WINDOWS else [signal.SIGTERM])
def test_a_process_that_a_signal_ended_has_its_negative_number_as_status(
    port: unio.Port, start: Any, number: Any
) -> None:
    process = start(UNTIL_TOLD.format(0))
    exit_ = unio.ProcessExit(process)
    port.submit(exit_)
    process.send_signal(number)
    support.completion(port)
    assert exit_.status == -number
    assert process.wait(support.PATIENCE) == -number


@pytest.mark.clause("O13")
@pytest.mark.parametrize("by", ["object", "number", "other object"])
def test_the_owner_of_the_process_gets_the_same_status_afterwards(port: unio.Port, start: Any, by: Any) -> None:
    process = start(UNTIL_TOLD.format(3))
    named = {"object": process, "number": process.pid, "other object": types.SimpleNamespace(pid=process.pid)}[by]
    exit_ = unio.ProcessExit(named)
    assert exit_.pid == process.pid
    port.submit(exit_)
    process.stdin.close()
    assert support.completion(port).error is None
    assert exit_.status == 3
    assert process.returncode is None
    assert process.wait(support.PATIENCE) == 3


@pytest.mark.clause("O13")
@pytest.mark.parametrize("by", ["object", "number"])
def test_a_process_that_has_ended_already_completes_at_once(port: unio.Port, start: Any, by: Any) -> None:
    process = start("raise SystemExit(5)")
    has_ended(process)
    exit_ = unio.ProcessExit(process if by == "object" else process.pid)
    assert support.run(port, exit_) == (None, exit_, 0, None)
    assert exit_.status == 5
    assert process.wait(support.PATIENCE) == 5


@pytest.mark.clause("O13")
def test_a_process_whose_owner_knows_its_status_already_completes_with_it(port: unio.Port, start: Any) -> None:
    process = start("raise SystemExit(5)")
    process.wait(support.PATIENCE)
    exit_ = unio.ProcessExit(process)
    assert support.run(port, exit_) == (None, exit_, 0, None)
    assert exit_.status == 5


@pytest.mark.clause("O13", "S1")
def test_many_processes_complete_each_with_its_own_status(port: unio.Port, start: Any) -> None:
    processes = [start(UNTIL_TOLD.format(number)) for number in range(20)]
    for number, process in enumerate(processes):
        port.submit(unio.ProcessExit(process, number))
    support.assert_idle(port)
    for process in processes:
        process.stdin.close()
    found = {completion.key: completion for completion in support.completions(port, len(processes))}
    assert sorted(found) == list(range(20))
    for number, completion in found.items():
        assert completion.error is None
        assert completion.operation.status == number
        assert processes[number].wait(support.PATIENCE) == number


@pytest.mark.clause("O13", "S1")
def test_several_operations_may_wait_for_one_process(port: unio.Port, make_port: Any, start: Any) -> None:
    process = start(UNTIL_TOLD.format(9))
    other = make_port()
    exits = [unio.ProcessExit(process, number) for number in range(5)]
    for exit_ in exits[1:]:
        port.submit(exit_)
    other.submit(exits[0])
    process.stdin.close()
    assert {completion.operation for completion in support.completions(port, 4)} == set(exits[1:])
    assert support.completion(other).operation is exits[0]
    assert [exit_.status for exit_ in exits] == [9] * 5


@pytest.mark.clause("O13", "S6")
def test_a_process_exit_is_submitted_again_for_the_same_process(port: unio.Port, start: Any) -> None:
    process = start(UNTIL_TOLD.format(4))
    exit_ = unio.ProcessExit(process)
    completion = support.run(port, exit_, timeout=0.01)
    assert type(completion.error) is TimeoutError
    assert exit_.status is None
    port.submit(exit_)
    process.stdin.close()
    assert support.completion(port).error is None
    for _ in range(3):
        assert support.run(port, exit_).error is None
        assert exit_.status == 4


@pytest.mark.clause("O13", "X1")
def test_a_cancelled_process_exit_leaves_the_process_alone(port: unio.Port, start: Any) -> None:
    process = start(UNTIL_TOLD.format(6))
    exit_ = unio.ProcessExit(process)
    port.submit(exit_)
    assert port.cancel(exit_)
    support.assert_cancelled(support.completion(port))
    assert process.poll() is None
    process.stdin.close()
    assert process.wait(support.PATIENCE) == 6
    support.assert_idle(port)


@pytest.mark.clause("O13", "C2", "S3")
@pytest.mark.parametrize("number", [2**30, 2**31 - 1, 2**31, 2**70])
def test_a_process_that_does_not_exist_is_an_error_of_the_completion(port: unio.Port, number: Any) -> None:
    completion = support.run(port, unio.ProcessExit(number, "key"))
    assert completion.key == "key"
    assert type(completion.error) is ProcessLookupError
    assert completion.error.errno == errno.ESRCH


@pytest.mark.clause("O13", "C2", "S3")
@needs_parentage
def test_a_process_that_was_waited_for_is_gone(port: unio.Port, start: Any) -> None:
    process = start("pass")
    process.wait(support.PATIENCE)
    assert type(support.run(port, unio.ProcessExit(process.pid)).error) is ProcessLookupError


GRANDPARENT = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-S", "-E", "-c", "import sys; sys.stdin.read()"])
print(child.pid, flush=True)
child.wait()
"""


@pytest.mark.clause("O13", "C2")
@needs_parentage
def test_a_process_that_is_no_child_is_an_error_of_the_completion(port: unio.Port, start: Any) -> None:
    process = start(GRANDPARENT)
    exit_ = unio.ProcessExit(int(process.stdout.readline()))
    port.submit(exit_)
    process.stdin.close()
    completion = support.completion(port)
    assert type(completion.error) is ChildProcessError
    assert completion.error.errno == errno.ECHILD
    assert exit_.status is None


@pytest.mark.clause("O13", "S1")
def test_an_owner_who_waits_at_the_same_time_never_costs_the_completion(port: unio.Port, start: Any) -> None:
    for _ in range(10):
        process = start(UNTIL_TOLD.format(8))
        exit_ = unio.ProcessExit(process)
        port.submit(exit_)
        owner = support.Background(process.wait, support.PATIENCE)
        process.stdin.close()
        completion = support.completion(port)
        assert owner.result() == 8
        if completion.error is None:
            assert exit_.status == 8
        else:  # the owner was quicker, and had not noted the status yet
            assert type(completion.error) is ChildProcessError


@pytest.mark.clause("O13")
def test_the_status_of_a_process_before_is_not_that_of_the_next(port: unio.Port, start: Any) -> None:
    exit_ = unio.ProcessExit(start("raise SystemExit(5)"))
    support.succeed(port, exit_)
    assert exit_.status == 5
    exit_.process = start(UNTIL_TOLD.format(0))
    port.submit(exit_)
    assert port.cancel(exit_)
    support.assert_cancelled(support.completion(port))
    assert exit_.status is None


@pytest.mark.clause("O13", "S1", "S3")
def test_a_process_object_that_has_lost_its_number_leaves_nothing_in_flight(port: unio.Port, start: Any) -> None:
    process = types.SimpleNamespace(pid=start(UNTIL_TOLD.format(0)).pid)
    exit_ = unio.ProcessExit(process)
    process.pid = None
    try:
        port.submit(exit_)
    except (TypeError, ValueError):
        assert not exit_.in_flight
    else:
        assert port.cancel(exit_)  # it still watches the process that it was made for
        support.assert_cancelled(support.completion(port))


@pytest.mark.clause("O13", "X4", "S1", "S8")
def test_a_late_time_out_never_stops_the_watch_of_the_next_submission(make_port: Any, start: Any) -> None:
    for _ in range(8):
        port, process = make_port(), start(UNTIL_TOLD.format(1))
        exit_ = unio.ProcessExit(process, "exit")
        # Thousands of timers that end together with the time-out hold up who acts on it, while others cancel the
        # operation, take its completion and submit it again.
        end = time.monotonic() + 0.05
        for _ in range(1500):
            port.submit(unio.Timer(max(0, end - time.monotonic()), "timer"))
        port.submit(exit_, max(0, end - time.monotonic()))
        for thread in [support.Background(cancel_and_submit_again, port, exit_) for _ in range(3)]:
            thread.result()
        assert exit_.status == 1
        port.close()


def cancel_and_submit_again(port: unio.Port, exit_: unio.ProcessExit) -> None:
    """Cancel the operation at each timer; when it has ended by that or its time-out, submit it again and let it end."""
    while (completion := support.completion(port)).key != "stop":
        if completion.key == "timer":
            port.cancel(exit_)
        elif completion.error is not None:
            port.submit(exit_, 3600)
            with contextlib.suppress(ValueError):  # another of these threads closes it as well
                exit_.process.stdin.close()
        else:
            for _ in range(3):
                port.post("stop")


@pytest.mark.clause("O13", "X1", "S1")
def test_submits_and_cancels_that_race_leave_no_watch_behind(port: unio.Port, resources: Any, start: Any) -> None:
    exit_ = unio.ProcessExit(start(UNTIL_TOLD.format(0)))
    ended = threading.Event()
    resources.callback(sys.setswitchinterval, sys.getswitchinterval())
    sys.setswitchinterval(1e-5)

    def submit() -> None:
        while not ended.is_set():
            with contextlib.suppress(unio.InFlight):
                port.submit(exit_)

    def cancel() -> None:
        while not ended.is_set():
            port.cancel(exit_)

    threads = [support.Background(function) for function in (submit, submit, cancel, cancel)]
    for completion in support.completions(port, 150):
        support.assert_cancelled(completion)
    ended.set()
    for thread in threads:
        thread.result()
    port.cancel(exit_)
    while exit_.in_flight:
        support.assert_cancelled(support.completion(port))


# Readiness


@pytest.mark.clause("O14", "C1", "C3")
@channels.every_pollable
def test_a_poll_completes_once_there_is_something_to_receive_and_takes_nothing(
    port: unio.Port, resources: contextlib.ExitStack, transport: str
) -> None:
    near, far = channels.incoming(resources, transport)
    key = object()
    handle = port.associate(near, key)
    poll = unio.Poll(handle, READABLE)
    port.submit(poll)
    support.assert_idle(port)
    far.send(b"data")
    assert support.completion(port) == (key, poll, 0, None)
    assert poll.found == READABLE
    assert channels.receive_exactly(port, handle, 4) == b"data"


@pytest.mark.clause("O14")
@channels.every_pollable
def test_a_poll_completes_at_once_for_as_long_as_there_is_something(
    port: unio.Port, resources: contextlib.ExitStack, transport: str
) -> None:
    near, far = channels.incoming(resources, transport)
    far.send(b"data")
    handle = port.associate(near)
    poll = unio.Poll(handle, READABLE)
    for _ in range(3):
        assert support.run(port, poll) == (None, poll, 0, None)
    # Somebody else, who knows nothing of the port, takes it bit by bit.
    for _ in range(4):
        assert support.run(port, poll).error is None
        assert len(near.recv(1) if isinstance(near, socket.socket) else near.read(1)) == 1
    port.submit(poll)
    support.assert_idle(port)
    far.send(b"more")
    assert support.completion(port).operation is poll


@pytest.mark.clause("O14")
@channels.every_pollable
def test_a_poll_for_room_completes_at_once_if_there_is_some(
    port: unio.Port, resources: contextlib.ExitStack, transport: str
) -> None:
    near, far = channels.outgoing(resources, transport)
    handle = port.associate(near)
    poll = unio.Poll(handle, WRITABLE)
    for _ in range(3):
        assert support.run(port, poll) == (None, poll, 0, None)
        assert poll.found == WRITABLE
    support.succeed(port, unio.Send(handle, b"room"))
    assert far.recv() == b"room"


@pytest.mark.clause("O14")
@needs_pollable_pipes
@pytest.mark.parametrize("transport", ["local", "pipe", "fifo"])
def test_a_poll_for_room_waits_until_there_is_some(
    port: unio.Port, resources: contextlib.ExitStack, transport: str
) -> None:
    near, far = channels.outgoing(resources, transport)
    handle = port.associate(near)
    poll = unio.Poll(handle, WRITABLE)
    for _ in range(2):
        filled = channels.fill_descriptor(near)
        port.submit(poll)
        support.assert_idle(port)
        assert channels.take(far, filled) == bytes(filled)
        assert support.completion(port) == (None, poll, 0, None)
        assert poll.found == WRITABLE


@pytest.mark.clause("O14")
@channels.every_socket
def test_a_poll_for_both_says_which_is_ready(port: unio.Port, resources: contextlib.ExitStack, transport: str) -> None:
    near, far = channels.incoming(resources, transport)
    handle = port.associate(near)
    poll = unio.Poll(handle, BOTH)
    support.succeed(port, poll)
    assert poll.found == WRITABLE
    far.send(b"data")
    support.succeed(port, poll)
    assert poll.found == BOTH
    poll.readiness = READABLE
    support.succeed(port, poll)
    assert poll.found == READABLE
    assert channels.receive_exactly(port, handle, 4) == b"data"
    port.submit(poll)
    support.assert_idle(port)


@pytest.mark.clause("O14")
@channels.every_pollable
def test_the_end_of_the_stream_is_something_to_receive(
    port: unio.Port, resources: contextlib.ExitStack, transport: str
) -> None:
    near, far = channels.incoming(resources, transport)
    handle = port.associate(near)
    poll = unio.Poll(handle, READABLE)
    port.submit(poll)
    support.assert_idle(port)
    far.close()
    assert support.completion(port) == (None, poll, 0, None)
    assert poll.found == READABLE
    assert support.run(port, poll).error is None
    assert channels.receive_all(port, handle) == b""


@wine_row("receive-after-reset")
@pytest.mark.clause("O14")
def test_a_reset_counts_as_both_and_is_left_for_the_next_call(port: unio.Port, resources: contextlib.ExitStack) -> None:
    near, far = channels.incoming(resources, "tcp")
    handle = port.associate(near)
    poll, both = unio.Poll(handle, READABLE), unio.Poll(handle, BOTH)
    port.submit(poll)
    support.assert_idle(port)
    far.reset()
    assert support.completion(port) == (None, poll, 0, None)
    support.succeed(port, both)
    assert both.found == BOTH
    with pytest.raises(ConnectionResetError):
        near.recv(10)


@pytest.mark.clause("O14")
@needs_pollable_pipes
@channels.every_pipe
def test_a_pipe_that_nobody_reads_any_more_counts_as_writable(
    port: unio.Port, resources: contextlib.ExitStack, transport: str
) -> None:
    near, far = channels.outgoing(resources, transport)
    handle = port.associate(near)
    channels.fill_descriptor(near)
    far.close()
    poll = unio.Poll(handle, WRITABLE)
    support.succeed(port, poll)
    assert poll.found == WRITABLE


@pytest.mark.clause("O14")
@channels.every_socket
def test_a_listener_is_readable_once_somebody_connects(
    port: unio.Port, resources: contextlib.ExitStack, transport: str
) -> None:
    listening = channels.listener(resources, transport)
    poll = unio.Poll(port.associate(listening), READABLE)
    port.submit(poll)
    support.assert_idle(port)
    channels.client(resources, transport).connect(listening.getsockname())
    assert support.completion(port).operation is poll
    resources.enter_context(listening.accept()[0])
    port.submit(poll)
    support.assert_idle(port)


@pytest.mark.clause("O14", "O7")
def test_a_datagram_that_was_polled_for_is_still_there(port: unio.Port, resources: contextlib.ExitStack) -> None:
    near = resources.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    near.bind(("127.0.0.1", 0))
    far = resources.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    poll = unio.Poll(port.associate(near), READABLE)
    for data in (b"data", b""):
        port.submit(poll)
        support.assert_idle(port)
        far.sendto(data, near.getsockname())
        assert support.completion(port).operation is poll
        assert near.recv(10) == data


@pytest.mark.clause("O14")
def test_a_poll_tells_when_a_connect_of_another_library_is_done(
    port: unio.Port, resources: contextlib.ExitStack
) -> None:
    listening = channels.listener(resources, "tcp")
    for joined in ("before", "after"):
        client = channels.client(resources, "tcp")
        client.setblocking(False)
        handle = port.associate(client) if joined == "before" else None
        client.connect_ex(listening.getsockname())
        handle = handle or port.associate(client)
        poll = unio.Poll(handle, WRITABLE)
        assert support.run(port, poll).error is None
        assert client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
        assert client.getpeername() == listening.getsockname()


@pytest.mark.clause("O14")
def test_a_poll_leaves_the_refusal_of_a_connect_to_the_other_library(
    port: unio.Port, resources: contextlib.ExitStack
) -> None:
    bound = channels.client(resources, "tcp")
    bound.bind(("127.0.0.1", 0))
    client = channels.client(resources, "tcp")
    client.setblocking(False)
    handle = port.associate(client)
    client.connect_ex(bound.getsockname())
    poll = unio.Poll(handle, WRITABLE)
    assert support.run(port, poll).error is None
    assert client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNREFUSED


@pytest.mark.clause("O14", "O3")
@channels.every_pollable
def test_a_poll_completes_also_while_a_receive_is_pending(
    port: unio.Port, resources: contextlib.ExitStack, transport: str
) -> None:
    near, far = channels.incoming(resources, transport)
    handle = port.associate(near)
    poll, recv = unio.Poll(handle, READABLE), unio.Recv(handle, bytearray(1))
    port.submit(poll)
    port.submit(recv)
    support.assert_idle(port)
    far.send(b"xy")  # one for the receive, and one that is left to be found
    found = {completion.operation: completion for completion in support.completions(port, 2)}
    assert found[recv].transferred == 1
    assert (found[poll].transferred, found[poll].error) == (0, None)
    assert channels.receive_exactly(port, handle, 1) == b"y"


@pytest.mark.clause("O14", "S1")
@channels.every_pollable
def test_several_polls_of_one_handle_all_complete(
    port: unio.Port, resources: contextlib.ExitStack, transport: str
) -> None:
    near, far = channels.incoming(resources, transport)
    handle = port.associate(near)
    polls = [unio.Poll(handle, READABLE, state=number) for number in range(5)]
    for poll in polls:
        port.submit(poll)
    support.assert_idle(port)
    far.send(b"x")
    assert {completion.operation for completion in support.completions(port, 5)} == set(polls)


@pytest.mark.clause("O14", "S1")
@channels.every_socket
def test_polls_of_both_directions_complete_apart(
    port: unio.Port, resources: contextlib.ExitStack, transport: str
) -> None:
    near, far = channels.incoming(resources, transport)
    handle = port.associate(near)
    readable, writable = unio.Poll(handle, READABLE), unio.Poll(handle, WRITABLE)
    port.submit(readable)
    port.submit(writable)
    assert support.completion(port).operation is writable
    support.assert_idle(port)
    far.send(b"x")
    assert support.completion(port).operation is readable


@pytest.mark.clause("O14", "X1", "S8")
@channels.every_pollable
def test_a_poll_is_cancelled_or_times_out(port: unio.Port, resources: contextlib.ExitStack, transport: str) -> None:
    near, far = channels.incoming(resources, transport)
    poll = unio.Poll(port.associate(near), READABLE)
    assert type(support.run(port, poll, timeout=0.01).error) is TimeoutError
    port.submit(poll)
    assert port.cancel(poll)
    support.assert_cancelled(support.completion(port))
    far.send(b"x")
    support.assert_idle(port)
    assert support.run(port, poll).error is None


@pytest.mark.clause("O14")
@pytest.mark.parametrize("readiness", [unio.Readiness(0), 1, "readable", None])
def test_what_is_no_readiness_is_refused_where_it_is_given(
    port: unio.Port, resources: contextlib.ExitStack, readiness: Any
) -> None:
    near, _ = channels.incoming(resources, "tcp")
    with pytest.raises(TypeError, match="Readiness"):
        unio.Poll(port.associate(near), readiness)
