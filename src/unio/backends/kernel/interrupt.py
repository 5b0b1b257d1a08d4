"""What wakes the leading thread where the kernel has nothing of its own for it: a descriptor that becomes readable.

It knows numbers, and nothing of unio but a guard of descriptors.
"""

from __future__ import annotations

import contextlib
import os
import sys

from unio.backends.common.descriptor_guard import DescriptorGuard

ONE = (1).to_bytes(8, sys.byteorder)
"""What an eventfd takes for one; a pipe takes anything."""

CLEAR_MAX = 4096  # bytes, the most that is read of a pipe in one go; an eventfd has eight at a time


class Interrupt:
    """Wakes the leader by writing to one descriptor, so that another (of an eventfd, the same) can be read.

    It is apart from the port, so that who can wake the leader does not keep the port alive.
    """

    def __init__(self, reader: int, writer: int) -> None:
        self._guard = DescriptorGuard(reader, writer)
        self.reader = reader
        self._writer = writer

    def __call__(self) -> None:
        with self._guard as is_open, contextlib.suppress(BlockingIOError):  # it is full: the leader will wake
            if is_open:
                os.write(self._writer, ONE)

    def clear(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self.reader, CLEAR_MAX)

    def close(self) -> None:
        self._guard.close()


class SignalPipe:
    """Wakes the leader when a signal has come, from a signal handler in any thread, by a byte through a pipe.

    Python writes the number of the signal; who is told of a signal by other means writes a zero.
    """

    def __init__(self) -> None:
        self.reader, self.writer = os.pipe()
        self.guard = DescriptorGuard(self.reader, self.writer)
        """Keeps the numbers valid within a ``with`` block, if they are."""
        for end in (self.reader, self.writer):
            os.set_blocking(end, False)

    def __call__(self) -> None:
        with self.guard as is_open, contextlib.suppress(BlockingIOError):
            if is_open:
                os.write(self.writer, b"\0")

    def read(self) -> bytes:
        """The numbers of the signals that Python has written."""
        told = b""
        with self.guard as is_open, contextlib.suppress(BlockingIOError):
            while is_open and (more := os.read(self.reader, CLEAR_MAX)):
                told += more.replace(b"\0", b"")
        return told

    def close(self) -> None:
        self.guard.close()
