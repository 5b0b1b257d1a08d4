"""The double as the tests see it: struct kevent, its numbers, the two calls, and what several test files need."""

from __future__ import annotations

import contextlib
import ctypes
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import build
import pytest
import support

NEEDED = pytest.mark.skipif(build.unavailable() is not None, reason=str(build.unavailable()))

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
