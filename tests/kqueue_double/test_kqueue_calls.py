"""What kqueue(2) says of a queue and of kevent(), its errors and receipts.

The sentences are FreeBSD's manual page's, each in the test's own words; a few prove what the page leaves to the
kernel's source, and say so. UNIO_KQUEUE_LIBRARY names another library to hold to the same.
"""

from __future__ import annotations

import ctypes
import errno
import os
import select
import signal
import time

import pytest
from double import (
    ADD,
    AIO,
    DELETE,
    DISABLE,
    ENABLE,
    EOF,
    ERROR,
    EXIT,
    LOWAT,
    NEEDED,
    PATIENCE,
    PROC,
    READ,
    RECEIPT,
    SIGNAL,
    TIMER,
    TRIGGER,
    USER,
    VNODE,
    WRITE,
    Kevent,
    Kqueue,
    Timespec,
    failure,
    running,
)

pytestmark = NEEDED


# The queue's life


def test_the_queue_is_not_inherited_by_a_child(kq, pair) -> None:
    near, _ = pair
    kq.change(near.fileno(), WRITE, ADD)
    child = os.fork()
    if child == 0:
        os._exit(failure(kq.events) != errno.EBADF or failure(os.fstat, kq.number) != errno.EBADF)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert kq.event().filter == WRITE


def test_a_child_can_have_queues_of_its_own(kq, library) -> None:
    child = os.fork()
    if child == 0:
        own = Kqueue(library)
        own.change(1, USER, ADD)
        own.change(1, USER, fflags=TRIGGER)
        os._exit(own.event().ident != 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_closed_queue_and_what_is_no_queue_are_invalid_descriptors(make, pair, stack) -> None:
    kq = make()
    number = kq.number
    os.close(number)
    assert failure(kq.events) == errno.EBADF
    with select.epoll() as other:
        assert other.fileno() == number
        assert failure(kq.events) == errno.EBADF
    again = make()
    assert again.number == number
    kq.number = pair[0].fileno()
    assert failure(kq.events) == errno.EBADF
    kq.number = os.dup(number)  # for the fixture to close


def test_a_new_queue_under_an_old_number_is_empty(make, pair) -> None:
    old = make()
    old.change(pair[0].fileno(), WRITE, ADD)
    old.change(1, USER, ADD)
    old.change(1, USER, fflags=TRIGGER)
    os.close(old.number)
    new = make()
    assert new.number == old.number
    old.number = os.dup(new.number)
    assert new.events() == []
    assert failure(new.change, 1, USER, DELETE) == errno.ENOENT


def test_the_queue_can_be_selected_for_reading(kq) -> None:  # the kernel's source: kqueue_poll
    kq.change(1, USER, ADD)
    assert select.select([kq.number], [], [], 0)[0] == []
    kq.change(1, USER, fflags=TRIGGER)
    assert select.select([kq.number], [], [], PATIENCE)[0] == [kq.number]
    assert kq.event().ident == 1
    assert select.select([kq.number], [], [], 0)[0] == [kq.number]  # it is still triggered


# The call


def test_all_changes_are_applied_before_events_are_read(kq, pair) -> None:
    near, far = pair
    far.send(b"x")
    [event] = kq.kevent(Kevent(near.fileno(), READ, ADD), Kevent(near.fileno(), READ, ADD, udata=7))
    assert event.udata == 7


def test_without_room_for_events_the_call_returns_at_once(kq) -> None:
    assert kq.kevent(room=0, timeout=None) == []


def test_a_timeout_of_zero_polls_and_another_is_never_early(kq) -> None:
    assert kq.kevent(timeout=0) == []
    for timeout in (0.001, 0.03, 0.99):
        start = time.monotonic()
        assert kq.kevent(timeout=timeout) == []
        assert time.monotonic() - start >= timeout


def test_a_call_that_succeeds_leaves_errno_alone(kq) -> None:
    ctypes.set_errno(errno.ENOSYS)
    assert kq.kevent(Kevent(1, USER, ADD), Kevent(1, USER, 0, TRIGGER), timeout=0.01)
    assert ctypes.get_errno() == errno.ENOSYS


def test_without_timeout_the_call_waits(kq, pair) -> None:
    near, far = pair
    kq.change(near.fileno(), READ, ADD)
    with running(lambda: far.send(b"x")):
        assert kq.kevent(timeout=None)[0].data == 1


@pytest.mark.parametrize("timeout", [(-1, 0), (0, -1), (0, 10**9)])
def test_a_time_limit_that_is_none_is_invalid(kq, library, timeout) -> None:
    events = (Kevent * 1)()
    assert library.kevent(kq.number, None, 0, events, 1, ctypes.byref(Timespec(*timeout))) == -1
    assert ctypes.get_errno() == errno.EINVAL


@pytest.mark.parametrize("counts", [(-1, 1), (0, -1)])
def test_negative_counts_are_invalid(kq, library, counts) -> None:  # the kernel's source
    array = (Kevent * 1)()
    nowait = ctypes.byref(Timespec())
    assert library.kevent(kq.number, array, counts[0], array, counts[1], nowait) == -1
    assert ctypes.get_errno() == errno.EINVAL


def test_one_array_may_be_changes_and_events(kq, library, pair) -> None:
    near, far = pair
    far.send(b"x")
    array = (Kevent * 2)(Kevent(near.fileno(), READ, ADD, udata=1), Kevent(near.fileno(), WRITE, ADD, udata=2))
    assert library.kevent(kq.number, array, 2, array, 2, ctypes.byref(Timespec())) == 2
    assert {(event.filter, event.udata) for event in array} == {(READ, 1), (WRITE, 2)}


def test_a_signal_ends_the_wait_and_the_changes_have_been_applied(kq, pair, stack) -> None:
    near, far = pair
    stack.callback(signal.signal, signal.SIGALRM, signal.signal(signal.SIGALRM, lambda *_: None))
    stack.callback(signal.setitimer, signal.ITIMER_REAL, 0)
    signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)
    assert failure(kq.kevent, Kevent(near.fileno(), READ, ADD), timeout=PATIENCE) == errno.EINTR
    signal.setitimer(signal.ITIMER_REAL, 0)
    far.send(b"x")
    assert kq.event().ident == near.fileno()


