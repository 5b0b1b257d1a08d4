"""What kqueue(2) says of processes, timers and user events, and of many threads at one queue.

The sentences are FreeBSD's manual page's, each in the test's own words; a few prove what the page leaves to the
kernel's source, and say so. UNIO_KQUEUE_LIBRARY names another library to hold to the same.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import build
import pytest
from double import (
    ABSOLUTE,
    ADD,
    CLEAR,
    DELETE,
    DISABLE,
    ENABLE,
    EOF,
    ERROR,
    EXIT,
    FFAND,
    FFCOPY,
    FFOR,
    FORK,
    NEEDED,
    NSECONDS,
    ONESHOT,
    PATIENCE,
    PROC,
    READ,
    SECONDS,
    TIMER,
    TRIGGER,
    USECONDS,
    USER,
    Kevent,
    asleep,
    failure,
    running,
)

pytestmark = NEEDED


# EVFILT_PROC


def start(stack: contextlib.ExitStack, code: str) -> subprocess.Popen[bytes]:
    """A process that ends when its input does."""
    child = subprocess.Popen([sys.executable, "-S", "-c", f"import os, sys; sys.stdin.read(); {code}"], stdin=-1)
    return stack.enter_context(child)


@pytest.mark.parametrize(("code", "status"), [("os._exit(3)", 3), ("os.kill(os.getpid(), 9)", -9), ("", 0)])
def test_a_process_that_exits_gives_its_status_and_is_not_waited_for(kq, stack, code, status) -> None:
    child = start(stack, code)
    kq.change(child.pid, PROC, ADD, EXIT, udata=7)
    assert kq.events() == []
    child.stdin.close()
    event = kq.event()
    assert (event.ident, event.filter, event.fflags, event.udata) == (child.pid, PROC, EXIT, 7)
    assert event.flags & EOF
    assert os.waitstatus_to_exitcode(event.data) == status
    assert failure(kq.change, child.pid, PROC, DELETE) == errno.ENOENT
    assert child.wait() == status


def test_a_process_that_exited_already_is_told_at_once(kq, stack) -> None:
    child = start(stack, "os._exit(3)")
    child.stdin.close()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    kq.change(child.pid, PROC, ADD | ONESHOT, EXIT)
    assert os.waitstatus_to_exitcode(kq.event().data) == 3


def test_a_process_that_does_not_exist_is_not_found(kq, stack) -> None:
    child = start(stack, "")
    child.stdin.close()
    child.wait()
    for ident in (child.pid, 0, 1 << 31, 1 << 40):
        assert failure(kq.change, ident, PROC, ADD, EXIT) == errno.ESRCH


def test_a_process_is_no_longer_watched_after_deleting_it(kq, stack) -> None:
    child = start(stack, "")
    kq.change(child.pid, PROC, ADD, EXIT)
    kq.change(child.pid, PROC, DELETE)
    child.stdin.close()
    child.wait()
    assert kq.events() == []


def test_what_the_double_does_not_know_of_processes_is_refused(kq, stack) -> None:
    child = start(stack, "")
    for fflags in (0, FORK, EXIT | FORK):
        assert failure(kq.change, child.pid, PROC, ADD, fflags) == errno.EINVAL
    assert failure(kq.change, os.getppid(), PROC, ADD, EXIT) == errno.ECHILD  # its status is not for us
    kq.change(child.pid, PROC, ADD, EXIT)
    assert failure(kq.change, child.pid, PROC, ENABLE) == errno.EINVAL  # BSD would watch for nothing from here on
    child.stdin.close()


def test_a_process_that_others_waited_for_is_told_as_an_error(kq, stack) -> None:
    child = start(stack, "")
    kq.change(child.pid, PROC, ADD, EXIT)
    child.stdin.close()
    child.wait()
    event = kq.event()
    assert (event.flags & ERROR, event.data) == (ERROR, errno.ECHILD)


# EVFILT_TIMER


@pytest.mark.parametrize(("unit", "period"), [(0, 30), (USECONDS, 30_000), (NSECONDS, 30_000_000)])
def test_a_timer_is_periodic_and_counts(kq, unit, period) -> None:
    begin = time.monotonic()
    kq.change(1, TIMER, ADD, unit, period, 7)
    event = kq.event()
    assert (event.ident, event.filter, event.udata) == (1, TIMER, 7)
    count = event.data
    while count < 3:
        count += kq.event().data
    assert time.monotonic() - begin >= count * 0.03


def test_a_timer_in_seconds_is_in_seconds(kq) -> None:
    begin = time.monotonic()
    kq.change(1, TIMER, ADD | ONESHOT, SECONDS, 1)
    assert kq.event().data == 1
    assert time.monotonic() - begin >= 1


def test_a_timer_clears_itself(kq) -> None:
    kq.change(1, TIMER, ADD, 0, 3_600_000)
    kq.change(2, TIMER, ADD | ONESHOT, 0, 1)
    assert kq.event().ident == 2
    assert kq.events() == []


def test_a_timer_of_nothing_fires_at_once(kq) -> None:  # the kernel's source: filt_timervalidate
    kq.change(1, TIMER, ADD | ONESHOT)
    assert kq.event().data == 1
    kq.change(1, TIMER, ADD)
    assert [kq.event().ident, kq.event().ident] == [1, 1]


def test_a_timer_that_is_added_again_starts_again_and_forgets(kq) -> None:
    kq.change(1, TIMER, ADD, 0, 1)
    assert kq.event().ident == 1
    assert select.select([kq.number], [], [], PATIENCE)[0]
    kq.change(1, TIMER, ADD, 0, 3_600_000)
    assert kq.kevent(timeout=0.01) == []


@pytest.mark.parametrize("once", [0, ONESHOT])
def test_a_timer_that_is_added_again_forgets_what_was_not_delivered(kq, once) -> None:
    kq.change(1, TIMER, ADD | DISABLE | once, 0, 1)
    assert select.select([kq.number], [], [], PATIENCE)[0]
    assert kq.events() == []
    kq.change(1, TIMER, ADD | ENABLE, 0, 3_600_000)
    assert kq.events() == []


def test_a_timer_that_is_disabled_goes_on_counting(kq) -> None:
    kq.change(1, TIMER, ADD | DISABLE, USECONDS, 100)
    assert kq.kevent(timeout=0.01) == []
    kq.change(1, TIMER, ENABLE)
    assert kq.event().data >= 100


def test_a_deleted_timer_is_gone(kq) -> None:
    kq.change(1, TIMER, ADD, USECONDS, 1)
    kq.change(1, TIMER, DELETE)
    assert kq.events() == []
    assert failure(kq.change, 1, TIMER, DELETE) == errno.ENOENT


@pytest.mark.parametrize(("fflags", "data"), [(0, -1), (ABSOLUTE, 1), (SECONDS | USECONDS, 1), (16, 1)])
def test_a_timer_that_can_not_be_is_refused(kq, fflags, data) -> None:
    assert failure(kq.change, 1, TIMER, ADD, fflags, data) == errno.EINVAL


# EVFILT_USER


def test_a_user_event_is_returned_from_its_trigger_on(kq) -> None:
    kq.change(1, USER, ADD, udata=7)
    assert kq.events() == []
    kq.change(1, USER, fflags=TRIGGER, udata=8)
    for _ in range(2):
        event = kq.event()
        assert (event.ident, event.filter, event.fflags, event.udata) == (1, USER, 0, 8)


def test_a_user_event_that_clears_comes_once_for_any_number_of_triggers(kq) -> None:
    kq.change(1, USER, ADD | CLEAR)
    for _ in range(2):
        kq.change(1, USER, fflags=TRIGGER)
        kq.change(1, USER, fflags=TRIGGER)
        assert kq.event().ident == 1
        assert kq.events() == []


def test_a_user_event_carries_flags_that_are_combined_as_asked(kq) -> None:
    kq.change(1, USER, ADD, 0b1100)
    for fflags, result in (
        (TRIGGER | 0b1, 0b1100),
        (FFOR | 0b0011, 0b1111),
        (FFAND | 0b0110, 0b0110),
        (FFCOPY | 0b1001, 0b1001),
        (FFCOPY | 0xFFFFFF, 0xFFFFFF),
    ):
        kq.change(1, USER, fflags=fflags, data=result)
        event = kq.event()
        assert (event.fflags, event.data) == (result, result)


def test_a_trigger_is_no_part_of_adding_and_is_lost_with_clear(kq) -> None:  # the kernel's source: filt_usertouch
    kq.change(1, USER, ADD | CLEAR, TRIGGER)
    assert kq.events() == []
    kq.change(1, USER, CLEAR, TRIGGER)
    assert kq.events() == []


def test_a_user_event_that_was_delivered_and_cleared_wants_another_trigger(kq) -> None:
    kq.change(1, USER, ADD | CLEAR)
    kq.change(1, USER, fflags=TRIGGER)
    assert kq.event().ident == 1
    kq.change(1, USER, fflags=FFOR | 1)
    assert kq.events() == []


def test_a_user_event_that_is_disabled_when_it_is_triggered_already_is_kept(kq) -> None:
    kq.change(1, USER, ADD | CLEAR)
    kq.change(1, USER, fflags=TRIGGER)
    kq.change(1, USER, DISABLE)
    assert kq.events() == []
    kq.change(1, USER, ENABLE)
    assert kq.event().ident == 1


def test_a_user_event_that_is_disabled_is_kept(kq) -> None:
    kq.change(1, USER, ADD | CLEAR | DISABLE)
    kq.change(1, USER, fflags=TRIGGER)
    assert kq.events() == []
    kq.change(1, USER, ENABLE)
    assert kq.event().ident == 1


# Threads


def test_a_thread_that_waits_sees_what_others_change(kq, pair) -> None:
    near, far = pair
    far.send(b"x")
    kq.change(1, USER, ADD | CLEAR)
    for change in (Kevent(near.fileno(), READ, ADD | ONESHOT), Kevent(1, USER, 0, TRIGGER)):
        with running(lambda change=change: kq.kevent(change, room=0)):
            assert kq.kevent(timeout=PATIENCE)[0].ident == change.ident


def test_all_threads_that_wait_are_woken_while_the_condition_holds(kq) -> None:
    kq.change(1, USER, ADD)
    seen = []
    with contextlib.ExitStack() as threads:
        for _ in range(4):
            threads.enter_context(running(lambda: seen.append(kq.event().ident)))
        kq.change(1, USER, fflags=TRIGGER)
    assert seen == [1] * 4


def test_each_oneshot_event_goes_to_one_thread(kq) -> None:
    count, seen = 300, []

    def fetch() -> None:
        while True:
            found = [event.ident for event in kq.kevent(room=3, timeout=PATIENCE)]
            assert found
            seen.extend(ident for ident in found if ident)
            if 0 in found:
                return

    with contextlib.ExitStack() as threads:
        for _ in range(4):
            threads.enter_context(running(fetch))
        for ident in range(1, count + 1):
            kq.change(ident, USER, ADD | ONESHOT)
            kq.change(ident, USER, fflags=TRIGGER)
        while len(seen) < count:
            threading.Event().wait(0.001)
        kq.change(0, USER, ADD)  # it stays triggered, and ends them all
        kq.change(0, USER, fflags=TRIGGER)
    assert sorted(seen) == list(range(1, count + 1))


def test_bytes_between_threads_are_all_reported(kq, stack) -> None:
    pairs = [tuple(stack.enter_context(end) for end in socket.socketpair()) for _ in range(8)]
    readers = {near.fileno(): near for near, _ in pairs}
    total, received, guard = 400, [0], threading.Lock()

    def fetch() -> None:
        while received[0] < total * len(pairs):
            for event in kq.kevent(room=2, timeout=0.05):
                with contextlib.suppress(BlockingIOError):
                    got = len(readers[event.ident].recv(7, socket.MSG_DONTWAIT))
                    with guard:
                        received[0] += got
                kq.change(event.ident, READ, ADD | ONESHOT)

    for number in readers:
        kq.change(number, READ, ADD | ONESHOT)
    with contextlib.ExitStack() as threads:
        for _ in range(3):
            threads.enter_context(running(fetch))
        for _ in range(total):
            for _, far in pairs:
                far.send(b"x")
    assert received[0] == total * len(pairs)


def test_a_thread_that_waits_does_not_take_what_is_another_queues(make, pair) -> None:
    kq = make()
    kq.change(pair[0].fileno(), READ, ADD)
    number = kq.number
    with running(lambda: failure(kq.kevent, timeout=PATIENCE)) as waiting:
        asleep(waiting)
        os.close(number)
        again = make()
        assert again.number == number
        again.change(1, USER, ADD)
        again.change(1, USER, fflags=TRIGGER)
        pair[1].send(b"x")
        assert waiting.result() == errno.EBADF
        assert again.event().ident == 1
    kq.number = os.dup(number)  # for the fixture to close


# The build


def test_the_library_is_compiled_once_for_a_source() -> None:
    assert build.library() == build.library()
    assert Path(build.library()).is_file()
