"""The double of kqueue(2) does what FreeBSD's manual page says.

Each test says in its own words the sentence of the page that it proves; a few prove what the page leaves to the
kernel's source, and say so. UNIO_KQUEUE_LIBRARY names another library to hold to the same.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import build
import pytest
import support

pytestmark = pytest.mark.skipif(build.unavailable() is not None, reason=str(build.unavailable()))

READ, WRITE, AIO, VNODE, PROC, SIGNAL, TIMER, USER = -1, -2, -3, -4, -5, -6, -7, -11
ADD, DELETE, ENABLE, DISABLE, ONESHOT, CLEAR, RECEIPT, DISPATCH = (1 << bit for bit in range(8))
ERROR, EOF = 0x4000, 0x8000
LOWAT = 1
EXIT, FORK = 0x80000000, 0x40000000
SECONDS, USECONDS, NSECONDS, ABSOLUTE = 1, 2, 4, 8
TRIGGER, FFAND, FFOR, FFCOPY = 0x01000000, 0x40000000, 0x80000000, 0xC0000000

PATIENCE = support.PATIENCE


class Kevent(ctypes.Structure):
    _fields_ = (
        ("ident", ctypes.c_size_t),
        ("filter", ctypes.c_short),
        ("flags", ctypes.c_ushort),
        ("fflags", ctypes.c_uint),
        ("data", ctypes.c_ssize_t),
        ("udata", ctypes.c_void_p),
    )

    def __repr__(self) -> str:
        return (
            f"Kevent({self.ident}, {self.filter}, {self.flags:#x}, {self.fflags:#x}, {self.data}, {self.udata or 0:#x})"
        )


class Timespec(ctypes.Structure):
    _fields_ = (("tv_sec", ctypes.c_long), ("tv_nsec", ctypes.c_long))


class Kqueue:
    """A kqueue of the library under test."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        self.number = library.kqueue()
        assert self.number >= 0, os.strerror(ctypes.get_errno())

    def kevent(
        self, *changes: Kevent, room: int = 16, timeout: float | None = 0, events: ctypes.Array[Kevent] | None = None
    ) -> list[Kevent]:
        """Call kevent(); room is nevents."""
        given = (Kevent * max(1, len(changes)))(*changes)
        found = events if events is not None else (Kevent * max(1, room))()
        limit = None
        if timeout is not None:
            limit = ctypes.byref(Timespec(int(timeout // 1), int(timeout % 1 * 1e9)))
        count = self._library.kevent(self.number, given, len(changes), found, room, limit)
        if count < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        return found[:count]

    def change(self, ident: int, which: int, flags: int = 0, fflags: int = 0, data: int = 0, udata: int = 0) -> None:
        """One change, which succeeds; no event is looked for."""
        assert self.kevent(Kevent(ident, which, flags, fflags, data, udata), room=0) == []

    def events(self) -> list[Kevent]:
        """What there is now."""
        return self.kevent()

    def event(self) -> Kevent:
        """The one event that comes."""
        [event] = self.kevent(timeout=PATIENCE)
        return event

    def close(self) -> None:
        os.close(self.number)


@pytest.fixture(scope="module")
def library() -> ctypes.CDLL:
    return ctypes.CDLL(os.environ.get("UNIO_KQUEUE_LIBRARY") or build.library(), use_errno=True)


@pytest.fixture
def stack(library: ctypes.CDLL) -> Iterator[contextlib.ExitStack]:
    before = support.open_descriptors()
    with contextlib.ExitStack() as stack:
        yield stack
    os.close(library.kqueue())  # the double notices closed queues when it makes another
    support.no_more_descriptors_than(before)


@pytest.fixture
def make(library: ctypes.CDLL, stack: contextlib.ExitStack) -> Callable[[], Kqueue]:
    return lambda: stack.enter_context(contextlib.closing(Kqueue(library)))


@pytest.fixture
def kq(make: Callable[[], Kqueue]) -> Kqueue:
    return make()


@pytest.fixture
def pair(stack: contextlib.ExitStack) -> tuple[socket.socket, socket.socket]:
    return tuple(stack.enter_context(end) for end in socket.socketpair())  # type: ignore[return-value]


@pytest.fixture
def tcp(stack: contextlib.ExitStack) -> tuple[socket.socket, socket.socket]:
    return tuple(stack.enter_context(end) for end in support.tcp_pair())  # type: ignore[return-value]


@pytest.fixture
def pipe(stack: contextlib.ExitStack) -> tuple[int, int]:
    """Its numbers are closed at the end; a test that closes one itself puts another there."""
    ends = os.pipe()
    for end in ends:
        stack.callback(close_quietly, end)
    return ends


def close_quietly(number: int) -> None:
    with contextlib.suppress(OSError):
        os.close(number)


@contextlib.contextmanager
def running(function: Callable[[], object]) -> Iterator[support.Background[object]]:
    """A thread beside the block, which must end well after it."""
    thread = support.Background(function)
    yield thread
    thread.result()


def asleep(thread: threading.Thread) -> None:
    """Return when the thread sleeps in the kernel until something can be read."""
    channel = Path(f"/proc/self/task/{thread.native_id}/wchan")
    support.until(lambda: "poll" in channel.read_text())


def failure(call: Callable[..., object], *args: object, **keywords: object) -> int | None:
    with pytest.raises(OSError) as caught:  # noqa: PT011 - the caller looks at its number
        call(*args, **keywords)
    return caught.value.errno


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


def test_closing_removes_the_kevent_though_a_duplicate_is_open(kq, pair, stack) -> None:
    near, far = pair
    duplicate = os.dup(near.fileno())
    stack.callback(os.close, duplicate)
    kq.change(near.fileno(), READ, ADD)
    near.close()
    far.send(b"x")
    assert kq.events() == []


def test_closing_removes_an_event_that_was_not_fetched_yet(kq, pair, stack) -> None:
    near, far = pair
    stack.callback(os.close, os.dup(near.fileno()))
    for flags in (ADD, ADD | ONESHOT):
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
    for timeout in (0.001, 0.03):
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


# EVFILT_READ


def test_a_listener_returns_while_a_connection_is_pending(kq, stack) -> None:
    listener = stack.enter_context(support.listener())
    kq.change(listener.fileno(), READ, ADD)
    kq.change(listener.fileno(), WRITE, ADD)  # never
    assert kq.events() == []
    for _ in range(2):
        stack.enter_context(socket.create_connection(listener.getsockname()))
    [event] = kq.events()
    assert (event.filter, event.data) == (READ, 2)
    for _ in range(2):
        stack.enter_context(listener.accept()[0])
    assert kq.events() == []


def test_a_sockets_data_is_the_number_of_bytes(kq, tcp) -> None:
    near, far = tcp
    kq.change(near.fileno(), READ, ADD)
    assert kq.events() == []
    far.send(b"abc")
    event = kq.event()
    assert (event.ident, event.filter, event.flags, event.fflags, event.data) == (near.fileno(), READ, 0, 0, 3)


def test_a_low_water_mark_of_the_socket_is_heeded(kq, tcp) -> None:
    near, far = tcp
    near.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 4)
    kq.change(near.fileno(), READ, ADD)
    far.send(b"abc")
    assert kq.kevent(timeout=0.05) == []
    far.send(b"d")
    assert kq.event().data == 4


def test_a_low_water_mark_of_the_filter_is_heeded(kq, tcp) -> None:
    near, far = tcp
    kq.change(near.fileno(), READ, ADD, LOWAT, 4)
    far.send(b"abc")
    assert kq.kevent(timeout=0.05) == []
    far.send(b"d")
    assert kq.event().data == 4


@pytest.mark.parametrize("end", [lambda far: far.close(), lambda far: far.shutdown(socket.SHUT_WR)])
@pytest.mark.parametrize("kind", ["pair", "tcp"])
def test_the_end_may_be_told_while_data_is_pending(kq, kind, end, request) -> None:
    near, far = request.getfixturevalue(kind)
    far.send(b"abc")
    end(far)
    kq.change(near.fileno(), READ, ADD)
    event = kq.event()
    while not event.flags & EOF:  # over TCP the end comes after the bytes
        event = kq.event()
    assert (event.flags, event.fflags, event.data) == (EOF, 0, 3)
    near.recv(3)
    event = kq.event()
    assert (event.flags, event.fflags, event.data) == (EOF, 0, 0)


def test_a_shut_down_read_direction_is_an_end(kq, tcp) -> None:
    near, _ = tcp
    kq.change(near.fileno(), READ, ADD)
    near.shutdown(socket.SHUT_RD)
    assert kq.event().flags == EOF


def test_a_connection_that_was_reset_says_so_in_fflags_and_the_error_stays(kq, tcp) -> None:
    near, far = tcp
    kq.change(near.fileno(), READ, ADD)
    kq.change(near.fileno(), WRITE, ADD | CLEAR)
    assert kq.event().filter == WRITE
    far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    far.close()
    events = kq.kevent(timeout=PATIENCE)
    assert {(event.filter, event.flags & EOF, event.fflags) for event in events} == {
        (READ, EOF, errno.ECONNRESET),
        (WRITE, EOF, errno.ECONNRESET),
    }
    with pytest.raises(ConnectionResetError):
        near.recv(1)


def test_datagrams_are_read_events_and_what_came_back_is_no_end(kq, stack) -> None:
    receiver, sender = (stack.enter_context(socket.socket(type=socket.SOCK_DGRAM)) for _ in range(2))
    receiver.bind(("127.0.0.1", 0))
    kq.change(receiver.fileno(), READ, ADD)
    sender.sendto(b"abc", receiver.getsockname())
    assert kq.event().data == 3
    receiver.recv(10)
    sender.sendto(b"", receiver.getsockname())
    assert (kq.event().data, receiver.recv(10)) == (0, b"")
    kq.change(sender.fileno(), READ, ADD)
    sender.connect(receiver.getsockname())
    receiver.close()
    sender.send(b"x")
    event = kq.event()
    assert (event.ident, event.flags) == (sender.fileno(), 0)
    with pytest.raises(ConnectionRefusedError):
        sender.recv(1)


def test_a_file_returns_while_its_pointer_is_not_at_its_end(kq, tmp_path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"abc")
    with path.open("rb", buffering=0) as file:
        kq.change(file.fileno(), READ, ADD)
        assert kq.event().data == 3
        file.read(1)
        assert kq.event().data == 2
        file.seek(5)
        assert kq.event().data == -2
        file.seek(3)
        assert kq.events() == []
        with path.open("ab") as writer:
            writer.write(b"d")
        assert kq.event().data == 1
        kq.change(file.fileno(), READ, DELETE)
        assert failure(kq.change, file.fileno(), WRITE, ADD) == errno.EINVAL


def test_a_pipes_data_is_the_number_of_bytes_and_its_end_comes_with_the_last_writer(kq, pipe) -> None:
    reader, writer = pipe
    kq.change(reader, READ, ADD)
    assert kq.events() == []
    os.write(writer, b"abc")
    assert (kq.event().data, kq.event().flags) == (3, 0)
    os.close(writer)
    assert (kq.event().data, kq.event().flags) == (3, EOF)
    os.read(reader, 3)
    assert (kq.event().data, kq.event().flags) == (0, EOF)


def test_a_fifos_end_is_cleared_by_the_next_writer(kq, tmp_path, stack) -> None:
    path = str(tmp_path / "fifo")
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    stack.callback(os.close, reader)
    kq.change(reader, READ, ADD)
    assert kq.events() == []
    os.close(os.open(path, os.O_WRONLY))
    assert kq.event().flags == EOF
    with open(path, "wb", buffering=0) as writer:
        assert kq.events() == []
        writer.write(b"x")
        event = kq.event()
        assert (event.flags, event.data) == (0, 1)


def test_a_terminal_returns_with_its_line_and_its_end(kq, stack) -> None:
    master, slave = os.openpty()
    stack.callback(close_quietly, master)
    stack.callback(os.close, slave)
    kq.change(slave, READ, ADD)
    kq.change(slave, WRITE, ADD | CLEAR)
    assert kq.event().filter == WRITE
    os.write(master, b"abc")
    assert kq.kevent(timeout=0.05) == []
    os.write(master, b"\n")
    assert [(event.filter, event.data) for event in kq.kevent(timeout=PATIENCE) if event.filter == READ] == [(READ, 4)]
    os.close(master)
    assert all(event.flags & EOF for event in kq.kevent(timeout=PATIENCE))


# EVFILT_WRITE


@pytest.mark.parametrize("kind", ["pair", "tcp"])
def test_a_socket_returns_while_it_can_be_written_to(kq, kind, request) -> None:
    near, far = request.getfixturevalue(kind)
    near.setblocking(False)
    kq.change(near.fileno(), WRITE, ADD)
    event = kq.event()
    assert (event.flags, event.fflags) == (0, 0)
    assert event.data > 0
    sent = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            sent += near.send(bytes(1 << 20))
    assert kq.events() == []
    while sent:
        sent -= len(far.recv(1 << 20))
    assert kq.event().filter == WRITE


def test_a_socket_that_is_not_connected_can_not_be_written_to(kq, stack) -> None:  # the kernel's source: filt_sowrite
    for family in (socket.AF_INET, socket.AF_UNIX):
        sock = stack.enter_context(socket.socket(family))
        kq.change(sock.fileno(), WRITE, ADD)
        kq.change(sock.fileno(), READ, ADD)
    assert kq.events() == []


def test_a_connection_that_came_about_is_a_write_event(kq, stack) -> None:
    listener = stack.enter_context(support.listener())
    sock = stack.enter_context(socket.socket())
    kq.change(sock.fileno(), WRITE, ADD)
    sock.setblocking(False)
    sock.connect_ex(listener.getsockname())
    assert (kq.event().flags, kq.event().fflags) == (0, 0)


def test_a_connection_that_failed_says_why_in_fflags(kq, stack) -> None:
    with support.listener() as listener:
        address = listener.getsockname()
    for filters, late in (((WRITE,), True), ((READ,), True), ((READ, WRITE), True), ((READ, WRITE), False)):
        sock = stack.enter_context(socket.socket())
        sock.setblocking(False)
        if late:
            sock.connect_ex(address)
        for which in filters:
            kq.change(sock.fileno(), which, ADD | ONESHOT)
        if not late:
            sock.connect_ex(address)
        events = []
        while len(events) < len(filters):
            events += kq.kevent(timeout=PATIENCE)
        assert {event.filter for event in events} == set(filters)
        assert {(event.flags & EOF, event.fflags) for event in events} == {(EOF, errno.ECONNREFUSED)}


@pytest.mark.parametrize("kind", ["pair", "tcp"])
def test_a_shut_down_write_direction_is_an_end(kq, kind, request) -> None:
    near, _ = request.getfixturevalue(kind)
    kq.change(near.fileno(), WRITE, ADD | CLEAR)
    assert kq.event().flags == CLEAR
    near.shutdown(socket.SHUT_WR)
    assert kq.event().flags == EOF | CLEAR


def test_a_pipe_whose_reader_left_is_at_its_end(kq, pipe) -> None:
    reader, writer = pipe
    kq.change(writer, WRITE, ADD)
    event = kq.event()
    assert (event.flags, event.data > 0) == (0, True)
    os.close(reader)
    assert kq.event().flags == EOF
    kq.change(writer, WRITE, DELETE)
    assert failure(kq.change, writer, WRITE, ADD) == errno.EPIPE  # the kernel's source: pipe_kqfilter


def test_the_wrong_direction_of_a_pipe_never_happens(kq, pipe) -> None:  # the kernel's source: pipe_nfiltops
    reader, writer = pipe
    kq.change(reader, WRITE, ADD)
    kq.change(writer, READ, ADD)
    os.write(writer, b"x")
    assert kq.events() == []


def test_a_fifos_end_is_cleared_by_the_next_reader(kq, tmp_path, stack) -> None:
    path = str(tmp_path / "fifo")
    os.mkfifo(path)
    first = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    writer = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
    stack.callback(os.close, writer)
    os.close(first)
    kq.change(writer, WRITE, ADD)
    assert kq.event().flags == EOF
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb", buffering=0):
        assert kq.event().flags == 0


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


def test_a_timer_that_is_added_again_forgets_what_was_not_delivered(kq) -> None:
    kq.change(1, TIMER, ADD | DISABLE, 0, 1)
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
