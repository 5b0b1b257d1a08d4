"""The exits of processes."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import subprocess
import sys
import threading
import time
import types
from pathlib import Path
from typing import Any

import channels
import pytest
import support
from platforms import WINDOWS, needs_parentage, needs_signals

import unio

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


class Foreign:
    """A library's process, which can't say yet what its end was."""

    def __init__(self, pid: int) -> None:
        self.pid = pid

    @property
    def returncode(self) -> int:
        raise ZeroDivisionError


@pytest.mark.clause("O13", "S1")
def test_an_object_that_raises_when_it_is_asked_for_its_status_was_not_told_it(port: unio.Port, start: Any) -> None:
    process = start(UNTIL_TOLD.format(3))
    exit_ = unio.ProcessExit(Foreign(process.pid))
    port.submit(exit_)
    process.stdin.close()
    assert support.completion(port).error is None
    assert exit_.status == 3
    assert process.wait(support.PATIENCE) == 3
    if not WINDOWS:  # which keeps the process for whoever has a handle of it
        assert isinstance(support.run(port, exit_).error, ProcessLookupError)


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


TRACER = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.restype, libc.ptrace.argtypes = ctypes.c_long, [ctypes.c_long] * 4
SEIZE, ANY_CHILD = 0x4206, 0x40000000
print(libc.ptrace(SEIZE, int(sys.argv[1]), 0, 0), flush=True)
sys.stdin.readline()
os.waitpid(int(sys.argv[1]), ANY_CHILD)
"""

TRACED = """
import ctypes, sys
ctypes.CDLL(None).prctl(0x59616D61, -1)  # any process may trace this one
print(flush=True)
sys.stdin.read()
sys.exit(7)
"""


@pytest.mark.clause("O13", "L2")
@pytest.mark.skipif(sys.platform != "linux", reason="the way in which one process traces another is Linux'")
def test_a_process_whose_end_another_one_hears_of_first_lets_the_port_sleep(
    port: unio.Port, start: Any, resources: contextlib.ExitStack
) -> None:
    """The kernel says that it has ended, and has no status until the tracer has asked for it."""
    process = start(TRACED)
    process.stdout.readline()
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    tracer = resources.enter_context(subprocess.Popen([sys.executable, "-c", TRACER, str(process.pid)], **pipes))
    resources.callback(tracer.kill)
    assert tracer.stdout.readline() == b"0\n"
    exit_ = unio.ProcessExit(process)
    port.submit(exit_)
    process.stdin.close()
    support.until(lambda: "State:\tZ" in Path(f"/proc/{process.pid}/status").read_text())
    channels.assert_sleeps(port)
    tracer.stdin.write(b"go on\n")
    tracer.stdin.flush()
    assert support.completion(port) == (None, exit_, 0, None)
    assert exit_.status == 7
