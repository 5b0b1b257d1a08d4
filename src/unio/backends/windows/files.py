"""How operations on files are started and finished, and what goes to a pipe in parts.

A start makes the one call of Windows' and says how that went; a finish takes its results over (operations has the rules
of both). They change the results of the one operation that they are given, and nothing else of it.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Any, cast

from unio.arguments import OFFSET_MAX
from unio.backends.kernel import win32
from unio.backends.kernel.win32 import ERROR_IO_PENDING, NULL, SEE_LAST_ERROR, kernel32, last_error
from unio.backends.kernel.win32_api import ffi
from unio.backends.windows.kernel_queue import PacketKey, surely
from unio.backends.windows.overlapped import overlapped_of

if TYPE_CHECKING:
    from unio.backends.windows.handle import IocpHandle
    from unio.backends.windows.kernel_queue import KernelQueue
    from unio.operations import Operation, Read, Send, Write

CHUNK_MAX = 0x7FFFF000
"""The most bytes that one call is asked for: a length is a DWORD, and TransmitFile's must stay below 2^31 - 1."""


def start_chunk(handle: IocpHandle, operation: Read | Send | Write, call: Any, most: int = CHUNK_MAX) -> int:
    """Read or write the part of the buffers that comes next: Windows takes one buffer at a time here."""
    overlapped, done = overlapped_of(operation), operation.transferred
    part = memoryview(b"")
    for view in operation._views:
        if done < len(view):
            part = view[done : done + most]
            break
        done -= len(view)
    overlapped.views = None
    overlapped.kept = ffi.from_buffer(part)
    return 0 if call(handle.pointer, overlapped.kept, len(part), NULL, overlapped.pointer) else SEE_LAST_ERROR


def finish_chunk(operation: Read | Send | Write, code: int, count: int) -> int | None:
    operation._transferred += count
    if code == win32.ERROR_HANDLE_EOF:
        return 0
    return code if code or operation.transferred >= operation._size or count == 0 else None


def start_read(handle: IocpHandle, operation: Operation) -> int:
    operation = cast("Read", operation)
    offset = operation._offset + operation.transferred
    if operation._size == 0 or offset == OFFSET_MAX:  # where no file has anything
        return win32.DONE_HERE
    overlapped_of(operation).reset(offset)
    return start_chunk(handle, operation, kernel32.ReadFile, min(CHUNK_MAX, OFFSET_MAX - offset))


def start_write(handle: IocpHandle, operation: Operation) -> int:
    operation = cast("Write", operation)
    if operation._size == 0:
        return win32.DONE_HERE
    if operation._offset + operation._size > OFFSET_MAX:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
    overlapped_of(operation).reset(operation._offset + operation.transferred)
    return start_chunk(handle, operation, kernel32.WriteFile)


def finish_file(handle: IocpHandle, operation: Operation, code: int, count: int) -> int | None:
    if code == win32.ERROR_ACCESS_DENIED:
        code = win32.ERROR_INVALID_HANDLE  # not open for this: EBADF, as POSIX has it
    return finish_chunk(cast("Read | Send | Write", operation), code, count)


def start_flush(handle: IocpHandle, operation: Operation) -> int:
    """Have a thread of the pool call FlushFileBuffers, which has no overlapped form.

    It gets a handle of its own: by the time that it comes to the call the number may be another's.
    """
    flush = Flush(handle.queue, win32.duplicate(handle.pointer), overlapped_of(operation).address)
    try:
        handle.pool.put(flush)
    except BaseException:
        flush.close()
        raise
    return ERROR_IO_PENDING


class Flush:
    """A job of the pool's; where it finds no memory, it is called again and goes on where it was broken off."""

    def __init__(self, queue: KernelQueue, file: Any, address: int) -> None:
        self._queue = queue
        self._file = file
        self._address = address
        self._code: int | None = None

    def __call__(self, refusal: OSError | None) -> None:
        if self._code is None:
            self._code = win32.ERROR_MAX_THRDS_REACHED if refusal is not None else self._flush()
        self.close()
        self._queue.post(self._code, PacketKey.FAILED, self._address)

    def _flush(self) -> int:
        code = 0 if kernel32.FlushFileBuffers(self._file) else last_error()
        return win32.ERROR_INVALID_HANDLE if code == win32.ERROR_ACCESS_DENIED else code  # not open for writing

    def close(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            surely(kernel32.CloseHandle, file)
