"""What kqueue(2) says of a registration: what it is known by, when it ends, and of the actions on it.

The sentences are FreeBSD's manual page's, each in the test's own words; a few prove what the page leaves to the
kernel's source, and say so. UNIO_KQUEUE_LIBRARY names another library to hold to the same.
"""

from __future__ import annotations

import ctypes
import errno
import os
import select
import socket
import subprocess

import pytest
from double import (
    ADD,
    CLEAR,
    DELETE,
    DISABLE,
    DISPATCH,
    ENABLE,
    EOF,
    NEEDED,
    ONESHOT,
    READ,
    TIMER,
    WRITE,
    Kevent,
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
