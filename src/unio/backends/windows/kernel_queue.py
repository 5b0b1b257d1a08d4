"""The kernel's completion port, which is the one queue of a port on Windows.

It knows packets by key and number, and neither handles nor what an operation is to Windows.

Everything that a wait returns comes out of it: the packets of Windows' own for what Windows has done, and packets that
unio posts for the rest. So all of it has one order, a thread that takes some of it returns just that, and the kernel
chooses the thread.
"""

from __future__ import annotations

import contextlib
import itertools
import struct
import threading
import weakref
from collections import deque
from enum import IntEnum
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from unio.backends.kernel import win32
from unio.backends.kernel.win32 import NULL, kernel32, last_error
from unio.backends.kernel.win32_api import ffi
from unio.operations import Operation

if TYPE_CHECKING:
    from collections.abc import Callable

    from unio.port import Completion

Result = TypeVar("Result")

ENTRIES_MAX = 1024
"""How many packets are fetched with one call at most."""

Packet: TypeAlias = tuple[int, ...]
"""A packet's key, number or address, status, and count."""

ENTRY = struct.Struct("@NNNI0N")
"""An OVERLAPPED_ENTRY, as a packet: lpCompletionKey, lpOverlapped, Internal, dwNumberOfBytesTransferred."""


class PacketKey(IntEnum):
    """The kinds of packets in the kernel's queue, told by their key."""

    IO = 0  # of Windows; lpOverlapped is the address of an operation's OVERLAPPED, or the number of a watched process
    FAILED = 1  # of an operation that ended without Windows' packet; the count is its error code
    KEPT = 2  # of something that is kept here, under the number that lpOverlapped is
    WAKE = 3  # look again: at the deadlines, at whether the port is open
    SIGNAL = 4  # a signal has come


class KernelQueue:
    """A completion port of the kernel's, which stays open for as long as any thread uses it.

    A thread that uses it is an element of a deque. That takes no memory, and comes and goes in one step: nobody waits
    for a lock, and a signal handler may post in the middle of anything. Whoever begins to use the port looks afterwards
    whether it is being closed, and whoever closes it looks afterwards whether anybody uses it; whichever comes second
    sees the other.
    """

    def __init__(self, concurrency: int) -> None:
        self.pointer = win32.check(kernel32.CreateIoCompletionPort(win32.INVALID_HANDLE_VALUE, NULL, 0, concurrency))
        self.waiting: deque[None] = deque()
        """One for each thread that waits, or is about to."""
        self._calling: deque[None] = deque()
        self._closing = False
        self._open = deque([None])
        self._closing_lock = threading.RLock()
        self._kept: dict[int, Operation | Completion] = {}
        self._numbers = itertools.count(1, 2)  # odd, so that none is the address of anything

    def join(self, pointer: Any) -> bool:
        """Let a handle's operations queue their packets here. Returns whether Windows has agreed."""
        if not self._use(self._calling):
            return False
        try:
            return bool(kernel32.CreateIoCompletionPort(pointer, self.pointer, PacketKey.IO, 0))
        finally:
            self._release(self._calling)

    # Putting in

    def number(self) -> int:
        """A number that is no address and is never used again."""
        return next(self._numbers)

    def post(self, count: int, key: PacketKey, number: int = 0) -> None:
        """Queue a packet of a kind, unless the port is being closed."""
        if self._use(self._calling):
            try:
                surely(self._post, count, key, number)
            finally:
                self._release(self._calling)

    def _post(self, count: int, key: PacketKey, number: int) -> None:
        overlapped = ffi.cast("OVERLAPPED *", number)
        # Nothing that takes memory follows its success: a packet that came twice could end an operation's next flight.
        if not kernel32.PostQueuedCompletionStatus(self.pointer, count, key, overlapped):
            raise win32.os_error(last_error())

    def put(self, packet: Operation | Completion) -> None:
        """Queue what a wait is to return."""
        number = self.number()
        self._kept[number] = packet
        try:
            self.post(0, PacketKey.KEPT, number)
        except BaseException:  # it is not queued
            self._kept.pop(number, None)
            raise

    def kept(self, number: int) -> Operation | Completion | None:
        """What was put under a number; None if it was dropped meanwhile."""
        return self._kept.pop(number, None)

    def operations(self) -> list[Operation]:
        """The operations that were put and not fetched yet."""
        return _operations(list(self._kept.values()))

    # Taking out

    def enter(self) -> bool:
        """Count this thread as one that waits. Returns False if the port is being closed."""
        return self._use(self.waiting)

    def fetch(self, limit: int, milliseconds: int) -> list[Packet]:
        """Up to *limit* packets, of which this thread sleeps for the first; it has entered before."""
        limit = min(limit, ENTRIES_MAX)
        # Taken out while it is in use: the garbage collection may close another port within this very call.
        room = _thread.__dict__.pop("room", None)
        if room is None or room[2] < limit:
            room = ffi.new("OVERLAPPED_ENTRY[]", limit), ffi.new("DWORD *"), limit
        entries, count, _ = room
        found = kernel32.GetQueuedCompletionStatusEx(self.pointer, entries, limit, count, milliseconds, 0)
        packets = surely(_unpacked, entries, count) if found else []
        try:  # noqa: SIM105 - a context manager takes memory, too
            _thread.room = room
        except MemoryError:  # it is made again
            pass
        return packets

    def leave(self) -> None:
        self._release(self.waiting)

    # Closing

    def close(self) -> None:
        """Close the kernel's port, or let the last of those do it that still use it."""
        self._closing = True
        self._close_when_unused()

    def _use(self, users: deque[None]) -> bool:
        users.append(None)
        if not self._closing:
            return True
        self._release(users)
        return False

    def _release(self, users: deque[None]) -> None:
        users.pop()
        if self._closing:
            self._close_when_unused()

    def _close_when_unused(self) -> None:
        with self._closing_lock:
            if self.waiting:  # one wakes the next: a packet for each would not do, as one thread may fetch several
                if self._open:
                    self._post(0, PacketKey.WAKE, 0)
            elif not self._calling:
                with contextlib.suppress(IndexError):  # it is closed already
                    self._open.pop()
                    surely(kernel32.CloseHandle, self.pointer)

    def drop(self) -> list[Operation]:
        """Forget what was put. Returns the operations among it."""
        dropped = []
        with contextlib.suppress(KeyError):  # it is empty
            while True:
                dropped.append(self._kept.popitem()[1])
        return _operations(dropped)


class SignalPacket:
    """Queues the packet of a signal that has come: a waker, which keeps no port alive."""

    writer = -1

    def __init__(self, queue: KernelQueue) -> None:
        self._queue = weakref.ref(queue)

    def __call__(self) -> None:
        if (queue := self._queue()) is not None:
            queue.post(0, PacketKey.SIGNAL)


_thread = threading.local()  # its room for the packets of one call, which is used again


def surely(step: Callable[..., Result], *arguments: Any) -> Result:
    """Take a step that is not to be left out: once more, if there was no memory.

    Nothing of it was done then, or what was is seen by it: what it does last takes no memory afterwards.
    """
    try:
        return step(*arguments)
    except MemoryError:  # there may be some by now
        return step(*arguments)


def _unpacked(entries: Any, count: Any) -> list[Packet]:
    return list(ENTRY.iter_unpack(ffi.buffer(entries, count[0] * ENTRY.size)))


def _operations(packets: list[Operation | Completion]) -> list[Operation]:
    return [packet for packet in packets if isinstance(packet, Operation)]