# Errors and receipts


def test_an_error_goes_into_the_eventlist(kq, pair) -> None:
    near, far = pair
    far.send(b"x")
    [event] = kq.kevent(Kevent(near.fileno(), READ, DELETE, udata=7))
    assert (event.ident, event.filter, event.flags, event.data, event.udata) == (
        near.fileno(),
        READ,
        ERROR,
        errno.ENOENT,
        7,
    )


def test_an_error_without_room_is_the_calls_and_the_rest_is_not_done(kq, pair) -> None:
    near, far = pair
    far.send(b"x")
    first, bad, last = Kevent(near.fileno(), WRITE, ADD), Kevent(1, USER, DELETE), Kevent(near.fileno(), READ, ADD)
    assert failure(kq.kevent, first, bad, last, room=0) == errno.ENOENT
    assert [event.filter for event in kq.events()] == [WRITE]


def test_the_changes_after_an_error_with_room_are_done_and_no_event_is_read(kq, pair) -> None:
    near, far = pair
    far.send(b"x")
    [event] = kq.kevent(Kevent(1, USER, DELETE), Kevent(near.fileno(), READ, ADD))
    assert event.flags == ERROR
    assert kq.event().filter == READ


def test_a_receipt_says_zero_and_drains_no_event(kq, pair) -> None:
    near, far = pair
    far.send(b"x")
    changes = [Kevent(near.fileno(), which, ADD | RECEIPT, udata=7) for which in (READ, WRITE)]
    assert [(event.filter, event.flags, event.data, event.udata) for event in kq.kevent(*changes, room=2)] == [
        (READ, ERROR, 0, 7),
        (WRITE, ERROR, 0, 7),
    ]
    assert len(kq.events()) == 2


def test_a_receipt_of_a_change_that_fails_says_why(kq) -> None:
    assert kq.kevent(Kevent(1, USER, DELETE | RECEIPT))[0].data == errno.ENOENT


def test_a_receipt_without_room_ends_the_changes(kq, pair) -> None:
    near, far = pair
    far.send(b"x")
    assert kq.kevent(Kevent(near.fileno(), WRITE, ADD | RECEIPT), Kevent(near.fileno(), READ, ADD), room=0) == []
    assert [event.filter for event in kq.events()] == [WRITE]


@pytest.mark.parametrize("flags", [DELETE, ENABLE, DISABLE, 0])
@pytest.mark.parametrize("which", [READ, USER, TIMER, PROC])
def test_what_is_not_there_can_not_be_changed(kq, pair, which, flags) -> None:
    assert failure(kq.change, pair[0].fileno(), which, flags) == errno.ENOENT


def test_an_invalid_descriptor_is_refused(kq) -> None:
    for ident in (10**6, 1 << 40, (1 << 64) - 1):
        assert failure(kq.change, ident, READ, ADD) == errno.EBADF


def test_a_change_without_a_filter_is_passed_over(kq, pair) -> None:  # the kernel's source: kqueue_kevent
    near, _ = pair
    answers = kq.kevent(Kevent(near.fileno(), 0, ADD | RECEIPT), Kevent(near.fileno(), WRITE, ADD | RECEIPT), room=2)
    assert [(event.filter, event.flags, event.data) for event in answers] == [(WRITE, ERROR, 0)]


@pytest.mark.parametrize("which", [1, AIO, VNODE, SIGNAL, -8, -9, -10, -12, -13, -1000])
def test_a_filter_that_the_double_has_not_is_invalid(kq, pair, which) -> None:
    assert failure(kq.change, pair[0].fileno(), which, ADD, EXIT) == errno.EINVAL


def test_flags_that_contradict_each_other_or_that_the_double_has_not_are_invalid(kq, pair) -> None:
    for flags in (ADD | ENABLE | DISABLE, ADD | 0x100, ADD | 0x200):
        assert failure(kq.change, pair[0].fileno(), READ, flags) == errno.EINVAL


def test_flags_of_the_systems_are_taken_from_a_change(kq, pair) -> None:  # the kernel's source: EV_SYSFLAGS
    near, far = pair
    kq.change(near.fileno(), READ, ADD | EOF | ERROR)
    far.send(b"x")
    assert kq.event().flags == 0


@pytest.mark.parametrize(("which", "fflags"), [(READ, 2), (READ, LOWAT | 2), (WRITE, LOWAT)])
def test_filter_flags_that_the_double_has_not_are_invalid(kq, pair, which, fflags) -> None:
    number = pair[0].fileno()
    assert failure(kq.change, number, which, ADD, fflags) == errno.EINVAL
    kq.change(number, which, ADD)
    assert failure(kq.change, number, which, ADD, fflags) == errno.EINVAL


def test_descriptors_that_a_queue_does_not_take_are_invalid(kq, make, tmp_path, stack) -> None:
    eventfd = os.eventfd(1)
    folder = os.open(tmp_path, os.O_RDONLY)
    stack.callback(os.closerange, eventfd, folder + 1)
    for number in (eventfd, folder, kq.number, make().number):
        assert failure(kq.change, number, READ, ADD) == errno.EINVAL
    with open(os.devnull) as null:
        assert failure(kq.change, null.fileno(), READ, ADD) == errno.ENODEV
