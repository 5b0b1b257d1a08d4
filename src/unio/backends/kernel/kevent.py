"""kqueue(2) as each system has it: its calls, the layout of ``struct kevent``, and the numbers that differ.

It knows numbers, and nothing of unio but a guard of descriptors.

Names are those of ``<sys/event.h>``; the declarations are in kqueue_cdef.h. Sources: sys/event.h of xnu (macOS),
FreeBSD 12 to 15, NetBSD 9 and 10, OpenBSD and DragonFly, and their manual pages kqueue(2).
"""

from __future__ import annotations

import errno
import math
import os
import sys
from functools import cache
from typing import Any, NamedTuple, Protocol

from unio.backends import KQUEUE_LIBRARY
from unio.backends.common.descriptor_guard import DescriptorGuard
from unio.backends.kernel.kqueue_api import ffi

EVENTS_MAX = 256
"""How many events one call fetches at most; more of them wait in the kernel for the next."""

NANOSECONDS = 10**9

# The same everywhere
EV_ADD = 0x1
EV_DELETE = 0x2
EV_ONESHOT = 0x10
EV_CLEAR = 0x20
EV_RECEIPT = 0x40
EV_EOF = 0x8000
NOTE_EXIT = 0x80000000
NOTE_TRIGGER = 0x01000000

NOTE_EXITSTATUS = 0x04000000
"""macOS alone: an exit is told with the status, to the parent only. The others tell it unasked."""


class Dialect(NamedTuple):
    """What is not the same everywhere."""

    struct: str
    call: str
    """The symbol of the kevent call that takes this layout."""
    read: int = -1
    write: int = -2
    process: int = -5
    user: int = -10
    exit_notes: int = NOTE_EXIT
    tells_of_fifos: bool = True
    """Whether a FIFO in the file system makes an event of all that happens to it, the end of its writers above all."""


# By the beginning of sys.platform. Where an older version doesn't know EVFILT_USER (NetBSD before 10, and OpenBSD for
# long), adding one fails with EINVAL.
DIALECTS = {
    "darwin": Dialect("struct kevent", "kevent", exit_notes=NOTE_EXIT | NOTE_EXITSTATUS, tells_of_fifos=False),
    "dragonfly": Dialect("struct kevent", "kevent", user=-9),
    "freebsd": Dialect("struct kevent_freebsd", "kevent", user=-11),
    "netbsd": Dialect("struct kevent_netbsd", "__kevent50", read=0, write=1, process=4, user=8),
    "openbsd": Dialect("struct kevent", "kevent"),
}
STAND_IN = Dialect("struct kevent", "kevent", user=-11)
"""That of the libraries that bring kqueue to Linux."""


class Kevent(Protocol):
    """A ``struct kevent`` that the kernel returned."""

    ident: int
    filter: int
    flags: int
    fflags: int
    data: int
    udata: int


class Change(NamedTuple):
    """A change to make: what :class:`Kevent` has, in its order."""

    ident: int
    filter: int
    flags: int
    fflags: int = 0
    data: int = 0
    udata: int = 0


def dialect() -> Dialect:
    """What this system speaks, or the library that stands in for it."""
    if os.environ.get(KQUEUE_LIBRARY):
        return STAND_IN
    return next(spoken for system, spoken in DIALECTS.items() if sys.platform.startswith(system))


def called_in_c() -> bool:
    """Whether C makes these calls as well: on Linux those of a library, and elsewhere the system's own."""
    return sys.platform == "linux" or not os.environ.get(KQUEUE_LIBRARY)


@cache  # once opened, it stays so: it may keep a state
def library(name: str | None, call: str) -> Any:
    """The C library, or the one that *name* has stand in for it; OSError if it can't be opened or has no kqueue."""
    opened = ffi.dlopen(name)
    for symbol in ("kqueue", call):
        try:
            getattr(opened, symbol)
        except ffi.error:
            raise OSError(f"{name or 'the C library'} has no {symbol}") from None
    return opened


class Kqueue:
    """One kqueue. Any thread may change it and trigger its event; one at a time waits."""

    def __init__(self) -> None:
        self._spoken = dialect()
        opened = library(os.environ.get(KQUEUE_LIBRARY) or None, self._spoken.call)
        self._kevent = getattr(opened, self._spoken.call)
        self._events = self._new(EVENTS_MAX)
        self._timeout = ffi.new("struct timespec *")
        self._at_once = ffi.new("struct timespec *")
        self._trigger = self._new([Change(0, self._spoken.user, 0, NOTE_TRIGGER)])
        number = opened.kqueue()
        if number < 0:
            raise _failure()
        self.number = number
        # "The queue is not inherited by a child created with fork": there the number is free, or another's.
        self._guard = DescriptorGuard(number, inherited=False)
        os.set_inheritable(number, False)

    def _new(self, content: int | list[Change]) -> Any:
        return ffi.new(f"{self._spoken.struct}[]", content)

    @property
    def address(self) -> int:
        """Where the kevent call is, for C."""
        return int(ffi.cast("uintptr_t", self._kevent))

    def change(self, *changes: Change) -> list[int]:
        """Make changes in one call, and return the errno of each, or 0.

        ``EV_RECEIPT`` has each answered, also one that succeeded. The answers fill the room for events, so that none
        of those comes with them and is lost. The call doesn't wait in any case.
        """
        count = len(changes)
        answers = self._new([change._replace(flags=change.flags | EV_RECEIPT) for change in changes])
        with self._guard as is_open:
            if not is_open:
                return [errno.EBADF] * count
            if self._kevent(self.number, answers, count, answers, count, self._at_once) < 0:
                return [ffi.errno] * count
        return [answers[index].data for index in range(count)]

    def wait(self, timeout: float | None) -> list[Kevent]:
        """Wait up to *timeout* seconds for events. They are valid until the next call."""
        limit = ffi.NULL
        if timeout is not None:
            limit = self._timeout
            limit.tv_sec, limit.tv_nsec = divmod(math.ceil(timeout * NANOSECONDS), NANOSECONDS)
        count = self._kevent(self.number, ffi.NULL, 0, self._events, EVENTS_MAX, limit)
        if count >= 0:
            return list(self._events[0:count])
        if ffi.errno == errno.EINTR:  # Python calls the signal's handler when this has returned
            return []
        raise _failure()

    def trigger(self) -> None:
        """Make the user event happen."""
        with self._guard as is_open:
            if is_open:
                self._kevent(self.number, self._trigger, 1, ffi.NULL, 0, ffi.NULL)

    def close(self) -> None:
        self._guard.close()


def _failure() -> OSError:
    return OSError(ffi.errno, os.strerror(ffi.errno))
