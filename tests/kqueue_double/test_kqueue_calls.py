"""What kqueue(2) says of a queue, of kevent() and of the actions on a registration.

The sentences are FreeBSD's manual page's, each in the test's own words; a few prove what the page leaves to the
kernel's source, and say so. UNIO_KQUEUE_LIBRARY names another library to hold to the same.
"""

from __future__ import annotations

import ctypes
import errno
import os
import select
import signal
import socket
import subprocess
import time

import pytest
from double import (
    ADD,
    AIO,
    CLEAR,
    DELETE,
    DISABLE,
    DISPATCH,
    ENABLE,
    EOF,
    ERROR,
    EXIT,
    LOWAT,
    NEEDED,
    ONESHOT,
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
    asleep,
    failure,
    running,
)

pytestmark = NEEDED


# A kevent and its pair of ident and filter


def test_a_kevent_has_32_bytes() -> None:
    assert ctypes.sizeof(Kevent) == 32


def test_there_is_one_kevent_for_ident_and_filter_and_adding_it_again_modifies_it(kq, pair) -> None:
    near, far = pair
    kq.change(near.fileno(), READ, ADD, udata=1)
    kq.change(near.fileno(), READ, ADD, udata=2)
    far.send(b"x")
    assert kq.event().udata == 2


def test_another_filter_of_the_same_ident_is_another_kevent(kq, pair) -> None:
    near, far = pair
    far.send(b"x")
    kq.change(near.fileno(), READ, ADD, udata=1)
    kq.change(near.fileno(), WRITE, ADD, udata=2)
    assert {(event.filter, event.udata) for event in kq.events()} == {(READ, 1), (WRITE, 2)}


def test_adding_again_takes_no_new_action_flags(kq, pair) -> None:  # the kernel's source: kqueue_register
    near, far = pair
    kq.change(near.fileno(), READ, ADD)
    kq.change(near.fileno(), READ, ADD | ONESHOT)
    far.send(b"x")
    assert [kq.event().flags, kq.event().flags] == [0, 0]


def test_the_same_ident_on_two_queues_is_reported_by_both(make, pair) -> None:
    near, far = pair
    queues = [make(), make()]
    for index, kq in enumerate(queues):
        kq.change(near.fileno(), READ, ADD, udata=index + 1)
    far.send(b"x")
    assert [kq.event().udata for kq in queues] == [1, 2]


def test_a_condition_from_before_the_registration_is_detected(kq, pair) -> None:
    near, far = pair
    far.send(b"x")
    kq.change(near.fileno(), READ, ADD | CLEAR)
    assert kq.event().data == 1


def test_a_condition_that_no_longer_holds_is_not_returned(kq, pair) -> None:
    near, far = pair
    kq.change(near.fileno(), READ, ADD)
    far.send(b"x")
    assert kq.event().data == 1
    near.recv(1)
    assert kq.events() == []


def test_several_happenings_are_one_kevent(kq, pair) -> None:
    near, far = pair
    kq.change(near.fileno(), READ, ADD | CLEAR)
    far.send(b"abc")
    far.send(b"de")
    assert kq.event().data == 5
    assert kq.events() == []


def test_an_event_comes_until_its_condition_ends(kq, pair) -> None:
    near, far = pair
    kq.change(near.fileno(), READ, ADD)
    far.send(b"ab")
    for left in (2, 1):
        assert [kq.event().data, kq.event().data] == [left, left]
        near.recv(1)
    assert kq.events() == []


def test_each_ready_ident_gets_its_turn_where_there_is_room_for_one(kq, stack) -> None:
    idents = set()
    for _ in range(5):
        near, far = (stack.enter_context(end) for end in socket.socketpair())
        far.send(b"x")
        kq.change(near.fileno(), READ, ADD)
        idents.add(near.fileno())
    assert {kq.kevent(room=1)[0].ident for _ in range(5)} == idents


# close() removes what refers to the descriptor


def test_all_that_is_ready_is_returned_as_far_as_there_is_room(kq, stack) -> None:
    pairs = [tuple(stack.enter_context(end) for end in socket.socketpair()) for _ in range(150)]
    for near, far in pairs:
        kq.change(near.fileno(), READ, ADD | CLEAR)
        far.send(b"x")
    first = kq.kevent(room=140)
    assert len(first) == 140
    assert {event.ident for event in first + kq.kevent(room=140)} == {near.fileno() for near, _ in pairs}


