"""What carries each operation out on Windows: the tables of starts and finishes, and what they tell of an operation.

Starting makes the one Win32 call and returns its error code: 0 when it has ended at once, ERROR_IO_PENDING when it will
end later, anything else when it has failed. SEE_LAST_ERROR says that the call has failed and GetLastError tells how:
no step that could find no memory comes between the call and its return, so that a start that raises has made none.
DONE_HERE says that none was needed. Windows queues a packet in the first two cases and not in the others.

Finishing turns the code that the packet brought into the operation's results, and says whether the operation has ended
or goes on with another call. When an operation is started and ended is not decided here (submissions).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from unio.backends.kernel import win32
from unio.backends.windows.files import finish_file, start_flush, start_read, start_write
from unio.backends.windows.kernel_queue import surely
from unio.backends.windows.overlapped import overlapped_of
from unio.backends.windows.polls import finish_poll, start_poll
from unio.backends.windows.sockets import (
    finish_accept,
    finish_connect,
    finish_disconnect,
    finish_recv,
    finish_recv_from,
    finish_send,
    finish_send_file,
    fits_one_call,
    start_accept,
    start_connect,
    start_disconnect,
    start_recv,
    start_recv_from,
    start_send,
    start_send_file,
    start_send_to,
    start_shutdown,
)
from unio.handle import Kind

if TYPE_CHECKING:
    from collections.abc import Callable

    from unio.backends.windows.handle import IocpHandle
    from unio.operations import Operation, Read, Send, Write

EXCLUSIVE = ("connect", "disconnect", "send_file", "shutdown")


def goes_alone(handle: IocpHandle, operation: Operation) -> bool:
    """Whether an operation waits for those ahead of it in its direction, and lets none start beside it."""
    # A pipe's buffers are moved one by one, and so is a send that one call can't take: both must stay whole.
    return (
        operation.name in EXCLUSIVE
        or handle.kind is Kind.PIPE
        or (operation.name == "send" and not fits_one_call(cast("Send", operation)))
    )


def may_go_on(operation: Operation) -> bool:
    """Whether an operation whose packet is on the way may take another call after it."""
    if operation.name in ("read", "send", "write"):
        operation = cast("Read | Send | Write", operation)
        return bool(operation.transferred + overlapped_of(operation).pointer.InternalHigh < operation._size)
    return operation.name in ("accept", "poll", "recv_from", "send_file")


def finish_plain(handle: IocpHandle, operation: Operation, code: int, count: int) -> int | None:
    """Most operations end as Windows says."""
    operation._transferred = count
    return code


STARTS: dict[str, Callable[[IocpHandle, Operation], int]] = {
    "accept": start_accept,
    "connect": start_connect,
    "disconnect": start_disconnect,
    "flush": start_flush,
    "poll": start_poll,
    "read": start_read,
    "recv": start_recv,
    "recv_from": start_recv_from,
    "send": start_send,
    "send_file": start_send_file,
    "send_to": start_send_to,
    "shutdown": start_shutdown,
    "write": start_write,
}

FINISHES: dict[str, Callable[[IocpHandle, Operation, int, int], int | None]] = {
    "accept": finish_accept,
    "connect": finish_connect,
    "disconnect": finish_disconnect,
    "flush": finish_plain,
    "poll": finish_poll,
    "read": finish_file,
    "recv": finish_recv,
    "recv_from": finish_recv_from,
    "send": finish_send,
    "send_file": finish_send_file,
    "send_to": finish_plain,
    "shutdown": finish_plain,
    "write": finish_file,
}


def finish(handle: IocpHandle, operation: Operation, code: int, count: int) -> int | None:
    """Take over what a packet brought. Returns the code that the operation ends with, or None if it goes on.

    Where there is no memory for that, what was moved is noted all the same.
    """
    before = operation._transferred
    try:
        try:
            return FINISHES[operation.name](handle, operation, code, count)
        except MemoryError:
            if operation._transferred is not before:
                raise
        return FINISHES[operation.name](handle, operation, code, count)  # there may be some by now
    except MemoryError as error:
        overlapped_of(operation).failure = surely(win32.normal, error)
        return win32.ERROR_NOT_ENOUGH_MEMORY
