"""The exit of a process as a packet: a registered wait, which a thread of Windows' own carries out.

It knows the kernel's queue, and of operations those that wait for a process.
"""

from __future__ import annotations

import _overlapped  # type: ignore[import-not-found]  # pyright: ignore[reportMissingImports]
import contextlib
import errno
import os
from typing import TYPE_CHECKING

from unio.backends.kernel import win32
from unio.backends.kernel.win32 import kernel32, last_error
from unio.backends.kernel.win32_api import ffi
from unio.backends.windows.kernel_queue import surely

if TYPE_CHECKING:
    from unio.backends.windows.kernel_queue import KernelQueue
    from unio.operations import ProcessExit


class Watches:
    """The processes that a port watches, by the number that the packet of each will carry.

    A packet that is on its way can't be called back. Its number is never used again, so that the one of an operation
    that was cancelled finds nothing. The port's lock guards all of this.
    """

    def __init__(self, queue: KernelQueue) -> None:
        self._queue = queue
        self._watched: dict[int, ProcessExit] = {}

    def begin(self, operation: ProcessExit) -> OSError | None:
        """Watch the process of an operation. Returns why that can't be done, or None."""
        process = win32.open_process(operation.process, operation.pid)
        if not process:
            code = last_error()
            unknown = code == win32.ERROR_INVALID_PARAMETER
            return OSError(errno.ESRCH, os.strerror(errno.ESRCH)) if unknown else win32.os_error(code)
        try:
            number = self._queue.number()
            operation._native = entry = [number, process, None]
            self._watched[number] = operation
            entry[2] = _overlapped.RegisterWaitWithQueue(
                _number(process), _number(self._queue.pointer), number, win32.INFINITE
            )
        except BaseException as error:
            self._forget(operation)
            kernel32.CloseHandle(process)
            if not isinstance(error, OSError):
                raise
            return win32.normal(error)
        return None

    def _forget(self, operation: ProcessExit) -> None:
        native, operation._native = operation._native, None
        if native is not None:
            self._watched.pop(native[0], None)

    def ended(self, number: int) -> ProcessExit | None:
        """The operation whose process has ended, with its exit status; None if it is not watched any more."""
        operation = self._watched.get(number)
        if operation is not None:
            code = ffi.new("DWORD *")
            kernel32.GetExitCodeProcess(operation._native[1], code)
            operation.status = int(code[0])
        return operation

    def end(self, operation: ProcessExit) -> None:
        """Watch the process of an operation no more."""
        _, process, wait = operation._native
        self._forget(operation)
        # It returns when the packet is not being queued any more, which must be over before the port is closed.
        with contextlib.suppress(OSError):
            _overlapped.UnregisterWaitEx(wait, _overlapped.INVALID_HANDLE_VALUE)
        surely(kernel32.CloseHandle, process)


def _number(pointer: object) -> int:
    return int(ffi.cast("uintptr_t", pointer))