def test_closing_removes_the_kevent_though_a_duplicate_is_open(kq, pair, stack) -> None:
    near, far = pair
    duplicate = os.dup(near.fileno())
    stack.callback(os.close, duplicate)
    kq.change(near.fileno(), READ, ADD)
    near.close()
    far.send(b"x")
    assert kq.events() == []


@pytest.mark.parametrize("flags", [ADD, ADD | ONESHOT])
def test_closing_removes_an_event_that_was_not_fetched_yet(kq, pair, flags) -> None:
    near, far = pair
    for _ in range(2):  # it happens after the registration, and before it
        number = os.dup(near.fileno())
        kq.change(number, READ, flags)
        far.send(b"x")
        os.close(number)
        assert kq.events() == []


@pytest.mark.parametrize("look", [True, False])
@pytest.mark.parametrize("filters", [(READ,), (WRITE,), (READ, WRITE)])
def test_a_reused_number_has_nothing_of_what_was_closed(kq, filters, look, stack) -> None:
    first, other = socket.socketpair()
    stack.enter_context(other)
    stack.callback(os.close, os.dup(first.fileno()))
    number = first.fileno()
    for which in filters:
        kq.change(number, which, ADD, udata=1)
    first.close()
    second, far = (stack.enter_context(end) for end in socket.socketpair())
    assert second.fileno() == number
    far.send(b"x")
    other.send(b"y")
    if look:
        assert kq.events() == []
    kq.change(number, READ, ADD, udata=2)
    assert [(event.filter, event.udata) for event in kq.events()] == [(READ, 2)]


def test_a_number_that_is_closed_between_two_deliveries_is_not_reported_for_its_successor(kq, pair, stack) -> None:
    near, far = pair
    far.send(b"x")
    number = os.dup(near.fileno())
    kq.change(number, READ, ADD)
    assert kq.event().ident == number
    os.close(number)
    second, other = (stack.enter_context(end) for end in socket.socketpair())
    assert second.fileno() == number
    other.send(b"y")
    assert kq.events() == []


def test_deleting_from_a_number_that_was_closed_fails(kq, pair, stack) -> None:
    near, far = pair
    number = near.fileno()
    kq.change(number, READ, ADD)
    near.close()
    assert failure(kq.change, number, READ, DELETE) == errno.EBADF
    assert os.dup(far.fileno()) == number
    stack.callback(os.close, number)
    assert failure(kq.change, number, READ, DELETE) == errno.ENOENT


@pytest.mark.parametrize("reused", [True, False])
def test_what_happens_to_a_duplicate_does_not_make_the_queue_readable_again_and_again(kq, pair, reused, stack) -> None:
    near, far = pair
    number = near.fileno()
    stack.callback(os.close, os.dup(number))
    other, end = (stack.enter_context(sock) for sock in socket.socketpair())
    kq.change(number, READ, ADD)
    kq.change(other.fileno(), READ, ADD | CLEAR)
    kq.change(1, TIMER, ADD | ONESHOT, 0, 100)
    near.close()
    if reused:
        assert os.dup(other.fileno()) == number
        stack.callback(os.close, number)
    for _ in range(3):
        far.send(b"x")
        assert kq.events() == []
    assert select.select([kq.number], [], [], 0)[0] == []
    far.send(b"x")
    assert select.select([kq.number], [], [], 0)[0] == []
    end.send(b"x")
    assert kq.event().ident == other.fileno()  # all the rest is watched as before
    assert kq.events() == []
    assert kq.event().ident == 1


def test_a_thread_that_sleeps_meanwhile_misses_nothing(kq, pair, stack) -> None:
    near, far = pair
    stack.callback(os.close, os.dup(near.fileno()))
    other, end = (stack.enter_context(sock) for sock in socket.socketpair())
    kq.change(near.fileno(), READ, ADD)
    kq.change(other.fileno(), READ, ADD)
    near.close()
    with running(kq.event) as waiting:
        asleep(waiting)
        far.send(b"x")
        assert kq.events() == []
        asleep(waiting)
        end.send(b"x")
        assert waiting.result().ident == other.fileno()


def test_a_registration_keeps_no_descriptor_open(kq, pair) -> None:
    near, far = pair
    kq.change(near.fileno(), READ, ADD)
    near.close()
    assert far.recv(1) == b""


