"""What wakes the leading thread where the kernel has nothing of its own for it: a descriptor that becomes readable."""

from __future__ import annotations

import contextlib
import os
import sys
import threading

ONE = (1).to_bytes(8, sys.byteorder)
"""What an eventfd takes for one; a pipe takes anything."""

CLEAR_MAX = 4096  # bytes, the most that is read of a pipe in one go; an eventfd has eight at a time


class Interrupt:
    """Wakes the leader by writing to one descriptor, so that another (of an eventfd, the same) can be read.

    It is apart from the port, so that who can wake the leader does not keep the port alive. Its lock keeps a thread
    from writing to a number that was closed, and perhaps reused, since it looked; it can be taken again by the same
    thread, because a signal handler may post in the middle.
    """

    def __init__(self, reader: int, writer: int) -> None:
        self._lock = threading.RLock()
        self._process = os.getpid()
        self.reader = reader
        self._writer = writer

    def __call__(self) -> None:
        with self._lock, contextlib.suppress(BlockingIOError):  # it is full: the leader will wake
            if self._writer >= 0:
                os.write(self._writer, ONE)

    def clear(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self.reader, CLEAR_MAX)

    def close(self) -> None:
        # In a forked child the lock may be held for ever, by a thread that only the parent has; nobody else is there.
        with self._lock if self._process == os.getpid() else contextlib.nullcontext():
            open_still = {self.reader, self._writer} - {-1}
            self.reader = self._writer = -1
        for number in open_still:
            os.close(number)

    def __del__(self) -> None:
        self.close()
