"""How a poll is started and finished: the device of Windows Sockets is asked, which Microsoft doesn't document.

libuv and wepoll have used it for long. A start makes the one call and says how that went; a finish takes its results
over (operations has the rules of both), and changes nothing but those of the one operation that it is given.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Any, cast

from unio.backends.common.locks import Lock
from unio.backends.kernel import win32
from unio.backends.kernel.win32 import ERROR_IO_PENDING, NULL, kernel32
from unio.backends.kernel.win32_api import ffi
from unio.backends.windows.kernel_queue import surely
from unio.backends.windows.overlapped import overlapped_of
from unio.errors import cancelled
from unio.handle import Kind
from unio.operations import Readiness

if TYPE_CHECKING:
    from unio.backends.windows.handle import IocpHandle
    from unio.backends.windows.kernel_queue import KernelQueue
    from unio.operations import Operation, Poll

# afd.h's bits of AFD_POLL_HANDLE_INFO.Events
AFD_POLL_RECEIVE = 0x1
AFD_POLL_SEND = 0x4
AFD_POLL_DISCONNECT = 0x8
AFD_POLL_ABORT = 0x10
AFD_POLL_LOCAL_CLOSE = 0x20
AFD_POLL_ACCEPT = 0x80
AFD_POLL_CONNECT_FAIL = 0x100
IOCTL_AFD_POLL = 0x00012024


class Device:
    """A port's handle of the device that answers polls, opened when the first one is submitted."""

    def __init__(self, queue: KernelQueue) -> None:
        self._queue = queue
        self._lock = Lock()
        self.opened: Any = None
        """The handle, or None where no poll has come to the call yet."""

    def pointer(self) -> Any:
        with self._lock:
            if self.opened is None:
                afd = win32.open_afd()
                try:
                    win32.check(self._queue.join(afd))
                    win32.check(kernel32.SetFileCompletionNotificationModes(afd, win32.FILE_SKIP_SET_EVENT_ON_HANDLE))
                except BaseException:  # as where the port is being closed
                    kernel32.CloseHandle(afd)
                    raise
                self.opened = afd
            return self.opened

    def close(self) -> None:
        afd, self.opened = self.opened, None
        if afd is not None:
            surely(kernel32.CloseHandle, afd)


def start_poll(handle: IocpHandle, operation: Operation) -> int:
    operation, overlapped = cast("Poll", operation), overlapped_of(operation)
    overlapped.reset()
    if handle.kind is Kind.PIPE:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))  # Windows knows the readiness of sockets only
    if overlapped.extra is None:
        overlapped.extra = ffi.new("AFD_POLL_INFO *")
    info = overlapped.extra
    if handle.disconnected:
        info.Handles[0].Events = AFD_POLL_LOCAL_CLOSE
        return win32.DONE_HERE
    afd = (
        handle.device.pointer()
    )  # maybe opened just now, and under the number of the socket, if that was closed meanwhile
    if not handle.is_open():
        raise cancelled("the object behind the handle was closed")
    info.Timeout = 0x7FFFFFFFFFFFFFFF
    info.NumberOfHandles = 1
    info.Exclusive = 0
    info.Handles[0].Handle = ffi.cast("HANDLE", win32.base_socket(handle.number))
    info.Handles[0].Status = 0
    events = AFD_POLL_ABORT | AFD_POLL_CONNECT_FAIL | AFD_POLL_LOCAL_CLOSE
    if operation._readiness & Readiness.READABLE:
        events |= AFD_POLL_RECEIVE | AFD_POLL_DISCONNECT | AFD_POLL_ACCEPT
    if operation._readiness & Readiness.WRITABLE:
        events |= AFD_POLL_SEND
    info.Handles[0].Events = events
    size = ffi.sizeof("AFD_POLL_INFO")
    status = win32.ntdll.NtDeviceIoControlFile(
        afd, NULL, NULL, overlapped.pointer, overlapped.pointer, IOCTL_AFD_POLL, info, size, info, size
    )
    if status in (0, win32.STATUS_PENDING):  # the device's own handle skips nothing: a packet comes either way
        return ERROR_IO_PENDING
    return win32.status_error(status & 0xFFFFFFFF)


def finish_poll(handle: IocpHandle, operation: Operation, code: int, count: int) -> int | None:
    operation = cast("Poll", operation)
    info = overlapped_of(operation).extra
    if info is None:  # it was ended before it came to the call
        return code
    if code and handle.disconnected:  # there is the end of the stream to receive, and no send would wait
        info.Handles[0].Events = AFD_POLL_LOCAL_CLOSE
    elif code:
        return code
    if not handle.is_open():
        return win32.ERROR_OPERATION_ABORTED
    events = info.Handles[0].Events
    found = Readiness(0)
    ended = events & (AFD_POLL_ABORT | AFD_POLL_CONNECT_FAIL | AFD_POLL_LOCAL_CLOSE)
    if ended or events & (AFD_POLL_RECEIVE | AFD_POLL_DISCONNECT | AFD_POLL_ACCEPT):
        found |= Readiness.READABLE
    if ended or events & AFD_POLL_SEND:
        found |= Readiness.WRITABLE
    operation.found = found & operation._readiness
    return 0 if operation.found else None