def test_a_child_that_has_the_descriptor_too_changes_nothing(kq, pair) -> None:
    near, far = pair
    os.set_inheritable(near.fileno(), True)
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, close_fds=False) as child:
        kq.change(near.fileno(), READ, ADD)
        near.close()
        far.send(b"x")
        assert kq.events() == []
        child.communicate()


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


# EV_ENABLE, EV_DISABLE, EV_DISPATCH, EV_DELETE, EV_ONESHOT, EV_CLEAR


def test_a_disabled_kevent_is_not_returned_until_it_is_enabled(kq, pair) -> None:
    near, far = pair
    kq.change(near.fileno(), READ, ADD)
    far.send(b"x")
    kq.change(near.fileno(), READ, DISABLE)
    assert kq.events() == []
    kq.change(near.fileno(), READ, ENABLE)
    assert kq.event().data == 1


def test_adding_enables_unless_it_disables(kq, pair) -> None:
    near, far = pair
    far.send(b"x")
    kq.change(near.fileno(), READ, ADD | DISABLE)
    assert kq.events() == []
    far.send(b"x")
    assert kq.events() == []
    kq.change(near.fileno(), READ, ENABLE)
    assert kq.event().data == 2


def test_adding_again_does_not_enable(kq, pair) -> None:  # the kernel's source, which is stricter than the page
    near, far = pair
    far.send(b"x")
    kq.change(near.fileno(), READ, ADD | DISABLE)
    kq.change(near.fileno(), READ, ADD)
    assert kq.events() == []


def test_a_dispatched_kevent_is_disabled_by_its_delivery(kq, pair) -> None:
    near, far = pair
    kq.change(near.fileno(), READ, ADD | DISPATCH)
    far.send(b"x")
    assert kq.event().data == 1
    far.send(b"x")
    assert kq.events() == []
    kq.change(near.fileno(), READ, ENABLE | DISPATCH)
    assert kq.event().data == 2


def test_a_deleted_kevent_is_gone_with_what_it_had_to_tell(kq, pair) -> None:
    near, far = pair
    kq.change(near.fileno(), READ, ADD)
    kq.change(near.fileno(), WRITE, ADD)
    far.send(b"x")
    kq.change(near.fileno(), READ, DELETE)
    assert [event.filter for event in kq.events()] == [WRITE]
    assert failure(kq.change, near.fileno(), READ, DELETE) == errno.ENOENT
    kq.change(near.fileno(), WRITE, DELETE)
    kq.change(near.fileno(), READ, ADD)
    assert [event.filter for event in kq.events()] == [READ]


def test_what_happens_after_deleting_does_not_make_the_queue_readable(kq, pair) -> None:
    near, far = pair
    kq.change(near.fileno(), READ, ADD)
    assert kq.events() == []
    kq.change(near.fileno(), READ, DELETE)
    far.send(b"x")
    assert select.select([kq.number], [], [], 0)[0] == []


def test_a_oneshot_kevent_is_deleted_by_its_delivery(kq, pair) -> None:
    near, far = pair
    far.send(b"x")
    kq.change(near.fileno(), READ, ADD | ONESHOT, udata=1)
    kq.change(near.fileno(), WRITE, ADD, udata=2)
    assert {event.udata for event in kq.events()} == {1, 2}
    assert [event.udata for event in kq.events()] == [2]
    assert failure(kq.change, near.fileno(), READ, DELETE) == errno.ENOENT
    kq.change(near.fileno(), READ, ADD | ONESHOT, udata=3)
    assert {event.udata for event in kq.events()} == {2, 3}


def test_a_oneshot_event_is_returned_as_it_was_though_it_no_longer_holds(kq, pair) -> None:
    near, far = pair  # the kernel's source: kqueue_scan asks the filter again of the others only
    far.send(b"x")
    kq.change(near.fileno(), READ, ADD | ONESHOT)
    near.recv(1)
    assert kq.event().ident == near.fileno()


def test_a_cleared_kevent_comes_again_when_something_happens(kq, pair) -> None:
    near, far = pair
    kq.change(near.fileno(), READ, ADD | CLEAR)
    far.send(b"x")
    assert kq.event().data == 1
    assert kq.events() == []
    far.send(b"yz")
    assert kq.event().data == 3
    near.recv(3)
    assert kq.events() == []
    far.close()
    assert kq.event().flags & EOF
    assert kq.events() == []
